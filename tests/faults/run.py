"""Faults of the machine at random over a venue, a feed and a recorder, and a judge.

`python -m tests.faults.run --seconds 600 --seed 7` (see `--help`; `make faults`).

The feed and the recorder run with two preloaded libraries, one that sets the wall clock and one that lets system calls
fail, and are started again when they end, as a service manager would. Exit status 1 when a book was wrong, a reader
believed a dead feed or doubted a living one, a frame is missing in the journal without a record of the loss, or a
process ended with status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfix_md import State, attach
from kfix_md.errors import KfixError
from kfix_md.journal.reader import EVENT, FRAME, JournalReader
from tests import preload
from tests.feed.rig import ROOT, Venue

HERE = Path(__file__).parent
SERVICES = ("spot-l2", "derivatives-l3")
HEARTBEAT_S = 1.0
SLACK_S = 1.0  # of a busy machine
STEPS_S = (2, -2, 60, -60, 3600, -3600)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOMEM)


@dataclasses.dataclass
class Plan:
    """Length, size and seed of a run."""

    seconds: float = 10.0
    seed: int = 1
    every: float = 1.0  # seconds between faults
    readers: int = 2  # that poll without a pause


class Preloaded:
    """The two libraries and the files by which they are commanded."""

    def __init__(self, folder: Path) -> None:
        sources = (HERE.parent / "shm" / "wall_clock.c", HERE / "failing_calls.c")
        libraries = [str(preload.library(source, folder)) for source in sources]
        self._clock, self._calls = (self._file(folder / name, 16) for name in ("ahead", "calls"))
        self.ahead_s = 0
        self.environment = {
            **os.environ,
            "LD_PRELOAD": ":".join(libraries),
            "WALL_CLOCK_AHEAD": str(folder / "ahead"),
            "FAILING_CALLS": str(folder / "calls"),
        }

    @staticmethod
    def _file(path: Path, size: int) -> mmap.mmap:
        path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), size)

    def step(self, seconds: int) -> None:
        """Set the wall clock forward or back."""
        self.ahead_s += seconds
        struct.pack_into("<q", self._clock, 0, self.ahead_s * 1_000_000_000)

    def fail(self, error: int, one_in: int = 2) -> None:
        """Let one call in `one_in` fail with `error`; 0: none."""
        struct.pack_into("<I", self._calls, 4, one_in)
        struct.pack_into("<i", self._calls, 0, error)

    @property
    def failed(self) -> int:
        """Calls that have failed."""
        return int(struct.unpack_from("<Q", self._calls, 8)[0])


class Managed:
    """A process that is started again when it ends, and whose log can be left unread."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._command, self._environment, self._folder = command, environment, folder
        self.name = command[3]
        self.reading = threading.Event()
        self.reading.set()
        self.log: list[str] = []
        self.last_words: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, stderr=subprocess.PIPE, cwd=ROOT, env=self._environment, text=True, errors="replace"
        )
        threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True).start()

    def _read(self, pipe: Any) -> None:
        for line in pipe:
            self.reading.wait()
            self.log.append(line)
        pipe.close()

    def tend(self) -> bool:
        """Start it again if it has ended; True when it had."""
        status = self.process.poll()
        if status is None:
            return False
        self.statuses[status] += 1
        if status > 0:
            self.last_words.append("".join(self.log[-12:])[-1500:])
        self.start()
        return True

    def end(self, seconds: float = 30.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Liveness:
    """Polls as a script does, and compares with what was done to the feed.

    `expect(state, after_s)`: from so many seconds on a reader must (True), must not (False), or may (None) believe it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.polls, self.wrong = path, Counter[str](), []
        self._expected: tuple[bool | None, float] = (None, 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def expect(self, state: bool | None, after_s: float) -> None:
        self._expected = (state, time.monotonic() + after_s)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        feed, doubted = None, 0.0
        while not self._stop.wait(0.005):
            before = time.monotonic()
            state, since = self._expected
            try:
                feed = feed or attach(path=self.path, reconnect=True)
                alive = feed.alive
            except KfixError:
                alive = False
            now = time.monotonic()
            self.polls["alive" if alive else "dead"] += 1
            doubted = 0.0 if alive else doubted or now
            if state is None or before < since or self._expected != (state, since):
                continue
            if not state and alive:
                self.wrong.append(f"believed a dead feed {before - since:.2f} s after it had to be noticed")
                self._expected = (None, 0.0)
            elif state and doubted and now - max(doubted, since) > HEARTBEAT_S + SLACK_S:
                self.wrong.append(f"doubted a living feed for {now - doubted:.2f} s")
                self._expected = (None, 0.0)


class Run:
    """One run."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder, self.rng = plan, folder, random.Random(plan.seed)
        self.injected: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.venue = Venue(folder, "--symbols", "4", "--rate", "200", "--seed", str(plan.seed))
        self.machine = Preloaded(folder)
        (folder / "shm").mkdir(mode=0o700)
        text = self.venue.toml(folder / "shm", "faults", SERVICES, feed=f"heartbeat_ms = {int(HEARTBEAT_S * 1000)}")
        text += "[recorder]\ninterval_s = 0.5\n"
        (folder / "feed.toml").write_text(text)
        self.path = folder / "shm" / "kfix-md.faults"
        kfix = [sys.executable, "-m", "kfix_md"]
        self.feed = Managed([*kfix, "feed", str(folder / "feed.toml")], self.machine.environment, folder)
        self.recorder = Managed([*kfix, "record", str(folder / "feed.toml")], self.machine.environment, folder)
        self.readers = [
            subprocess.Popen([sys.executable, "-m", "tests.faults.reader", str(self.path)], cwd=ROOT)
            for _ in range(plan.readers)
        ]

    # ---- faults: each takes and restores ----

    def step_clock(self) -> None:
        """A session that is on goes on; a clock that is an hour off lets none begin, so that a large step is mended."""
        seconds = self.rng.choice(STEPS_S)
        self.machine.step(seconds)
        if abs(seconds) > 2:
            time.sleep(1.5)
            self.machine.step(-seconds)

    def stop_feed(self) -> None:
        seconds = self.rng.choice([0.3, 3 * HEARTBEAT_S + 2 * SLACK_S])
        self.feed.process.send_signal(signal.SIGSTOP)
        self.judge.expect(False if seconds > 3 else None, 3 * HEARTBEAT_S + SLACK_S)
        time.sleep(seconds)
        self.judge.expect(None, 0)
        self.feed.process.send_signal(signal.SIGCONT)

    def stop_recorder(self) -> None:
        self.recorder.process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        self.recorder.process.send_signal(signal.SIGCONT)

    def kill_feed(self) -> None:
        self.feed.process.kill()
        self.feed.process.wait()
        self.judge.expect(False, HEARTBEAT_S + SLACK_S)
        time.sleep(HEARTBEAT_S + 1.5 * SLACK_S)
        self.judge.expect(None, 0)
        self.feed.tend()
        self.wait_until_good()

    def kill_recorder(self) -> None:
        self.recorder.process.kill()
        self.recorder.process.wait()
        self.recorder.tend()

    def fail_calls(self) -> None:
        error = self.rng.choice(ERRORS)
        self.injected[errno.errorcode[error]] += 1
        self.machine.fail(error, self.rng.choice([1, 2, 5]))
        time.sleep(1.0)
        self.machine.fail(0)

    def restart_while_calls_fail(self) -> None:
        self.feed.process.kill()
        self.feed.process.wait()
        self.fail_during(self.feed.tend)

    def fail_during(self, what: Callable[[], Any]) -> None:
        self.machine.fail(self.rng.choice([errno.ENOSPC, errno.EIO]), 20)
        what()
        time.sleep(2.0)
        self.machine.fail(0)
        self.wait_until_good()

    def stick_log(self) -> None:
        self.feed.reading.clear()
        time.sleep(1.0)
        self.feed.reading.set()

    def unlink_segment(self) -> None:
        self.path.unlink(missing_ok=True)

    def take_journal_away(self) -> None:
        away = self.journal.with_name("away")
        self.journal.rename(away)
        time.sleep(1.0)
        away.rename(self.journal)

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    # ---- the run ----

    def good(self) -> bool:
        """Every book is live for a reader."""
        try:
            feed = attach(path=self.path)
            return len(feed) >= 8 and all(book.state in (State.LIVE, State.EMPTY) for book in feed.books())
        except KfixError:
            return False

    def wait_until_good(self, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not self.good():
            self.tend()
            if time.monotonic() > end:
                self.wrong.append(f"books are not live again after {seconds:.0f} s")
                self.wrong += self.feed.log[-20:]
                return
            time.sleep(0.05)

    def tend(self) -> None:
        for process in (self.feed, self.recorder):
            process.tend()

    def play(self) -> dict[str, Any]:
        """Inject, settle, judge; the report, whose "wrong" is empty when all is well."""
        self.judge = Liveness(self.path)
        try:
            self.wait_until_good()
            self._inject()
            self.machine.fail(0)
            self.wait_until_good()
            compared = self._compare()
        finally:
            self.judge.stop()
            for reader in self.readers:
                reader.kill()
                reader.wait()
            statuses = {process.name: self._end(process) for process in (self.feed, self.recorder)}
            with contextlib.suppress(subprocess.TimeoutExpired):  # on a busy machine; it is not what is judged
                self.venue.close()
        self.wrong += self.judge.wrong
        frames, lost = audit(self.journal, self.wrong)
        return {
            "plan": dataclasses.asdict(self.plan),
            "injected": dict(self.injected),
            "calls_failed": self.machine.failed,
            "statuses": statuses,
            "last_words": self.feed.last_words + self.recorder.last_words,
            "polls": dict(self.judge.polls),
            "compared": compared,
            "frames": frames,
            "counted_as_lost": lost,
            "verify": self._verify(),
            "wrong": self.wrong,
        }

    def _inject(self) -> None:
        faults = [
            *(self.step_clock, self.stop_feed, self.stop_recorder, self.kill_feed, self.kill_recorder),
            *(self.fail_calls, self.stick_log, self.unlink_segment, self.take_journal_away),
            self.restart_while_calls_fail,
        ]
        end, bag = time.monotonic() + self.plan.seconds, []
        while time.monotonic() < end:
            bag = bag or self.rng.sample(faults, len(faults))
            fault = bag.pop()
            self.injected[fault.__name__] += 1
            quiet = fault in (self.step_clock, self.stop_recorder, self.kill_recorder, self.stick_log)
            quiet = quiet or fault == self.take_journal_away
            self.judge.expect(True if quiet else None, HEARTBEAT_S)
            fault()
            self.tend()
            time.sleep(self.rng.expovariate(1 / self.plan.every))
        self.judge.expect(None, 0)

    def _compare(self) -> int:
        """Stop the market and compare every book in shared memory with the venue's own."""
        self.venue("pause")
        time.sleep(0.5)
        feed, compared = attach(path=self.path), 0
        for symbol, book in feed.items():
            truth = self.venue.control.truth(symbol, book.level)["ints"]
            bids, asks = book.depth(None, price="int")
            for ours, theirs in ((bids, truth["bids"]), (asks, truth["offers"])):
                if [(int(p), int(q)) for p, q, *_ in ours.tolist()] != [(p, q) for p, q, _ in theirs]:
                    self.wrong.append(f"{symbol} {book.level} differs from the venue's")
            compared += 1
        self.venue("resume")
        return compared

    def _end(self, process: Managed) -> dict[int, int]:
        status = process.end()
        if status != 0:
            self.wrong.append(f"{process.name} ended with status {status} after SIGTERM")
            self.wrong += process.log[-10:]
        if process.statuses[2]:
            self.wrong.append(f"{process.name} ended with status 2, {process.statuses[2]} times")
            self.wrong += [line for line in process.log if line.startswith("kfix:")]
        return dict(process.statuses)

    def _verify(self) -> str:
        kfix = [sys.executable, "-m", "kfix_md"]
        subprocess.run([*kfix, "record", "--once", str(self.folder / "feed.toml")], cwd=ROOT, check=False)
        done = subprocess.run(
            [*kfix, "verify", str(self.folder / "captures")], cwd=ROOT, check=False, capture_output=True, text=True
        )
        if done.returncode:
            self.wrong.append(f"kfix verify: status {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
        return f"status {done.returncode}"


def audit(journal: Path, wrong: list[str]) -> tuple[int, int]:
    """(frames, losses that were counted): MsgSeqNums of a connection have no hole that no event is about."""
    expected: dict[int, int] = {}
    frames = lost = 0
    for _, kind, session, _, _, body in JournalReader(journal):
        if kind == EVENT:
            event = json.loads(bytes(body))
            if event["type"] == "connected":
                expected.pop(session, None)
            elif event["type"] in ("started", "journal_lost"):
                expected.clear()
                lost += event.get("count", 0)
        elif kind == FRAME:
            frames += 1
            head = bytes(body[:200])
            if b"\x0143=Y\x01" in head:
                continue
            number = int(head.partition(b"\x0134=")[2].partition(b"\x01")[0])
            if number > expected.get(session, number):
                wrong.append(f"session {session}: {expected[session]} to {number - 1} are not in the journal")
            expected[session] = number + 1
    return frames, lost


def main() -> int:
    """Run and print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in dataclasses.fields(Plan):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="kfix-faults-") as folder:
        report = Run(plan, Path(folder)).play()
    print(json.dumps(report, indent=2))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
