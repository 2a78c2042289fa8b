"""Finds when the loop did not run for too long, and why (`kfix feed --trace-stalls`). Not imported unless asked for."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("kfix.feed")

MESSAGES, TIMERS, HEARTBEAT, GARBAGE = "messages", "timers", "heartbeat", "garbage"
LISTS, REQUESTS, VERIFIED, SERVICE = "lists", "requests", "verified", "service"
JOURNAL, SEGMENT, INTERPRETER, SCHEDULER, OTHER, UNKNOWN = (
    "journal",
    "segment",
    "interpreter",
    "scheduler",
    "other",
    "unknown",
)
#: what a person reads for each cause
TEXTS = {
    MESSAGES: "messages",
    LISTS: "instrument lists",
    REQUESTS: "requests",
    VERIFIED: "report that all books are good",
    TIMERS: "timers of a session",
    SERVICE: "timers of a service",
    HEARTBEAT: "heartbeat",
    GARBAGE: "garbage collection",
    JOURNAL: "page faults of the journal",
    SEGMENT: "change of the journal's segment",
    INTERPRETER: "waiting for the interpreter lock",
    SCHEDULER: "waiting for a CPU",
    OTHER: "other work of the loop",
    UNKNOWN: "unknown (stopped, or waiting in the kernel)",
}
RING = 1000  # stalls that are kept
SHOWN = 20  # of them, the longest, in a report
LOG_NS = 1_000_000_000  # one line in so long, about the longest
DENSE_NS = 10_000  # messages with a page fault in so much CPU time: the faults are what takes it
_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC = 1, os.O_NONBLOCK | os.O_CLOEXEC

Shares = dict[str, int]  # cause -> ns


@dataclass(slots=True)
class Window:
    """What was measured between two looks of the tracer, all times in ns.

    Attributes
    ----------
    late : int
        How much later than planned the second look was.
    wall, cpu : dict of str to int
        Time and CPU time by cause of what was watched, without what was called in between.
    thread_cpu, delay : int
        CPU time of the loop's thread; time in which it could have run and had no CPU.
    faults : int
        Page faults of the loop's thread.
    others_cpu : int
        CPU time of the other threads of the process, also of those that have ended.
    rolled : bool
        The journal went on in another segment.
    """

    late: int = 0
    wall: Shares = field(default_factory=dict)
    cpu: Shares = field(default_factory=dict)
    thread_cpu: int = 0
    delay: int = 0
    faults: int = 0
    others_cpu: int = 0
    rolled: bool = False


@dataclass(slots=True)
class Stall:
    """The loop did not run for `ns`, until `end_ns` (Unix time); `shares` has the causes, the longest first."""

    end_ns: int
    ns: int
    shares: Shares
    faults: int

    @property
    def text(self) -> str:
        """The causes as a person reads them."""
        named = {cause: ns for cause, ns in self.shares.items() if ns * 20 >= self.ns} or self.shares
        text = ", ".join(f"{TEXTS[cause]} {ns / 1e6:.1f} ms" for cause, ns in named.items())
        return f"{text}; {self.faults} page faults" if JOURNAL in named else text


def attribute(window: Window) -> Shares:
    """Divide a stall among its causes.

    What was watched has its CPU time. Time in which it had no CPU is the scheduler's as far as that reports it, then of
    page faults (in messages) or of the threads that held the interpreter lock. Outside of what was watched it is the
    same order, and the CPU time is other work.
    """
    left, others, delay = dict(window.wall), window.others_cpu, min(window.delay, window.late)
    shares: Shares = {SCHEDULER: delay}
    for cause, wall in window.wall.items():
        blocked = max(0, wall - window.cpu.get(cause, 0))
        scheduled = min(blocked, delay)
        delay, blocked, left[cause] = delay - scheduled, blocked - scheduled, wall - scheduled
        if cause == MESSAGES and window.faults:
            dense = window.cpu.get(cause, 0) < window.faults * DENSE_NS
            waited = left[cause] if dense else blocked
            to = JOURNAL
        else:
            waited, to = min(blocked, others), INTERPRETER
            others -= waited
        shares[to] = shares.get(to, 0) + waited
        left[cause] -= waited
    if window.rolled:
        left[SEGMENT] = left.pop(MESSAGES, 0) + left.pop(HEARTBEAT, 0) + shares.pop(JOURNAL, 0)
    outside = max(0, window.late - sum(window.wall.values()) - delay)
    shares[OTHER] = min(outside, max(0, window.thread_cpu - sum(window.cpu.values())))
    outside -= shares[OTHER]
    waited = min(outside, others)
    shares[INTERPRETER] = shares.get(INTERPRETER, 0) + waited
    shares[UNKNOWN] = outside - waited
    for cause, ns in left.items():
        shares[cause] = shares.get(cause, 0) + ns
    clipped = {cause: min(ns, window.late) for cause, ns in shares.items() if ns > 0}
    return dict(sorted(clipped.items(), key=lambda item: -item[1]))


class StallTrace:
    """Looks at the loop every half of `limit_ns`, and keeps the last RING stalls with their causes.

    A look that comes `limit_ns` late is a stall, so that every one of 1.5 times the limit is found. `watch` wraps the
    functions whose time is to have a name; without a tracer nothing is wrapped. `position`: where the journal is.

    Attributes
    ----------
    stalls : deque of Stall
    totals : dict of str to list of int
        By longest cause: count, ns in all, longest in ns.
    """

    def __init__(self, limit_ns: int, position: Callable[[], int] = lambda: 0) -> None:
        self.limit_ns, self._position = limit_ns, position
        self.stalls: deque[Stall] = deque(maxlen=RING)
        self.totals: dict[str, list[int]] = {cause: [0, 0, 0] for cause in TEXTS}
        self._period_ns = max(limit_ns // 2, 50_000)
        self._watched: list[tuple[Any, str]] = []
        self._wall: Shares = {}
        self._cpu: Shares = {}
        self._inner = [0, 0]  # wall and CPU time of what was called by what is running
        self._worst: Stall | None = None
        self._unlogged, self._logged_ns = 0, 0
        self._collection = (0, 0)  # when it began, on both clocks
        self._timer = self._schedstat = -1
        self._before = (0, 0, 0, 0, 0)

    # ---- life -------------------------------------------------------------------------------------

    def watch(self, owner: object, name: str, cause: str) -> None:
        """Have the time that `owner.name()` takes on the loop's thread counted for `cause`, until `close`."""
        inner = getattr(owner, name)

        def watched(*args: Any, **named: Any) -> Any:
            outer, self._inner = self._inner, [0, 0]
            cpu, wall = time.thread_time_ns(), time.monotonic_ns()
            try:
                return inner(*args, **named)
            finally:
                wall, cpu = time.monotonic_ns() - wall, time.thread_time_ns() - cpu
                self._add(cause, wall - self._inner[0], cpu - self._inner[1])
                outer[0] += wall
                outer[1] += cpu
                self._inner = outer

        setattr(owner, name, watched)
        self._watched.append((owner, name))

    def start(self) -> None:
        """Begin, on the loop that runs."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        with contextlib.suppress(OSError):  # a kernel without CONFIG_SCHED_INFO: waiting for a CPU is unknown then
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._since_ns = time.monotonic_ns()
        self._read()
        self._timer = _timer(self._since_ns + self._period_ns, self._period_ns)
        self._due_ns = self._since_ns + self._period_ns
        gc.callbacks.append(self._collecting)
        self._loop.add_reader(self._timer, self._look)

    def close(self) -> None:
        """End, and log what was found."""
        if self._timer < 0:
            return
        self._loop.remove_reader(self._timer)
        gc.callbacks.remove(self._collecting)
        for fd in (self._timer, self._schedstat):
            if fd >= 0:
                os.close(fd)
        self._timer = self._schedstat = -1
        for owner, name in self._watched:
            delattr(owner, name)
        self._log(time.monotonic_ns())
        self.report()

    # ---- measuring --------------------------------------------------------------------------------

    def _add(self, cause: str, wall: int, cpu: int) -> None:
        self._wall[cause] = self._wall.get(cause, 0) + wall
        self._cpu[cause] = self._cpu.get(cause, 0) + cpu

    def _collecting(self, phase: str, _: Mapping[str, int]) -> None:
        """Called by the collector; one in another thread holds the loop up as well."""
        if phase == "start":
            self._collection = time.monotonic_ns(), time.thread_time_ns()
            return
        wall, cpu = time.monotonic_ns() - self._collection[0], time.thread_time_ns() - self._collection[1]
        self._add(GARBAGE, wall, cpu)
        if threading.get_ident() == self._thread:
            self._inner[0] += wall
            self._inner[1] += cpu

    def _read(self) -> Window:
        """What has been measured since the last call."""
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        own = time.thread_time_ns()
        now = (
            own,
            time.process_time_ns() - own,
            int(os.pread(self._schedstat, 64, 0).split()[1]) if self._schedstat >= 0 else 0,
            usage.ru_minflt + usage.ru_majflt,
            self._position() >> 32,
        )
        cpu, others, delay, faults, segment = (a - b for a, b in zip(now, self._before, strict=True))
        self._before = now
        window = Window(0, self._wall, self._cpu, cpu, delay, faults, others, segment != 0)
        self._wall, self._cpu = {}, {}
        return window

    def _look(self) -> None:
        """The timer has expired."""
        try:
            (missed,) = struct.unpack("Q", os.read(self._timer, 8))
        except BlockingIOError:
            return
        now_ns, window = time.monotonic_ns(), self._read()
        window.late = now_ns - self._due_ns
        self._due_ns += missed * self._period_ns
        if window.late >= self.limit_ns:
            self._note(Stall(time.time_ns(), window.late, attribute(window), window.faults))
        if self._worst is not None and now_ns - self._logged_ns >= LOG_NS:
            self._log(now_ns)

    # ---- what was found ---------------------------------------------------------------------------

    def _note(self, stall: Stall) -> None:
        self.stalls.append(stall)
        total = self.totals[next(iter(stall.shares), UNKNOWN)]
        total[0] += 1
        total[1] += stall.ns
        total[2] = max(total[2], stall.ns)
        self._unlogged += 1
        if self._worst is None or stall.ns > self._worst.ns:
            self._worst = stall

    def _log(self, now_ns: int) -> None:
        worst, count = self._worst, self._unlogged
        self._worst, self._unlogged, self._logged_ns = None, 0, now_ns
        if worst is not None:
            log.warning("the loop stood still for %.1f ms: %s (the longest of %d)", worst.ns / 1e6, worst.text, count)

    def counts(self) -> dict[str, tuple[int, float]]:
        """By longest cause, all of which are there: the number of stalls, and s in all."""
        return {cause: (total[0], total[1] / 1e9) for cause, total in self.totals.items()}

    def report(self) -> None:
        """Log what was found since the start: the sums by cause, and the longest stalls."""
        log.info(
            "stalls of %.2f ms or more: %d in %.0f s, %.1f ms in all",
            self.limit_ns / 1e6,
            sum(count for count, *_ in self.totals.values()),
            (time.monotonic_ns() - self._since_ns) / 1e9,
            sum(ns for _, ns, _ in self.totals.values()) / 1e6,
        )
        found = {cause: total for cause, total in self.totals.items() if total[0]}
        for cause, (count, ns, longest) in sorted(found.items(), key=lambda item: -item[1][1]):
            log.info("stalls by %s: %d, %.1f ms in all, longest %.1f ms", TEXTS[cause], count, ns / 1e6, longest / 1e6)
        for stall in sorted(self.stalls, key=lambda stall: -stall.ns)[:SHOWN]:
            ago_s = (time.time_ns() - stall.end_ns) / 1e9
            log.info("stall of %.1f ms, %.1f s ago: %s", stall.ns / 1e6, ago_s, stall.text)


def _timer(first_ns: int, period_ns: int) -> int:
    """A descriptor that is readable from `first_ns` (monotonic) on, every `period_ns`: timers of loops count ms."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
    times = struct.pack("llll", *divmod(period_ns, 10**9), *divmod(first_ns, 10**9))
    if fd < 0 or libc.timerfd_settime(fd, 1, times, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return fd
