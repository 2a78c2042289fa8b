"""How a recorded day comes back as a feed: a process plays it into shared memory, so that scripts run unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kfix_md.errors import CaptureError, UsageError
from kfix_md.reader import Feed, default_directory

if TYPE_CHECKING:
    from kfix_md._shm import SegmentWriter

NAME = "replay"
BEAT_S = 0.1
MARKED = ("SYNCING", "GAP", "CRC_FAIL", "STALE", "HALTED", "ROLLOVER", "DOWN")


class ReplayFeed(Feed):
    """A recorded day as a feed, played by a process of its own which ends with this object.

    Receive times are those of the replay, as if the messages came now, so ages are as live; exchange times are the
    recorded ones, and `recorded_ns` is where the replay is. At the end of the day books raise FeedDead.
    """

    def __init__(self, captures: Path, day: date | str | None, speed: float | None) -> None:
        if speed is not None and not speed > 0:
            raise UsageError(f"speed {speed!r}: a factor above 0, or None for as fast as possible")
        self._folder = tempfile.mkdtemp(prefix="kfix-replay.", dir=default_directory())
        words = [str(captures), self._folder, str(day or ""), str(speed or 0)]
        paths = [str(Path(__file__).resolve().parents[1]), *filter(None, sys.path)]
        self._player = subprocess.Popen(
            [sys.executable, "-m", "kfix_md.replay", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
        self._end = weakref.finalize(self, _end, self._player, self._folder)
        assert self._player.stdout is not None and self._player.stdin is not None
        told = json.loads(self._player.stdout.readline() or '{"error": "the replaying process died"}')
        if "error" in told:
            self._end()
            raise (UsageError if told.get("usage") else CaptureError)(told["error"])
        self.date = date.fromisoformat(told["date"])
        super().__init__(Path(self._folder, f"kfix-md.{NAME}"))
        self._player.stdin.write(b"go\n")
        self._player.stdin.flush()

    @property
    def recorded_ns(self) -> int:
        """Recorded receive time of the last message played, ns since the epoch; 0 before the first."""
        return self.counters.get("recorded_ns", 0)

    def close(self) -> None:
        """End the replay."""
        self._end()


def _end(player: subprocess.Popen, folder: str) -> None:
    for pipe in (player.stdin, player.stdout):
        if pipe is not None:
            pipe.close()
    try:
        player.wait(2)  # it ends by itself when its stdin is closed
    except subprocess.TimeoutExpired:
        player.kill()
        player.wait()
    shutil.rmtree(folder, ignore_errors=True)


def books_of(captures: Any, day: date) -> list[tuple[str, str, int, int]]:
    """(symbol, level, price decimals, quantity decimals) of every book with ticks on a day."""
    import pyarrow.dataset

    wanted = ["symbol", "level", "price_scale", "qty_scale"]
    folder = captures.tree.root / "ticks" / f"session_date={day.isoformat()}"
    found: set[tuple[str, str, int, int]] = set()
    for batch in pyarrow.dataset.dataset(folder, format="parquet").to_batches(columns=wanted):
        columns = [column.dictionary_decode() if hasattr(column, "dictionary_decode") else column
                   for column in batch.columns]  # fmt: skip
        found.update(zip(*(column.to_pylist() for column in columns), strict=True))
    return sorted(found)


class Player:
    """One day through Handlers, one for each level, into a segment."""

    def __init__(self, captures: Any, day: date, writer: SegmentWriter) -> None:
        from kfix_md import Handler

        self.captures, self.day, self.writer = captures, day, writer
        self.handlers = {level: Handler(level=level, publisher=writer) for level in ("L2", "L3")}
        self.levels: dict[int, str] = {}
        self.known: dict[tuple[str, str], tuple[int, int]] = {}
        for symbol, level, *scales in books_of(captures, day):
            writer.add_symbol(symbol, level, *scales)
            self._define(symbol, level, (scales[0], scales[1]))

    def _define(self, symbol: str, level: str, scales: tuple[int, int]) -> None:
        if self.known.get((symbol, level)) != scales:
            self.known[symbol, level] = scales
            self.handlers[level].define(symbol, *scales)

    def events(self) -> Iterator[tuple[int, Callable[[int], None]]]:
        """(recorded time, what to do at the time given): messages, and the states books had in between."""
        states = iter(self._states())
        state = next(states, None)
        for message in self.captures.replay(self.day, None):
            while state is not None and state[0] <= message.recv_ns:
                yield state[0], lambda now_ns, row=state: self._mark(*row[1:])
                state = next(states, None)
            yield message.recv_ns, lambda now_ns, message=message: self._deliver(message, now_ns)

    def _states(self) -> list[tuple[int, int, str, str, str]]:
        rows = self.captures.status(self.day).to_pylist()
        return sorted((row["recv_ns"], row["session"] or 0, row["symbol"], row["state"], row["cause"] or "NONE")
                      for row in rows if row["kind"] == "book" and row["state"] in MARKED)  # fmt: skip

    def _mark(self, session: int, symbol: str, state: str, cause: str) -> None:
        from kfix_md._entry import Cause, State

        for level, handler in self.handlers.items():
            if self.levels.get(session, level) == level and (symbol, level) in self.known:
                handler.mark(symbol, State[state], Cause.__members__.get(cause, Cause.NONE))

    def _deliver(self, message: Any, now_ns: int) -> None:
        self.levels[message.session] = message.level
        self._define(message.symbol, message.level, message.scales)
        self.handlers[message.level].deliver(message.fix(), now_ns)

    def play(self, speed: float | None, stop: Callable[[float], bool]) -> None:
        """Everything in its time; `stop(seconds)` sleeps and says whether to end."""
        began: tuple[float, int] | None = None
        beat = 0.0
        for recorded_ns, do in self.events():
            now = time.monotonic()
            began = began or (now, recorded_ns)
            due = began[0] + (recorded_ns - began[1]) / 1e9 / speed if speed else now
            while now >= beat or now < due:
                self.writer.heartbeat()
                beat = now + BEAT_S
                if stop(max(0.0, min(due - now, BEAT_S))):
                    return
                now = time.monotonic()
            do(time.time_ns())
            self.writer.set_counter("recorded_ns", recorded_ns)


def main(words: list[str], said: IO[bytes], told: IO[str]) -> None:
    """The playing process: CAPTURES FOLDER DATE SPEED; "go" on stdin starts it, the end of stdin ends it."""
    import select

    import recorder
    from kfix_md._shm import SegmentWriter

    captures, folder, day, speed = words
    try:
        held = recorder.open(captures)
        dates = held.dates()
        if not dates:
            raise UsageError(f"{captures} holds no recorded day")
        wanted = date.fromisoformat(day) if day else dates[-1]
        if wanted not in dates:
            raise UsageError(f"{captures} holds no ticks of {wanted}; it has {dates[0]} to {dates[-1]}")
        books = len(books_of(held, wanted))
        with SegmentWriter(NAME, folder, capacity=books + 16, heartbeat_ns=1_000_000_000) as writer:
            player = Player(held, wanted, writer)
            print(json.dumps({"date": wanted.isoformat()}), file=told, flush=True)
            if said.readline() != b"go\n":
                return
            player.play(float(speed) or None, lambda s: bool(select.select([said], [], [], s)[0]))
    except Exception as error:  # the one who attached gets it as his own
        print(json.dumps({"error": str(error), "usage": isinstance(error, UsageError)}), file=told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:], sys.stdin.buffer.raw, sys.stdout)  # type: ignore[attr-defined]
