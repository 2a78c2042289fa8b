"""The whole path over TLS: venue process, sessions, books, shared memory, journal, and what heals how."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request

import pytest

from kfix_md._entry import Cause, State
from kfix_md.errors import UsageError
from kfix_md.journal.reader import JournalReader
from kfix_md.session.types import SessionState
from tests.feed.rig import Venue, all_good, drive, equal_to_truth, good, until


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    venue = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "4", "--rate", "300")
    yield venue
    venue.close()


def events(folder, kind=None):
    """Session events of the journal, in order."""
    found = [json.loads(bytes(body)) for _, record, _, _, _, body in JournalReader(folder / "journal") if record == 2]
    return [event for event in found if kind in (None, event["type"])]


def test_all_services_become_good_and_equal_the_truth(venue, tmp_path):
    async def script(feed):
        await all_good(feed)
        await asyncio.sleep(0.5)
        assert await equal_to_truth(feed, venue) == 16
        assert all(service.handler.stats["crc_failed"] == 0 for service in feed.services)
        assert sum(service.handler.stats["crc_checked"] for service in feed.services) > 100

    feed = drive(tmp_path, venue.toml(tmp_path, "t-all"), script)
    assert all(service.session.state == SessionState.OFF for service in feed.services)
    assert not (tmp_path / "kfix-md.t-all").exists()
    kinds = {event["type"] for event in events(tmp_path)}
    assert {"started", "session", "connected", "logged_on", "subscribed", "book", "verified", "stopped"} <= kinds


@pytest.mark.parametrize(("answer", "healed"), [("replay", "replay"), ("gapfill", "snapshot"), ("mixed", "snapshot")])
def test_a_gap_heals_and_the_books_are_right(venue, tmp_path, answer, healed):
    async def script(feed):
        await all_good(feed)
        venue("gap", count=3, answer=answer)
        await until(lambda: all(s.healed for s in feed.services))
        await all_good(feed)
        await equal_to_truth(feed, venue)
        for service in feed.services:
            assert [(cause, how) for cause, how, _ in service.healed] == [("lost", healed)], service.name

    drive(tmp_path, venue.toml(tmp_path, f"t-{answer}"), script)
    opened = [event for event in events(tmp_path, "gap_open") if event["cause"] == "lost"]
    assert len(opened) == 4 and all(event["last"] - event["first"] == 2 for event in opened)
    assert all(len(event["symbols"]) == 4 for event in opened)
    closed = {event["id"]: event["healed"] for event in events(tmp_path, "gap_close")}
    assert {closed[event["id"]] for event in opened} == {healed}


def test_a_wrong_crc_touches_its_symbol_alone(venue, tmp_path):
    changes = []

    async def script(feed):
        await all_good(feed)
        service = next(s for s in feed.services if s.name == "spot-l3")
        victim = sorted(service.subs.all)[0]
        shown = service.on_book
        service.handler.books.listener = type(
            "Spy", (), {"on_book": staticmethod(lambda *a: (changes.append((a[0], a[1], a[2])), shown(*a)))}
        )
        venue("crc", symbol=victim, level="L3")
        await until(lambda: (victim, State.LIVE) in [change[:2] for change in changes])
        assert {symbol for symbol, _, _ in changes} == {victim}
        assert (victim, State.CRC_FAIL, Cause.CRC) in changes
        await equal_to_truth(feed, venue)
        assert [(cause, how) for cause, how, _ in service.healed] == [("crc", "snapshot")]

    drive(tmp_path, venue.toml(tmp_path, "t-crc"), script)
    [gap] = [event for event in events(tmp_path, "gap_open") if event["cause"] == "crc"]
    assert len(gap["symbols"]) == 1


@pytest.mark.parametrize("form", ["logout", "fin", "rst", "seqreset", "inlogon", "restart0", "restart1"])
def test_a_rollover_in_any_form_ends_with_good_books(venue, tmp_path, form):
    soon = time.strftime("%H:%M:%S", time.gmtime(time.time() + 1))

    async def script(feed):
        await all_good(feed)
        venue("rollover", form=form, refuse=0.3)
        await until(lambda: all(s.session.rollover.verified_ns for s in feed.services), 15)
        await all_good(feed)
        await equal_to_truth(feed, venue)
        assert {cause for s in feed.services for cause in s.gaps} <= {"rollover", "restart"}

    drive(tmp_path, venue.toml(tmp_path, f"t-{form}", feed=f'rollover = "{soon}"'), script)
    assert any(event["phase"] == "verified" for event in events(tmp_path, "rollover"))


def test_an_unplanned_loss_is_down_then_good_again(venue, tmp_path):
    async def script(feed):
        await all_good(feed)
        service = feed.services[0]
        symbol = sorted(service.subs.all)[0]
        venue("drop", service=service.name, how="rst")
        await until(lambda: service.handler[symbol].state is State.DOWN)
        assert service.handler[symbol].cause is Cause.DISCONNECT
        assert all(good(other) for other in feed.services[1:])
        await all_good(feed)
        await equal_to_truth(feed, venue)

    drive(tmp_path, venue.toml(tmp_path, "t-drop"), script)


@pytest.mark.parametrize("engine", ["aiofastnet", "uvloop"])
def test_a_reset_is_noticed_at_once_whoever_polls_the_socket(venue, tmp_path, engine):
    async def script(feed):
        await all_good(feed)
        venue("refuse", service="spot-l2", seconds=0.3, how="close")
        venue("drop", service="spot-l2", how="rst")
        await until(lambda: feed.services[0].states[State.DOWN] == 4, 0.3)
        await all_good(feed)

    drive(tmp_path, venue.toml(tmp_path, "t-reset", ("spot-l2",), feed=f'tls_engine = "{engine}"'), script)


def test_symbols_follow_the_configuration_while_running(venue, tmp_path, caplog):
    async def script(feed):
        await all_good(feed)
        service = feed.services[0]
        first = sorted(service.subs.all)[:2]
        assert len(first) == 1
        wanted = sorted(service.subs.listing.listed())[:2]
        (tmp_path / "feed.toml").write_text(
            venue.toml(tmp_path, "t-reload", ("spot-l2",), service=f"symbols = {json.dumps(wanted)}")
        )
        feed.reload()
        await until(lambda: good(service) and len(service.subs.all) == 2)
        assert service.session.stats["sent"] > 0 and service.connects == 1
        good_ones = sorted(service.subs.all)
        typo = json.dumps([good_ones[0], "BTC/USB", "*/EUR"])
        for mistaken in ("nonsense", venue.toml(tmp_path, "t-reload", ("spot-l2",), service=f"symbols = {typo}")):
            (tmp_path / "feed.toml").write_text(mistaken)
            feed.reload()  # is logged, and changes nothing
            assert sorted(service.subs.all) == good_ones and service.subs.spec.patterns == tuple(wanted)
        assert caplog.text.count("not reloaded, nothing changed") == 2 and "no instrument 'BTC/USB'" in caplog.text

    names = json.dumps(["BTC/USD"])
    drive(tmp_path, venue.toml(tmp_path, "t-reload", ("spot-l2",), service=f"symbols = {names}"), script)


def test_settings_that_need_a_restart_are_named(venue, tmp_path, caplog):
    async def script(feed):
        await all_good(feed)
        changed = venue.toml(
            tmp_path, "t-keys", ("spot-l2", "spot-l3"), feed="book_depth = 500", service='depth = 25\nsymbols = ["*"]'
        )
        (tmp_path / "feed.toml").write_text(changed.replace("[journal]", '[journal]\nretention = "zstd"'))
        feed.reload()
        keys = "feed.book_depth, journal.retention, service[0] (spot-l2).depth"
        assert f"changed, but not followed without a restart: {keys}" in caplog.text
        assert "new service spot-l3 in the configuration: needs a restart" in caplog.text
        caplog.clear()
        (tmp_path / "feed.toml").write_text(venue.toml(tmp_path, "t-keys", ("spot-l2",)))
        feed.reload()
        assert "restart" not in caplog.text

    drive(tmp_path, venue.toml(tmp_path, "t-keys", ("spot-l2",)), script)


def test_metrics_are_served(venue, tmp_path):
    async def script(feed):
        await all_good(feed)
        port = feed._metrics.port
        page = await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
        )
        assert 'kfix_up{sender="t-metrics-0",service="spot-l2"} 1.0' in page
        assert 'kfix_states{sender="t-metrics-0",service="spot-l2",state="live"} 4.0' in page
        assert "kfix_journal_records_total" in page

    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    drive(tmp_path, venue.toml(tmp_path, "t-metrics", journal=f"[metrics]\nport = {port}"), script)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("tls_ca", "#tls_ca"), ["certificate not signed by", "set tls_ca"]),
        (('host = "localhost"', 'host = "localhost"\ntls_name = "other.example"'), ["not for 'other.example'"]),
        (('symbols = ["*"]', 'symbols = ["BTC/USB"]'), ["no instrument 'BTC/USB'", "near: BTC/USD"]),
    ],
)
def test_what_cannot_work_ends_in_one_line(venue, tmp_path, change, parts):
    async def script(feed):
        await asyncio.sleep(10)

    text = venue.toml(tmp_path, "t-bad", ("spot-l2",)).replace(*change)
    with pytest.raises(UsageError) as caught:
        drive(tmp_path, text, script)
    message = str(caught.value)
    assert "\n" not in message and "spot-l2" in message
    for part in parts:
        assert part in message
    assert not (tmp_path / "kfix-md.t-bad").exists()


@pytest.mark.parametrize("engine", ["aiofastnet", "uvloop"])
def test_a_certificate_without_a_subject_alternative_name_is_rejected(tmp_path, monkeypatch, engine):
    import trustme
    from cryptography import x509

    from kfix_md.simulator import tls

    def issue(self, *names, issue=trustme.CA.issue_cert, **how):
        return issue(self, *names, **(how | {"common_name": "localhost"}))

    def add(self, extension, critical, add=x509.CertificateBuilder.add_extension):
        return self if isinstance(extension, x509.SubjectAlternativeName) else add(self, extension, critical)

    with monkeypatch.context() as patch:
        patch.setattr(trustme.CA, "issue_cert", issue)  # the host is its common name
        patch.setattr(x509.CertificateBuilder, "add_extension", add)
        tls.make(tmp_path / "venue" / "tls")
    venue = Venue(tmp_path / "venue", "--symbols", "1")
    try:
        text = venue.toml(tmp_path, "t-san", ("spot-l2",), feed=f'tls_engine = "{engine}"')
        with pytest.raises(UsageError, match=r"spot-l2: .*not for 'localhost'"):
            drive(tmp_path, text, lambda feed: asyncio.sleep(10))
    finally:
        venue.close()


def test_a_refused_port_is_tried_again_until_it_answers(venue, tmp_path):
    async def script(feed):
        await asyncio.sleep(0.2)
        assert feed.services[0].session.state != SessionState.ON
        venue("refuse", service="spot-l2", seconds=0.3, how="tcp")
        await all_good(feed)

    venue("refuse", service="spot-l2", seconds=60, how="tcp")
    drive(tmp_path, venue.toml(tmp_path, "t-refused", ("spot-l2",)), script)


def test_a_hot_pair_loses_nothing_when_one_session_does(venue, tmp_path):
    import kfix_md

    seen = []

    async def script(feed):
        await all_good(feed)
        before = feed.pairs[0].switches
        first = feed.pairs[0].served("BTC/USD")
        second = next(service for service in feed.services if service is not first)
        books = kfix_md.attach("t-pair", directory=tmp_path)
        assert len(books.books()) == 4
        venue("refuse", service="spot-l2", seconds=0.5, how="close")
        venue("drop", service="spot-l2", sender=first.section.sender_comp_id, how="rst")
        for _ in range(40):
            seen.extend(book.state for book in books.books())
            await asyncio.sleep(0.01)
        assert feed.pairs[0].switches > before and feed.pairs[0].served("BTC/USD") is second
        venue("crc", symbol="BTC/USD", level="L2")  # the line of both sessions: both fail, both heal
        await all_good(feed)
        await equal_to_truth(feed, venue)
        venue("pause")
        await asyncio.sleep(0.1)
        for symbol in books:
            truth = venue.control.truth(symbol, "L2")["ints"]
            bids, asks = books[symbol].depth(None, price="int")
            assert [(int(p), int(q)) for p, q, _ in bids.tolist()] == [(p, q) for p, q, _ in truth["bids"]]
            assert [(int(p), int(q)) for p, q, _ in asks.tolist()] == [(p, q) for p, q, _ in truth["offers"]]
        venue("resume")

    config = venue.toml(tmp_path, "t-pair", ("spot-l2", "spot-l2"))
    drive(tmp_path, config, script)
    assert set(seen) <= {State.LIVE, State.EMPTY}
