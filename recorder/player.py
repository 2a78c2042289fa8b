"""Plays a recorded day into shared memory, as the process that `kfix_md.attach(replay=...)` starts."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kfix_md import trading_day
from kfix_md._entry import Cause, State
from kfix_md._recorded import Recorded
from kfix_md.errors import KfixError, UsageError
from kfix_md.shm.names import REPLAY

if TYPE_CHECKING:
    from kfix_md._book import OrderBook
    from kfix_md.shm.writer import SegmentWriter
    from recorder.blocks import Block, Instrument
    from recorder.catalog import Captures
    from recorder.rebuild import Found

BEAT_S = 0.1
CHUNK = 4096  # messages that are applied before commands are looked at
SPARE = 64  # books beyond those that are known at the start
_FOREVER = 1 << 62


class Mark(NamedTuple):
    """A state that the feed's book of a symbol had from a time on."""

    at_ns: int
    symbol: str | None  # None: every book of the level
    level: str
    state: State
    cause: Cause


class Ended(Exception):
    """The script that watches has gone."""


class Sought(Exception):
    """The replay is to go on somewhere else."""

    def __init__(self, at_ns: int) -> None:
        super().__init__(at_ns)
        self.at_ns = at_ns


class Pace:
    """When a recorded moment is due, while the speed may change and the replay may rest."""

    def __init__(self, speed: float | None) -> None:
        self.speed, self.paused = speed, False
        self._began: tuple[float, int] | None = None  # a monotonic time, and what is played then

    def restart(self, now: float, at_ns: int) -> None:
        """What was recorded at `at_ns` is played `now`."""
        self._began = now, at_ns

    def reached(self, now: float, next_ns: int) -> int:
        """What was recorded up to this time is due; `next_ns` is the time of what comes next."""
        if self.speed is None:
            return _FOREVER
        if self._began is None:
            self.restart(now, next_ns)
        assert self._began is not None
        return self._began[1] + int((now - self._began[0]) * 1e9 * self.speed)

    def wait(self, now: float, next_ns: int) -> float:
        """Seconds until something recorded at `next_ns` is due."""
        return 0.0 if self.speed is None else max(0.0, (next_ns - self.reached(now, next_ns)) / 1e9 / self.speed)


class DayPlayer:
    """Plays one day through a Handler for each level into a segment.

    Parameters
    ----------
    commands
        A line each: pause, resume, speed FACTOR (0: as fast as possible), seek NS; the end of the file ends it.
    answers
        One line of JSON for each.
    """

    def __init__(
        self,
        captures: Captures,
        day: date,
        writer: SegmentWriter,
        speed: float | None = None,
        commands: IO[bytes] | None = None,
        answers: IO[str] | None = None,
    ) -> None:
        from kfix_md import Handler
        from recorder.blocks import Applier

        self.captures, self.day, self.writer = captures, day, writer
        self.commands, self.answers = commands, answers
        self.pace = Pace(speed)
        self.handlers = {level: Handler(level=level, publisher=writer) for level in ("L2", "L3")}
        self.appliers = {level: Applier(handler) for level, handler in self.handlers.items()}
        self.at_ns = 0  # recorded time of what was played last
        self.marks: list[Mark] = []
        self._unread = b""
        for one in books_of(captures, day):
            writer.add_symbol(one.symbol, one.level, one.price_scale, one.qty_scale)
            self.appliers[one.level].define(one)

    def play(self, at_ns: int | None = None) -> None:
        """Play everything from a recorded time on, or the whole day; Ended when the script has gone."""
        while True:
            try:
                self._play_from(at_ns)
            except Sought as sought:
                at_ns = sought.at_ns
            else:
                return

    def _play_from(self, at_ns: int | None) -> None:
        from recorder.blocks import blocks

        self.marks = marks_of(self.captures, self.day)
        if at_ns is not None:
            self._seek(at_ns)
        for block in blocks(self.captures, self.day, None, at_ns):
            for first, end in block.parts:
                self._play_part(block, first, end)
        while self.marks:
            self._until(self.marks[0].at_ns)
            self._mark(self.marks.pop(0))

    def _play_part(self, block: Block, first: int, end: int) -> None:
        """Play messages [first, end) of a block, and states of books in between."""
        rows = {level: applier.rows(block, first, end) for level, applier in self.appliers.items()}
        at = first
        while at < end:
            due = self._until(int(block.time[at]) if not self.marks else min(int(block.time[at]), self.marks[0].at_ns))
            limit = min(due, self.marks[0].at_ns) if self.marks else due
            upto = at + int(np.searchsorted(block.time[at : min(end, at + CHUNK)], limit, "right"))
            if upto > at:
                now_ns = self.writer.now_ns()
                for level, handler in self.handlers.items():
                    handler.apply(block.messages, rows[level], at, upto, now_ns)
                self._reached(int(block.time[upto - 1]))
                at = upto
            elif self.marks:
                self._mark(self.marks.pop(0))

    def _reached(self, at_ns: int) -> None:
        self.at_ns = at_ns
        self.writer.set_counter("recorded_ns", at_ns)

    # ---- time and commands ----

    def _until(self, next_ns: int) -> int:
        """Wait until what was recorded at `next_ns` is due; what is due then. Commands are obeyed meanwhile."""
        while True:
            now = time.monotonic()
            wait = BEAT_S if self.pace.paused else min(self.pace.wait(now, next_ns), BEAT_S)
            self._obey(wait)
            if not self.pace.paused and self.pace.wait(now := time.monotonic(), next_ns) <= 0:
                return self.pace.reached(now, next_ns)

    def _obey(self, wait_s: float) -> None:
        """Carry out commands; wait so long for the first."""
        if self.commands is None:
            time.sleep(wait_s)
            return
        while select.select([self.commands], [], [], wait_s)[0]:
            data = os.read(self.commands.fileno(), 4096)
            if not data:
                raise Ended
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                self._command(line.decode().split())
            wait_s = 0.0

    def _command(self, words: list[str]) -> None:
        match words:
            case ["pause"]:
                self.pace.paused = True
            case ["resume"]:
                self.pace.paused = False
                self.pace.restart(time.monotonic(), self.at_ns)
            case ["speed", factor]:
                self.pace.speed = float(factor) or None
                self.pace.restart(time.monotonic(), self.at_ns)
            case ["seek", moment]:
                try:
                    at_ns = moment_of(moment, self.day)
                except UsageError as error:
                    return self._answer(error=str(error), usage=True)
                self._answer(at_ns=at_ns)
                raise Sought(at_ns)
            case _:
                return self._answer(error=f"no such command: {' '.join(words)}", usage=True)
        return self._answer(at_ns=self.at_ns)

    def _answer(self, **values: Any) -> None:
        if self.answers is not None:
            print(json.dumps(values), file=self.answers, flush=True)

    # ---- states, and where it begins ----

    def _mark(self, mark: Mark) -> None:
        handler = self.handlers[mark.level]
        if mark.symbol is None or mark.symbol in handler.symbols:
            handler.mark(mark.symbol, mark.state, mark.cause)

    def _seek(self, at_ns: int) -> None:
        """Make every book what it was before `at_ns`, from its checkpoint on; those not yet made are SYNCING."""
        for handler in self.handlers.values():
            handler.mark(None, State.SYNCING, Cause.RESTART)
        past = {(mark.symbol, mark.level): mark for mark in self.marks if mark.at_ns < at_ns}
        self.marks = [mark for mark in self.marks if mark.at_ns >= at_ns]
        losses = self.captures._losses(None, at_ns)
        for one in books_of(self.captures, self.day):
            self._obey(0.0)
            book, found = self.captures._rebuild.book(one.symbol, one.level, at_ns - 1)
            if book is not None and found.agrees and not losses.between(found.base_ns, at_ns - 1, found.session):
                self._open(one, book, found)
            if mark := past.get((one.symbol, one.level)):
                self._mark(mark)
        self._reached(at_ns)
        self.pace.restart(time.monotonic(), at_ns)

    def _open(self, one: Instrument, book: OrderBook, found: Found) -> None:
        """A book as if its snapshot came now."""
        from recorder._ticks import book_rows
        from recorder.schema import Flags

        level = self.appliers[one.level]
        row = level.define(one._replace(price_scale=book.price_precision, qty_scale=book.qty_precision))
        entries = book_rows(book)
        snapshot = Recorded(
            entries,
            starts=[0],
            ends=[len(entries)],
            seqs=[found.seq],
            times=[found.recv_ns],
            instrument=[0],
            flags=[Flags.SNAPSHOT],
            crcs=[0],
            levels=[book.level],
        )
        self.handlers[one.level].apply(snapshot, np.array([row], np.int32), now_ns=self.writer.now_ns())


def books_of(captures: Captures, day: date) -> list[Instrument]:
    """The books of a day as its instrument lists, states and footers show them; no row of ticks is read.

    What is traded only later in the day than its instrument was listed may be absent: it is added when it comes.
    """
    from recorder import files
    from recorder.blocks import Instrument

    start, end = trading_day.session_bounds(day)
    names = set(captures._coverage(None, start, end)["symbol"].to_pylist())
    if not names:  # captures of before schema 3
        for path in captures._files.of("ticks", start, end):
            names.update(*(limits for limits in files.footer(path).symbols if limits is not None))
    columns = ["symbol", "level", "price_precision", "qty_precision"]
    found: dict[tuple[str, str], Instrument] = {}
    rows = captures._table("instruments", start, end, ["session", *columns]).to_pylist()
    sessions = captures._table("sessions", None, end, ["session", "depth"]).to_pylist()
    depths = {row["session"]: row["depth"] or 0 for row in sessions}
    for row in rows:
        symbol, level, *scales = (row[name] for name in columns)
        if symbol in names and level is not None and None not in scales:
            one = Instrument(symbol, level, max(scales[0], 0), max(scales[1], 0), depths.get(row["session"], 0))
            found.setdefault((symbol, level), one)
    return sorted(found.values())


def marks_of(captures: Captures, day: date) -> list[Mark]:
    """The states that readers of the feed saw on a day, in order; with losses of rows, after which none is proven."""
    start, end = trading_day.session_bounds(day)
    rows = captures._coverage(None, start, end).to_pylist()
    found = [
        Mark(row["from_ns"], row["symbol"], row["level"], *_state_of(row))
        for row in rows
        if row["level"] in ("L2", "L3") and row["from_ns"] != row["to_ns"]  # a state that did not last was not seen
    ]
    levels = {row["session"]: row["level"] for row in captures.sessions().to_pylist()}
    for loss in captures._losses(start, end).rows:
        for level in [levels[loss["session"]]] if loss["session"] in levels else ["L2", "L3"]:
            for at_ns in {loss["opened_ns"], loss["closed_ns"] or loss["opened_ns"]}:
                found.append(Mark(at_ns, None, level, State.SYNCING, Cause.LOST))
    return sorted(found, key=lambda mark: mark.at_ns)


def _state_of(row: dict[str, Any]) -> tuple[State, Cause]:
    """State and cause of an interval of coverage; STALE where it is not known."""
    if row["state"] is None:
        return State.STALE, Cause.LOST
    return State[row["state"]], Cause.__members__.get(row["cause"] or "NONE", Cause.NONE)


def moment_of(text: str, day: date) -> int:
    """ns of a moment of a session date; UsageError when it is none of them."""
    from recorder.moments import to_ns

    moment = to_ns(int(text) if text.isdigit() else text)
    start, end = trading_day.session_bounds(day)
    if not start <= moment < end:
        raise UsageError(f"{text} is not on the session date {day}, which ends at 22:00 UTC")
    return moment


@contextmanager
def beating(writer: SegmentWriter) -> Iterator[None]:
    """The segment's heartbeat, from a thread: whatever is read or waited for meanwhile, the replay lives."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            writer.heartbeat()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def main(arguments: list[str], commands: IO[bytes], answers: IO[str]) -> None:
    """Run the playing process.

    Parameters
    ----------
    arguments
        CAPTURES FOLDER DATE SPEED AT.
    commands
        As of DayPlayer.
    answers
        A line of JSON with the date, or the error, and one for each command.
    """
    import recorder
    from kfix_md.shm.writer import SegmentWriter

    path, folder, day, speed, at = arguments
    try:
        captures = recorder.open(path)
        wanted = _date(captures, path, day, at)
        at_ns = moment_of(at, wanted) if at else None
        capacity = len(books_of(captures, wanted)) + SPARE
        with SegmentWriter(REPLAY, folder, capacity=capacity, heartbeat_ns=1_000_000_000) as writer, beating(writer):
            player = DayPlayer(captures, wanted, writer, float(speed) or None, commands, answers)
            print(json.dumps({"date": wanted.isoformat()}), file=answers, flush=True)
            player.play(at_ns)
    except Ended:
        return
    except (Exception, KfixError) as error:  # raised again in the process that attached
        print(json.dumps({"error": str(error), "usage": isinstance(error, UsageError)}), file=answers, flush=True)


def _date(captures: Captures, path: str, day: str, at: str) -> date:
    """The date to play: that of `at`, or the last one, when `day` is empty."""
    from recorder.moments import to_date, to_ns

    dates = captures.dates()
    if not dates:
        raise UsageError(f"{path} has no recorded day")
    if day:
        wanted = to_date(day)
    elif at:
        wanted = trading_day.session_date(to_ns(int(at) if at.isdigit() else at))
    else:
        wanted = dates[-1]
    if wanted not in dates:
        raise UsageError(f"{path} has no ticks of {wanted}; it has {dates[0]} to {dates[-1]}")
    return wanted


def run() -> None:
    """The process that kfix_md.shm.replay starts: arguments, commands and answers are its own."""
    with open(0, "rb", buffering=0, closefd=False) as unbuffered:  # nothing may be buffered where select looks
        main(sys.argv[1:], unbuffered, sys.stdout)
