"""Rows of the session table that begin with bytes: garbled frames, faulty bodies, splits, late entries.

Here the session works with the real hot loop, on the bytes of a TLS stream's plain text.
"""

import random

import pytest

from kfix_md import Handler
from kfix_md._entry import Cause, State
from kfix_md.session.machine import Session
from kfix_md.session.types import SessionConfig
from tests.session.peer import NOON, SECOND, SENDER, TARGET, Recorder, Rig, frame, parse, stamp

SYMBOL = "BTC/USD"
HEAD = [(55, SYMBOL), (262, "1")]
BIDS = [(100 - n, 1) for n in range(3)]
SNAPSHOT = [
    *HEAD,
    (268, 2),
    (269, 0),
    (278, "B99.0"),
    (270, "99.0"),
    (271, 1),
    (273, "12:00:00.000"),
    (269, 1),
    (278, "O101.0"),
    (270, "101.0"),
    (271, 2),
    (273, "12:00:00.000"),
]


def update(qty, price="99.0", side=0, action=1):
    """The body of an increment of one entry."""
    return [
        *HEAD,
        (268, 1),
        (279, action),
        (269, side),
        (278, f"B{price}"),
        (270, price),
        (271, qty),
        (273, "12:00:00.000"),
    ]


class Wire(Rig):
    """The rig with a Handler in front of the session: everything goes in as bytes."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.books = []
        self.app.on_gap = lambda first, last, cause: self.handler.mark(None, State.GAP, Cause.LOST)
        self.handler = Handler(session=self.session, listener=self)
        self.session.bind(self.handler)

    def on_book(self, symbol, state, cause, seq, recv_ns):
        self.books.append((symbol, state, cause))

    def raw(self, data):
        return self.handler.on_bytes(data, self.now)

    def live(self):
        """Logged on with one book, two levels, subscribed as 1."""
        self.logon()
        self.handler.define(SYMBOL, 1, 8)
        self.handler.subscribe(SYMBOL, "1")
        self.peer("W", *SNAPSHOT)
        assert self.book.state == State.LIVE
        self.take()
        return self

    @property
    def book(self):
        return self.handler[SYMBOL]

    @property
    def bid_qty(self):
        return self.book.top(allow_stale=True)[1]

    def good(self, qty, **changes):
        """The bytes of the next increment."""
        seq, self.seq = self.seq, self.seq + 1
        return frame("X", seq, self.now, *update(qty), **changes)

    def heals(self, seq, qty):
        """The damaged message `seq` is missed by the next one, requested, and replayed."""
        before = self.expected
        self.raw(self.good(7))
        assert self.book.state == State.GAP
        assert [(m["type"], m[7]) for m in self.take() if m["type"] != "1"] == [("2", str(seq))] and before == seq
        self.peer("X", (43, "Y"), (122, stamp(self.now)), *update(qty), seq=seq)
        assert self.expected == seq + 2 and self.session.fast
        assert self.app.calls[-1] == ("gap_closed",)


def damaged(name, good):
    """One way to spoil a frame."""
    if name == "bad checksum":
        return good[:-4] + b"%03d\x01" % ((int(good[-4:-1]) + 1) % 256)
    if name == "a byte flipped":
        return good.replace(b"270=99.0", b"270=98.0")
    if name == "length too short":
        length = int(good[12:].split(b"\x01")[0])
        return good.replace(b"9=%d\x01" % length, b"9=%d\x01" % (length - 5), 1)
    if name == "length too long":
        length = int(good[12:].split(b"\x01")[0])
        return good.replace(b"9=%d\x01" % length, b"9=%d\x01" % (length + 5), 1)
    raise ValueError(name)


@pytest.mark.parametrize("name", ["bad checksum", "a byte flipped"])
def test_row_53_bad_checksum_uses_no_number_and_comes_back_by_resend(name):
    wire = Wire().live()
    assert wire.raw(damaged(name, wire.good(5))) == 0
    assert [m["type"] for m in wire.take()] == ["1"], "no Reject"
    assert wire.session.stats["garbled_checksum"] == 1
    wire.heals(3, 5)
    assert wire.events("gap_open")[0]["cause"] == "checksum"


def test_row_53_checksum_256_is_none():
    wire = Wire().live()
    wire.raw(wire.good(5)[:-4] + b"256\x01")
    assert wire.expected == 3
    wire.heals(3, 5)


@pytest.mark.parametrize("name", ["length too short", "length too long"])
def test_row_54_bad_body_length_is_skipped_to_the_next_frame(name):
    wire = Wire().live()
    wire.raw(damaged(name, wire.good(5)))
    wire.raw(wire.good(6))
    wire.take()
    wire.raw(wire.good(7))
    for seq in range(wire.expected, wire.seq):
        wire.peer("X", (43, "Y"), (122, stamp(wire.now)), *update(seq), seq=seq)
    assert wire.expected == wire.seq and wire.session.fast
    assert wire.book.state == State.LIVE or wire.app.calls[-1] == ("gap_closed",)


@pytest.mark.parametrize("length", [b"abc", b"-5", b"", b"99999999999", b"999999999999999999999999"])
def test_row_55_absurd_body_length_is_dropped_without_waiting(length):
    wire = Wire().live()
    good = wire.good(5)
    bad = b"8=FIX.4.4\x019=" + length + b"\x01" + good.split(b"\x01", 2)[2]
    wire.raw(bad)
    assert wire.raw(wire.good(6)) == 1, "the next frame is found at once"
    assert [m["type"] for m in wire.take()] == ["1", "2"]


@pytest.mark.parametrize(
    "change",
    [
        (b"271=", b"4garbled9="),
        (b"271=", b"=271="),
        (b"271=", b"\x00271="),
        (b"271=5", b"271"),
        (b"271=", b"\xe9="),
        (b"\x01271=5\x01", b"\x01\x01"),
    ],
)
def test_row_56_garbled_tags_are_ignored_as_garbled(change):
    wire = Wire().live()
    body = wire.good(5).replace(*change).split(b"\x01", 2)[2].rpartition(b"10=")[0]
    head = b"8=FIX.4.4\x019=%d\x01" % len(body) + body
    wire.raw(head + b"10=%03d\x01" % (sum(head) % 256))
    assert wire.expected == 3 and wire.closed is None
    wire.heals(3, 5)


def test_row_56_eight_bit_text_is_harmless():
    wire = Wire().live()
    wire.peer("3", (45, 2), (58, "\xe9\xff\x80"))
    assert wire.expected == 4 and wire.app.calls[-1] == ("message", "3", 3)


def test_row_57_first_three_fields_in_another_order_are_ignored():
    wire = Wire().live()
    _, _, rest = wire.good(5).split(b"\x01", 2)
    body = rest.rpartition(b"10=")[0]
    swapped = body.replace(b"35=X\x0149=KRAKEN-MD\x01", b"49=KRAKEN-MD\x0135=X\x01")
    head = b"8=FIX.4.4\x019=%d\x01" % len(swapped) + swapped
    wire.raw(head + b"10=%03d\x01" % (sum(head) % 256))
    assert wire.expected == 3, "35 is not the third field"
    head = b"9=%d\x018=FIX.4.4\x01" % len(body) + body
    wire.raw(head + b"10=%03d\x01" % (sum(head) % 256))
    assert wire.expected == 3, "8 is not the first"
    wire.heals(3, 5)


@pytest.mark.parametrize("noise", [b"\r\n", b"garbage", b"\x00" * 500, b"8=FI", b"8=FIX.4.4\x018=FIX.4.4\x01"])
def test_row_58_bytes_between_messages_are_skipped(noise):
    wire = Wire().live()
    assert wire.raw(noise + wire.good(5) + noise + wire.good(6)) == 2
    assert wire.expected == 5 and wire.book.state == State.LIVE
    assert wire.bid_qty == 6


def test_row_59_other_begin_string_seen_by_the_hot_loop():
    wire = Wire().live()
    wire.raw(wire.good(5, begin="FIX.4.2"))
    assert [(m["type"], m[58]) for m in wire.take()] == [("5", "Incorrect BeginString")]
    assert wire.closed is not None


@pytest.mark.parametrize("tag", [262, 55, 268, 269, 270, 271, 279])
def test_row_66_missing_body_tag_uses_the_number_and_stales_the_book(tag):
    wire = Wire().live()
    wire.peer("X", *(pair for pair in update(5) if pair[0] != tag))
    assert wire.expected == 4 and wire.closed is None
    if tag not in (55, 262):  # without them the message belongs to no book
        assert (wire.book.state, wire.book.cause) == (State.STALE, Cause.MALFORMED)
        assert [m["type"] for m in wire.take()] == ["3"]
    assert wire.bid_qty == 1, "nothing of it was applied"


@pytest.mark.parametrize("tag", [270, 271, 279, 268])
def test_row_67_tag_without_a_value_stales_the_book(tag):
    wire = Wire().live()
    wire.peer("X", *((pair[0], "" if pair[0] == tag else pair[1]) for pair in update(5)))
    assert wire.expected == 4
    assert (wire.book.state, wire.book.cause) == (State.STALE, Cause.MALFORMED)
    assert wire.bid_qty == 1
    assert [(m["type"], m[45]) for m in wire.take()] == [("3", "3")]


@pytest.mark.parametrize("tag", ["abc", "0", "-7", "27x", ""])
def test_row_68_tag_that_is_no_number_never_crashes(tag):
    wire = Wire().live()
    wire.peer("X", *update(5), (tag, 1))
    assert wire.closed is None
    if wire.expected == 3:  # garbled: it comes again
        wire.heals(3, 5)
    else:
        assert wire.expected == 4


@pytest.mark.parametrize("extra", [(5051, "x"), (2446, "1"), (99999, "new")])
def test_row_69_unknown_tags_are_skipped(extra):
    wire = Wire().live()
    wire.peer("X", *update(5), extra)
    assert wire.book.state == State.LIVE and wire.bid_qty == 5
    wire.peer("X", *update(6)[:4], *update(6)[4:], extra)
    assert wire.bid_qty == 6 and wire.take() == []


@pytest.mark.parametrize("count", [0, 2, 3, 70000])
def test_row_70_wrong_group_count_applies_nothing(count):
    wire = Wire().live()
    wire.peer("X", *((tag, count if tag == 268 else value) for tag, value in update(5)))
    assert wire.expected == 4
    assert (wire.book.state, wire.book.cause) == (State.STALE, Cause.MALFORMED)
    assert wire.bid_qty == 1
    assert [(m["type"], m[373], m[371]) for m in wire.take()] == [("3", "16", "268")]


def test_row_71_an_update_without_entries_has_lost_them():
    wire = Wire().live()
    wire.peer("X", *HEAD, (268, 0))
    assert (wire.book.state, wire.book.cause) == (State.STALE, Cause.MALFORMED)
    assert [(m["type"], m[373], m[371]) for m in wire.take()] == [("3", "16", "268")]


@pytest.mark.parametrize(("change", "state"), [(0, State.LIVE), (1, State.CRC_FAIL)])
def test_row_71_an_update_without_entries_is_proved_by_its_5041(change, state):
    wire = Wire().live()
    wire.peer("X", *HEAD, (268, 0), (5041, wire.handler.book(SYMBOL).crc("level") ^ change))
    assert wire.book.state == state


def test_row_71_empty_snapshot_empties_both_sides():
    wire = Wire().live()
    wire.peer("W", *HEAD, (268, 0))
    assert wire.book.state == State.EMPTY
    bids, asks = wire.book.depth(10)
    assert (len(bids), len(asks)) == (0, 0)


def orders_of_header(seq, now):
    four = {34: seq, 49: TARGET, 52: stamp(now), 56: SENDER}
    for order in [(34, 49, 52, 56), (49, 56, 34, 52), (34, 56, 49, 52), (52, 56, 49, 34), (56, 52, 34, 49)]:
        yield [(tag, four[tag]) for tag in order]


def test_row_72_header_fields_in_any_order():
    wire = Wire().live()
    for qty in range(10, 15):
        header = list(orders_of_header(wire.seq, wire.now))[qty - 10]
        wire.seq += 1
        wire.raw(frame("X", 0, wire.now, *update(qty), header=header))
        assert wire.bid_qty == qty
    for number in range(5):
        header = list(orders_of_header(wire.seq, wire.now))[number]
        wire.seq += 1
        wire.raw(frame("0", 0, wire.now, header=header))
    assert wire.expected == wire.seq and wire.take() == []


def test_row_73_body_tags_in_another_order():
    wire = Wire().live()
    group = [(55, "ETH/USD"), (562, "0.1"), (5010, 8), (2349, 2), (5032, 1)]
    wire.peer("y", (146, 1), *group, (320, "L1"), (560, 0))
    assert wire.app.calls[-1] == ("message", "y", 3)
    wire.peer("X", *update(5)[2:], *HEAD[::-1])
    assert wire.expected == 5
    wire.peer("2", (16, 0), (7, 1))
    assert [m["type"] for m in wire.take()] == ["4"]


def test_row_74_repeated_or_late_header_tags_are_tolerated_and_counted():
    rig = Rig().logon()
    rig.peer("3", (45, 2), (34, 999))
    assert rig.expected == 3 and rig.session.stats["repeated_header_tag"] == 1
    header = [(34, 3), (49, TARGET), (56, SENDER)]
    rig.raw(frame("0", 0, rig.now, (112, "x"), (52, stamp(rig.now)), header=header))
    assert rig.expected == 4 and rig.take() == []
    wire = Wire().live()
    wire.peer("X", *update(5), (34, 3))
    assert wire.closed is None and wire.expected in (3, 4)


def a_day():
    """A short life of a session as frames: data, a loss with replay, garbage, a gap fill; and what it leaves."""
    wire = Wire()
    wire.connect()
    frames = [frame("A", 1, NOON, (98, 0), (108, 60), (141, "Y")), frame("W", 2, NOON, *SNAPSHOT)]
    frames += [frame("X", seq, NOON, *update(seq)) for seq in (3, 4, 7, 8)]
    dup = [(43, "Y"), (122, stamp(NOON))]
    frames += [frame("X", seq, NOON, *dup, *update(seq)) for seq in (5, 6, 7, 8)]
    frames += [b"noise", frame("1", 9, NOON, (112, "T")), frame("X", 10, NOON, *update(10))]
    frames += [frame("0", 12, NOON), frame("4", 11, NOON, *dup, (123, "Y"), (36, 13))]
    frames += [frame("X", 13, NOON, *update(13))]
    return b"".join(frames)


def life_of(pieces):
    """Everything observable after these reads."""
    wire = Wire()
    wire.connect()
    wire.handler.define(SYMBOL, 1, 8)
    wire.handler.subscribe(SYMBOL, "1")
    for piece in pieces:
        wire.raw(piece)
    out = [{key: value for key, value in m.items() if key not in (52, 10)} for m in wire.take()]
    return wire.bid_qty, wire.expected, wire.app.calls, out, [e["type"] for e in wire.events()]


def test_row_87_any_split_of_the_bytes_gives_the_same():
    data = a_day()
    whole = life_of([data])
    assert whole[:2] == (13, 14)
    assert ("gap_closed",) in whole[2] and ("lost", 11, 11, "lost") in whole[2]
    assert life_of([data[n : n + 1] for n in range(len(data))]) == whole
    rng = random.Random(87)
    for _ in range(30):
        cuts = sorted(rng.sample(range(1, len(data)), rng.randrange(1, 20)))
        assert life_of([data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]) == whole


def test_row_89_entries_of_an_ended_subscription_are_late():
    wire = Wire().live()
    wire.handler.unsubscribe(SYMBOL)
    wire.raw(wire.good(5))
    assert wire.expected == 4 and wire.bid_qty != 5
    assert wire.handler.stats["late"] == 1
    wire.handler.subscribe(SYMBOL, "2")
    wire.raw(wire.good(6))
    assert wire.handler.stats["late"] == 2 and wire.book.state == State.SYNCING


def test_the_fast_path_and_the_session_share_the_numbers():
    wire = Wire().live()
    for qty in range(1, 50):
        wire.raw(wire.good(qty))
    assert wire.session.sequence is wire.handler.sequence
    assert wire.expected == 52 and wire.session.stats["received"] == 0
    wire.peer("1", (112, "T"))
    assert [m["type"] for m in wire.take()] == ["0"]
    wire.now += 60 * SECOND
    wire.raw(wire.good(3))
    wire.session.tick(wire.now)
    assert wire.session.last_recv_ns == wire.now


def test_the_handler_takes_the_session_of_its_constructor():
    session = Session(SessionConfig(SENDER, TARGET), Recorder())
    handler = Handler(session=session)
    session.bind(handler)
    assert handler.sequence is session.sequence and not handler.fast
    session.connected(NOON)
    handler.on_bytes(frame("A", 1, NOON, (98, 0), (108, 60), (141, "Y")), NOON)
    assert handler.fast
    assert parse(session.outbox[0])[2] == (35, b"A")
