"""Feeds of one simulator in processes of their own, each under its CompID with its journal and captures.

`python -m tests.recorder.sites` (`make upgrade`) rehearses an upgrade: an old feed, a new one at its side, the old one
stopped once the new one is live; then both captures are read as one, and compared with those of a third feed, which saw
all of it. A script reads every book from the two feeds meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import recorder
from kfix_md import attach
from kfix_md.errors import FeedError, KfixError
from recorder.catalog import Captures
from tests.feed.rig import ROOT, Venue

KFIX = [sys.executable, "-m", "kfix_md"]
CONTENT = ["side", "action", "price", "qty", "event_ns", "order_id", "order_text", "crc"]
SERVICE = """symbols = ["*"]
heartbeat_s = 2
retry_max_s = 0.5"""


class Site:
    """One feed."""

    def __init__(self, folder: Path, venue: Venue, name: str, services: tuple[str, ...], more: str = "") -> None:
        self.folder, self.name, self.services = folder / name, name, services
        self.memory = folder / "memory"  # of all feeds, as on one machine
        self.memory.mkdir(mode=0o700, exist_ok=True)
        self.folder.mkdir()
        self.config = self.folder / "feed.toml"
        ends = f'[recorder]\ndirectory = "captures"\n{more}'
        self.config.write_text(venue.toml(self.memory, name, services, service=SERVICE, journal=ends))
        with open(self.folder / "log", "w") as log:
            self._process = subprocess.Popen([*KFIX, "feed", str(self.config)], cwd=ROOT, stderr=log)

    def live(self, books: int, seconds: float = 60) -> None:
        """Wait until so many books are live."""
        for _ in range(int(seconds * 50)):
            with contextlib.suppress(FeedError):
                feed = attach(self.name, directory=self.memory)
                if sum(book.state.name in ("LIVE", "EMPTY") for book in feed.books()) >= books:
                    return
            time.sleep(0.02)
        raise AssertionError(f"{self.name}: {books} books are not live: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """End the feed in order."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=30)

    def kill(self) -> None:
        """End the feed without a word."""
        self._process.kill()
        self._process.wait(timeout=30)

    def captures(self) -> Path:
        """Record all of its journal."""
        command = [*KFIX, "record", str(self.config), "--once"]
        subprocess.run(command, check=True, cwd=ROOT, timeout=120, stdout=subprocess.DEVNULL)
        return self.folder / "captures"


class Reader(threading.Thread):
    """A script that reads every book from the first of several feeds that has a good copy, without a pause."""

    def __init__(self, site: Site, names: list[str]) -> None:
        super().__init__(daemon=True)
        self.feed = attach(names, directory=site.memory)
        self.readings = 0
        self.failed: list[str] = []
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        """Read until `end`."""
        books = self.feed.books()
        while not self._over.wait(0.001):
            for book in books:
                self.readings += 1
                try:
                    book.top()
                except KfixError as error:
                    self.failed.append(str(error))

    def end(self) -> dict[str, Any]:
        """Stop reading; what was seen."""
        self._over.set()
        self.join()
        serving = {self.feed.serving(book.symbol, book.level) for book in self.feed.books()}
        return {"readings": self.readings, "failed readings": self.failed, "served by at the end": sorted(serving)}


@contextlib.contextmanager
def sites(folder: Path, *options: str) -> Iterator[Any]:
    """A venue, and a function that starts a feed of it; all end with the block."""
    venue, started = Venue(folder / "venue", *options), []

    def start(name: str, services: tuple[str, ...] = ("spot-l2", "spot-l3"), more: str = "") -> Site:
        started.append(Site(folder, venue, name, services, more))
        return started[-1]

    try:
        yield venue, start
    finally:
        for site in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                site.stop()
        venue.close()


def messages(cap: Captures, symbol: str, level: str, start: int, end: int) -> list[tuple[Any, ...]]:
    """Content of every change and trade that the venue sent of a book between two exchange times, in order."""
    columns = [*CONTENT, "flags", "seq"]
    rows = cap.ticks(symbol, level=level, columns=columns).to_pylist()
    found = []
    for row in rows:
        if not row["flags"] & recorder.Flags.SNAPSHOT and start <= row["event_ns"] < end:
            found.append(tuple(row[name] for name in CONTENT))
    return found


def differences(merged: Captures, control: Captures, start: int, end: int) -> dict[str, int]:
    """Rows of the changes and trades of all books in the control, and how many are missing, in excess, out of order."""
    found: Counter[str] = Counter({"rows": 0, "missing": 0, "in excess": 0, "out of order": 0})
    for symbol in control.symbols():
        for level in sorted(set(control.ticks(symbol, level="both", columns=["level"])["level"].to_pylist())):
            expected = messages(control, symbol, level, start, end)
            seen = messages(merged, symbol, level, start, end)
            missing, excess = Counter(expected) - Counter(seen), Counter(seen) - Counter(expected)
            found["rows"] += len(expected)
            found["missing"] += missing.total()
            found["in excess"] += excess.total()
            found["out of order"] += seen != expected and not missing and not excess
    return dict(found)


def rehearse(folder: Path, symbols: int = 3, rate: int = 150, seconds: float = 3.0) -> dict[str, Any]:
    """An upgrade: what the merged captures of the old and the new feed lack of those of a feed that saw it all."""
    with sites(folder, "--symbols", str(symbols), "--rate", str(rate)) as (venue, start):
        control, old = start("control"), start("old")
        for site in (control, old):
            site.live(2 * symbols)
        time.sleep(0.5)
        reader = Reader(old, ["old", "new"])
        begin = time.time_ns()
        time.sleep(seconds)
        new = start("new")
        new.live(2 * symbols)
        time.sleep(seconds / 3)
        old.stop()
        time.sleep(seconds)
        end = time.time_ns()
        readings = reader.end()
        time.sleep(0.5)
        venue("pause")
        for site in (new, control):
            site.stop()
        roots = [site.captures() for site in (old, new)]
        whole = recorder.open(control.captures())
    merged = recorder.open(roots)
    rows = [row for row in merged.coverage().to_pylist() if (row["to_ns"] or end) > begin and row["from_ns"] < end]
    times = [begin + i * (end - begin) // 20 for i in range(20)]
    return {
        "symbols": len(whole.symbols()),
        **readings,
        **differences(merged, whole, begin, end),
        "missing in the old alone": differences(recorder.open(roots[0]), whole, begin, end)["missing"],
        "missing in the new alone": differences(recorder.open(roots[1]), whole, begin, end)["missing"],
        "read from": sorted({row["feed"] for row in rows}),
        "not trusted": sum(not row["trusted"] for row in rows)
        + sum(not merged.book(symbol, at).trusted for symbol in whole.symbols() for at in times),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = rehearse(Path(folder), options.symbols, options.rate, options.seconds)
    print(json.dumps(report, indent=1))
    wrong = ("missing", "in excess", "out of order", "not trusted", "failed readings")
    return 1 if any(report[name] for name in wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
