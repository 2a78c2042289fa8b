"""Dialling and waiting: errors in plain English, every address tried, back-off that grows and is reset."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import ssl
import sys
from itertools import pairwise

import pytest

from kfix_md.config import ServiceSection
from kfix_md.errors import UsageError, may_pass
from kfix_md.feed.connector import Backoff
from kfix_md.feed.dial import DialError, Endpoint, choose_engine, dial, explain, resolve, tls_context
from kfix_md.feed.service import Service
from kfix_md.session.types import SessionState


def test_backoff_grows_to_its_limit_and_starts_again():
    backoff = Backoff(30.0, random.Random(1))
    waits = [backoff.next("backoff") for _ in range(14)]
    assert waits[0] < 0.1 and 22 < waits[-1] < 38
    assert all(b > a for a, b in pairwise(waits[:9]))
    backoff.success()
    assert backoff.next("backoff") < 0.1


def test_a_retry_that_is_due_now_does_not_wait_for_the_back_off():
    backoff = Backoff(30.0, random.Random(1))
    for _ in range(10):
        backoff.next("backoff")
    assert backoff.next("now") < 0.1


def test_backoff_at_the_rollover_is_quick_for_as_long_as_it_takes():
    backoff = Backoff(30.0, random.Random(1))
    waits = [backoff.next("rollover") for _ in range(100)]
    assert waits[0] < 0.4 and max(waits) <= 2.5 and min(waits[5:]) >= 1.5


def test_credentials_that_are_refused_are_not_hurried():
    backoff = Backoff(30.0, random.Random(1))
    waits = [backoff.next("long") for _ in range(8)]
    assert 45 <= waits[0] <= 75 and 90 <= waits[1] <= 150 and 450 <= waits[-1] <= 750
    backoff.success()
    assert backoff.next("long") <= 75


@pytest.mark.parametrize(
    ("error", "kind", "parts"),
    [
        (ConnectionRefusedError(), "refused", "refused"),
        (TimeoutError(), "timeout", "no answer"),
        (socket.gaierror(-2, "Name or service not known"), "dns", "does not resolve"),
        (UnicodeError("label empty or too long"), "dns", "is not a host name"),
        (ConnectionResetError(), "tls", "during the TLS handshake"),
        (ssl.SSLError(1, "wrong version"), "tls", "TLS 1.3"),
        (OSError(113, "No route to host"), "unreachable", "No route"),
    ],
)
def test_errors_of_dialling_are_sorted_and_told(error, kind, parts):
    found = explain(error, Endpoint("venue.example", 4000))
    assert found.kind == kind and parts in str(found) and "venue.example:4000" in str(found)


def test_keys_of_sessions_are_never_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert tls_context(Endpoint("x", 1)).keylog_filename is None
    assert not (tmp_path / "keys").exists()


def test_only_tls_1_3_with_names_checked(tmp_path, monkeypatch):
    context = tls_context(Endpoint("x", 1))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3 and context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert not context.hostname_checks_common_name, "only subjectAltName counts"
    loose = tls_context(Endpoint("x", 1, verify=False))
    assert loose.verify_mode == ssl.CERT_NONE and loose.minimum_version == ssl.TLSVersion.TLSv1_3
    with pytest.raises(UsageError, match="no such file"):
        tls_context(Endpoint("x", 1, ca=tmp_path / "none"))
    (tmp_path / "text").write_text("not PEM")
    with pytest.raises(UsageError, match="not a PEM"):
        tls_context(Endpoint("x", 1, ca=tmp_path / "text"))

    def short_of(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", short_of)
    with pytest.raises(UsageError, match="cannot be read: too many open files") as caught:
        tls_context(Endpoint("x", 1, ca=tmp_path / "text"))
    assert may_pass(caught.value), "a machine short of something ends no feed"


def fake_dns(monkeypatch, loop, addresses):
    async def getaddrinfo(host, port, **_):
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in addresses]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


def test_families_are_interleaved(monkeypatch):
    async def main():
        four, six = socket.AF_INET, socket.AF_INET6
        fake_dns(monkeypatch, asyncio.get_running_loop(), [(six, "a"), (six, "b"), (four, "c"), (six, "a")])
        assert [address[0] for _, address in await resolve(Endpoint("x", 1))] == ["a", "c", "b"]

    asyncio.run(main())


def test_every_address_is_tried(monkeypatch):
    """The first two addresses refuse, the third answers; without it the error of the last is reported."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.3", 0)
        port = server.sockets[0].getsockname()[1]
        addresses = [(socket.AF_INET, f"127.0.0.{n}") for n in (1, 2, 3)]
        fake_dns(monkeypatch, loop, addresses)
        end = Endpoint("venue.example", port, tls=False)
        transport, known = await dial(end, asyncio.Protocol, None, choose_engine("uvloop"))
        assert known.address == f"127.0.0.3:{port}" and known.resolved == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        transport.abort()
        fake_dns(monkeypatch, loop, addresses[:2])
        with pytest.raises(DialError) as caught:
            await dial(end, asyncio.Protocol, None, choose_engine("uvloop"))
        assert caught.value.kind == "refused"
        server.close()

    asyncio.run(main())


def test_aiofastnet_is_used_when_it_is_there_and_missed_only_when_asked_for_by_name(monkeypatch):
    aiofastnet = pytest.importorskip("aiofastnet")
    assert choose_engine("auto") is choose_engine("aiofastnet") is aiofastnet.create_connection
    assert choose_engine("uvloop") is not aiofastnet.create_connection
    monkeypatch.setitem(sys.modules, "aiofastnet", None)  # an import of it fails

    class Loop:
        def create_connection(self, factory, **options):
            return factory, options

    assert choose_engine("auto")(Loop(), "factory", sock=3) == ("factory", {"sock": 3})
    with pytest.raises(UsageError, match="tls_engine: aiofastnet is not installed: pip install aiofastnet"):
        choose_engine("aiofastnet")


def test_a_read_that_calls_for_nothing_ends_in_the_handler(monkeypatch):
    """The way of most reads: no look at session and subscriptions, nothing written."""
    service = Service(ServiceSection(name="spot-l2", sender_comp_id="ME", symbols=["*"]), 0)
    looked = []
    monkeypatch.setattr(service, "_after", looked.append)
    service.handler.get_buffer()
    assert service.received(0, 5) is False and not looked and service.now_ns == 5
    service.session.gaps.unsettled = True
    assert service.received(0, 6) is False and looked == [6]
    service.session.gaps.unsettled = False
    service.connected(7)
    assert service.received(0, 8) is True  # the Logon waits to be written


def test_a_service_with_nothing_to_wait_for_is_calm():
    service = Service(ServiceSection(name="spot-l2", sender_comp_id="ME", symbols=["*"]), 0)
    assert not service.calm(0)  # not logged on
    service.session.link.state = SessionState.ON
    assert service.calm(10**18)
    service.subs.ready(10**9)  # an answer is waited for, 10 s
    assert service.calm(10**9) and not service.calm(12 * 10**9)
