"""Well-formed input costs bounded work and memory, however it was made: counts of work, never times."""

from __future__ import annotations

import gc
import random
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import hostile
from kfix_md import Cause, Handler, State
from kfix_md._book import L2Book
from kfix_md._book_l3 import L3Book
from kfix_md._entry import ENTRY_DTYPE
from kfix_md._frame import fields
from kfix_md.errors import ProtocolError
from kfix_md.instruments import MAX_ROWS, InstrumentList, parse_list
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from tests.conftest import ROOT
from tests.core.test_surprises import frame, listed
from tests.fuzz.targets import framed
from tests.preload import COMPILER, needs_compiler

MEGABYTE = 1 << 20
SOUND = framed(b"35=0|34=1|49=K|52=20240301-12:00:00.000|56=ME|")


def nested(size: int, *, sums: bool) -> bytes:
    """Headers that each claim all that follows, up to the same tag 10 (with `sums`) or to nothing."""
    tail = b"\x0110=000\x01" if sums else b"\x01" * 8
    parts, left = [], size - len(tail)
    while left > 64:
        head = b"8=FIX.4.4\x019=%07d\x01" % (left - 20 + len(tail) - 7)
        parts.append(head)
        left -= len(head)
    parts.append(b"x" * left)
    return b"".join(parts) + tail


@pytest.mark.parametrize("reads", [1 << 30, 262_144])
def test_frames_inside_of_frames_are_summed_a_bounded_number_of_times(reads):
    data = nested(4 * MEGABYTE, sums=True)
    handler = Handler()
    for at in range(0, len(data), reads):
        handler.on_bytes(data[at : at + reads], 1)
    handler.on_bytes(SOUND, 1)
    stats = handler.stats
    assert stats["bad_checksum"] > 1
    assert stats["summed_in_vain"] <= 64 * MEGABYTE + 5 * len(data)
    assert stats["messages"] == 1, "the frame after them is found"
    assert stats["garbage_bytes"] == len(data)


def test_a_length_that_leads_to_no_tag_10_is_not_summed():
    data = nested(4 * MEGABYTE, sums=False)
    handler = Handler()
    handler.on_bytes(data + SOUND, 1)
    assert handler.stats["bad_length"] > 100_000
    assert handler.stats["summed_in_vain"] == 0
    assert handler.stats["messages"] == 1


def test_many_garbled_frames_in_a_row_are_counted_and_the_first_reported():
    class Session:
        sequence = None

        def __init__(self) -> None:
            self.reports: list[str] = []

        def garbled(self, kind: str, *_: object) -> None:
            self.reports.append(kind)

    session = Session()
    handler = Handler(session=session)
    handler.on_bytes(b"8=FIX.4.4\x019=x\x01" * 1_000, 1)
    assert handler.stats["bad_length"] == 1_000
    assert session.reports == ["body_length"] * 64


def test_the_receive_buffer_is_given_back_after_a_large_frame():
    handler = Handler()
    handler.on_bytes(b"8=FIX.4.4\x019=8000000\x01" + bytes(7_900_000), 1)
    assert len(handler.get_buffer()) >= 262_144
    handler.on_bytes(bytes(200_000) + frame("0", 1, "") + listed("BTC/USD"), 1)
    assert handler.unfinished == 0
    assert len(handler.get_buffer()) < 5_000_000


def test_a_frame_of_the_greatest_length_is_applied_and_kept_and_a_longer_one_is_garbled(tmp_path):
    most, around = 1 << 26, len(b"8=FIX.4.4|9=12345678||10=000|")  # Handler's max_frame, and what is not the body
    head = b"35=W|34=2|49=K|52=20240301-12:00:00.000|56=ME|55=A/B|262=1|268=1|" + hostile.level(0, 5) + b"58="
    longest = framed(head + b"x" * (most - len(head) - around) + b"|")
    assert len(longest) == most
    with JournalWriter(tmp_path) as journal:
        handler = Handler(journal=journal)
        handler.on_bytes(hostile.LISTED, 1)
        handler.on_bytes(longest, 1)
        assert handler["A/B"].state is State.LIVE and handler.stats["entries"] == 1
        assert handler.stats["bad_length"] == handler.unfinished == 0
        body = most - around + 1
        handler.on_bytes(longest.replace(b"9=%d" % body, b"9=%d" % (body + 1), 1) + SOUND, 1)
        assert (handler.stats["bad_length"], handler.stats["garbage_bytes"]) == (1, most)
        assert handler.stats["messages"] == 3 and handler.unfinished == 0
    frames = [len(record[5]) for record in JournalReader(tmp_path) if record[1] == FRAME]
    assert frames == [len(hostile.LISTED), most, len(SOUND)]


# ---- books: the work that messages cost, in steps (OrderBook.work)


def started() -> Handler:
    """A handler that knows one symbol."""
    handler = Handler()
    handler.on_bytes(hostile.LISTED, 1)
    return handler


def fed(data: bytes) -> Handler:
    """The same after a stream of a benchmark."""
    handler = started()
    handler.on_bytes(data, 1)
    return handler


def bound(handler: Handler) -> int:
    """Steps that the entries may have cost: see WORK_ENTRY and WORK_BANK in _book.pxd; the last one may go beyond."""
    stats = handler.stats
    return (1 << 21) + 512 * (stats["entries"] + 2 * stats["messages"]) + 100_000


@pytest.mark.parametrize(
    "kind",
    [
        *(hostile.falling_times, hostile.times_to_the_middle, hostile.middle_of_a_queue, hostile.same_hash),
        *(hostile.snapshot_backwards, hostile.orders_backwards, hostile.levels_at_the_end, hostile.orders_at_the_end),
        *(hostile.empty_after_large, hostile.wrong_checksums),
    ],
    ids=lambda kind: kind.__name__,
)
def test_a_book_costs_bounded_work(kind):
    handler = fed(kind(2_000_000))
    assert handler.stats["entries"] > 5_000
    assert handler.book("A/B").work <= bound(handler)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        (hostile.falling_times, 2),
        (hostile.same_hash, 2),
        (hostile.snapshot_backwards, 1),
        (hostile.orders_backwards, 2),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_what_a_venue_may_send_by_chance_costs_a_step_or_two_an_entry(kind, steps):
    handler = fed(kind(2_000_000))
    assert handler.stats["limits"] == 0
    assert handler["A/B"].state.name == "LIVE"
    assert handler.book("A/B").work <= steps * handler.stats["entries"]


@needs_compiler
def test_ids_that_count_up_are_spread_by_every_key(tmp_path):
    # linear probing at half of the places: 0.5 steps an entry where every place is as likely as any other
    program = tmp_path / "spread"
    source, headers = ROOT / "tests/core/hash_spread.c", ROOT / "kfix_md/c"
    subprocess.run([COMPILER, "-O2", "-Wall", "-Werror", "-I", headers, source, "-o", program], check=True)
    most, mean = map(float, subprocess.run([program], check=True, capture_output=True, text=True).stdout.split())
    assert 0.45 < mean < 0.55
    assert most < 0.75


def test_a_limit_is_named_and_voids_one_book(caplog):
    handler = started()
    head = b"35=W|34=2|49=K|52=20240301-12:00:00.000|56=ME|55=C/D|262=1|268=2|"
    handler.on_bytes(framed(head + hostile.level(0, 5) + hostile.level(1, 6)), 1)
    handler.sequence.expected = 2
    handler.on_bytes(hostile.times_to_the_middle(2_000_000), 1)
    assert handler.stats["limits"] == 1
    assert handler.book_state("A/B")[:2] == (State.STALE, Cause.LIMIT)
    assert handler.book("A/B").counts == (0, 0)
    assert handler["C/D"].state.name == "LIVE"
    assert "512 steps of work an entry" in caplog.text
    handler.on_bytes(hostile.message(b"W", 90_000, [hostile.order(1, 10, 1)]), 1)
    assert handler["A/B"].state.name == "LIVE", "its next snapshot makes it whole"


def test_memory_of_all_books_is_one_room():
    handler = started()
    before = handler.books.room.left
    handler.on_bytes(hostile.message(b"W", 2, [hostile.order(i, 10, i) for i in range(20_000)]), 1)
    taken = before - handler.books.room.left
    assert 20_000 * 64 <= taken <= 2_000_000  # 80 bytes for an order, as a table of ids has room for it
    handler.define("A/B", 3, 3)  # other precisions: a new book
    assert handler.books.room.left == before


def test_more_orders_than_a_book_may_hold():
    entries = np.zeros(2_097_153, ENTRY_DTYPE)
    entries["price"], entries["qty"], entries["id_kind"], entries["id_lo"] = 10, 1, 1, np.arange(len(entries)) + 1
    with pytest.raises(OverflowError, match="2097152 orders"):
        L3Book().apply(entries)


def test_a_listener_gets_the_limit():
    handler, seen = started(), []
    handler.books.listener = SimpleNamespace(on_book=lambda *_: None, on_limit=lambda *given: seen.append(given))
    handler.on_bytes(hostile.times_to_the_middle(2_000_000), 1)
    assert seen == [("A/B", "more than 512 steps of work an entry, and 2097152 at once")]


def test_the_two_ends_of_a_queue_give_the_same_order():
    rng = random.Random(3)
    for timeless in (False, True):
        times = [rng.randrange(1, 40) for _ in range(300)]
        entries = np.zeros(len(times), ENTRY_DTYPE)
        entries["price"], entries["qty"], entries["id_kind"] = 10, 1, 1
        entries["id_lo"], entries["queue_ns"] = np.arange(len(times)) + 1, times
        if timeless:
            entries["queue_ns"][::7] = 0
        book, expected = L3Book(), []
        for number, time in zip(entries["id_lo"].tolist(), entries["queue_ns"].tolist(), strict=True):
            at = len(expected)
            while time > 0 and at > 0 and expected[at - 1][0] > time:
                at -= 1
            expected.insert(at, (time, number))
        book.apply(entries)
        assert book.queue(0, 10)["id_lo"].tolist() == [number for _, number in expected]


@pytest.mark.parametrize("kind", [L2Book, L3Book])
def test_a_snapshot_in_any_order_is_the_same_book(kind):
    rng = np.random.default_rng(5)
    for _ in range(60):
        n = int(rng.integers(1, 200))
        entries = np.zeros(n, ENTRY_DTYPE)
        entries["price"], entries["side"] = rng.integers(1, 60, n), rng.integers(0, 3, n)
        entries["qty"] = rng.integers(0, 4, n)
        entries["id_kind"], entries["id_lo"] = 1, rng.integers(1, 150, n)
        entries["action"] = rng.choice([0, 0, 0, 1, 2], n)
        together, apart = kind(), kind()
        together.apply(entries)
        for at in range(n):
            apart.apply(entries[at : at + 1])
        assert [side.tolist() for side in together.depth(None, "int")] == [
            side.tolist() for side in apart.depth(None, "int")
        ]
        assert (together.unknown, together.repeated) == (apart.unknown, apart.repeated)
        assert together.crc() == apart.crc()
        if kind is L3Book:
            for price in range(1, 60):
                assert together.queue(0, price).tolist() == apart.queue(0, price).tolist()


@pytest.mark.parametrize("kind", [L2Book, L3Book])
def test_trimming_many_levels_at_once(kind):
    entries = np.zeros(500, ENTRY_DTYPE)
    entries["price"], entries["qty"], entries["id_kind"], entries["id_lo"] = np.arange(500), 1, 1, np.arange(500) + 1
    book = kind(limit=20)
    book.apply(entries)
    assert book.depth(None, "int")[0]["price"].tolist() == list(range(499, 479, -1))
    assert book.crc() == kind_after(kind, entries[480:]).crc()
    again = entries[:10].copy()
    again["price"] += 1_000
    book.apply(again)
    assert book.counts[0] == 20
    if kind is L3Book:
        assert book.order_counts == (20, 0)


def kind_after(kind, entries):
    """A new book of these entries."""
    book = kind()
    book.apply(entries)
    return book


def test_ids_of_instruments_that_differ_in_their_middle_are_found_at_once():
    names = [f"AAAAAAAA{i:08d}BBBBBBBB" for i in range(4_000)]
    handler = Handler()
    for name in names:
        handler.define(name, 1, 2)
    assert handler.books.probes <= 3 * len(names)


def test_an_id_of_kilobytes_makes_its_message_unusable():
    for fast in (True, False):
        handler = Handler(allow_fast=fast, collect=True)
        handler.on_bytes(hostile.LISTED, 1)
        handler.on_bytes(hostile.message(b"W", 2, [hostile.order(1, 10, 1)]), 1)
        group = b"279=0|269=0|278=%s|270=10|271=1|273=12:00:00.000|" % (b"1" * 256)
        handler.on_bytes(hostile.message(b"X", 3, [group.replace(b"1" * 256, b"1" * 255)]), 1)
        assert handler["A/B"].state.name == "LIVE"
        handler.on_bytes(hostile.message(b"X", 4, [group]), 1)
        assert handler.stats["malformed"] == 1
        assert handler.book_state("A/B")[:2] == (State.STALE, Cause.MALFORMED)


def test_a_control_message_of_megabytes_is_not_read():
    handler = started()
    handler.on_bytes(framed(b"35=y|34=2|49=K|52=20240301-12:00:00.000|56=ME|" + b"58=x|" * 500_000), 1)
    assert handler.stats["too_long"] == 1


def test_an_unfinished_list_keeps_a_bounded_number_of_rows():
    known = InstrumentList()
    known.expect("1")
    rows = [(55, b"S%d") for _ in range(5_000)]
    for part in range(8):
        fields = [(320, b"1"), (560, b"0"), (893, b"N")]
        for number, (tag, text) in enumerate(rows):
            fields += [(tag, text % (part * 5_000 + number)), (2349, b"1"), (5010, b"2")]
        assert known.apply(parse_list(fields)) is None
    (answers,) = known._open.values()
    assert sum(len(answer.rows) for answer in answers.values()) == MAX_ROWS
    known.expect("2", again=True)
    assert sum(len(answer.rows) for answer in answers.values()) == 0
    last = parse_list([(320, b"2"), (560, b"0"), (893, b"Y"), (55, b"A"), (2349, b"1"), (5010, b"2")])
    assert known.apply(last) is not None
    assert list(known.known) == ["A"]


def test_rows_that_cannot_be_kept_are_counted_and_not_read():
    known = InstrumentList()
    known.expect("1")
    assert known.room == MAX_ROWS
    rows = [(55, b"S%d" % i) for i in range(MAX_ROWS - 1)]
    part = parse_list([(320, b"1"), (560, b"0"), (393, b"%d" % (MAX_ROWS + 2)), (893, b"N"), *rows], known.room)
    assert known.apply(part) is None
    assert known.room == 1
    end = [(320, b"1"), (560, b"0"), (393, b"%d" % (MAX_ROWS + 2)), (893, b"N")]
    for symbol in (b"KEPT", b"LEFT", b"OUT"):
        end += [(55, symbol), (2349, b"1"), (5010, b"2")]
    part = parse_list(end, known.room)
    assert [row.symbol for row in part.rows] == ["KEPT"]
    assert part.groups == 3
    assert known.apply(part) is not None  # 393 rows have arrived
    assert list(known.known) == ["KEPT"]
    assert known.room == MAX_ROWS


def test_reading_a_list_leaves_the_garbage_collector_as_it_was():
    rows = [(55, b"A"), (2349, b"x"), (5010, b"2")]
    for switch in (gc.disable, gc.enable):
        switch()
        before = gc.isenabled()
        assert parse_list(rows).errors == ["A: no usable price_precision (2349=x)"]
        with pytest.raises(ProtocolError):
            fields(b"not a field")
        with pytest.raises(TypeError):
            parse_list([None])
        assert gc.isenabled() is before


def test_a_message_with_too_many_instruments_names_the_limit():
    part = parse_list([(146, b"40000"), *((55, b"S%d" % i) for i in range(40_000))])
    assert len(part.rows) == MAX_ROWS
    assert part.count_error == f"35=y has 40000 instruments: {MAX_ROWS} are read of a list, the rest left out"
