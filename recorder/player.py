"""Plays a recorded day into shared memory: the process behind `kfix_md.attach(replay=...)`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from typing import IO, TYPE_CHECKING, Any

from kfix_md.errors import UsageError
from kfix_md.shm.replay import NAME

if TYPE_CHECKING:
    from kfix_md.shm.writer import SegmentWriter

BEAT_S = 0.1
MARKED = ("SYNCING", "GAP", "CRC_FAIL", "STALE", "HALTED", "ROLLOVER", "DOWN")


def books_of(captures: Any, day: date) -> list[tuple[str, str, int, int]]:
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
        return sorted(
            (row["recv_ns"], row["session"] or 0, row["symbol"], row["state"], row["cause"] or "NONE")
            for row in rows
            if row["kind"] == "book" and row["state"] in MARKED
        )

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
    from kfix_md.shm.writer import SegmentWriter

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
