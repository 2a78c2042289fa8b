"""Hides how bars and best prices come out of ticks."""

import itertools
import re
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kfix_md import trading_day
from kfix_md.errors import UsageError
from recorder import _proof, files, rebuild, schema, shape
from recorder.loss import Losses
from recorder.schema import Flags

if TYPE_CHECKING:
    from recorder.catalog import Captures

TRADE_COLUMNS = ["recv_ns", "price", "qty", "price_scale", "qty_scale", "aggressor"]
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}


def duration(every: str | int) -> int:
    """ns of "250ms", "1s", "5m", "1h", "1d"."""
    if isinstance(every, int) and every > 0:
        return every
    match = re.fullmatch(r"(\d+)(ns|us|ms|s|m|h|d)", str(every))
    if not match or int(match[1]) == 0:
        raise UsageError(f'bars of {every!r} cannot be: write "250ms", "1s", "5m", "1h"')
    return int(match[1]) * _UNITS[match[2]]


def bars(rows: pa.Table, every: int, price: str) -> pa.Table:
    """Trades (TRADE_COLUMNS) in bars of `every` ns; exact sums, then the form asked for."""
    scales = [int(rows[c].to_numpy().max()) if rows.num_rows else 0 for c in ("price_scale", "qty_scale")]
    p = _finest(rows["price"], rows["price_scale"], scales[0])
    q = _finest(rows["qty"], rows["qty_scale"], scales[1])
    time = rows["recv_ns"].to_numpy()
    order = np.argsort(time, kind="stable")
    p, q, slot = p[order], q[order], time[order] // every * every
    buy = pc.equal(rows["aggressor"], "buy").fill_null(False).to_numpy()[order]
    starts = np.flatnonzero(np.r_[True, slot[1:] != slot[:-1]]) if len(slot) else np.zeros(0, np.int64)
    ends = np.r_[starts[1:], len(slot)] - 1 if len(slot) else starts

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts) if len(starts) else values

    def form(values: np.ndarray, scale: int) -> pa.Array:
        return (
            shape.scaled(pa.array(values), pa.array(np.full(len(values), scale, np.int8)), price)
            if price != "int"
            else pa.array(values)
        )

    high, low = (np.maximum, np.minimum)
    columns = {
        "time_ns": pa.array(slot[starts]),
        "open": form(p[starts], scales[0]),
        "high": form(high.reduceat(p, starts) if len(starts) else p, scales[0]),
        "low": form(low.reduceat(p, starts) if len(starts) else p, scales[0]),
        "close": form(p[ends], scales[0]),
        "volume": form(total(q), scales[1]),
        "buy_volume": form(total(np.where(buy, q, 0)), scales[1]),
        "trades": pa.array(ends - starts + 1),
    }
    if price == "int":
        columns |= {
            n: pa.array(np.full(len(starts), s, np.int8))
            for n, s in zip(("price_scale", "qty_scale"), scales, strict=True)
        }
    return pa.table(columns)


def _finest(values: pa.ChunkedArray, scales: pa.ChunkedArray, finest: int) -> np.ndarray:
    return values.to_numpy() * 10 ** (finest - scales.to_numpy().astype(np.int64))


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
    "crc",
]


def message_ends(rows: pa.Table) -> np.ndarray:
    """Exclusive end of each message in rows of one symbol: where (session, seq) changes."""
    session, seq = rows["session"].to_numpy(), rows["seq"].to_numpy()
    if not len(seq):
        return np.zeros(0, np.int64)
    change = (seq[1:] != seq[:-1]) | (session[1:] != session[:-1])
    return np.append(np.flatnonzero(change) + 1, len(seq)).astype(np.int64)


def segments(rows: pa.Table):
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


def bbo(cap: "Captures", symbol: str, start: int | None, end: int | None, level: str | None, price: str) -> pa.Table:
    """See Captures.bbo."""
    rows = files.table(
        "ticks",
        cap._files.of("ticks", start, end, [symbol]),
        BOOK_COLUMNS,
        cap._where(level),
        symbols=[symbol],
        start=start,
        end=end,
    )
    seed, before = None, -1
    if start is not None and rows.num_rows and rows["action"][0].as_py() != "clear":
        first = rows["session"][0].as_py()
        seed, told = cap._rebuild.book(symbol, rows["level"][0].as_py(), start - 1, first)
        before = told.get("base_ns", start - 1)
    losses = cap._losses(start, end)
    found = []
    for part in segments(rows):
        found.append(_bbo_of(part, seed, losses, before))
        seed, before = None, part["recv_ns"][-1].as_py()
    names = ["recv_ns", "seq", "bid", "bid_qty", "ask", "ask_qty", "trusted"]
    if not found:
        return pa.table({n: pa.array([], pa.bool_() if n == "trusted" else pa.int64()) for n in names})
    scales = rows["price_scale"].to_numpy().max(), rows["qty_scale"].to_numpy().max()
    return pa.concat_tables([_form(part, scales, price) for part in found])


def _unproven(losses: Losses, session: int, before_ns: int, time: np.ndarray, snapshot: np.ndarray) -> np.ndarray:
    """Messages behind a loss of rows, until the next snapshot (see Losses.marks)."""
    behind, at = losses.marks(session, before_ns, time)
    index = np.arange(len(time))
    lost = np.maximum.accumulate(np.where((behind & ~snapshot) | at, index, -1))
    whole = np.maximum.accumulate(np.where(snapshot & ~at, index, -1))
    return lost > whole


def _bbo_of(rows: pa.Table, book, losses: Losses, before_ns: int) -> dict:
    """Best prices behind each message of one segment that changed them; the message before was at `before_ns`."""
    scales = rows["price_scale"][0].as_py(), rows["qty_scale"][0].as_py()
    book = book or rebuild.new_book(3 if rows["level"][0].as_py() == "L3" else 2, *scales)
    ends = message_ends(rows)
    best = np.stack(_proof.tops(book, schema.entries(rows), ends))
    last = ends - 1
    flags = rows["flags"].to_numpy()[last]
    trusted = (flags & Flags.MAYBE_BAD_BOOK) == 0
    trusted &= ~_unproven(
        losses, rows["session"][0].as_py(), before_ns, rows["recv_ns"].to_numpy()[last], (flags & Flags.SNAPSHOT) != 0
    )
    changed = np.ones(len(ends), bool)
    changed[1:] = (best[:, 1:] != best[:, :-1]).any(axis=0) | (trusted[1:] != trusted[:-1])
    return {
        "recv_ns": rows["recv_ns"].to_numpy()[last][changed],
        "seq": rows["seq"].to_numpy()[last][changed],
        "best": best[:, changed],
        "trusted": trusted[changed],
        "scales": scales,
    }


def _form(part: dict, finest: tuple, price: str) -> pa.Table:
    columns = {"recv_ns": pa.array(part["recv_ns"]), "seq": pa.array(part["seq"])}
    for i, name in enumerate(("bid", "bid_qty", "ask", "ask_qty")):
        which = i % 2
        raw = part["best"][i] * 10 ** int(finest[which] - part["scales"][which])
        absent = part["best"][i | 1] == 0
        if price == "float":
            columns[name] = pa.array(raw / 10.0 ** float(finest[which]), mask=absent)
        elif price == "int":
            columns[name] = pa.array(raw, mask=absent)
        else:
            exact = shape.scaled(pa.array(raw), pa.array(np.full(len(raw), finest[which], np.int8)), "decimal")
            columns[name] = pc.if_else(pa.array(absent), pa.scalar(None, exact.type), exact)
    return pa.table(columns | {"trusted": pa.array(part["trusted"])})


def seconds_of(day) -> float:
    """Length of a session date in seconds."""
    start, end = trading_day.session_bounds(day)
    return (end - start) / 1e9
