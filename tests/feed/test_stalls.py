"""What holds the loop up is found and given its cause: each kind planted; without the option nothing is installed."""

from __future__ import annotations

import asyncio
import gc
import logging
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from kfix_md.feed import process, stalls
from kfix_md.feed.listing import Listing
from kfix_md.feed.process import FeedProcess
from kfix_md.feed.request_queue import RequestQueue
from kfix_md.feed.stalls import StallTrace, Window, attribute
from kfix_md.feed.subscriptions import Subscriptions
from kfix_md.session.machine import Session
from kfix_md.session.timers import Timers
from tests.feed.rig import ROOT, Venue, load
from tests.feed.test_per_service import until

MS = 1_000_000


class Work:
    """Stands for the parts of a feed: `busy` does what it was given."""

    def __init__(self) -> None:
        self.position = 0

    def busy(self, work: Callable[[], object]) -> None:
        work()


def spin(seconds: float) -> None:
    """Uses the CPU for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def planted(work: Callable[[], object], cause: str | None, times: int = 1) -> StallTrace:
    """A loop that does `work` under a name (None: under none) after some quiet; what the tracer has then."""
    part = Work()

    async def main() -> StallTrace:
        callbacks = list(gc.callbacks)
        trace = StallTrace(2 * MS, lambda: part.position)
        if cause is not None:
            trace.watch(part, "busy", cause)
        trace.start()
        try:
            for _ in range(times):
                await asyncio.sleep(0.02)
                part.busy(work if work is not roll else lambda: roll(part))
            await asyncio.sleep(0.02)
        finally:
            trace.close()
        assert "busy" not in vars(part) and gc.callbacks == callbacks
        return trace

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def most(trace: StallTrace, cause: str) -> stalls.Stall:
    """The stall with the largest share of a cause: on a loaded machine there are others, for want of a CPU."""
    return max(trace.stalls, key=lambda stall: stall.shares.get(cause, 0))


def collect() -> None:
    knots = [[] for _ in range(300_000)]
    for knot in knots:
        knot.append(knot)
    del knots, knot
    gc.collect()


def fault() -> None:
    """Touches pages that are not there yet."""
    with mmap.mmap(-1, 128 << 20) as pages:
        pages.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, len(pages), mmap.PAGESIZE):
            pages[at] = 1


def roll(part: Work) -> None:
    part.position = 1 << 32
    spin(0.02)


def hold_lock() -> None:
    """Another thread runs one long function of C, which never gives the interpreter up."""
    started = threading.Event()

    def hold() -> None:
        started.set()
        sum(range(3_000_000))

    threading.Thread(target=hold, daemon=True).start()
    started.wait()


@pytest.mark.parametrize(
    ("work", "watched", "found"),
    [
        (lambda: spin(0.02), stalls.MESSAGES, stalls.MESSAGES),
        (lambda: spin(0.02), stalls.TIMERS, stalls.TIMERS),
        (lambda: spin(0.02), stalls.HEARTBEAT, stalls.HEARTBEAT),
        (lambda: spin(0.02), None, stalls.OTHER),
        (lambda: time.sleep(0.02), None, stalls.UNKNOWN),
        (collect, stalls.HEARTBEAT, stalls.GARBAGE),
        (fault, stalls.MESSAGES, stalls.JOURNAL),
        (roll, stalls.MESSAGES, stalls.SEGMENT),
        (hold_lock, None, stalls.INTERPRETER),
    ],
    ids=["messages", "timers", "heartbeat", "other", "unknown", "garbage", "journal", "segment", "interpreter"],
)
def test_a_planted_stall_has_its_cause(work, watched, found):
    of_others = {stalls.SCHEDULER, stalls.UNKNOWN} - {found}  # the thread that has the lock may wait for a CPU too
    for _ in range(3):  # on a busy machine the time without a CPU may hide it
        stall = most(planted(work, watched), found)
        shares = {cause: ns for cause, ns in stall.shares.items() if cause not in of_others}
        if next(iter(shares), None) == found:
            break
    assert next(iter(shares)) == found, stall
    assert shares[found] > 2 * MS
    assert stalls.TEXTS[found] in stall.text


def test_a_loop_without_a_cpu_is_the_schedulers(tmp_path):
    """Three processes that want the loop's CPU as much as it does."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    rivals = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        trace = planted(lambda: spin(0.01), stalls.TIMERS, times=20)
    finally:
        os.sched_setaffinity(0, before)
        for rival in rivals:
            rival.kill()
            rival.wait()
    assert trace.totals[stalls.SCHEDULER][0] > 0
    waited = max(stall.shares.get(stalls.SCHEDULER, 0) for stall in trace.stalls)
    assert waited > 2 * MS


def test_shares_are_of_what_was_measured():
    ten = 10 * MS
    whole = Window(late=ten, wall={stalls.MESSAGES: ten}, cpu={stalls.MESSAGES: 2 * MS}, thread_cpu=2 * MS)
    assert attribute(whole) == {stalls.MESSAGES: ten}
    whole.delay = 8 * MS
    assert attribute(whole) == {stalls.SCHEDULER: 8 * MS, stalls.MESSAGES: 2 * MS}
    whole.delay, whole.faults = 3 * MS, 1
    assert attribute(whole) == {stalls.JOURNAL: 5 * MS, stalls.SCHEDULER: 3 * MS, stalls.MESSAGES: 2 * MS}
    whole.rolled = True
    assert attribute(whole) == {stalls.SEGMENT: 7 * MS, stalls.SCHEDULER: 3 * MS}
    inside = Window(late=ten, wall={stalls.TIMERS: ten}, cpu={stalls.TIMERS: 4 * MS}, others_cpu=5 * MS)
    assert attribute(inside) == {stalls.INTERPRETER: 5 * MS, stalls.TIMERS: 5 * MS}
    outside = Window(late=ten, wall={stalls.GARBAGE: MS}, cpu={stalls.GARBAGE: MS}, thread_cpu=3 * MS, delay=MS)
    assert attribute(outside) == {
        stalls.UNKNOWN: 6 * MS,
        stalls.OTHER: 2 * MS,
        stalls.SCHEDULER: MS,
        stalls.GARBAGE: MS,
    }
    assert sum(attribute(outside).values()) == ten


def test_what_is_called_in_between_is_its_own(caplog):
    part, inner = Work(), Work()

    async def main() -> StallTrace:
        trace = StallTrace(MS)
        trace.watch(part, "busy", stalls.HEARTBEAT)
        trace.watch(inner, "busy", stalls.TIMERS)
        trace.start()
        await asyncio.sleep(0.01)
        part.busy(lambda: inner.busy(lambda: spin(0.03)))
        await asyncio.sleep(0.01)
        trace.close()
        return trace

    with caplog.at_level(logging.INFO, "kfix.feed"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stall = most(runner.run(main()), stalls.TIMERS)
    assert stall.shares[stalls.TIMERS] > 20 * MS > stall.shares.get(stalls.HEARTBEAT, 0)
    messages = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("the loop stood still for ") and "timers of a session" in line for line in messages)
    assert any(line.startswith("stalls of 1.00 ms or more: ") for line in messages)
    assert any(line.startswith("stalls by ") for line in messages)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(stalls, "RING", 10)
    trace = StallTrace(MS)
    for number in range(100):
        trace._note(stalls.Stall(number, (number + 1) * MS, {stalls.OTHER: MS}, 0))
    assert len(trace.stalls) == 10 and trace.totals[stalls.OTHER] == [100, 5050 * MS, 100 * MS]


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    venue = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "2", "--rate", "200")
    yield venue
    venue.close()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def feed(venue: Venue, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    config = folder / "feed.toml"
    config.write_text(venue.toml(folder, "stalls", ("spot-l2",)))
    command = [sys.executable, "-m", "kfix_md", "feed", str(config), *options]
    return subprocess.Popen(command, cwd=ROOT, stderr=(folder / "log").open("wb"))


def test_a_feed_reports_on_a_signal_and_at_its_end(venue, tmp_path):
    running = feed(venue, tmp_path, "--trace-stalls", "--stall-ms", "5")
    log = tmp_path / "log"
    until(lambda: any("all books good" in line for line in lines(log)))
    running.send_signal(signal.SIGSTOP)
    time.sleep(0.15)
    running.send_signal(signal.SIGCONT)
    until(lambda: any("the loop stood still for 1" in line and "unknown" in line for line in lines(log)))
    assert any("stalls of the loop are traced from 5.00 ms on" in line for line in lines(log))
    running.send_signal(signal.SIGUSR2)
    until(lambda: any("stalls by unknown" in line for line in lines(log)))
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0
    assert sum("stalls of 5.00 ms or more" in line for line in lines(log)) == 2


def test_lists_requests_and_timers_have_causes_of_their_own(venue, tmp_path, monkeypatch):
    """Each is slow once: in one turn with messages, or inside of what watches something else."""
    slow = {
        stalls.LISTS: (Listing, "on_message"),
        stalls.REQUESTS: (RequestQueue, "pump"),
        stalls.VERIFIED: (Session, "books_verified"),
        stalls.TIMERS: (Timers, "tick"),
        stalls.SERVICE: (Subscriptions, "tick"),
    }
    done = set()
    for cause, (owner, name) in slow.items():
        inner = getattr(owner, name)

        def work(self, *args, inner=inner, cause=cause):
            if cause not in done:
                done.add(cause)
                spin(0.05)
            return inner(self, *args)

        monkeypatch.setattr(owner, name, work)
    config = load(tmp_path, venue.toml(tmp_path, "stalls-causes", ("spot-l2",)))

    async def main() -> StallTrace:
        feed = FeedProcess(config, stall_ns=5 * MS)
        running = asyncio.create_task(feed.run())
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(
            any(stall.shares.get(cause, 0) > 20 * MS for stall in (feed.stalls.stalls if feed.stalls else ()))
            for cause in slow
        ):
            await asyncio.sleep(0.02)
        feed.stop()
        await running
        assert feed.stalls is not None
        return feed.stalls

    trace = asyncio.run(main())
    for cause in slow:
        assert most(trace, cause).shares[cause] > 20 * MS


def test_a_feed_that_does_not_trace_survives_the_signal(venue, tmp_path):
    running = feed(venue, tmp_path)
    log = tmp_path / "log"
    until(lambda: any("all books good" in line for line in lines(log)))
    running.send_signal(signal.SIGUSR2)
    until(lambda: any("are not traced" in line for line in lines(log)))
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0


def test_metrics_by_cause_while_on_and_nothing_installed_while_off(venue, tmp_path):
    pytest.importorskip("prometheus_client")
    text = venue.toml(tmp_path, "stalls-metrics", ("spot-l2",)) + "[metrics]\nport = 0\n"
    config = load(tmp_path, text)
    config.metrics.port = free_port()

    async def main(stall_ns: int) -> tuple[FeedProcess, str]:
        feed = FeedProcess(config, stall_ns=stall_ns)
        running = asyncio.create_task(feed.run())
        await asyncio.sleep(0.1)
        assert ("received" in vars(feed.services[0])) == bool(stall_ns)
        address = f"http://127.0.0.1:{config.metrics.port}/metrics"
        body = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read().decode())
        feed.stop()
        await running
        return feed, body

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        off, without = runner.run(main(0))
        on, body = runner.run(main(MS))
    assert off.stalls is None and "kfix_traced" not in without
    for cause in stalls.TEXTS:
        assert f'kfix_traced_stalls_total{{cause="{cause}"}}' in body
        assert f'kfix_traced_stall_seconds_total{{cause="{cause}"}}' in body
    assert "received" not in vars(on.services[0])


def test_threads_of_a_feed_give_the_interpreter_up_soon(venue, tmp_path, monkeypatch):
    """Python's own switch interval is 5 ms, for which the log's thread, for one, could hold the loop up."""
    seen, before = [], sys.getswitchinterval()

    async def started(*_):
        seen.append(sys.getswitchinterval())

    monkeypatch.setattr(process, "patiently", started)
    path = tmp_path / "feed.toml"
    path.write_text(venue.toml(tmp_path, "switch", ("spot-l2",)))
    try:
        assert process.run(str(path)) == 0
    finally:
        sys.setswitchinterval(before)
    assert seen == [pytest.approx(process.SWITCH_S)] and process.SWITCH_S <= 0.0005


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
