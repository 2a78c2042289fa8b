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
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeAlias

from kfix_md.child import python
from kfix_md.errors import CaptureError, FeedDead, FeedError, UsageError
from kfix_md.shm.attach import Feed
from kfix_md.shm.names import REPLAY, default_directory, segment_path
from kfix_md.shm.segment import Segment

Moment: TypeAlias = int | str | datetime
PREFIX = "kfix-replay."
# pyarrow imports pandas as soon as it makes an array, if it can: a third of the time until the replay begins
_PLAYER = """
import sys

class WithoutPandas:
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ImportError("a replay does without pandas, which takes long to import")

sys.meta_path.insert(0, WithoutPandas())
from recorder import player
player.run()
"""
SWEPT_AFTER_S = 60  # a folder without a segment may belong to a replay that is starting


class ReplayFeed(Feed):
    """A recorded day as a feed, played by a process that ends with this object.

    Receive times are those of the replay, so that ages are as with a live feed; exchange times are the recorded ones;
    `recorded_ns` is the position of the replay. At the end of the day books raise FeedDead.
    """

    def __init__(
        self,
        captures: Path,
        day: date | str | None,
        speed: float | None,
        allow_unverified: bool = False,
        at: Moment | None = None,
    ) -> None:
        _factor(speed)
        _sweep(default_directory())
        self._speed, self._paused = speed, False
        self._folder = tempfile.mkdtemp(prefix=PREFIX, dir=default_directory())
        arguments = [str(captures), self._folder, str(day or ""), str(speed or 0), "" if at is None else _moment(at)]
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
        self._player = subprocess.Popen(
            python("-c", _PLAYER, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._end = weakref.finalize(self, _end, self._player, self._folder)
        reply = self._reply() or {"error": "the replaying process died"}
        if "error" in reply:
            self._end()
            raise (UsageError if reply.get("usage") else CaptureError)(reply["error"])
        self.date = date.fromisoformat(reply["date"])
        super().__init__(segment_path(self._folder, REPLAY), allow_unverified=allow_unverified)

    def _reply(self) -> dict[str, Any]:
        """The next answer; empty when the process has ended."""
        assert self._player.stdout is not None
        reply: dict[str, Any] = json.loads(self._player.stdout.readline() or "{}")
        return reply

    def _command(self, *words: object) -> None:
        """Let the replay do something, and wait until it has begun."""
        assert self._player.stdin is not None
        try:
            self._player.stdin.write(" ".join(map(str, words)).encode() + b"\n")
            self._player.stdin.flush()
            reply = self._reply()
        except (OSError, ValueError):
            reply = {}
        if not reply:
            raise FeedDead("the replay has ended")
        if "error" in reply:
            raise (UsageError if reply.get("usage") else CaptureError)(reply["error"])

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
        self._command("pause")
        self._paused = True

    def resume(self) -> None:
        """Go on where it was paused."""
        self._command("resume")
        self._paused = False

    @property
    def speed(self) -> float | None:
        """Multiple of real time; None: as fast as possible. It may be set."""
        return self._speed

    @speed.setter
    def speed(self, factor: float | None) -> None:
        self._command("speed", _factor(factor) or 0)
        self._speed = factor

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
        self._command("seek", _moment(at))

    def close(self) -> None:
        """End the replay."""
        self._end()


def _factor(speed: float | None) -> float | None:
    if speed is not None and not speed > 0:
        raise UsageError(f"speed {speed!r}: a factor above 0, or None for as fast as possible")
    return speed


def _moment(at: Moment) -> str:
    """A moment as one word, which the playing process reads."""
    if isinstance(at, float):
        raise UsageError(f"{at!r} is a float, which cannot hold a time exactly: write ns as an int or ISO text")
    return str(at).replace(" ", "T")


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
