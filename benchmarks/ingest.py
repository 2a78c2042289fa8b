"""Compares the cost of receiving TLS: CPU time of whole receiving processes, measured from outside.

Every receiver is a process of its own, connected to the venue in this one over loopback, TLS 1.3, each message of 372
bytes in a record of its own. In turn each gets a round of messages, sealed before the clock runs and then sent as fast
as it takes them, and answers what ends the round. What its process used meanwhile, in user and kernel mode, timers,
helper threads and garbage collection included, is its figure.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import receivers
from benchmarks.race import Row, absent, compare
from benchmarks.venue import MARKER, Link, Market, Session, Venue

GROUP = "TLS 1.3 ingest, one message per record"
RIVAL = "C, epoll and static memory BIO"
FAST, PLAIN, STREAMS = "connector, aiofastnet on uvloop", "connector, plain uvloop", "asyncio streams"
FULL_FAST, FULL_PLAIN = "whole feed, aiofastnet on uvloop", "whole feed, plain uvloop"


def cpu_ns(process: subprocess.Popen[bytes]) -> int:
    """CPU time of all threads of another process, by its own clock."""
    return time.clock_gettime_ns((~process.pid << 3) | 2)  # CPUCLOCK_SCHED, as clock_getcpuclockid() makes it


@dataclass
class Receiver:
    """A process, the connection to it, and what its rounds took."""

    name: str
    process: subprocess.Popen[bytes]
    link: Link
    session: Session | None = None
    times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._updates = self.session.updates if self.session else Market().updates(itertools.count(1))

    def messages(self, count: int) -> list[bytes]:
        """The next messages of its stream and what ends a round."""
        found = list(itertools.islice(self._updates, count))
        return [*found, self.session.test_request() if self.session else MARKER]

    def answered(self) -> None:
        """Wait until it has worked through the round."""
        if self.session:
            self.session.expect(b"0")
        else:
            self.link.receive()

    def round(self, count: int) -> None:
        """One round flat out."""
        data = self.link.seal(*self.messages(count))
        before = cpu_ns(self.process)
        self.link.sock.sendall(data)
        self.answered()
        self.times.append((cpu_ns(self.process) - before) / count)

    def stop(self) -> None:
        self.link.close()
        self.process.terminate()
        self.process.wait(timeout=20)


@contextlib.contextmanager
def running(venue: Venue, folder: Path) -> Iterator[list[Receiver]]:
    """Every receiver that can be had here, connected."""
    opened: list[Receiver] = []
    comp_id = Market().comp_id

    def add(name: str, process: subprocess.Popen[bytes], fix: bool = False) -> None:
        link = venue.accept()
        opened.append(Receiver(name, process, link, Session(link) if fix else None))

    try:
        if receivers.native() is not None:
            add(RIVAL, receivers.start(receivers.C, venue.port, venue.ca))
        for name, full, engine in ((FAST, FULL_FAST, "aiofastnet"), (PLAIN, FULL_PLAIN, "uvloop")):
            if engine == "aiofastnet" and not receivers.has("aiofastnet"):
                continue
            add(name, receivers.start(receivers.FRAMING, venue.port, venue.ca, engine))
            add(full, receivers.start_feed(folder / engine, venue.port, venue.ca, comp_id, engine=engine), fix=True)
        add(STREAMS, receivers.start(receivers.STREAMS, venue.port, venue.ca))
        yield opened
    finally:
        for receiver in opened:
            receiver.stop()


def run(rounds: int, quick: bool) -> list[Row]:
    """The table of this question."""
    if why := receivers.missing():
        return [absent(GROUP, FAST, why)]
    count = 10_000 if quick else 20_000
    with (
        tempfile.TemporaryDirectory(prefix="kfix-ingest-", dir="/dev/shm") as name,
        contextlib.closing(Venue(Path(name) / "tls")) as venue,
        running(venue, Path(name)) as opened,
    ):
        for number in range(rounds + 1):
            for receiver in opened:
                receiver.round(count)
                if not number:
                    receiver.times.clear()
        rows = [Row(GROUP, each.name, statistics.median(each.times)) for each in opened]
    names = {row.name for row in rows}
    for missing, why in ((RIVAL, "no C compiler, or no headers of OpenSSL"), (FAST, "aiofastnet is not installed")):
        if missing not in names:
            rows.append(absent(GROUP, missing, why))
    for ours, goal in ((FAST, 1.4), (PLAIN, 2.6)):
        if ours in names:
            compare(rows, ours, RIVAL, goal, at_most=True)
    return rows


if __name__ == "__main__":
    from benchmarks.__main__ import line

    for row in run(9, True):
        print(line(row))
