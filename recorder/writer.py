"""Turns flushes into finished Parquet files, each exactly once, whatever kills the process in between.

One flush writes a file per table and session date into work/, puts them on disk, and then replaces
state/commit.json, which has the journal position after the flush, all that a later process needs to continue, and
which files are to enter the tree. That is the commit; then they are renamed in. A recorder that starts renames what
its predecessor was killed before renaming, so that a row that was once seen in the tree stays. Files of positions
after the committed one can only come with a commit.json from a backup: they are removed and written again.
"""

import contextlib
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kfix_md import trading_day
from kfix_md.errors import CaptureError
from kfix_md.journal.files import make_directory
from recorder import layout, notes, schema
from recorder.compute import pc
from recorder.layout import Tree

#: the time that decides which session date a row belongs to
_TIME = {
    "ticks": "recv_ns",
    "gaps": "opened_ns",
    "sessions": "started_ns",
    "instruments": "recv_ns",
    "status": "recv_ns",
    "checkpoints": "recv_ns",
}


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
        self._notes = notes.NoteWriter(self.tree)
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
                raise CaptureError(
                    f"{self.tree.root} has files but {self._commit} is missing: restore it, or "
                    "record into a new directory (the journal still has its records)"
                )
            begin = {"position": 0, "decoders": {}, "ledger": None}
            layout.write_atomically(self._commit, json.dumps(begin).encode(), self.tree.state)
            return begin
        try:
            state: dict[str, Any] = json.loads(self._commit.read_bytes())
            return state
        except ValueError as error:
            raise CaptureError(f"{self._commit} is damaged ({error}): restore it from a backup") from None

    def _repair(self) -> None:
        self.removed = 0
        with self.tree.changing():
            self._enter()
            self.tree.clear_work()
            for path in list(self.tree.orphans(self.state["position"])):
                path.unlink()
                self.removed += 1
        notes.sweep(self.tree)

    def commit(self, start: int, state: dict[str, Any], tables: dict[str, pa.Table]) -> list[Path]:
        """Add the rows of journal records in [start, state["position"]) and make that the committed position.

        Returns the new files. After an OSError (disk full) `state` is still what is committed; the caller
        passes the later rows again.
        """
        self._enter()  # what an error kept from it
        numbers: dict[str, int] = dict(self.state.get("files", {}))  # files written so far, by table
        parts: list[tuple[Path, Path]] = []
        written: list[tuple[str, date, Path, pa.Table]] = []
        try:
            for table, day, part in self._parts(tables):
                name = layout.file_name(start, state["position"], numbers.get(table, 0))
                numbers[table] = numbers.get(table, 0) + 1
                target = self.tree.partition(table, day) / name
                work = self.tree.work / f"{table}-{day}-{name}"
                parts.append((work, target))
                self._write(table, part, work, start, state["position"])
                written.append((table, day, target, part))
            entering = [[work.name, str(target.relative_to(self.tree.root))] for work, target in parts]
            self._save(state | {"files": numbers, "entering": entering})
        except (OSError, pa.ArrowException):
            with contextlib.suppress(OSError):  # a commit that cannot be read now may name them
                if self._load()["position"] != state["position"]:
                    for work, _ in parts:
                        work.unlink(missing_ok=True)
            raise
        with self.tree.changing():
            self._enter()
        for one in written:
            self._notes.add(*one)
        self._bare -= {target.parent.parent.name for _, target in parts}
        return [target for _, target in parts]

    def _save(self, state: dict[str, Any]) -> None:
        """The commit. An error after its last step, putting the directory on disk, does not undo it."""
        layout.sync_file(self.tree.work)
        try:
            layout.write_atomically(self._commit, json.dumps(state).encode(), self.tree.state)
        except OSError:
            if self._load()["position"] == state["position"]:
                self.state = state
            raise
        self.state = state

    def _enter(self) -> None:
        """Rename the files of the last commit into the tree, those that are not there yet."""
        moves = [(self.tree.work / work, self.tree.root / target) for work, target in self.state.get("entering", ())]
        for work, target in moves:
            if work.exists():  # else it is there, or has been compacted since
                make_directory(target.parent)
                work.rename(target)
        for directory in {target.parent for _, target in moves}:
            if directory.is_dir():  # else its date was removed
                layout.sync_file(directory)
        self.state.pop("entering", None)

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
        """Release the directory."""
        self._lock.close()


def metadata(table: str, more: dict[str, str]) -> dict[str, str]:
    """Key-value metadata of a file."""
    from kfix_md import __version__

    return {
        "kfix_md.table": table,
        "kfix_md.schema": schema.VERSION,
        "kfix_md.version": __version__,
        **{f"kfix_md.{key}": value for key, value in more.items()},
    }


def write_file(path: Path, table: str, rows: pa.Table, more: dict[str, str], row_group: int, level: int) -> None:
    """Write one finished Parquet file and put it on disk."""
    # chunks with dictionaries of their own are written as plain texts from the second on, which polars 1.0 cannot read
    described = rows.unify_dictionaries().replace_schema_metadata(metadata(table, more))
    options = schema.write_options(table, level, row_group, index=False, rows=rows.num_rows)
    with pq.ParquetWriter(path, described.schema, **options) as writer:
        writer.write_table(described, row_group_size=row_group)
    layout.sync_file(path)


def split_by_date(rows: pa.Table, column: str) -> Iterator[tuple[date, pa.Table]]:
    """(session date, its rows in their order) for each session date in `rows`."""
    if not rows.num_rows:
        return
    limits = pc.min_max(rows[column])
    first, last = (trading_day.session_date(limits[k].as_py()) for k in ("min", "max"))
    if first == last:
        yield first, rows
        return
    days = trading_day.session_day(rows[column].to_numpy())
    for day in np.unique(days).tolist():
        yield trading_day.day_date(day), rows.filter(pa.array(days == day))
