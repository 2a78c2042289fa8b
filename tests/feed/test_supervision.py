"""Internal errors: an exception outside a message costs one connection, is counted, and the service starts again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from kfix_md import attach
from kfix_md._entry import State
from kfix_md.errors import UsageError
from kfix_md.feed import process
from kfix_md.feed.process import FeedProcess
from kfix_md.session.store import SequenceStore
from tests.feed.rig import ROOT, Venue, all_good, drive, load, until

pytest.importorskip("trustme")
ONE = ("spot-l2",)
OF_SERVICE = ("calm", "received", "leave")  # the other places are of its session


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    one = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "3", "--rate", "50")
    yield one
    one.close()


def test_a_disk_error_of_the_sequence_store_ends_no_session(venue, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    def broken(self, expected, outgoing, now_ns):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def script(feed):
        await all_good(feed)
        monkeypatch.setattr(SequenceStore, "save", broken)
        venue("drop", service="spot-l2", how="fin")
        await until(lambda: feed.services[0].connects == 2)
        await all_good(feed)

    text = venue.toml(tmp_path, "store", ONE, service='symbols = ["*"]\nreset_seq_num = false')
    feed = drive(tmp_path, text, script)
    assert feed.services[0].errors == 0
    assert caplog.text.count("sequence numbers cannot be stored") == 1


@pytest.mark.parametrize("where", ["disconnected", "connected", "tick", "interrupt", "calm", "received", "leave"])
def test_an_error_of_ours_costs_one_connection(venue, tmp_path, monkeypatch, caplog, where):
    async def script(feed):
        await all_good(feed)
        service = feed.services[0]
        owner, failures = service if where in OF_SERVICE else service.session, [RuntimeError("of ours")]
        usual, open_then = getattr(owner, where), []

        def failing(*arguments):
            if failures:
                open_then.append(feed.connectors[0]._protocol)
                raise failures.pop()
            return usual(*arguments)

        monkeypatch.setattr(owner, where, failing)
        venue("drop", service="spot-l2", how="fin")
        await until(lambda: not failures)
        await until(lambda: service.states[State.LIVE] == 0)
        await until(lambda: service.connects > 1)
        await all_good(feed)
        assert service.errors == 1
        assert all(protocol is None or protocol.transport.is_closing() for protocol in open_then)

    drive(tmp_path, venue.toml(tmp_path, f"error-{where}", ONE), script)
    assert "internal error" in caplog.text and "RuntimeError: of ours" in caplog.text


@pytest.mark.parametrize(("what", "broken"), [("_publish_session", lambda service: 1 // 0), ("_metrics", object())])
def test_an_error_in_the_heartbeat_leaves_a_living_feed(venue, tmp_path, monkeypatch, caplog, what, broken):
    async def script(feed):
        await all_good(feed)
        monkeypatch.setattr(feed, what, broken)
        reader = attach(path=feed.segment.path)
        before = reader.counters["messages"]
        await asyncio.sleep(3 * feed.config.feed.heartbeat_ms / 1000)
        assert reader["BTC/USD"].top() is not None and reader.counters["messages"] > before
        monkeypatch.undo()

    drive(tmp_path, venue.toml(tmp_path, "beat", ONE), script)
    assert "internal error in the heartbeat" in caplog.text


def test_an_error_in_the_background_is_logged_and_the_work_goes_on(venue, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(process, "GC_SECONDS", 0.05)
    monkeypatch.setattr(process, "AGAIN_S", 0.05)
    calls = Counter()

    def broken(what):
        def call(*_):
            calls[what] += 1
            raise RuntimeError("of ours")

        return call

    async def script(feed):
        await all_good(feed)
        monkeypatch.setattr(feed._garbage, "step", broken("garbage"))
        monkeypatch.setattr(feed, "_serve_metrics", broken("metrics"))
        monkeypatch.setattr(feed.config.metrics, "port", 1)
        await until(lambda: calls["garbage"] > 1 and calls["metrics"] > 1)

    drive(tmp_path, venue.toml(tmp_path, "background", ONE), script)
    assert "internal error in garbage collection" in caplog.text
    assert "internal error while something missing was tried again" in caplog.text


def test_messages_are_read_between_the_parts_of_a_heartbeat(venue, tmp_path, monkeypatch):
    order = []

    async def script(feed):
        await all_good(feed)
        loop = asyncio.get_running_loop()

        def noted(name):
            part = getattr(feed, name)

            def run(*arguments):
                order.append(name)
                part(*arguments)
                loop.call_soon(order.append, "others")

            return run

        for name in ("_beat_once", "_publish_session", "_publish_counters"):
            monkeypatch.setattr(feed, name, noted(name))
        await until(lambda: order.count("_beat_once") > 1)

    drive(tmp_path, venue.toml(tmp_path, "parts", ONE), script)
    begin = order.index("_beat_once")
    assert order[begin : begin + 6] == [
        "_beat_once",
        "others",
        "_publish_session",
        "others",
        "_publish_counters",
        "others",
    ]


def test_a_certificate_that_does_not_verify_ends_a_first_start_and_no_restart(venue, tmp_path, caplog):
    right = venue.toml(tmp_path, "cert", ONE)
    wrong = "\n".join(line for line in right.splitlines() if not line.startswith("tls_ca"))

    async def refused(feed):
        await until(lambda: feed.fault, 15)

    for _ in range(2):  # also a second attempt that has never been logged on
        with pytest.raises(UsageError, match="certificate not signed by"):
            drive(tmp_path, wrong, refused)
    drive(tmp_path, right, all_good)

    async def tried(feed):
        await until(lambda: caplog.text.count("trying again, since this feed has run before") >= 2, 15)

    assert drive(tmp_path, wrong, tried).fault == ""


def test_a_symbol_that_is_gone_at_a_restart_ends_no_service(venue, tmp_path, caplog):
    drive(tmp_path, venue.toml(tmp_path, "gone", ONE), all_good)
    more = 'symbols = ["BTC/USD", "GONE/USD"]'

    async def script(feed):
        await until(lambda: "trying again, since this feed has run before" in caplog.text, 15)
        await until(lambda: feed.services[0].states[State.LIVE] == 1, 15)
        assert "GONE/USD" in caplog.text

    text = venue.toml(tmp_path, "gone", ONE, service=more, feed='unknown_symbols = "stop"')
    assert drive(tmp_path, text, script).fault == ""


def test_a_host_that_is_no_name_is_retried_with_a_reason(venue, tmp_path, caplog):
    async def script(feed):
        await until(lambda: caplog.text.count("foo..bar") >= 2, 15)

    text = venue.toml(tmp_path, "host", ONE).replace('host = "localhost"', 'host = "foo..bar"')
    feed = drive(tmp_path, text, script)
    assert feed.services[0].errors == 0 and feed.fault == ""


def test_a_secret_that_is_not_base64_is_a_configuration_error(venue, tmp_path, monkeypatch):
    monkeypatch.setenv("KFIX_TEST_KEY", "key")
    monkeypatch.setenv("KFIX_TEST_SECRET", "not base64!")
    more = 'symbols = ["*"]\napi_key = "env:KFIX_TEST_KEY"\napi_secret = "env:KFIX_TEST_SECRET"'
    with pytest.raises(UsageError, match="base64"):
        FeedProcess(load(tmp_path, venue.toml(tmp_path, "secret", ONE, service=more)))
    assert not list(tmp_path.glob("kfix-md*")), "before a segment is made"


def test_a_feed_whose_log_nobody_reads_serves_and_ends(venue, tmp_path):
    load(tmp_path, venue.toml(tmp_path, "stuck", ONE))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    command = [sys.executable, "-m", "kfix_md", "feed", str(tmp_path / "feed.toml")]
    feed = subprocess.Popen(command, stdout=writing, stderr=writing, cwd=ROOT)
    try:
        reader, end = None, time.monotonic() + 20
        while time.monotonic() < end:
            try:
                reader = attach("stuck", directory=tmp_path)
                if reader["BTC/USD"].state is State.LIVE:
                    break
            except Exception:
                time.sleep(0.05)
        assert reader is not None and reader["BTC/USD"].state is State.LIVE
        began = time.monotonic()
        feed.send_signal(signal.SIGTERM)
        assert feed.wait(10) == 0 and time.monotonic() - began < 5
    finally:
        feed.kill()
        feed.wait()
        os.close(reading)
        os.close(writing)
