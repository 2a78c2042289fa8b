"""Samples recorded books: their best levels at every step of a grid of time, or after every message."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kfix_md._book import OrderBook
from kfix_md._entry import ENTRY_DTYPE
from kfix_md.errors import UsageError
from recorder import _proof, derive, files, rebuild, schema, shape, trust
from recorder.compute import pc
from recorder.loss import CAUSES
from recorder.schema import Flags

if TYPE_CHECKING:
    from recorder.catalog import Captures

SIDES = ("bid", "ask")
# what levels and quantities follow from: not from checksums, times, or the places of orders at their price
_LEVEL_COLUMNS = [
    *("recv_ns", "session", "seq", "level", "side", "action", "flags"),
    *("price", "qty", "price_scale", "qty_scale"),
]
_ORDER_COLUMNS = [*_LEVEL_COLUMNS, "order_id", "id_kind", "order_text"]
MOST_LEVELS = 1000
_SAMPLES = 16_384  # in memory at a time
_FOREVER = (1 << 63) - 1
_NO_BOOK = "no snapshot of it was recorded before"
_LOST = "messages are missing, and no snapshot came since"
_NOTHING = np.zeros(0, ENTRY_DTYPE)
_NO_TIMES = np.zeros(0, np.int64)
_KNOWN = np.dtype([("recv_ns", np.int64), ("seq", np.int64), ("flags", np.int64), ("lost", bool)])


@dataclass(frozen=True)
class Wanted:
    """What to sample.

    Attributes
    ----------
    step
        ns between samples; None for one after every message.
    levels
        Levels of a side.
    price
        "int", "float" or "decimal".
    """

    symbol: str
    level: str | None
    start: int | None
    end: int | None
    step: int | None
    levels: int
    price: str

    def __post_init__(self) -> None:
        if not isinstance(self.levels, int) or not 1 <= self.levels <= MOST_LEVELS:
            raise UsageError(f"levels is {self.levels!r}: use 1 to {MOST_LEVELS}")
        if self.price not in shape.PRICES:
            raise UsageError(f'price is {self.price!r}: use "int", "float" or "decimal"')


def step_of(every: str | int | timedelta) -> int | None:
    """Nanoseconds between samples, None for `every="event"`; UsageError when it is no length of time."""
    return None if every == "event" else derive.duration(every)


def batches(cap: "Captures", wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """Samples of one symbol in order of time, a batch at a time; see Captures.depth_batches."""
    limits: dict[str, Any] = {"symbols": [wanted.symbol], "start": wanted.start, "end": wanted.end}
    paths = cap._files.of("ticks", wanted.start, wanted.end, [wanted.symbol])
    columns = _LEVEL_COLUMNS if wanted.level == "L2" else _ORDER_COLUMNS
    rows = (_of_level(batch, wanted.level) for batch in files.batches("ticks", paths, columns, **limits))
    sampler = Sampler(cap, wanted)
    for whole in whole_messages(rows):
        for part in derive.segments(whole):
            yield from sampler.take(part)
    yield from sampler.finish()


def tables(cap: "Captures", wanted: Wanted) -> list[pa.Table]:
    """The batches of `batches`, a table each: those of decimals may differ in type."""
    return [pa.Table.from_batches([batch]) for batch in batches(cap, wanted)]


def _of_level(batch: pa.RecordBatch, level: str | None) -> pa.RecordBatch:
    """Rows of a level, None for any; the batch itself where all are, as nearly always."""
    if level is None:
        return batch
    kept = schema._indices(batch["level"], schema.LEVELS) == schema.LEVELS.index(level)
    return batch if kept.all() else batch.filter(pa.array(kept))


def whole_messages(found: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows of one symbol such that no message is divided between two tables."""
    messages = rebuild.WholeMessages()
    for batch in found:
        whole = messages.add(pa.Table.from_batches([batch]))
        if whole is not None:
            yield whole


class _Messages:
    """Arrays by message of rows of one segment."""

    def __init__(self, rows: pa.Table, earliest: int) -> None:
        self.ends = rebuild.message_ends(rows)
        last = self.ends - 1
        # applied in this order: a message that waited in a gap is there when the one before it was
        self.time = np.maximum(np.maximum.accumulate(rows["recv_ns"].to_numpy()[last]), earliest)
        self.seq, self.flags = rows["seq"].to_numpy()[last], rows["flags"].to_numpy()[last]
        self.snapshot = (self.flags & Flags.SNAPSHOT) != 0


@dataclass
class _State:
    """One book while it is sampled; `last` is of its last message (a record of _KNOWN)."""

    book: OrderBook | None
    session: int
    service: str | None
    scales: tuple[int, int]
    last: np.ndarray = field(default_factory=lambda: np.zeros((), _KNOWN))


class Sampler:
    """Follows the books of one symbol, one for each session, level and precision, and samples the one used last."""

    def __init__(self, cap: "Captures", wanted: Wanted) -> None:
        self._cap, self._wanted = cap, wanted
        sessions = cap.sessions().to_pylist()
        self._services = {row["session"]: row["service"] for row in sessions}
        self._losses = cap._losses(wanted.start, wanted.end)
        self._untrusted = _Untrusted(cap, wanted, sessions)
        self._states: dict[tuple[int, str, int, int], _State] = {}
        self._now: _State | None = None
        self._next = wanted.start  # time of the next sample
        if wanted.start is not None:
            self._begin(wanted.start)

    def _begin(self, start: int) -> None:
        """The book as it was before the first sample."""
        book, found = self._cap._rebuild.book(self._wanted.symbol, self._wanted.level, start - 1)
        if book is not None:
            key = found.session, found.level, book.price_precision, book.qty_precision
            lost = bool(self._losses.between(found.base_ns, start - 1, found.session)) or not found.agrees
            self._now = self._states[key] = self._state(key, book)
            self._now.last = np.array((found.recv_ns, found.seq, found.flags, lost), _KNOWN)

    def _state(self, key: tuple[int, str, int, int], book: OrderBook | None) -> _State:
        return _State(book, key[0], self._services.get(key[0]), key[2:])

    def take(self, rows: pa.Table) -> Iterator[pa.RecordBatch]:
        """Apply the messages of one segment; the samples between them."""
        first = {name: rows[name][0].as_py() for name in ("session", "level", "price_scale", "qty_scale", "recv_ns")}
        recv_ns = first.pop("recv_ns")
        messages = _Messages(rows, int(self._now.last["recv_ns"]) if self._now else 0)
        if self._next is None and self._wanted.step is not None:
            self._next = -(-recv_ns // self._wanted.step) * self._wanted.step
        yield from self._between(int(messages.time[0]))
        key = tuple(first.values())
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = self._state(key, self._opened(rows, first, recv_ns))
        self._now = state
        yield from self._apply(state, messages, schema.entries(rows))

    def _opened(self, rows: pa.Table, first: dict[str, Any], recv_ns: int) -> OrderBook:
        """The book that the first rows of a session apply to: an empty one, unless the session began before."""
        if self._wanted.start is not None and rows["action"][0].as_py() != "clear":
            before = self._wanted.start - 1
            book, _ = self._cap._rebuild.book(self._wanted.symbol, first["level"], before, first["session"])
            if book is not None and (book.price_precision, book.qty_precision) == tuple(first.values())[2:]:
                return book
        limit = self._cap._rebuild.limit(first["session"], first["level"], recv_ns)
        scales = first["price_scale"], first["qty_scale"]
        return rebuild.new_book(rebuild.number_of(first["level"]), *scales, limit)

    def _apply(self, state: _State, m: _Messages, entries: np.ndarray) -> Iterator[pa.RecordBatch]:
        assert state.book is not None
        lost = self._lost(state, m)
        done = 0
        for times, until in self._samples(m):
            noted = self._depths(state.book, m, entries, done, int(until[-1]), until)
            done = int(until[-1])
            yield self._batch(state, times, noted, self._known(state, m, lost, until))
        self._depths(state.book, m, entries, done, len(m.ends), np.zeros(0, np.int64))
        state.last = self._known(state, m, lost, np.array([len(m.ends)]))[0]

    @staticmethod
    def _known(state: _State, m: _Messages, lost: np.ndarray, until: np.ndarray) -> np.ndarray:
        """The last message before each sample; `until` is how many of `m` come before it."""
        known = np.empty(len(until), _KNOWN)
        for name, values in (("recv_ns", m.time), ("seq", m.seq), ("flags", m.flags), ("lost", lost)):
            known[name] = values[until - 1]
        known[until == 0] = state.last
        return known

    def _depths(
        self, book: OrderBook, m: _Messages, entries: np.ndarray, done: int, upto: int, until: np.ndarray
    ) -> np.ndarray:
        """Apply messages [done, upto), and note the levels at `until`, counted from the first message."""
        first = int(m.ends[done - 1]) if done else 0
        last = int(m.ends[upto - 1]) if upto else 0
        ends = m.ends[done:upto] - first
        return _proof.depths(book, entries[first:last], ends, until - done, self._wanted.levels)

    def _samples(self, m: _Messages) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Times of the samples up to the last message, and how many messages come before each; some at a time."""
        if self._wanted.step is None:
            for a in range(0, len(m.ends), _SAMPLES):
                times = m.time[a : a + _SAMPLES]
                yield times, np.arange(a + 1, a + 1 + len(times))
        else:
            # another message may come at the very time of the last one: what is sampled then is known later
            for times in self._grid(int(m.time[-1])):
                yield times, np.searchsorted(m.time, times, "right")

    def _grid(self, end: int) -> Iterator[np.ndarray]:
        """Times of the next samples before `end`, some at a time."""
        step = self._wanted.step
        while step is not None and self._next is not None and self._next < end:
            times = self._next + step * np.arange(min(_SAMPLES, -(-(end - self._next) // step)))
            self._next = int(times[-1]) + step
            yield times

    def _lost(self, state: _State, m: _Messages) -> np.ndarray:
        """Messages after which the book is unproven, for messages before them were lost."""
        if not state.last["lost"] and not self._losses.spans(state.session):
            return np.zeros(len(m.ends), bool)
        fresh = derive._unproven(self._losses, state.session, int(state.last["recv_ns"]), m.time, m.snapshot)
        lost: np.ndarray = fresh | (state.last["lost"] & ~np.logical_or.accumulate(m.snapshot))
        return lost

    def _between(self, end: int) -> Iterator[pa.RecordBatch]:
        """Samples before `end`, when no message comes any more until then."""
        state = self._now or _State(None, 0, None, (0, 0))
        for times in self._grid(end):
            noted = np.zeros((4, self._wanted.levels, len(times)), np.int64)
            if state.book is not None:
                noted[:] = _proof.depths(state.book, _NOTHING, [], [0], self._wanted.levels)
            yield self._batch(state, times, noted, np.full(len(times), state.last))

    def finish(self) -> Iterator[pa.RecordBatch]:
        """Samples after the last message, as far as anything was recorded."""
        paths = self._cap._files.of("ticks", self._wanted.start, self._wanted.end)
        recorded = max((self._cap._files.span(path)[1] for path in paths), default=0) + 1
        yield from self._between(recorded if self._wanted.end is None else min(recorded, self._wanted.end))

    def _batch(self, state: _State, times: np.ndarray, noted: np.ndarray, known: np.ndarray) -> pa.RecordBatch:
        causes = _Causes(len(times))
        begins = self._untrusted.begins.get(state.service, _NO_TIMES)
        flags = trust.flags_at(times, known["flags"], known["recv_ns"], begins)
        for bits, values, why in reversed(trust.UNPROVEN):
            causes.add((flags & bits) == values, why)
        causes.add(known["lost"] | self._lost_since(state, times, known["recv_ns"]), _LOST)
        empty = np.zeros(len(times), bool)
        if state.book is None:
            causes.add(~empty, _NO_BOOK)
        for where, cause in self._untrusted.at(state.session, state.service, times):
            causes.add(where, cause)
            empty |= where
        columns = {
            "time_ns": pa.array(times),
            "symbol": pa.DictionaryArray.from_arrays(np.zeros(len(times), np.int32), [self._wanted.symbol]),
            "session": pa.array(np.full(len(times), state.session, np.int32), mask=known["recv_ns"] == 0),
            "recv_ns": pa.array(known["recv_ns"], mask=known["recv_ns"] == 0),
            "seq": pa.array(known["seq"], mask=known["recv_ns"] == 0),
        }
        columns |= self._levels(state.scales, noted, empty) | causes.columns()
        return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))

    def _lost_since(self, state: _State, times: np.ndarray, recv_ns: np.ndarray) -> np.ndarray:
        """Samples with a loss between their last message and themselves."""
        lost = np.zeros(len(times), bool)
        for opened, closed in self._losses.spans(state.session):
            lost |= (recv_ns <= closed) & (times >= opened)
        return lost

    def _levels(self, scales: tuple[int, int], noted: np.ndarray, empty: np.ndarray) -> dict[str, pa.Array]:
        columns: dict[str, pa.Array] = {}
        for side, name in enumerate(SIDES):
            absent = empty | (noted[2 * side + 1] == 0)
            formed = [_form(noted[2 * side + which], scales[which], absent, self._wanted.price) for which in range(2)]
            for i in range(self._wanted.levels):
                for kind, found in zip(("px", "qty"), formed, strict=True):
                    columns[f"{name}_{kind}_{i}"] = found[i]
        if self._wanted.price == "int":
            for which, kind in enumerate(("price_scale", "qty_scale")):
                columns[kind] = pa.array(np.full(len(empty), scales[which], np.int8))
        return columns


def _form(values: np.ndarray, scale: int, absent: np.ndarray, price: str) -> list[pa.Array]:
    """A column for each level of (levels, samples) values."""
    if price == "decimal":
        scales = pa.array(np.full(values.shape[1], scale, np.int8))
        exact = [shape.scaled(pa.array(level), scales, "decimal") for level in values]
        return [
            pc.if_else(pa.array(none), pa.scalar(None, level.type), level)
            for none, level in zip(absent, exact, strict=True)
        ]
    values = values / 10.0**scale if price == "float" else np.ascontiguousarray(values)
    bits = np.packbits(~absent, axis=1, bitorder="little")
    some: list[bool] = np.logical_or.reduce(absent, axis=1).tolist()
    kind, n = pa.from_numpy_dtype(values.dtype), values.shape[1]
    return [
        pa.Array.from_buffers(kind, n, [pa.py_buffer(valid) if none else None, pa.py_buffer(level)])
        for valid, none, level in zip(bits, some, values, strict=True)
    ]


class _Causes:
    """Why samples are not trusted: the last cause that was added counts."""

    def __init__(self, n: int) -> None:
        self._codes = np.zeros(n, np.int32)
        self._texts: list[str] = [""]

    def add(self, where: np.ndarray, cause: str) -> None:
        """Samples that are not to be trusted, and why."""
        if where.any():
            self._texts.append(cause)
            self._codes[where] = len(self._texts) - 1

    def columns(self) -> dict[str, pa.Array]:
        """The columns trusted and cause."""
        none = self._codes == 0
        causes = pa.array(np.array(self._texts, object)[self._codes], pa.string(), mask=none)
        return {"trusted": pa.array(none), "cause": causes}


class _Untrusted:
    """When readers of the feed did not trust the book of a symbol, by service, and when sessions ended.

    Attributes
    ----------
    begins
        When they trusted it again, by service: see trust.flags_at.
    """

    def __init__(self, cap: "Captures", wanted: Wanted, sessions: list[dict[str, Any]]) -> None:
        self._ended = {row["session"]: row for row in sessions if row["ended_ns"] is not None}
        self._spans: dict[str | None, list[tuple[int, int, str]]] = {}
        states = cap._coverage(wanted.symbol, wanted.start, wanted.end)
        for row in states.filter(pc.invert(states["trusted"])).to_pylist():
            self._add(row["service"], row["from_ns"], row["to_ns"], derive._cause(row))
        known = set(states["service"].to_pylist())
        self.begins = {name: trust.begins(states.filter(pc.equal(states["service"], name))) for name in known}
        for row in cap.gaps(symbol=wanted.symbol).to_pylist():
            if row["service"] not in known and row["cause"] not in CAUSES:
                self._add(row["service"], row["opened_ns"], row["closed_ns"], f"inside a gap ({row['cause']})")

    def _add(self, service: str | None, start: int, end: int | None, cause: str) -> None:
        self._spans.setdefault(service, []).append((start, _FOREVER if end is None else end, cause))

    def at(self, session: int, service: str | None, times: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
        """Samples that lie in such a time, and why they are not trusted then."""
        ended = self._ended.get(session)
        if ended is not None and ended["ended_ns"] <= times[-1]:
            yield times >= ended["ended_ns"], f"its session had ended ({ended['reason']})"
        for start, end, cause in self._spans.get(service, []):
            if start <= times[-1] and end > times[0]:
                yield (times >= start) & (times < end), cause
