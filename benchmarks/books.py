"""Books: applying entries message by message, without and with 5041, against other books on the same entries."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from benchmarks import build
from benchmarks.race import Race, Row, absent, compare
from benchmarks.rivals_hftbacktest import hftbacktest
from benchmarks.workload import Workload
from kfix_md._book import L2Book
from kfix_md._book_l3 import L3Book
from kfix_md._entry import ENTRY_DTYPE, Action

OURS, FLAT = "kfix-md", "plain C++ flat arrays"
SLOW = 1_000  # messages for the rivals in Python
GOALS = {  # (level, with CRC): how many times slower a rival is to be
    ("L2", False): {"order-book": 30, "SortedDict": 30, "nautilus_trader from Python": 6},
    ("L2", True): {"order-book": 45, "SortedDict": 80},
    ("L3", False): {"order-book": 35, "SortedDict": 55, "nautilus_trader from Python": 3},
    ("L3", True): {"order-book": 35, "SortedDict": 55},
}


@dataclass
class Flow:
    """Entries of one symbol: the opening snapshot, then updates with `ends` of their messages."""

    level: str
    opening: np.ndarray
    updates: np.ndarray
    ends: np.ndarray
    precisions: tuple[int, int]

    @property
    def messages(self) -> int:
        return len(self.ends)

    def some(self, messages: int) -> Flow:
        """The first messages of it."""
        ends = self.ends[:messages]
        return Flow(self.level, self.opening, self.updates[: int(ends[-1])], ends, self.precisions)

    def by_message(self) -> list[list[tuple]]:
        """Updates as plain tuples (side, action, price, qty, id, queue_ns), for books in Python."""
        rows = tuples(self.updates)
        return [rows[first:last] for first, last in zip([0, *self.ends[:-1].tolist()], self.ends.tolist(), strict=True)]


def tuples(entries: np.ndarray) -> list[tuple]:
    """(side, action, price, qty, id, queue_ns) of each entry, ints."""
    ids = (entries["id_hi"].astype(object) << 64) | entries["id_lo"].astype(object)
    columns = [entries[name].tolist() for name in ("side", "action", "price", "qty")]
    return list(zip(*columns, ids.tolist(), entries["queue_ns"].tolist(), strict=True))


def flow(work: Workload) -> Flow:
    """The busiest symbol of a stream, from its first snapshot on."""
    ticks = work.ticks[work.ticks["instrument"] == work.handler.symbols.index(work.busiest)]
    opening = ticks["seq"] == ticks["seq"][0]
    entries = np.zeros(len(ticks), ENTRY_DTYPE)
    for name in ENTRY_DTYPE.names:
        entries[name] = ticks["entry_flags" if name == "flags" else name]
    book = (ticks["side"] != 2) & (ticks["action"] != Action.CLEAR)
    seqs = ticks["seq"][book & ~opening]
    ends = np.append(np.nonzero(np.diff(seqs))[0] + 1, len(seqs)).astype(np.int64)
    first = entries[book & opening]
    first = first[np.argsort(first["queue_ns"], kind="stable")]  # rivals know no order but that of arrival
    return Flow(work.level, first, np.ascontiguousarray(entries[book & ~opening]), ends, work.precisions[work.busiest])


# ---- rivals: each makes a book that holds the opening and runs the updates over it ----


def ours(seen: Flow, with_crc: bool) -> tuple[Callable, Callable]:
    updates = build.driver().Updates(seen.updates, seen.ends)

    def prepare():
        book = (L3Book if seen.level == "L3" else L2Book)(*seen.precisions)
        book.apply(seen.opening)
        return book

    return prepare, lambda book: updates.run(book, with_crc)


def flat(seen: Flow, with_crc: bool) -> tuple[Callable, Callable] | None:
    """The C++ book keeps its state between calls: the opening alone is untimed, the updates are timed."""
    library = build.library("reference")
    if library is None:
        return None
    library.reference_book_open.restype = library.reference_book_run.restype = ctypes.c_uint64
    level = 3 if seen.level == "L3" else 2

    def pointer(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    updates = level, pointer(seen.updates), pointer(seen.ends), ctypes.c_int64(seen.messages), int(with_crc)

    def prepare():
        library.reference_book_open(level, pointer(seen.opening), ctypes.c_int64(len(seen.opening)))

    def run(_) -> int:
        return library.reference_book_run(*updates)

    return prepare, run


def crc_text(levels: Iterator[tuple[int, list[int]]]) -> str:
    """Digits of price and quantities."""
    return "".join(f"{price}{qty}" for price, quantities in levels for qty in quantities)


def sorted_dict(seen: Flow, with_crc: bool) -> tuple[Callable, Callable]:
    """SortedDict from price to quantity (L2) or to a dict of orders (L3), bids under negative prices."""
    from sortedcontainers import SortedDict

    l3 = seen.level == "L3"

    def apply(sides, orders, rows) -> None:
        for side, action, price, qty, order_id, queue in rows:
            book, key = sides[side], price if side else -price
            if l3:
                old = orders.pop(order_id, None)
                if old == (side, key, queue) and action < 2:  # only less of it: the place is kept
                    sides[side][key][order_id] = qty
                    orders[order_id] = old
                    continue
                if old is not None:
                    level = sides[old[0]][old[1]]
                    del level[order_id]
                    if not level:
                        del sides[old[0]][old[1]]
                if action < 2:
                    book.setdefault(key, {})[order_id] = qty
                    orders[order_id] = side, key, queue
            elif action >= 2:
                book.pop(key, None)
            else:
                book[key] = qty

    def crc(sides) -> int:
        text = ""
        for side in (1, 0):
            best = sides[side].items()[:10]
            text += crc_text((abs(key), list(value.values()) if l3 else [value]) for key, value in best)
        return zlib.crc32(text.encode())

    opening, messages = tuples(seen.opening), seen.by_message()

    def prepare():
        state = (SortedDict(), SortedDict()), {}
        apply(*state, opening)
        return state

    def run(state) -> int:
        total = 0
        for rows in messages:
            apply(*state, rows)
            if with_crc:
                total += crc(state[0])
            else:
                bids, offers = state[0]
                total += (bids.keys()[0] if bids else 0) + (offers.keys()[0] if offers else 0)
        return total

    return prepare, run


def order_book(seen: Flow, with_crc: bool) -> tuple[Callable, Callable]:
    """order-book's OrderBook: quantities (L2) or dicts of orders (L3) by price; its own Kraken checksum on L2."""
    from order_book import OrderBook

    l3 = seen.level == "L3"
    price_precision, qty_precision = seen.precisions
    number = (lambda v, digits: Decimal(v).scaleb(-digits)) if with_crc and not l3 else (lambda v, digits: v)

    def convert(rows: list[tuple]) -> list[tuple]:
        return [
            (side, action, number(price, price_precision), number(qty, qty_precision), order_id, queue)
            for side, action, price, qty, order_id, queue in rows
        ]

    opening, messages = convert(tuples(seen.opening)), [convert(rows) for rows in seen.by_message()]

    def apply(book, orders, rows) -> None:
        sides = book.bids, book.asks
        for side, action, price, qty, order_id, queue in rows:
            levels = sides[side]
            if l3:
                old = orders.pop(order_id, None)
                if old == (side, price, queue) and action < 2:
                    sides[side][price][order_id] = qty
                    orders[order_id] = old
                    continue
                if old is not None:
                    level = sides[old[0]][old[1]]
                    del level[order_id]
                    if not level:
                        del sides[old[0]][old[1]]
                if action < 2:
                    if price in levels:
                        levels[price][order_id] = qty
                    else:
                        levels[price] = {order_id: qty}
                    orders[order_id] = side, price, queue
            elif action >= 2:
                if price in levels:
                    del levels[price]
            else:
                levels[price] = qty

    def crc_l3(book) -> int:
        text = ""
        for levels in (book.asks, book.bids):
            text += crc_text((price, list(levels[price].values())) for price in levels.keys()[:10])
        return zlib.crc32(text.encode())

    def prepare():
        state = OrderBook(checksum_format="KRAKEN") if with_crc and not l3 else OrderBook(), {}
        apply(*state, opening)
        return state

    def run(state) -> int:
        total = 0
        for rows in messages:
            apply(*state, rows)
            if with_crc:
                total += crc_l3(state[0]) if l3 else state[0].checksum()
            else:
                book = state[0]
                total += (len(book.bids) and book.bids.index(0)[0]) + (len(book.asks) and book.asks.index(0)[0])
        return total

    return prepare, run


def nautilus(seen: Flow, with_crc: bool) -> tuple[Callable, Callable]:
    """nautilus_trader's OrderBook (Rust) through its Python bindings: a call a message, deltas made before."""
    from nautilus_trader.core import nautilus_pyo3 as core

    if with_crc:
        raise ImportError("it has no checksum")
    instrument = core.InstrumentId.from_str("X.KRAKEN")
    kind = core.BookType.L3_MBO if seen.level == "L3" else core.BookType.L2_MBP
    actions = core.BookAction.ADD, core.BookAction.UPDATE, core.BookAction.DELETE, core.BookAction.DELETE
    sides = core.OrderSide.BUY, core.OrderSide.SELL

    def deltas(rows: list[tuple]):
        made = [
            core.OrderBookDelta(
                instrument,
                actions[action],
                core.BookOrder(
                    sides[side],
                    core.Price(float(price % 10**13), 0),
                    core.Quantity(float(max(qty % 10**9, 1)), 0),
                    order_id & (2**63 - 1) if seen.level == "L3" else price,
                ),
                0,
                i,
                0,
                0,
            )
            for i, (side, action, price, qty, order_id, _) in enumerate(rows)
        ]
        return core.OrderBookDeltas(instrument, made)

    opening, messages = deltas(tuples(seen.opening)), [deltas(rows) for rows in seen.by_message()]

    def prepare():
        book = core.OrderBook(instrument, kind)
        book.apply_deltas(opening)
        return book

    def run(book) -> None:
        for message in messages:
            book.apply_deltas(message)
            book.best_bid_price()
            book.best_ask_price()

    return prepare, run


RIVALS = {
    "order-book": order_book,
    "SortedDict": sorted_dict,
    "nautilus_trader from Python": nautilus,
    "hftbacktest's loop": hftbacktest,
}


def run(work: Workload, rounds: int) -> list[Row]:
    """The rows of one stream, without and with the checksum."""
    whole = flow(work)
    return [row for with_crc in (False, True) for row in one(work.name, whole, with_crc, rounds)]


def one(name: str, seen: Flow, with_crc: bool, rounds: int) -> list[Row]:
    """One race. All that compute a checksum must come to the same sum."""
    group, missing, sums = f"{seen.level} book {'with' if with_crc else 'without'} CRC, {name}", [], {}
    race, few = Race(group, seen.messages), seen.some(min(SLOW, seen.messages))
    prepare, runner = ours(seen, with_crc)
    race.add(OURS, runner, prepare=prepare)
    if native := flat(seen, with_crc):
        race.add(FLAT, native[1], prepare=native[0])
        sums[FLAT] = (native[0](), native[1](None))[1], runner(prepare())
    else:
        missing.append(absent(group, FLAT, "no C++ compiler found"))
    short_prepare, short = ours(few, with_crc)
    for rival, make in RIVALS.items():
        try:
            rival_prepare, rival_run = make(few, with_crc)
            sums[rival] = rival_run(rival_prepare()), short(short_prepare())
            race.add(rival, rival_run, few.messages, rival_prepare)
        except ImportError as error:
            missing.append(absent(group, rival, str(error)))
    if with_crc:
        assert all(theirs == mine for theirs, mine in sums.values()), sums
    rows = race.rows(rounds)
    compare(rows, OURS, FLAT, 1.25, at_most=True)
    for rival, times in GOALS[seen.level, with_crc].items():
        compare(rows, OURS, rival, times, at_most=False)
    return rows + missing
