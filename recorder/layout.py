"""Names the files of a captures directory, and moves a file or a whole day into the tree in one step.

    <captures>/<table>/session_date=YYYY-MM-DD/<start>-<end>.parquet     finished files, nothing else
    <captures>/work/      what is being written
    <captures>/state/     locks, the recorder's commit, proofs of verification, notes of what is in live files

`start` and `end` are journal positions (16 hex digits): a file has the rows of the records in [start, end).
"""

import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TextIO

from kfix_md.errors import CaptureError, UsageError
from kfix_md.journal.files import take_lock

TABLES = ("ticks", "gaps", "sessions", "instruments", "status", "checkpoints")
_NAME = re.compile(r"(c-)?([0-9a-f]{16})-([0-9a-f]{16})(-\d+)?\.parquet$")
_PARTITION = re.compile(r"session_date=(\d{4}-\d\d-\d\d)$")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ASIDE = ".aside"


def file_name(start: int, end: int, *, compacted: bool = False, part: int | None = None) -> str:
    """Name of the file that holds the rows of journal records in [start, end)."""
    tail = "" if part is None else f"-{part:04d}"
    return f"{'c-' if compacted else ''}{start:016x}-{end:016x}{tail}.parquet"


def file_range(name: str) -> tuple[int, int] | None:
    """(start, end) of a file name of ours, else None."""
    match = _NAME.match(name)
    return (int(match[2], 16), int(match[3], 16)) if match else None


def is_compacted(name: str) -> bool:
    """Whether a file name is one that compaction gives."""
    return name.startswith("c-")


class Tree:
    """Paths of one captures directory."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)
        self.work = self.root / "work"
        self.state = self.root / "state"

    def create(self) -> None:
        """Make what is missing; UsageError when it cannot be written."""
        try:
            for path in (self.work, self.state, *(self.root / name for name in TABLES)):
                path.mkdir(parents=True, exist_ok=True)
            probe = self.work / f"probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UsageError(f"captures {self.root} cannot be written: {error.strerror}") from None

    def check(self) -> None:
        """UsageError unless this is a captures directory."""
        if not (self.root / "ticks").is_dir():
            raise UsageError(f"{self.root} has no captures: there is no {self.root / 'ticks'}")

    def partition(self, table: str, day: date) -> Path:
        """Directory of one table's session date."""
        return self.root / table / f"session_date={day.isoformat()}"

    def dates(self, table: str = "ticks") -> list[date]:
        """Session dates a table has a directory for, in order."""
        try:
            names = os.listdir(self.root / table)
        except FileNotFoundError:
            return []
        return sorted(date.fromisoformat(m[1]) for m in map(_PARTITION.match, names) if m)

    def files(self, table: str, day: date) -> list[Path]:
        """Finished files of one partition by start position."""
        path = self.partition(table, day)
        return [path / name for name in self.names(table, day)]

    def names(self, table: str, day: date) -> list[str]:
        """Names of the finished files of one partition by start position."""
        try:
            names = os.listdir(self.partition(table, day))
        except FileNotFoundError:
            return []
        return [name for name in sorted(names, key=lambda n: n.removeprefix("c-")) if _NAME.match(name)]

    def orphans(self, position: int) -> Iterator[Path]:
        """Files of records from `position` on: left by a recorder that was killed before it committed them."""
        for table in TABLES:
            for day in self.dates(table):
                for path in self.files(table, day):
                    if file_range(path.name)[0] >= position:  # type: ignore[index]
                        yield path

    def put_back(self) -> None:
        """Bring back a partition that was aside when a compaction was killed (see `exchange`)."""
        for path in self.work.glob(f"compact-*{_ASIDE}"):
            _, table, day = path.name.removesuffix(_ASIDE).split("-", 2)
            target = self.partition(table, date.fromisoformat(day))
            if not target.exists():
                path.rename(target)

    def clear_work(self) -> None:
        """Remove what killed writers left unfinished; a compaction that is at work keeps its directories."""
        try:
            own = self.lock("compact", who="compaction")
        except CaptureError:
            own = None
        if own is not None:
            self.put_back()
        for path in list(self.work.iterdir()):
            if not path.is_dir():
                path.unlink(missing_ok=True)  # a compaction at work may just have removed a directory of its own
            elif own is not None:
                shutil.rmtree(path)
        if own is not None:
            own.close()

    def lock(self, name: str, *, wait: bool = False, who: str = "recorder") -> TextIO:
        """Take state/<name>.lock for the life of the returned file; CaptureError when another process has it."""
        in_use = f"captures {self.root} already have a {who}, process {{pid}}"
        return take_lock(self.state / f"{name}.lock", in_use, wait=wait)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A lock that recorder and compaction take while files enter or leave the tree."""
        file = self.lock("tree", wait=True)
        try:
            yield
        finally:
            file.close()


def sync_file(path: Path) -> None:
    """Put a file's (or directory's) content on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes, work: Path) -> None:
    """Replace `path` by `data` so that after a crash it is the old or the new content."""
    part = work / f"{path.name}.{os.getpid()}"
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    sync_file(path.parent)


def exchange(a: Path, b: Path) -> None:
    """Swap two directories in one step (renameat2); two renames where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename and rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return
    aside = a.with_name(a.name + _ASIDE)  # `put_back` repairs this after a crash
    os.rename(b, aside)
    try:
        os.rename(a, b)
    except OSError:
        os.rename(aside, b)
        raise
    os.rename(aside, a)
