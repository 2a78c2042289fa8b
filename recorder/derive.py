"""Derives bars and best prices from ticks."""

import itertools
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kfix_md._book import OrderBook
from kfix_md.errors import UsageError
from recorder import _proof, files, rebuild, schema, shape, trust
from recorder.compute import pc
from recorder.loss import Losses
from recorder.schema import Flags

if TYPE_CHECKING:
    from recorder.catalog import Captures

TRADE_COLUMNS = ["recv_ns", "price", "qty", "price_scale", "qty_scale", "aggressor"]
_FOREVER = (1 << 63) - 1
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}


def duration(every: str | int | timedelta) -> int:
    """Nanoseconds of "250ms", "1s", "5m", "1h", "1d", of a timedelta, or of an int of ns.

    Raises
    ------
    UsageError
        When the text is no such duration, or it is not positive.
    """
    if isinstance(every, timedelta):
        every = every // timedelta(microseconds=1) * 1000
    if isinstance(every, int) and 0 < every < 1 << 63:
        return every
    match = re.fullmatch(r"(\d+)(ns|us|ms|s|m|h|d)", str(every))
    if not match or int(match[1]) == 0:
        raise UsageError(f'{every!r} is no length of time: write "250ms", "1s", "5m", "1h" or ns')
    return int(match[1]) * _UNITS[match[2]]


def bars(rows: pa.Table, every: int, price: str) -> pa.Table:
    """Trades in bars of `every` ns.

    Parameters
    ----------
    rows
        Trades with TRADE_COLUMNS.
    price
        Form of prices and quantities: "int", "float" or "decimal". Sums are exact in all of them.
    """
    finest = [int(rows[c].to_numpy().max()) if rows.num_rows else 0 for c in ("price_scale", "qty_scale")]
    time = rows["recv_ns"].to_numpy()
    order = np.argsort(time, kind="stable")
    slot = time[order] // every * every
    prices = _rescaled(rows["price"], rows["price_scale"], finest[0])[order]
    quantities = _rescaled(rows["qty"], rows["qty_scale"], finest[1])[order]
    buy = pc.equal(rows["aggressor"], "buy").fill_null(False).to_numpy()[order]
    starts = np.flatnonzero(np.r_[True, slot[1:] != slot[:-1]]) if len(slot) else np.zeros(0, np.int64)
    ends = np.r_[starts[1:], len(slot)] - 1 if len(slot) else starts

    def over(function: np.ufunc, values: np.ndarray) -> np.ndarray:
        reduced: np.ndarray = function.reduceat(values, starts) if len(starts) else values
        return reduced

    def form(values: np.ndarray, scale: int) -> pa.Array:
        exact = pa.array(values)
        return exact if price == "int" else shape.scaled(exact, _constant(scale, len(values)), price)

    columns = {
        "time_ns": pa.array(slot[starts]),
        "open": form(prices[starts], finest[0]),
        "high": form(over(np.maximum, prices), finest[0]),
        "low": form(over(np.minimum, prices), finest[0]),
        "close": form(prices[ends], finest[0]),
        "volume": form(over(np.add, quantities), finest[1]),
        "buy_volume": form(over(np.add, np.where(buy, quantities, 0)), finest[1]),
        "trades": pa.array(ends - starts + 1),
    }
    if price == "int":
        columns |= {"price_scale": _constant(finest[0], len(starts)), "qty_scale": _constant(finest[1], len(starts))}
    return pa.table(columns)


def _constant(scale: int, n: int) -> pa.Array:
    return pa.array(np.full(n, scale, np.int8))


def _rescaled(values: pa.ChunkedArray, scales: pa.ChunkedArray, finest: int) -> np.ndarray:
    exact: np.ndarray = values.to_numpy() * 10 ** (finest - scales.to_numpy().astype(np.int64))
    return exact


BOOK_COLUMNS = [
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
    "queue_ns",
    "event_ns",
    "order_id",
    "id_kind",
    "order_text",
    "decimals",
    "crc",
]


def segments(rows: pa.Table) -> Iterator[pa.Table]:
    """Slices of rows of one symbol in which session, level and scales stay the same."""
    keys = [rows[c].to_numpy() for c in ("session", "price_scale", "qty_scale")]
    keys.append(schema._indices(rows["level"], schema.LEVELS))
    change = np.zeros(max(0, rows.num_rows - 1), bool)
    for key in keys:
        change |= key[1:] != key[:-1]
    edges = [0, *(np.flatnonzero(change) + 1).tolist(), rows.num_rows]
    for a, b in itertools.pairwise(edges):
        if b > a:
            yield rows.slice(a, b - a)


def bbo(
    cap: "Captures",
    symbol: str,
    start: int | None,
    end: int | None,
    level: str | None,
    price: str,
    first: Callable[[pa.Schema], pa.Table] | None = None,
) -> pa.Table:
    """Best bid and offer at every message that changed one; see Captures.bbo.

    `first` gives the row that the answer begins with, or none: trust may end, and begin, before a message comes.
    """
    limits: dict[str, Any] = {"symbols": [symbol], "start": start, "end": end}
    paths = cap._files.of("ticks", start, end, [symbol])
    rows = files.table("ticks", paths, BOOK_COLUMNS, cap._listing.where(level, [symbol]), **limits)
    book, before_ns, sound = None, -1, True
    if start is not None and rows.num_rows and rows["action"][0].as_py() != "clear":
        book, found = cap._rebuild.book(symbol, rows["level"][0].as_py(), start - 1, rows["session"][0].as_py())
        before_ns, sound = found.base_ns, found.agrees
    losses = cap._losses(start, end)
    states = cap._coverage(symbol, start, end)
    level = rows["level"][0].as_py() if rows.num_rows else level
    dark = [row for row in states.to_pylist() if not row["trusted"] and row["level"] == level]
    dark.sort(key=lambda row: row["from_ns"])
    begins = trust.begins(states.filter(pc.equal(states["level"], level)))
    parts = []
    for part in segments(rows):
        limit = cap._rebuild.limit(*(part[name][0].as_py() for name in ("session", "level", "recv_ns")))
        parts.append(_bbo_of(part, book, losses, before_ns if sound else None, limit, dark, begins))
        book, before_ns, sound = None, part["recv_ns"][-1].as_py(), True
    best = _no_bbo(price)
    if parts:
        finest = rows["price_scale"].to_numpy().max(), rows["qty_scale"].to_numpy().max()
        best = pa.concat_tables([_form(part, finest, price) for part in parts])
    if first is not None:
        row = first(best.drop_columns("sound").schema)
        best = pa.concat_tables([row.append_column("sound", row["trusted"]), best])
        if row.num_rows and not row["trusted"][0].as_py():
            dark = [one for one in dark if one["from_ns"] != row["recv_ns"][0].as_py()]  # it is that row
    again = _with_begins(best, dark, end).drop_columns("sound")
    ends = dark + losses.ends(set(pc.unique(rows["session"]).to_pylist()))
    return _with_ends(again, sorted(ends, key=lambda row: row["from_ns"]))


def _with_begins(best: pa.Table, dark: list[dict[str, Any]], end: int | None) -> pa.Table:
    """`best` with a row where trust begins again without a message: the prices are those of the last one before."""
    time = np.maximum.accumulate(best["recv_ns"].to_numpy())
    sound, trusted = best["sound"].to_numpy(), best["trusted"].to_numpy()
    begins = []
    for row in dark:
        to_ns = row["to_ns"]
        if to_ns is None or (end is not None and to_ns >= end):
            continue
        if any(other["from_ns"] <= to_ns and (other["to_ns"] is None or to_ns < other["to_ns"]) for other in dark):
            continue
        last = int(np.searchsorted(time, to_ns, "right")) - 1
        if last >= 0 and sound[last] and (not trusted[last] or time[last] < row["from_ns"]):
            begins.append((to_ns, last))
    if not begins:
        return best
    more = best.take(pa.array([last for _, last in begins]))
    more = more.set_column(0, "recv_ns", pa.array([to_ns for to_ns, _ in begins], pa.int64()))
    at = more.schema.get_field_index("trusted")
    more = more.set_column(at, "trusted", pa.array([True] * len(begins)))
    where = np.searchsorted(time, [to_ns for to_ns, _ in begins], "right")
    order = np.insert(np.arange(len(time)), where, len(time) + np.arange(len(begins)))
    return pa.concat_tables([best, more]).take(pa.array(order))


def _with_ends(best: pa.Table, dark: list[dict[str, Any]]) -> pa.Table:
    """`best` with a row without prices where trust ends."""
    time = np.maximum.accumulate(best["recv_ns"].to_numpy())
    ends = [row for row in dark if len(time) and row["from_ns"] >= time[0]]
    columns: dict[str, Any] = {name: pa.nulls(len(ends), best.schema.field(name).type) for name in best.schema.names}
    columns["recv_ns"] = pa.array([row["from_ns"] for row in ends], pa.int64())
    columns["session"] = pa.array([row["session"] for row in ends], pa.int32())
    columns["trusted"] = pa.array([False] * len(ends), pa.bool_())
    columns["cause"] = pa.array([_cause(row) for row in ends], pa.string())
    begins = np.array([row["from_ns"] for row in ends], np.int64)
    passed = np.array([row.get("to_ns") == row["from_ns"] for row in ends], bool)  # over before what came at that time
    where = np.where(passed, np.searchsorted(time, begins, "left"), np.searchsorted(time, begins, "right"))
    order = np.insert(np.arange(len(time)), where, len(time) + np.arange(len(ends)))
    return pa.concat_tables([best, pa.table(columns, schema=best.schema)]).take(pa.array(order))


def _cause(row: dict[str, Any]) -> str:
    return " ".join(str(word) for word in (row["state"], row["cause"]) if word not in (None, "NONE"))


def _no_bbo(price: str) -> pa.Table:
    kind = {"float": pa.float64(), "int": pa.int64(), "decimal": pa.decimal128(38, 0)}[price]
    numbers = [(name, kind) for name in ("bid", "bid_qty", "ask", "ask_qty")]
    ends = [("recv_ns", pa.int64()), ("session", pa.int32()), ("seq", pa.int64())], [("trusted", pa.bool_())]
    return pa.schema([*ends[0], *numbers, *ends[1], ("cause", pa.string()), ("sound", pa.bool_())]).empty_table()


def _unproven(
    losses: Losses, session: int, before_ns: int | None, time: np.ndarray, snapshot: np.ndarray
) -> np.ndarray:
    """Messages after a loss of rows and before the next snapshot (see Losses.marks); `before_ns` as of `_bbo_of`."""
    after, during = losses.marks(session, -1 if before_ns is None else before_ns, time)
    after[:1] |= before_ns is None
    index = np.arange(len(time))
    lost = np.maximum.accumulate(np.where((after & ~snapshot) | during, index, -1))
    whole = np.maximum.accumulate(np.where(snapshot & ~during, index, -1))
    unproven: np.ndarray = lost > whole
    return unproven


def _bbo_of(
    rows: pa.Table,
    book: OrderBook | None,
    losses: Losses,
    before_ns: int | None,
    limit: int,
    dark: list[dict[str, Any]],
    begins: np.ndarray,
) -> dict[str, Any]:
    """Best prices after each message of one segment that changed them.

    `before_ns` is the time of the message before them, None where the book before them is wrong; `begins` is as
    trust.flags_at takes it. `sound` are the books that are right once the feed trusts its own again.
    """
    first = {name: rows[name][0].as_py() for name in ("session", "level", "price_scale", "qty_scale")}
    scales = first["price_scale"], first["qty_scale"]
    book = book or rebuild.new_book(rebuild.number_of(first["level"]), *scales, limit)
    ends = rebuild.message_ends(rows)
    best = _proof.depths(book, schema.entries(rows), ends, np.arange(1, len(ends) + 1), 1)[:, 0]
    last = ends - 1
    time, flags = rows["recv_ns"].to_numpy()[last], rows["flags"].to_numpy()[last]
    good = (trust.flags_at(time, flags, time, begins) & Flags.MAYBE_BAD_BOOK) == 0
    sound = (flags & Flags.UNVERIFIED) == 0
    sound &= ~_unproven(losses, first["session"], before_ns, time, (flags & Flags.SNAPSHOT) != 0)
    began = np.searchsorted(np.array([row["from_ns"] for row in dark], np.int64), time, "right")
    over = np.array([-1, *(_FOREVER if row["to_ns"] is None else row["to_ns"] for row in dark)], np.int64)
    trusted = sound & good & (time >= over[began])
    changed = np.ones(len(ends), bool)
    changed[1:] = (began[1:] != began[:-1]) | (best[:, 1:] != best[:, :-1]).any(axis=0)
    changed[1:] |= (trusted[1:] != trusted[:-1]) | (sound[1:] != sound[:-1])
    return {
        "recv_ns": time[changed],
        "session": np.full(int(changed.sum()), first["session"], np.int32),
        "seq": rows["seq"].to_numpy()[last][changed],
        "best": best[:, changed],
        "trusted": trusted[changed],
        "sound": sound[changed],
        "scales": scales,
    }


def _form(part: dict[str, Any], finest: tuple[int, int], price: str) -> pa.Table:
    """One segment's best prices with the decimals of the finest segment, in the form of `price`."""
    columns = {name: pa.array(part[name]) for name in ("recv_ns", "session", "seq")}
    for i, name in enumerate(("bid", "bid_qty", "ask", "ask_qty")):
        which = i % 2
        raw = part["best"][i] * 10 ** int(finest[which] - part["scales"][which])
        absent = part["best"][i | 1] == 0
        if price == "float":
            columns[name] = pa.array(raw / 10.0 ** float(finest[which]), mask=absent)
        elif price == "int":
            columns[name] = pa.array(raw, mask=absent)
        else:
            exact = shape.scaled(pa.array(raw), _constant(finest[which], len(raw)), "decimal")
            columns[name] = pc.if_else(pa.array(absent), pa.scalar(None, exact.type), exact)
    trusted = pa.array(part["trusted"])
    more = {"trusted": trusted, "cause": pa.nulls(len(trusted), pa.string()), "sound": pa.array(part["sound"])}
    return pa.table(columns | more)
