"""Torn readings over many reads: every kind of reader against a writer process, a naive one in the same run.

    python benchmarks/shm_torn.py [--reads 100000000] [--levels-reads 1000000]

Against a writer at a million publications a second and one flat out. Exit status 1 when a locked reading tore, when the
naive reader did not, or when the writer did not live to the end.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kfix_md.errors import FeedError
from kfix_md.shm.attach import attach
from kfix_md.shm.writer import SegmentWriter
from tests.shm._stress import ManualBook, check_levels, torn_levels, torn_tops

LEVELS = 10


CORES = sorted(os.sched_getaffinity(0))


def pin(number: int) -> None:
    """Reader and writer on cores of their own, so that they really meet."""
    os.sched_setaffinity(0, {number})


def writer(directory: str, rate: float) -> None:
    """Publish a self-checking book until stopped; then print the number of publications."""
    with SegmentWriter("torn", directory, capacity=4, heartbeat_ns=2_000_000_000) as segment:
        book = ManualBook(segment, segment.add_symbol("BTC/USD", 2, 1, 8))
        book.fill([(2000 - i, 1) for i in range(LEVELS)], [(3000 + i, 1) for i in range(LEVELS)])
        count = book.storm(0.001, levels=LEVELS)
        segment.heartbeat()
        print("ready", flush=True)
        stop = Path(directory, "stop")
        began = time.monotonic()
        while not stop.exists():
            count += book.storm(0.2, rate, LEVELS if rate else 1)
            segment.heartbeat()
        print(f"{count} {count / (time.monotonic() - began):.0f}")


def python_tops(book, reads: int) -> int:
    """Readings through the Python objects: tuple, kept quote, attributes."""
    torn, quote = 0, book.read()
    for _ in range(reads // 2):
        bid, bid_qty, ask, ask_qty = book.top(price="int")
        torn += (bid_qty, ask, ask_qty) != (bid + 1, bid + 2, bid + 3)
        book.read(quote)
        k = round(quote.bid * 10)
        torn += (round(quote.bid_qty * 1e8), round(quote.ask * 10), quote.seq) != (k + 1, k + 2, k)
    return torn


def levels(book, reads: int, n: int) -> tuple[int, int]:
    """(torn, whole): depth readings; one that finds no whole copy in its bounded tries is an error, not a value."""
    torn = whole = 0
    for _ in range(reads):
        try:
            sides = book.depth(n, price="int")
        except FeedError:
            continue
        whole += 1
        torn += not check_levels(sides[0][:LEVELS], sides[1][:LEVELS])
    return torn, whole


def run(rate: float, reads: int, level_reads: int) -> bool:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        command = [sys.executable, __file__, "--writer", directory, "--rate", str(rate), "--core", str(CORES[-1])]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        book = attach("torn", directory=directory)["BTC/USD"]
        began = time.monotonic()
        torn, retries, distinct = torn_tops(book, reads)
        spent = time.monotonic() - began
        naive = 0
        for _ in range(100):  # on two busy cores reader and writer may share one for a while
            naive += torn_tops(book, max(reads // 100, 100_000), naive=True)[0]
            if naive and _ >= 9:
                break
        object_torn = python_tops(book, level_reads)
        found = {"top": (torn, reads), "python top": (object_torn, level_reads)}
        changed = LEVELS if rate else 1
        for kind, deep in (("ten levels", False), ("whole book", True)):
            # flat out the block is nearly always being written: most copies use up their bounded tries
            found[kind] = torn_levels(book, reads if rate else reads // 50, changed, deep)
        if rate:
            found["depth(10)"] = levels(book, level_reads // 20, 10)
            found["depth(None)"] = levels(book, level_reads // 20, None)
        alive = child.poll() is None
        Path(directory, "stop").touch()
        count, per_second = child.communicate(timeout=60)[0].split()
    print(f"writer {int(per_second):,}/s ({int(count):,} publications), {'alive to the end' if alive else 'DEAD'}")
    print(f"   {reads:,} tops in {spent:.1f} s, {distinct:,} different, {100 * retries / reads:.2f} % retries")
    for kind, (bad, of) in found.items():
        print(f"   {kind:<12} {bad} torn of {of:,}")
    print(f"   naive        {naive:,} torn")
    return alive and naive > 0 and not any(bad for bad, _ in found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=100_000_000)
    parser.add_argument("--levels-reads", type=int, default=1_000_000)
    parser.add_argument("--writer", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=0)
    args = parser.parse_args()
    if args.writer:
        pin(args.core)
        writer(args.writer, args.rate)
        return 0
    pin(CORES[0])
    results = [run(rate, args.reads, args.levels_reads) for rate in (1e6, 0)]
    print("no torn readings" if all(results) else "NOT proven")
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
