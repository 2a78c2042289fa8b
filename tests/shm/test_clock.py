"""Elapsed time in shared memory is CLOCK_MONOTONIC: no step of the wall clock revives or kills a feed."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kfix_md import FeedDead, attach
from kfix_md.shm import segment as reading
from kfix_md.shm.layout import dtype
from kfix_md.shm.writer import SegmentWriter
from tests import preload
from tests.shm.conftest import Desk

HERE = Path(__file__).parent
HEARTBEAT_MS = 100
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    if preload.COMPILER is None:
        pytest.skip("no C compiler")
    return preload.library(HERE / "wall_clock.c", tmp_path_factory.mktemp("shim"))


class Machine:
    """Processes whose wall clock can be set."""

    def __init__(self, folder: Path, shim: Path) -> None:
        self.folder, self._file = folder, folder / "ahead"
        self._file.write_bytes(bytes(8))
        self._env = {**os.environ, "LD_PRELOAD": str(shim), "WALL_CLOCK_AHEAD": str(self._file)}
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._env, cwd=HERE.parents[1]
        )
        self._processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    def step(self, seconds: float) -> None:
        with self._file.open("r+b") as file:  # in place: the processes map it
            file.write(struct.pack("<q", int(seconds * SECOND)))

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def report(reader) -> dict:
    reader.stdin.write("\n")
    reader.stdin.flush()
    return json.loads(reader.stdout.readline())


@pytest.mark.parametrize("seconds", [2.0, -60.0, 3600.0])
def test_a_step_of_the_clock_neither_kills_nor_revives_a_feed(tmp_path, shim, seconds):
    machine = Machine(tmp_path, shim)
    try:
        feed = machine.start("tests.shm.victim", "v", str(tmp_path), str(HEARTBEAT_MS))
        reader = machine.start("tests.shm.clock_reader", "v", str(tmp_path))
        time.sleep(0.3)
        report(reader)
        machine.step(seconds)
        time.sleep(1.0)
        living = report(reader)
        assert living["readings"] > 20 and living["dead"] == ""
        assert living["age_min"] >= 0 and living["age_max"] < 5 * SECOND
        feed.kill()
        feed.wait()
        time.sleep(3 * HEARTBEAT_MS / 1000)
        report(reader)
        time.sleep(0.1)
        dead = report(reader)
        assert dead["readings"] == 0 and "process" in dead["dead"]
    finally:
        machine.end()


def test_times_follow_the_wall_clock_and_ages_do_not(tmp_path):
    desk = Desk(tmp_path, clock_base_ns=10**18 - time.monotonic_ns())
    book, feed = desk.attach()["BTC/USD"], desk.attach()
    recv_ns, gap_ns = book.recv_ns, book.info()["state_ns"]
    assert 0 <= recv_ns - 10**18 < 60 * SECOND
    desk.writer.set_session(0, service="spot-l2", since_ns=10**18, last_recv_ns=0)
    desk.writer.set_clock_step(-3600 * SECOND)
    assert book.recv_ns == recv_ns - 3600 * SECOND == int(feed.snapshot()["recv_ns"][0])
    assert book.info()["state_ns"] == gap_ns - 3600 * SECOND
    [session] = feed.sessions
    assert (session["since_ns"], session["last_recv_ns"]) == (10**18 - 3600 * SECOND, 0)
    assert 0 <= book.age_ns < 60 * SECOND and 0 <= feed.snapshot()["age_ns"][0] < 60 * SECOND
    desk.writer.close()


def _write(path: Path, field: str, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(dtype("header").fields[field][1])
        file.write(value)


def test_a_segment_from_before_the_last_boot_is_dead(tmp_path, monkeypatch):
    desk = Desk(tmp_path)
    assert desk.attach().alive
    monkeypatch.setattr(reading, "boot_id", lambda: "0f9a1c52-another-boot")
    with pytest.raises(FeedDead, match="before this machine was started"):
        desk.attach()
    book = desk.attach(reconnect=True)["BTC/USD"]
    with pytest.raises(FeedDead):
        book.top()
    desk.writer.close()


def test_a_heartbeat_of_the_future_is_no_sign_of_life(tmp_path):
    desk = Desk(tmp_path, heartbeat_ns=10**8)
    book = desk.attach()["BTC/USD"]
    assert book.top()
    _write(Path(desk.writer.path), "heartbeat_ns", struct.pack("<q", time.monotonic_ns() + 3600 * SECOND))
    with pytest.raises(FeedDead, match="time namespace"):
        book.top()
    desk.writer.close()


def test_a_new_feed_replaces_the_segment_of_an_older_layout(tmp_path):
    desk = Desk(tmp_path, name="old")
    path, old = Path(desk.writer.path), desk.attach()["BTC/USD"]
    _write(path, "layout", struct.pack("<I", 1))
    keep = path.with_name("kept")
    os.link(path, keep)  # closing removes the name
    desk.writer.close()
    del desk.btc, desk.writer  # the lock lasts as long as the mapping
    _write(keep, "closed", struct.pack("<I", 0))
    os.rename(keep, path)
    with SegmentWriter("old", tmp_path, capacity=4) as fresh:
        fresh.add_symbol("BTC/USD")
        with pytest.raises(FeedDead, match="replaced"):
            old.top()
        assert attach("old", directory=tmp_path).alive
