"""Replays a recorded day as a feed: a process plays it into shared memory, so that scripts run unchanged."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from kfix_md.errors import FeedError
from kfix_md.shm.attach import Feed
from kfix_md.shm.names import REPLAY, default_directory, segment_path
from kfix_md.shm.playing import PREFIX, Moment, Player, check_speed, moment_word
from kfix_md.shm.segment import Segment

SWEPT_AFTER_S = 60  # a folder without a segment may belong to a replay that is starting


class ReplayFeed(Feed):
    """A recorded day as a feed, played by a process that ends with this object.

    Receive times are those of the replay, so that ages are as with a live feed; exchange times are the recorded ones;
    `recorded_ns` is the position of the replay. At the end of the day books raise FeedDead.
    """

    def __init__(self, player: Player, allow_unverified: bool = False) -> None:
        self._player, self._paused = player, False
        _sweep(default_directory())
        self.date = player.begun()
        super().__init__(segment_path(player.folder, REPLAY), allow_unverified=allow_unverified)

    @property
    def recorded_ns(self) -> int:
        """Recorded receive time of the last message played, ns since the epoch; 0 before the first."""
        return self.counters.get("recorded_ns", 0)

    @property
    def paused(self) -> bool:
        """Whether it rests; books keep what they show, and become older."""
        return self._paused

    def pause(self) -> None:
        """Rest. FeedDead when the replay has ended, here and below."""
        self._player.command("pause")
        self._paused = True

    def resume(self) -> None:
        """Go on where it was paused."""
        self._player.command("resume")
        self._paused = False

    @property
    def speed(self) -> float | None:
        """Multiple of real time; None: as fast as possible. It may be set."""
        return self._player.speed

    @speed.setter
    def speed(self, factor: float | None) -> None:
        check_speed(factor)
        self._player.command("speed", factor or 0)
        self._player.speed = factor

    def seek(self, at: Moment) -> None:
        """Go to a moment of the day, forward or back: every book becomes what it was then, and is SYNCING until it has.

        Parameters
        ----------
        at
            ISO text (UTC without a zone), ns since the epoch as an int, or a datetime.

        Raises
        ------
        UsageError
            It is no moment of this session date.
        """
        self._player.command("seek", moment_word(at))

    def close(self) -> None:
        """End the replay."""
        self._player.end()


def _sweep(directory: Path) -> None:
    """Remove what replays of this user left that were killed together with their script."""
    for folder in directory.glob(PREFIX + "*"):
        with contextlib.suppress(OSError, FeedError):
            status = folder.lstat()
            if status.st_uid != os.geteuid():
                continue
            try:
                over = Segment(str(segment_path(folder, REPLAY))).abandoned()
            except FileNotFoundError:
                over = time.time() - status.st_mtime > SWEPT_AFTER_S
            if over:
                shutil.rmtree(folder, ignore_errors=True)
