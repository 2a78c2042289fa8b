"""Past one machine, on loopback: `python -m tests.scale.demo` (`make demo-scale`).

Two feeds of one simulator ship their journals through a NATS broker to two mirrors, and their captures become Delta
tables on an S3 server (in a directory where moto is not installed). A script reads every book from both feeds. One feed
is killed, the broker and a mirror are killed and started again. Then replicas are compared byte for byte, what they
record and prove with what their sources do, and the lake with the captures. Exit status 1 when anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import polars as pl
from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table

from kfix_md import attach
from tests.feed.rig import ROOT
from tests.lake import rows, server
from tests.recorder.sites import KFIX, Reader, Site, sites
from tests.ship.rig import Broker, dead, segment_bytes

NAMES = ("a", "b")
SERVICES = ("spot-l2", "spot-l3")
#: a reader notices a dead feed within its heartbeat
SWITCH_S = 3.0
SHIP = """[ship]
url = "{url}"
mirrors = ["mirror"]
stream_gb = 0.5
"""
MIRROR = """[mirror]
url = "{url}"
feed = "{feed}"
directory = "journal"
publish = "{feed}-copy"
sync_ms = 50
"""


@dataclass
class Check:
    """What has to hold, what was seen, and whether that is so."""

    what: str
    seen: str
    good: bool


@dataclass
class Show:
    """Prints what happens, and keeps what was checked."""

    console: Console
    began: float = field(default_factory=time.monotonic)
    checks: list[Check] = field(default_factory=list)

    def step(self, text: str) -> None:
        self.console.print(f"{time.monotonic() - self.began:6.1f} s  {text}", highlight=False, soft_wrap=True)

    def check(self, what: str, seen: Any, good: bool) -> None:
        self.checks.append(Check(what, str(seen), good))

    def summary(self) -> int:
        """Print a table; 1 when a check failed."""
        table = Table("", "what", "seen")
        for one in self.checks:
            table.add_row("[green]ok[/]" if one.good else "[red]WRONG[/]", one.what, one.seen)
        self.console.print(table)
        return 0 if all(one.good for one in self.checks) else 1


class Processes:
    """Shippers and mirrors by name; they can be killed and started again."""

    def __init__(self, folder: Path, memory: Path) -> None:
        self._folder = folder
        self._environment = {**os.environ, "KFIX_SHM_DIR": str(memory)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, command: str, config: Path) -> None:
        name = f"{command} {config.parent.name}"
        with open(self._folder / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(
                [*KFIX, command, str(config)], cwd=ROOT, env=self._environment, stderr=log
            )

    def kill(self, command: str, config: Path) -> None:
        dead(self._running.pop(f"{command} {config.parent.name}"))

    def close(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)


def until(what: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it comes within so many seconds."""
    deadline = time.monotonic() + seconds
    while not (come := what()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return come


def equal(site: Site, replica: Path) -> bool:
    return segment_bytes(site.folder / "journal") == segment_bytes(replica)


def proof(config: Path) -> dict[str, Any]:
    """Record a journal, prove the captures, and return the proof."""
    subprocess.run([*KFIX, "record", str(config), "--once"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    done = subprocess.run([*KFIX, "verify", str(config), "--json"], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return {name: value for name, value in found.items() if name != "seconds"}


@contextlib.contextmanager
def lake(folder: Path, show: Show) -> Iterator[str]:
    """URL of an empty lake."""
    if server.command() is None:
        show.step("the lake is a directory: moto is not installed (pip install 'moto[server]', or KFIX_MOTO_SERVER)")
        yield str(folder / "lake")
        return
    with server.running(folder) as one, mock.patch.dict(os.environ, one.variables):
        yield f"s3://{server.BUCKET}/kraken"


def count(url: str) -> dict[str, int]:
    """Rows of ticks, as three readers count them."""
    table = DeltaTable(f"{url}/ticks")
    whole = table.to_pyarrow_dataset()
    found = duckdb.connect().execute("SELECT count(*) FROM whole").fetchone()
    return {
        "pyarrow": whole.count_rows(),
        "polars": pl.scan_delta(table).select(pl.len()).collect().item(),
        "duckdb": found[0] if found else -1,
    }


def disturb(show: Show, broker: Broker, processes: Processes, first: Site, mirror: Path, reader: Reader) -> int:
    """Kill a feed, the broker and a mirror; how many readings had failed when the reader had moved."""
    show.step("feed a is killed (kill -9)")
    first.kill()
    time.sleep(SWITCH_S)
    failed = len(reader.failed)
    show.step("the broker is killed")
    broker.kill()
    time.sleep(2)
    broker.start()
    show.step("the broker is started again")
    time.sleep(2)
    show.step("a mirror is killed")
    processes.kill("mirror", mirror)
    time.sleep(2)
    processes.start("mirror", mirror)
    show.step("the mirror is started again")
    time.sleep(3)
    return failed


def check_lake(show: Show, folder: Path, captures: dict[str, Path]) -> None:
    """Push the captures of all feeds into one lake, and compare."""
    with lake(folder, show) as url:
        for name, root in captures.items():
            done = rows.push(root, url)
            show.step(f"captures of {name} pushed to {url}: {done.rows} rows in {done.commits} commits")
        wrong = []
        for name, root in captures.items():
            try:
                rows.same(root, url, name)
            except AssertionError as error:
                wrong.append(f"{name}: {error}")
        show.check("every table of the lake has the rows of the captures", ", ".join(wrong) or "equal", not wrong)
        local, seen = sum(rows.local_rows(root, "ticks").num_rows for root in captures.values()), count(url)
        text = ", ".join(f"{name} {number:,}" for name, number in seen.items())
        show.check(f"ticks in one Delta table ({local:,} in the captures)", text, set(seen.values()) == {local})


def play(show: Show, folder: Path, symbols: int, rate: int, seconds: float) -> None:
    """Run all of it."""
    broker = Broker(folder)
    ship = SHIP.format(url=broker.url)
    try:
        with sites(folder, "--symbols", str(symbols), "--rate", str(rate)) as (venue, start):
            found = {name: start(name, SERVICES, more=ship) for name in NAMES}
            processes = Processes(folder, found["a"].memory)
            replicas = {name: folder / f"replica-{name}" for name in NAMES}
            mirrors = {name: path / "mirror.toml" for name, path in replicas.items()}
            try:
                for name, site in found.items():
                    site.live(2 * symbols)
                    processes.start("ship", site.config)
                    replicas[name].mkdir()
                    mirrors[name].write_text(MIRROR.format(url=broker.url, feed=name))
                    (replicas[name] / "feed.toml").write_text(site.config.read_text())
                    processes.start("mirror", mirrors[name])
                show.step(
                    f"two feeds are live: {symbols} symbols, L2 and L3, {rate} messages a second; both are shipped"
                )
                reader = Reader(found["a"], list(NAMES))
                time.sleep(seconds)
                moved = disturb(show, broker, processes, found["a"], mirrors["b"], reader)
                time.sleep(seconds)
                copied = attach("b-copy", directory=found["b"].memory)
                live = until(lambda: all(book.state.name in ("LIVE", "EMPTY") for book in copied.books()), 30)
                states = sorted({book.state.name for book in copied.books()})
                show.check("books of the replica of b are live", ", ".join(states), live)
                readings = reader.end()
                failed = len(readings["failed readings"])
                show.check("readings by a script of both feeds", f"{readings['readings']:,}", readings["readings"] > 0)
                show.check("failed readings until it had moved to b", moved, True)
                show.check("failed readings after that", failed - moved, failed == moved)
                served = readings["served by at the end"]
                show.check("feed that serves it at the end", ", ".join(served), served == ["b"])
                venue("pause")
                found["b"].stop()
                for name, site in found.items():
                    same = until(lambda site=site, name=name: equal(site, replicas[name] / "journal"))
                    size = sum(map(len, segment_bytes(site.folder / "journal").values()))
                    show.check(
                        f"replica of {name}, byte for byte ({size / 1e6:.1f} MB)", "equal" if same else "differs", same
                    )
                show.step("replicas are compared")
            finally:
                processes.close()
            for name, site in found.items():
                ours, theirs = proof(site.config), proof(replicas[name] / "feed.toml")
                show.check(f"proof of what {name} recorded", f"{ours['ok']:,} checksums", bool(ours["holds"]))
                show.check(f"proof of what the replica of {name} recorded", "the same", ours == theirs)
            show.step("both journals and both replicas are recorded and proven")
            check_lake(show, folder, {name: site.folder / "captures" for name, site in found.items()})
    finally:
        broker.close()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=5)
    parser.add_argument("--rate", type=int, default=300)
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="of undisturbed messages before and after the faults"
    )
    options = parser.parse_args()
    show = Show(Console())
    with tempfile.TemporaryDirectory() as folder:
        play(show, Path(folder), options.symbols, options.rate, options.seconds)
    show.step("done")
    return show.summary()


if __name__ == "__main__":
    sys.exit(main())
