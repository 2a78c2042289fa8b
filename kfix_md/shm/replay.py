"""Replays a recorded day as a feed: a process plays it into shared memory, so that scripts run unchanged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from datetime import date
from pathlib import Path

from kfix_md.errors import CaptureError, FeedError, UsageError
from kfix_md.shm.attach import Feed
from kfix_md.shm.names import default_directory, segment_path
from kfix_md.shm.segment import Segment

NAME, PREFIX = "replay", "kfix-replay."
SWEPT_AFTER_S = 60  # a folder without a segment may belong to a replay that is starting


class ReplayFeed(Feed):
    """A recorded day as a feed, played by a process that ends with this object.

    Receive times are those of the replay, so that ages are as with a live feed; exchange times are the recorded ones;
    `recorded_ns` is the position of the replay. At the end of the day books raise FeedDead.
    """

    def __init__(
        self, captures: Path, day: date | str | None, speed: float | None, allow_unverified: bool = False
    ) -> None:
        if speed is not None and not speed > 0:
            raise UsageError(f"speed {speed!r}: a factor above 0, or None for as fast as possible")
        _sweep(default_directory())
        self._folder = tempfile.mkdtemp(prefix=PREFIX, dir=default_directory())
        arguments = [str(captures), self._folder, str(day or ""), str(speed or 0)]
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
        self._player = subprocess.Popen(
            [sys.executable, "-m", "recorder.player", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._end = weakref.finalize(self, _end, self._player, self._folder)
        assert self._player.stdout is not None and self._player.stdin is not None
        reply = json.loads(self._player.stdout.readline() or '{"error": "the replaying process died"}')
        if "error" in reply:
            self._end()
            raise (UsageError if reply.get("usage") else CaptureError)(reply["error"])
        self.date = date.fromisoformat(reply["date"])
        super().__init__(segment_path(self._folder, NAME), allow_unverified=allow_unverified)
        self._player.stdin.write(b"go\n")
        self._player.stdin.flush()

    @property
    def recorded_ns(self) -> int:
        """Recorded receive time of the last message played, ns since the epoch; 0 before the first."""
        return self.counters.get("recorded_ns", 0)

    def close(self) -> None:
        """End the replay."""
        self._end()


def _sweep(directory: Path) -> None:
    """Remove what replays of this user left that were killed together with their script."""
    for folder in directory.glob(PREFIX + "*"):
        with contextlib.suppress(OSError, FeedError):
            status = folder.lstat()
            if status.st_uid != os.geteuid():
                continue
            try:
                over = Segment(str(segment_path(folder, NAME))).abandoned()
            except FileNotFoundError:
                over = time.time() - status.st_mtime > SWEPT_AFTER_S
            if over:
                shutil.rmtree(folder, ignore_errors=True)


def _end(player: subprocess.Popen[bytes], folder: str) -> None:
    for pipe in (player.stdin, player.stdout):
        if pipe is not None:
            pipe.close()
    try:
        player.wait(2)  # it ends when its stdin is closed
    except subprocess.TimeoutExpired:
        player.kill()
        player.wait()
    shutil.rmtree(folder, ignore_errors=True)
