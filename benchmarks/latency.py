"""Measures the time from wire to shared memory: p50 to the longest, one receiver at a time, with everything on.

    python -m benchmarks.latency [--dir DIR] [--seconds 20] [--out DIR] [--quick]

One thread sends sealed messages (372 bytes, TLS 1.3) by a fixed timetable and watches what the receiver has made
visible: the feed's book through the compiled reader of scripts, or the number that the C receiver stores the moment it
has decrypted a frame. So the feed's figure holds waking, TLS, sequence, journal, decoding, book, 5041 and publication;
the C receiver's waking, TLS and one store. One clock, one thread, on one core; the receiver on another.

The sender does not wait for the receiver (a message that is late delays no other), so that nothing has to be corrected
for messages that were not sent. What the sender itself was late by is a histogram of its own. While the sender had no
CPU it could not see, and afterwards it sent all at once what had become due: from then until the receiver has caught
up, messages are left out, for all receivers alike, and their number is printed. So is how long the receiver was ready
to run and had no CPU: the kernel's and other processes' part of its tail.

A receiver runs for all patterns without a break: `--seconds` each at 1,000, 5,000 and 20,000 messages a second, and in
bursts of 500 every 100 ms. No process is stopped, and none has a real-time policy: the kernel takes the CPU from a
thread that spins under SCHED_FIFO for 50 ms of each second. With every feed run its recorder, `kfix top` on a terminal
and a reader of its /metrics, twice a second; they run on while the C receivers have their turn next to an idle feed.
The journal is in `--dir`, which must be on a real disk for its stalls to be seen; shared memory is in /dev/shm.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import mmap
import os
import pty
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfix_md
from benchmarks import receivers
from benchmarks.build import ROOT
from benchmarks.ingest import Receiver, cpu_ns
from benchmarks.race import Row, absent
from benchmarks.venue import Market, Session, Venue

GROUP = "wire to shared memory, everything on"
CPU_GROUP = "TLS 1.3 ingest, 5,000 messages a second"
RIVAL, RIVAL_SPIN = "C receiver", "C receiver, busy polling"
FAST, PLAIN, SPIN = "kfix feed, aiofastnet", "kfix feed, plain uvloop", "kfix feed, busy polling"
#: name of a pattern: messages a second, messages sent at once
PATTERNS = {"1,000/s": (1_000, 1), "5,000/s": (5_000, 1), "20,000/s": (20_000, 1), "bursts of 500": (5_000, 500)}
POINTS = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "longest": 100.0}
#: as many times the C receiver's
GOALS = {
    FAST: (RIVAL, {"p50": 1.1, "p99": 1.5, "p99.9": 2.0, "longest": 4.0}),
    SPIN: (RIVAL_SPIN, {"p50": 1.15, "p99.9": 1.5}),
}
SECOND = 1_000_000_000
WARM_S = 0.5
BLIND_NS = 100_000  # without a look for so long, the sender had no CPU
GIVE_UP_NS = 10 * SECOND

Seen = Callable[[], int]  # the newest MsgSeqNum that is visible


@dataclass
class Result:
    """One receiver in one pattern: histograms in ns."""

    latency: Any
    lateness: Any  # of the sender
    blind: int = 0  # messages left out
    cpu_ns: float = 0.0  # of the receiver, a message
    waited_ns: int = 0  # of the receiver, for a CPU

    @property
    def sent(self) -> int:
        """Messages that count."""
        return int(self.latency.get_total_count()) + self.blind


@dataclass
class Contender(Receiver):
    """A receiver and how to see what it has received."""

    seen: Seen = field(default=lambda: 0)
    last: int = 0  # MsgSeqNum of the last message sent, where there is no session

    def run(self, rate: int, at_once: int, seconds: float) -> Result:
        """Send for `seconds` (after some that do not count), and note how long each message took to be visible."""
        from hdrh.histogram import HdrHistogram

        groups, warm = max(1, int(rate * seconds) // at_once), max(1, int(rate * WARM_S) // at_once)
        total = (groups + warm) * at_once
        messages = iter(list(itertools.islice(self._updates, total)))
        sealed = [self.link.seal(*itertools.islice(messages, at_once)) for _ in range(groups + warm)]
        last = self.session.seq if self.session else self.last + total
        self.last = last
        result = Result(HdrHistogram(100, 100 * SECOND, 3), HdrHistogram(1, 100 * SECOND, 3))
        waited = waited_ns(self.process.pid)
        gc.collect()
        gc.disable()
        try:
            sent, taken, late, result.cpu_ns = self._paced(
                sealed, last - total, at_once, SECOND * at_once // rate, warm
            )
        finally:
            gc.enable()
        del sent
        result.waited_ns = waited_ns(self.process.pid) - waited
        for ns in taken[warm * at_once :]:
            if ns < 0:
                result.blind += 1
            else:
                result.latency.record_value(max(100, ns))
        for ns in late[warm:]:
            result.lateness.record_value(max(1, ns))
        return result

    def _paced(
        self, sealed: list[bytes], base: int, at_once: int, period: int, warm: int
    ) -> tuple[list[int], list[int], list[int], float]:
        """Send by the timetable.

        Returns when each group was sent, the ns until each message was visible (-1: not known), how late each group
        was sent, and the receiver's CPU time a message.
        """
        send, seen, clock = self.link.sock.sendall, self.seen, time.perf_counter_ns
        count, shown = len(sealed), 0
        sent, late, taken, cpu, began = [], [], [], 0, clock()
        looked, disturbed = began, False  # disturbed: the sender had no CPU, and the receiver has not caught up yet
        while shown < count * at_once:
            visible = min(seen() - base, len(sent) * at_once)
            now = clock()  # after the look: a time that is too long here shows as a late look
            disturbed, looked = disturbed or now - looked > BLIND_NS, now
            if visible > shown:
                for number in range(shown, visible):
                    taken.append(-1 if disturbed else now - sent[number // at_once])
                shown = visible
            elif sent and now - sent[-1] > GIVE_UP_NS:
                raise TimeoutError(f"MsgSeqNum {base + shown + 1} is not visible after 10 s")
            disturbed = disturbed and shown < len(sent) * at_once
            if len(sent) < count and now >= began + len(sent) * period:
                if len(sent) == warm:
                    cpu = cpu_ns(self.process)
                late.append(now - began - len(sent) * period)
                disturbed = disturbed or late[-1] > BLIND_NS
                sent.append(clock())
                send(sealed[len(sent) - 1])
                looked = clock() if looked + BLIND_NS // 2 > sent[-1] else looked
        return sent, taken, late, (cpu_ns(self.process) - cpu) / ((count - warm) * at_once)


def number_of(shared: mmap.mmap) -> Seen:
    """What the C receiver stores."""
    view = memoryview(shared).cast("Q")
    return lambda: view[0]


def seq_of(book: Any) -> Seen:
    """The book as scripts see it."""
    return lambda: book.seq


def waited_ns(pid: int) -> int:
    """Time that the main thread of a process was ready to run without a CPU; 0 where the kernel does not count it."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except OSError:
        return 0


def on_disk(folder: Path) -> bool:
    """Whether a folder is on a file system that is not memory alone."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(mount, kind) for mount, kind in mounts if folder.resolve().is_relative_to(mount)]
    return max(inside, key=lambda found: len(found[0]))[1] not in ("tmpfs", "ramfs")


@contextlib.contextmanager
def company(folder: Path, shm: Path, port: int, core: int) -> Iterator[None]:
    """A recorder, a console and a reader of /metrics for a feed, on the sender's side of the machine."""
    kfix, terminal = [sys.executable, "-m", "kfix_md"], pty.openpty()
    scrape = f"""
import time, urllib.request
while True:
    try:
        urllib.request.urlopen("http://127.0.0.1:{port}/metrics", timeout=5).read()
    except OSError:
        pass
    time.sleep(0.5)
"""
    quiet: dict[str, Any] = {"cwd": ROOT, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    running = [
        subprocess.Popen([*kfix, "record", str(folder / "feed.toml")], **quiet),
        subprocess.Popen(
            [*kfix, "top", "--feed", "bench", "--directory", str(shm)],
            **quiet | {"stdin": terminal[1], "stdout": terminal[1]},
        ),
        subprocess.Popen([sys.executable, "-c", scrape], **quiet),
    ]
    drain = subprocess.Popen(["cat"], stdin=terminal[0], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for each in (*running, drain):
        os.setpriority(os.PRIO_PROCESS, each.pid, 5)  # they share the sender's core, and must not blind it for long
        os.sched_setaffinity(each.pid, set(os.sched_getaffinity(0)) - {core} or {core})
    try:
        yield
        if gone := [each.args for each in running if each.poll() is not None]:
            raise RuntimeError(f"ended before the measurement did: {gone}")
    finally:
        for each in (*running, drain):
            each.terminate()
            each.wait(timeout=20)
        for fd in terminal:
            os.close(fd)


@contextlib.contextmanager
def c_receiver(venue: Venue, folder: Path, name: str, core: int, *more: str) -> Iterator[Contender]:
    """native/receiver.c, connected and pinned."""
    shared = folder / name
    shared.write_bytes(struct.pack("Q", 0))
    with shared.open("r+b") as file:
        number = mmap.mmap(file.fileno(), 8)
    process = receivers.start(receivers.C, venue.port, venue.ca, str(shared), *more)
    contender = Contender(name, process, venue.accept(), seen=number_of(number))
    os.sched_setaffinity(process.pid, {core})
    try:
        yield contender
    finally:
        contender.stop()


@contextlib.contextmanager
def feed(venue: Venue, where: Path, shm: Path, name: str, core: int, engine: str, spin: bool) -> Iterator[Contender]:
    """`kfix feed` with its company, connected and pinned."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    more = f'[metrics]\nport = {port}\n[recorder]\ndirectory = "captures"\n'
    shm.mkdir(exist_ok=True)
    process = receivers.start_feed(
        *(where, venue.port, venue.ca, Market().comp_id), engine=engine, busy_poll=spin, cpu=core, shm=shm, more=more
    )
    link = venue.accept()
    contender = Contender(name, process, link, Session(link))
    try:
        contender.seen = seq_of(kfix_md.attach(path=shm / "kfix-md.bench")["BTC/USD"])
        with company(where, shm, port, core):
            time.sleep(3)  # until they have started
            yield contender
    finally:
        contender.stop()


def measure(folder: Path, seconds: float) -> dict[str, dict[str, Result]]:
    """Results by receiver and pattern."""
    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, dict[str, Result]] = {}

    def take(contender: Contender) -> None:
        os.sched_setaffinity(0, {cores[0]})
        try:
            found[contender.name] = {
                name: contender.run(rate, at_once, seconds) for name, (rate, at_once) in PATTERNS.items()
            }
        finally:
            os.sched_setaffinity(0, cores)

    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    with (
        tempfile.TemporaryDirectory(prefix="kfix-latency-", dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory(prefix="kfix-latency-", dir=folder) as disk,
        contextlib.closing(Venue(Path(memory) / "tls")) as venue,
    ):
        for name, engine, spin in ((FAST, "aiofastnet", False), (PLAIN, "uvloop", False), (SPIN, "auto", True)):
            if engine == "aiofastnet" and not receivers.has("aiofastnet"):
                continue
            shm = Path(memory) / f"{engine}-{spin}"
            with feed(venue, Path(disk) / shm.name, shm, name, cores[1], engine, spin) as contender:
                if not spin and RIVAL not in found and receivers.native() is not None:
                    for rival, *more in ((RIVAL,), (RIVAL_SPIN, "spin")):
                        with c_receiver(venue, Path(memory), rival, cores[1], *more) as other:
                            take(other)
                take(contender)
    return found


def point(result: Result, name: str) -> float:
    """A point of the distribution in us."""
    latency = result.latency
    return (latency.get_max_value() if name == "longest" else latency.get_value_at_percentile(POINTS[name])) / 1000


def rows_of(found: dict[str, dict[str, Result]]) -> list[Row]:
    """A row for each receiver, pattern and point; ratios to the C receiver of the same kind."""
    rows = []
    for pattern in PATTERNS:
        measured = {name: one[pattern] for name, one in found.items() if one[pattern].latency.get_total_count()}
        for name in found.keys() - measured.keys():
            rows.append(absent(f"{GROUP}, {pattern}", name, "the sender had no CPU: no message counts"))
        for name, result in measured.items():
            far = {at: point(result, at) for at in POINTS}
            late = result.lateness.get_value_at_percentile(99.9) / 1000
            note = ", ".join(f"{at} {value:,.0f}" for at, value in far.items())
            note += f"; sender late by {late:,.0f} in p99.9; {result.blind} of {result.sent} left out"
            note += f"; without a CPU for {result.waited_ns / 1e6:,.0f} ms"
            rows.append(Row(f"{GROUP}, {pattern}", name, far["p50"], "us p50", note=note, far=far))
            rival, goals = GOALS.get(name, ("", {}))
            if rival in measured:
                for at, goal in goals.items():
                    ratio = far[at] / point(measured[rival], at)
                    rows.append(
                        Row(
                            *(f"{GROUP}, {pattern}", f"{name}: {at}", far[at], "us", ratio, rival, f"<= {goal:g} x"),
                            met=ratio <= goal,
                        )
                    )
    for name, results in found.items():
        if name not in (SPIN, RIVAL_SPIN):
            rows.append(Row(CPU_GROUP, name, results["5,000/s"].cpu_ns))
    if RIVAL not in found:
        rows.append(absent(GROUP, RIVAL, "no C compiler, or no headers of OpenSSL"))
    if FAST not in found:
        rows.append(absent(GROUP, FAST, "aiofastnet is not installed"))
    return rows


def save(found: dict[str, dict[str, Result]], out: Path) -> None:
    """Each histogram as HdrHistogram's text (us), and a picture of all where matplotlib is installed."""
    out.mkdir(parents=True, exist_ok=True)
    for name, results in found.items():
        for pattern, result in results.items():
            label = "".join(c if c.isalnum() else "-" for c in f"{name}-{pattern}")
            with (out / f"{label}.hgrm").open("wb") as file:
                result.latency.output_percentile_distribution(file, 1000)
    if not receivers.has("matplotlib"):
        print("matplotlib is not installed: no picture", file=sys.stderr)
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    nines = [1 - 10 ** (-n / 10) for n in range(51)]
    for axes, pattern in zip(figure.subplots(2, 2, sharey=True).flat, PATTERNS, strict=True):
        for name, results in found.items():
            values = [results[pattern].latency.get_value_at_percentile(100 * nine) / 1000 for nine in nines]
            axes.plot([1 / (1 - nine) for nine in nines], values, label=name)
        axes.set(title=pattern, xscale="log", yscale="log", xlabel="one message in", ylabel="us from wire to reader")
        axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(out / "latency.svg")


def run(
    rounds: int, quick: bool, folder: Path | None = None, seconds: float = 20.0, out: Path | None = None
) -> list[Row]:
    """The tables of this question; `rounds` is for the others of the suite."""
    if why := receivers.missing("hdrh", "prometheus_client"):
        return [absent(GROUP, FAST, why)]
    if len(os.sched_getaffinity(0)) < 2:
        return [absent(GROUP, FAST, "it takes two cores")]
    folder = folder or Path(tempfile.gettempdir())
    if not on_disk(folder):
        print(f"{folder} is in memory: what a disk does to the journal is not measured; give --dir", file=sys.stderr)
    found = measure(folder, 2.0 if quick else seconds)
    if out is not None:
        save(found, out)
    return rows_of(found)


def main() -> None:
    """Run and print."""
    from benchmarks.__main__ import row_lines

    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency")
    parser.add_argument("--dir", type=Path, help="where the journal is; on a disk")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each pattern")
    parser.add_argument("--out", type=Path, help="a folder for the histograms and their picture")
    parser.add_argument("--quick", action="store_true", help="2 s of each pattern")
    options = parser.parse_args()
    group = None
    for row in run(1, options.quick, options.dir, options.seconds, options.out):
        print("\n".join(row_lines(row, group, False)))
        group = row.group


if __name__ == "__main__":
    main()
