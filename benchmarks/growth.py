"""Growth: what a message costs with more symbols, more levels and more resting orders, and what orders weigh."""

from __future__ import annotations

import tracemalloc

import numpy as np

from benchmarks import books, build
from benchmarks.race import Race, Row
from kfix_md import Handler
from kfix_md._book_l3 import L3Book
from kfix_md._entry import ENTRY_DTYPE, Action, IdKind
from tests.streams import generate

PER_LEVEL = 20  # orders, so that more orders are more levels too


def incrementals(symbols: int, depth: int, messages: int, service: str = "spot-l2") -> tuple[bytes, bytes]:
    """A stream cut after its snapshots: what opens the books, what is timed."""
    warm = 4 * symbols  # updates, so that every level's checksum has been computed once
    frames = generate(
        service,
        symbols=symbols,
        depth=depth,
        messages=messages + warm,
        max_entries=3,
        empties=False,
        admin=False,
        logout=False,
    ).frames
    return b"".join(frames[:-messages]), b"".join(frames[-messages:])


def opened(opening: bytes) -> Handler:
    """A handler whose books hold their snapshots."""
    handler = Handler()
    handler.on_bytes(opening)
    return handler


def race_of(group: str, cases: dict[str, tuple[bytes, bytes]], messages: int, rounds: int) -> list[Row]:
    """Each case over the same number of messages; ratios to the first."""
    race = Race(group, messages, calls=4)
    for name, (opening, updates) in cases.items():
        race.add(
            name,
            lambda handler, updates=updates: handler.on_bytes(updates),
            prepare=lambda opening=opening: opened(opening),
        )
    return against_first(race.rows(rounds), 1.3)


def against_first(rows: list[Row], goal: float) -> list[Row]:
    """How much more than the first case each costs."""
    for row in rows[1:]:
        row.ratio, row.of, row.goal = row.value / rows[0].value, rows[0].name, f"<= {goal:g} x"
        row.met = row.ratio <= goal
    return rows


def order_rows(n: int, levels: int, rng: np.random.Generator, first_id: int, action: Action) -> np.ndarray:
    """`n` orders spread over both sides, most of them near the best price, ids never met before."""
    rows = np.zeros(n, ENTRY_DTYPE)
    rows["side"] = rng.integers(0, 2, n)
    distance = np.minimum(rng.exponential(levels / 4, n).astype(np.int64), levels - 1)
    rows["price"] = np.where(rows["side"] == 1, 1_000_001 + distance, 1_000_000 - distance)
    rows["qty"] = rng.integers(1, 10_000, n)
    ids = np.arange(first_id, first_id + n, dtype=np.uint64)
    rows["id_lo"], rows["id_hi"] = ids * np.uint64(0x9E3779B97F4A7C15), ids
    rows["id_kind"], rows["action"] = IdKind.UUID, action
    rows["queue_ns"] = np.arange(first_id + 1, first_id + n + 1)
    return rows


def order_flow(resting: int, messages: int) -> tuple[np.ndarray, np.ndarray]:
    """A book of resting orders, and messages that each remove one of the best and add another there.

    Orders come and go near the best price; the rest of the book rests.
    """
    rng = np.random.default_rng(resting)
    levels = resting // PER_LEVEL
    near = 2 * messages // PER_LEVEL
    opening = order_rows(resting, levels, rng, 1, Action.NEW)
    added = order_rows(messages, near, rng, resting + 1, Action.NEW)
    best = np.argsort(np.abs(opening["price"] - 1_000_000), kind="stable")[: max(2 * messages, 1)]
    gone = opening[rng.permutation(best)[:messages]].copy()
    gone["action"], gone["qty"] = Action.DELETE, 0
    updates = np.empty(2 * messages, ENTRY_DTYPE)
    updates[0::2], updates[1::2] = gone, added
    return opening, updates


def orders(rounds: int, quick: bool) -> list[Row]:
    """L3 books with more and more orders; a message removes one and adds another.

    The plain C++ book next to it shows what the caches of the machine make of as much memory.
    """
    sizes = (1_000, 10_000, 100_000) if quick else (1_000, 10_000, 100_000, 1_000_000)
    messages, updates_of = 1_000, build.driver().Updates
    race = Race("growth, resting orders of an L3 book", messages, calls=4)
    ends = np.arange(2, 2 * messages + 1, 2, dtype=np.int64)
    for size in sizes:
        opening, updates = order_flow(size, messages)

        def prepare(opening=opening):
            book = L3Book(1, 0)
            book.apply(opening)
            return book

        kept = updates_of(updates, ends)
        race.add(f"{size:,} orders", lambda book, kept=kept: kept.run(book, False), prepare=prepare)
        seen = books.Flow("L3", opening, updates, ends, (1, 0))
        if native := books.flat(seen, with_crc=False):
            race.add(f"{books.FLAT}, {size:,} orders", native[1], prepare=native[0])
    rows = {row.name: row for row in race.rows(rounds)}
    for size in sizes:
        goal = np.log2(size) / np.log2(sizes[0])
        first, row = rows[f"{sizes[0]:,} orders"], rows[f"{size:,} orders"]
        row.ratio, row.of, row.goal = row.value / first.value, first.name, f"<= {goal:.2f} x"
        row.met = bool(row.ratio <= goal)
    return [*rows.values(), weight()]


def weight() -> Row:
    """Memory of an L3 book with 10,000 orders."""
    opening, _ = order_flow(10_000, 1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    book = L3Book(1, 0)
    book.apply(opening)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert sum(book.order_counts) == 10_000
    return Row(
        "growth, resting orders of an L3 book",
        "memory of 10,000 orders",
        taken / 1e6,
        "MB",
        goal="<= 2 MB",
        met=taken <= 2e6,
    )


def run(rounds: int, quick: bool) -> list[Row]:
    """Symbols, levels and orders."""
    n = 3_000 if quick else 10_000
    symbols = {f"{count} symbols": incrementals(count, 10, n) for count in (1, 10, 100, 1000)}
    levels = {f"{depth} levels a side": incrementals(1, depth, n) for depth in (10, 100, 1000)}
    return (
        race_of("growth, symbols", symbols, n, rounds)
        + race_of("growth, levels", levels, n, rounds)
        + orders(rounds, quick)
    )
