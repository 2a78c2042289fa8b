"""Measures the time from wire to shared memory: one thread sends a message and spins until it can read it.

One clock, one thread, on one core; the receivers on another. The venue sends a sealed message (372 bytes, TLS 1.3) at
5,000 a second, stamps before the send, and then polls: the feed's book through the compiled reader of scripts until it
shows the MsgSeqNum, or the number that the C receiver stores the moment it has decrypted the frame. So the feed's
figure holds waking, TLS, sequence, journal, decoding, book, 5041 and publication; the C receiver's waking, TLS and one
store. Receivers take turns of a tenth of a second and are stopped between them (one that polls would not let another
run); a turn begins with messages that do not count. A message that is late delays those after it: the histograms
are corrected for that. Where the system permits it, venue and receivers run under SCHED_FIFO during a turn, all alike,
so that what else the machine does is not measured.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import mmap
import os
import signal
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kfix_md
from benchmarks import receivers
from benchmarks.ingest import Receiver, cpu_ns
from benchmarks.race import Row, absent, compare
from benchmarks.venue import Market, Session, Venue

GROUP = "wire to shared memory, 5,000 messages a second"
CPU_GROUP = "TLS 1.3 ingest, one message per wake-up"
RATE = 5_000
RIVAL, RIVAL_SPIN = "C receiver", "C receiver, busy polling"
FAST, PLAIN, SPIN = "kfix feed, aiofastnet", "kfix feed, plain uvloop", "kfix feed, busy polling"
POLLS = (RIVAL_SPIN, SPIN)
WARM = 50
GIVE_UP_NS = 2_000_000_000

Wait = Callable[[int], int]  # spins until a MsgSeqNum is visible; the time


class Contender(Receiver):
    """A receiver and how to see what it has received."""

    def attach(self, wait: Wait, histogram: Any) -> None:
        self.wait, self.histogram, self.cpu = wait, histogram, 0
        os.kill(self.process.pid, signal.SIGSTOP)

    def turn(self, count: int) -> None:
        """Send `count` messages, one every 1/RATE s; note how long each took to be visible."""
        sealed = [self.link.seal(message) for message in itertools.islice(self._updates, WARM + count)]
        first = self.last + 1 if self.session is None else self.session.seq - WARM - count + 1
        self.last = first + WARM + count - 1
        self.preferred = self.real_time(True)
        os.kill(self.process.pid, signal.SIGCONT)
        taken, used = self.paced(sealed, first)
        os.kill(self.process.pid, signal.SIGSTOP)
        self.real_time(False)
        self.times.append(used / count)
        for ns in taken:
            self.histogram.record_corrected_value(ns, 1_000_000_000 // RATE)

    def real_time(self, on: bool) -> bool:
        """This thread and the receiver's under SCHED_FIFO, or not; False where that is not permitted."""
        policy, priority = (os.SCHED_FIFO, 10) if on else (os.SCHED_OTHER, 0)
        try:
            for pid in (self.process.pid, 0):
                os.sched_setscheduler(pid, policy, os.sched_param(priority))
        except PermissionError:
            return False
        return True

    def paced(self, sealed: list[bytes], first: int) -> tuple[list[int], int]:
        """(ns from send to visible of each message that counts, CPU time of the receiver meanwhile)."""
        send, wait, clock = self.link.sock.send, self.wait, time.perf_counter_ns
        taken, used, due = [], 0, clock()
        gc.collect()
        gc.disable()
        for number, record in enumerate(sealed):
            if number == WARM:
                used = cpu_ns(self.process)
            while (begun := clock()) < due:
                pass
            send(record)
            taken.append(wait(first + number) - begun)
            due = max(due, begun - 1_000_000) + 1_000_000_000 // RATE
        gc.enable()
        return taken[WARM:], cpu_ns(self.process) - used

    last = 0


def wait_in(number: mmap.mmap) -> Wait:
    """Sees what the C receiver stores."""
    view = memoryview(number).cast("Q")

    def wait(seq: int) -> int:
        end = time.perf_counter_ns() + GIVE_UP_NS
        while view[0] < seq:
            if time.perf_counter_ns() > end:
                raise TimeoutError(f"MsgSeqNum {seq} is not there after 2 s")
        return time.perf_counter_ns()

    return wait


def wait_for(book: Any) -> Wait:
    """Sees a book as scripts do."""

    def wait(seq: int) -> int:
        end = time.perf_counter_ns() + GIVE_UP_NS
        while book.seq < seq:
            if time.perf_counter_ns() > end:
                raise TimeoutError(f"MsgSeqNum {seq} is not there after 2 s")
        return time.perf_counter_ns()

    return wait


@contextlib.contextmanager
def running(venue: Venue, folder: Path, core: int) -> Iterator[list[Contender]]:
    """Every receiver that can be had here, connected, pinned to `core` and stopped."""
    from hdrh.histogram import HdrHistogram

    contenders: list[Contender] = []
    comp_id = Market().comp_id

    def add(name: str, process: Any) -> Contender:
        link = venue.accept()
        os.sched_setaffinity(process.pid, {core})
        contenders.append(Contender(name, process, link, Session(link) if process.args[2] == "kfix_md" else None))
        return contenders[-1]

    def histogram() -> Any:
        return HdrHistogram(100, 10_000_000_000, 3)

    try:
        for name, more in ((RIVAL, ()), (RIVAL_SPIN, ("spin",))):
            if receivers.native() is not None:
                shared = folder / name
                shared.write_bytes(struct.pack("Q", 0))
                with shared.open("r+b") as file:
                    number = mmap.mmap(file.fileno(), 8)
                each = add(name, receivers.start(receivers.C, venue.port, venue.ca, str(shared), *more))
                each.attach(wait_in(number), histogram())
        for name, engine, spin in ((FAST, "aiofastnet", False), (PLAIN, "uvloop", False), (SPIN, "auto", True)):
            if engine == "aiofastnet" and not receivers.has("aiofastnet"):
                continue
            where = folder / f"{engine}-{spin}"
            each = add(
                name,
                receivers.start_feed(where, venue.port, venue.ca, comp_id, engine=engine, busy_poll=spin, cpu=core),
            )
            book = kfix_md.attach(path=where / "kfix-md.bench")["BTC/USD"]
            each.attach(wait_for(book), histogram())
        yield contenders
    finally:
        for each in contenders:
            os.kill(each.process.pid, signal.SIGCONT)
            each.stop()


def run(rounds: int, quick: bool) -> list[Row]:
    """The table of this question."""
    if why := receivers.missing("hdrh"):
        return [absent(GROUP, FAST, why)]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return [absent(GROUP, FAST, "it takes two cores")]
    with (
        tempfile.TemporaryDirectory(prefix="kfix-latency-", dir="/dev/shm") as name,
        contextlib.closing(Venue(Path(name) / "tls")) as venue,
        running(venue, Path(name), cores[1]) as contenders,
    ):
        os.sched_setaffinity(0, {cores[0]})
        try:
            for _ in range(rounds):
                for each in contenders:
                    each.turn(500 if quick else 1000)
        finally:
            os.sched_setaffinity(0, cores)
        return rows_of(contenders)


def rows_of(contenders: list[Contender]) -> list[Row]:
    """Medians with the rest of each histogram; CPU time per message."""
    rows = [
        Row(
            GROUP,
            each.name,
            each.histogram.get_value_at_percentile(50) / 1000,
            "us p50",
            note=", ".join(f"{name} {value:,.0f}" for name, value in far(each.histogram).items()),
            far=far(each.histogram),
        )
        for each in contenders
    ]
    names = {row.name for row in rows}
    if RIVAL not in names:
        rows.append(absent(GROUP, RIVAL, "no C compiler, or no headers of OpenSSL"))
    if FAST not in names:
        rows.append(absent(GROUP, FAST, "aiofastnet is not installed"))
    for ours, goal in ((FAST, 1.5), (SPIN, 0.8)):
        if ours in names:
            compare(rows, ours, RIVAL, goal, at_most=True)
    costs = [Row(CPU_GROUP, each.name, statistics.median(each.times)) for each in contenders if each.name not in POLLS]
    for cost in costs:
        if cost.name != RIVAL:
            compare_freely(cost, costs[0])
    return rows + costs


def compare_freely(row: Row, rival: Row) -> None:
    """A ratio without a goal."""
    if row.value and rival.value and rival.name == RIVAL:
        row.ratio, row.of = row.value / rival.value, RIVAL


def far(histogram: Any) -> dict[str, float]:
    """p99, p99.9 and the longest, in microseconds."""
    found = {name: histogram.get_value_at_percentile(at) / 1000 for name, at in (("p99", 99), ("p99.9", 99.9))}
    return found | {"max": histogram.get_max_value() / 1000}


if __name__ == "__main__":
    from benchmarks.__main__ import line

    for row in run(15, True):
        print(line(row))
