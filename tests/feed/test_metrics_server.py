"""/metrics is a bounded server: idle and slow clients cost few descriptors, and none for long."""

from __future__ import annotations

import os
import socket
import time
import urllib.error
import urllib.request

import pytest

from kfix_md.feed import metrics
from kfix_md.feed.metrics import CONNECTIONS, FeedCounters, Metrics

pytest.importorskip("prometheus_client")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(metrics, "IDLE_S", 0.5)
    one = Metrics("127.0.0.1", 0, FeedCounters)
    yield one
    one.close()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=3) as answer:
        return answer.read().decode()


def test_what_it_serves(server):
    text = scrape(server.port)
    assert "kfix_journal_records_total 0.0" in text and "kfix_log_lines_lost_total 0.0" in text


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


def test_it_serves_many_one_after_another(server):
    for _ in range(5 * CONNECTIONS):
        assert scrape(server.port)
