"""Replays a recorded day in the order its messages were applied, at any speed, through the live handler's books."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kfix_md.symbol_text import symbol_bytes
from recorder import schema, shape
from recorder.blocks import COLUMNS, Applier, Block, blocks
from recorder.schema import Flags

if TYPE_CHECKING:
    from kfix_md._handler import Handler
    from recorder.catalog import Captures

_SAME_DAY_NS = 10 * 3_600_000_000_000
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
_CHUNK = 2048  # rows that are converted to Python at a time
_CHUNKS = 64  # of a block that are kept: those of so many symbols
_BATCH = 1 << 16  # messages of a batch, at most
_AT_ONCE = 1 << 14  # messages of one call, for some milliseconds of which a thread that looks at the books may wait
_SIDES = {"bid": 0, "offer": 1, "trade": 2}
_ACTIONS = {"new": "279=0", "update": "279=1", "delete": "279=2", "leave": "279=2"}


class _Lists:
    """What messages of a block are made of, as lists of Python."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.recv_ns: list[int] = block.recv_ns.tolist()
        self.session: list[int] = block.session.tolist()
        self.seq: list[int] = block.seq.tolist()
        self.flags: list[int] = block.flags.tolist()
        self.starts: list[int] = block.starts.tolist()
        self.ends: list[int] = block.ends.tolist()
        self.instrument: list[int] = block.instrument.tolist()
        self._chunk = lru_cache(_CHUNKS)(self._read)

    def _read(self, number: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.block.rows.select(_CONTENT).slice(number * _CHUNK, _CHUNK).to_pylist()
        return rows

    def row(self, i: int) -> dict[str, Any]:
        """A row of the block."""
        return self._chunk(i // _CHUNK)[i % _CHUNK]


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

    __slots__ = ("_at", "_of", "flags", "recv_ns", "seq", "session")

    def __init__(self, lists: _Lists, at: int) -> None:
        self._of, self._at = lists, at
        self.recv_ns, self.session = lists.recv_ns[at], lists.session[at]
        self.seq, self.flags = lists.seq[at], lists.flags[at]

    def __repr__(self) -> str:
        return f"<{self.symbol} {self.level}, session {self.session}, MsgSeqNum {self.seq}, received {self.recv_ns}>"

    @property
    def symbol(self) -> str:
        return self._of.block.instruments[self._of.instrument[self._at]].symbol

    @property
    def level(self) -> str:
        return self._of.block.instruments[self._of.instrument[self._at]].level

    @property
    def scales(self) -> tuple[int, int]:
        one = self._of.block.instruments[self._of.instrument[self._at]]
        return one.price_scale, one.qty_scale

    @property
    def rows(self) -> pa.Table:
        """Its ticks; those of a snapshot begin with a clear row."""
        first = self._of.starts[self._at]
        return self._of.block.rows.slice(first, self._of.ends[self._at] - first)

    def entries(self) -> np.ndarray:
        """What a Book applies, as ENTRY_DTYPE; those of a snapshot begin with a CLEAR."""
        return self._of.block.entries[self._of.starts[self._at] : self._of.ends[self._at]]

    def fix(self) -> bytes:
        """A W or X with the same content, symbols and ids byte for byte; 49, 56 and 262 are `replay`, 52 is recv_ns."""
        snapshot = bool(self.flags & Flags.SNAPSHOT)
        found = [self._of.row(i) for i in range(self._of.starts[self._at], self._of.ends[self._at])]
        rows = [row for row in found if row["action"] != "clear"]
        event = rows[0]["event_ns"] if rows else self.recv_ns
        # 273 is a time of day on the day of 52; a stream recorded from a replay was received on another day
        sent = self.recv_ns if abs(event - self.recv_ns) < _SAME_DAY_NS else event
        body = [
            f"35={'W' if snapshot else 'X'}\x0134={self.seq}\x0149=REPLAY\x0152={_stamp(sent)}\x0156=REPLAY\x01"
            f"55={symbol_bytes(self.symbol).decode('latin-1')}\x01262=replay\x01268={len(rows)}"
        ]
        for row in rows:
            body += self._group(row, snapshot)
        crc = found[-1]["crc"]
        if crc is not None:
            body.append(f"5041={crc}")
        text = "\x01".join(body).encode("latin-1") + b"\x01"
        text = b"8=FIX.4.4\x019=%d\x01" % len(text) + text
        return text + b"10=%03d\x01" % (sum(text) % 256)

    def _group(self, row: dict[str, Any], snapshot: bool) -> list[str]:
        """The fields of one entry."""
        side, event, queue = row["side"], row["event_ns"], row["queue_ns"]
        price, qty = _decimal(row["price"], self.scales[0]), _decimal(row["qty"], self.scales[1])
        group = [] if snapshot else [_ACTIONS[row["action"]]]
        group.append(
            f"269={_SIDES[side]}\x01278={_id(row, price)}\x01270={price}\x01271={qty}\x01273={_stamp(event)[9:]}"
        )
        if queue is not None:
            group.append(f"5060={_iso(event)}\x015273={_iso(queue)}")
        if side == "trade":
            kind, aggressor = row["ord_type"], row["aggressor"]
            group += [f"40={2 if kind == 'limit' else 1}"] if kind else []
            group += [f"2446={2 if aggressor == 'sell' else 1}"] if aggressor else []
        return group


def _id(row: dict[str, Any], price: str) -> str:
    """278 of an entry: the order's id, or side and price as Kraken sends them on L2."""
    text, raw = row["order_text"], row["order_id"]
    if text is not None:
        return str(text)
    if raw is None:
        return f"{'O' if row['side'] == 'offer' else 'B'}{price}"
    # of a checkpoint's long id only the hash is known, which is as unique
    return shape.raw_text(schema.ID_KINDS.index(row["id_kind"]), raw) or raw.hex()


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
    applier = Applier(handler) if handler is not None else None
    for block in blocks(captures, day, symbols, None, COLUMNS):
        lists = _Lists(block)
        for first, end in block.parts:
            rows = applier.rows(block, first, end) if applier is not None else None
            for i in range(first, end):
                if speed:
                    begin = begin or (clock(), lists.recv_ns[i])
                    wait = begin[0] + (lists.recv_ns[i] - begin[1]) / 1e9 / speed - clock()
                    if wait > 0:
                        sleep(wait)
                if handler is not None and rows is not None:
                    handler.apply(block.messages, rows, i, i + 1)
                yield RecordedMessage(lists, i)


@dataclass
class MessageBatch:
    """Messages of a replay that were applied together, in their order; arrays are by message.

    Attributes
    ----------
    time_ns
        The books are as at this time: the end of the step, or the last message where there are no steps.
    recv_ns, session, seq, flags
        As in ticks; flags are recorder.Flags of the last row.
    symbol
        Index of each message's symbol in `symbols`.
    symbols
        Symbols so far; one list for all batches, which grows.
    """

    time_ns: int
    recv_ns: np.ndarray
    session: np.ndarray
    seq: np.ndarray
    flags: np.ndarray
    symbol: np.ndarray
    symbols: list[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.recv_ns)


def batches(
    captures: "Captures", day: date, symbols: list[str] | None, handler: "Handler | None", step: int | None
) -> Iterator[MessageBatch]:
    """Messages of a session date through `handler`, many at a time; see Captures.replay_batches."""
    applier = Applier(handler) if handler is not None else None
    names: list[str] = []
    due: int | None = None  # end of the step
    parts: list[list[np.ndarray]] = []  # of the step so far
    for block in blocks(captures, day, symbols):
        names += [name for name in dict.fromkeys(one.symbol for one in block.instruments) if name not in names]
        symbol = np.array([names.index(one.symbol) for one in block.instruments], np.int32)[block.instrument]
        columns = block.recv_ns, block.session, block.seq, block.flags, symbol
        if step is not None and due is None:
            due = (int(block.time[0]) // step + 1) * step
        for first, end in block.parts:
            rows = applier.rows(block, first, end) if applier is not None else None
            at = first
            while at < end:
                while step is not None and due is not None and block.time[at] >= due:
                    yield _batch(due, parts, names)
                    parts, due = [], due + step
                upto = min(end, at + _BATCH)
                if due is not None:
                    upto = at + int(np.searchsorted(block.time[at:upto], due))
                if handler is not None and rows is not None:
                    for some in range(at, upto, _AT_ONCE):
                        handler.apply(block.messages, rows, some, min(upto, some + _AT_ONCE))
                parts.append([values[at:upto] for values in columns])
                at = upto
                if due is None:
                    yield _batch(int(block.time[at - 1]), parts, names)
                    parts = []
    if parts and due is not None:
        yield _batch(due, parts, names)


def _batch(time_ns: int, parts: list[list[np.ndarray]], names: list[str]) -> MessageBatch:
    found = parts or [[np.zeros(0, kind) for kind in (np.int64, np.int32, np.int64, np.int32, np.int32)]]
    whole = found[0] if len(found) == 1 else [np.concatenate(values) for values in zip(*found, strict=True)]
    recv_ns, session, seq, flags, symbol = whole
    return MessageBatch(time_ns, recv_ns, session, seq, flags, symbol, names)
