"""Reading books from Python: this package against struct and numpy over the same memory with a seqlock in Python.

    python benchmarks/shm_read.py [--quick]

Reader and writer are processes on cores of their own. The struct and numpy readers return raw integers: they are spared
the conversion that the compiled ones make. Ratios are what to look at; targets are printed with them. iceoryx2, where
installed (extra `bench-more`), carries the same numbers: as samples of publish-subscribe and as a blackboard entry.
"""

import argparse
import ctypes
import mmap
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from kfix_md.shm.attach import LEVEL_INT_DTYPE, attach
from kfix_md.shm.layout import dtype
from kfix_md.shm.writer import SegmentWriter
from tests.shm._stress import ManualBook, spin_latency

try:
    import iceoryx2
except ImportError as error:
    iceoryx2, ABSENT = None, str(error)

CORES = sorted(os.sched_getaffinity(0))
DEPTH = 1000


def writer(directory: str, core: int) -> None:
    """Storms as requested on stdin: "SECONDS RATE STAMP"; heartbeats in between."""
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
                    return (
                        bids.view(LEVEL_INT_DTYPE)[: n & 0xFFFFFFFF][::-1],
                        asks.view(LEVEL_INT_DTYPE)[: n >> 32][::-1],
                    )
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


class IceTop(ctypes.Structure):
    """Top of book as iceoryx2 carries it."""

    _fields_ = [(name, ctypes.c_int64) for name in ("version", "bid", "bid_qty", "ask", "ask_qty", "recv_ns")]


ICE_BUFFER = 1000  # samples that wait for the subscriber: as many new ones can be read in a row
ICE_UNPACK = struct.Struct("<6q").unpack


def ice_services(name: str):
    """The node, which has to live on, the publish-subscribe service and the node's maker of blackboards."""
    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
    service = node.service_builder(iceoryx2.ServiceName.new(name + "/samples")).publish_subscribe(IceTop)
    service = service.subscriber_max_buffer_size(ICE_BUFFER).enable_safe_overflow(True).open_or_create()
    return node, service, node.service_builder(iceoryx2.ServiceName.new(name + "/entry"))


def ice_publisher(name: str, core: int) -> None:
    """As many updates as each line of stdin states."""
    os.sched_setaffinity(0, {core})
    _node, service, builder = ice_services(name)
    publisher, key, count = service.publisher_builder().create(), ctypes.c_uint64(0), 0
    board = builder.blackboard_creator(ctypes.c_uint64).add(key, IceTop()).create()
    entry = board.writer_builder().create().entry(key, IceTop)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            count += 1
            top = IceTop(count, 10**6, 1, 2 * 10**6, 1, count)
            publisher.send_copy(top)
            entry.update_with_copy(top)
        print("done", flush=True)


class IceReader:
    """iceoryx2's subscriber and blackboard reader."""

    def __init__(self) -> None:
        name = f"kfix-md-bench-{os.getpid()}"
        command = [sys.executable, __file__, "--publisher", name, "--core", str(CORES[-1])]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.child.stdout.readline()
        self.node, service, builder = ice_services(name)
        self.subscriber = service.subscriber_builder().buffer_size(ICE_BUFFER).create()
        board = builder.blackboard_opener(ctypes.c_uint64).open()
        self.entry = board.reader_builder().create().entry(ctypes.c_uint64(0), IceTop)
        self.kept = self.entry.get()

    def publish(self, count: int) -> None:
        self.child.stdin.write(f"{count}\n")
        self.child.stdin.flush()
        self.child.stdout.readline()

    def payload(self):
        """As its documentation has it."""
        top = self.subscriber.receive().payload().contents
        return top.bid, top.bid_qty, top.ask, top.ask_qty

    def pointer(self):
        """The least that gives the values."""
        sample = self.subscriber.receive()
        return ICE_UNPACK(ctypes.string_at(sample.payload_ptr, 48))

    def get(self):
        return ICE_UNPACK(self.entry.get().data)

    def same(self):
        return self.entry.is_up_to_date(self.kept)

    def close(self) -> None:
        self.child.stdin.close()
        self.child.wait(60)


class Bench:
    """The writer process and the readers of its one book."""

    def __init__(self, directory: str, n: int) -> None:
        command = [sys.executable, __file__, "--writer", directory, "--core", str(CORES[-1])]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
            "tuple": cost(book.top, self.n),
            "kept": cost(lambda: book.read(quote), self.n) - cost(_nothing, self.n),
            "attribute": cost(lambda: book.bid, self.n) - cost(_nothing, self.n),
            "changed": cost(book.changed, self.n),
            "struct": cost(self.struct.top, self.n // 4),
            "struct changed": cost(self.struct.changed, self.n // 4),
            "numpy": cost(self.numpy.top, self.n // 8),
        }


def _nothing() -> None:
    pass


def report(name: str, value: float, target: str = "") -> None:
    print(f"   {name:<46} {value:>10.2f}  {target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--writer", help=argparse.SUPPRESS)
    parser.add_argument("--publisher", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.writer:
        writer(args.writer, args.core)
        return
    if args.publisher:
        ice_publisher(args.publisher, args.core)
        return
    os.sched_setaffinity(0, {CORES[0]})
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        bench = Bench(directory, 50_000 if args.quick else 500_000)
        measure(bench)
        against_iceoryx2(bench)
        bench.child.stdin.close()
        bench.child.wait(60)


def measure(bench: Bench) -> None:
    quiet = bench.tops()
    print("quiet, ns a call")
    for name, value in quiet.items():
        report(name, value)
    report("tuple / struct", quiet["tuple"] / quiet["struct"], "target 0.35")
    report("kept object / struct", quiet["kept"] / quiet["struct"], "target 0.25")
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


def against_iceoryx2(bench: Bench) -> None:
    """Rounds in turn, first with news, then with nothing new.

    News for the subscriber is a sample waiting for every read, for this package's reader a million updates a second
    meanwhile; the blackboard's entry was updated before the round.
    """
    print("against iceoryx2, ns a read, rounds in turn")
    if iceoryx2 is None:
        print(f"   absent: {ABSENT}")
        return
    ice, book, n = IceReader(), bench.book, ICE_BUFFER
    ice.publish(1)
    if ice.pointer()[1:5] != (10**6, 1, 2 * 10**6, 1) or ice.get()[:2] != (1, 10**6):
        raise SystemExit("iceoryx2 gave other values than were published")
    quote = book.read()
    new = {
        "top()": book.top,
        "read(quote)": partial(book.read, quote),
        "iceoryx2 receive(), payload()": ice.payload,
        "iceoryx2 receive(), by pointer": ice.pointer,
        "iceoryx2 blackboard get()": ice.get,
    }
    same = {
        "changed(), nothing new": book.changed,
        "iceoryx2 receive(), nothing new": ice.subscriber.receive,
        "iceoryx2 has_samples(), nothing new": ice.subscriber.has_samples,
        "iceoryx2 blackboard is_up_to_date()": ice.same,
    }
    taken = {name: [] for name in (*new, *same)}
    for _ in range(10 if bench.n < 100_000 else 100):
        for name, read in new.items():
            if name.startswith("iceoryx2"):
                ice.publish(n)
                taken[name].append(_round(read, n))
                while ice.subscriber.receive() is not None:
                    pass
                continue
            book.read(quote)
            bench.storm(0.002, 1e6)
            while not book.changed():
                pass
            taken[name].append(_round(read, n))
            bench.done()
        book.read(quote)
        ice.kept = ice.entry.get()
        for name, read in same.items():
            taken[name].append(_round(read, n))
    ice.close()
    values = {name: statistics.median(times) for name, times in taken.items()}
    for name, value in values.items():
        base = "top()" if name in new else "changed(), nothing new"
        report(name, value, f"{value / values[base]:.1f} x {base}")


def _round(read, n: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(n):
        read()
    return (time.perf_counter_ns() - start) / n


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
