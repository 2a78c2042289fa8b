"""Replays a recorded day in the order its messages were applied, at any speed, as FIX for the live handler."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kfix_md import trading_day
from kfix_md.symbol_text import symbol_bytes
from recorder import derive, schema, shape
from recorder.schema import Flags

if TYPE_CHECKING:
    from kfix_md._handler import Handler
    from recorder.catalog import Captures

_WINDOW_ROWS = 2_000_000  # rows in memory at a time
_SAME_DAY_NS = 10 * 3_600_000_000_000
_COLUMNS = [*derive.BOOK_COLUMNS, "symbol", "entry_no", "aggressor", "ord_type"]
_HEAD = ["recv_ns", "session", "seq", "symbol", "level", "price_scale", "qty_scale"]
_CONTENT = [
    "action",
    "event_ns",
    "queue_ns",
    "side",
    "price",
    "qty",
    "order_id",
    "id_kind",
    "order_text",
    "aggressor",
    "ord_type",
    "crc",
]
_CHUNK = 2048  # messages whose rows are converted at a time
_SIDES = {"bid": 0, "offer": 1, "trade": 2}
_ACTIONS = {"new": "279=0", "update": "279=1", "delete": "279=2", "leave": "279=2"}


class _Chunk:
    """Rows of some messages, converted together when the first of them is used."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows

    @cached_property
    def entries(self) -> np.ndarray:
        return schema.entries(self.rows)

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        return {name: self.rows[name].to_pylist() for name in _CONTENT}


@dataclass(slots=True)
class RecordedMessage:
    """One recorded W or X.

    Attributes
    ----------
    recv_ns, session, seq, symbol, level
        As in ticks.
    flags
        recorder.Flags of its last row.
    scales
        Decimals of price and quantity.
    """

    recv_ns: int
    session: int
    seq: int
    symbol: str
    level: str
    flags: int
    scales: tuple[int, int]
    _chunk: _Chunk = field(repr=False, compare=False)
    _first: int = field(repr=False)
    _end: int = field(repr=False)

    @property
    def rows(self) -> pa.Table:
        """Its ticks; those of a snapshot begin with a clear row."""
        return self._chunk.rows.slice(self._first, self._end - self._first)

    def entries(self) -> np.ndarray:
        """What a Book applies, as ENTRY_DTYPE; those of a snapshot begin with a CLEAR."""
        return self._chunk.entries[self._first : self._end]

    def fix(self) -> bytes:
        """A W or X with the same content, symbols and ids byte for byte; 49, 56 and 262 are `replay`, 52 is recv_ns."""
        snapshot = bool(self.flags & Flags.SNAPSHOT)
        values = self._chunk.values
        actions, events = values["action"], values["event_ns"]
        rows = [i for i in range(self._first, self._end) if actions[i] != "clear"]
        event = events[rows[0]] if rows else self.recv_ns
        # 273 is a time of day on the day of 52; a stream recorded from a replay was received on another day
        sent = self.recv_ns if abs(event - self.recv_ns) < _SAME_DAY_NS else event
        body = [
            f"35={'W' if snapshot else 'X'}\x0134={self.seq}\x0149=REPLAY\x0152={_stamp(sent)}\x0156=REPLAY\x01"
            f"55={symbol_bytes(self.symbol).decode('latin-1')}\x01262=replay\x01268={len(rows)}"
        ]
        for i in rows:
            body += self._group(values, i, snapshot)
        crc = values["crc"][self._end - 1]
        if crc is not None:
            body.append(f"5041={crc}")
        text = "\x01".join(body).encode("latin-1") + b"\x01"
        text = b"8=FIX.4.4\x019=%d\x01" % len(text) + text
        return text + b"10=%03d\x01" % (sum(text) % 256)

    def _group(self, values: dict[str, list[Any]], i: int, snapshot: bool) -> list[str]:
        """The fields of one entry."""
        side, event, queue = values["side"][i], values["event_ns"][i], values["queue_ns"][i]
        price, qty = _decimal(values["price"][i], self.scales[0]), _decimal(values["qty"][i], self.scales[1])
        group = [] if snapshot else [_ACTIONS[values["action"][i]]]
        group.append(
            f"269={_SIDES[side]}\x01278={_id(values, i, price)}\x01270={price}\x01271={qty}\x01273={_stamp(event)[9:]}"
        )
        if queue is not None:
            group.append(f"5060={_iso(event)}\x015273={_iso(queue)}")
        if side == "trade":
            kind, aggressor = values["ord_type"][i], values["aggressor"][i]
            group += [f"40={2 if kind == 'limit' else 1}"] if kind else []
            group += [f"2446={2 if aggressor == 'sell' else 1}"] if aggressor else []
        return group


def _id(values: dict[str, list[Any]], i: int, price: str) -> str:
    """278 of an entry: the order's id, or side and price as Kraken sends them on L2."""
    text, raw = values["order_text"][i], values["order_id"][i]
    if text is not None:
        return str(text)
    if raw is None:
        return f"{'O' if values['side'][i] == 'offer' else 'B'}{price}"
    # of a checkpoint's long id only the hash is known, which is as unique
    return shape.raw_text(schema.ID_KINDS.index(values["id_kind"][i]), raw) or raw.hex()


def _decimal(value: int, scale: int) -> str:
    sign, digits = ("-", -value) if value < 0 else ("", value)
    text = str(digits).rjust(scale + 1, "0")
    return sign + (f"{text[:-scale]}.{text[-scale:]}" if scale else text)


@lru_cache(4096)
def _second(second: int) -> tuple[str, str]:
    """A second in the form of 52 and in that of 5060."""
    moment = datetime.fromtimestamp(second, UTC)
    return f"{moment:%Y%m%d-%H:%M:%S}", f"{moment:%Y-%m-%dT%H:%M:%S}"


def _stamp(ns: int) -> str:
    return f"{_second(ns // 1_000_000_000)[0]}.{ns // 1_000_000 % 1000:03d}"


def _iso(ns: int) -> str:
    return f"{_second(ns // 1_000_000_000)[1]}.{ns % 1_000_000_000:09d}Z"


def replay(
    captures: "Captures",
    day: date,
    speed: float | None,
    symbols: list[str] | None,
    handler: "Handler | None",
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[RecordedMessage]:
    """Messages of a session date, each at its time and through `handler`; see Captures.replay."""
    begin: tuple[float, int] | None = None
    known: dict[str, tuple[int, int]] = {}
    for message in _messages(captures, day, symbols):
        if speed:
            begin = begin or (clock(), message.recv_ns)
            wait = begin[0] + (message.recv_ns - begin[1]) / 1e9 / speed - clock()
            if wait > 0:
                sleep(wait)
        if handler is not None:
            if known.get(message.symbol) != message.scales:
                known[message.symbol] = message.scales
                handler.define(message.symbol, *message.scales)
            handler.deliver(message.fix(), message.recv_ns)
        yield message


def _messages(captures: "Captures", day: date, symbols: list[str] | None) -> Iterator[RecordedMessage]:
    carried: pa.Table | None = None
    for start, end in _windows(captures, day):
        rows = captures._table("ticks", start, end, _COLUMNS, symbols=symbols)
        if carried is not None:
            rows = pa.concat_tables([carried, rows]).unify_dictionaries()
        last = end == trading_day.session_bounds(day)[1]
        rows, carried = _in_order(rows, last)
        yield from _split(rows)


def _windows(captures: "Captures", day: date) -> list[tuple[int, int]]:
    """Spans of receive time with about _WINDOW_ROWS each."""
    start, end = trading_day.session_bounds(day)
    n = captures.rows(day) // _WINDOW_ROWS + 1
    if n == 1:
        return [(start, end)]
    found = captures._batches("ticks", start, end - 1, ["recv_ns"])
    times = [batch["recv_ns"].to_numpy()[:: max(1, n * 100)] for batch in found]
    cuts = np.quantile(np.concatenate(times), np.arange(1, n) / n, method="nearest").tolist()
    edges = [start, *sorted({c for c in cuts if start < c < end}), end]
    return list(pairwise(edges))


def _in_order(rows: pa.Table, last: bool) -> tuple[pa.Table, pa.Table | None]:
    """Rows in the order of application: by MsgSeqNum inside a session, by receive time between sessions.

    Returns
    -------
    rows
        Rows to replay now.
    later : pyarrow.Table or None
        Rows of frames after a gap that is still open at the end of the window: they go into the next one.
    """
    session, seq, time_ns = (rows[c].to_numpy() for c in ("session", "seq", "recv_ns"))
    order = np.lexsort((np.arange(rows.num_rows), seq, session))
    flags = rows["flags"].to_numpy()[order]
    key = np.zeros(rows.num_rows, np.int64)
    waits = np.zeros(rows.num_rows, bool)
    edges = np.flatnonzero(np.diff(session[order])) + 1
    for part in np.split(np.arange(rows.num_rows), edges):
        if len(part):
            key[part] = np.maximum.accumulate(time_ns[order[part]])
            on_time = np.flatnonzero((flags[part] & Flags.DEFERRED) == 0)
            if not last:
                waits[part[on_time[-1] + 1 if len(on_time) else 0 :]] = True
    final = np.argsort(key, kind="stable")
    now, later = order[final[~waits[final]]], order[final[waits[final]]]
    return rows.take(pa.array(now)), rows.take(pa.array(later)) if len(later) else None


def _split(rows: pa.Table) -> Iterator[RecordedMessage]:
    if not rows.num_rows:
        return
    rows = rows.unify_dictionaries().combine_chunks()
    session, seq = rows["session"].to_numpy(), rows["seq"].to_numpy()
    change = np.flatnonzero((np.diff(session) != 0) | (np.diff(seq) != 0)) + 1
    edges = np.concatenate([[0], change, [rows.num_rows]])
    for begin in range(0, len(edges) - 1, _CHUNK):
        some = edges[begin : begin + _CHUNK + 1]
        rest = rows.slice(int(some[0]), int(some[-1] - some[0]))
        yield from _messages_of(rest, (some - some[0]).tolist())


def _messages_of(rows: pa.Table, edges: list[int]) -> Iterator[RecordedMessage]:
    chunk = _Chunk(rows)
    heads = rows.select(_HEAD).take(pa.array(edges[:-1])).to_pylist()
    flags = rows["flags"].to_numpy()[np.array(edges[1:]) - 1].tolist()
    for head, flag, (a, b) in zip(heads, flags, pairwise(edges), strict=True):
        scales = head.pop("price_scale"), head.pop("qty_scale")
        yield RecordedMessage(**head, flags=flag, scales=scales, _chunk=chunk, _first=a, _end=b)
