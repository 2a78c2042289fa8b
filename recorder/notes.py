"""Keeps notes of the symbols and times in live files, so that readers need not open each; notes may be missing.

state/notes/<table>-<session date> has a line for each file a recorder wrote, appended when the file is in the tree:
CRC32 and JSON of its name, size, time of change, first and last receive time, and a bit for each symbol in it.
Symbols are numbered in the order in which the lines of one writer (`of`) name them as new. A line is valid
only while its file has this size and this time of change. A line that is torn, damaged, or after a lost one is ignored;
a file without a valid line has to be opened.
"""

import contextlib
import json
import os
from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pyarrow as pa

from recorder import layout
from recorder.compute import pc
from recorder.layout import Tree

#: tables that have a file for every flush
TABLES = ("ticks", "checkpoints")


class Note(NamedTuple):
    """One line: what is in a file."""

    size: int
    changed_ns: int
    first_ns: int | None  # None: it has no rows
    last_ns: int | None
    symbols: int  # bit of each symbol
    bits: dict[str, int]  # which bit is whose

    def may_match(self, wanted: Collection[str] | None, start: int | None, end: int | None) -> bool:
        """Whether the file may hold rows of these symbols received in [start, end)."""
        if self.first_ns is None or self.last_ns is None:
            return False
        if (start is not None and self.last_ns < start) or (end is not None and self.first_ns >= end):
            return False
        return wanted is None or any(self.symbols >> self.bits[s] & 1 for s in wanted if s in self.bits)


def _place(tree: Tree, table: str, day: date) -> Path:
    return tree.state / "notes" / f"{table}-{day.isoformat()}"


class Notes:
    """Reads the notes of a captures directory."""

    def __init__(self, tree: Tree):
        self.tree = tree
        self._found: dict[str, Note] = {}  # by path
        self._read: dict[Path, tuple[int, int]] = {}  # inode, and up to where
        self._bits: dict[tuple[Path, str], dict[str, int]] = {}

    def refresh(self, table: str, day: date) -> None:
        """Read on in the notes of a session date."""
        place = _place(self.tree, table, day)
        inode, at = self._read.get(place, (0, 0))
        try:
            with open(place, "rb") as file:
                stat = os.fstat(file.fileno())
                at = at if stat.st_ino == inode and stat.st_size >= at else 0
                file.seek(at)
                data = file.read()
        except OSError:
            return
        whole = data.rfind(b"\n") + 1
        if not at:  # all from the start, so that symbols are numbered from the start
            self._bits = {key: bits for key, bits in self._bits.items() if key[0] != place}
        self._read[place] = stat.st_ino, at + whole
        folder = str(self.tree.partition(table, day))
        for line in data[:whole].split(b"\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line of another version
                self._take(line, place, folder)

    def _take(self, line: bytes, place: Path, folder: str) -> None:
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % crc32(body):
            return
        one = json.loads(body)
        bits = self._bits.setdefault((place, one["of"]), {})
        if one["numbered"] != len(bits):
            return  # a line before this one is lost, and with it whose bits are whose
        for name in one["new"]:
            bits[name] = len(bits)
        note = Note(one["size"], one["changed_ns"], one["first_ns"], one["last_ns"], int(one["held"], 16), bits)
        self._found[os.path.join(folder, one["file"])] = note

    def of(self, path: Path) -> Note | None:
        """What is known of a file as it is now."""
        note = self._found.get(str(path))
        if note is None:
            return None
        try:
            stat = os.stat(path)
        except OSError:
            return None
        return note if (stat.st_size, stat.st_mtime_ns) == (note.size, note.changed_ns) else None

    def may_hold(self, path: Path, symbols: Collection[str] | None, start: int | None, end: int | None) -> bool:
        """False when a file is known to have no rows of these symbols received in [start, end)."""
        note = self.of(path)
        return note is None or note.may_match(symbols, start, end)


class NoteWriter:
    """Appends to the notes of a captures directory."""

    def __init__(self, tree: Tree):
        self.tree = tree
        self._numbered: dict[Path, tuple[str, dict[str, int]]] = {}

    def add(self, table: str, day: date, path: Path, rows: pa.Table) -> None:
        """Note a file that has entered the tree. A full disk is no error: then there is no note."""
        if table not in TABLES:
            return
        place = _place(self.tree, table, day)
        try:
            place.parent.mkdir(exist_ok=True)
            with open(place, "ab") as file:
                if place not in self._numbered or not file.tell():  # compaction removes notes
                    self._numbered[place] = os.urandom(8).hex(), {}
                body = self._body(path, rows, *self._numbered[place])
                file.write(b"\n%08x %s\n" % (crc32(body), body))  # whatever a crash left before it
        except OSError:
            self._numbered.pop(place, None)

    @staticmethod
    def _body(path: Path, rows: pa.Table, writer: str, bits: dict[str, int]) -> bytes:
        names = {s for part in rows["symbol"].chunks for s in part.unique().dictionary_decode().to_pylist()} - {None}
        numbered, new = len(bits), sorted(names - bits.keys())
        for name in new:
            bits[name] = len(bits)
        limits, stat = pc.min_max(rows["recv_ns"]), path.stat()
        line = {
            "file": path.name,
            "size": stat.st_size,
            "changed_ns": stat.st_mtime_ns,
            "first_ns": limits["min"].as_py(),
            "last_ns": limits["max"].as_py(),
            "of": writer,
            "numbered": numbered,
            "new": new,
            "held": f"{sum(1 << bits[s] for s in names):x}",
        }
        return json.dumps(line).encode()


def forget(tree: Tree, table: str, day: date) -> None:
    """Remove the notes of a session date whose live files are gone."""
    with contextlib.suppress(OSError):
        _place(tree, table, day).unlink()


def sweep(tree: Tree) -> None:
    """Remove the notes of session dates that have no live files: a compaction was killed before it did."""
    for table in TABLES:
        for place in tree.state.glob(f"notes/{table}-*"):
            with contextlib.suppress(ValueError):
                day = date.fromisoformat(place.name.removeprefix(f"{table}-"))
                if all(layout.is_compacted(f.name) for f in tree.files(table, day)):
                    forget(tree, table, day)
