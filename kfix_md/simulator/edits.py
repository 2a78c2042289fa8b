"""How one outbound frame is spoiled: every way, by name, and what the client loses by it.

Each edit takes (session, MsgSeqNum, type, frame, options) and returns the bytes to put on the wire instead.
HARM says what it costs: `lost` (the message does not arrive: a gap), `content` (it arrives and cannot be
applied), `hidden` (it is lost and nothing shows it), `session` (FIX wants the connection ended), `none`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kfix_md.simulator import wire

if TYPE_CHECKING:
    from kfix_md.simulator.acceptor import Acceptor

Edit = Callable[["Acceptor", int, bytes, bytes, dict], list[bytes]]
EDITS: dict[str, Edit] = {}
HARM: dict[str, str] = {}
HEADER = {8, 9, 35, 34, 43, 49, 52, 56, 97, 122}
SWALLOWS = {"cut", "body_long"}  # a reader that believes 9= loses the next message as well


def _edit(name: str, harm: str) -> Callable[[Edit], Edit]:
    def register(function: Edit) -> Edit:
        EDITS[name], HARM[name] = function, harm
        return function

    return register


def _fields(frame: bytes) -> wire.Fields:
    """What is between 9 and 10."""
    return wire.split(frame)[2:-1]


def _replaced(frame: bytes, tag: int, value: bytes | None) -> bytes:
    """The frame with the first `tag` changed (None: removed), lengths and checksum right again."""
    fields = _fields(frame)
    place = next((i for i, pair in enumerate(fields) if pair[0] == tag), None)
    if place is None:
        return frame
    fields[place : place + 1] = [] if value is None else [(tag, value)]
    return wire.message(fields)


def _inserted(frame: bytes, before: int, pairs: list[tuple[int, object]]) -> bytes:
    fields = _fields(frame)
    place = next((i for i, pair in enumerate(fields) if pair[0] == before), len(fields))
    return wire.message([*fields[:place], *pairs, *fields[place:]])


def _length(frame: bytes, value: bytes) -> bytes:
    head, tail = frame.split(wire.SOH, 2)[0], frame.split(wire.SOH, 2)[2]
    return b"%b\x019=%b\x01%b" % (head, value, tail)


def _size(frame: bytes) -> int:
    return int(frame.split(wire.SOH, 2)[1][2:])


@_edit("checksum", "lost")
def _checksum(_session, _seq, _kind, frame, _options):
    return [b"%b10=%03d\x01" % (frame[:-7], (int(frame[-4:-1]) + 1) % 256)]


@_edit("checksum_256", "lost")
def _checksum_256(_session, _seq, _kind, frame, _options):
    return [frame[:-7] + b"10=256\x01"]


@_edit("body_short", "lost")
def _body_short(_session, _seq, _kind, frame, options):
    return [_length(frame, b"%d" % (_size(frame) - options.get("by", 5)))]


@_edit("body_long", "lost")
def _body_long(_session, _seq, _kind, frame, options):
    return [_length(frame, b"%d" % (_size(frame) + options.get("by", 20)))]


@_edit("body_text", "lost")
def _body_text(_session, _seq, _kind, frame, _options):
    return [_length(frame, b"abc")]


@_edit("body_huge", "lost")
def _body_huge(_session, _seq, _kind, frame, _options):
    return [_length(frame, b"99999999999")]


@_edit("cut", "lost")
def _cut(_session, _seq, _kind, frame, options):
    return [frame[: int(len(frame) * options.get("part", 0.5))]]


@_edit("cut_close", "session")
def _cut_close(session, _seq, _kind, frame, options):
    session.venue.soon(session.close)
    return [frame[: int(len(frame) * options.get("part", 0.5))]]


@_edit("nul", "lost")
def _nul(_session, _seq, _kind, frame, _options):
    middle = len(frame) // 2
    return [frame[:middle] + bytes(7) + frame[middle:]]


@_edit("eight_bits", "lost")
def _eight_bits(_session, _seq, _kind, frame, _options):
    middle = len(frame) // 2
    return [frame[:middle] + b"\xff\xfe\x80" + frame[middle + 3 :]]


@_edit("tag", "lost")
def _tag(_session, _seq, _kind, frame, _options):
    body = wire.join(_fields(frame)).replace(b"\x0149=", b"\x014garbled9=", 1)
    return [wire.finish(body)]


@_edit("first_three", "lost")
def _first_three(_session, _seq, _kind, frame, _options):
    fields = _fields(frame)
    return [wire.message([fields[1], fields[0], *fields[2:]])]


@_edit("noise", "none")
def _noise(_session, _seq, _kind, frame, options):
    return [options.get("text", "noise\x01between=messages\x00\x00").encode("latin-1"), frame]


@_edit("begin", "session")
def _begin(_session, _seq, _kind, frame, _options):
    text = b"8=FIX.4.2" + frame[9:-7]
    return [b"%b10=%03d\x01" % (text, wire.byte_sum(text) & 255)]


@_edit("sender", "session")
def _sender(_session, _seq, _kind, frame, _options):
    return [_replaced(frame, 49, b"SOMEONE")]


@_edit("target", "session")
def _target(_session, _seq, _kind, frame, _options):
    return [_replaced(frame, 56, b"SOMEONE")]


@_edit("time", "session")
def _time(session, _seq, _kind, frame, options):
    moment = session.venue.now() + int(options.get("seconds", -300) * 1e9)
    return [_replaced(frame, 52, wire.sending_time(moment))]


@_edit("time_missing", "content")
def _time_missing(_session, _seq, _kind, frame, _options):
    return [_replaced(frame, 52, None)]


@_edit("seq_missing", "session")
def _seq_missing(_session, _seq, _kind, frame, _options):
    return [_replaced(frame, 34, None)]


@_edit("dup", "session")
def _dup(_session, _seq, _kind, frame, _options):
    return [frame, frame]


def _stamped(frame: bytes) -> bytes:
    return dict(_fields(frame))[52]


@_edit("possdup", "none")
def _possdup(_session, _seq, _kind, frame, _options):
    return [frame, _inserted(frame, 56, [(43, b"Y"), (122, _stamped(frame))])]


@_edit("possdup_first", "none")
def _possdup_first(_session, _seq, _kind, frame, _options):
    return [_inserted(frame, 56, [(43, b"Y"), (122, _stamped(frame))])]


@_edit("possdup_no_122", "none")
def _possdup_no_122(_session, _seq, _kind, frame, _options):
    return [frame, _inserted(frame, 56, [(43, b"Y")])]


@_edit("possdup_late", "session")
def _possdup_late(session, _seq, _kind, frame, _options):
    late = wire.sending_time(session.venue.now() + 60_000_000_000)
    return [frame, _inserted(frame, 56, [(43, b"Y"), (122, late)])]


@_edit("possresend", "none")
def _possresend(_session, _seq, _kind, frame, _options):
    return [_inserted(frame, 56, [(97, b"Y")])]


@_edit("count_more", "content")
def _count_more(_session, _seq, _kind, frame, _options):
    return [_replaced(frame, 268, b"%d" % (int(dict(_fields(frame)).get(268, b"0")) + 1))]


@_edit("count_less", "content")
def _count_less(_session, _seq, _kind, frame, _options):
    return [_replaced(frame, 268, b"%d" % max(0, int(dict(_fields(frame)).get(268, b"1")) - 1))]


@_edit("missing", "content")
def _missing(_session, _seq, _kind, frame, options):
    return [_replaced(frame, int(options.get("tag", 270)), None)]


@_edit("empty", "content")
def _empty(_session, _seq, _kind, frame, options):
    return [_replaced(frame, int(options.get("tag", 270)), b"")]


@_edit("value", "content")
def _value(_session, _seq, _kind, frame, options):
    value = str(options.get("value", "abc")).encode("latin-1")
    return [_replaced(frame, int(options.get("tag", 270)), value)]


@_edit("unknown_tag", "none")
def _unknown_tag(_session, _seq, _kind, frame, options):
    return [_inserted(frame, int(options.get("before", 268)), [(int(options.get("tag", 5051)), b"1")])]


@_edit("duplicate_tag", "none")
def _duplicate_tag(_session, _seq, _kind, frame, options):
    tag = int(options.get("tag", 262))
    fields = _fields(frame)
    twice = [pair for pair in fields if pair[0] == tag][:1]
    return [_inserted(frame, tag, twice)]


@_edit("tag_number", "lost")
def _tag_number(_session, _seq, _kind, frame, options):
    tag = str(options.get("tag", "-1")).encode()
    body = wire.join(_fields(frame)).replace(b"\x01268=", b"\x01%b=" % tag, 1)
    return [wire.finish(body)]


@_edit("type", "hidden")
def _type(_session, _seq, _kind, frame, options):
    return [_replaced(frame, 35, str(options.get("value", "*")).encode())]


@_edit("order", "none")
def _order(_session, _seq, _kind, frame, _options):
    """Header fields after 35 in another order: 34 last."""
    fields = _fields(frame)
    head = [pair for pair in fields[1:5] if pair[0] != 34]
    return [wire.message([fields[0], *head, *[p for p in fields[1:5] if p[0] == 34], *fields[5:]])]


@_edit("body_order", "none")
def _body_order(_session, _seq, _kind, frame, _options):
    """The first two fields of the body change places (262 before 55, 322 before 320)."""
    fields = _fields(frame)
    start = next((i for i, pair in enumerate(fields) if pair[0] not in HEADER), len(fields))
    fields[start : start + 2] = fields[start : start + 2][::-1]
    return [wire.message(fields)]


@_edit("header_late", "none")
def _header_late(_session, _seq, _kind, frame, _options):
    """56 comes at the end of the message."""
    fields = _fields(frame)
    late = [pair for pair in fields if pair[0] == 56]
    return [wire.message([*(pair for pair in fields if pair[0] != 56), *late])]
