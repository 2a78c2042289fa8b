"""What replication costs: records a second of one core for `kfix ship` and `kfix mirror`, and the latency that
both and a broker on loopback add to a record. `python -m benchmarks.replicate [--records N]`; needs nats-server."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from kfix_md.journal.writer import JournalWriter
from tests.ship.crashes import start
from tests.ship.rig import START_NS, Broker, Ends, segment_bytes
from tests.ship.test_commands import config

BODY = 250  # bytes of a record, as an incremental of L3


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process that has ended or is about to."""
    _, _, used = os.wait4(process.pid, 0)
    return used.ru_utime + used.ru_stime


def throughput(records: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Broker(folder)
        here = config(folder, broker.url)
        with JournalWriter(folder / "journal") as journal:
            journal.frame(0, START_NS, bytes(BODY))
            base = cpu_s(subprocess.Popen([*command("ship"), str(here), "--once"]))
            for i in range(records):
                journal.frame(0, START_NS + i, bytes(BODY))
        used = cpu_s(subprocess.Popen([*command("ship"), str(here), "--once"])) - base
        print(f"ship:   {records / used:12,.0f} records/s of one core, {records * BODY / used / 1e6:.0f} MB/s")
        mirror = start("mirror", here)
        deadline = time.monotonic() + 300
        while names(folder / "replica") != names(folder / "journal") and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(2)  # the newest segment
        assert segment_bytes(folder / "replica") == segment_bytes(folder / "journal")
        mirror.send_signal(signal.SIGTERM)
        used = cpu_s(mirror) - base
        print(f"mirror: {records / used:12,.0f} records/s of one core, {records * BODY / used / 1e6:.0f} MB/s")
        broker.close()


def names(journal: Path) -> list[str]:
    return sorted(path.name for path in journal.glob("2*.kfj"))


def command(name: str) -> list[str]:
    import sys

    return [sys.executable, "-m", "kfix_md", name]


async def latency(folder: Path, seconds: float) -> None:
    broker = Broker(folder)
    (folder / "source").mkdir()
    ends = Ends(broker, folder / "source", folder / "copy")
    taken = []
    with JournalWriter(ends.source) as journal:
        shipper, mirror = ends.shipper(), ends.mirror()
        ends.start(shipper)
        ends.start(mirror)
        journal.frame(0, START_NS, bytes(BODY))
        await ends.until(lambda: mirror.replica.position == journal.position)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = time.perf_counter_ns()
            journal.frame(0, START_NS, bytes(BODY))
            while mirror.replica.position != journal.position:
                await asyncio.sleep(0)
            taken.append(time.perf_counter_ns() - before)
            await asyncio.sleep(0.002)
        await ends.end(shipper, mirror)
    broker.close()
    p50, p99 = np.percentile(taken, [50, 99]) / 1e6
    print(f"latency of {len(taken)} records, commit to commit: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    throughput(args.records)
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(latency(Path(name), args.seconds))


if __name__ == "__main__":
    main()
