"""Starts the process that plays a recorded day, and gives it commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeAlias

from kfix_md.child import python
from kfix_md.errors import CaptureError, FeedDead, UsageError
from kfix_md.shm.names import default_directory

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


class Player:
    """A process that plays a recorded day into shared memory, and ends with this object.

    Attributes
    ----------
    folder
        Where its segment is.
    process
        The process.

    Raises
    ------
    UsageError
        The speed or the moment is none.
    """

    def __init__(self, captures: Path, day: date | str | None, speed: float | None, at: Moment | None) -> None:
        check_speed(speed)
        self.speed = speed
        moment = "" if at is None else moment_word(at)
        self.folder = tempfile.mkdtemp(prefix=PREFIX, dir=default_directory())
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
        self.process = subprocess.Popen(
            python("-c", _PLAYER, str(captures), self.folder, str(day or ""), str(speed or 0), moment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is meant for the script
        )
        self._owed = 0  # answers to commands that were interrupted
        self.end = weakref.finalize(self, _end, self.process, self.folder)

    def begun(self) -> date:
        """The session date that is played, as soon as its books are there.

        Raises
        ------
        UsageError, CaptureError
            It cannot be played. The process has ended.
        """
        reply = self._reply() or {"error": "the replaying process died"}
        if "error" in reply:
            self.end()
            raise _error(reply)
        return date.fromisoformat(reply["date"])

    def command(self, *words: object) -> None:
        """Let it do something, and wait until it has begun; FeedDead when it has ended."""
        assert self.process.stdin is not None
        reply: dict[str, Any] = {}
        try:
            self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
            self.process.stdin.flush()
            self._owed += 1
            while self._owed:
                reply = self._reply()
                self._owed -= 1
        except (OSError, ValueError):
            reply = {}
        if not reply:
            raise FeedDead("the replay has ended")
        if "error" in reply:
            raise _error(reply)

    def _reply(self) -> dict[str, Any]:
        """The next answer; empty when the process has ended."""
        assert self.process.stdout is not None
        reply: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        return reply


def _error(reply: dict[str, Any]) -> UsageError | CaptureError:
    return (UsageError if reply.get("usage") else CaptureError)(reply["error"])


def check_speed(speed: float | None) -> None:
    """UsageError unless it is a speed."""
    if speed is not None and not speed > 0:
        raise UsageError(f"speed {speed!r}: a factor above 0, or None for as fast as possible")


def moment_word(at: Moment) -> str:
    """A moment as one word, which the playing process reads."""
    if isinstance(at, float):
        raise UsageError(f"{at!r} is a float, which cannot hold a time exactly: write ns as an int or ISO text")
    return str(at).replace(" ", "T")


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
