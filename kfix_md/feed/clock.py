"""The feed's clock: elapsed time that no step of the wall clock disturbs, and the sum of those steps."""

from __future__ import annotations

import time
from collections.abc import Callable

STEP_NS = 10_000_000  # less between the two clocks is the time that reading them took
_READINGS = 5


class Clock:
    """CLOCK_MONOTONIC plus what the wall clock was ahead of it at the start.

    Everything in the feed that lasts is measured with `now_ns`: timers, back-off, retries, ages, gaps. What leaves the
    process with a time of day (SendingTime, journal, shared memory) adds `step_ns`, and the planned rollover is moved
    by it.

    Parameters
    ----------
    wall, monotonic
        Functions that return int ns; others than the system's in tests.
    """

    def __init__(
        self, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall, self.monotonic = wall, monotonic
        self.base_ns = self._ahead_ns()
        self.step_ns = 0  # the sum of all steps since the start
        self.steps = 0  # how many there were

    def now_ns(self) -> int:
        """Time of the feed, int ns: the time of day while the wall clock was not stepped."""
        return self.monotonic() + self.base_ns

    def watch(self) -> int:
        """By how many ns the wall clock was stepped since the last call; 0: not at all."""
        step_ns = self._ahead_ns() - self.base_ns - self.step_ns
        if abs(step_ns) < STEP_NS:
            return 0
        self.step_ns += step_ns
        self.steps += 1
        return step_ns

    def _ahead_ns(self) -> int:
        """Wall clock minus monotonic clock, as the reading shows that was interrupted for the shortest time."""
        readings = []
        for _ in range(_READINGS):
            before = self.monotonic()
            wall = self._wall()
            took = self.monotonic() - before
            readings.append((took, wall - before - took // 2))
        return min(readings)[1]
