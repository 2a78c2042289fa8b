"""One service without I/O: what one symbol's trouble costs, and what the end of a connection voids."""

from __future__ import annotations

import asyncio
import logging

import pytest

import kfix_md
from kfix_md._entry import Cause, State
from kfix_md.config import ServiceSection
from kfix_md.feed.event_log import log_event
from kfix_md.feed.pacing import SECOND, Phase, Subscription
from kfix_md.feed.process import FeedProcess
from kfix_md.feed.service import Service
from kfix_md.journal.events import ClockWarning, Logout
from tests.feed.offline import Offline
from tests.feed.rig import load


class Journal:
    """Keeps events; nothing else of a journal is used here."""

    def __init__(self):
        self.events = []

    def event(self, session, now_ns, event):
        self.events.append(event)


@pytest.fixture
def service():
    made = Service(ServiceSection(name="spot-l2", sender_comp_id="ME", symbols=["*"]), 0)
    made.journal = Journal()
    for symbol in ("A/USD", "B/USD"):
        made.handler.define(symbol, 1, 8)
        made.handler.subscribe(symbol, f"id-{symbol}", 1000)
        made.subs.all[symbol] = Subscription(symbol, Phase.ACTIVE, f"id-{symbol}", defined=True)
    made.subs._ready = True
    return made


def test_the_third_error_of_ours_leaves_the_symbol_out(service, caplog):
    for _ in range(2):
        service.on_fault("A/USD", ZeroDivisionError("x"))
    assert service.subs.all["A/USD"].phase is Phase.ACTIVE
    service.on_fault("A/USD", ZeroDivisionError("x"))
    service.subs.pump(SECOND)
    assert service.subs.all["A/USD"].phase is Phase.LEFT_OUT and service.subs.all["B/USD"].phase is Phase.ACTIVE
    assert service.subs.left_out.reasons == {"A/USD": "internal error: ZeroDivisionError('x')"}
    assert "left out: A/USD (internal error" in caplog.text


def test_no_room_in_the_middle_of_a_message_leaves_the_symbol_out_at_once(service, caplog):
    service.on_fault("B/USD", OSError(28, "No space left on device"))
    service.subs.pump(SECOND)
    assert list(service.subs.left_out.reasons) == ["B/USD"] and service.subs.all["A/USD"].phase is Phase.ACTIVE
    assert "left out: B/USD ([Errno 28] No space left on device)" in caplog.text


def test_a_read_that_leaves_nothing_to_do_runs_no_python_afterwards(monkeypatch):
    offline, ran = Offline("A/USD", "B/USD").connect(), []
    after = Service._after
    monkeypatch.setattr(Service, "_after", lambda service, now_ns: (ran.append(now_ns), after(service, now_ns)))
    assert offline.state("A/USD") == offline.state("B/USD") == "LIVE" and offline.service.subs.requests
    for _ in range(3):
        offline.update("A/USD")
    assert not ran, "an answer that may still be late is no reason"
    offline.give("X", *offline.body("A/USD", (1, "11.0", "2")), seq=offline.service.handler.sequence.expected + 5)
    assert offline.state("A/USD") == "GAP"


def test_unverified_books_are_reported_once_a_tick_with_their_number(service, caplog):
    for symbol in ("A/USD", "B/USD"):
        service.on_book(symbol, State.UNVERIFIED, Cause.RULE, 5, SECOND)
    service.tick(2 * SECOND)
    service.tick(3 * SECOND)
    lines = [r.getMessage() for r in caplog.records if "UNVERIFIED" in r.getMessage()]
    assert len(lines) == 1 and lines[0].startswith("2 books UNVERIFIED: 5041 of A/USD, B/USD fits no known")
    assert service.open_gaps() == 0 and service.states[State.UNVERIFIED] == 2


def test_a_fault_is_a_gap_until_the_book_is_followed_again(service):
    service.on_book("A/USD", State.CRC_FAIL, Cause.CRC, 5, SECOND)
    assert service.open_gaps() == 1 and service.gaps["crc"] == 1
    service.on_book("A/USD", State.CRC_FAIL, Cause.CRC, 6, SECOND)
    assert service.open_gaps() == 1
    service.on_book("A/USD", State.UNVERIFIED, Cause.RULE, 7, 2 * SECOND)
    assert service.open_gaps() == 0
    kinds = [event.type for event in service.journal.events if event.type.startswith("gap")]
    assert kinds == ["gap_open", "gap_close"]


def test_the_end_of_a_connection_voids_its_books_once(service):
    service.session.connected(SECOND)
    service._left = False
    service.leave(2 * SECOND)
    assert {service.handler.book_state(symbol)[:2] for symbol in service.subs.all} == {(State.DOWN, Cause.LEAVING)}
    assert service.subs.pending() == ["A/USD", "B/USD"]
    before = len(service.journal.events)
    service.leave(2 * SECOND)
    assert len(service.journal.events) == before
    service.disconnected(3 * SECOND, "closed")
    assert {service.handler.book_state(symbol)[1] for symbol in service.subs.all} == {Cause.LEAVING}


def test_a_connection_that_the_venue_ends_is_a_disconnect_from_the_first_moment(service):
    service.session.connected(SECOND)
    service._left = False
    service.leave(2 * SECOND, by_venue=True)
    assert {service.handler.book_state(symbol)[:2] for symbol in service.subs.all} == {(State.DOWN, Cause.DISCONNECT)}


def test_a_checksum_rule_is_logged_when_it_is_new(service, caplog):
    caplog.set_level(logging.INFO)
    for symbol in ("A/USD", "B/USD"):
        service.on_checksum_rule("order-sent", symbol, None)
    assert caplog.text.count("checksum rule: order-sent (first found for A/USD)") == 1
    assert caplog.text.count("checksum rule") == 1


def test_a_rejection_for_identity_is_logged_with_advice(caplog):
    log_event(logging.getLogger("t"), Logout("peer", "IP address not whitelisted"))
    assert "IP address not whitelisted" in caplog.text and "have it whitelisted for the CompID" in caplog.text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (ClockWarning(-3000), "clock is 3000 ms behind the venue's SendingTime"),
        (ClockWarning(3000), "clock is ahead (check its synchronisation), or the venue or the network is late"),
        (ClockWarning(3000, late=True), "arrived 3000 ms after its SendingTime, others in time: the venue or"),
    ],
)
def test_late_delivery_is_not_blamed_on_the_clock(event, text, caplog):
    log_event(logging.getLogger("t"), event)
    assert text in caplog.text


@pytest.mark.parametrize("unverified", ["refuse", "serve"])
def test_prices_of_unverified_books_are_served_when_configured(tmp_path, unverified):
    async def main():
        text = f'[feed]\nname = "u"\ndirectory = "{tmp_path}"\nunverified = "{unverified}"\nheartbeat_ms = 10000\n'
        text += SERVICE
        feed = FeedProcess(load(tmp_path, text))
        try:
            feed.segment.set_state(feed.segment.add_symbol("A/USD", 2), State.UNVERIFIED, Cause.RULE)
            book = kfix_md.attach("u", directory=tmp_path)["A/USD"]
            if unverified == "serve":
                assert len(book.top()) == 4
            else:
                with pytest.raises(kfix_md.NotLive, match="UNVERIFIED"):
                    book.top()
        finally:
            feed._close()

    asyncio.run(main())


SERVICE = '[[service]]\nname = "spot-l2"\nsender_comp_id = "ME"\nsymbols = ["*"]\n'


def test_thousands_of_snapshots_do_not_look_at_all_symbols_each():
    """A reconnect brings one snapshot a read; what is done after a read is for that read."""

    class Counted(dict):
        walks = 0

        def values(self):
            Counted.walks += 1
            return super().values()

    venue = Offline(*(f"S{n}/USD" for n in range(300)), batch=1000, requests_per_s=1000)
    venue.service.subs.all, venue.latency = Counted(), 1
    venue.connect().wait(1.0)
    assert venue.service.states[State.LIVE] == 300 and venue.service.verified_ns
    venue.lose()
    Counted.walks = 0
    venue.connect().wait(1.0)
    assert venue.service.states[State.LIVE] == 300 and venue.service.verified_ns
    assert Counted.walks < 30  # one each read were 300


def test_all_are_answered_when_the_last_is_in_any_order():
    venue = Offline(*(f"S{n}/USD" for n in range(5)))
    venue.latency = 10 * SECOND
    venue.connect().wait(1.0)
    for symbol in ("S4/USD", "S0/USD", "S2/USD", "S1/USD"):
        venue.snapshot(symbol)
        assert not venue.service.subs.answered() and not venue.service.verified_ns
    venue.snapshot("S3/USD")
    assert venue.service.subs.answered() and venue.service.verified_ns
    sub = venue.service.subs.all["S0/USD"]
    venue.service.subs._queue.plan(sub, venue.now)  # one that was passed waits again
    assert not venue.service.subs.answered()
