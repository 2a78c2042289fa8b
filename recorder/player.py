"""Plays a recorded day into shared memory, as the process that `kfix_md.attach(replay=...)` starts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from typing import IO, TYPE_CHECKING

from kfix_md.errors import UsageError
from kfix_md.shm.replay import NAME

if TYPE_CHECKING:
    from kfix_md.shm.writer import SegmentWriter
    from recorder.catalog import Captures
    from recorder.replay import RecordedMessage

BEAT_S = 0.1
MARKED = ("SYNCING", "GAP", "CRC_FAIL", "STALE", "HALTED", "ROLLOVER", "DOWN")


def books_of(captures: Captures, day: date) -> list[tuple[str, str, int, int]]:
    """(symbol, level, price decimals, quantity decimals) of every book with ticks on a day."""
    import pyarrow.dataset

    wanted = ["symbol", "level", "price_scale", "qty_scale"]
    folder = captures.tree.root / "ticks" / f"session_date={day.isoformat()}"
    found: set[tuple[str, str, int, int]] = set()
    for batch in pyarrow.dataset.dataset(folder, format="parquet").to_batches(columns=wanted):
        columns = [
            column.dictionary_decode() if hasattr(column, "dictionary_decode") else column for column in batch.columns
        ]
        found.update(zip(*(column.to_pylist() for column in columns), strict=True))
    return sorted(found)


class DayPlayer:
    """Plays one day through a Handler for each level into a segment."""

    def __init__(self, captures: Captures, day: date, writer: SegmentWriter) -> None:
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
        """(recorded time, action that takes the current time): messages, and states of books in between."""
        states = iter(self._states())
        state = next(states, None)
        for message in self.captures.replay(self.day, None):
            while state is not None and state[0] <= message.recv_ns:
                yield state[0], partial(self._mark, state)
                state = next(states, None)
            yield message.recv_ns, partial(self._deliver, message)

    def _states(self) -> list[tuple[int, int, str, str, str]]:
        rows = self.captures.status(self.day).to_pylist()
        return sorted(
            (row["recv_ns"], row["session"] or 0, row["symbol"], row["state"], row["cause"] or "NONE")
            for row in rows
            if row["kind"] == "book" and row["state"] in MARKED
        )

    def _mark(self, row: tuple[int, int, str, str, str], _now_ns: int) -> None:
        from kfix_md._entry import Cause, State

        _, session, symbol, state, cause = row
        for level, handler in self.handlers.items():
            if self.levels.get(session, level) == level and (symbol, level) in self.known:
                handler.mark(symbol, State[state], Cause.__members__.get(cause, Cause.NONE))

    def _deliver(self, message: RecordedMessage, now_ns: int) -> None:
        self.levels[message.session] = message.level
        self._define(message.symbol, message.level, message.scales)
        self.handlers[message.level].deliver(message.fix(), now_ns)

    def play(self, speed: float | None, stop: Callable[[float], bool]) -> None:
        """Play everything at its time; `stop(seconds)` sleeps and returns whether to end."""
        began: tuple[float, int] | None = None
        beat = 0.0
        for recorded_ns, act in self.events():
            now = time.monotonic()
            began = began or (now, recorded_ns)
            due = began[0] + (recorded_ns - began[1]) / 1e9 / speed if speed else now
            while now >= beat or now < due:
                self.writer.heartbeat()
                beat = now + BEAT_S
                if stop(max(0.0, min(due - now, BEAT_S))):
                    return
                now = time.monotonic()
            act(self.writer.now_ns())
            self.writer.set_counter("recorded_ns", recorded_ns)


def main(arguments: list[str], commands: IO[bytes], answers: IO[str]) -> None:
    """Run the playing process.

    Parameters
    ----------
    arguments
        CAPTURES FOLDER DATE SPEED.
    commands
        The line "go" starts it, the end of the file ends it.
    answers
        One line of JSON: the date, or the error.
    """
    import select

    import recorder
    from kfix_md.shm.writer import SegmentWriter

    path, folder, day, speed = arguments
    try:
        captures = recorder.open(path)
        wanted = _date(captures, path, day)
        books = len(books_of(captures, wanted))
        with SegmentWriter(NAME, folder, capacity=books + 16, heartbeat_ns=1_000_000_000) as writer:
            player = DayPlayer(captures, wanted, writer)
            print(json.dumps({"date": wanted.isoformat()}), file=answers, flush=True)
            if commands.readline() != b"go\n":
                return
            player.play(float(speed) or None, lambda s: bool(select.select([commands], [], [], s)[0]))
    except Exception as error:  # raised again in the process that attached
        print(json.dumps({"error": str(error), "usage": isinstance(error, UsageError)}), file=answers, flush=True)


def _date(captures: Captures, path: str, day: str) -> date:
    """The date to play: the last one when `day` is empty."""
    dates = captures.dates()
    if not dates:
        raise UsageError(f"{path} has no recorded day")
    wanted = date.fromisoformat(day) if day else dates[-1]
    if wanted not in dates:
        raise UsageError(f"{path} has no ticks of {wanted}; it has {dates[0]} to {dates[-1]}")
    return wanted


if __name__ == "__main__":
    with open(0, "rb", buffering=0, closefd=False) as unbuffered:  # nothing may be buffered where select looks
        main(sys.argv[1:], unbuffered, sys.stdout)
