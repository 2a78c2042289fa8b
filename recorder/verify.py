"""Verifies captures: puts every recorded message through fresh books and compares each book with its checksum."""

import itertools
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kfix_md import trading_day
from kfix_md.errors import CaptureError
from recorder import _proof, coverage, derive, files, layout, rebuild, schema
from recorder.catalog import Captures
from recorder.layout import TABLES, Tree
from recorder.loss import CAUSES, Losses
from recorder.merged import published
from recorder.proof import Proof, StreamProof
from recorder.schema import Flags

_CLEAR = schema.ACTIONS.index("clear")
# as ints: a name of an enum takes long to look up
_HAS_CRC, _CHECKED, _OK = int(Flags.HAS_CRC), int(Flags.CRC_CHECKED), int(Flags.CRC_OK)
_UNVERIFIED, _IN_DOUBT = int(Flags.UNVERIFIED), int(Flags.MAYBE_BAD_BOOK)
_LIVE_OK = _CHECKED | _OK
_COLUMNS = [*(name for name in derive.BOOK_COLUMNS if name != "event_ns"), "symbol"]
_LEVEL_COLUMNS = [name for name in _COLUMNS if name not in schema.OF_ORDERS]
_ALONE_ROWS = 2_000_000  # fewer are done before other processes have begun
_SHARES = 4  # of each process, so that they end together
_PROGRESS_S = 0.2

Prepare = Callable[[StreamProof, int, bool], None]


def verify(
    captures: Captures,
    day: date | None = None,
    progress: Callable[[int], None] = lambda rows: None,
    processes: int = 1,
) -> Proof:
    """Rebuild every book from ticks alone and check each checksum that was checked live.

    Parameters
    ----------
    day
        One session date; all when None.
    progress
        Called with the number of rows of each batch.
    processes
        How many work at it, where there are rows enough; each has the books of some symbols.
    """
    if processes > 1 and captures.rows(day) > _ALONE_ROWS:
        found = _by_processes(captures, day, progress, processes)
    else:
        found = streams(captures, day, None, progress)
    gaps = captures.gaps(day)
    faults = [f"{s.symbol}: the last message of session {s.session} is not whole" for s in found if s.cut]
    faults += [str(one) for one in captures._files.complete.missing(TABLES, None if day is None else (day, day))]
    faults += _row_faults(captures, found) if day is None else []
    names = {r["session"]: r["service"] for r in captures.sessions().to_pylist()}
    services = {str(names.get(s.session)) for s in found}
    return Proof(found, gaps, uncovered(captures, day, found, gaps), faults, services)


def streams(
    captures: Captures, day: date | None, symbols: list[str] | None, progress: Callable[[int], None]
) -> list[StreamProof]:
    """What the messages of some symbols (all when None) showed, by session, symbol and level."""
    found: dict[tuple[int, str, str], StreamProof] = {}
    start, end = (None, None) if day is None else trading_day.session_bounds(day)
    paths = captures._files.of("ticks", start, None if end is None else end - 1, symbols)
    prepare = _preparing(captures, start)
    losses = captures._losses(start, end)
    for columns, some in itertools.groupby(paths, _columns_of):
        for batch in files.batches("ticks", list(some), columns, symbols=symbols):
            if batch.num_rows:
                _take(found, batch, prepare, losses)
                progress(batch.num_rows)
    for s in found.values():
        s.cut = s.whole is not None and s.whole.pending is not None
        s.book = s.whole = None
    return list(found.values())


def _columns_of(path: Path) -> list[str]:
    """The columns that the books of a file are made of."""
    return _LEVEL_COLUMNS if layout.is_compacted(path.name) and files.levels(path) == {"L2"} else _COLUMNS


# ---- processes ----


def _by_processes(
    captures: Captures, day: date | None, progress: Callable[[int], None], processes: int
) -> list[StreamProof]:
    """`streams` of all symbols, some of them in each process."""
    context = multiprocessing.get_context("spawn")
    counted = context.Value("q", 0)
    parts = _shares(captures, day, processes)
    seen = 0
    with ProcessPoolExecutor(min(processes, len(parts)), context, _share_count, (counted,)) as pool:
        waiting = {pool.submit(_part, captures.tree.again(), day, symbols) for symbols in parts}
        found: list[StreamProof] = []
        while waiting:
            done, waiting = wait(waiting, _PROGRESS_S, FIRST_COMPLETED)
            progress(counted.value - seen)
            seen = counted.value
            for one in done:
                found += one.result()
    return found


def _shares(captures: Captures, day: date | None, processes: int) -> list[list[str]]:
    """The symbols in shares with about as many rows each; more of them than processes where files are by symbol."""
    start, end = (None, None) if day is None else trading_day.session_bounds(day)
    paths = captures._files.of("ticks", start, None if end is None else end - 1)
    counts: dict[str, int] = defaultdict(int)
    for batch in files.batches("ticks", paths, ["symbol"]):
        column = batch["symbol"]
        rows = np.bincount(column.indices.to_numpy(zero_copy_only=False), minlength=len(column.dictionary))
        for name, n in zip(column.dictionary.to_pylist(), rows.tolist(), strict=True):
            counts[name] += n
    names = sorted(name for name, n in counts.items() if n)
    by_symbol = all(layout.is_compacted(path.name) for path in paths)
    shares = processes * _SHARES if by_symbol else processes  # else each reads all files
    before = np.cumsum([counts[name] for name in names]) - counts[names[0]]
    place = before * shares // (sum(counts.values()) or 1)
    found: dict[int, list[str]] = defaultdict(list)
    for name, share in zip(names, place.tolist(), strict=True):
        found[share].append(name)
    return sorted(found.values(), key=lambda share: -sum(counts[name] for name in share))


_counted: list[Any] = []  # of a process that has a share: the rows that all of them have read


def _share_count(counted: Any) -> None:
    _counted.append(counted)


def _part(root: str | Tree, day: date | None, symbols: list[str]) -> list[StreamProof]:
    """The share of one process."""
    pa.set_cpu_count(1)

    def progress(rows: int) -> None:
        with _counted[0].get_lock():
            _counted[0].value += rows

    try:
        return streams(Captures(root), day, symbols, progress)
    except CaptureError as error:  # of a kind that cannot be sent to another process, it may be
        raise CaptureError(str(error)) from None


# ---- one batch ----


def _preparing(captures: Captures, start: int | None) -> Prepare:
    """Gives a new stream the depth of its session, and its book of the date before where a session was kept."""

    def prepare(stream: StreamProof, at: int, fresh: bool) -> None:
        stream.limit = files.attempt(lambda: captures._rebuild.limit(stream.session, stream.level, at))
        if start is not None and not fresh:
            level = rebuild.number_of(stream.level)
            stream.book = captures.latest_book(stream.symbol, level, stream.session, start - 1)
            stream.sound = stream.book is not None

    return prepare


def _take(
    found: dict[tuple[int, str, str], StreamProof], batch: pa.RecordBatch, prepare: Prepare, losses: Losses
) -> None:
    """Split a batch by symbol, session and level and check each part."""
    table = pa.Table.from_batches([batch])
    symbols = batch["symbol"].dictionary.to_pylist()
    codes = batch["symbol"].indices.to_numpy(zero_copy_only=False)
    session = batch["session"].to_numpy()
    level = schema._indices(batch["level"], schema.LEVELS)
    for part, first in _parts(table, codes, session, level):
        key = (int(session[first]), symbols[codes[first]], schema.LEVELS[level[first]])
        stream = found.get(key)
        if stream is None:
            stream = found[key] = StreamProof(*key, whole=rebuild.WholeMessages())
            prepare(stream, batch["recv_ns"][first].as_py(), batch["action"][first].as_py() == "clear")
        assert stream.whole is not None
        whole = stream.whole.add(part)
        if whole is not None:
            for segment in derive.segments(whole):
                _check(stream, segment, losses)


def _parts(table: pa.Table, *keys: np.ndarray) -> Iterator[tuple[pa.Table, int]]:
    """(rows with the same keys, index of the first of them), in their order."""
    change = np.zeros(table.num_rows - 1, bool)
    for key in keys:
        change |= key[1:] != key[:-1]
    edges = [0, *(np.flatnonzero(change) + 1).tolist(), table.num_rows]
    runs = list(zip(*(key[edges[:-1]].tolist() for key in keys), strict=True))
    if len(set(runs)) == len(runs):  # as in compacted files: nothing is copied
        yield from ((table.slice(a, b - a), a) for a, b in itertools.pairwise(edges))
        return
    order = np.lexsort(keys[::-1])  # stable: arrival order stays inside a part
    change = np.zeros(len(order) - 1, bool)
    for key in keys:
        change |= key[order[1:]] != key[order[:-1]]
    for part in np.split(order, np.flatnonzero(change) + 1):
        yield table.take(pa.array(part)), int(part[0])


class _Messages:
    """Arrays by message of rows of one stream, which are `entries` as well."""

    def __init__(self, rows: pa.Table, entries: np.ndarray) -> None:
        self.ends = rebuild.message_ends(rows)
        self.last = self.ends - 1
        first = np.r_[0, self.ends[:-1]]
        self.clears = entries["action"] == _CLEAR
        self.snapshot = self.clears[first]
        self.flags = rows["flags"].to_numpy()[self.last]
        self.time = rows["recv_ns"].to_numpy()[self.last]
        self.seq = rows["seq"].to_numpy()[self.last]
        self.crc = schema.stored_values(rows["crc"], np.int64)[self.last]
        self.has_crc = (self.flags & _HAS_CRC) != 0
        self.unverified = (self.flags & _UNVERIFIED) != 0
        self.failed_live = ((self.flags & _LIVE_OK) == _CHECKED) & ~self.unverified

    def __len__(self) -> int:
        return len(self.ends)


def _check(s: StreamProof, rows: pa.Table, losses: Losses) -> None:
    entries = schema.entries(rows)
    m = _Messages(rows, entries)
    scales = rows["price_scale"][0].as_py(), rows["qty_scale"][0].as_py()
    if s.book is None or (s.book.price_precision, s.book.qty_precision) != scales:
        s.book, s.sound = rebuild.new_book(rebuild.number_of(s.level), *scales, s.limit), False
    s.precisions = scales
    found, crossed = _proof.check(s.book, entries, m.ends, m.crc, m.has_crc)
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
    s.in_doubt += int(((m.flags & _IN_DOUBT) != 0).sum())
    proven = found[sound & (found != 0)]
    if len(proven) and (proven == proven[0]).all():  # one rule, as nearly always
        s.matched[int(proven[0])] += len(proven)
    else:
        codes, counts = np.unique(proven, return_counts=True)
        s.matched.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
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

    From the states of its books; of services without any in these captures, from the gaps; and from losses of what was
    recorded. Of a hot pair only what is read of its copies counts: what one lost is taken from the other.
    """
    sessions = {r["session"]: r["service"] for r in captures.sessions().to_pylist()}
    begin = min((s.first_ns for s in streams if s.first_ns), default=0)
    end = max((s.last_ns for s in streams), default=0)
    spans: dict[tuple[str, str | None], list[tuple[int, int | None]]] = defaultdict(list)
    states = captures.coverage(day)
    known = {(row["symbol"], row["service"]) for row in states.select(["symbol", "service"]).to_pylist()}
    for row in coverage.dark(states):
        spans[row["symbol"], row["service"]].append((row["from_ns"], row["to_ns"]))
    rows, pairs = gaps.to_pylist(), captures.pairs()
    out: dict[str, float] = {}
    for symbol in {s.symbol for s in streams}:
        found: list[tuple[int, int | None]] = []
        for service in {sessions.get(s.session) for s in streams if s.symbol == symbol}:
            found += spans[symbol, service]
            lost = [
                r
                for r in rows
                if r["symbol"] in (None, symbol) and r["service"] in (None, service)
                if (symbol, service) not in known or r["cause"] in CAUSES
            ]
            if lost and service in pairs:
                read = {r["gap"] for r in published(captures).gaps(day, symbol).to_pylist()}
                lost = [r for r in lost if r["gap"] in read]
            found += [(r["opened_ns"], r["closed_ns"]) for r in lost]
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
