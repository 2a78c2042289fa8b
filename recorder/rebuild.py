"""Hides how a book of the past is put together: a checkpoint or snapshot, then every message behind it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kfix_md import trading_day
from kfix_md._book import Book, L2Book
from kfix_md._book_l3 import L3Book
from kfix_md._codec import id_key, id_text
from recorder import files, schema
from recorder._ticks import book_rows
from recorder.schema import Flags

_COLUMNS = ["recv_ns", "session", "seq", "level", "side", "action", "flags", "price", "qty", "price_scale", "qty_scale"]
_ORDER_COLUMNS = [*_COLUMNS, "event_ns", "queue_ns", "order_id", "id_kind", "order_text"]  # levels have none of these
_DAYS_BACK = 2  # sessions restart at every rollover; more only when one was kept through it


def new_book(level: int, price_scale: int, qty_scale: int) -> Book:
    """An empty book."""
    return (L3Book if level == 3 else L2Book)(price_scale, qty_scale)


@dataclass
class BookAt:
    """A book as it was at a time. `trusted` says whether it is proven, `reason` why it is not.

    bids and asks: structured arrays price, qty, orders (as of live books), best first.
    """

    symbol: str
    level: str
    at_ns: int
    recv_ns: int  # of the last message in it
    session: int
    seq: int
    trusted: bool
    reason: str
    book: Book | None = field(repr=False)
    depth: int = 10

    @property
    def bids(self) -> np.ndarray:
        return self._side(0)

    @property
    def asks(self) -> np.ndarray:
        return self._side(1)

    def _side(self, side: int) -> np.ndarray:
        book = self.book if self.book is not None else L2Book(0, 0)
        return book.depth(self.depth)[side]

    def top(self) -> tuple:
        """(bid, bid quantity, ask, ask quantity) as exact ints in the book's scales; None for a missing side."""
        return self.book.top() if self.book is not None else (None, None, None, None)

    def orders(self) -> pa.Table:
        """L3: every resting order, bids then asks, best first, in queue order: side, price, qty, order_id, ahead.

        `ahead` is the quantity in front of the order at its price, as an int in the book's quantity scale.
        """
        rows = book_rows(self.book) if self.book is not None and self.book.level == 3 else np.zeros(0, "V64")
        if not len(rows):
            return pa.table(
                {
                    n: pa.array([], t)
                    for n, t in (
                        ("side", pa.string()),
                        ("price", pa.int64()),
                        ("qty", pa.int64()),
                        ("order_id", pa.string()),
                        ("ahead", pa.int64()),
                    )
                }
            )
        total = np.cumsum(rows["qty"]) - rows["qty"]
        starts = np.flatnonzero(np.r_[True, (np.diff(rows["price"]) != 0) | (np.diff(rows["side"].astype(int)) != 0)])
        ahead = total - np.repeat(total[starts], np.diff(np.r_[starts, len(rows)]))
        ids = [
            id_text(*key)
            for key in zip(rows["id_kind"].tolist(), rows["id_hi"].tolist(), rows["id_lo"].tolist(), strict=True)
        ]
        return pa.table(
            {
                "side": [schema.SIDES[s] for s in rows["side"]],
                "price": rows["price"],
                "qty": rows["qty"],
                "order_id": ids,
                "ahead": ahead,
            }
        )

    def queue_position(self, order_id: str) -> tuple[int, int] | None:
        """L3: (orders ahead, quantity ahead) of a resting order at its price; None when it does not rest."""
        rows = book_rows(self.book) if self.book is not None else np.zeros(0, "V64")
        kind, hi, lo = id_key(order_id)
        if not len(rows):
            return None
        at = np.flatnonzero((rows["id_hi"] == hi) & (rows["id_lo"] == lo) & (rows["id_kind"] == kind))
        if not len(at):
            return None
        one = rows[at[0]]
        before = rows[: at[0]]
        before = before[(before["price"] == one["price"]) & (before["side"] == one["side"])]
        return len(before), int(before["qty"].sum())


class Rebuilder:
    """Finds and applies what makes a book; owned by a catalog."""

    def __init__(self, found: files.Files):
        self.files = found

    def book(self, symbol: str, level: str | None, at: int, session: int | None = None) -> tuple[Book | None, dict]:
        """The book behind the last message received up to `at`, and what is known of it:
        recv_ns, session, seq, level, flags and the reason it is None."""
        day = trading_day.session_date(at)
        for back in range(_DAYS_BACK + 1):
            start = trading_day.session_bounds(day)[0] - back * trading_day.DAY_NS
            book, told = self._search(symbol, level, start, at, session)
            if book is not None or (told["seen"] and session is None and back):
                return book, told
        return book, told

    def _search(self, symbol: str, level: str | None, start: int, at: int, session: int | None) -> tuple:
        point = self._checkpoint(symbol, level, start, at, session)
        since = point["recv_ns"] if point else start
        rows = self._rows(symbol, level, since, at, session)
        told: dict[str, Any] = {"recv_ns": 0, "session": 0, "seq": 0, "level": level or "L2", "flags": 0, "seen": False}
        if rows.num_rows:
            final = rows.num_rows - 1
            told |= {k: rows[k][final].as_py() for k in ("recv_ns", "session", "seq", "level", "flags")}
            told["seen"] = True
            rows = _kept(rows, rows["session"].to_numpy() == told["session"])
        elif point:
            told |= {k: point[k] for k in ("recv_ns", "session", "seq", "level")} | {"seen": True}
        if point and (point["session"] != told["session"] or point["level"] != told["level"]):
            point = None
        book, told["base_ns"] = self._apply(symbol, rows, point)
        return book, told

    def _rows(self, symbol: str, level: str | None, since: int, at: int, session: int | None) -> pa.Table:
        columns = _COLUMNS if level == "L2" else _ORDER_COLUMNS
        rows = files.table(
            "ticks", self.files.of("ticks", since, at + 1, [symbol]), columns, symbols=[symbol], start=since, end=at + 1
        )
        mask = schema._indices(rows["side"], schema.SIDES) != schema.SIDES.index("trade")
        if level:
            mask &= schema._indices(rows["level"], schema.LEVELS) == schema.LEVELS.index(level)
        if session is not None:
            mask &= rows["session"].to_numpy() == session
        return _kept(rows, mask)

    def _checkpoint(self, symbol: str, level: str | None, start: int, at: int, session: int | None) -> dict | None:
        """The latest checkpoint in [start, at]: its key and the file it is in."""
        where = None
        for name, value in (("level", level), ("session", session)):
            if value is not None:
                where = pc.field(name) == value if where is None else where & (pc.field(name) == value)
        for path in reversed(self.files.of("checkpoints", start, at + 1)):
            if not self.files.may_hold(path, [symbol], start, at + 1):
                continue
            keys = files.table(
                "checkpoints",
                [path],
                ["recv_ns", "session", "seq", "level"],
                where,
                symbols=[symbol],
                start=start,
                end=at + 1,
            )
            if keys.num_rows:
                best = int(np.argmax(keys["recv_ns"].to_numpy()))
                return {"path": path, "symbol": symbol} | {k: keys[k][best].as_py() for k in keys.column_names}
        return None

    def _apply(self, symbol: str, rows: pa.Table, point: dict | None) -> tuple[Book | None, int]:
        """The book, and when the snapshot or checkpoint it is made of was received."""
        actions = schema._indices(rows["action"], schema.ACTIONS)
        clears = np.flatnonzero(actions == schema.ACTIONS.index("clear"))
        if len(clears):
            rows, point = rows.slice(int(clears[-1])), None
        if point is None and not len(clears):
            return None, 0
        base_ns = point["recv_ns"] if point else rows["recv_ns"][0].as_py()
        if point is not None:
            book = self._load(symbol, point)
            rows = _kept(rows, rows["seq"].to_numpy() > point["seq"])
        else:
            book = new_book(
                3 if rows["level"][0].as_py() == "L3" else 2,
                rows["price_scale"][0].as_py(),
                rows["qty_scale"][0].as_py(),
            )
        if rows.num_rows:
            book.apply(schema.entries(rows))
        return book, base_ns

    def _load(self, symbol: str, point: dict) -> Book:
        where = (pc.field("seq") == point["seq"]) & (pc.field("session") == point["session"])
        path: Path = point["path"]
        rows = files.table(
            "checkpoints", [path], None, where, symbols=[symbol], start=point["recv_ns"], end=point["recv_ns"] + 1
        )
        scales = rows["price_scale"][0].as_py(), rows["qty_scale"][0].as_py()
        book = new_book(3 if point["level"] == "L3" else 2, *scales)
        rows = rows.filter(pc.is_valid(rows["side"]))
        if rows.num_rows:
            book.apply(schema.entries(rows))
        return book


def _kept(rows: pa.Table, mask: np.ndarray) -> pa.Table:
    """Rows where `mask` holds: mostly all or all behind some row, and no row is copied."""
    n = int(mask.sum())
    first = int(mask.argmax()) if n else 0
    return rows.slice(first, n) if mask[first : first + n].all() else rows.filter(pa.array(mask))


def doubt(flags: int) -> str:
    """Why the last message's flags leave the book unproven; "" when they do not."""
    if flags & Flags.CRC_CHECKED and not flags & Flags.CRC_OK:
        return "its last checksum (5041) did not match"
    if flags & Flags.MAYBE_BAD_BOOK:
        return "the feed did not trust it at its last message"
    return ""
