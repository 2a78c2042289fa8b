"""Shows a version of a lake to readers as the tree of a captures directory: its files are known from the log.

A tree is one feed at one version: the files of the log of `ticks`, and those of the other tables from before the
journal position up to which ticks are there. Nothing is listed; objects are read in ranges.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from kfix_md.errors import CaptureError, UsageError
from recorder.lake import GOES_WITH, TABLES, Held, Lake, Version, first_line, position_app
from recorder.layout import Tree

_OTHERS = tuple(name for name in TABLES if name != "ticks")
_NOWHERE = Path(os.devnull) / "captures"  # a lake has no state/ and no work/


class Place(type(Path())):  # type: ignore[misc]
    """A path that is not of this machine's files: its text is a URL."""

    url: str

    def __new__(cls, url: str, *more: Any) -> "Place":
        """The place of a URL."""
        made: Place = super().__new__(cls, url)
        made.url = url
        return made

    def __init__(self, url: str, *more: Any) -> None:
        if hasattr(Path, "with_segments"):  # Python 3.12 and later
            super().__init__(url)  # pyright: ignore[reportCallIssue]

    def __str__(self) -> str:
        return getattr(self, "url", None) or str(super().__str__())  # made of another one by pathlib: without a URL


class _Size(NamedTuple):
    """What readers ask of os.stat."""

    st_size: int
    st_ino: int = 0
    st_mtime_ns: int = 0


class RemoteFile(Place):
    """A finished file in a lake."""

    held: Held
    store: Any
    feed: str

    @classmethod
    def of(cls, url: str, held: Held, store: Any, feed: str) -> "RemoteFile":
        """The file of an add action; its path ends as that of the captures it is from."""
        made = cls(f"{url}/{held.key.rsplit('/', 1)[0]}/{held.name}")
        made.held, made.store, made.feed = held, store, feed
        return made

    def stat(self, **options: Any) -> Any:
        """Its size, from the log."""
        return _Size(self.held.size)

    def read_bytes(self) -> bytes:
        """All of it, in one request."""
        import obstore

        try:
            return bytes(obstore.get(self.store, self.held.key).bytes())
        except Exception as error:
            raise self._lost(error) from error

    def source(self) -> Any:
        """For a reader of parts of it."""
        import obstore

        try:
            return obstore.open_reader(self.store, self.held.key)
        except Exception as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> CaptureError:
        if isinstance(error, FileNotFoundError):
            return CaptureError(f"{self} is no longer in the lake (vacuumed?): open a newer version")
        return CaptureError(f"{self} cannot be read: {first_line(error)}")

    # ---- what recorder.notes knows of a live file ----

    @property
    def size(self) -> int:
        """Bytes."""
        return self.held.size

    @property
    def first_ns(self) -> int | None:
        """Lowest receive time; None: no rows, or not known."""
        return self.held.first_ns

    @property
    def last_ns(self) -> int | None:
        """Highest receive time; None: no rows, or not known."""
        return self.held.last_ns

    def may_match(self, wanted: Collection[str] | None, start: int | None, end: int | None) -> bool:
        """Whether it may hold rows of these symbols received in [start, end), by the statistics in the log."""
        one = self.held
        if not one.rows:
            return False
        low, high = one.first_ns, one.last_ns
        if high is not None and start is not None and high < start:
            return False
        if low is not None and end is not None and low >= end:
            return False
        if wanted is None or one.symbols is None:
            return True
        return any(one.symbols[0] <= name <= one.symbols[1] for name in wanted)


class _Statistics:
    """Statistics of the log in place of the notes of a captures directory."""

    def refresh(self, table: str, day: date) -> None:
        """A version does not change."""

    def of(self, path: Any) -> Any:
        """Of a file, None where its log has no times."""
        return path if path.held.first_ns is not None or not path.held.rows else None

    def may_hold(self, path: Any, symbols: Collection[str] | None, start: int | None, end: int | None) -> bool:
        """False when a file has no rows of these symbols received in [start, end)."""
        return bool(path.may_match(symbols, start, end))


class LakeTree(Tree):
    """One feed of a lake at one version, in place of the tree of a captures directory."""

    def __init__(
        self,
        lake: Lake,
        feed: str,
        files: Mapping[str, Mapping[date, Mapping[str, RemoteFile]]],
        version: Version | None,
        position: int,
    ) -> None:
        self.lake, self.feed, self.version, self.position = lake, feed, version, position
        self.root: Any = Place(f"{lake.url} feed {feed}")
        self.work = self.state = _NOWHERE
        self.notes = _Statistics()
        self._files = files

    def __reduce__(self) -> tuple[Any, ...]:
        """Opened again where it is loaded, at the same version."""
        return _again, (self.lake.url, self.lake.storage, self.feed, self.version)

    def partition(self, table: str, day: date) -> Path:
        """Where a session date of a table would be in captures."""
        return Path(self.lake.url, f"feed={self.feed}", table, f"session_date={day.isoformat()}")

    def check(self) -> None:
        """A lake was checked when it was opened."""

    def again(self) -> "LakeTree":
        """What pickled captures are opened with."""
        return self

    def dates(self, table: str = "ticks") -> list[date]:
        """Session dates of a table."""
        return sorted(self._files.get(table, {}))

    def names(self, table: str, day: date) -> list[str]:
        """Names of the files of one partition, in the order of the journal."""
        return sorted(self._files.get(table, {}).get(day, {}), key=lambda name: name.removeprefix("c-"))

    def file(self, table: str, day: date, name: str) -> Path:
        """One of them."""
        return self._files[table][day][name]

    def files(self, table: str, day: date) -> list[Path]:
        """All of them."""
        return [self.file(table, day, name) for name in self.names(table, day)]

    def settled(self, path: Any) -> bool:
        """Whether all tables have the records up to the end of a file: a push may have ended after some of them."""
        return bool(path.held.range[1] <= self.position)


def _again(url: str, storage: dict[str, str], feed: str, version: Version) -> LakeTree:
    [found] = trees(url, storage=storage, feed=feed, version=version)
    return found


def trees(
    url: str | os.PathLike[str],
    *,
    storage: Mapping[str, str] | None = None,
    feed: str | None = None,
    version: Version | None = None,
) -> list[LakeTree]:
    """The feeds of a lake, one tree each.

    Parameters
    ----------
    feed
        Only this one.
    version
        Of the table of ticks, or a time, with which the store's times of the objects of its log are compared; the
        newest when None. The other tables are read at the versions that the commit of ticks names.

    Raises
    ------
    UsageError
        It is no lake, or has no such feed.
    CaptureError
        It cannot be reached, or has no such version.
    """
    lake = Lake(url, storage)
    ticks = lake.open("ticks", version)
    if ticks is None:
        raise UsageError(f"{lake.url} is no lake: there is no {lake.table_url('ticks')}/_delta_log")
    at = {} if version is None else _going_with(lake, ticks.version())
    tables = {name: lake.open(name, at.get(name)) for name in _OTHERS}  # after ticks: not older than they are
    held = {"ticks": lake.held(ticks)} | {name: lake.held(one) for name, one in tables.items() if one is not None}
    feeds = sorted(held["ticks"]) if feed is None else [feed]
    if not feeds or feeds[0] not in held["ticks"]:
        known = ", ".join(sorted(held["ticks"])) or "none"
        raise UsageError(f"{lake.url} has no feed {feed or ''}; there is {known}")
    made = []
    for one in feeds:
        position = ticks.transaction_version(position_app(one, "ticks")) or 0
        files = {name: dict(_by_date(lake, name, one, held.get(name, {}), position)) for name in TABLES}
        made.append(LakeTree(lake, one, files, ticks.version(), position))
    return made


def _going_with(lake: Lake, version: int) -> Mapping[str, Version]:
    """Versions of the other tables that go with one of ticks; the newest of a table that is not named.

    A commit that names none (it creates the table or adds columns, or a release before this one made it) was made after
    those of the other tables: by the same clock they are not younger than it is.
    """
    commit = lake.commit("ticks", version)
    if commit is None:
        return {}
    named: dict[str, Version] | None = commit.info.get(GOES_WITH)
    return dict.fromkeys(_OTHERS, commit.at) if named is None else named


def _by_date(
    lake: Lake, table: str, feed: str, held: Mapping[str, list[Held]], position: int
) -> Iterator[tuple[date, dict[str, RemoteFile]]]:
    """Files of one feed by session date and name; of the other tables those from before the position of ticks."""
    days: dict[date, dict[str, RemoteFile]] = {}
    for one in held.get(feed, []):
        if table == "ticks" or one.range[0] < position:
            file = RemoteFile.of(lake.table_url(table), one, lake.store(table), feed)
            days.setdefault(one.day, {})[one.name] = file
    yield from days.items()
