"""Books are equal to the oracle's after every message: levels, queues, positions and both checksum rules."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfix_md._book import L2Book, crc_uses_clmul
from kfix_md._book_l3 import L3Book
from kfix_md._entry import ENTRY_DTYPE
from tests.conftest import ROOT
from tests.core.convert import depth_units, id_bits, records, units
from tests.oracle import BOOK_SIDES, Entry, Follower
from tests.oracle import L2Book as PlainL2
from tests.oracle import L3Book as PlainL3
from tests.padding import assert_equal_bytes
from tests.streams import SERVICES, generate

CORE = {"L2": L2Book, "L3": L3Book}


def same_levels(core, plain, n=None) -> None:
    """depth(), counts and top() agree with the oracle."""
    limit = n or 1 << 30
    for i, mine in enumerate(core.depth(n, price="int")):
        assert [tuple(level) for level in mine.tolist()] == depth_units(plain, str(i), limit)
    assert core.counts == (len(plain.prices("0")), len(plain.prices("1")))
    want = [depth_units(plain, side, 1) for side in BOOK_SIDES]
    assert core.top() == tuple(part for level in want for part in (level[0][:2] if level else (None, None)))


def same_queues(core, plain, levels=3) -> None:
    """Queue order and positions of the orders at the best levels agree with the oracle."""
    for side in BOOK_SIDES:
        for price in plain.best(side, levels):
            wanted = plain.queue(side, price)
            row = core.queue(int(side), units(price, plain.price_precision))
            assert [(int(o["qty"]), int(o["queue_ns"])) for o in row] == [
                (units(order.qty, plain.qty_precision), order.queue_ns) for _, order in wanted
            ]
            for order_id, order in wanted:
                bits = id_bits(Entry(side, "0", order.price, order.qty, order_id, 0, 0, 0, 0))
                place, ahead = plain.position(order_id)
                assert core.position(*bits) == (place, units(ahead, plain.qty_precision))


class Pair:
    """A core book led along the oracle's, message by message."""

    def __init__(self, every: int = 1) -> None:
        self.every, self.seen, self.books = every, 0, {}

    def __call__(self, message, plain) -> None:
        if plain is None:
            return
        self.seen += 1
        if message.type == "W":
            self.books[message.symbol] = CORE[plain.level](plain.price_precision, plain.qty_precision)
        core = self.books[message.symbol]
        core.apply(records(message.entries, plain))
        rule = "order" if plain.level == "L3" else "level"
        if message.crc is not None:
            assert core.crc(rule) == message.crc, message.seq
        if self.seen % self.every == 0:
            same_levels(core, plain)
            other = "level" if rule == "order" else "order"
            assert core.crc(other) == plain.checksum(other) or plain.level == "L2"
            if plain.level == "L3":
                same_queues(core, plain)


@pytest.mark.parametrize("service", SERVICES)
def test_generated_streams_book_by_book(service):
    pair = Pair()
    Follower(pair).feed(generate(service, messages=500, depth=15, symbols=3, seed=11).data)
    assert pair.seen > 500


@pytest.mark.parametrize("name", ["spot-l2", "derivatives-l2"])
def test_real_l2_streams_book_by_book(name, capture):
    pair = Pair(every=25)
    seen = Follower(pair).feed(capture(name))
    assert pair.seen > 2000
    for symbol, plain in seen.books.items():
        same_levels(pair.books[symbol], plain)


def test_real_l3_stream_book_by_book(capture, l3_oracle):
    core = L3Book(2, 0)
    for at, message in enumerate(l3_oracle.messages):
        if message.type == "W":
            core.clear()
        core.apply(records(message.entries, l3_oracle.book))
        if message.crc is not None:
            assert core.crc("order") == message.crc, at
    same_levels(core, l3_oracle.book)
    same_queues(core, l3_oracle.book, levels=50)
    bids = sum(order.side == "0" for order in l3_oracle.book.orders.values())
    assert core.order_counts == (bids, len(l3_oracle.book.orders) - bids)


@pytest.mark.parametrize("levels", [1, 9, 10, 11, 1000])
def test_every_depth_of_book(levels):
    plain, core = PlainL2(1, 8), L2Book(1, 8)
    rng = np.random.default_rng(levels)
    for side, sign in (("0", -1), ("1", 1)):
        for i in rng.permutation(levels):
            price, qty = Decimal(100_000 + sign * (int(i) + 1)) / 10, Decimal(int(i) + 1)
            entry = Entry(side, "0", price, qty, "", 0, 0, 0, 0)
            plain.apply(entry)
            core.apply(records([entry], plain))
            assert core.crc("level") == plain.checksum("level")
    same_levels(core, plain)
    for n in (1, 5, 10, 25, 2000):
        same_levels(core, plain, n)


@pytest.mark.parametrize("span", [12, 40, 150, 600])
def test_levels_are_found_at_every_distance_from_the_best(span):
    core, plain, rng = L2Book(0, 0), ({}, {}), np.random.default_rng(span)
    worst = (np.iinfo(np.int64).min, np.iinfo(np.int64).max)  # what is in front of the first price, too
    for _ in range(3000):
        side = int(rng.integers(2))
        row = np.zeros(1, ENTRY_DTYPE)
        row["side"], row["action"], row["qty"] = side, rng.choice([0, 1, 2]), rng.integers(0, 5)
        row["price"] = worst[side] if rng.random() < 0.01 else rng.integers(span)
        core.apply(row)
        if row["action"][0] == 2 or row["qty"][0] == 0:
            plain[side].pop(int(row["price"][0]), None)
        else:
            plain[side][int(row["price"][0])] = int(row["qty"][0])
        levels = core.depth(None, price="int")[side]
        assert list(zip(levels["price"].tolist(), levels["qty"].tolist(), strict=True)) == sorted(
            plain[side].items(), reverse=side == 0
        )


@pytest.mark.parametrize("width", [11, 14, 40])
def test_checksum_after_any_number_of_changes_around_the_tenth_level(width):
    core, plain, rng = L2Book(0, 0), ({}, {}), np.random.default_rng(width)
    for _ in range(4000):
        rows = np.zeros(rng.choice([1, 1, 1, 2, 5]), ENTRY_DTYPE)
        for row in rows:
            price = int(rng.integers(1, width))
            row["side"], row["price"], row["qty"] = rng.integers(2), price, 10 ** rng.integers(0, 15)
            side = plain[row["side"]]
            if price in side and rng.random() < 0.4:
                row["action"] = 2
                del side[price]
            else:
                row["action"] = price in side
                side[price] = int(row["qty"])
        core.apply(rows)
        best = sorted(plain[1].items())[:10] + sorted(plain[0].items(), reverse=True)[:10]
        assert core.crc("level") == zlib.crc32("".join(f"{price}{qty}" for price, qty in best).encode())
    assert core.unknown == core.repeated == 0


def entry_strategy(l3: bool):
    """Entries that meet often: few prices, few ids, both sides."""
    ids = st.integers(0, 12).map(lambda i: f"{i:08x}-0000-0000-0000-{i:012x}" if l3 else "")
    return st.builds(
        Entry,
        side=st.sampled_from("01"),
        action=st.sampled_from("0012"),
        price=st.integers(1, 14).map(Decimal),
        qty=st.integers(0, 10**12).map(lambda q: Decimal(q).scaleb(-3)),
        id=ids,
        event_ns=st.just(0),
        queue_ns=st.integers(1, 4) if l3 else st.just(0),
        ord_type=st.just(0),
        aggressor=st.just(0),
    )


@pytest.mark.parametrize("level", ["L2", "L3"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_run_of_entries_gives_the_oracles_book(level, data):
    plain = (PlainL3 if level == "L3" else PlainL2)(0, 3)
    core = CORE[level](0, 3)
    for message in data.draw(st.lists(st.lists(entry_strategy(level == "L3"), max_size=6), max_size=25)):
        for entry in message:
            plain.apply(entry)
        core.apply(records(message, plain))
        for rule in ("level", "order") if level == "L3" else ("level",):
            assert core.crc(rule) == plain.checksum(rule)
        same_levels(core, plain)
        if level == "L3":
            same_queues(core, plain, levels=99)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(1, 2**62), st.integers(1, 2**62), min_size=1, max_size=12))
def test_checksum_of_numbers_of_any_length(levels):
    plain, core = PlainL2(0, 0), L2Book(0, 0)
    entries = [
        Entry("01"[i % 2], "0", Decimal(price), Decimal(qty), "", 0, 0, 0, 0)
        for i, (price, qty) in enumerate(levels.items())
    ]
    for entry in entries:
        plain.apply(entry)
    core.apply(records(entries, plain))
    assert core.crc("level") == plain.checksum("level")


def test_equal_levels_have_equal_bytes():
    book = L2Book(1, 8)
    entries = np.zeros(4, ENTRY_DTYPE)
    entries["price"], entries["qty"] = [5, 6, 7, 8], 1
    book.apply(entries)
    for price in ("float", "int"):
        assert_equal_bytes(lambda price=price: book.depth(price=price)[0])


def test_growth_of_orders_keeps_the_book():
    plain, core = PlainL3(0, 0), L3Book(0, 0)
    rng = np.random.default_rng(3)
    live: list[tuple[str, str, int]] = []
    for i in range(4000):
        if live and rng.random() < 0.3:
            side, order_id, price = live.pop(int(rng.integers(len(live))))
            entry = Entry(side, "2", Decimal(price), Decimal(0), order_id, 0, 0, 0, 0)
        else:
            side, price = "01"[i % 2], int(rng.integers(1, 60)) + 100 * (i % 2)
            order_id = f"{i:08x}-0000-0000-0000-{i * 7919:012x}"
            live.append((side, order_id, price))
            entry = Entry(side, "0", Decimal(price), Decimal(i + 1), order_id, 0, i + 1, 0, 0)
        plain.apply(entry)
        core.apply(records([entry], plain))
        if i % 50 == 0:
            assert core.crc("order") == plain.checksum("order")
    same_levels(core, plain)
    same_queues(core, plain, levels=60)
    assert sum(core.order_counts) == len(plain.orders) == len(live)


def test_both_ways_of_computing_the_checksum():
    """The table-driven path gives what carry-less multiplication gives: the other path runs in a child."""
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from kfix_md._book import crc_uses_clmul\n"
        "from tests.core.test_book import test_generated_streams_book_by_book as check\n"
        "assert not crc_uses_clmul()\n"
        "for service in ('spot-l2', 'derivatives-l3'): check(service)\n"
        "print('equal')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "KFIX_SIMD": "scalar"},
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr
    assert isinstance(crc_uses_clmul(), bool)


@pytest.mark.parametrize("level", ["L2", "L3"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_snapshot_in_any_order_opens_the_oracles_book(level, data):
    """Best first, as snapshots come, or with some entries out of place, repeated, or without quantity."""
    entries = data.draw(st.lists(entry_strategy(level == "L3"), max_size=60))
    for i, entry in enumerate(entries):
        entry.action, entry.id = "0", entry.id and f"{i:08x}-0000-0000-0000-{i:012x}"
        entry.qty = entry.qty or Decimal(1)
    if level == "L2":
        entries = list({(entry.side, entry.price): entry for entry in entries}.values())
    entries.sort(key=lambda entry: entry.price * (1 if entry.side == "1" else -1))
    for a, b in data.draw(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=2)):
        if max(a, b) < len(entries):
            entries[a], entries[b] = entries[b], entries[a]
    if entries and data.draw(st.booleans()):
        entries.append(Entry("0", "0", Decimal(7), Decimal(0), entries[0].id, 0, 0, 0, 0))
    plain = (PlainL3 if level == "L3" else PlainL2)(0, 3)
    core = CORE[level](0, 3, levels=data.draw(st.sampled_from([16, 64])))
    for again in range(2):
        plain.clear()
        core.clear()
        for entry in entries:
            plain.apply(entry)
        core.apply(records(entries, plain))
        same_levels(core, plain)
        assert core.crc("level") == plain.checksum("level"), again
        if level == "L3":
            same_queues(core, plain, levels=99)
            assert core.crc("order") == plain.checksum("order")


def test_orders_are_found_while_the_table_of_ids_is_nearly_full():
    """At four fifths of its places, most orders are not at their home, and some so far from it that the table does not
    say how far: orders go and others come at every fill, and each is found where it is."""
    rng = np.random.default_rng(7)
    full = 6552  # orders that a snapshot of 5,242 has room for, in a table of 8,192
    entries = np.zeros(3 * full, ENTRY_DTYPE)
    entries["id_lo"], entries["id_hi"] = np.arange(len(entries)) + 1, 7
    entries["id_kind"], entries["qty"], entries["queue_ns"] = 1, 1, 1
    entries["price"] = np.arange(len(entries)) // 3 + 10
    book, there = L3Book(1, 0), set(range(5242))
    book.apply(entries[:5242])
    for first in range(5242, len(entries), full - 5242):
        fresh = np.arange(first, min(first + full - 5242, len(entries)))
        book.apply(entries[fresh])
        there |= set(fresh.tolist())
        gone = rng.permutation(sorted(there))[: len(fresh)]
        deletes = entries[gone]
        deletes["action"] = 2
        book.apply(deletes)
        there -= set(gone.tolist())
        assert book.order_counts == (len(there), 0) and book.unknown == 0
        for order in rng.permutation(sorted(there))[:200].tolist():
            assert book.position(7, order + 1, 1)[0] <= order % 3
        for order in gone[:200].tolist():
            with pytest.raises(KeyError):
                book.position(7, order + 1, 1)
    for order in there:
        book.position(7, order + 1, 1)


@pytest.mark.parametrize("kind", [L2Book, L3Book])
def test_a_side_that_is_none_is_refused_whole(kind):
    entries = np.zeros(2, ENTRY_DTYPE)
    entries["qty"], entries["price"] = 1, (10, 11)
    entries["side"][1] = 7
    book = kind(1, 1)
    with pytest.raises(ValueError, match="side"):
        book.apply(entries)
    assert book.counts == (0, 0)
