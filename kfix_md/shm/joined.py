"""Reads the segments of a feed with one process per service as a single feed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfix_md._entry import Cause, State
from kfix_md.errors import FeedDead, FeedError
from kfix_md.shm.attach import Feed, snapshot_dtype
from kfix_md.shm.deep import Book
from kfix_md.shm.names import feed_name, parts_of, split_part
from kfix_md.shm.segment import Segment, wait_any

if TYPE_CHECKING:
    from kfix_md.shm.deep import Rows

PRICES = ("bid", "bid_qty", "ask", "ask_qty")


class ManyFeeds(Feed):
    """Several feeds read as one; what does not depend on whose books they have."""

    parts: dict[str, Feed]
    _seen_of: list[tuple[Segment, int]]

    def items(self) -> Iterator[tuple[str, Book]]:
        """(symbol, book) for every symbol and level."""
        self._learn()
        for symbol, level in list(self._rows):
            yield symbol, self[symbol, level]

    def check(self) -> None:
        """Raise FeedDead with the reasons unless one of them lives."""
        faults = self._faults()
        if len(faults) == len(self.parts):
            raise FeedDead("; ".join(faults) or f"feed {self.name!r} has no process")

    def _faults(self) -> list[str]:
        faults = []
        for feed in self.parts.values():
            try:
                feed.check()
            except FeedDead as error:
                faults.append(str(error))
        return faults

    @property
    def fault(self) -> str:
        """Which of them have ended, and why; "" when all live."""
        return "; ".join(self._faults())

    def _leaves(self) -> list[Feed]:
        return [leaf for feed in self.parts.values() for leaf in feed._leaves()]

    def wait(self, timeout: float | None = None) -> bool:
        """As Feed.wait."""
        end = None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
        while True:
            self._learn()
            segments = [leaf._segment for leaf in self._leaves()]
            new = [(segment, segment.change) for segment in segments]
            if new != self._seen_of:
                self._seen_of = new
                return True
            self.check()
            left = 1 << 62 if end is None else end - time.monotonic_ns()
            if left <= 0:
                return False
            beats = (each.info()["heartbeat_interval_ns"] for each in segments)
            wait_any(segments, [change for _, change in new], min(left, *beats))

    def _see(self) -> None:
        """Wait for what is published from now on."""
        self._seen_of = [(leaf._segment, leaf._segment.change) for leaf in self._leaves()]

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The FIX sessions of all of them, numbered through; DOWN when the process has ended."""
        found = [
            session | ({} if feed.alive else {"state": "DOWN"})
            for feed in self.parts.values()
            for session in feed.sessions
        ]
        return [session | {"number": number} for number, session in enumerate(found)]

    @property
    def counters(self) -> dict[str, int]:
        """Sums over them; a sum of journal positions has no meaning."""
        sums: dict[str, int] = {}
        for feed in self.parts.values():
            for name, value in feed.counters.items():
                sums[name] = sums.get(name, 0) + value
        return sums


class JoinedFeed(ManyFeeds):
    """Several segments as one Feed. A book raises FeedDead when its own process has ended; the others go on.

    `check()` raises, and `alive` is False, when no process lives; `fault` names those that have ended.
    """

    def __init__(self, path: Path, reconnect: bool = False, allow_unverified: bool = False) -> None:
        self.path, self.reconnect, self.allow_unverified = path, reconnect, allow_unverified
        self.parts = {}
        self._quick: dict[object, Book] = {}
        self._learn()
        self._see()
        if not reconnect:
            self.check()

    def _learn(self) -> None:
        """Update the lists of processes and symbols."""
        for part in parts_of(self.path):
            service = split_part(part.name)[1]
            if service not in self.parts:
                try:
                    self.parts[service] = Feed(part, self.reconnect, self.allow_unverified, check=False)
                except FeedError:  # removed, or not complete yet
                    continue
        self._owner: dict[tuple[str, int], Feed] = {}
        for feed in self.parts.values():
            feed._learn()
            for key in feed._rows:
                self._owner.setdefault(key, feed)
        self._rows = dict.fromkeys(self._owner, 0)

    def _open_book(self, found: tuple[str, int]) -> Book:
        return self._owner[found][found]

    def _place(self, key: tuple[str, int]) -> tuple[Segment, int]:
        return self._owner[key]._place(key)

    def snapshot(self, allow_stale: bool = False, *, allow_unverified: bool = False) -> Rows:
        """As Feed.snapshot; books of an ended process are DOWN with cause RESTART."""
        if not allow_stale:
            self.check()
        self._learn()
        found = [rows_of(feed, allow_stale, allow_unverified) for feed in self.parts.values()]
        widest = max((rows["symbol"].dtype.itemsize // 4 for rows in found), default=1)
        out, at = np.zeros(sum(map(len, found)), snapshot_dtype(widest)), 0
        for rows in found:
            for name in rows.dtype.names or ():
                out[name][at : at + len(rows)] = rows[name]
            at += len(rows)
        return out

    @property
    def name(self) -> str:
        return feed_name(self.path)

    @property
    def info(self) -> dict[str, Any]:
        """Header fields of the process that was started first; `pids`: process id by service."""
        infos = {service: feed.info for service, feed in self.parts.items()}
        first = min(infos.values(), key=lambda info: info["start_ns"])
        return first | {
            "name": self.name,
            "path": str(self.path),
            "pids": {service: info["pid"] for service, info in infos.items()},
        }


def rows_of(feed: Feed, allow_stale: bool, allow_unverified: bool) -> Rows:
    """The snapshot of one of several feeds; its books are DOWN when it has ended."""
    try:
        feed.check()
        return feed.snapshot(allow_stale, allow_unverified=allow_unverified)
    except FeedDead:
        rows = feed.snapshot(allow_stale=True)
        rows["state"], rows["cause"] = State.DOWN, Cause.RESTART
        if not allow_stale:
            for name in PRICES:
                rows[name] = np.nan
        return rows
