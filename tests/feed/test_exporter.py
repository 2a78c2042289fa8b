"""/metrics comes from a process of its own, also when the feed's loop is blocked or either process ends."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from kfix_md.errors import UsageError, may_pass
from kfix_md.feed import exporter
from kfix_md.feed.exporter import ANSWER_S, STUCK_S, Exporter, Readings
from kfix_md.feed.metrics import FeedCounters, Histogram
from tests.feed.rig import Venue, all_good, drive, until

pytest.importorskip("prometheus_client")


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    running = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "2", "--rate", "100")
    yield running
    running.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def ask(port: int, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def value(page: str, name: str) -> float:
    found = re.search(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)
    assert found, name
    return float(found[1])


def toml(venue: Venue, folder, name: str, port: int) -> str:
    return venue.toml(folder, name, ("spot-l2",), journal=f"[metrics]\nport = {port}")


def test_what_is_exported_is_the_feeds_own_and_as_it_is_now(venue, tmp_path):
    port = free_port()

    async def script(feed):
        await all_good(feed)
        before = feed.services[0].handler.stats["messages"]
        _, page = await asyncio.to_thread(ask, port)
        after = feed.services[0].handler.stats["messages"]
        assert before <= value(page, "kfix_messages_total") <= after
        assert value(page, "kfix_heartbeat_age_seconds") < 2
        assert value(page, "process_open_fds") == pytest.approx(len(os.listdir("/proc/self/fd")), abs=5)
        cpu_s = sum(os.times()[:2])
        assert value(page, "process_cpu_seconds_total") == pytest.approx(cpu_s, rel=0.2)
        await until(lambda: feed._metrics.reads.rows)
        await until(lambda: sum(next(iter(feed._metrics.reads.rows.values())).counts))
        _, page = await asyncio.to_thread(ask, port)
        assert value(page, "kfix_read_to_publish_seconds_count") >= 1
        assert "kfix_loop_stall_seconds_created 1" in page and "kfix_read_to_publish_seconds_created{" in page

    drive(tmp_path, toml(venue, tmp_path, "export", port), script)


def test_a_loop_that_does_not_answer_has_its_age_served(venue, tmp_path):
    port = free_port()
    code = f"""
import time, urllib.request
time.sleep(1.2)
print(urllib.request.urlopen("http://127.0.0.1:{port}/metrics", timeout=20).read().decode())
"""

    async def script(feed):
        await all_good(feed)
        messages = feed.services[0].handler.stats["messages"]
        asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        page = asking.communicate(timeout=30)[0]  # the loop is blocked meanwhile
        assert value(page, "kfix_heartbeat_age_seconds") > 1.2
        assert 0 <= value(page, "kfix_messages_total") <= messages
        assert (await asyncio.to_thread(ask, port, "/healthz")) == (200, "ok\n")

    drive(tmp_path, toml(venue, tmp_path, "stuck", port), script)


@pytest.fixture
def both(monkeypatch):
    """The feed's socket, the exporter's side of it, and what is set when that ends its process."""
    feed, exporter = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    yield feed, Readings(exporter), ended
    feed.close()
    for thread in threading.enumerate():
        if thread.name == "kfix-readings":
            thread.join(10)
    exporter.close()


def test_a_loop_that_has_shown_no_sign_of_life_is_not_waited_for_again(both):
    feed, readings, _ = both
    assert readings.patience_s == ANSWER_S
    readings._beat_s -= ANSWER_S
    assert readings.patience_s == STUCK_S
    found = readings.read()
    assert found.beat_age_s >= ANSWER_S + STUCK_S and feed.recv(10)


def test_a_scrape_gets_what_was_counted_after_it_asked(both):
    feed, readings, _ = both
    feed.send(pickle.dumps(FeedCounters(clock_steps=1)))

    def answer() -> None:
        for steps in (2, 3):
            feed.recv(10)
            feed.send(exporter._BEAT)
            feed.send(pickle.dumps(FeedCounters(clock_steps=steps)))

    thread = threading.Thread(target=answer)
    thread.start()
    assert [readings.read().clock_steps, readings.read().clock_steps] == [2, 3]
    thread.join()


def test_the_age_of_a_loop_that_does_not_answer_counts_from_its_last_sign_of_life(both, monkeypatch):
    monkeypatch.setattr(exporter, "ANSWER_S", 0.1)
    feed, readings, _ = both
    feed.send(pickle.dumps(FeedCounters(clock_steps=1, beat_age_s=12.0)))
    deadline = time.monotonic() + 10
    while not readings.last.clock_steps and time.monotonic() < deadline:
        time.sleep(0.001)
    found = readings.read()
    assert found.clock_steps == 1 and 12.0 < found.beat_age_s < 60.0
    feed.send(exporter._BEAT)
    found = readings.read()
    assert found.clock_steps == 1 and found.stalled() == "", "it has run since"


def test_scrapes_go_on_when_the_loop_has_stood_still_for_hundreds_of_them(both):
    feed, readings, _ = both
    with suppress(BlockingIOError):
        while True:
            readings._feed.send(exporter._ASK, socket.MSG_DONTWAIT)
    readings._beat_s -= ANSWER_S
    scrape = threading.Thread(target=readings.read, daemon=True)
    scrape.start()
    scrape.join(5)
    assert not scrape.is_alive()
    assert feed.recv(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exporter_that_cannot_read_an_answer_ends_and_does_not_outlive_the_feed(both):
    feed, _, ended = both
    feed.send(b"no counters")
    assert ended.wait(10)


def test_an_exporter_that_hangs_does_not_hold_up_the_feeds_end(monkeypatch):
    monkeypatch.setattr(exporter, "COMMAND", ["sh", "-c", "exec sleep 1000"])
    monkeypatch.setattr(exporter, "END_S", 20.0)
    hanging = Exporter("127.0.0.1", 0, FeedCounters, [], set(), "feed")
    began = time.monotonic()
    hanging.close()
    assert hanging._process.returncode == -signal.SIGKILL and time.monotonic() - began < 10


def test_a_loop_does_not_look_again_at_the_socket_of_an_exporter_that_has_ended(monkeypatch):
    monkeypatch.setattr(exporter, "COMMAND", ["true"])
    loop = Mock()
    one = Exporter("127.0.0.1", 0, FeedCounters, [], set(), "feed")
    one.answer_on(loop)
    one._process.wait(20)
    one._asked()
    assert one.gone
    loop.remove_reader.assert_called_once_with(one._socket)
    one.close()
    loop.remove_reader.assert_called_once()


def test_a_loop_that_stood_still_answers_all_that_was_asked_at_once(monkeypatch):
    monkeypatch.setattr(exporter, "COMMAND", ["sh", "-c", "exec sleep 1000"])
    read = Mock(side_effect=FeedCounters)
    one = Exporter("127.0.0.1", 0, read, [], set(), "feed")
    one._socket.close()
    one._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one._socket.setblocking(False)
    for asked in (1, 100):
        read.reset_mock()
        for _ in range(asked):
            theirs.send(exporter._ASK)
        one._asked()
        one._asked()
        read.assert_called_once()
        assert isinstance(pickle.loads(theirs.recv(1 << 20)), FeedCounters)
    theirs.close()
    one.close()


@pytest.mark.parametrize(("number", "gone"), [(errno.EAGAIN, False), (errno.ENOBUFS, False), (errno.EPIPE, True)])
def test_what_a_message_that_was_not_sent_means(monkeypatch, number, gone):
    class Full:
        def send(self, data: bytes) -> int:
            raise OSError(number, os.strerror(number))

        def close(self) -> None:
            pass

    monkeypatch.setattr(exporter, "COMMAND", ["sh", "-c", "exec sleep 1000"])
    one = Exporter("127.0.0.1", 0, FeedCounters, [], set(), "feed")
    one._socket.close()
    monkeypatch.setattr(one, "_socket", Full())
    one.beat()
    assert one.gone is gone
    one.close()


def test_an_exporter_that_ends_or_is_stopped_is_started_again(venue, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(exporter, "STOPPED_S", 2.0)
    port = free_port()

    async def script(feed):
        await all_good(feed)
        first = feed._metrics._process
        first.kill()
        await until(lambda: feed._metrics is not None and feed._metrics._process is not first)
        status, page = await asyncio.to_thread(ask, port)
        assert status == 200 and "kfix_up" in page
        assert "the process that serves them was killed by signal 9; it is started again" in caplog.text
        second = feed._metrics._process
        second.send_signal(signal.SIGSTOP)
        await until(lambda: feed._metrics is not None and feed._metrics._process is not second)
        assert (await asyncio.to_thread(ask, port, "/healthz")) == (200, "ok\n")
        assert "the process that serves them read nothing for 2 s; it is started again" in caplog.text

    drive(tmp_path, toml(venue, tmp_path, "again", port), script)
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        pytest.fail("it serves after the feed has ended")


def test_it_ends_with_the_feed_whatever_ends_that_and_not_before(venue, tmp_path):
    port = free_port()
    path = tmp_path / "feed.toml"
    path.write_text(toml(venue, tmp_path, "killed", port))
    command = [sys.executable, "-m", "kfix_md", "feed", str(path)]
    feed = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    assert ask(port)[0] == 200 if waiting(port) else pytest.fail("it does not serve")
    os.killpg(feed.pid, signal.SIGHUP)  # as a terminal does, for both
    assert ask(port)[0] == 200
    (child,) = map(int, Path(f"/proc/{feed.pid}/task/{feed.pid}/children").read_text().split())
    assert b"kfix_md.feed.exporter" in (shown := Path(f"/proc/{child}/cmdline").read_bytes())
    assert shown.endswith(b"\0killed\0")  # the feed's name
    os.kill(child, signal.SIGSTOP)  # it has the port all the same
    feed.kill()
    feed.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and waiting(port, 0):
        time.sleep(0.02)
    assert not waiting(port, 0)


def waiting(port: int, seconds: float = 20.0) -> bool:
    """Something listens on the port, within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except TimeoutError:  # what listens there accepts nothing
            return True
        except OSError:
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def test_a_machine_that_lets_no_process_start_costs_the_metrics_for_a_while(monkeypatch):
    def full(*_, **__):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(UsageError, match="no process to serve it: resource temporarily unavailable") as caught:
        Exporter("127.0.0.1", 0, FeedCounters, [], set(), "full")
    assert may_pass(caught.value)


def test_a_histogram_is_written_as_prometheus_client_writes_its_own():
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client import Histogram as Theirs

    bounds, values = (5e-6, 0.001, 0.25, 1.0), (0.0, 5e-6, 0.0011, 0.25, 0.3, 7.0)
    theirs = Theirs("h_seconds", "some text", ["service"], buckets=bounds, registry=None)
    ours = Histogram("h_seconds", "some text", bounds, ("service",))
    for each in values:
        theirs.labels("a").observe(each)
        ours.row("a").observe(each)
    pages = []
    for collect in (theirs.collect, lambda: [ours.family()]):
        registry = CollectorRegistry(auto_describe=False)
        registry.register(type("One", (), {"collect": staticmethod(collect)})())
        pages.append([line for line in generate_latest(registry).splitlines() if b"_created{" not in line])
    assert pages[0] == pages[1]
