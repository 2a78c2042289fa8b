"""Verifies captures: puts every recorded message through fresh books and compares each book with its checksum."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date

import numpy as np
import pyarrow as pa

from kfix_md import trading_day
from recorder import _proof, coverage, derive, files, rebuild, schema
from recorder.catalog import Captures
from recorder.compute import pc
from recorder.layout import TABLES
from recorder.loss import CAUSES, Losses
from recorder.proof import Proof, StreamProof
from recorder.schema import Flags

_LIVE_OK = Flags.CRC_CHECKED | Flags.CRC_OK
_COLUMNS = [*derive.BOOK_COLUMNS, "symbol"]

Prepare = Callable[[StreamProof, int], None]


def verify(captures: Captures, day: date | None = None, progress: Callable[[int], None] = lambda rows: None) -> Proof:
    """Rebuild every book from ticks alone and check each checksum that was checked live.

    Parameters
    ----------
    day
        One session date; all when None.
    progress
        Called with the number of rows of each batch.
    """
    streams: dict[tuple[int, str, str], StreamProof] = {}
    start, end = (None, None) if day is None else trading_day.session_bounds(day)
    paths = captures._files.of("ticks", start, None if end is None else end - 1)
    prepare = _preparing(captures, start)
    losses = captures._losses(start, end)
    for batch in files.batches("ticks", paths, _COLUMNS):
        _take(streams, batch, prepare, losses)
        progress(batch.num_rows)
    found = list(streams.values())
    gaps = captures.gaps(day)
    faults = [
        f"{s.symbol}: the last message of session {s.session} is not whole" for s in found if s.pending is not None
    ]
    faults += [str(one) for one in captures._files.complete.missing(TABLES, None if day is None else (day, day))]
    faults += _row_faults(captures, found) if day is None else []
    names = {r["session"]: r["service"] for r in captures.sessions().to_pylist()}
    services = {str(names.get(s.session)) for s in found}
    return Proof(found, gaps, uncovered(captures, day, found, gaps), faults, services)


def _preparing(captures: Captures, start: int | None) -> Prepare:
    """Gives a new stream the depth of its session, and its book of the date before where a session was kept."""

    def prepare(stream: StreamProof, at: int) -> None:
        stream.limit = files.attempt(lambda: captures._rebuild.limit(stream.session, stream.level, at))
        if start is not None:
            level = rebuild.number_of(stream.level)
            stream.book = captures.latest_book(stream.symbol, level, stream.session, start - 1)
            stream.sound = stream.book is not None

    return prepare


def _take(
    streams: dict[tuple[int, str, str], StreamProof], batch: pa.RecordBatch, prepare: Prepare, losses: Losses
) -> None:
    """Split a batch by symbol, session and level and check each part."""
    table = pa.Table.from_batches([batch])
    symbols = batch["symbol"].dictionary.to_pylist()
    codes = batch["symbol"].indices.to_numpy(zero_copy_only=False)
    session = batch["session"].to_numpy()
    level = schema._indices(batch["level"], schema.LEVELS)
    order = np.lexsort((level, session, codes))  # stable: arrival order stays inside a group
    keys = np.stack([codes[order], session[order], level[order]])
    edges = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
    for part in np.split(order, edges):
        if not len(part):
            continue
        one = part[0]
        key = (int(session[one]), symbols[codes[one]], schema.LEVELS[level[one]])
        stream = streams.get(key)
        if stream is None:
            stream = streams[key] = StreamProof(*key)
            prepare(stream, batch["recv_ns"][one].as_py())
        _stream(stream, table.take(pa.array(part)), losses)


def _stream(s: StreamProof, rows: pa.Table, losses: Losses) -> None:
    """Check the whole messages among `rows`; the rest waits for the next batch."""
    if s.pending is not None:
        rows, s.pending = pa.concat_tables([s.pending, rows]).unify_dictionaries(), None
    ends = rebuild.message_ends(rows)
    if not rows["flags"].to_numpy()[-1] & Flags.LAST:
        cut = int(ends[-2]) if len(ends) > 1 else 0
        s.pending = rows.slice(cut)
        rows = rows.slice(0, cut)
        if not cut:
            return
    for part in derive.segments(rows):
        _check(s, part, losses)


class _Messages:
    """Arrays by message of rows of one stream."""

    def __init__(self, rows: pa.Table) -> None:
        self.ends = rebuild.message_ends(rows)
        self.last = self.ends - 1
        first = np.r_[0, self.ends[:-1]]
        self.clears = pc.equal(rows["action"].cast(pa.string()), "clear").to_numpy()
        self.snapshot = self.clears[first]
        self.flags = rows["flags"].to_numpy()[self.last]
        self.time = rows["recv_ns"].to_numpy()[self.last]
        self.seq = rows["seq"].to_numpy()[self.last]
        self.crc = rows["crc"].fill_null(0).to_numpy()[self.last]
        self.has_crc = (self.flags & Flags.HAS_CRC) != 0
        self.unverified = (self.flags & Flags.UNVERIFIED) != 0
        self.failed_live = ((self.flags & _LIVE_OK) == Flags.CRC_CHECKED) & ~self.unverified

    def __len__(self) -> int:
        return len(self.ends)


def _check(s: StreamProof, rows: pa.Table, losses: Losses) -> None:
    m = _Messages(rows)
    scales = rows["price_scale"][0].as_py(), rows["qty_scale"][0].as_py()
    if s.book is None or (s.book.price_precision, s.book.qty_precision) != scales:
        s.book, s.sound = rebuild.new_book(rebuild.number_of(s.level), *scales, s.limit), False
    s.precisions = scales
    found, crossed = _proof.check(s.book, schema.entries(rows), m.ends, m.crc, m.has_crc)
    sound = np.zeros(len(m), bool)
    for a, b, good in _runs(s, m, losses):
        sound[a:b] = good
    s.crossed += int(crossed.sum())
    _count(s, m, found, sound)


def _runs(s: StreamProof, m: _Messages, losses: Losses) -> Iterator[tuple[int, int, bool]]:
    """(first message, end, sound) of runs between snapshots, losses and messages that the feed found wrong."""
    n, (after, during) = len(m), losses.marks(s.session, s.last_ns, m.time)
    marks = np.flatnonzero(m.snapshot | after | during).tolist()
    edges = sorted({0, n, *marks, *(np.flatnonzero(m.failed_live) + 1).tolist()} - {n + 1})
    for a, b in itertools.pairwise(edges):
        s.sound = bool((m.snapshot[a] or (s.sound and not after[a])) and not during[a])
        yield a, b, s.sound
        if m.failed_live[b - 1]:
            s.sound = False


def _count(s: StreamProof, m: _Messages, found: np.ndarray, sound: np.ndarray) -> None:
    """Add what messages showed; `found` is the rule that gives the checksum of each, 0 for none."""
    s.rows += len(m.clears) - int(m.clears.sum())
    s.messages += len(m)
    s.with_crc += int(m.has_crc.sum())
    s.failed_live += int(m.failed_live.sum())
    s.unverified += int(m.unverified.sum())
    s.unproven += int((~sound).sum())
    s.in_doubt += int(((m.flags & Flags.MAYBE_BAD_BOOK) != 0).sum())
    codes, counts = np.unique(found[sound & (found != 0)], return_counts=True)
    s.matched.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
    proven = found[sound & (found != 0)]
    if len(proven):
        s.code = int(proven[-1])
    must_match = m.has_crc & sound & ((m.flags & _LIVE_OK) == _LIVE_OK) & ~m.unverified
    bad = np.flatnonzero(must_match & (found == 0))
    s.failed += len(bad)
    if len(bad) and not s.first_failure:
        s.first_failure = {"recv_ns": int(m.time[bad[0]]), "seq": int(m.seq[bad[0]])}
    s.first_ns = s.first_ns or int(m.time[0])
    s.last_ns = int(m.time[-1])


def _row_faults(captures: Captures, streams: list[StreamProof]) -> list[str]:
    """Ended sessions that have more or fewer rows than the recorder decoded."""
    found: dict[int, int] = {}
    for s in streams:
        found[s.session] = found.get(s.session, 0) + s.rows
    return [
        f"session {row['session']} ({row['service']}) had {row['rows']} rows, {found.get(row['session'], 0)} are here"
        for row in captures.sessions().to_pylist()
        if row["ended_ns"] is not None and row["rows"] != found.get(row["session"], 0)
    ]


def uncovered(captures: Captures, day: date | None, streams: list[StreamProof], gaps: pa.Table) -> dict[str, float]:
    """Seconds inside the captures during which a symbol's book was not to be trusted, by symbol.

    From the states of its books; of services without any in these captures, from the gaps.
    """
    sessions = {r["session"]: r["service"] for r in captures.sessions().to_pylist()}
    begin = min((s.first_ns for s in streams if s.first_ns), default=0)
    end = max((s.last_ns for s in streams), default=0)
    spans: dict[tuple[str, str | None], list[tuple[int, int | None]]] = defaultdict(list)
    states = captures.coverage(day)
    known = {(row["symbol"], row["service"]) for row in states.select(["symbol", "service"]).to_pylist()}
    for row in coverage.dark(states):
        spans[row["symbol"], row["service"]].append((row["from_ns"], row["to_ns"]))
    rows = gaps.to_pylist()
    out: dict[str, float] = {}
    for symbol in {s.symbol for s in streams}:
        found: list[tuple[int, int | None]] = []
        for service in {sessions.get(s.session) for s in streams if s.symbol == symbol}:
            found += spans[symbol, service]
            found += [
                (r["opened_ns"], r["closed_ns"])
                for r in rows
                if r["symbol"] in (None, symbol) and r["service"] in (None, service)
                if (symbol, service) not in known or r["cause"] in CAUSES
            ]
        inside = [(max(a, begin), min(end if b is None else b, end)) for a, b in found]
        out[symbol] = _union(inside) / 1e9
    return out


def _union(spans: list[tuple[int, int]]) -> int:
    """Total length of spans that may overlap."""
    total, reach = 0, 0
    for a, b in sorted(spans):
        total += max(0, b - max(a, reach))
        reach = max(reach, b)
    return total
