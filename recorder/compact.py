"""Hides how a finished session date becomes few files clustered by symbol without a moment of doubt.

Live files are in arrival order. A compacted date holds the same rows ordered by symbol, and by arrival within one,
so that one symbol's day is a few row groups. The new directory is built in work/, read back and compared row by row,
and then takes the old one's place in one step (renameat2 exchange).
"""

import hashlib
import shutil
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kfix_md.errors import CaptureError
from recorder import files, layout, schema
from recorder.layout import Tree
from recorder.writer import metadata

_BUCKET_ROWS = 4_000_000  # rows of the symbols that are sorted in memory at a time
_FILE_ROWS = 16_000_000
_SMALL = ("gaps", "sessions", "instruments", "status")


def candidates(tree: Tree, before: date | None) -> list[date]:
    """Session dates with live files that are over: before `before`, or all but the last one."""
    days = tree.dates("ticks")
    limit = before or (days[-1] if days else None)
    over = [d for d in days if limit is not None and d < limit]
    return [d for d in over if any(_loose(tree, table, d) for table in layout.TABLES)]


def _loose(tree: Tree, table: str, day: date) -> list[Path]:
    return [f for f in tree.files(table, day) if not layout.is_compacted(f.name)]


def compact_day(tree: Tree, day: date, *, row_group: int = schema.ROW_GROUP) -> dict:
    """Compact every table of a session date that has live files. Totals as a dict.

    CaptureError when the result differs from what it was made of: then nothing was changed.
    """
    held = tree.lock("compact", who="compaction")
    try:
        told = {"rows": 0, "files_before": 0, "files_after": 0, "bytes_before": 0, "bytes_after": 0}
        for table in layout.TABLES:
            if _loose(tree, table, day):
                for key, value in _compact_table(tree, table, day, row_group).items():
                    told[key] += value
        return told
    finally:
        held.close()


def _compact_table(tree: Tree, table: str, day: date, row_group: int) -> dict:
    before = tree.files(table, day)
    work = tree.work / f"compact-{table}-{day}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    ranges = [layout.file_range(f.name) for f in before]
    start, end = min(r[0] for r in ranges if r), max(r[1] for r in ranges if r)
    sizes = sum(f.stat().st_size for f in before)
    parts = _Parts(work, table, start, end, row_group)
    for rows in _clustered(table, before, tree.work / f"buckets-{table}-{day}"):
        parts.write(rows)
    after = parts.close()
    _compare(table, before, after)
    _swap(tree, table, day, work, before)
    return {"rows": parts.rows, "files_before": len(before), "files_after": len(after), "bytes_before": sizes,
            "bytes_after": sum(f.stat().st_size for f in tree.files(table, day))}  # fmt: skip


def _clustered(table: str, paths: list[Path], work: Path) -> Iterator[pa.Table]:
    """All rows, symbol after symbol, each in arrival order; in memory are the rows of a bucket of symbols."""
    if table in _SMALL:
        yield files.table(table, paths)
        return
    counts: dict[str, int] = {}
    for batch in files.batches(table, paths, ["symbol"]):
        names = batch["symbol"].dictionary.to_pylist()
        for name, n in zip(names, np.bincount(batch["symbol"].indices.to_numpy(), minlength=len(names)), strict=True):
            counts[name] = counts.get(name, 0) + int(n)
    buckets = _buckets(counts)
    if len(buckets) == 1:
        yield _by_symbol(files.table(table, paths))
        return
    # one pass over the files, each row to its bucket on disk; then bucket by bucket
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    of = {symbol: i for i, names in enumerate(buckets) for symbol in names}
    sinks = [pa.ipc.new_stream(str(work / f"{i}.arrow"), schema.SCHEMAS[table]) for i in range(len(buckets))]
    for batch in files.batches(table, paths):
        which = np.array([of[s] for s in batch["symbol"].dictionary.to_pylist()])[batch["symbol"].indices.to_numpy()]
        for i in np.unique(which).tolist():
            sinks[i].write_batch(batch.filter(pa.array(which == i)))
    for i, sink in enumerate(sinks):
        sink.close()
        with pa.ipc.open_stream(str(work / f"{i}.arrow")) as source:
            yield _by_symbol(source.read_all())
    shutil.rmtree(work)


def _buckets(counts: dict[str, int]) -> list[list[str]]:
    out: list[list[str]] = [[]]
    rows = 0
    for symbol in sorted(counts):
        if rows and rows + counts[symbol] > _BUCKET_ROWS:
            out.append([])
            rows = 0
        out[-1].append(symbol)
        rows += counts[symbol]
    return out


def _by_symbol(rows: pa.Table) -> pa.Table:
    rows = rows.unify_dictionaries().combine_chunks()
    if not rows.num_rows:
        return rows
    column = rows["symbol"].combine_chunks()
    rank = np.argsort(np.argsort(np.array(column.dictionary.to_pylist(), dtype=object)))
    order = np.argsort(rank[column.indices.to_numpy()], kind="stable")
    return rows.take(pa.array(order))


class _Parts:
    """Writes the files of one compacted date; a row group never spans two symbols that are both large."""

    def __init__(self, work: Path, table: str, start: int, end: int, row_group: int):
        self.work, self.table, self.start, self.end, self.row_group = work, table, start, end, row_group
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
        more = {"start": f"{self.start:x}", "end": f"{self.end:x}", "clustered": "symbol"}
        described = schema.SCHEMAS[self.table].with_metadata(metadata(self.table, more))
        name = layout.file_name(self.start, self.end, compacted=True, part=len(self.paths))
        self.paths.append(self.work / name)
        self.writer = pq.ParquetWriter(self.paths[-1], described,
                                       **schema.write_options(self.table, 3, self.row_group))  # fmt: skip
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
        layout.sync_file(self.work)
        return self.paths


def _groups(rows: pa.Table, row_group: int, table: str) -> Iterator[pa.Table]:
    """Slices for row groups: a symbol that fills a quarter of one begins a new one."""
    if table in _SMALL or not rows.num_rows:
        yield rows
        return
    codes = rows["symbol"].combine_chunks().indices.to_numpy()
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
    used, codes = np.unique(column.indices.to_numpy(), return_inverse=True)
    names = column.dictionary.take(pa.array(used))
    own = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), names)
    return rows.set_column(at, rows.schema.field(at), own)


def _compare(table: str, before: list[Path], after: list[Path]) -> None:
    """Row by row: the rows of each symbol, in their order, have the same digest on both sides."""
    if _digests(table, before) != _digests(table, after):
        raise CaptureError(f"compaction of {before[0].parent} would not give the same rows back; nothing was changed")


def _digests(table: str, paths: list[Path]) -> dict[str, tuple[int, str]]:
    """Rows and digest of each symbol, over its rows in their order; they do not depend on batch borders."""
    found: dict[str, tuple[int, Any]] = {}
    for batch in files.batches(table, paths):
        if not batch.num_rows:
            continue
        hashes = _row_hashes(batch)
        if table in _SMALL:
            parts = [("", hashes)]
        else:
            codes = batch["symbol"].indices.to_numpy()
            order = np.argsort(codes, kind="stable")
            edges = np.flatnonzero(np.diff(codes[order])) + 1
            names = batch["symbol"].dictionary.to_pylist()
            parts = [(names[codes[rows[0]]], hashes[rows]) for rows in np.split(order, edges)]
        for name, part in parts:
            n, digest = found.get(name) or (0, hashlib.blake2b(digest_size=16))
            digest.update(part.tobytes())
            found[name] = (n + len(part), digest)
    return {name: (n, digest.hexdigest()) for name, (n, digest) in found.items()}


def _row_hashes(rows: pa.RecordBatch) -> np.ndarray:
    """One number for each row, of all its columns."""
    mixed = np.zeros(rows.num_rows, np.uint64)
    for name in rows.schema.names:
        mixed = (mixed ^ _numbers(rows[name])) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _numbers(array: pa.Array) -> np.ndarray:
    """One 64-bit number for each value: equal for equal values, nulls apart."""
    if pa.types.is_dictionary(array.type):
        table = _hashes(array.dictionary)
        values = table[array.indices.fill_null(0).to_numpy(zero_copy_only=False)] if len(table) else np.zeros(
            len(array), np.uint64)
    elif pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        values = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint64)
    elif pa.types.is_fixed_size_binary(array.type):
        raw = np.frombuffer(array.buffers()[1], "<u8", 2 * len(array), 16 * array.offset).reshape(-1, 2)
        values = raw[:, 0] ^ (raw[:, 1] * np.uint64(0xD6E8FEB86659FD93))
    elif array.null_count == len(array):
        values = np.zeros(len(array), np.uint64)
    else:
        return _numbers(array.dictionary_encode())
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return np.where(valid, values, np.uint64(0xA5A5A5A5)) ^ (valid.astype(np.uint64) << np.uint64(63))


def _hashes(array: pa.Array) -> np.ndarray:
    digests = (hashlib.blake2b(str(v).encode(), digest_size=8).digest() for v in array.to_pylist())
    return np.array([int.from_bytes(d) for d in digests], np.uint64)


def _swap(tree: Tree, table: str, day: date, work: Path, before: list[Path]) -> None:
    target = tree.partition(table, day)
    with tree.changing():
        for late in set(tree.files(table, day)) - set(before):  # came while this was at work
            (work / late.name).hardlink_to(late)
        layout.sync_file(work)
        layout.exchange(work, target)
        layout.sync_file(target.parent)
    shutil.rmtree(work)
