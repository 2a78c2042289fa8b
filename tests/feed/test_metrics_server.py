"""/metrics is a bounded server: idle and slow clients cost few descriptors, and none for long."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from types import SimpleNamespace
from typing import cast

import pytest

from kfix_md import metrics_server
from kfix_md.disk import Store
from kfix_md.errors import UsageError, may_pass
from kfix_md.feed.clock import Clock
from kfix_md.feed.metrics import FeedCounters, gather, serve
from kfix_md.feed.process import FeedProcess
from kfix_md.metrics_server import CONNECTIONS, listen
from tests.feed.offline import SECOND, Offline
from tests.session.peer import stamp

pytest.importorskip("prometheus_client")


def served(reading: FeedCounters, *stores: Store) -> metrics_server.MetricsServer:
    """A server of one reading, with this process as the feed."""
    return serve(listen("127.0.0.1", 0), lambda: reading, stores, pid=os.getpid(), lost=lambda: 0)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(metrics_server, "IDLE_S", 0.5)
    one = served(FeedCounters())
    yield one
    one.close()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=3) as answer:
        return answer.read().decode()


def test_what_it_serves(server):
    text = scrape(server.port)
    assert "kfix_journal_records_total 0.0" in text and "kfix_log_lines_lost_total 0.0" in text


def no_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as one:
        one.bind(("::1", 0))
        return False
    return True


@pytest.mark.skipif(no_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize(("host", "reached"), [("::1", ["::1"]), ("::", ["::1", "127.0.0.1"])])
def test_it_listens_on_addresses_of_ipv6(host, reached):
    one = serve(listen(host, 0), FeedCounters, (), pid=os.getpid(), lost=lambda: 0)
    for address in reached:
        url = f"http://[{address}]:{one.port}/healthz" if ":" in address else f"http://{address}:{one.port}/healthz"
        with urllib.request.urlopen(url, timeout=3) as answer:
            assert answer.read() == b"ok\n"
    one.close()


def test_an_address_that_cannot_be_had_is_named_with_its_key():
    with listen("localhost", 0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"recorder.metrics_port = {port}: address already in use on local"):
            listen("localhost", port, "recorder.metrics_port")
    with pytest.raises(
        UsageError, match=r"^metrics.host = '192.0.2.1': cannot assign requested address; name an"
    ) as away:
        listen("192.0.2.1", 0)
    assert may_pass(away.value)


@pytest.mark.parametrize(("number", "passes"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
def test_a_name_that_does_not_resolve_is_a_mistake_unless_its_server_is_away(monkeypatch, number, passes):
    def fails(*_, **__):
        raise socket.gaierror(number, "Some Reason")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(UsageError, match=r"^metrics\.host = 'metrics.invalid': some reason; ") as caught:
        listen("metrics.invalid", 0)
    assert may_pass(caught.value) == passes


def test_idle_connections_take_no_more_than_their_share_and_are_closed(server):
    before = len(os.listdir("/proc/self/fd"))
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    time.sleep(0.3)
    ours = len(os.listdir("/proc/self/fd")) - before - len(idle)
    assert ours <= CONNECTIONS
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            assert "kfix_journal_records_total" in scrape(server.port)
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    else:
        pytest.fail("it never served again")
    for each in idle:
        each.close()


def test_clients_that_send_a_byte_now_and_then_keep_no_place(monkeypatch):
    monkeypatch.setattr(metrics_server, "LONGEST_S", 1.0)
    server = served(FeedCounters())
    slow = []
    for _ in range(CONNECTIONS):
        slow.append(socket.create_connection(("127.0.0.1", server.port)))
        slow[-1].send(b"GET /metrics HTTP/1.1\r\nX: ")
        time.sleep(0.02)  # the backlog is short
    refused = 0
    while refused < 100:
        for each in slow:
            with suppress(OSError):  # it was closed
                each.send(b"1")
        with suppress(urllib.error.URLError, ConnectionError):
            scrape(server.port)
            break
        refused += 1
        time.sleep(0.1)
    assert 0 < refused < 100, "at first they have every place"
    for each in slow:
        each.close()
    server.close()


def test_connections_for_which_no_thread_can_be_started_give_their_places_back(server, monkeypatch):
    def full(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as no_threads:
        no_threads.setattr(threading.Thread, "start", full)
        for _ in range(2 * CONNECTIONS):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client, suppress(OSError):
                assert client.recv(1) == b""
    assert scrape(server.port)


def test_a_process_without_descriptors_is_not_kept_busy_by_connections(server, monkeypatch):
    class Full:
        def __init__(self, listener: socket.socket) -> None:
            self.fileno, self.tries = listener.fileno, 0

        def accept(self) -> None:
            self.tries += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    full = Full(server._server.socket)
    with monkeypatch.context() as no_descriptors:
        no_descriptors.setattr(server._server, "socket", full)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5):
            time.sleep(0.5)
    assert 0 < full.tries < 20
    assert scrape(server.port)


def test_it_serves_many_one_after_another(server):
    for _ in range(5 * CONNECTIONS):
        assert scrape(server.port)


SESSION = {"labels": ("spot-l2", "S"), "up": 0, "planned": 0, "logged_on": False, "lagging": 0, "lag_seconds": 7.21}


def ask(reading: FeedCounters, path: str, *stores: Store) -> tuple[int, str]:
    server = served(reading, *stores)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=3) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("change", "path", "answer"),
    [
        ({}, "/readyz", (503, "spot-l2 (S): not logged on\n")),
        ({"logged_on": True}, "/readyz", (503, "spot-l2 (S): a gap is open\n")),
        ({"planned": 1}, "/readyz", (200, "ok\n")),
        ({"up": 1}, "/readyz", (200, "ok\n")),
        ({"up": 1, "lagging": 1}, "/readyz", (503, "spot-l2 (S): messages arrive 7.2 s late\n")),
        ({}, "/healthz", (200, "ok\n")),
        ({}, "/", (404, "there are /metrics, /healthz and /readyz\n")),
        ({}, "/metrics/x", (404, "there are /metrics, /healthz and /readyz\n")),
    ],
)
def test_probes_answer_with_the_reason(change, path, answer):
    assert ask(FeedCounters([SESSION | change]), path) == answer


def test_a_loop_that_stands_still_is_neither_healthy_nor_ready():
    reading = FeedCounters(beat_age_s=12.3)
    for path in ("/healthz", "/readyz"):
        assert ask(reading, path) == (503, "the loop has not run for 12 s\n")


def test_what_a_failed_sync_puts_at_risk_is_exported():
    journal = {"risk_records": 3, "risk_bytes": 700, "rescued": 2, "rescue_lost": 96}
    _, page = ask(FeedCounters(journal=journal), "/metrics")
    for line in ("risk_records 3.0", "risk_bytes 700.0", "rescued_total 2.0", "rescue_lost_total 96.0"):
        assert f"\nkfix_journal_{line}\n" in page


def test_a_session_that_lags_is_exported_and_in_the_sums():
    rig = Offline().connect()
    feed = SimpleNamespace(services=[rig.service], clock=Clock(), beat_age_s=lambda: 0.5, stalls=None)
    feed.place, feed.recording = SimpleNamespace(republished=0, alarm=""), SimpleNamespace(stats=dict)
    for late_s in (0, 7, 0):
        rig.wait(1).update("A/USD", sending=stamp(rig.now - late_s * SECOND))
        reading = gather(cast(FeedProcess, feed))
        labels = '{sender="CLIENT",service="spot-l2"}'
        page = ask(reading, "/metrics")[1]
        assert f"\nkfix_lagging{labels} {float(late_s > 0)}\n" in page
        assert f"\nkfix_lag_seconds{labels} {float(late_s)}\n" in page
        assert reading.totals()["lagging"] == (late_s > 0)


def test_process_build_and_disk_are_exported(tmp_path):
    text = ask(FeedCounters(), "/metrics", Store("journal", tmp_path), Store("captures", tmp_path / "none"))[1]
    assert "kfix_build_info{" in text and "process_resident_memory_bytes" in text
    assert 'kfix_disk_free_bytes{holds="journal"}' in text and 'holds="captures"' not in text
