"""A feed in a process of its own, publishing without end, to be killed: NAME DIRECTORY HEARTBEAT_MS [MODE]."""

import sys

from kfix_md.shm.writer import SegmentWriter
from tests.shm._stress import ManualBook


def main() -> None:
    name, directory, heartbeat_ms = sys.argv[1:4]
    mode = int(sys.argv[4], 8) if len(sys.argv) > 4 else 0o600
    writer = SegmentWriter(name, directory, mode, capacity=8, heartbeat_ns=int(heartbeat_ms) * 1_000_000)
    book = ManualBook(writer, writer.add_symbol("BTC/USD", 2, 1, 8))
    book.fill([(1000 - i, 1) for i in range(20)], [(2000 + i, 1) for i in range(20)])
    book.storm(0.001, levels=12)
    writer.heartbeat()
    print("ready", flush=True)
    while True:
        book.storm(0.02, 200_000, levels=12, stamp=True)
        writer.heartbeat()


main()
