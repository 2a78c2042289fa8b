"""Times runners fairly: rounds that take every runner in turn, CPU time of the thread, medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Runner = Callable[[], object]
TURN_NS, TURN_CALLS = 3_000_000, 20  # a turn of a round: calls until so much CPU time has gone, at most so many


@dataclass
class Row:
    """One measured thing: `value` in `unit`, with the time of what it is compared with."""

    group: str
    name: str
    value: float | None
    unit: str = "ns/message"
    ratio: float | None = None  # ours / theirs for ours, theirs / ours for a rival
    of: str = ""
    goal: str = ""
    met: bool | None = None
    note: str = ""
    spread: float | None = None  # of the middle half of the rounds, relative
    far: dict[str, float] | None = None  # p99, p99.9 and max of a latency whose `value` is p50


@dataclass
class Race:
    """Runners of one question. `add` them, then `run`; the first is ours unless named otherwise."""

    group: str
    per: int  # units of work in a run: messages, reads
    unit: str = "ns/message"
    calls: int = TURN_CALLS  # in a turn, at most: few where preparing takes long
    runners: dict[str, tuple[Callable, int, Runner | None]] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, runner: Callable, count: int = 0, prepare: Runner | None = None) -> None:
        """A runner, which does `count` units of work (default: `per`); a slow one does fewer.

        `prepare` runs before each call, untimed, and what it returns is handed to the runner.
        """
        self.runners[name] = runner, count or self.per, prepare

    def run(self, rounds: int) -> dict[str, float]:
        """Medians in ns per unit; rounds are interleaved, the first (cold) one is dropped."""
        self.times = {name: [] for name in self.runners}
        for count in range(rounds + 1):
            for name, (runner, units, prepare) in self.runners.items():
                if units < self.per and count > max(rounds // 2, 3):
                    continue
                taken = timed(runner, prepare, self.calls)
                if count:
                    self.times[name].append(taken / units)
        return {name: statistics.median(times) for name, times in self.times.items()}

    def rows(self, rounds: int, notes: dict[str, str] | None = None) -> list[Row]:
        """A row for every runner."""
        medians = self.run(rounds)
        return [
            Row(self.group, name, value, self.unit, spread=self.spread(name), note=(notes or {}).get(name, ""))
            for name, value in medians.items()
        ]

    def spread(self, name: str) -> float:
        """Width of the middle half of the rounds, relative to their median."""
        times = sorted(self.times[name])
        quarter = len(times) // 4
        return (times[-1 - quarter] - times[quarter]) / statistics.median(times)


def timed(runner: Callable, prepare: Runner | None, most: int = TURN_CALLS) -> float:
    """CPU ns of this thread that a call takes, the garbage collector kept out: the mean of as many calls as fill a
    turn, since a short one alone would time how the runner before it left the caches."""
    taken = calls = 0
    while not calls or (taken < TURN_NS and calls < most):
        argument = prepare() if prepare else None
        if not calls:
            gc.collect()
        gc.disable()
        try:
            start = time.thread_time_ns()
            runner(argument) if prepare else runner()
            taken += time.thread_time_ns() - start
        finally:
            gc.enable()
        calls += 1
    return taken / calls


def compare(rows: list[Row], ours: str, rival: str, goal: float, at_most: bool) -> None:
    """Write the ratio and whether the goal is met: ours <= goal x rival, or rival >= goal x ours."""
    by_name = {row.name: row for row in rows}
    mine, theirs = by_name[ours], by_name.get(rival)
    if theirs is None or theirs.value is None or mine.value is None:
        return
    if at_most:
        mine.ratio, mine.of = mine.value / theirs.value, rival
        mine.goal, mine.met = f"<= {goal:g} x", mine.ratio <= goal
    else:
        theirs.ratio, theirs.of = theirs.value / mine.value, ours
        theirs.goal, theirs.met = f">= {goal:g} x", theirs.ratio >= goal


def absent(group: str, name: str, why: str) -> Row:
    """The row of a rival that is not installed."""
    return Row(group, name, None, note=f"absent: {why}")
