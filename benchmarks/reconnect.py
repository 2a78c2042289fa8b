"""Our own CPU time from a venue's first byte to all books live, and from a lost message to its replay applied.

python -m benchmarks.reconnect [--symbols 1000] [--rounds 7] [--read-bytes 65536] [--json]

The venue's frames are rendered outside the timed parts and given to a whole service (session, subscriptions, handler,
journal, shared memory) without sockets, in reads of 64 KiB or --read-bytes (a venue that sends slowly brings each
snapshot in a read of its own: 1500): what is measured is ours alone. The floor is a fresh
Handler over the same frames in one piece. `benchmarks.recovery` has the same over TLS against the simulator.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

from kfix_md import Handler
from kfix_md._entry import State
from kfix_md.config import ServiceSection
from kfix_md.feed.service import Service
from kfix_md.journal.writer import JournalWriter
from kfix_md.session import fix
from kfix_md.shm.writer import SegmentWriter

SECOND = 1_000_000_000
GOALS = {"reconnect": 0.08, "gap, replayed": 0.005}  # ms a symbol


class Bench:
    """A service, and the frames that a venue would send it."""

    def __init__(self, folder: Path, symbols: int, read_bytes: int = 65_536) -> None:
        self.read_bytes = read_bytes
        self.symbols = [f"S{n:04d}/USD" for n in range(symbols)]
        self.now, self.seq, self.spent = time.time_ns(), 0, 0
        self.received: list[bytes] = []
        pace = min(10 * symbols, 10_000)  # the most that a configuration allows
        section = ServiceSection(name="spot-l2", sender_comp_id="BENCH", symbols=["*"], batch=pace, requests_per_s=pace)
        journal = JournalWriter(folder / "journal")
        segment = SegmentWriter("bench", folder, capacity=symbols + 1)
        self.service = Service(section, 0, start_ns=self.now, journal=journal, publisher=segment)

    def frame(self, kind: str, body: fix.Body, seq: int | None = None, possdup: bool = False) -> bytes:
        """A frame of the venue."""
        if seq is None:
            self.seq += 1
            seq = self.seq
        again: fix.Body = [(43, "Y"), (122, fix.time_text(self.now))] if possdup else []
        section = self.service.section
        return fix.encode(kind, seq, str(section.target_comp_id), section.sender_comp_id, self.now, [*again, *body])

    def give(self, data: bytes) -> None:
        """Bytes of the venue in reads; the time they take counts."""
        self.received.append(data)
        handler = self.service.handler
        for at in range(0, len(data), self.read_bytes):
            piece = data[at : at + self.read_bytes]
            began = time.process_time_ns()
            handler.get_buffer(len(piece))[: len(piece)] = piece
            self.service.received(len(piece), self.now)
            self.spent += time.process_time_ns() - began

    def tick(self) -> bytes:
        """Time passes; returns what the service sends. Both count."""
        self.now += 20_000_000
        began = time.process_time_ns()
        self.service.tick(self.now)
        sent = self.service.output()
        self.spent += time.process_time_ns() - began
        return sent

    def connect(self) -> float:
        """Log on and bring every book back; milliseconds of ours."""
        self.seq, self.spent, self.received = 0, 0, []
        self.service.connected(self.now)
        self.service.output()
        self.give(self.frame("A", [(98, 0), (108, 30), (141, "Y")]))
        rows: fix.Body = []
        for symbol in self.symbols:
            rows += [(55, symbol), (5010, 8), (2349, 1), (5032, 1)]
        request = _requests(self.tick(), b"x", 320)[""]
        self.give(self.frame("y", [(320, request), (322, "r"), (560, 0), (146, len(self.symbols)), *rows]))
        self.requests = _requests(self.tick(), b"V", 262)
        self.give(b"".join(self.snapshot(symbol) for symbol in self.symbols))
        self.tick()
        self.check()
        return self.spent / 1e6

    def body(self, symbol: str, kind: str) -> fix.Body:
        """The entries of a W (ten levels a side) or X (one), without 5041: the check's cost is measured elsewhere."""
        rows = [(side, 100 + (n + 1) * (1 if side else -1)) for n in range(10) for side in (0, 1)]
        entries: fix.Body = []
        for side, price in rows if kind == "W" else rows[:1]:
            entries += [] if kind == "W" else [(279, 1)]
            entries += [(269, side), (278, f"{'BO'[side]}{price}.0"), (270, f"{price}.0"), (271, "1.00000000")]
            entries += [(273, "12:00:00.000")]
        count = len(rows) if kind == "W" else 1
        return [(55, symbol), (262, self.requests[symbol]), (268, count), *entries]

    def snapshot(self, symbol: str) -> bytes:
        """35=W of a symbol."""
        return self.frame("W", self.body(symbol, "W"))

    def gap(self) -> float:
        """One message lost, ten after it, its replay; milliseconds of ours from the first that shows the loss."""
        bodies = [self.body(symbol, "X") for symbol in self.symbols[:11]]
        first = self.seq + 1
        frames = [self.frame("X", body) for body in bodies]
        self.spent = 0
        self.give(b"".join(frames[1:]))
        self.service.output()
        replay = [self.frame("X", body, first + n, possdup=True) for n, body in enumerate(bodies)]
        self.give(b"".join(replay))
        self.check()
        return self.spent / 1e6

    def check(self) -> None:
        """Every book is live."""
        live = self.service.states[State.LIVE]
        if live != len(self.symbols):
            raise RuntimeError(f"{live} of {len(self.symbols)} books are live")

    def floor(self) -> float:
        """Milliseconds of a Handler alone for the same frames."""
        handler, data = Handler(level="L2"), b"".join(self.received)
        began = time.process_time_ns()
        handler.on_bytes(data)
        return (time.process_time_ns() - began) / 1e6


def _requests(sent: bytes, kind: bytes, tag: int) -> dict[str, str]:
    """Id of each request of a type by its symbol ("" where it has none)."""
    found = {}
    for message in sent.split(b"8=FIX.4.4\x01")[1:]:
        fields = dict(part.split(b"=", 1) for part in message.split(b"\x01")[:-1])
        if fields[b"35"] == kind and fields.get(b"263") != b"2":
            found[fields.get(b"55", b"").decode()] = fields[b"%d" % tag].decode()
    return found


def measure(symbols: int, rounds: int, read_bytes: int = 65_536) -> list[dict[str, object]]:
    """Rows of medians over `rounds`."""
    times: dict[str, list[float]] = {name: [] for name in GOALS}
    floors = []
    with tempfile.TemporaryDirectory(prefix="kfix-reconnect-") as folder:
        bench = Bench(Path(folder), symbols, read_bytes)
        bench.connect()
        for _ in range(rounds):
            bench.service.disconnected(bench.now, "fin")
            bench.now += SECOND
            times["reconnect"].append(bench.connect())
            floors.append(bench.floor())
            times["gap, replayed"].append(bench.gap())
    rows: list[dict[str, object]] = []
    for name, values in times.items():
        ms = statistics.median(values)
        goal = GOALS[name] * symbols
        rows.append({"what": name, "ms": ms, "worst_ms": max(values), "goal_ms": goal, "met": ms <= goal})
    rows[0]["floor_ms"] = statistics.median(floors)
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reconnect")
    parser.add_argument("--symbols", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--read-bytes", type=int, default=65_536)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rows = measure(options.symbols, options.rounds, options.read_bytes)
    if options.json:
        print(json.dumps({"symbols": options.symbols, "rows": rows}, indent=1))
        return
    print(f"{options.symbols} symbols, spot L2, CPU milliseconds of ours, medians of {options.rounds}")
    for row in rows:
        floor = f"   floor {row['floor_ms']:.1f}" if "floor_ms" in row else ""
        print(f"  {row['what']:<16} {row['ms']:8.2f}   worst {row['worst_ms']:8.2f}   goal {row['goal_ms']:.0f}{floor}")


if __name__ == "__main__":
    main()
