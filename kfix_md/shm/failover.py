"""Reads the same books from several feeds: each book from the first feed with a good copy of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfix_md._entry import State
from kfix_md._state import TRUSTED
from kfix_md.errors import FeedError, NotLive
from kfix_md.shm.attach import attach, snapshot_dtype
from kfix_md.shm.deep import Book
from kfix_md.shm.joined import ManyFeeds, rows_of

if TYPE_CHECKING:
    from kfix_md.shm.deep import Rows

SEARCH_S = 1.0  # between two searches for feeds that were not there

Key = tuple[str, int]


class FailoverFeed(ManyFeeds):
    """Feeds of the same venue as one Feed, for readers that must not depend on one process or host.

    A book is read from the first feed, in the order of the names, that has a copy which can be read, and stays with it
    until that copy cannot be read any more (its feed has ended or stopped, or the book is not trusted), or has
    received nothing for two seconds while another copy has. Then it moves to the first copy that can be read, once:
    it does not return when the earlier one is well again. Reading raises only if no copy can be read.

    Feeds that are started later, or again, are found within a second. `seq`, `updates` and the counts of `info()` are
    those of the copy that is read: they differ between feeds.

    Attributes
    ----------
    parts : dict of str to Feed
        The feeds that are there, by name.
    switches : int
        How many times a book has moved to another copy.
    """

    has_copies = True

    def __init__(self, names: Sequence[str], directory: Path, allow_unverified: bool = False) -> None:
        self.names, self.path, self.reconnect, self.allow_unverified = list(names), directory, True, allow_unverified
        self.parts = {}
        self.switches = 0
        self._quick: dict[object, Book] = {}
        self._books: dict[Key, Book] = {}
        self._serving: dict[Key, str] = {}  # by book: the name of its feed
        self._search_ns = 0
        self._learn()
        if not self.parts:
            attach(self.names[0], directory=directory)  # raises with the reason and the names there are
        self._see()

    def _learn(self) -> None:
        """Update the lists of feeds and symbols."""
        self._learn_parts()
        self._rows = {}
        for name in self.names:
            if name in self.parts:
                self._rows.update(dict.fromkeys(self.parts[name]._rows, 0))

    def _learn_parts(self) -> None:
        """Update the list of feeds and what each of them has; cheap while nothing is new."""
        now_ns = time.monotonic_ns()
        if len(self.parts) < len(self.names) and now_ns >= self._search_ns:
            self._search_ns = now_ns + int(SEARCH_S * 1e9)
            self._search()
        for feed in self.parts.values():
            feed._learn()

    def _search(self) -> None:
        for name in self.names:
            if name not in self.parts:
                try:
                    self.parts[name] = attach(
                        name, directory=self.path, reconnect=True, allow_unverified=self.allow_unverified
                    )
                except FeedError:  # not started yet, or not complete
                    continue

    # ---- which copy of a book is read --------------------------------------------------------------

    def _open_book(self, found: Key) -> Book:
        book = self._books.get(found)
        if book is None:
            name = next((each for each, copy in self._copies(found) if _usable(copy)), None)
            name = name or next(each for each, _ in self._copies(found))
            self._serving[found] = name
            book = self._books[found] = Book(*self.parts[name]._place(found), self, self.allow_unverified)
        return book

    def _copies(self, key: Key) -> list[tuple[str, Book]]:
        """(name of the feed, its book), in the order of the names."""
        return [
            (name, self.parts[name][key]) for name in self.names if name in self.parts and key in self.parts[name]._rows
        ]

    def move(self, book: Book, mute_ns: int | None) -> bool:
        """Whether a book was moved to a better copy of it; called by a book.

        `mute_ns` is None for a book that cannot be read. One that can is moved to a copy that has received a message
        of it this much later.
        """
        self._learn_parts()
        key = _key(book)
        for name, copy in self._copies(key):
            if name == self._serving[key] or not _usable(copy):
                continue
            if mute_ns is None or copy.recv_ns - book.recv_ns > mute_ns:
                self._serve(book, key, name)
                return True
        return False

    def revive(self, book: Book | None) -> bool:
        """Move a book whose feed has ended to a copy that can be read, else to one whose feed lives."""
        if book is None:
            return False
        if self.move(book, None):
            return True
        key = _key(book)
        living = next((name for name, copy in self._copies(key) if copy.state is not State.DOWN), None)
        if living is None:
            return False
        self._serve(book, key, living)
        return True

    def _serve(self, book: Book, key: Key, name: str) -> None:
        self.switches += name != self._serving[key]
        self._serving[key] = name
        book.bind(*self.parts[name]._place(key))

    def serving(self, symbol: str, level: str | int | None = None) -> str:
        """Name of the feed that a book is read from."""
        return self._serving[_key(self[symbol] if level is None else self[symbol, level])]

    # ---- what is asked of the whole feed -------------------------------------------------------------

    def snapshot(self, allow_stale: bool = False, *, allow_unverified: bool = False) -> Rows:
        """As Feed.snapshot, each book from the copy that is read; raises FeedDead when no feed lives."""
        if not allow_stale:
            self.check()
        self._learn()
        names = [name for name in self.names if name in self.parts]
        tables = [rows_of(self.parts[name], allow_stale, allow_unverified) for name in names]
        rows = [_rows(table) for table in tables]
        keys = list(dict.fromkeys(key for found in rows for key in found))
        # of each feed, the row of each book, -1 for none; and what that is worth: 2 can be read, 1 is there, 0 is not
        where = np.array([[found.get(key, -1) for key in keys] for found in rows], np.intp)
        accepted = [*TRUSTED, State.UNVERIFIED] if allow_unverified or self.allow_unverified else TRUSTED
        worth = (where >= 0).astype(np.intp)
        for table, places, values in zip(tables, where, worth, strict=True):
            values[places >= 0] += np.isin(table["state"][places[places >= 0]], accepted)
        for key in keys:
            self._open_book(key)
        chosen = np.array([names.index(self._serving[key]) for key in keys], np.intp)
        for at in np.flatnonzero(worth[chosen, np.arange(len(keys))] < worth.max(axis=0)):
            chosen[at] = worth[:, at].argmax()
            self._serve(self._books[keys[at]], keys[at], names[chosen[at]])
        widest = max((table["symbol"].dtype.itemsize // 4 for table in tables), default=1)
        out = np.zeros(len(keys), snapshot_dtype(widest))
        for number, table in enumerate(tables):
            mine = chosen == number
            for column in table.dtype.names or ():
                out[column][mine] = table[column][where[number][mine]]
        return out

    @property
    def name(self) -> str:
        return ",".join(self.names)

    @property
    def info(self) -> dict[str, Any]:
        """Header fields of the first feed that lives (else of the first one); `feeds`: those of each, by name."""
        infos = {name: self.parts[name].info for name in self.names if name in self.parts}
        living = next((name for name in infos if self.parts[name].alive), next(iter(infos)))
        return infos[living] | {"name": self.name, "feeds": infos}

    @property
    def fault(self) -> str:
        """Which feeds have ended or are not there, and why; "" when all live."""
        self._learn()
        absent = [f"there is no feed named {name!r}" for name in self.names if name not in self.parts]
        return "; ".join(self._faults() + absent)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled feed is attached to again where it is loaded."""
        return FailoverFeed, (self.names, self.path.absolute(), self.allow_unverified)


def _key(book: Book) -> Key:
    return book.symbol, int(book.level[1:])


def _usable(copy: Book) -> bool:
    try:
        copy.top()
    except (FeedError, NotLive):
        return False
    return True


def _rows(table: Rows) -> dict[Key, int]:
    """Row of each book in the snapshot of a feed."""
    return {key: row for row, key in enumerate(zip(table["symbol"].tolist(), table["level"].tolist(), strict=True))}
