"""Days of a feed at random, sampled by a reader of its shared memory and compared with what its captures say of trust.

`python -m tests.recorder.trust_days --samples 1e6` (`make trust`): faults of the venue, subscriptions that change
(SIGHUP), rollovers, late messages, killed feeds and recorders, one session or a hot pair of two; without I/O but for
journal, shared memory and captures. Exit status 1 when a sample differs.

A feed is killed just after a record: how long it lived after its last one no journal can show.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import recorder
from kfix_md import attach
from kfix_md._state import TRUSTED
from kfix_md.feed.pair import Pair
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from kfix_md.shm.writer import SegmentWriter
from recorder.catalog import Captures
from recorder.process import Recorder
from tests.feed.offline import MS, SECOND, Offline
from tests.feed.test_states import KINDS
from tests.recorder import build
from tests.session.peer import NOON, TEN_PM, frame

SYMBOLS = [f"{name}/USD" for name in "ABCDEF"]
STEP = 0.05  # seconds
DEPTH_STEP = "20ms"
SERVICE = "spot-l2"
GOOD = [int(state) for state in TRUSTED]


class Lane(Offline):
    """One session of the feed of a `World`: time passes for all of them together."""

    def __init__(self, world: World, number: int, standby_for: int) -> None:
        self.world = world
        self.qty: dict[str, int] = {}
        wiring = {"journal": world.journal, "publisher": world.segment, "standby_for": standby_for}
        super().__init__(
            *SYMBOLS, start=world.now, number=number, wiring=wiring, sender_comp_id=f"C{number}", name=SERVICE
        )
        self.latency = 130 * MS
        self.up = False

    def frame(self, kind, *body, **header):
        header.setdefault("target", self.service.section.sender_comp_id)
        return super().frame(kind, *body, **header)

    def wait(self, seconds, step=STEP):
        self.world.wait(seconds)
        return self

    def pass_to(self, now: int) -> None:
        """Time passes up to `now`."""
        Offline.wait(self, (now - self.now) / SECOND, (now - self.now) / SECOND)

    def connect(self):
        self.up = True
        return super().connect()

    def lose(self, reason="fin"):
        self.up = False
        return super().lose(reason)

    def late(self) -> None:
        """A message that was sent long ago: readers do not trust the books until one comes in time."""
        self.seq += 1
        self.bytes(frame("0", self.seq, self.now - 20 * SECOND, target=self.service.section.sender_comp_id))


class World:
    """A feed with one session or a hot pair, its journal and shared memory, and a reader who notes what it sees."""

    def __init__(self, folder: Path, seed: int, sessions: int, start: int = NOON) -> None:
        self.folder, self.rng, self.sessions, self.now = folder, random.Random(seed), sessions, start
        self.settings = build.settings(folder, flush_rows=400, checkpoint_rows=300)
        self.times: list[int] = []
        self.seen: list[list[bool]] = []  # by time and symbol
        self.done: Counter[str] = Counter()
        self.symbols = ["*"]
        self.begin()

    def begin(self) -> None:
        """A feed process starts."""
        self.journal = JournalWriter(self.folder / "journal", segment_bytes=1 << 20)
        self.segment = SegmentWriter("trust", str(self.folder), capacity=64, depth=10, orders=64, trades=16)
        self.reader = attach(path=self.segment.path)
        self.journal.event(0, self.now, events.Started("0", 1, "trust"))
        pair = self.sessions > 1
        self.lanes = [Lane(self, number, 0 if pair else -1) for number in range(self.sessions)]
        self.pair = Pair([lane.service for lane in self.lanes]) if pair else None
        for lane in self.lanes:
            lane.service.section.symbols[:] = self.symbols
            lane.service.announce(self.now)
        for lane in self.lanes:
            lane.connect()
        self.sample()

    def kill(self) -> None:
        """The feed process dies without a word, and another one starts later."""
        for symbol in SYMBOLS:
            self.trade(symbol)
        self.journal.close()
        self.segment.close()
        self.lanes = []
        self.wait(self.rng.uniform(0.1, 8))
        self.begin()

    def wait(self, seconds: float) -> None:
        """Time passes for all, with changes of books."""
        self.sample()  # after what happened at this very time
        until = self.now + int(seconds * SECOND)
        while self.now < until:
            self.now = min(until, self.now + int(STEP * SECOND))
            for lane in self.lanes:
                lane.pass_to(self.now)
            if self.pair is not None and self.lanes:
                self.pair.tick(self.now)
            if self.rng.random() < 0.3:
                self.trade(self.rng.choice(SYMBOLS))
            self.sample()

    def trade(self, symbol: str) -> None:
        """One book changes at the venue: each session that follows it is sent the change."""
        qty = self.rng.randrange(1, 99)
        for lane in self.lanes:
            if lane.up and symbol in lane.requests:
                lane.update(symbol, str(qty))

    def sample(self) -> None:
        """Note which books readers trust now; what was noted of this very time before is forgotten."""
        if self.times and self.times[-1] == self.now:
            self.times.pop()
            self.seen.pop()
        self.times.append(self.now)
        trusted: set[str] = set()
        if self.lanes:
            rows = self.reader.snapshot(allow_stale=True)
            trusted = set(rows["symbol"][np.isin(rows["state"], GOOD)].tolist())
        self.seen.append([symbol in trusted for symbol in SYMBOLS])

    # ---- what happens ----

    def happen(self) -> None:
        """Something, at random."""
        rng, lane = self.rng, self.rng.choice(self.lanes)
        what = rng.choice(["fault", "fault", "fault", "hangup", "lose", "late", "kill", "record", "quiet"])
        self.done[what] += 1
        if what == "fault":
            kind = rng.choice(KINDS)
            self.done[kind.__name__] += 1
            if lane.up and all(symbol in lane.requests for symbol in SYMBOLS[:2]):
                with contextlib.suppress(KeyError):  # the symbols are other ones after a reconnect
                    kind(lane)
        elif what == "hangup":
            self.symbols = rng.choice([["*"], SYMBOLS[:2], rng.sample(SYMBOLS, 3)])
            for one in self.lanes:
                section = one.service.section.model_copy(update={"symbols": list(self.symbols)})
                one.service.reload(section, self.now)
                one.service.section.symbols[:] = self.symbols
        elif what == "lose" and lane.up:
            lane.lose()
            self.wait(rng.uniform(0, 3))
            lane.connect()
        elif what == "late" and lane.up:
            lane.late()
            self.wait(rng.uniform(0, 2))
            lane.give("0")
        elif what == "kill":
            self.kill()
        elif what == "record":
            self.record(kill=True)
        self.wait(rng.expovariate(1 / 6))
        self.restore()

    def restore(self) -> None:
        """The venue answers again, and sessions that it has ended are on."""
        for lane in self.lanes:
            lane.mute.clear()
            if not lane.up or lane.service.close_reason is not None or not lane.service.session.ready:
                if lane.up:
                    lane.lose()
                lane.trading, lane.status = 2, dict.fromkeys(SYMBOLS, 1)
                lane.connect()

    def record(self, kill: bool) -> None:
        """A recorder runs for a while and is killed, or ends when all is recorded."""
        running = Recorder(self.settings)
        try:
            if not kill:
                running.once()
            for _ in range(self.rng.randrange(4) if kill else 0):
                running.tail.read(self.rng.randrange(1, 300), self.rng.randrange(50, 3000))
                if self.rng.random() < 0.7:
                    running.flush()
        finally:
            running.writer.close()  # whatever was read since the last flush is gone

    # ---- what the captures say ----

    def compare(self, books: int) -> tuple[Counter[str], list[str]]:
        """(samples by what they are of, where captures say otherwise); `books`: samples at which `book()` is asked."""
        self.journal.close()
        self.segment.close()
        self.record(kill=False)
        cap = recorder.open(self.folder / "captures")
        counts: Counter[str] = Counter()
        wrong: list[str] = []
        times = np.array(self.times)
        until = Captures(self.folder / "captures")._files.recorded_until()
        known = times < min(self.now, until + 1)  # of later times the captures say nothing
        for at, symbol in enumerate(SYMBOLS):
            seen = np.array([row[at] for row in self.seen])
            coverage = cap.coverage(symbol=symbol)
            said = {"coverage()": _then(coverage["from_ns"], coverage["trusted"], times)}
            recorded = symbol in cap.symbols()
            if recorded:
                best = cap.bbo(symbol)
                said["bbo()"] = _then(best["recv_ns"], best["trusted"], times)
            counts["samples"] += int(known.sum())
            counts["trusted"] += int((known & seen).sum())
            for who, trusted in said.items():
                for i in np.flatnonzero(known & (trusted != seen))[:3]:
                    wrong.append(f"{symbol} at {times[i]}: readers {seen[i]}, {who} {trusted[i]}")
                counts["differ"] += int((known & (trusted != seen)).sum())
            if not recorded:  # it is an error then to ask for its books
                counts["differ"] += int(seen.sum())
                continue
            sampled = cap.depth(symbol, int(times[0]), int(times[-1]), every=DEPTH_STEP, levels=1)
            grid, trusted = sampled["time_ns"].to_numpy(), sampled["trusted"].to_numpy()
            expected = _then(coverage["from_ns"], coverage["trusted"], grid)  # which is compared with readers above
            unlike = np.flatnonzero((trusted != expected) & (grid < min(self.now, until + 1)))
            counts["depth()"] += len(grid)
            counts["differ"] += len(unlike)
            for i in unlike[:3].tolist():
                found = sampled["cause"][i].as_py() or "trusted"
                wrong.append(f"{symbol} at {grid[i]}: coverage() {expected[i]}, depth() {found}")
            for i in self.rng.sample(range(len(times)), books // len(SYMBOLS)):
                if known[i]:
                    counts["book()"] += 1
                    found = cap.book(symbol, int(times[i]))
                    if found.trusted != seen[i]:
                        counts["differ"] += 1
                        wrong.append(f"{symbol} at {times[i]}: readers {seen[i]}, book() {found.reason or 'trusted'}")
        return counts, wrong


def _then(begins, trusted, times: np.ndarray) -> np.ndarray:
    """Whether the last row that begins at or before each time is trusted."""
    row = np.searchsorted(np.maximum.accumulate(begins.to_numpy()), times, "right") - 1
    values = np.append(trusted.fill_null(False).to_numpy(), False)
    return np.where(row < 0, False, values[row])


def run(folder: Path, seed: int, samples: float, books: int) -> tuple[Counter[str], list[str]]:
    """One random day with about so many samples."""
    rng = random.Random(seed)
    start = TEN_PM - 40 * SECOND if seed % 3 == 2 else NOON
    world = World(folder, seed, 1 + seed % 2, start)
    while len(world.times) * len(SYMBOLS) < samples:
        world.happen()
        if start < TEN_PM < world.now:
            start = TEN_PM  # once: the rollover
            for lane in world.lanes:
                lane.lose("rollover")
            world.wait(rng.uniform(1, 6))
            world.restore()
    counts, wrong = world.compare(books)
    return counts + Counter({f"done {name}": n for name, n in world.done.items()}), wrong


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=float, default=1e6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    total: Counter[str] = Counter()
    wrong: list[str] = []
    began = time.monotonic()
    seed = options.seed
    while total["samples"] < options.samples:
        with tempfile.TemporaryDirectory() as folder:
            counts, found = run(Path(folder), seed, 60_000, 300)
        total += counts
        wrong += [f"seed {seed}: {one}" for one in found]
        print(f"seed {seed}: {counts['samples']} samples, {counts['differ']} differ", file=sys.stderr)
        seed += 1
    print(
        f"{total['samples']} samples of {seed - options.seed} days in {time.monotonic() - began:.0f} s "
        f"({total['trusted']} trusted, {total['book()']} of book(), {total['depth()']} of depth()): "
        f"{total['differ']} differ"
    )
    print(", ".join(f"{name[5:]} {n}" for name, n in sorted(total.items()) if name.startswith("done ")))
    for one in wrong[:40]:
        print(one)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
