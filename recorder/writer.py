"""Hides how a flush becomes finished files exactly once, whatever kills the process in between.

One flush writes a file per table and session date into work/, puts them on disk, renames all of them into the tree
and then replaces state/commit.json, which holds the journal position behind the flush and all that a later process
needs to go on. That last rename is the commit. Files of positions at or behind the committed one belong to a flush
that was not committed: the next recorder removes them and writes their rows again from the journal.
"""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kfix_md.errors import CaptureError
from recorder import layout, schema
from recorder.layout import Tree

#: the time that says which session date a row belongs to
_TIME = {"ticks": "recv_ns", "gaps": "opened_ns", "sessions": "started_ns", "instruments": "recv_ns",
         "status": "recv_ns", "checkpoints": "recv_ns"}  # fmt: skip


class Writer:
    """Owner of a captures directory while it is recorded; CaptureError when another process is.

    `state` is what the last commit saved; of new captures {"position": 0}.
    """

    def __init__(self, captures: "str | Path", *, row_group: int = 65_536, compression_level: int = 1):
        self.tree = Tree(captures)
        self.tree.create()
        self._lock = self.tree.lock("recorder")
        self.row_group = row_group
        self.compression_level = compression_level
        self._commit = self.tree.state / "commit.json"
        try:
            self.state = self._load()
            self._repair()
            self._bare = {t for t in layout.TABLES if not any(self.tree.files(t, d) for d in self.tree.dates(t))}
        except BaseException:
            self._lock.close()
            raise

    def _load(self) -> dict[str, Any]:
        if not self._commit.exists():
            if any(self.tree.dates(table) for table in layout.TABLES):
                raise CaptureError(f"{self.tree.root} holds files but {self._commit} is missing: restore it, or "
                                   "record into a new directory (the journal still holds what it holds)")  # fmt: skip
            begin = {"position": 0, "decoders": {}, "ledger": None}
            layout.write_atomically(self._commit, json.dumps(begin).encode(), self.tree.state)
            return begin
        try:
            return json.loads(self._commit.read_bytes())
        except ValueError as error:
            raise CaptureError(f"{self._commit} is damaged ({error}): restore it from a backup") from None

    def _repair(self) -> None:
        self.removed = 0
        with self.tree.changing():
            self.tree.clear_work()
            for path in list(self.tree.orphans(self.state["position"])):
                path.unlink()
                self.removed += 1

    def commit(self, start: int, state: dict[str, Any], tables: dict[str, pa.Table]) -> list[Path]:
        """Add the rows of journal records in [start, state["position"]) and make that the committed position.

        Returns the new files. An OSError (disk full) leaves the committed state as it was; the rows are the caller's
        to give again.
        """
        name = layout.file_name(start, state["position"])
        parts: list[tuple[Path, Path]] = []
        try:
            for table, day, part in self._parts(tables):
                target = self.tree.partition(table, day) / name
                work = self.tree.work / f"{table}-{day}-{name}"
                self._write(table, part, work, start, state["position"])
                parts.append((work, target))
        except (OSError, pa.ArrowException):
            for part in self.tree.work.glob(f"*-{name}"):
                part.unlink()
            raise
        with self.tree.changing():
            for work, target in parts:
                target.parent.mkdir(parents=True, exist_ok=True)
                work.rename(target)
            for directory in {target.parent for _, target in parts}:
                layout.sync_file(directory)
                layout.sync_file(directory.parent)
            layout.write_atomically(self._commit, json.dumps(state).encode(), self.tree.state)
        self.state = state
        self._bare -= {target.parent.parent.name for _, target in parts}
        return [target for _, target in parts]

    def _parts(self, tables: dict[str, pa.Table]) -> Iterator[tuple[str, date, pa.Table]]:
        """(table, session date, rows) of a flush. The first flush gives every table a file, of no rows where there are
        none: tools that scan a directory want one to see the columns in."""
        days = set()
        for table, rows in tables.items():
            for day, part in split_by_date(rows, _TIME[table]):
                days.add(day)
                yield table, day, part
        for table in self._bare - {t for t, rows in tables.items() if rows.num_rows} if days else ():
            yield table, min(days), schema.SCHEMAS[table].empty_table()

    def _write(self, table: str, rows: pa.Table, path: Path, start: int, end: int) -> None:
        more = {"start": f"{start:x}", "end": f"{end:x}"}
        write_file(path, table, rows, more, self.row_group, self.compression_level)

    def close(self) -> None:
        """Give the directory up."""
        self._lock.close()


def metadata(table: str, more: dict[str, str]) -> dict[str, str]:
    """Key-value metadata of a file."""
    from kfix_md import __version__

    return {"kfix_md.table": table, "kfix_md.schema": schema.VERSION, "kfix_md.version": __version__,
            **{f"kfix_md.{key}": value for key, value in more.items()}}  # fmt: skip


def write_file(path: Path, table: str, rows: pa.Table, more: dict[str, str], row_group: int, level: int) -> None:
    """Write one finished Parquet file and put it on disk."""
    described = rows.replace_schema_metadata(metadata(table, more))
    options = schema.write_options(table, level, row_group, index=False)
    with pq.ParquetWriter(path, described.schema, **options) as writer:
        writer.write_table(described, row_group_size=row_group)
    layout.sync_file(path)


def split_by_date(rows: pa.Table, column: str):
    """(session date, its rows in their order) for each session date in `rows`."""
    if not rows.num_rows:
        return
    limits = pc.min_max(rows[column])
    first, last = (layout.session_date(limits[k].as_py()) for k in ("min", "max"))
    if first == last:
        yield first, rows
        return
    days = (rows[column].to_numpy() + layout.ROLL_NS) // layout.DAY_NS
    for day in np.unique(days).tolist():
        yield layout.session_date(day * layout.DAY_NS - layout.ROLL_NS), rows.filter(pa.array(days == day))
