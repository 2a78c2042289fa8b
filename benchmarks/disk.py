"""What a message costs on disk: journal, journal compressed, Parquet as recorded, Parquet compacted.

Run: python -m benchmarks.disk [STREAM.fix.gz ...]   (generated streams of the four services without arguments)
Prints the table of docs/sizing.md. Receive times are the frames' own 52 with some jitter.
"""

import argparse
import gzip
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import recorder
from benchmarks.parquet_captures import frames, receive_times
from kfix_md import Handler
from kfix_md.journal import files as journal_files
from kfix_md.journal.writer import JournalWriter
from recorder import compact
from recorder.process import Recorder, Settings
from tests.streams import generate

SERVICES = ("spot-l2", "spot-l3", "derivatives-l2", "derivatives-l3")
DAY_S = 86_400


@dataclass
class Cost:
    """Bytes of one stream on disk."""

    name: str
    messages: int
    journal: int
    compressed: int
    live: int
    compacted: int

    def each(self) -> list[float]:
        """Bytes of a message in each form."""
        return [size / self.messages for size in (self.journal, self.compressed, self.live, self.compacted)]


def measure(name: str, data: bytes, level: str) -> Cost:
    """Journal and record one stream, and weigh the files."""
    stream = frames(data)
    times = receive_times(stream, np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with JournalWriter(work / "journal", segment_bytes=32 << 20) as journal:
            journal.event(0, int(times[0]), {"type": "session", "number": 0, "service": name, "level": level})
            handler = Handler(level=level, session_number=0, journal=journal)
            begin = journal.position
            for frame, time_ns in zip(stream, times.tolist(), strict=True):
                handler.on_bytes(frame, time_ns)
            written = journal.position - begin
        one = Recorder(Settings(work / "journal", work / "captures"))
        one.once()
        one.close()
        cap = recorder.open(work / "captures")
        live = _weight(work / "captures")
        for day in cap.dates():
            compact.compact_day(cap.tree, day)
        compacted = _weight(work / "captures")
        compressed = 0
        for head in list(journal_files.heads(work / "journal").values()):
            if head.date:
                compressed += journal_files.compress(head.path).stat().st_size
        return Cost(name, handler.stats["messages"], written, compressed, live, compacted)


def _weight(captures: Path) -> int:
    return sum(path.stat().st_size for path in captures.glob("*/session_date=*/*.parquet"))


def table(costs: list[Cost]) -> str:
    """The costs as markdown: bytes of a message, and GB a day at 1,000 messages a second."""
    lines = [
        "| stream | messages | journal | as zstd | live | compacted | GB a day: journal | as zstd | compacted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        journal, compressed, live, compacted = cost.each()
        days = [each * 1000 * DAY_S / 1e9 for each in (journal, compressed, compacted)]
        lines.append(
            f"| {cost.name} | {cost.messages:,} | {journal:.0f} | {compressed:.0f} | {live:.0f} | {compacted:.0f} | "
            + " | ".join(f"{day:.1f}" for day in days)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("streams", nargs="*", type=Path)
    parser.add_argument("--messages", type=int, default=6_000, help="of each generated stream")
    options = parser.parse_args()
    costs = []
    for path in options.streams:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        costs.append(measure(path.name.split(".")[0], data, "L3" if b"\x015273=" in data[:200_000] else "L2"))
    for service in SERVICES if not options.streams else ():
        stream = generate(service, messages=options.messages, seed=1)
        costs.append(measure(service, b"".join(stream.frames), service[-2:].upper()))
    print(table(costs))


if __name__ == "__main__":
    main()
