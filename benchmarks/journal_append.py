"""What one appended message costs the hot loop, and how fast the journal reads back."""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks import build
from kfix_md.journal.reader import JournalReader
from kfix_md.journal.writer import JournalWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=372, help="length of one message")
    parser.add_argument("--rate", type=int, default=0, help="messages a second; 0: as fast as it goes")
    parser.add_argument("--directory", default=None)
    args = parser.parse_args()
    driver = build.driver()
    where = Path(tempfile.mkdtemp(dir=args.directory))
    try:
        with JournalWriter(where) as writer:
            spans = driver.journal_append(writer, os.urandom(args.bytes), args.messages, args.rate)
            stats = writer.stats()
        spans.sort()
        names = [("median", 0.5), ("99 %", 0.99), ("99.9 %", 0.999), ("99.99 %", 0.9999), ("max", 1)]
        percentiles = ", ".join(f"{n} {spans[min(len(spans) - 1, int(len(spans) * q))]} ns" for n, q in names)
        print(f"append of {args.bytes} bytes: mean {spans.mean():.0f} ns, {percentiles} (about 40 ns are the clock)")
        print(
            f"segments {stats['segments']}, made late {stats['made_late']}, lost {stats['lost']}, "
            f"longest sync {stats['sync_max_ns'] / 1e6:.1f} ms"
        )
        start = time.perf_counter_ns()
        n = driver.journal_read(JournalReader(where))
        print(f"read with CRC32C: {(time.perf_counter_ns() - start) / n:.0f} ns a record, {n} records")
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    main()
