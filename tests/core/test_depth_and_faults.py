"""What one symbol's surprise may not do: a book beyond its depth, totals beyond int64, an error in the middle."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest

from kfix_md import Handler, State
from kfix_md._book import L2Book
from kfix_md._book_l3 import L3Book
from kfix_md._entry import ENTRY_DTYPE, Cause, MessageFlags
from kfix_md.errors import UsageError
from tests.core.test_checksum_rules import Venue, entry, opened
from tests.streams.generate import START_NS

# ---- depth ----


def plain_depth(levels: dict[int, int], side: int, limit: int) -> list[tuple[int, int]]:
    return sorted(levels.items(), reverse=side == 0)[:limit]


@pytest.mark.parametrize("deletes", [True, False])
@pytest.mark.parametrize("limit", [1, 10, 25])
def test_a_book_never_has_more_levels_than_were_subscribed_to(limit, deletes):
    rng = random.Random(limit)
    book = L2Book(0, 0, limit=limit)
    full: list[dict[int, int]] = [{}, {}]  # what the venue has; levels beyond the depth are never sent again
    for _ in range(3000):
        side, rows = rng.randrange(2), []
        price = 1000 - rng.randrange(60) if side == 0 else 1001 + rng.randrange(60)
        seen = dict(plain_depth(full[side], side, limit))
        if price in seen and rng.random() < 0.3:
            # the venue fills the depth up again with deeper levels: here there are none
            del full[side][price]
            rows.append(entry(side, str(price), "0", 2, precisions=(0, 0)))
        else:
            qty = rng.randrange(1, 100)
            trial = full[side] | {price: qty}
            now = dict(plain_depth(trial, side, limit))
            if price not in now:
                continue
            rows.append(entry(side, str(price), str(qty), 1 if price in seen else 0, precisions=(0, 0)))
            left = [gone for gone in seen if gone not in now]
            if deletes:  # 279=2 with 271>0: left the depth
                rows += [entry(side, str(gone), str(seen[gone]), 3, precisions=(0, 0)) for gone in left]
            full[side] = now
        book.apply(np.array(rows))
        assert max(book.counts) <= limit
        for which, levels in enumerate(book.depth(None, "int")):
            assert [(int(p), int(q)) for p, q, _ in levels] == plain_depth(full[which], which, limit)


def test_levels_beyond_the_depth_go_with_all_their_orders_and_at_the_end_of_a_message():
    book = L3Book(0, 0, limit=2)
    rows = [entry(0, str(price), "5", order=10 * price + n, precisions=(0, 0)) for price in (7, 8) for n in (1, 2)]
    book.apply(np.array(rows))
    assert book.counts == (2, 0) and book.order_counts == (4, 0)
    better = entry(0, "9", "5", order=99, precisions=(0, 0))
    gone = entry(0, "8", "0", 2, order=81, precisions=(0, 0)), entry(0, "8", "0", 2, order=82, precisions=(0, 0))
    book.apply(np.array([better, *gone]))  # three levels inside the message, two after it: 7 stays
    assert [int(p) for p in book.depth(None, "int")[0]["price"]] == [9, 7]
    book.apply(np.array([entry(0, "10", "1", order=100, precisions=(0, 0))]))
    assert [int(p) for p in book.depth(None, "int")[0]["price"]] == [10, 9]
    assert book.order_counts == (2, 0)
    book.apply(np.array([entry(0, "7", "0", 2, order=71, precisions=(0, 0))]))  # the venue's own delete, late
    assert book.counts == (2, 0)


@pytest.mark.parametrize("level", ["L2", "L3"])
def test_a_handler_cuts_at_the_subscribed_depth_and_5041_agrees(level):
    venue = Venue(level, "level" if level == "L2" else "order")
    handler = Handler(level=level)
    handler.define("X/Y", 1, 8)
    handler.subscribe("X/Y", "1", 10)
    for n in range(12):
        venue.orders[venue.id_of(2 * n + 1)] = (0, f"{100 - n}.5", "1")
        venue.orders[venue.id_of(2 * n + 2)] = (1, f"{102 + n}.0", "2")
    assert handler.deliver(venue.snapshot()) & MessageFlags.CRC_OK
    assert handler.book("X/Y").counts == (10, 10)
    for n in range(50, 60):
        assert handler.deliver(venue.put(n, 0, f"{n + 51}.6", "1")) & (MessageFlags.CRC_OK | MessageFlags.HAS_CRC)
        assert handler.book("X/Y").counts == (10, 10)
    handler.define("X/Y", 2, 8)  # the new book has the limit too
    handler.subscribe("X/Y", "1", 25)
    handler.deliver(venue.snapshot())
    assert handler.book("X/Y").limit == 25


def test_a_full_l2_subscription_has_a_thousand_levels():
    handler = Handler(level="L2")
    handler.define("X/Y", 1, 8)
    handler.subscribe("X/Y", "1", 0)
    assert handler.book("X/Y").limit == 1000
    l3 = Handler(level="L3")
    l3.define("X/Y", 1, 8)
    l3.subscribe("X/Y", "1", 0)
    assert l3.book("X/Y").limit > 1 << 30


# ---- totals ----


def test_a_total_that_does_not_fit_int64_is_an_error_and_never_a_wrong_number():
    top = (1 << 63) - 1
    book = L3Book(0, 0)
    row = np.zeros(2, ENTRY_DTYPE)
    row["price"], row["qty"], row["id_kind"] = 5, (top, 1), 1
    row["id_lo"] = (1, 2)
    book.apply(row[:1])
    with pytest.raises(OverflowError, match="64 bits"):
        book.apply(row[1:])
    row["qty"] = (top - 1, 1)
    book = L3Book(0, 0)
    book.apply(row)
    assert book.top()[:2] == (5, top)
    more = row[1:].copy()
    more["qty"], more["action"] = 2, 1
    with pytest.raises(OverflowError, match="64 bits"):
        book.apply(more)


def test_a_total_that_does_not_fit_makes_its_book_stale_with_cause_number():
    handler, venue = opened("L3", "order")
    venue.orders[venue.id_of(500)] = (0, "100.5", "92233720368")
    for n in (500, 501):
        flags = handler.deliver(venue.put(n, 0, "100.5", "92233720367"))
    assert flags & MessageFlags.BAD_BOOK and (handler["X/Y"].state, handler["X/Y"].cause) == (State.STALE, Cause.NUMBER)


# ---- errors of ours ----


class Raising:
    """A listener that raises for one symbol."""

    def __init__(self, symbol: str, error: Exception) -> None:
        self.symbol, self.error, self.faults, self.armed = symbol, error, [], True

    def on_book(self, symbol, state, cause, seq, recv_ns):
        if self.armed and symbol == self.symbol and state is State.LIVE:
            raise self.error

    def on_fault(self, symbol, error):
        self.faults.append((symbol, error))


def stream() -> tuple[bytes, Venue, Venue]:
    a, b = Venue("L2", "level", symbol="A/Y"), Venue("L2", "level", symbol="B/Y")
    out = b""
    for venue in (a, b):
        venue.orders[venue.id_of(1)] = (0, "100.5", "1")
        venue.orders[venue.id_of(2)] = (1, "101.5", "1")
    a.seq, b.seq = 0, 1
    out += a.snapshot() + b.snapshot()
    a.seq = 2
    return out + a.put(1, 0, "100.5", "7"), a, b


@pytest.mark.parametrize("size", [1 << 20, 100])
@pytest.mark.parametrize(
    ("error", "state", "cause"),
    [
        (ValueError("odd"), State.STALE, Cause.MALFORMED),
        (UsageError("no room"), State.DOWN, Cause.ROOM),
        (OSError(28, "no space"), State.DOWN, Cause.ROOM),
    ],
)
def test_an_error_in_a_message_costs_its_symbol_alone(error, state, cause, size):
    data, _, _ = stream()
    listener = Raising("B/Y", error)
    handler = Handler(level="L2", listener=listener)
    for symbol in ("A/Y", "B/Y"):
        handler.define(symbol, 1, 8)
    for at in range(0, len(data), size):
        handler.on_bytes(data[at : at + size])
    assert handler["A/Y"].state is State.LIVE and handler["A/Y"].top()[1] == 7
    assert (handler["B/Y"].state, handler["B/Y"].cause) == (state, cause)
    assert listener.faults == [("B/Y", error)] and handler.stats["faults"] == 1
    listener.armed = False


def test_an_error_is_logged_once_where_nobody_listens(caplog):
    handler = Handler(level="L2", listener=type("L", (), {"on_book": lambda *a: 1 / 0})())
    data, _, _ = stream()
    for symbol in ("A/Y", "B/Y"):
        handler.define(symbol, 1, 8)
    handler.on_bytes(data)
    assert [record.args[0] for record in caplog.records] == ["A/Y", "B/Y"]


def test_an_error_that_names_no_symbol_is_raised():
    class Broken:
        sequence = None

        def receive(self, frame, fields, recv_ns):
            raise RuntimeError("session")

        def take_released(self, recv_ns):
            return []

    data, _, _ = stream()
    handler = Handler(level="L2", session=Broken())
    handler.define("A/Y", 1, 8)
    with pytest.raises(RuntimeError, match="session"):
        handler.on_bytes(data)


def test_the_journal_has_the_message_as_not_applied(tmp_path):
    from kfix_md.journal.reader import JournalReader
    from kfix_md.journal.writer import JournalWriter

    data, _, _ = stream()
    with JournalWriter(str(tmp_path)) as journal:
        handler = Handler(level="L2", listener=Raising("B/Y", ValueError("odd")), journal=journal)
        for symbol in ("A/Y", "B/Y"):
            handler.define(symbol, 1, 8)
        handler.on_bytes(data, START_NS)
    frames = [record for record in JournalReader(tmp_path) if b"262=1" in record[5]]
    applied = [bool(flags & MessageFlags.IGNORED) for _, _, _, _, flags, _ in frames]
    assert applied == [False, True, False]
    assert frames[1][4] & MessageFlags.BAD_BOOK


def test_a_symbol_without_room_is_left_out_and_the_others_are_served(tmp_path):
    from kfix_md.shm.writer import SegmentWriter

    data, _, _ = stream()
    with SegmentWriter("room", str(tmp_path), capacity=1) as publisher:
        handler = Handler(level="L2", publisher=publisher)
        for symbol in ("A/Y", "B/Y"):
            handler.define(symbol, 1, 8)
        handler.on_bytes(data)
        assert handler["A/Y"].state is State.LIVE
        assert (handler["B/Y"].state, handler["B/Y"].cause) == (State.DOWN, Cause.ROOM)
        with pytest.raises(UsageError):
            handler.subscribe("B/Y", "2", 10)
        assert (handler["B/Y"].state, handler["B/Y"].cause) == (State.DOWN, Cause.ROOM)


@pytest.mark.parametrize("level", ["L2", "L3"])
def test_no_thread_sees_a_part_of_a_message_for_which_its_book_grows(level, monkeypatch):
    """numpy gives the interpreter up where it takes and copies memory."""
    handler, venue = opened(level, "level" if level == "L2" else "order")
    groups = []
    for n in range(100, 180):
        key = venue.id_of(n)
        venue.orders[key] = (0, "90.0" if level == "L3" else f"{90 - n / 10:.1f}", "1.5")
        groups.append(venue.group(key, "279=0|"))
    growing, seen = threading.Event(), []

    def slow(real):
        def call(*args, **options):
            if threading.current_thread() is threading.main_thread():
                growing.set()
                time.sleep(0.02)
            return real(*args, **options)

        return call

    def look():
        assert growing.wait(10)
        book = handler.book("X/Y")
        seen.append((book.counts, book.order_counts))

    reader = threading.Thread(target=look)
    reader.start()
    with monkeypatch.context() as numpy:
        numpy.setattr(np, "empty", slow(np.empty))
        numpy.setattr(np, "zeros", slow(np.zeros))
        assert handler.deliver(venue.message("X", groups)) & MessageFlags.CRC_OK
    reader.join()
    book = handler.book("X/Y")
    assert growing.is_set() and seen == [(book.counts, book.order_counts)]
