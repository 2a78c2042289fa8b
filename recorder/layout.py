"""Names the files of a captures directory, and moves a file or a whole day into the tree in one step.

    <captures>/<table>/session_date=YYYY-MM-DD/<start>-<end>-n<number>.parquet     finished files, nothing else
    <captures>/work/      what is being written, and for a minute what compaction has replaced
    <captures>/state/     locks, the recorder's commit, proofs of verification, notes of what is in live files

`start` and `end` are journal positions (16 hex digits): a file has the rows of the records in [start, end). The files
of a table are numbered in the order they are written, without a hole and through all session dates: a file that is
missing is seen from the names of the others. A compacted file is named after the numbers of the files it was made of.
"""

import ctypes
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from kfix_md.errors import CaptureError, UsageError, reason_of
from kfix_md.journal.files import make_directory, sync, take_lock

TABLES = ("ticks", "gaps", "sessions", "instruments", "status", "checkpoints")
_NAME = re.compile(
    r"(?P<compacted>c-)?(?P<start>[0-9a-f]{16})-(?P<end>[0-9a-f]{16})(?:-n(?P<first>\d+)(?:to(?P<last>\d+))?)?"
    r"(?:-(?P<part>\d+)(?:of(?P<parts>\d+))?)?\.parquet$"
)
_PARTITION = re.compile(r"session_date=(\d{4}-\d\d-\d\d)$")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ASIDE = ".aside"
_REPLACED = re.compile(r"replaced-(\d+)-")
KEEP_S = 60  # how long what compaction has replaced stays: a reader may be listing the old directory
sync_file = sync


class FileName(NamedTuple):
    """What the name of a finished file has in it.

    Attributes
    ----------
    start, end
        It has the rows of the journal records in [start, end).
    numbers
        First and last number of the files its rows were written in; None in captures without numbers.
    part, parts
        Which of how many files of a compaction this is; None: the only one, or (parts) an older compaction.
    """

    start: int
    end: int
    compacted: bool = False
    numbers: tuple[int, int] | None = None
    part: int | None = None
    parts: int | None = None

    @classmethod
    def parse(cls, name: str) -> "FileName | None":
        """The parts of a name of ours, else None."""
        match = _NAME.match(name)
        if match is None:
            return None
        first, last, part, parts = (
            None if match[key] is None else int(match[key]) for key in ("first", "last", "part", "parts")
        )
        numbers = None if first is None else (first, first if last is None else last)
        return cls(int(match["start"], 16), int(match["end"], 16), bool(match["compacted"]), numbers, part, parts)

    def __str__(self) -> str:
        number = ""
        if self.numbers is not None:
            first, last = self.numbers
            number = f"-n{first}" if first == last and not self.compacted else f"-n{first}to{last}"
        part = "" if self.part is None else f"-{self.part:04d}" + ("" if self.parts is None else f"of{self.parts}")
        return f"{'c-' if self.compacted else ''}{self.start:016x}-{self.end:016x}{number}{part}.parquet"


def file_name(start: int, end: int, number: int | None = None) -> str:
    """Name of the live file that holds the rows of journal records in [start, end)."""
    return str(FileName(start, end, numbers=None if number is None else (number, number)))


def file_range(name: str) -> tuple[int, int] | None:
    """(start, end) of a file name of ours, else None."""
    found = FileName.parse(name)
    return None if found is None else (found.start, found.end)


def date_of(path: Path) -> date:
    """Session date of a finished file, from the name of its directory."""
    match = _PARTITION.match(path.parent.name)
    if match is None:
        raise ValueError(f"{path} is in no session date")
    return date.fromisoformat(match[1])


def is_compacted(name: str) -> bool:
    """Whether a file name is one that compaction gives."""
    return name.startswith("c-")


class Tree:
    """Paths of one captures directory."""

    notes: Any = None  # what is known of files, where recorder.notes does not have it: a lake has statistics

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)
        self.work = self.root / "work"
        self.state = self.root / "state"

    def create(self) -> None:
        """Make what is missing; UsageError when it cannot be written."""
        try:
            for path in (self.work, self.state, *(self.root / name for name in TABLES)):
                make_directory(path)
            probe = self.work / f"probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UsageError(f"captures {self.root} cannot be written: {reason_of(error)}") from error

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

    def settled(self, path: Path) -> bool:
        """Whether all tables have the records up to the end of a finished file; a flush comes as a whole."""
        return True

    def file(self, table: str, day: date, name: str) -> Path:
        """A finished file."""
        return self.partition(table, day) / name

    def again(self) -> "str | Tree":
        """What pickled captures are opened with where they are loaded."""
        return os.path.abspath(self.root)

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
            elif own is not None and not _REPLACED.match(path.name):
                shutil.rmtree(path)
        if own is not None:
            self.clear_replaced()
            own.close()

    def replaced(self, table: str, day: date) -> Path:
        """Where a partition that compaction has replaced stays for KEEP_S.

        Readers that are listing the old directory find all of it, then. Were its files removed at once, they would find
        some of them, or none and take that for a date without rows.
        """
        return self.work / f"replaced-{time.time_ns()}-{table}-{day.isoformat()}"

    def clear_replaced(self) -> None:
        """Remove what was replaced KEEP_S ago or earlier; the caller has the lock "compact"."""
        for path in list(self.work.iterdir()):
            match = _REPLACED.match(path.name)
            if match and not 0 <= time.time_ns() - int(match[1]) < KEEP_S * 1e9:
                shutil.rmtree(path)

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
