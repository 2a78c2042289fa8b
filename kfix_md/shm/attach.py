"""Gives access to the books of a running feed."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kfix_md.errors import FeedDead, FeedError, NoSuchSymbol, NotLive
from kfix_md.shm.attaching import attach
from kfix_md.shm.deep import LEVEL_DTYPE, LEVEL_INT_DTYPE, ORDER_DTYPE, TRADE_DTYPE, Book, QueuePosition
from kfix_md.shm.names import PREFIX, default_directory, feed_name, parts_of, segment_path, split_part
from kfix_md.shm.owners import directories_of_others, reader_directories
from kfix_md.shm.reader import Quote
from kfix_md.shm.segment import Segment

if TYPE_CHECKING:
    from kfix_md.shm.deep import Rows

__all__ = [
    "LEVEL_DTYPE",
    "LEVEL_INT_DTYPE",
    "ORDER_DTYPE",
    "TRADE_DTYPE",
    "Book",
    "Feed",
    "FeedDead",
    "FeedError",
    "NotLive",
    "QueuePosition",
    "Quote",
    "attach",
    "feeds",
]

LEVELS = {"L2": 2, "L3": 3, 2: 2, 3: 3}


def feeds(directory: str | os.PathLike[str] | None = None) -> list[str]:
    """Names of the feeds in a directory, ended ones included; a feed of several processes is listed once."""
    where = default_directory() if directory is None else Path(directory)
    return sorted({name for folder in reader_directories(where) for name in _names_in(folder)})


def _names_in(folder: Path) -> set[str]:
    try:
        names = [feed_name(entry) for entry in folder.iterdir() if entry.name.startswith(PREFIX)]
    except OSError:  # no feed has run, or one that others may not look at
        return set()
    return {split_part(name)[0] for name in names}


def book_of(source: Feed | str, symbol: str, level: str) -> Book:
    """The book of a feed, or of the segment at a path: what a pickled book becomes where it is loaded."""
    feed = attach(path=source) if isinstance(source, str) else source
    return feed[symbol, level]


def is_there(path: Path) -> bool:
    return os.path.lexists(path) or bool(parts_of(path))


def feed_at(path: Path, reconnect: bool, allow_unverified: bool) -> Feed:
    if not os.path.lexists(path) and parts_of(path):
        from kfix_md.shm.joined import JoinedFeed

        return JoinedFeed(path, reconnect, allow_unverified)
    return Feed(path, reconnect, allow_unverified)


def _open(path: Path) -> Segment:
    try:
        return Segment(str(path))
    except FileNotFoundError:
        others = [name + _ended(path.parent, name) for name in sorted(_names_in(path.parent))]
        there = f"there are: {', '.join(others)}" if others else f"there is none in {path.parent}; is one running?"
        there += "; name one: attach(NAME), --feed or KFIX_FEED" if len(others) > 1 else ""
        raise FeedError(f"no feed named {feed_name(path)!r}; {there}{_of_others(path)}") from None


def _ended(folder: Path, name: str) -> str:
    """What a list adds to the name of a feed that was killed, whose segment is still there."""
    path = segment_path(folder, name)
    try:
        alive = any(not Segment(str(each)).abandoned() for each in parts_of(path) or [path])
    except (FeedError, OSError):  # another layout, another user's, or it has just gone
        alive = True
    return "" if alive else " (has ended)"


def _of_others(path: Path) -> str:
    """Hint at feeds of that name of other users, who have to be trusted by name."""
    found = [folder for folder in directories_of_others(path.parent) if is_there(folder / path.name)]
    if not found:
        return ""
    where = " or ".join(map(str, found))
    return f"; if you trust its user: attach({feed_name(path)!r}, directory=...) or KFIX_SHM_DIR, with {where}"


def snapshot_dtype(symbol_chars: int) -> np.dtype[np.void]:
    """dtype of the rows of `feed.snapshot()`; prices and quantities are NaN unless the book is trusted."""
    return np.dtype(
        [
            ("symbol", f"U{max(symbol_chars, 1)}"),
            ("level", "u1"),
            ("state", "u1"),
            ("cause", "u1"),
            ("bid", "f8"),
            ("bid_qty", "f8"),
            ("ask", "f8"),
            ("ask_qty", "f8"),
            ("recv_ns", "i8"),
            ("age_ns", "i8"),
            ("seq", "u8"),
            ("updates", "u8"),
            ("bids", "u4"),
            ("asks", "u4"),
            ("crc_checked", "u4"),
            ("crc_failed", "u4"),
            ("gaps", "u4"),
            ("gap_state", "u1"),
            ("gap_cause", "u1"),
            ("gap_ns", "i8"),
            ("price_precision", "u1"),
            ("qty_precision", "u1"),
        ],
        align=True,
    )


class Feed:
    """Books of a running feed: `feed["BTC/USD"]` (L2 if there is one), `feed["PF_ETHUSD", "L3"]`, `feed.items()`.

    Each book is created once: a lookup inside a loop costs a dictionary access.
    """

    has_copies = False  # a book that cannot be read asks `move()` for another copy of it

    def __init__(
        self, path: Path, reconnect: bool = False, allow_unverified: bool = False, *, check: bool = True
    ) -> None:
        self.path, self.reconnect, self.allow_unverified = path, reconnect, allow_unverified
        self._previous: Segment | None = None  # another thread may be inside a copy from it
        self._adopt(_open(path))
        if check and not reconnect:
            self._segment.check()

    def _adopt(self, segment: Segment) -> None:
        self._segment = segment
        self._rows: dict[tuple[str, int], int] = {}
        self._books: dict[tuple[str, int], Book] = getattr(self, "_books", {})
        self._quick: dict[object, Book] = {}
        self._template: Rows | None = None
        self._seen = segment.change
        self._learn()

    def _learn(self) -> None:
        """Update the list of symbols."""
        if self._segment.n_symbols != len(self._rows):
            self._rows = {key: row for row, key in enumerate(self._segment.symbols())}
            self._template = None

    def revive(self, book: Book | None) -> bool:
        """Move all books to the feed's new segment; False without reconnect=True or a new segment. Called by books."""
        if not self.reconnect or not self._find_living():
            return False
        self._learn()
        moved = False
        for key, each in self._books.items():
            if key in self._rows:
                each.bind(self._segment, self._rows[key])
                moved |= each is book
        return moved

    def move(self, book: Book, mute_ns: int | None) -> bool:
        """Whether a book was moved to a better copy: never here, see kfix_md.shm.failover. Called by books."""
        return False

    def _place(self, key: tuple[str, int]) -> tuple[Segment, int]:
        """Segment and row of a book."""
        return self._segment, self._rows[key]

    def _leaves(self) -> list[Feed]:
        """The feeds with a segment of their own that this one consists of."""
        return [self]

    def _find_living(self) -> bool:
        """Whether the feed lives, after a move to its new segment if there is one."""
        try:
            self._segment.check()
            return True
        except FeedDead:
            if not self._segment.replaced():
                return False
        try:
            fresh = _open(self.path)
            fresh.check()
        except FeedError:
            return False
        self._previous = self._segment
        self._adopt(fresh)
        return True

    def __getitem__(self, key: str | tuple[str, str | int]) -> Book:
        try:
            return self._quick[key]
        except (KeyError, TypeError):
            return self._find(key)

    def _ipython_key_completions_(self) -> list[str | tuple[str, str]]:
        self._learn()
        return [*self, *((symbol, f"L{level}") for symbol, level in self._rows)]

    def _find(self, key: str | tuple[str, str | int]) -> Book:
        self._learn()
        symbol, level = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        if level is None:
            wanted = [(symbol, 2), (symbol, 3)]
        elif level in LEVELS:
            wanted = [(symbol, LEVELS[level])]
        else:
            raise NoSuchSymbol(f"level {level!r} of {symbol!r}: levels are 'L2' and 'L3'")
        found = next((each for each in wanted if each in self._rows), None)
        if found is None:
            raise NoSuchSymbol(self._near(symbol, level))
        book = self._quick[key] = self._open_book(found)
        return book

    def _open_book(self, found: tuple[str, int]) -> Book:
        book = self._books.get(found)
        if book is None:
            book = self._books[found] = Book(self._segment, self._rows[found], self, self.allow_unverified)
        return book

    def _near(self, symbol: object, level: object) -> str:
        names = [name for name, _ in self._rows]
        if symbol in names:
            known = "L2" if (symbol, 2) in self._rows else "L3"
            return f"{symbol!r} is here as {known} only, not as {level}"
        by_fold = {"".join(filter(str.isalnum, name.upper())): name for name in names}
        folded = "".join(filter(str.isalnum, str(symbol).upper()))
        near = difflib.get_close_matches(folded, by_fold, n=4, cutoff=0.6)
        hint = f"; near: {', '.join(by_fold[each] for each in near)}" if near else ""
        return f"no symbol {symbol!r} among the {len(names)} of this feed{hint}"

    def __contains__(self, key: object) -> bool:
        try:
            self[key]  # type: ignore[index]
        except NoSuchSymbol:
            return False
        return True

    def __len__(self) -> int:
        self._learn()
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        self._learn()
        return iter(dict.fromkeys(symbol for symbol, _ in self._rows))

    @property
    def symbols(self) -> list[str]:
        """All symbols, each once, in the order the feed added them."""
        return list(self)

    def items(self) -> Iterator[tuple[str, Book]]:
        """(symbol, book) for every symbol and level."""
        self._learn()
        for symbol, level in list(self._rows):
            yield symbol, self[symbol, level]

    def books(self) -> list[Book]:
        """Every book, L2 and L3."""
        return [book for _, book in self.items()]

    def snapshot(self, allow_stale: bool = False, *, allow_unverified: bool = False) -> Rows:
        """The tops of all books, one row each (see snapshot_dtype).

        Prices and quantities of a book that `top()` would not return are NaN. Raises FeedDead as a book does.
        """
        if not allow_stale:
            self.check()
        self._learn()
        if self._template is None:
            widest = max((len(symbol) for symbol, _ in self._rows), default=1)
            self._template = np.zeros(len(self._rows), snapshot_dtype(widest))
            self._template["symbol"] = [symbol for symbol, _ in self._rows]
            self._template["level"] = [level for _, level in self._rows]
        out = self._template.copy()
        self._segment.scan(out, allow_stale, allow_unverified or self.allow_unverified)
        return out

    def check(self) -> None:
        """Raise FeedDead with the reason unless the feed's process lives (with reconnect=True: or a new one)."""
        try:
            self._segment.check()
        except FeedDead:
            if not self._moved():
                raise

    def _current(self) -> Segment:
        """The segment of the feed that lives now: with reconnect=True the new one, for who reads no books."""
        if self.reconnect:
            self._find_living()
        return self._segment

    def _moved(self) -> bool:
        before = self._segment
        self.revive(None)
        return self._segment is not before

    @property
    def alive(self) -> bool:
        """The feed's process lives and its heartbeat is fresh."""
        try:
            self.check()
        except FeedDead:
            return False
        return True

    @property
    def fault(self) -> str:
        """Why the feed, or one of its processes, has ended; "" while all live."""
        try:
            self.check()
        except FeedDead as error:
            return str(error)
        return ""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until a publication newer than the last wait, at most `timeout` seconds; False when there was none."""
        end = None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
        while True:
            if (change := self._segment.change) != self._seen:
                self._seen = change
                return True
            self.check()
            left = 1 << 62 if end is None else end - time.monotonic_ns()
            if left <= 0:
                return False
            self._segment.wait_change(self._seen, min(left, self._segment.info()["heartbeat_interval_ns"]))

    @property
    def name(self) -> str:
        return self._segment.name

    @property
    def info(self) -> dict[str, Any]:
        """Fields of the segment's header: name, pid, start_ns, heartbeat_ns, layout, software..."""
        return self._current().info()

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The feed's FIX sessions: service, state, host, counts, times."""
        return self._current().sessions()

    @property
    def counters(self) -> dict[str, int]:
        """Named counts of the feed."""
        return self._current().counters()

    def close(self) -> None:
        """End a replay. A live feed needs no close: it is unmapped with the last object that reads it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled feed is attached to again where it is loaded, and so are its books."""
        return feed_at, (self.path.absolute(), self.reconnect, self.allow_unverified)

    def __repr__(self) -> str:
        return f"<{self._line()}>"

    def _repr_html_(self) -> str:
        from kfix_md.display import feed_html

        return feed_html(self._line(), self.snapshot(allow_stale=True))

    def _line(self) -> str:
        from kfix_md.display import feed_text

        fault = self.fault
        return feed_text(self.name, self.snapshot(allow_stale=True), fault)
