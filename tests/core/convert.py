"""Converts the oracle's Decimal entries to the core's integer records."""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from kfix_md._entry import ENTRY_DTYPE, TICK_DTYPE, Action, IdKind
from tests.oracle import BOOK_SIDES, Book, Entry, Follower, Message
from tests.oracle.follow import EXACT, names_its_price


def units(value: Decimal, precision: int) -> int:
    """A number in units of 10**-precision; it must be a whole one."""
    scaled = value.scaleb(precision, context=EXACT)
    assert scaled == int(scaled), (value, precision)
    return int(scaled)


def id_bits(entry: Entry) -> tuple[int, int, int]:
    """(hi, lo, kind) of an order id, by the packing that _entry.pxd describes."""
    text = entry.id
    if not text or (entry.side in BOOK_SIDES and names_its_price(entry)):
        return 0, 0, IdKind.NONE
    bare = text.replace("-", "")
    if len(text) == 36 and [len(part) for part in text.split("-")] == [8, 4, 4, 4, 12]:
        return int(bare[:16], 16), int(bare[16:], 16), IdKind.UUID
    if len(text) == 19 and text[0] == "O" and [len(part) for part in text.split("-")] == [6, 5, 6]:
        return int(bare[1:9], 36), int(bare[9:], 36), IdKind.KRAKEN
    if len(text) <= 16:
        padded = text.encode().ljust(16, b"\0")
        return int.from_bytes(padded[:8]), int.from_bytes(padded[8:]), IdKind.TEXT
    return 0, 0, IdKind.TABLE


def action_of(entry: Entry) -> Action:
    """279, with the two meanings of 2 as two actions."""
    if entry.action == "2":
        return Action.LEAVE if entry.qty else Action.DELETE
    return Action(int(entry.action))


def record(entry: Entry, price_precision: int, qty_precision: int) -> tuple:
    """One entry as a row of ENTRY_DTYPE (instrument 0, no flags)."""
    hi, lo, kind = id_bits(entry)
    return (
        units(entry.price, price_precision),
        units(entry.qty, qty_precision),
        hi,
        lo,
        entry.event_ns,
        entry.queue_ns,
        0,
        int(entry.side),
        action_of(entry),
        kind,
        0,
        entry.ord_type,
        entry.aggressor,
        decimals_of(entry.price) | decimals_of(entry.qty) << 8,
        0,
    )


def decimals_of(value: Decimal) -> int:
    """Digits after the point of a number as it was written."""
    return max(0, -int(value.as_tuple().exponent))


def records(entries: list[Entry], book: Book) -> np.ndarray:
    """Entries of one message as an array of ENTRY_DTYPE in the book's precisions."""
    rows = [record(entry, book.price_precision, book.qty_precision) for entry in entries]
    return np.array(rows, dtype=ENTRY_DTYPE)


def depth_units(book: Book, side: str, n: int = 1 << 30) -> list[tuple[int, int, int]]:
    """The oracle's levels as the core's integers, best first."""
    return [
        (units(price, book.price_precision), units(qty, book.qty_precision), orders)
        for price, qty, orders in book.depth(side, n)
    ]


def expected_ticks(follower: Follower, symbols: tuple[str, ...]) -> np.ndarray:
    """What Handler.ticks() gives for a clean stream: entries, and a CLEAR before those of a snapshot.

    Flags and receive times are left 0: the oracle does not know them.
    """
    rows = []
    for message, at, entry in follower.entries:
        if message.type == "W" and at == 0:
            rows.append(tick(message, 0, (0,) * 8 + (Action.CLEAR,) + (0,) * 6, symbols))
        rows.append(tick(message, at, record(entry, *follower.precisions[message.symbol]), symbols))
    return np.array(rows, dtype=TICK_DTYPE)


def tick(message: Message, entry_no: int, entry: tuple, symbols: tuple[str, ...]) -> tuple:
    """One row of TICK_DTYPE."""
    entry = (*entry[:6], symbols.index(message.symbol), *entry[7:])
    return (*entry, 0, message.sending_ns, message.seq, entry_no, message.crc or 0, 0, 0, 0)
