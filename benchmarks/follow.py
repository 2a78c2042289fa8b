"""What following a journal costs: records a second on one core, in turn with reading alone and with the recorder's
decoding of the same journal. `python -m benchmarks.follow [--messages N]`."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import workload
from kfix_md import Handler
from kfix_md._entry import Cause, State
from kfix_md.feed.follow import JournalFollower
from kfix_md.journal.events import BookChanged, SessionDescribed, Started
from kfix_md.journal.reader import JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.shm.writer import SegmentWriter
from recorder.tail import Tail

GOAL = 800_000  # records a second


class Recorded:
    """A handler that records what it applies, as a feed does, and the changes of its books."""

    def __init__(self, journal: JournalWriter, level: str) -> None:
        self.journal, self.now_ns = journal, time.time_ns()
        journal.event(0, self.now_ns, Started(feed="benchmark"))
        journal.event(0, self.now_ns, SessionDescribed(0, f"spot-{level.lower()}", level, "h", 1, "A", "B", depth=0))
        self.handler = Handler(level=level, journal=journal, listener=self)

    def on_book(self, symbol: str, state: State, cause: Cause, seq: int, _recv_ns: int) -> None:
        self.journal.event(0, self.now_ns, BookChanged(symbol, state.name, cause.name, seq))


def record(stream: workload.Workload, messages: int, folder: Path) -> int:
    """A journal of the stream, repeated until it has so many messages; how many records it has."""
    with JournalWriter(folder, segment_bytes=1 << 30) as journal:
        recorded = Recorded(journal, stream.level)
        while recorded.handler.stats["messages"] < messages:
            recorded.handler.sequence.expected = -1  # it begins again
            recorded.handler.on_bytes(stream.data, recorded.now_ns)
    return sum(1 for _ in JournalReader(folder))


def follow_all(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as shm, SegmentWriter("follow", shm, capacity=64) as writer:
        follower = JournalFollower(folder, writer)
        while follower.step():
            pass
        counts = follower.counts()
        assert counts["verdicts_differ"] == counts["states_differ"] == counts["not_applied"] == 0, counts


def read_all(folder: Path) -> None:
    for _ in JournalReader(folder):
        pass


def decode_all(folder: Path) -> None:
    tail = Tail(str(folder), checkpoint_rows=None)
    while tail.read(1_000_000) != "nothing":
        tail.take()


RUNNERS: dict[str, Callable[[Path], None]] = {
    "follow: books and shared memory": follow_all,
    "recorder: rows as Arrow": decode_all,
    "reading alone, from Python": read_all,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for stream in workload.generated(quick=False):
        with tempfile.TemporaryDirectory() as name:
            records = record(stream, args.messages, Path(name))
            times: dict[str, list[float]] = {runner: [] for runner in RUNNERS}
            for _ in range(args.rounds):
                for runner, run in RUNNERS.items():
                    before = time.thread_time()
                    run(Path(name))
                    times[runner].append((time.thread_time() - before) / records)
        ours = statistics.median(times[next(iter(RUNNERS))])
        for runner, each in times.items():
            median = statistics.median(each)
            figures = f"{1 / median:12,.0f} records/s {median * 1e9:7.0f} ns  {median / ours:5.2f} x"
            print(f"{stream.name:14} {runner:34} {figures}")


if __name__ == "__main__":
    main()
