"""Edits one outbound frame in a named way, and lists what each edit costs the client.

An edit takes an `Outgoing` and returns the pieces of bytes to write instead of its frame. HARM is the cost:
`lost` (the message does not arrive: a gap), `content` (it arrives and cannot be applied), `hidden` (it is lost and
no rule of FIX shows it), `session` (FIX requires the connection to end), `none`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kfix_md.simulator import wire

if TYPE_CHECKING:
    from kfix_md.simulator.sender import Sender


class Outgoing(NamedTuple):
    """One message about to be written: its session, whole frame and the options of the edit."""

    session: "Sender"
    frame: bytes
    options: dict[str, Any]


Edit = Callable[[Outgoing], list[bytes]]
EDITS: dict[str, Edit] = {}
HARM: dict[str, str] = {}
HEADER = {8, 9, 35, 34, 43, 49, 52, 56, 97, 122}
SWALLOWS = {"cut", "body_long"}  # a reader that believes 9= loses the next message as well


def edit(name: str, harm: str) -> Callable[[Edit], Edit]:
    """Register a function as the edit of this name, which costs the client `harm`."""

    def register(function: Edit) -> Edit:
        EDITS[name], HARM[name] = function, harm
        return function

    return register


def fields_of(frame: bytes) -> wire.Fields:
    """The fields between 9 and 10."""
    return wire.split(frame)[2:-1]


def replaced(frame: bytes, tag: int, value: bytes | None) -> bytes:
    """The frame with the first `tag` changed (None: removed) and 9 and 10 computed again."""
    fields = fields_of(frame)
    place = next((i for i, pair in enumerate(fields) if pair[0] == tag), None)
    if place is None:
        return frame
    fields[place : place + 1] = [] if value is None else [(tag, value)]
    return wire.message(fields)


def inserted(frame: bytes, before: int, pairs: Sequence[tuple[int, object]]) -> bytes:
    """The frame with `pairs` before the first `before` (at the end when there is none), 9 and 10 computed again."""
    fields = fields_of(frame)
    place = next((i for i, pair in enumerate(fields) if pair[0] == before), len(fields))
    return wire.message([*fields[:place], *pairs, *fields[place:]])


def _length(frame: bytes, value: bytes) -> bytes:
    head, tail = frame.split(wire.SOH, 2)[0], frame.split(wire.SOH, 2)[2]
    return b"%b\x019=%b\x01%b" % (head, value, tail)


def _size(frame: bytes) -> int:
    return int(frame.split(wire.SOH, 2)[1][2:])


@edit("checksum", "lost")
def _checksum(out: Outgoing) -> list[bytes]:
    return [b"%b10=%03d\x01" % (out.frame[:-7], (int(out.frame[-4:-1]) + 1) % 256)]


@edit("checksum_256", "lost")
def _checksum_256(out: Outgoing) -> list[bytes]:
    return [out.frame[:-7] + b"10=256\x01"]


@edit("body_short", "lost")
def _body_short(out: Outgoing) -> list[bytes]:
    return [_length(out.frame, b"%d" % (_size(out.frame) - out.options.get("by", 5)))]


@edit("body_long", "lost")
def _body_long(out: Outgoing) -> list[bytes]:
    return [_length(out.frame, b"%d" % (_size(out.frame) + out.options.get("by", 20)))]


@edit("body_text", "lost")
def _body_text(out: Outgoing) -> list[bytes]:
    return [_length(out.frame, b"abc")]


@edit("body_huge", "lost")
def _body_huge(out: Outgoing) -> list[bytes]:
    return [_length(out.frame, b"99999999999")]


@edit("cut", "lost")
def _cut(out: Outgoing) -> list[bytes]:
    return [out.frame[: int(len(out.frame) * out.options.get("part", 0.5))]]


@edit("cut_close", "session")
def _cut_close(out: Outgoing) -> list[bytes]:
    out.session.venue.soon(out.session.close)
    return [out.frame[: int(len(out.frame) * out.options.get("part", 0.5))]]


@edit("nul", "lost")
def _nul(out: Outgoing) -> list[bytes]:
    middle = len(out.frame) // 2
    return [out.frame[:middle] + bytes(7) + out.frame[middle:]]


@edit("eight_bits", "lost")
def _eight_bits(out: Outgoing) -> list[bytes]:
    middle = len(out.frame) // 2
    return [out.frame[:middle] + b"\xff\xfe\x80" + out.frame[middle + 3 :]]


@edit("tag", "lost")
def _tag(out: Outgoing) -> list[bytes]:
    body = wire.join(fields_of(out.frame)).replace(b"\x0149=", b"\x014garbled9=", 1)
    return [wire.finish(body)]


@edit("first_three", "lost")
def _first_three(out: Outgoing) -> list[bytes]:
    fields = fields_of(out.frame)
    return [wire.message([fields[1], fields[0], *fields[2:]])]


@edit("noise", "none")
def _noise(out: Outgoing) -> list[bytes]:
    return [out.options.get("text", "noise\x01between=messages\x00\x00").encode("latin-1"), out.frame]


@edit("begin", "session")
def _begin(out: Outgoing) -> list[bytes]:
    text = b"8=FIX.4.2" + out.frame[9:-7]
    return [b"%b10=%03d\x01" % (text, wire.byte_sum(text) & 255)]


@edit("sender", "session")
def _sender(out: Outgoing) -> list[bytes]:
    return [replaced(out.frame, 49, b"SOMEONE")]


@edit("target", "session")
def _target(out: Outgoing) -> list[bytes]:
    return [replaced(out.frame, 56, b"SOMEONE")]


@edit("time", "session")
def _time(out: Outgoing) -> list[bytes]:
    moment = out.session.venue.now() + int(out.options.get("seconds", -300) * 1e9)
    return [replaced(out.frame, 52, wire.sending_time(moment))]


@edit("time_missing", "content")
def _time_missing(out: Outgoing) -> list[bytes]:
    return [replaced(out.frame, 52, None)]


@edit("seq_missing", "session")
def _seq_missing(out: Outgoing) -> list[bytes]:
    return [replaced(out.frame, 34, None)]


@edit("dup", "session")
def _dup(out: Outgoing) -> list[bytes]:
    return [out.frame, out.frame]


def _stamped(frame: bytes) -> bytes:
    return dict(fields_of(frame))[52]


@edit("possdup", "none")
def _possdup(out: Outgoing) -> list[bytes]:
    return [out.frame, inserted(out.frame, 56, [(43, b"Y"), (122, _stamped(out.frame))])]


@edit("possdup_first", "none")
def _possdup_first(out: Outgoing) -> list[bytes]:
    return [inserted(out.frame, 56, [(43, b"Y"), (122, _stamped(out.frame))])]


@edit("possdup_no_122", "none")
def _possdup_no_122(out: Outgoing) -> list[bytes]:
    return [out.frame, inserted(out.frame, 56, [(43, b"Y")])]


@edit("possdup_late", "session")
def _possdup_late(out: Outgoing) -> list[bytes]:
    late = wire.sending_time(out.session.venue.now() + 60_000_000_000)
    return [out.frame, inserted(out.frame, 56, [(43, b"Y"), (122, late)])]


@edit("possresend", "none")
def _possresend(out: Outgoing) -> list[bytes]:
    return [inserted(out.frame, 56, [(97, b"Y")])]


@edit("count_more", "content")
def _count_more(out: Outgoing) -> list[bytes]:
    return [replaced(out.frame, 268, b"%d" % (int(dict(fields_of(out.frame)).get(268, b"0")) + 1))]


@edit("count_less", "content")
def _count_less(out: Outgoing) -> list[bytes]:
    return [replaced(out.frame, 268, b"%d" % max(0, int(dict(fields_of(out.frame)).get(268, b"1")) - 1))]


@edit("missing", "content")
def _missing(out: Outgoing) -> list[bytes]:
    return [replaced(out.frame, int(out.options.get("tag", 270)), None)]


@edit("empty", "content")
def _empty(out: Outgoing) -> list[bytes]:
    return [replaced(out.frame, int(out.options.get("tag", 270)), b"")]


@edit("value", "content")
def _value(out: Outgoing) -> list[bytes]:
    value = str(out.options.get("value", "abc")).encode("latin-1")
    return [replaced(out.frame, int(out.options.get("tag", 270)), value)]


@edit("unknown_tag", "none")
def _unknown_tag(out: Outgoing) -> list[bytes]:
    return [inserted(out.frame, int(out.options.get("before", 268)), [(int(out.options.get("tag", 5051)), b"1")])]


@edit("duplicate_tag", "none")
def _duplicate_tag(out: Outgoing) -> list[bytes]:
    tag = int(out.options.get("tag", 262))
    fields = fields_of(out.frame)
    twice = [pair for pair in fields if pair[0] == tag][:1]
    return [inserted(out.frame, tag, twice)]


@edit("tag_number", "lost")
def _tag_number(out: Outgoing) -> list[bytes]:
    tag = str(out.options.get("tag", "-1")).encode()
    body = wire.join(fields_of(out.frame)).replace(b"\x01268=", b"\x01%b=" % tag, 1)
    return [wire.finish(body)]


@edit("type", "hidden")
def _type(out: Outgoing) -> list[bytes]:
    return [replaced(out.frame, 35, str(out.options.get("value", "*")).encode())]


@edit("order", "none")
def _order(out: Outgoing) -> list[bytes]:
    """Header fields after 35 in another order: 34 last."""
    fields = fields_of(out.frame)
    head = [pair for pair in fields[1:5] if pair[0] != 34]
    return [wire.message([fields[0], *head, *[p for p in fields[1:5] if p[0] == 34], *fields[5:]])]


@edit("body_order", "none")
def _body_order(out: Outgoing) -> list[bytes]:
    """The first two fields of the body change places (262 before 55, 322 before 320)."""
    fields = fields_of(out.frame)
    start = next((i for i, pair in enumerate(fields) if pair[0] not in HEADER), len(fields))
    fields[start : start + 2] = fields[start : start + 2][::-1]
    return [wire.message(fields)]


@edit("header_late", "none")
def _header_late(out: Outgoing) -> list[bytes]:
    """56 comes at the end of the message."""
    fields = fields_of(out.frame)
    late = [pair for pair in fields if pair[0] == 56]
    return [wire.message([*(pair for pair in fields if pair[0] != 56), *late])]
