"""Hides which files answer a question, and what a damaged or vanishing file means."""

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from kfix_md.errors import CaptureError
from recorder import layout, schema
from recorder.layout import Tree

T = TypeVar("T")
_LINEAR = 32  # up to so many files are all asked
_ATTEMPTS = 5


class Vanished(Exception):
    """A file was replaced by compaction between listing and reading: list again."""


def attempt(read: Callable[[], T]) -> T:
    """Call `read` again while compaction swaps the files under it."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return read()
        except Vanished:
            continue
    return read()


class Files:
    """The finished files of one captures directory; footers are read once."""

    def __init__(self, tree: Tree):
        self.tree = tree
        self._spans: dict[Path, tuple[int, int] | None] = {}

    def of(self, table: str, start: int | None = None, end: int | None = None) -> list[Path]:
        """Files that may hold rows received in [start, end), by session date and arrival."""
        first = layout.session_date(start) if start is not None else date.min
        last = layout.session_date(end) if end is not None else date.max
        found = []
        for day in self.tree.dates(table):
            if first <= day <= last:
                files = self.tree.files(table, day)
                whole = layout.session_bounds(day)
                if len(files) > _LINEAR and (start or 0, end or whole[1]) != whole:
                    files = self._between(files, start, end)
                found += files
        return found

    def _between(self, files: list[Path], start: int | None, end: int | None) -> list[Path]:
        """Arrival follows time closely: bisect, and keep a file more on either side."""
        loose = [f for f in files if not layout.is_compacted(f.name)]
        rest = [f for f in files if layout.is_compacted(f.name)]
        low, high = 0, len(loose)
        if start is not None:
            low = max(0, _bisect(len(loose), lambda i: self.span(loose[i])[1] < start) - 1)
        if end is not None:
            high = min(len(loose), _bisect(len(loose), lambda i: self.span(loose[i])[0] < end) + 1)
        return rest + loose[low:high]

    def span(self, path: Path) -> tuple[int, int]:
        """Lowest and highest recv_ns in a file."""
        if path not in self._spans:
            self._spans[path] = _span(path)
        return self._spans[path] or (0, 0)


def _bisect(n: int, before: Callable[[int], bool]) -> int:
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if before(middle) else (low, middle)
    return low


def _span(path: Path) -> tuple[int, int] | None:
    meta = open_file(path).metadata
    at = meta.schema.to_arrow_schema().get_field_index("recv_ns")
    stats = [meta.row_group(i).column(at).statistics for i in range(meta.num_row_groups)]
    known = [(s.min, s.max) for s in stats if s is not None and s.has_min_max]
    return (min(k[0] for k in known), max(k[1] for k in known)) if known else None


def open_file(path: Path) -> pq.ParquetFile:
    """A finished file; CaptureError that names it when it is damaged."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise Vanished(path) from None
    except (pa.ArrowException, OSError) as error:
        raise CaptureError(f"{path} is damaged ({_line(error)}): restore it, or record it again from the journal"
                           ) from None  # fmt: skip


def batches(table: str, paths: list[Path], columns: list[str] | None = None,
            where: pc.Expression | None = None, rows: int = 131_072) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """Rows of `paths` in order, a batch at a time; row groups that cannot match are not read."""
    wanted = schema.SCHEMAS[table]
    for path in paths:
        try:
            source = ds.dataset(path, schema=wanted, format="parquet", partitioning=None)
            yield from source.to_batches(columns=columns, filter=where, batch_size=rows, use_threads=False,
                                         batch_readahead=0, fragment_readahead=0)  # fmt: skip
        except FileNotFoundError:
            raise Vanished(path) from None
        except (pa.ArrowException, OSError) as error:
            raise CaptureError(f"{path} is damaged ({_line(error)}): restore it, or record it again from the journal"
                               ) from None  # fmt: skip


def table(name: str, paths: list[Path], columns: list[str] | None = None,
          where: pc.Expression | None = None) -> pa.Table:  # fmt: skip
    """Rows of `paths` in order as one table."""
    found = list(batches(name, paths, columns, where))
    wanted = schema.SCHEMAS[name]
    if columns is not None:
        wanted = pa.schema([wanted.field(c) for c in columns])
    if not found:
        return wanted.empty_table()
    return pa.Table.from_batches(found).unify_dictionaries()


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
