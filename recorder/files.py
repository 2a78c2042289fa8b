"""Finds the Parquet files that can hold what a query asks for and reads them; damaged and vanishing files included."""

import contextlib
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.compute import Expression

from kfix_md import trading_day
from kfix_md.errors import CaptureError
from recorder import layout, origins, schema
from recorder.compute import pc
from recorder.layout import FileName, Tree
from recorder.missing import Complete, MissingFiles, Span
from recorder.notes import Note, Notes

T = TypeVar("T")
_FILTERED = {"symbol", "level", "session", "seq", "side"}  # columns that `where` may use
_FEW = 32  # up to so many files are all looked at when they are read, not before
_ALWAYS = -(1 << 63), (1 << 63) - 1
_NEVER = _ALWAYS[1], _ALWAYS[0]  # of a file without rows
_ATTEMPTS = 5
_OF_SESSIONS = ("ticks", "checkpoints")  # tables that are read of some sessions alone
_SMALL = 1 << 18  # bytes of a file that is read in one piece
_FEW_ROWS = 8192  # a file or batch this small is read without a look at its symbols first, and joined with others
_BATCH_ROWS = 131_072
_WHOLE = -1  # group of a piece that is a whole file
_ROW_BYTES = 12  # of a row of ticks in a file, about


class Vanished(CaptureError):
    """A file was replaced by compaction between listing and reading: list again."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} was compacted while it was read: read again from the start")


def attempt(read: Callable[[], T]) -> T:
    """What `read` returns; called again when compaction replaces the files while it reads."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return read()
        except Vanished:
            continue
    return read()


class SomeOf(type(Path())):  # type: ignore[misc]
    """A finished file of which the rows of some sessions are read, as if it had no others."""

    sessions: frozenset[int] | None = None
    whole: Path  # the file itself, which may be in a lake

    def __new__(cls, path: Path, sessions: frozenset[int]) -> "SomeOf":
        """The same path with these sessions."""
        made: SomeOf = super().__new__(cls, path)
        made.sessions = sessions
        made.whole = path
        return made

    def __init__(self, path: Path, sessions: frozenset[int]) -> None:
        if sys.version_info >= (3, 12):
            super().__init__(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that reads a part of the files."""
        return SomeOf, (self.whole, self.sessions)

    def kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of the sessions."""
        mask = pc.is_in(batch["session"], pa.array(sorted(self.sessions or ()), pa.int32()))
        return batch.filter(mask)


class Files:
    """The finished files of one captures directory.

    Parameters
    ----------
    sessions
        Gives the sessions of which rows are read; None: all.
    """

    def __init__(self, tree: Tree, sessions: Callable[[], frozenset[int]] | None = None) -> None:
        self.tree = tree
        self.complete = Complete(tree)
        self._sessions = sessions
        self._notes: Notes = tree.notes or Notes(tree)
        self._spans: dict[str, dict[str, tuple[int, int]]] = {}  # of live files, by folder and name

    def of(
        self, table: str, start: int | None = None, end: int | None = None, symbols: Collection[str] | None = None
    ) -> list[Path]:
        """Files that may hold rows (of these symbols) received in [start, end), by session date and arrival."""
        found = self._around(table, start, end)
        if symbols is not None:
            found = [path for path in found if self.may_hold(path, symbols, start, end)]
        if self._sessions is None or table not in _OF_SESSIONS:
            return found
        sessions = self._sessions()
        return [SomeOf(path, sessions) for path in found]

    def may_hold(self, path: Path, symbols: Collection[str], start: int | None, end: int | None) -> bool:
        """False when the notes show that a file has no rows of these symbols received in [start, end)."""
        return self._notes.may_hold(path, symbols, start, end)

    def recorded(self, symbol: str, start: int | None, end: int | None) -> bool:
        """Whether there are ticks of a symbol on any session date that [start, end) touches."""
        paths = self.of("ticks", *_whole_dates(start, end))
        return any(self.may_hold(path, [symbol], None, None) and _holds(path, symbol) for path in paths)

    def missing(self, tables: Collection[str], start: int | None, end: int | None) -> list[Span]:
        """Where rows of these tables are missing with their files, around [start, end)."""
        days = (
            date.min if start is None else trading_day.session_date(start),
            date.max if end is None else trading_day.session_date(end - 1),
        )
        return [self._times(one) for one in self.complete.missing(tables, days)]

    def _times(self, one: MissingFiles) -> Span:
        """Missing files have rows of the time between the files of ticks before and after them in the journal."""
        names = [None if path is None else FileName.parse(path.name) for path in (one.before, one.after)]
        begin, stop = (0 if names[0] is None else names[0].end), (None if names[1] is None else names[1].start)
        ticks = [(name, path) for path in self._ticks_near(one) if (name := FileName.parse(path.name)) is not None]
        before = [path for name, path in ticks if name.end <= begin]
        after = [path for name, path in ticks if stop is not None and name.start >= stop]
        from_ns = next((span[1] for path in reversed(before) if (span := self.span(path)) != (0, 0)), 0)
        to_ns = next((span[0] for path in after if (span := self.span(path)) != (0, 0)), None)
        return Span(one.table, from_ns, to_ns)

    def _ticks_near(self, one: MissingFiles) -> list[Path]:
        """Files of ticks of the session dates of `one` and of those next to them, in the order of the journal."""
        known = [layout.date_of(path) for path in (one.before, one.after) if path is not None]
        days = self.tree.dates("ticks")
        wanted = days[max(0, bisect_left(days, min(known)) - 1) : bisect_right(days, max(known)) + 1] if known else days
        return sorted((path for day in wanted for path in self.tree.files("ticks", day)), key=_position)

    def recorded_until(self) -> int:
        """The last receive time in ticks and status."""
        paths = [
            path for table in ("ticks", "status") for d in self.tree.dates(table)[-1:] for path in self._last(table, d)
        ]
        return max((self.span(path)[1] for path in paths), default=0)

    def _last(self, table: str, day: date) -> list[Path]:
        """Of a session date the files that may hold its last row: all parts of a compaction, and the last live ones."""
        self._notes.refresh(table, day)
        found = self.tree.files(table, day)
        found = [path for path in found if self.tree.settled(path)]
        return [path for path in found if layout.is_compacted(path.name)] + found[-2:]

    def _around(self, table: str, start: int | None, end: int | None) -> list[Path]:
        first = trading_day.session_date(start) if start is not None else date.min
        last = trading_day.session_date(end - 1) if end is not None else date.max
        found = []
        for day in self.tree.dates(table):
            if first <= day <= last:
                names = self.tree.names(table, day)
                self._notes.refresh(table, day)
                whole = trading_day.session_bounds(day)
                cut = "recv_ns" in schema.SCHEMAS[table].names and (start or 0, end or whole[1]) != whole
                if len(names) > _FEW and cut:
                    names = self._between(table, day, names, start, end)
                found += [self.tree.file(table, day, name) for name in names]
        return found

    def _between(self, table: str, day: date, names: list[str], start: int | None, end: int | None) -> list[str]:
        """Files with rows received in [start, end), each by its own span: a clock that was set back leaves no order."""
        spans = self._spans.setdefault(str(self.tree.partition(table, day)), {})
        for name in names:
            if name not in spans and not layout.is_compacted(name):
                spans[name] = self._limits_of(self.tree.file(table, day, name))
        low, high = _ALWAYS[0] if start is None else start, _ALWAYS[1] if end is None else end
        return [name for name in names if (span := spans.get(name, _ALWAYS))[1] >= low and span[0] < high]

    def _limits_of(self, path: Path) -> tuple[int, int]:
        """Lowest and highest recv_ns in a live file, which never changes; _ALWAYS where it is not known."""
        note = self._notes.of(path)
        if note is None:
            return _span(path) or _ALWAYS
        return _NEVER if note.first_ns is None or note.last_ns is None else (note.first_ns, note.last_ns)

    def note(self, path: Path) -> Note | None:
        """What the recorder noted of a live file; None where it is not known."""
        return self._notes.of(path)

    def span(self, path: Path) -> tuple[int, int]:
        """Lowest and highest recv_ns in a file."""
        note = self._notes.of(path)
        if note is not None and note.first_ns is not None and note.last_ns is not None:
            return note.first_ns, note.last_ns
        return _span(path) or (0, 0)


def _position(path: Path) -> int:
    name = FileName.parse(path.name)
    return 0 if name is None else name.start


def _whole_dates(start: int | None, end: int | None) -> tuple[int | None, int | None]:
    """[start, end) widened to whole session dates."""
    first = None if start is None else trading_day.session_bounds(trading_day.session_date(start))[0]
    last = None if end is None else trading_day.session_bounds(trading_day.session_date(end - 1))[1]
    return first, last


@dataclass(frozen=True)
class Footer:
    """Footer of a finished file, read once.

    Attributes
    ----------
    symbols, levels, times
        Lowest and highest symbol, level and receive time of each row group, None where unknown.
    present
        Symbols of those row groups that had to be looked into.
    constant
        Of each row group, columns of schema.CONSTANT with one value in all of its rows, and that value.
    """

    meta: pq.FileMetaData
    symbols: list[tuple[str, str] | None]
    levels: list[tuple[str, str] | None]
    times: list[tuple[int, int] | None]
    constant: list[dict[str, Any]]
    present: dict[int, frozenset[str | None]] = field(default_factory=dict)

    @property
    def outdated(self) -> bool:
        """Whether the file was written with an older schema."""
        version: bytes = (self.meta.metadata or {}).get(b"kfix_md.schema", b"")
        return version.decode() != schema.VERSION

    def groups(self, symbols: Collection[str] | None, start: int | None, end: int | None) -> list[int]:
        """Row groups that may hold rows of these symbols received in [start, end)."""
        found = []
        for i, (name, time) in enumerate(zip(self.symbols, self.times, strict=True)):
            if name is not None and symbols is not None and not any(name[0] <= s <= name[1] for s in symbols):
                continue
            if time is None or ((start is None or time[1] >= start) and (end is None or time[0] < end)):
                found.append(i)
        return found


def footer(path: Path) -> Footer:
    """The footer of a finished file; CaptureError that names it when it is damaged."""
    return _opened(path)[0]


_footers: dict[tuple[str, int, int], Footer] = {}  # by path, inode, time of change; the oldest goes first
_FOOTERS = 4096


def _cached(key: tuple[str, int, int], file: pq.ParquetFile) -> Footer:
    while len(_footers) >= _FOOTERS:
        with contextlib.suppress(KeyError, RuntimeError):  # another thread removed it
            _footers.pop(next(iter(_footers)))
    meta = file.metadata
    symbols, levels, times = (_limits(meta, column) for column in ("symbol", "level", "recv_ns"))
    _footers[key] = seen = Footer(meta, symbols, levels, times, _constant(meta))
    return seen


def _constant(meta: pq.FileMetaData) -> list[dict[str, Any]]:
    """Columns of schema.CONSTANT with one value in a row group, for each row group, by their statistics."""
    found: list[dict[str, Any]] = [{} for _ in range(meta.num_row_groups)]
    for name in schema.CONSTANT:
        for known, pair in zip(found, _limits(meta, name, nulls=False), strict=True):
            if pair is not None and pair[0] == pair[1]:
                known[name] = pair[0]
    return found


def _opened(path: Path) -> tuple[Footer, pq.ParquetFile | None]:
    """The footer of a finished file, and the file where it had to be opened for that."""
    path = getattr(path, "whole", path)
    with _reading(path):
        stat = path.stat()
    key = str(path), stat.st_ino, stat.st_mtime_ns
    seen = _footers.get(key)
    if seen is not None:
        return seen, None
    file = open_file(path)
    seen = _cached(key, file)
    if (feed := getattr(path, "feed", None)) is not None:
        for known in seen.constant:
            known["feed"] = feed  # that of the partition in a lake
    return seen, file


def _limits(meta: pq.FileMetaData, name: str, *, nulls: bool = True) -> list[Any]:
    """(lowest, highest) value of a column in each row group, None where unknown or, without `nulls`, some are null."""
    names = [meta.schema.column(i).name for i in range(meta.num_columns)]
    if name not in names:
        return [None] * meta.num_row_groups
    stats = [meta.row_group(i).column(names.index(name)).statistics for i in range(meta.num_row_groups)]
    known = [s is not None and s.has_min_max and (nulls or s.null_count == 0) for s in stats]
    return [(s.min, s.max) if sure else None for s, sure in zip(stats, known, strict=True)]


def _span(path: Path) -> tuple[int, int] | None:
    known = [t for t in footer(path).times if t is not None]
    return (min(k[0] for k in known), max(k[1] for k in known)) if known else None


def open_file(path: Path, meta: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """A finished file; CaptureError that names it when it is damaged."""
    path = getattr(path, "whole", path)
    remote = getattr(path, "source", None)  # of a file in a lake
    with _reading(path):
        small = path.stat().st_size <= _SMALL
        source = pa.BufferReader(path.read_bytes()) if small else path if remote is None else remote()
        few = remote is not None and not small  # requests: neighbouring columns in one
        return pq.ParquetFile(source, metadata=meta, page_checksum_verification=True, pre_buffer=few)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file that cannot be read, and why: it is gone, the machine does not give it, or it is damaged."""
    try:
        yield
    except FileNotFoundError:
        raise Vanished(path) from None
    except MemoryError:  # also Arrow's
        raise
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise CaptureError(f"{path} cannot be read: {error.strerror or _line(error)}") from error
        text = f"{path} is damaged ({_line(error)}): restore it, or record it again from the journal"
        raise CaptureError(text) from None


def batches(
    table: str,
    paths: list[Path],
    columns: list[str] | None = None,
    where: Expression | None = None,
    *,
    symbols: Collection[str] | None = None,
    start: int | None = None,
    end: int | None = None,
    rows: int = _BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Rows of `paths` in order, a batch at a time; row groups without such rows are not read.

    Parameters
    ----------
    table
        Name of the table the files belong to.
    columns
        Columns to return, all when None.
    where
        Filter over columns in `_FILTERED`.
    symbols
        Symbols to return, all when None.
    start, end
        Receive times in [start, end), ns; ignored for a table without recv_ns.
    rows
        Rows of a batch, at most.
    """
    wanted = schema.SCHEMAS[table]
    names = list(columns) if columns is not None else wanted.names
    by_time = "recv_ns" in wanted.names and (start is not None or end is not None)
    more = {"symbol"} if symbols is not None else set()
    more |= ({"recv_ns"} if by_time else set()) | (_FILTERED if where is not None else set())
    needed = list(dict.fromkeys([*schema.stored(table, names), *(n for n in wanted.names if n in more)]))
    for whole in _gathered(_read(table, paths, needed, symbols, start, end, rows), rows):
        batch = _selected(whole, symbols, start if by_time else None, end if by_time else None)
        if where is None:
            yield schema.given(batch, names)
        elif batch.num_rows:
            kept = pa.Table.from_batches([batch]).filter(where).combine_chunks()
            for part in kept.to_batches():
                yield schema.given(part, names)


def _read(
    table: str,
    paths: list[Path],
    needed: list[str],
    symbols: Collection[str] | None,
    start: int | None,
    end: int | None,
    rows: int,
) -> Iterator[pa.RecordBatch]:
    """All rows of the row groups that may hold these symbols in [start, end)."""
    for path in paths:
        if isinstance(path, SomeOf):
            more = [*needed, *({"session"} - set(needed))]
            for batch in _read(table, [path.whole], more, symbols, start, end, rows):
                yield path.kept(batch).select(needed)
            continue
        with _reading(path):
            seen, opened = _opened(path)
            groups = [g for g in seen.groups(symbols, start, end) if not _known_without(seen, g, symbols)]
            if not groups:
                continue
            with opened or open_file(path, seen.meta) as file:
                if seen.outdated and set(schema.SOURCE) <= set(seen.meta.schema.names):
                    for batch in _groups(table, seen, file, groups, needed, symbols, rows):
                        yield schema.current(table, batch, needed)
                elif seen.outdated:  # its rows are named by their sessions, see origins
                    stored = [*needed, *({"session"} - set(needed))]
                    origin = origins.of(path)
                    old = _groups(table, seen, file, groups, stored, symbols, rows)
                    yield from (schema.current(table, origin.added(batch, needed), needed) for batch in old)
                else:
                    yield from _groups(table, seen, file, groups, needed, symbols, rows)


def _groups(
    table: str,
    seen: Footer,
    file: pq.ParquetFile,
    groups: list[int],
    needed: list[str],
    symbols: Collection[str] | None,
    rows: int,
) -> Iterator[pa.RecordBatch]:
    """The rows of those of `groups` that hold one of these symbols."""
    if seen.meta.num_rows <= _FEW_ROWS:
        yield from _few(table, seen, file, groups, needed, symbols)
        return
    yield from _decoded(table, seen, file, [g for g in groups if _in_group(seen, file, g, symbols)], needed, rows)


def _decoded(
    table: str, seen: Footer, file: pq.ParquetFile, groups: list[int], needed: list[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """All rows of `groups`; columns of which the one value is known are not read."""

    def known(group: int) -> dict[str, Any]:
        return {} if seen.outdated else {n: value for n, value in seen.constant[group].items() if n in needed}

    for constant, some in groupby(groups, known):
        # without any column it would not be known how many rows there are
        stored = [name for name in needed if name not in constant] or needed
        for batch in file.iter_batches(rows, list(some), stored, use_threads=False):
            yield batch if stored == needed else _completed(table, batch, needed, constant)


def _completed(table: str, batch: pa.RecordBatch, needed: list[str], constant: dict[str, Any]) -> pa.RecordBatch:
    """A batch with the columns that were not read."""
    wanted = [schema.SCHEMAS[table].field(name) for name in needed]
    arrays = [
        schema.one_value(one.type, constant[one.name], batch.num_rows) if one.name in constant else batch[one.name]
        for one in wanted
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(wanted))


@dataclass(frozen=True)
class Piece:
    """A row group of a finished file.

    Attributes
    ----------
    span
        Lowest and highest receive time.
    rows
        How many rows it has, about.
    """

    path: Path
    group: int
    span: tuple[int, int]
    rows: int


def pieces(found: Files, paths: list[Path], symbols: Collection[str] | None = None) -> list[Piece]:
    """The row groups of `paths` that may hold rows of these symbols; live files with a note are not opened for that."""
    out = []
    for path in paths:
        note = None if layout.is_compacted(path.name) else found.note(path)
        if note is not None:
            if note.may_match(symbols, None, None) and note.first_ns is not None and note.last_ns is not None:
                out.append(Piece(path, _WHOLE, (note.first_ns, note.last_ns), 1 + note.size // _ROW_BYTES))
            continue
        seen = footer(path)
        for group in seen.groups(symbols, None, None):
            out.append(Piece(path, group, seen.times[group] or _ALWAYS, seen.meta.row_group(group).num_rows))
    return out


def levels(path: Path, group: int = _WHOLE) -> set[str | None]:
    """The levels of the rows of a row group, or of a whole file; with None where they are not known."""
    seen = footer(path)
    groups = range(len(seen.levels)) if group == _WHOLE else [group]
    return {level for one in groups for level in seen.levels[one] or (None,)}


def by_symbol(piece: Piece) -> bool:
    """Whether the rows of a row group are of several symbols, one after the other; else they are in arrival order."""
    if piece.group == _WHOLE or not layout.is_compacted(piece.path.name):
        return False
    limits = footer(piece.path).symbols[piece.group]
    return limits is None or limits[0] != limits[1]


def piece_batches(
    table: str, piece: Piece, columns: list[str], symbols: Collection[str] | None, rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a row group in order, at most `rows` at a time: pages are decoded when their rows are wanted."""
    needed = schema.stored(table, [*columns, *(["symbol"] if symbols is not None and "symbol" not in columns else [])])
    with _reading(piece.path):
        seen, opened = _opened(piece.path)
        with opened or open_file(piece.path, seen.meta) as file:
            groups = range(seen.meta.num_row_groups) if piece.group == _WHOLE else [piece.group]
            for batch in _decoded(table, seen, file, list(groups), needed, rows):
                now = schema.current(table, batch, needed) if seen.outdated else batch
                yield schema.given(_selected(now, symbols, None, None), columns)


def _few(
    table: str,
    seen: Footer,
    file: pq.ParquetFile,
    groups: list[int],
    needed: list[str],
    symbols: Collection[str] | None,
) -> Iterator[pa.RecordBatch]:
    """As `_read`, of a file so small that reading it takes less time than looking for the symbols first."""
    for group in groups:
        for batch in _decoded(table, seen, file, [group], needed, _FEW_ROWS):
            if symbols is not None and group not in seen.present:
                seen.present[group] = frozenset(pc.unique(batch["symbol"]).to_pylist())
            if not _known_without(seen, group, symbols):
                yield batch


def _gathered(found: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows with small batches joined: the cost of a small batch is per batch, not per row."""
    small: list[pa.RecordBatch] = []
    waiting = 0
    for batch in found:
        if small and (waiting + batch.num_rows > rows or batch.num_rows > _FEW_ROWS):
            yield _one(small)
            small, waiting = [], 0
        if batch.num_rows > _FEW_ROWS:
            yield batch
        else:
            small.append(batch)
            waiting += batch.num_rows
    if small:
        yield _one(small)


def _one(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(parts) == 1:
        return parts[0]
    [whole] = pa.Table.from_batches(parts).unify_dictionaries().combine_chunks().to_batches() or [parts[0]]
    return whole


def _known_without(seen: Footer, group: int, symbols: Collection[str] | None) -> bool:
    """Whether a row group is known to hold none of these symbols."""
    return symbols is not None and group in seen.present and seen.present[group].isdisjoint(symbols)


def _in_group(seen: Footer, file: pq.ParquetFile, group: int, symbols: Collection[str] | None) -> bool:
    """Whether a row group holds one of these symbols.

    Limits do not help with live files, which hold all symbols in arrival order: their symbols are read once and kept
    with the footer.
    """
    limits = seen.symbols[group]
    if symbols is None or limits is None or limits[0] == limits[1]:
        return True
    if group not in seen.present:
        [column] = file.read_row_group(group, ["symbol"], use_threads=False).combine_chunks().columns
        seen.present[group] = frozenset(pc.unique(column).to_pylist())
    return not seen.present[group].isdisjoint(symbols)


def _holds(path: Path, symbol: str) -> bool:
    """Whether a file has rows of a symbol."""
    seen, opened = _opened(path)
    groups = [g for g in seen.groups([symbol], None, None) if not _known_without(seen, g, [symbol])]
    if not groups:
        return False
    with opened or open_file(path, seen.meta) as file:
        return any(_in_group(seen, file, group, [symbol]) for group in groups)


def _selected(
    batch: pa.RecordBatch, symbols: Collection[str] | None, start: int | None, end: int | None
) -> pa.RecordBatch:
    """The rows of these symbols received in [start, end): a slice where they are adjacent, as in a compacted file."""
    mask: np.ndarray | None = None
    if symbols is not None:
        mask = _of_symbols(batch["symbol"], symbols)
    for limit, keep in ((start, np.greater_equal), (end, np.less)):
        if limit is not None:
            inside = keep(batch["recv_ns"].to_numpy(), limit)
            mask = inside if mask is None else mask & inside
    if mask is None or mask.all():
        return batch
    n = int(mask.sum())
    first = int(mask.argmax()) if n else 0
    if not mask[first : first + n].all():
        return batch.filter(pa.array(mask))
    together = batch.slice(first, n)
    # a slice keeps all of its batch in memory: a small one is copied
    return together if 2 * n >= batch.num_rows else together.take(pa.array(np.arange(n)))


def _of_symbols(column: pa.DictionaryArray, symbols: Collection[str]) -> np.ndarray | None:
    """Rows of these symbols; None when they are all of the batch."""
    names = column.dictionary.to_pylist()
    codes = [code for code, name in enumerate(names) if name in symbols]
    if len(codes) == len(names) and not column.null_count:
        return None
    found = column.indices.fill_null(-1).to_numpy()
    mask: np.ndarray = found == codes[0] if len(codes) == 1 else np.isin(found, codes)
    return mask


def table(
    name: str, paths: list[Path], columns: list[str] | None = None, where: Expression | None = None, **limits: Any
) -> pa.Table:
    """Rows of `paths` in order as one table; `limits` as of `batches`."""
    found = list(batches(name, paths, columns, where, **limits))
    if not found:
        names = schema.SCHEMAS[name].names if columns is None else columns
        return pa.schema([schema.field(name, c) for c in names]).empty_table()
    return pa.Table.from_batches(found).unify_dictionaries()


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
