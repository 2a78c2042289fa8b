"""Finds out from the names of the files of captures which of them are missing, and between which times."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from recorder import layout
from recorder.layout import TABLES, FileName, Tree

CAUSE = "FILE_MISSING"
Days = tuple[date, date]  # first and last
_FOREVER = (1 << 63) - 1
_RESTATED = ("status", "instruments")  # tables in which every date begins with all that was known


class MissingFiles(NamedTuple):
    """Files of a table that are not there although the recorder has written them.

    Attributes
    ----------
    first, last
        Their numbers.
    before, after
        The files on either side; None where there is none.
    """

    table: str
    first: int
    last: int
    before: Path | None
    after: Path | None

    def __str__(self) -> str:
        n = self.last - self.first + 1
        which = f"number {self.first}" if n == 1 else f"numbers {self.first} to {self.last}"
        sides = [
            f"{word} {path.parent.name}/{path.name}"
            for word, path in (("after", self.before), ("before", self.after))
            if path
        ]
        return f"{n} file{'s' if n > 1 else ''} of {self.table} ({which}) {'is' if n == 1 else 'are'} missing " + (
            " and ".join(sides)
        )


class Span(NamedTuple):
    """Receive times between which rows of a table are missing; `to_ns` None: to the end."""

    table: str
    from_ns: int
    to_ns: int | None


class Complete:
    """Watches whether the files of captures are complete; what it has read of a partition it keeps."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._names: dict[Path, tuple[list[str], list[_Numbered]]] = {}
        self._commit: tuple[tuple[int, int, int], dict[str, Any]] | None = None

    def missing(self, tables: Collection[str] = TABLES, days: Days | None = None) -> list[MissingFiles]:
        """Files that are missing of the session dates `days` (first and last; all when None) and next to them.

        Files that are being renamed into the tree, or replaced by a compaction, are not missing: what seems to be is
        looked for twice.
        """
        found = self._look(tables, days)
        if not found:
            return []
        again = set(self._look(tables, days))
        return [one for one in found if one in again]

    def _look(self, tables: Collection[str], days: Days | None) -> list[MissingFiles]:
        written = self._written()  # before the files are listed: those of later commits are no surprise
        found = [one for table in tables for one in self._of_table(table, days, written.get(table))]
        found = [*(one for table in tables for one in self._at_begin(table, days)), *found]
        return [rest for one in found for rest in self._nowhere(one)]

    def _nowhere(self, one: MissingFiles) -> Iterator[MissingFiles]:
        """What of `one` no other date has either: a clock that was wrong for a while put files into dates far away."""
        first = one.first
        whole = (file for day in self.tree.dates(one.table) for file in self._partition(one.table, day) if file.whole)
        for file in sorted(file for file in whole if file.last >= one.first and file.first <= one.last):
            if file.first > first:
                yield one._replace(first=first, last=file.first - 1)
            first = max(first, file.last + 1)
        if first <= one.last:
            yield one._replace(first=first)

    def _at_begin(self, table: str, days: Days | None) -> list[MissingFiles]:
        """Files missing before the first of a table, unless they went with the oldest dates.

        The first flush of captures gives every table a file, and the first of a date its states and instruments.
        """
        first = self._first(table)
        if first is None or first.first == 0 or (days is not None and layout.date_of(first.path) > days[1]):
            return []
        if days is not None and layout.date_of(first.path) < days[0]:
            return []
        others = {name: one for name in TABLES if name != table and (one := self._first(name)) is not None}
        if any(one.first == 0 and _start(one) < _start(first) for one in others.values()):
            return [MissingFiles(table, 0, first.first - 1, None, first.path)]
        ticks = others.get("ticks")
        if table in _RESTATED and ticks is not None and _start(ticks) < _start(first):
            return [MissingFiles(table, first.first - 1, first.first - 1, None, first.path)]
        return []

    def _first(self, table: str) -> "_Numbered | None":
        """The file of the oldest date with the lowest number; None where that date has none with a number."""
        oldest = next((day for day in self.tree.dates(table) if self.tree.names(table, day)), None)
        return None if oldest is None else min(self._partition(table, oldest), default=None)

    def _of_table(self, table: str, days: Days | None, written: int | None) -> list[MissingFiles]:
        dates = self.tree.dates(table)
        last_date = dates[-1:]
        if days is not None:
            dates = dates[max(0, bisect_left(dates, days[0]) - 1) : bisect_right(dates, days[1]) + 1]
        files = sorted(one for day in dates for one in self._partition(table, day))
        out = []
        reach: int | None = None
        before: Path | None = None
        for first, last, path, whole in files:
            if reach is not None and first > reach + 1:
                out.append(MissingFiles(table, reach + 1, first - 1, before, path))
            if not whole:
                out.append(MissingFiles(table, first, last, before, None if last == reach else path))
            if reach is None or last > reach:
                reach, before = last, path
        if written is not None and dates[-1:] == last_date and reach is not None and reach + 1 < written:
            out.append(MissingFiles(table, reach + 1, written - 1, before, None))
        return out

    def _partition(self, table: str, day: date) -> "list[_Numbered]":
        folder = self.tree.partition(table, day)
        names = self.tree.names(table, day)
        known = self._names.get(folder)
        if known is None or known[0] != names:
            known = self._names[folder] = names, _numbered(folder, names)
        return known[1]

    def _written(self) -> dict[str, int]:
        """How many files of each table there have to be, by the recorder's last commit; empty where it is not here."""
        path = self.tree.state / "commit.json"
        try:
            stat = path.stat()
            key = stat.st_ino, stat.st_size, stat.st_mtime_ns
            if self._commit is None or self._commit[0] != key:
                saved = json.loads(path.read_bytes())
                self._commit = key, {name: saved.get(name) for name in ("files", "entering")}
        except (OSError, ValueError):
            return {}
        written = dict(self._commit[1]["files"] or {})
        for work, target in self._commit[1]["entering"] or ():
            if (self.tree.work / work).exists():  # not renamed yet: captures end before it
                name = FileName.parse(Path(target).name)
                table = Path(target).parts[0]
                if name is not None and name.numbers is not None and table in written:
                    written[table] = min(written[table], name.numbers[0])
        return written


class _Numbered(NamedTuple):
    """A file with numbers; `whole`: with all other parts of its compaction."""

    first: int
    last: int
    path: Path
    whole: bool


def _start(one: _Numbered) -> int:
    """Journal position from which on a file has rows."""
    name = FileName.parse(one.path.name)
    return 0 if name is None else name.start


def _numbered(folder: Path, names: list[str]) -> list[_Numbered]:
    parsed = [(name, found) for name in names if (found := FileName.parse(name)) is not None and found.numbers]
    parts: dict[tuple[int, int], int] = {}
    for _, found in parsed:
        if found.compacted and found.numbers is not None:
            parts[found.numbers] = parts.get(found.numbers, 0) + 1
    return [
        _Numbered(*found.numbers, folder / name, not found.parts or parts[found.numbers] >= found.parts)
        for name, found in parsed
        if found.numbers is not None
    ]


def loss(span: Span) -> dict[str, Any]:
    """Missing files as a row of losses (see recorder.loss): of every session, between two receive times."""
    closed = _FOREVER if span.to_ns is None else span.to_ns
    return {"session": None, "symbol": None, "cause": CAUSE, "opened_ns": span.from_ns, "closed_ns": closed}
