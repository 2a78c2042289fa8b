"""How long books are not to be trusted: gaps, reconnects and the rollover, with many symbols, compared with the floor.

python -m benchmarks.recovery [--symbols 1000] [--rounds 5] [--json]

A venue simulator runs in a process of its own, the feed in this one, over TLS on loopback. The floor of a row is one
round trip plus decoding, applying and checking everything that was sent for the recovery (the journaled frames,
put through a fresh Handler in this process).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from kfix_md import config
from kfix_md._entry import State
from kfix_md._handler import Handler
from kfix_md.feed.process import FeedProcess
from kfix_md.journal.reader import JournalReader
from kfix_md.simulator.control import Control


class Bench:
    """One venue, one feed of one service, and the events between them."""

    def __init__(self, folder: Path, symbols: int, rounds: int) -> None:
        self.folder, self.symbols, self.rounds = folder, symbols, rounds
        self.rows: list[dict[str, Any]] = []
        command = [
            sys.executable,
            "-m",
            "kfix_md",
            "simulate",
            "--symbols",
            str(symbols),
            "--rate",
            "200",
            "--port-base",
            "0",
            "--tls-dir",
            str(folder / "tls"),
            "--control",
            str(folder / "ctl"),
        ]
        self.venue = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        ready = json.loads(self.venue.stdout.readline()) if self.venue.stdout else {}
        self.control = Control(folder / "ctl", timeout=60)
        # the whole run is inside the window in which a lost connection is planned
        at = time.strftime("%H:%M:%S", time.gmtime(time.time()))
        (folder / "feed.toml").write_text(
            f'[feed]\nname = "recovery"\ndirectory = "{folder}"\nrollover = "{at}"\n[journal]\ndirectory = "journal"\n'
            f'[[service]]\nname = "spot-l2"\nhost = "localhost"\nport = {ready["ports"]["spot-l2"]}\n'
            f'tls_ca = {json.dumps(str(ready["ca"]))}\nsender_comp_id = "BENCH"\nsymbols = ["*"]\n'
        )

    def close(self) -> None:
        """End the venue."""
        self.control.close()
        self.venue.terminate()
        self.venue.communicate()

    async def run(self) -> None:
        """Every kind of recovery, `rounds` times."""
        self.feed = FeedProcess(config.load(self.folder / "feed.toml"))
        serving = asyncio.create_task(self.feed.run())
        self.service = self.feed.services[0]
        await self.good(60)
        trip = await self.round_trip()
        kinds = [
            ("gap, replayed", lambda: self.control("gap", count=3, answer="replay")),
            ("gap, every book subscribed again", lambda: self.control("gap", count=3, answer="gapfill")),
            ("wrong 5041 of one symbol", lambda: self.control("crc", symbol="BTC/USD", level="L2")),
            ("connection closed", lambda: self.control("drop", how="fin")),
            ("rollover, logons refused for 1 s", lambda: self.control("rollover", form="logout", refuse=1.0)),
        ]
        for name, act in kinds:
            seconds, frames = [], []
            for _ in range(self.rounds):
                took, sent = await self.once(act)
                seconds.append(took)
                frames.append(sent)
            self.rows.append(
                {
                    "what": name,
                    "ms": statistics.median(seconds) * 1e3,
                    "worst_ms": max(seconds) * 1e3,
                    "floor_ms": trip * 1e3 + statistics.median(map(decode_ms, frames)),
                }
            )
        self.feed.stop()
        await serving

    async def good(self, seconds: float) -> None:
        """Wait until every book is live and verified."""
        for _ in range(int(seconds * 1000)):
            states = self.service.states
            if (
                self.service.session.ready
                and states[State.LIVE] + states[State.EMPTY] == self.symbols
                and not self.service.open_gaps()
            ):
                return
            await asyncio.sleep(0.001)
        raise RuntimeError("the books did not come back")

    async def round_trip(self) -> float:
        """Seconds from a request (35=g) to its answer, the median of some."""
        times = []
        for n in range(20):
            self.control("pause")
            await asyncio.sleep(0.05)
            seen = self.service.handler.stats["messages"]
            started = time.perf_counter()
            body = [(335, f"T{n}"), (336, "SESSION"), (263, 0)]
            self.service.session.send("g", body, time.time_ns())
            self.feed.connectors[0]._protocol.flush()  # type: ignore[union-attr]
            while self.service.handler.stats["messages"] == seen:
                await asyncio.sleep(0)
            times.append(time.perf_counter() - started)
        self.control("resume")
        return statistics.median(times)

    async def once(self, act: Any) -> tuple[float, list[bytes]]:
        """(seconds from the first doubt to the last good book, frames received in between)."""
        healed = len(self.service.healed)
        for sub in self.service.subs.all.values():
            sub.failures = 0  # a benchmark repeats itself; patience is measured elsewhere
        position = self.feed.recording.journal.position
        act()
        while len(self.service.healed) == healed:
            await asyncio.sleep(0.001)
        await self.good(60)
        seconds = max(took for _, _, took in self.service.healed[healed:])
        reader = JournalReader(self.folder / "journal", position)
        frames = [bytes(body) for _, kind, _, _, _, body in reader if kind == 1]
        await asyncio.sleep(0.3)
        return seconds, frames


def decode_ms(frames: list[bytes]) -> float:
    """Milliseconds to take these frames in, in one piece."""
    handler, data = Handler(level="L2"), b"".join(frames)
    started = time.perf_counter()
    handler.on_bytes(data)
    return (time.perf_counter() - started) * 1e3


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery")
    parser.add_argument("--symbols", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="kfix-recovery-") as folder:
        bench = Bench(Path(folder), options.symbols, options.rounds)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(bench.run())
        finally:
            bench.close()
    if options.json:
        print(json.dumps({"symbols": options.symbols, "rows": bench.rows}, indent=1))
        return
    print(f"{options.symbols} symbols, spot L2, medians of {options.rounds}; milliseconds")
    for row in bench.rows:
        print(f"  {row['what']:<34} {row['ms']:9.1f}   worst {row['worst_ms']:9.1f}   floor {row['floor_ms']:7.1f}")


if __name__ == "__main__":
    main()
