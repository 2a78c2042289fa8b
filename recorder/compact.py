"""Rewrites a finished session date as few files clustered by symbol, and compares them before they replace it.

Live files are in arrival order. A compacted date has the same rows ordered by symbol, and by arrival within one,
so that one symbol's day is a few row groups. The new directory is built in work/, read back and compared row by row,
and then takes the old one's place in one step (renameat2 exchange).
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kfix_md.errors import CaptureError
from recorder import files, layout, notes, schema
from recorder.compute import pc
from recorder.digest import Digests, codes_order
from recorder.layout import FileName, Tree
from recorder.missing import Complete
from recorder.writer import metadata

_BUCKET_ROWS = 524_288  # rows of the symbols that are sorted in memory at a time
_MOST_BUCKETS = 400  # files open at a time
_WINDOW_ROWS = 262_144  # of rows that are in order already
_FILE_ROWS = 16_000_000
_SMALL = ("gaps", "sessions", "instruments", "status")


def candidates(tree: Tree, before: date | None, *, outdated: bool = False) -> list[date]:
    """Session dates with live files that are over: before `before`, or all but the last one.

    With `outdated`, dates with files of an older schema too: compaction writes them as they are written now.
    """
    days = tree.dates("ticks")
    limit = before or (days[-1] if days else None)
    over = [d for d in days if limit is not None and d < limit]
    return [d for d in over if any(_loose(tree, table, d, outdated) for table in layout.TABLES)]


def _loose(tree: Tree, table: str, day: date, outdated: bool) -> bool:
    """Whether a date has live files, or files of an older schema."""
    found = tree.files(table, day)
    return any(not layout.is_compacted(f.name) or (outdated and files.footer(f).outdated) for f in found)


def rows_to_read(tree: Tree, day: date) -> int:
    """Rows that `compact_day` reads, and reads back: what it reports to `progress`, in all."""
    tables = [table for table in layout.TABLES if _loose(tree, table, day, outdated=True)]
    return 2 * sum(int(pq.read_metadata(path).num_rows) for table in tables for path in tree.files(table, day))


def compact_day(
    tree: Tree,
    day: date,
    *,
    row_group: int = schema.ROW_GROUP,
    progress: Callable[[int], None] = lambda rows: None,
) -> dict[str, int]:
    """Compact every table of a session date that has live files or files of an older schema. Totals as a dict.

    Parameters
    ----------
    progress
        Called with the number of rows of each batch, as it is written and as it is read back.

    Raises
    ------
    CaptureError
        The result differs from what it was made of: then nothing was changed.
    """
    with tree.changing():  # a starting recorder takes the compaction lock for a moment, inside this one
        own = tree.lock("compact", who="compaction")
    try:
        tree.put_back()
        tree.clear_replaced()
        _check_complete(tree, day)
        totals = {"rows": 0, "files_before": 0, "files_after": 0, "bytes_before": 0, "bytes_after": 0}
        for table in layout.TABLES:
            if _loose(tree, table, day, outdated=True):
                for key, value in _compact_table(tree, table, day, row_group, progress).items():
                    totals[key] += value
        return totals
    finally:
        own.close()


def _check_complete(tree: Tree, day: date) -> None:
    """CaptureError where files inside a date are missing: a compacted date would no longer show that."""
    for one in Complete(tree).missing(layout.TABLES, (day, day)):
        if one.before and one.after and layout.date_of(one.before) == layout.date_of(one.after) == day:
            raise CaptureError(f"{tree.root}: {one}; restore it before {day} is compacted")


def _compact_table(
    tree: Tree, table: str, day: date, row_group: int, progress: Callable[[int], None]
) -> dict[str, int]:
    before = tree.files(table, day)
    work, spill = tree.work / f"compact-{table}-{day}", tree.work / f"buckets-{table}-{day}"
    for path in (work, spill):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    try:
        return _compact_into(tree, table, day, row_group, before, work, spill, progress)
    except BaseException:  # a full disk most of all: free it
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _compact_into(
    tree: Tree,
    table: str,
    day: date,
    row_group: int,
    before: list[Path],
    work: Path,
    spill: Path,
    progress: Callable[[int], None],
) -> dict[str, int]:
    sizes = sum(f.stat().st_size for f in before)
    seen = Digests(table not in _SMALL)
    parts = _Parts(work, table, _merged(before), row_group)
    for rows in _clustered(table, before, spill, seen):
        parts.write(rows)
        progress(rows.num_rows)
    after = parts.close()
    _compare(table, seen, after, progress)
    _swap(tree, table, day, work, before)
    return {
        "rows": parts.rows,
        "files_before": len(before),
        "files_after": len(after),
        "bytes_before": sizes,
        "bytes_after": sum(f.stat().st_size for f in tree.files(table, day)),
    }


def _merged(paths: list[Path]) -> FileName:
    """Name of the file that replaces `paths`."""
    names = [name for path in paths if (name := FileName.parse(path.name)) is not None]
    numbers = [number for name in names if name.numbers is not None for number in name.numbers]
    return FileName(
        min(name.start for name in names),
        max(name.end for name in names),
        compacted=True,
        numbers=(min(numbers), max(numbers)) if numbers else None,
    )


def _clustered(table: str, paths: list[Path], spill: Path, seen: Digests) -> Iterator[pa.Table]:
    """All rows, symbol after symbol, each in arrival order, a piece at a time; `seen` takes them as they were read.

    In memory are the rows of a bucket of symbols at most: more than one bucket go through files in `spill`. A symbol
    that fills a bucket alone is in order there and is given window by window.
    """
    found = seen.through(files.batches(table, paths))
    if table in _SMALL:
        yield from _windows(found)
        return
    names, buckets = _plan(_counts(table, paths))
    ranked = (_ranked(batch, names) for batch in found)
    if len(names) == 1:
        yield from _windows(ranked)
        return
    if buckets[-1] == 0:
        yield _by_symbol(pa.Table.from_batches(ranked, schema.SCHEMAS[table]))
        return
    for path, symbols in _spilled(table, ranked, buckets, spill):
        with (pa.OSFile if symbols == 1 else pa.memory_map)(str(path)) as file, pa.ipc.open_stream(file) as source:
            if symbols == 1:
                yield from _windows(source)
            else:
                yield _by_symbol(source.read_all())
        path.unlink()


def _counts(table: str, paths: list[Path]) -> dict[str, int]:
    """Rows of each symbol."""
    counts: dict[str, int] = {}
    for batch in files.batches(table, paths, ["symbol"]):
        names = batch["symbol"].dictionary.to_pylist()
        for name, n in zip(names, np.bincount(batch["symbol"].indices, minlength=len(names)), strict=True):
            counts[name] = counts.get(name, 0) + int(n)
    return counts


def _plan(counts: dict[str, int]) -> tuple[pa.Array, np.ndarray]:
    """Symbols in order, and the bucket of each: neighbours that fit into one together."""
    limit = max(_BUCKET_ROWS, sum(counts.values()) // _MOST_BUCKETS)
    names = sorted(counts)
    buckets, number, rows = [], 0, 0
    for name in names:
        if rows and rows + counts[name] > limit:
            number, rows = number + 1, 0
        buckets.append(number)
        rows += counts[name]
    return pa.array(names, pa.string()), np.array(buckets or [0])


def _ranked(batch: pa.RecordBatch, names: pa.Array) -> pa.RecordBatch:
    """The same rows, symbols as places in `names`."""
    at = batch.schema.get_field_index("symbol")
    place = pc.index_in(batch["symbol"].dictionary, names).to_numpy()
    codes = pa.array(place[batch["symbol"].indices.to_numpy()].astype(np.int32))
    return batch.set_column(at, batch.schema.field(at), pa.DictionaryArray.from_arrays(codes, names))


def _spilled(table: str, ranked: Iterable[pa.RecordBatch], buckets: np.ndarray, spill: Path) -> list[tuple[Path, int]]:
    """Each row to the file of its bucket; the files, and how many symbols are in each."""
    paths = [spill / f"{i}.arrow" for i in range(buckets[-1] + 1)]
    with ExitStack() as stack:
        sinks = [stack.enter_context(pa.ipc.new_stream(str(p), schema.SCHEMAS[table])) for p in paths]
        for batch in ranked:
            which = buckets[batch["symbol"].indices.to_numpy()]
            order = codes_order(which)
            rows = batch.take(pa.array(order))
            edges = [0, *(np.flatnonzero(np.diff(which[order])) + 1).tolist(), len(order)]
            for a, b in pairwise(edges):
                if b > a:
                    sinks[which[order[a]]].write_batch(rows.slice(a, b - a))
    return list(zip(paths, np.bincount(buckets).tolist(), strict=True))


def _windows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of _WINDOW_ROWS, the last one aside."""
    waiting: list[pa.RecordBatch] = []
    n = 0
    for batch in batches:
        waiting.append(batch)
        n += batch.num_rows
        if n >= _WINDOW_ROWS:
            whole = pa.Table.from_batches(waiting).unify_dictionaries()
            yield whole.slice(0, _WINDOW_ROWS)
            waiting = whole.slice(_WINDOW_ROWS).to_batches()
            n -= _WINDOW_ROWS
    if waiting:
        yield pa.Table.from_batches(waiting).unify_dictionaries()


def _by_symbol(rows: pa.Table) -> pa.Table:
    rows = rows.unify_dictionaries().combine_chunks()
    if not rows.num_rows:
        return rows
    return rows.take(pa.array(codes_order(_codes(rows))))


def _codes(rows: pa.Table) -> np.ndarray:
    codes: np.ndarray = rows["symbol"].combine_chunks().indices.to_numpy()
    return codes


class _Parts:
    """Writes the files of one compacted date; a row group never spans two symbols that are both large."""

    def __init__(self, work: Path, table: str, name: FileName, row_group: int):
        self.work, self.table, self.name, self.row_group = work, table, name, row_group
        self.paths: list[Path] = []
        self.rows = self.in_file = 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        for group in _groups(rows, self.row_group, self.table):
            if self.writer is None:
                self._open()
            assert self.writer is not None
            self.writer.write_table(group, row_group_size=self.row_group)
            self.rows += group.num_rows
            self.in_file += group.num_rows
            if self.in_file >= _FILE_ROWS:
                self._finish()

    def _open(self) -> None:
        more = {"start": f"{self.name.start:x}", "end": f"{self.name.end:x}", "clustered": "symbol"}
        described = schema.SCHEMAS[self.table].with_metadata(metadata(self.table, more))
        self.paths.append(self.work / str(self.name._replace(part=len(self.paths))))
        self.writer = pq.ParquetWriter(
            self.paths[-1], described, **schema.write_options(self.table, schema.LEVEL, self.row_group)
        )
        self.in_file = 0

    def _finish(self) -> None:
        if self.writer is not None:
            self.writer.close()
            layout.sync_file(self.paths[-1])
            self.writer = None

    def close(self) -> list[Path]:
        if not self.paths:
            self._open()
        self._finish()
        n = len(self.paths)  # known only now: a part that is missing is seen from the names of the others
        named = [self.work / str(self.name._replace(part=i, parts=n)) for i in range(n)]
        self.paths = [path.rename(name) for path, name in zip(self.paths, named, strict=True)]
        layout.sync_file(self.work)
        return self.paths


def _groups(rows: pa.Table, row_group: int, table: str) -> Iterator[pa.Table]:
    """Slices for row groups: a symbol that fills a quarter of one begins a new one."""
    if table in _SMALL or not rows.num_rows:
        yield rows
        return
    codes = _codes(rows)
    edges = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    begin = 0
    for a, b in pairwise(edges):
        if a > begin and (b - a >= row_group // 4 or b - begin > row_group):
            yield _own_symbols(rows.slice(begin, a - begin))
            begin = a
    yield _own_symbols(rows.slice(begin))


def _own_symbols(rows: pa.Table) -> pa.Table:
    """A dictionary of the symbols that occur, not of the whole day's."""
    at = rows.schema.get_field_index("symbol")
    column = rows["symbol"].combine_chunks()
    codes = column.indices.to_numpy()
    used = np.flatnonzero(np.bincount(codes))
    place = np.zeros(used[-1] + 1, np.int32)
    place[used] = np.arange(len(used))
    own = pa.DictionaryArray.from_arrays(pa.array(place[codes]), column.dictionary.take(pa.array(used)))
    return rows.set_column(at, rows.schema.field(at), own)


def _compare(table: str, seen: Digests, after: list[Path], progress: Callable[[int], None]) -> None:
    """Row by row: read back, the rows of each symbol, in their order, have the same digest as when they were read."""
    written = Digests(table not in _SMALL)
    for batch in files.batches(table, after):
        if batch.num_rows:
            written.add(batch)
            progress(batch.num_rows)
    if seen.result() != written.result():
        raise CaptureError(f"{after[0].parent.name} did not read back as the same rows; nothing was changed")


def _swap(tree: Tree, table: str, day: date, work: Path, before: list[Path]) -> None:
    target = tree.partition(table, day)
    with tree.changing():
        for late in set(tree.files(table, day)) - set(before):  # came while this was at work
            (work / late.name).hardlink_to(late)
        layout.sync_file(work)
        layout.exchange(work, target)
        layout.sync_file(target.parent)
        notes.forget(tree, table, day)
        work.rename(tree.replaced(table, day))
