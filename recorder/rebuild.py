"""Rebuilds a book of the past: a checkpoint or snapshot, then every message after it."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.compute import Expression

from kfix_md import display, trading_day
from kfix_md._book import L2Book, OrderBook
from kfix_md._book_l3 import L3Book
from kfix_md._codec import id_key, id_text
from kfix_md.errors import UsageError
from recorder import _columns, _proof, files, schema
from recorder._ticks import book_rows
from recorder.compute import pc
from recorder.schema import Flags

_COLUMNS = [
    "recv_ns",
    "session",
    "seq",
    "level",
    "side",
    "action",
    "flags",
    "price",
    "qty",
    "price_scale",
    "qty_scale",
    "decimals",
    "crc",
]
_ORDER_COLUMNS = [*_COLUMNS, "event_ns", "queue_ns", "order_id", "id_kind", "order_text"]  # null for levels
_LIMIT_L2 = 1000  # levels a side of a subscription to all of L2 (264=0)
_PROVEN = Flags.HAS_CRC | Flags.CRC_CHECKED | Flags.CRC_OK
_DAYS_BACK = 2  # sessions restart at every rollover; more only when one was kept through it
_ORDERS = pa.schema(
    [
        ("side", pa.string()),
        ("price", pa.int64()),
        ("qty", pa.int64()),
        ("order_id", pa.string()),
        ("ahead", pa.int64()),
    ]
)


def new_book(level: int, price_scale: int, qty_scale: int, limit: int = 0) -> OrderBook:
    """An empty book of level 2 or 3 with at most `limit` levels a side, 0 for no limit."""
    return (L3Book if level == 3 else L2Book)(price_scale, qty_scale, limit=limit)


def number_of(level: str) -> int:
    """2 or 3, of "L2" or "L3"."""
    return 3 if level == "L3" else 2


def message_ends(rows: pa.Table) -> np.ndarray:
    """Exclusive end of each message in rows of one symbol: where session or MsgSeqNum changes."""
    return _columns.ends(rows["session"].to_numpy(), rows["seq"].to_numpy())


class WholeMessages:
    """Takes rows of one symbol as they come and gives them back such that no message is divided.

    Attributes
    ----------
    pending
        Rows of a message whose last one has not come.
    """

    def __init__(self) -> None:
        self.pending: pa.Table | None = None

    def add(self, rows: pa.Table) -> pa.Table | None:
        """The rows of whole messages among those that were pending and `rows`; None when there are none."""
        if not rows.num_rows:
            return None
        if self.pending is not None:
            rows, self.pending = pa.concat_tables([self.pending, rows]).unify_dictionaries(), None
        is_last = (rows["flags"].to_numpy() & Flags.LAST) != 0
        cut = rows.num_rows if is_last[-1] else rows.num_rows - int(is_last[::-1].argmax()) if is_last.any() else 0
        if cut < rows.num_rows:
            self.pending = rows.slice(cut)
        return rows.slice(0, cut) if cut else None


@dataclass(repr=False)
class BookAt:
    """A book as it was at a time, as `Captures.book` returns it.

    Attributes
    ----------
    symbol, level
        What the book is of; level is "L2" or "L3".
    at_ns
        The time of the query, ns since 1970 UTC.
    recv_ns, session, seq
        Receive time, session and MsgSeqNum of the last message in the book; 0 when there is none.
    trusted
        Whether the book is proven at that time.
    reason
        Why it is not, empty when it is.
    book
        The book itself, None when no snapshot was received.
    levels
        Levels of `bids` and `asks`.
    """

    symbol: str
    level: str
    at_ns: int
    recv_ns: int
    session: int
    seq: int
    trusted: bool
    reason: str
    book: OrderBook | None = field(repr=False)
    levels: int = 10

    @property
    def bids(self) -> np.ndarray:
        """Best bids, best first: a structured array of price, qty and orders, as of live books."""
        return self.depth()[0]

    @property
    def asks(self) -> np.ndarray:
        """Best offers, best first: a structured array of price, qty and orders, as of live books."""
        return self.depth()[1]

    def depth(self, n: int | None = None, price: str = "float") -> tuple[np.ndarray, np.ndarray]:
        """(bids, asks): the best `n` levels of each side (`levels` without), as of live books.

        `price` is "float", "int" (in the book's scales, see `precision`) or "decimal" (exact, arrays of objects).
        """
        n = self.levels if n is None else n
        if price == "decimal":
            bids, asks = (display.decimal_levels(side, self.precision) for side in self._known.depth(n, "int"))
            return bids, asks
        return self._known.depth(n, price)

    def top(self, price: str = "int") -> tuple[Any, Any, Any, Any]:
        """(bid, bid quantity, ask, ask quantity).

        `price` is "int" (exact, in the book's scales, see `precision`), "decimal" (exact) or "float". A missing side is
        None, and NaN with quantity 0 as floats.
        """
        exact = self._known.top()
        if price == "int":
            return exact
        if price not in ("float", "decimal"):
            raise UsageError(f'price is {price!r}: use "int", "float" or "decimal"')
        digits = self.precision * 2
        values: list[Any] = [display.to_decimal(value, n) for value, n in zip(exact, digits, strict=True)]
        if price == "float":
            absent = (math.nan, 0.0, math.nan, 0.0)
            values = [none if value is None else float(value) for value, none in zip(values, absent, strict=True)]
        bid, bid_qty, ask, ask_qty = values
        return bid, bid_qty, ask, ask_qty

    @property
    def _known(self) -> OrderBook:
        """The book, an empty one when there is none."""
        return self.book if self.book is not None else L2Book(0, 0)

    @property
    def precision(self) -> tuple[int, int]:
        """(price, quantity) decimals of the instrument then."""
        return self._known.price_precision, self._known.qty_precision

    @property
    def bid(self) -> float:
        """Best bid; NaN when there is none."""
        return float(self.top("float")[0])

    @property
    def bid_qty(self) -> float:
        """Quantity at the best bid."""
        return float(self.top("float")[1])

    @property
    def ask(self) -> float:
        """Best offer; NaN when there is none."""
        return float(self.top("float")[2])

    @property
    def ask_qty(self) -> float:
        """Quantity at the best offer."""
        return float(self.top("float")[3])

    @property
    def mid(self) -> float:
        """Mean of bid and ask; NaN when a side is missing."""
        return (self.bid + self.ask) / 2

    @property
    def spread(self) -> float:
        """Ask less bid; NaN when a side is missing."""
        bid, _, ask, _ = self.top("decimal")
        return math.nan if bid is None or ask is None else float(ask - bid)

    @property
    def imbalance(self) -> float:
        """(bid_qty - ask_qty) / (bid_qty + ask_qty) at the best prices, -1 to 1; NaN of an empty book."""
        return display.imbalance(self.bid_qty, self.ask_qty)

    @property
    def age_ns(self) -> int:
        """ns from the last message in the book to the time of the query."""
        return self.at_ns - self.recv_ns

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled one has the whole book with it."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "book"}
        if self.book is None:
            return _loaded, (values, None, None)
        made = self.book.level, self.book.price_precision, self.book.qty_precision, self.book.limit
        return _loaded, (values, made, book_rows(self.book))

    def __repr__(self) -> str:
        return f"<{self._line()}>"

    def _line(self) -> str:
        moment = str(np.datetime64(self.at_ns, "ns")).replace("T", " ").rstrip("0").removesuffix(".")
        at = f"{self.symbol} {self.level} at {moment if '.' in moment else moment.ljust(19, '0')}Z"
        if self.book is None:
            return f"{at}: {self.reason}"
        bid, _, ask, _ = self.book.top()
        shown = f"{at} {display.prices_text(bid, ask, self.precision[0])}, {display.age_text(self.age_ns)}"
        return shown if self.trusted else f"{shown}, not trusted: {self.reason}"

    def _repr_html_(self) -> str:
        return display.ladder(self._line(), *self._known.depth(display.SHOWN_LEVELS, "int"), self.precision)

    def orders(self) -> pa.Table:
        """Every resting order of an L3 book; no rows for L2.

        Returns
        -------
        pyarrow.Table
            side, price, qty, order_id and ahead: bids then offers, best first, in queue order. `ahead` is the quantity
            before the order at its price, an int in the book's quantity scale like qty.
        """
        rows = self._order_rows()
        if not len(rows):
            return _ORDERS.empty_table()
        total = np.cumsum(rows["qty"]) - rows["qty"]
        starts = np.flatnonzero(np.r_[True, (np.diff(rows["price"]) != 0) | (np.diff(rows["side"].astype(int)) != 0)])
        ahead = total - np.repeat(total[starts], np.diff(np.r_[starts, len(rows)]))
        ids = [id_text(*key) for key in zip(*(rows[n].tolist() for n in ("id_kind", "id_hi", "id_lo")), strict=True)]
        sides = [schema.SIDES[s] for s in rows["side"]]
        return pa.table([sides, rows["price"], rows["qty"], ids, ahead], schema=_ORDERS)

    def queue_position(self, order_id: str) -> tuple[int, int] | None:
        """(orders ahead, quantity ahead) of a resting order at its price in an L3 book; None when it is not there."""
        rows = self._order_rows()
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

    def _order_rows(self) -> np.ndarray:
        if self.book is None or self.book.level != 3:
            return np.zeros(0, "V64")
        rows: np.ndarray = book_rows(self.book)
        return rows


def _loaded(values: dict[str, Any], made: tuple[int, int, int, int] | None, entries: np.ndarray | None) -> BookAt:
    """A pickled BookAt: `made` are the arguments of `new_book`."""
    book = None if made is None else new_book(*made)
    if book is not None and entries is not None and len(entries):
        book.apply(entries)
    return BookAt(**values, book=book)


@dataclass
class Found:
    """What is known of a book that was searched for: its last message, and what it was made of."""

    level: str
    recv_ns: int = 0
    session: int = 0
    seq: int = 0
    flags: int = 0
    seen: bool = False  # any message at all
    base_ns: int = 0  # receive time of the snapshot or checkpoint the book was made of
    agrees: bool = True  # the book had the last 5041 that the feed had found right


@dataclass
class Checkpoint:
    """The key of a recorded book, and the file it is in."""

    path: Path
    recv_ns: int
    session: int
    seq: int
    level: str


class Rebuilder:
    """Finds and applies the rows that make a book; owned by a catalog."""

    def __init__(self, found: files.Files) -> None:
        self.files = found
        self._depths: dict[int, int | None] = {}  # 264 by session

    def limit(self, session: int, level: str, at: int) -> int:
        """Levels a side that the books of a session with messages at `at` ns have; 0 for no limit or an unknown one."""
        if session not in self._depths:
            start = trading_day.session_bounds(trading_day.session_date(at))[0] - _DAYS_BACK * trading_day.DAY_NS
            rows = files.table("sessions", self.files.of("sessions", start, at + 1), ["session", "depth"])
            self._depths |= dict(zip(rows["session"].to_pylist(), rows["depth"].to_pylist(), strict=True))
        depth = self._depths.get(session)
        return _LIMIT_L2 if depth == 0 and level == "L2" else depth or 0

    def book(
        self, symbol: str, level: str | None, at: int, session: int | None = None
    ) -> tuple[OrderBook | None, Found]:
        """The book after the last message received up to `at` ns, of one session if given, and what is known of it."""
        day = trading_day.session_date(at)
        for back in range(_DAYS_BACK + 1):
            start = trading_day.session_bounds(day)[0] - back * trading_day.DAY_NS
            book, found = self._search(symbol, level, start, at, session)
            if book is not None or (found.seen and session is None and back):
                break
        return book, found

    def _search(
        self, symbol: str, level: str | None, start: int, at: int, session: int | None
    ) -> tuple[OrderBook | None, Found]:
        point = self._checkpoint(symbol, level, start, at, session)
        rows = self._rows(symbol, level, point.recv_ns if point else start, at, session)
        found = Found(level or "L2")
        if rows.num_rows:
            last = {k: rows[k][-1].as_py() for k in ("level", "recv_ns", "session", "seq", "flags")}
            found = Found(**last, seen=True)
            rows = kept(rows, rows["session"].to_numpy() == found.session)
        elif point:
            found = Found(point.level, point.recv_ns, point.session, point.seq, seen=True)
        if point and (point.session, point.level) != (found.session, found.level):
            point = None
        book, found.base_ns, found.agrees = self._apply(symbol, rows, point)
        return book, found

    def _rows(self, symbol: str, level: str | None, since: int, at: int, session: int | None) -> pa.Table:
        columns = _COLUMNS if level == "L2" else _ORDER_COLUMNS
        rows = files.table(
            "ticks", self.files.of("ticks", since, at + 1, [symbol]), columns, symbols=[symbol], start=since, end=at + 1
        )
        mask = _of_books(rows)
        if level:
            mask &= schema._indices(rows["level"], schema.LEVELS) == schema.LEVELS.index(level)
        if session is not None:
            mask &= rows["session"].to_numpy() == session
        return kept(rows, mask)

    def _checkpoint(
        self, symbol: str, level: str | None, start: int, at: int, session: int | None
    ) -> Checkpoint | None:
        """The latest checkpoint in [start, at]."""
        where: Expression | None = None
        for name, value in (("level", level), ("session", session)):
            if value is not None:
                same = pc.field(name) == value
                where = same if where is None else where & same
        columns = ["recv_ns", "session", "seq", "level"]
        limits: dict[str, Any] = {"symbols": [symbol], "start": start, "end": at + 1}
        for path in reversed(self.files.of("checkpoints", start, at + 1)):
            if not self.files.may_hold(path, [symbol], start, at + 1):
                continue
            keys = files.table("checkpoints", [path], columns, where, **limits)
            if keys.num_rows:
                best = int(np.argmax(keys["recv_ns"].to_numpy()))
                return Checkpoint(path, **{k: keys[k][best].as_py() for k in columns})
        return None

    def _apply(self, symbol: str, rows: pa.Table, point: Checkpoint | None) -> tuple[OrderBook | None, int, bool]:
        """The book, when the snapshot or checkpoint it is made of was received, and whether it had its last 5041."""
        actions = schema._indices(rows["action"], schema.ACTIONS)
        clears = np.flatnonzero(actions == schema.ACTIONS.index("clear"))
        if len(clears):
            rows, point = rows.slice(int(clears[-1])), None
        elif point is None:
            return None, 0, True
        if point is not None:
            base_ns, book = point.recv_ns, self._load(symbol, point)
            rows = kept(rows, rows["seq"].to_numpy() > point.seq)
        else:
            names = ("session", "level", "recv_ns", "price_scale", "qty_scale")
            session, level, base_ns, price_scale, qty_scale = (rows[name][0].as_py() for name in names)
            book = new_book(number_of(level), price_scale, qty_scale, self.limit(session, level, base_ns))
        return book, base_ns, _follow(book, rows) if rows.num_rows else True

    def _load(self, symbol: str, point: Checkpoint) -> OrderBook:
        where = (pc.field("seq") == point.seq) & (pc.field("session") == point.session)
        limits: dict[str, Any] = {"symbols": [symbol], "start": point.recv_ns, "end": point.recv_ns + 1}
        rows = files.table("checkpoints", [point.path], None, where, **limits)
        scales = rows["price_scale"][0].as_py(), rows["qty_scale"][0].as_py()
        book = new_book(number_of(point.level), *scales, self.limit(point.session, point.level, point.recv_ns))
        rows = rows.filter(pc.is_valid(rows["side"]))
        if rows.num_rows:
            book.apply(schema.entries(rows))
        return book


def _follow(book: OrderBook, rows: pa.Table) -> bool:
    """Apply messages; whether the book had the last of the checksums (5041) that the feed had found right."""
    entries, ends = schema.entries(rows), message_ends(rows)
    flags = rows["flags"].to_numpy()[ends - 1]
    proven = np.flatnonzero((flags & (_PROVEN | Flags.UNVERIFIED)) == _PROVEN)
    if not len(proven):
        _proof.apply(book, entries, ends)
        return True
    at = int(proven[-1])
    first, end = int(ends[at - 1]) if at else 0, int(ends[at])
    _proof.apply(book, entries[:first], ends[:at])
    crc = rows["crc"][end - 1].as_py()
    rules, _ = _proof.check(book, entries[first:end], np.array([end - first]), np.array([crc]), np.array([True]))
    _proof.apply(book, entries[end:], ends[at + 1 :] - end)
    return bool(rules[0])


def _of_books(rows: pa.Table) -> np.ndarray:
    """Rows of messages that are not of trades alone: the last row of one has its 5041, be it a trade."""
    of_book: np.ndarray = schema._indices(rows["side"], schema.SIDES) != schema.SIDES.index("trade")
    if of_book.all():
        return of_book
    ends = message_ends(rows)
    starts = np.append(0, ends[:-1])
    return np.repeat(np.logical_or.reduceat(of_book, starts), ends - starts)


def kept(rows: pa.Table, mask: np.ndarray) -> pa.Table:
    """Rows where `mask` is true; without a copy where they are adjacent, as nearly always."""
    n = int(mask.sum())
    first = int(mask.argmax()) if n else 0
    return rows.slice(first, n) if mask[first : first + n].all() else rows.filter(pa.array(mask))
