"""Reading books from Python: this package against struct and numpy over the same memory with a seqlock in Python.

    python benchmarks/shm_read.py [--quick]

Reader and writer are processes on cores of their own. The struct and numpy readers return raw integers: they are spared
the conversion that the compiled ones make. Ratios are what to look at; the targets stand beside them.
"""

import argparse
import mmap
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kfix_md._shm import SegmentWriter
from kfix_md._stress import ManualBook, spin_latency
from kfix_md.reader import LEVEL_INT_DTYPE, attach
from kfix_md.shm_layout import dtype

CORES = sorted(os.sched_getaffinity(0))
DEPTH = 1000


def writer(directory: str, core: int) -> None:
    """Storms as asked on stdin: "SECONDS RATE STAMP"; heartbeats in between."""
    os.sched_setaffinity(0, {core})
    with SegmentWriter("bench", directory, capacity=4, heartbeat_ns=60_000_000_000) as segment:
        book = ManualBook(segment, segment.add_symbol("BTC/USD", 2, 1, 8))
        book.fill([(10**6 - i, 1) for i in range(DEPTH)], [(2 * 10**6 + i, 1) for i in range(DEPTH)])
        book.publish()
        print("ready", flush=True)
        for line in sys.stdin:
            seconds, rate, stamp = map(float, line.split())
            book.storm(seconds, rate, 1, bool(stamp))
            segment.heartbeat()
            print("done", flush=True)


class StructReader:
    """What one would write by hand: struct.unpack_from, a version before and after."""

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self.memory, self.at, self.retries = memory, at, 0
        self.all, self.version = struct.Struct("<Q4q").unpack_from, struct.Struct("<Q").unpack_from
        self.seen = 0

    def top(self):
        while True:
            version, bid, bid_qty, ask, ask_qty = self.all(self.memory, self.at)
            if not version & 1 and self.version(self.memory, self.at)[0] == version:
                self.seen = version
                return bid, bid_qty, ask, ask_qty
            self.retries += 1

    def changed(self):
        return self.version(self.memory, self.at)[0] != self.seen


class NumpyReader:
    """Plain int64 arrays over the same memory, copied between two looks at the version."""

    def __init__(self, memory: mmap.mmap, symbol: np.void) -> None:
        words = np.frombuffer(memory, "i8")

        def view(offset: int, size: int) -> np.ndarray:
            return words[offset // 8 : (offset + size) // 8]

        n, at = int(symbol["depth_capacity"]), int(symbol["depth_offset"])
        self.one, self.version = view(int(symbol["top_offset"]), 64), view(int(symbol["top_offset"]), 8)
        self.deep_version, self.retries = view(at, 16), 0
        self.bids, self.asks = view(at + 64, 24 * n), view(at + 64 + 24 * n, 24 * n)

    def top(self):
        while True:
            row = self.one.copy()
            version = row[0]
            if not version & 1 and self.version[0] == version:
                return row
            self.retries += 1

    def depth(self):
        """Both sides, best first, as structured arrays of integers."""
        while True:
            version = self.deep_version[0]
            if not version & 1:
                n = int(self.deep_version[1])  # both counts
                bids, asks = self.bids.copy(), self.asks.copy()
                if self.deep_version[0] == version:
                    return (bids.view(LEVEL_INT_DTYPE)[: n & 0xFFFFFFFF][::-1],
                            asks.view(LEVEL_INT_DTYPE)[: n >> 32][::-1])
            self.retries += 1

    def floats(self):
        """The same with prices and quantities as floats, as `depth()` gives them."""
        return tuple((side["price"] / 10.0, side["qty"] / 1e8, side["orders"]) for side in self.depth())


ROUNDS = 50


def cost(read, n: int) -> float:
    """Nanoseconds a call: a low quantile of many short rounds, as other work on the machine disturbs long ones."""
    n, taken = max(1, n // ROUNDS), []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(n):
            read()
        taken.append((time.perf_counter_ns() - start) / n)
    return sorted(taken)[ROUNDS // 10]


class Bench:
    """The writer process and the readers of its one book."""

    def __init__(self, directory: str, n: int) -> None:
        words = [sys.executable, __file__, "--writer", directory, "--core", str(CORES[-1])]
        self.child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.child.stdout.readline()
        self.n = n
        self.book = attach("bench", directory=directory)["BTC/USD"]
        path = Path(directory, "kfix-md.bench")
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        at = int(np.frombuffer(memory, dtype("header"), 1)["symbols_offset"][0])
        symbol = np.frombuffer(memory, dtype("symbol"), 1, at)[0]
        self.struct, self.numpy = StructReader(memory, int(symbol["top_offset"])), NumpyReader(memory, symbol)

    def storm(self, seconds: float, rate: float, stamp: bool = False) -> None:
        self.child.stdin.write(f"{seconds} {rate} {int(stamp)}\n")
        self.child.stdin.flush()

    def done(self) -> None:
        self.child.stdout.readline()

    def tops(self) -> dict[str, float]:
        quote, book = self.book.read(), self.book
        return {
            "tuple": cost(book.top, self.n), "held": cost(lambda: book.read(quote), self.n) - cost(_nothing, self.n),
            "attribute": cost(lambda: book.bid, self.n) - cost(_nothing, self.n),
            "changed": cost(book.changed, self.n),
            "struct": cost(self.struct.top, self.n // 4), "struct changed": cost(self.struct.changed, self.n // 4),
            "numpy": cost(self.numpy.top, self.n // 8),
        }  # fmt: skip


def _nothing() -> None:
    pass


def report(name: str, value: float, target: str = "") -> None:
    print(f"   {name:<46} {value:>10.2f}  {target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--writer", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.writer:
        writer(args.writer, args.core)
        return
    os.sched_setaffinity(0, {CORES[0]})
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        bench = Bench(directory, 50_000 if args.quick else 500_000)
        measure(bench)
        bench.child.stdin.close()
        bench.child.wait(60)


def measure(bench: Bench) -> None:
    quiet = bench.tops()
    print("quiet, ns a call")
    for name, value in quiet.items():
        report(name, value)
    report("tuple / struct", quiet["tuple"] / quiet["struct"], "target 0.35")
    report("held object / struct", quiet["held"] / quiet["struct"], "target 0.25")
    report("nothing new / struct read", quiet["changed"] / quiet["struct"], "target 0.2")

    print("a million updates a second, ns a call")
    seconds = 1.0 if bench.n < 100_000 else 5
    bench.storm(seconds, 1e6)
    retries, reads = bench.book.retries, bench.n * 3
    busy = bench.tops()
    retries = bench.book.retries - retries
    bench.done()
    for name, value in busy.items():
        report(name, value, f"{value / quiet[name]:.1f} x its quiet time")
    report("retries, % of reads", 100 * retries / reads, "target 1")
    report("struct retries, % of reads", 100 * bench.struct.retries / (bench.n // 4))

    print("writer to reader, ns, 20,000 updates a second")
    count = 2_000 if bench.n < 100_000 else 20_000
    ours = latency(bench, count)
    bench.storm(count / 10_000, 20_000, True)
    spin = statistics.median(spin_latency(bench.book, count, count / 10_000))
    bench.done()
    report("Python: changed() then read()", ours)
    report("C loop", spin)
    report("ratio", ours / spin, "target 4")

    print("copy of 2 x 1000 levels at 100,000 updates a second, ns")
    depth_n = bench.n // 20
    bench.storm(1.0 if bench.n < 100_000 else 4, 1e5)
    exact = cost(lambda: bench.book.depth(None, price="int"), depth_n)
    floats = cost(lambda: bench.book.depth(None), depth_n)
    numpy, numpy_floats = cost(bench.numpy.depth, depth_n), cost(bench.numpy.floats, depth_n)
    bench.done()
    report('depth(None, price="int")', exact, f"{exact / numpy:.2f} x numpy, target 0.8")
    report("numpy with a seqlock in Python, integers", numpy)
    report("depth(None), floats", floats, f"{floats / numpy_floats:.2f} x numpy")
    report("numpy with a seqlock in Python, floats", numpy_floats)


def latency(bench: Bench, count: int) -> float:
    """Median time from publication to having the values in Python."""
    book, quote, seen = bench.book, bench.book.read(), []
    bench.storm(count / 10_000, 20_000, True)
    book.read(quote)
    end = time.monotonic() + count / 10_000
    while len(seen) < count and time.monotonic() < end:
        if book.changed():
            book.read(quote)
            seen.append(time.time_ns() - quote.recv_ns)
    bench.done()
    return statistics.median(seen)


if __name__ == "__main__":
    main()
