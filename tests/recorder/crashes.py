"""Kills feed, recorder and compaction at random points: python -m tests.recorder.crashes SECONDS [SEED [DIRECTORY]].

This process imports everything, starts nothing that a fork would break, and forks: a victim lives a few milliseconds
after it was born. A world is a stream, its journal and its captures; when its feed has journaled every frame, whatever
was killed on the way, every message must be in Parquet exactly once. Prints the kills as JSON. With a DIRECTORY: one
world that takes SECONDS and stays.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import re
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import recorder
from kfix_md import trading_day
from kfix_md.errors import CaptureError
from kfix_md.journal import files as journal_files
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from recorder import compact, layout
from recorder.process import Recorder, Settings
from tests.recorder import build
from tests.streams import generate

DATES = 4
_SEQ = re.compile(rb"\x0134=(\d+)\x01")


class World:
    """One stream, its journal and captures, and what runs on it. `reported`: frames that the feed knows are stored."""

    def __init__(self, path: Path, frames: list[bytes], retention: str, pause: float = 0.002):
        self.pause = pause  # seconds after each eight frames
        self.journal, self.captures, self.frames = path / "journal", path / "captures", frames
        self.journal.mkdir()
        self.first_number = journal_files.first_number(time.time())
        self.reported = mmap.mmap(-1, 8)  # shared with the forked
        self.settings = Settings(
            self.journal,
            self.captures,
            flush_seconds=0,
            flush_rows=300,
            compact=False,
            retention=retention,
            checkpoint_rows=500,
        )

    def time_of(self, i: int) -> int:
        return build.START_NS + i * 1000 + i * DATES // len(self.frames) * trading_day.DAY_NS

    def stored(self) -> int:
        """Frames in the journal: the number of the last one, in the newest segment, for retention may delete others."""
        last = struct.unpack("<q", self.reported)[0]
        newest = max((n for n, head in journal_files.heads(self.journal).items() if head.date), default=0)
        for record in JournalReader(self.journal, newest << 32):
            if record[1] == FRAME:
                last = max(last, int(_SEQ.search(record[5])[1]))
        return last

    # ---- what lives, each in a process of its own ----

    def feed(self) -> None:
        """Journals the frames from where the dead one stopped."""
        done = self.stored()  # before the writer seals what the dead one left, after which retention may delete it
        self.reported[:] = struct.pack("<q", done)
        with JournalWriter(self.journal, segment_bytes=1 << 16, sync_ms=5) as journal:
            if not done:
                journal.event(0, self.time_of(0), {"type": "session", "number": 0, "service": "spot-l2", "level": "L2"})
                journal.event(0, self.time_of(0), {"type": "logged_on", "session_id": "one"})
            for i in range(done, len(self.frames)):
                while not journal.frame(0, self.time_of(i), self.frames[i]):
                    time.sleep(0.001)
                self.reported[:] = struct.pack("<q", i + 1)
                if i % 8 == 0:
                    time.sleep(self.pause)

    def recorder(self) -> None:
        """Records, flushes at every turn, retires segments."""
        one = Recorder(self.settings)
        while True:
            one.step()
            one.housekeeping()
            time.sleep(0.002)

    def compaction(self) -> None:
        """Compacts the dates that are over."""
        while True:
            time.sleep(0.005)
            if (self.captures / "state").is_dir():
                tree = layout.Tree(self.captures)
                for day in compact.candidates(tree, None):
                    compact.compact_day(tree, day)

    def check(self) -> None:
        """Every frame is in the journal, every message in Parquet, once, in order, and no process left anything."""
        one = Recorder(self.settings)
        one.once()
        one.close()
        assert self.stored() == len(self.frames)
        journaled = [r[5] for r in JournalReader(self.journal) if r[1] == FRAME]
        assert journaled == self.frames[len(self.frames) - len(journaled) :]
        if self.settings.retention != "delete":
            assert len(journaled) == len(self.frames)
        cap = recorder.open(self.captures)
        rows = cap.ticks()
        assert len(cap.dates()) == DATES and cap.sessions().num_rows == 1
        snapshot = sum(b"\x0135=W\x01" in f for f in self.frames)
        entries = sum(int(n) for f in self.frames if b"\x0135=y\x01" not in f for n in re.findall(rb"\x01268=(\d+)", f))
        assert rows.num_rows == entries + snapshot, (rows.num_rows, entries, snapshot)
        assert len(set(build.keys(rows))) == rows.num_rows
        for symbol in pc.unique(rows["symbol"]).to_pylist():
            seq = rows.filter(pc.equal(rows["symbol"], symbol))["seq"].to_numpy()
            assert (np.diff(seq) >= 0).all()
        for table in ("instruments", "status"):
            rows = getattr(cap, table)().to_pylist()
            assert len({json.dumps(r, default=str) for r in rows}) == len(rows)
        assert all(path.name.startswith("replaced-") for path in cap.tree.work.iterdir())

    def seen(self) -> Counter:
        """What went on between the kills, by what it left: dates compacted, segments compressed or deleted."""
        tree = layout.Tree(self.captures)
        numbers = journal_files.segments(self.journal)
        compressed = sum(p.suffix == ".zst" for p in numbers.values())
        return Counter(
            dates_compacted=len(tree.dates()) - len(compact.candidates(tree, date.max)),
            segments_compressed=compressed,
            segments_deleted=min(numbers) - self.first_number,
        )


def born(run: Callable[[], None]) -> int:
    """Run in a fork of this process; its pid. It ends with status 0, or 1 and a traceback."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def buried(pid: int) -> int | None:
    """Exit status of a process that has ended, else None."""
    return (
        os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        else None
    )


def warm(world: World) -> None:
    """Everything once, in this process: what is imported and set up late need not be so in each that is forked."""
    world.feed()
    one = Recorder(world.settings)
    one.once()
    one.close()
    for day in compact.candidates(layout.Tree(world.captures), None):
        compact.compact_day(layout.Tree(world.captures), day)
    world.check()


def live(world: World, rng: random.Random, kills: Counter, until: float, breath: float = 0.002) -> None:
    """Everything runs, and dies again and again, until all is journaled."""
    lives = {"feed": world.feed, "recorder": world.recorder, "compaction": world.compaction}
    alive = {name: born(run) for name, run in lives.items()}
    try:
        while True:
            time.sleep(breath * 60 ** rng.random())
            for name in list(alive):
                status = buried(alive[name])
                if status is not None:
                    del alive[name]
                    if status or name != "feed":
                        raise CaptureError(f"{name} ended by itself with status {status}")
                    return
            if time.monotonic() > until:
                continue
            name = rng.choice(list(alive))
            os.kill(alive[name], signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(alive.pop(name), 0)[1])
            kills[name] += status == -signal.SIGKILL
            alive[name] = born(lives[name])
    finally:
        for pid in alive.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def settled(world: World, seed: int, kills: Counter) -> None:
    """CaptureError unless the world came out right."""
    if os.waitstatus_to_exitcode(os.waitpid(born(world.check), 0)[1]):
        raise CaptureError(f"a world did not come out right: seed {seed}, {dict(kills)}")


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    pa.set_cpu_count(1)
    rng, kills, worlds = random.Random(seed), Counter(), 0
    frames = generate("spot-l2", messages=1500, symbols=6, seed=8).frames
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # memory: no fsync to wait for
    with tempfile.TemporaryDirectory(prefix="kfix-crashes-", dir=fast) as path:
        warm(World(Path(path), frames, "zstd"))
    until = time.monotonic() + seconds
    if len(sys.argv) > 3:
        world = World(Path(sys.argv[3]), frames, "zstd", pause=8 * seconds / len(frames))
        live(world, rng, kills, until + seconds, breath=0.01)
        settled(world, seed, kills)
        print(json.dumps({"kills": kills.total(), **kills, **world.seen()}))
        return
    seen: Counter = Counter()
    while time.monotonic() < until or not worlds:
        with tempfile.TemporaryDirectory(prefix="kfix-crashes-", dir=fast) as path:
            world = World(Path(path), frames, rng.choice(["keep", "zstd", "delete"]))
            live(world, rng, kills, until)
            settled(world, seed, kills)
            seen += world.seen()
        worlds += 1
    print(json.dumps({"seed": seed, "worlds": worlds, "kills": kills.total(), **kills, **seen}))


if __name__ == "__main__":
    main()
