"""CPU, priority and polling: the loop's thread alone has them, and what needs other threads goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

import kfix_md
from kfix_md._entry import State
from kfix_md.config import FeedSection
from kfix_md.errors import UsageError
from kfix_md.feed import process, tuning
from tests.feed.rig import ROOT, Venue
from tests.feed.test_per_service import until


def test_a_cpu_that_is_not_ours_is_one_line():
    mine = sorted(os.sched_getaffinity(0))
    tuning.check(FeedSection())
    tuning.check(FeedSection(cpu=mine))
    for cpu in (999, [mine[0], 999]):
        with pytest.raises(UsageError, match="999 is not one of this process's CPUs") as caught:
            tuning.check(FeedSection(cpu=cpu))
        assert "\n" not in str(caught.value)


def test_a_priority_not_permitted_is_logged_and_done_without(monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    asyncio.run(tuning.settle(FeedSection(rt_priority=50), logging.getLogger("t")))
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelname == "WARNING" and "feed.rt_priority = 50: not permitted, continuing" in record.getMessage()


def test_asking_for_a_priority_changes_nothing():
    before = os.sched_getscheduler(0)
    assert tuning.permitted(1) in (True, False)
    assert os.sched_getscheduler(0) == before


def test_polling_takes_a_turn_after_the_other_until_the_feed_stops():
    class Loop:
        def call_soon(self, turn, context):
            turns.append(turn)

    turns, stopping = [], asyncio.Event()
    process._spin(Loop(), stopping)
    turns[0]()
    assert len(turns) == 2
    stopping.set()
    turns[1]()
    assert len(turns) == 2


def test_a_polling_pinned_feed_still_resolves_records_and_reconnects(tmp_path):
    cpus = sorted(os.sched_getaffinity(0))
    real_time = tuning.permitted(1)
    feed = f"busy_poll = true\ncpu = {cpus[-1]}\n" + ("rt_priority = 1\n" if real_time else "")
    venue = Venue(tmp_path / "venue", "--symbols", "2", "--rate", "200")
    path = tmp_path / "feed.toml"
    path.write_text(venue.toml(tmp_path, "tuned", ("spot-l2",), feed=feed))
    running = subprocess.Popen([sys.executable, "-m", "kfix_md", "feed", str(path)], cwd=ROOT)
    try:
        until((tmp_path / "kfix-md.tuned").exists)
        books = kfix_md.attach("tuned", directory=tmp_path)
        until(lambda: len(books) == 2 and all(book.state is State.LIVE for book in books.books()))
        threads = [int(name) for name in os.listdir(f"/proc/{running.pid}/task")]
        pinned = {tid for tid in threads if os.sched_getaffinity(tid) == {cpus[-1]}}
        raised = {tid for tid in threads if os.sched_getscheduler(tid) != os.SCHED_OTHER}
        assert len(threads) > 2
        assert pinned == {running.pid} or len(cpus) == 1
        assert raised == ({running.pid} if real_time else set())
        written = books.counters["journal_position"]
        venue("drop", service="spot-l2", how="rst")
        until(lambda: books.sessions[0]["reconnects"] == 1)
        until(lambda: all(book.state is State.LIVE for book in books.books()))
        assert books.counters["journal_position"] > written
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0
    finally:
        running.kill()
        running.wait()
        venue.close()


def test_the_loop_has_a_short_slice_and_its_threads_do_not():
    seen = []

    def look() -> None:
        seen.append(tuning.slice_ns())

    def run() -> None:
        look()
        tuning.shorten_slice()
        look()
        helper = threading.Thread(target=look)
        helper.start()
        helper.join()
        seen.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if not seen[0]:
        pytest.skip("this kernel has one slice for all threads (Linux before 6.12)")
    assert seen[1] == tuning.SLICE_NS and seen[2] == seen[0] > seen[1] and seen[3] == os.SCHED_OTHER
