"""States of a service's books through maintenance, reconnects, gaps and rejects: the venue is plain frames, no I/O."""

from __future__ import annotations

import pytest

from kfix_md.journal.events import BookChanged
from tests.feed.offline import MS, Offline

LIMIT = 50 * MS  # between what readers see and what a gap row states


def maintenance(venue: Offline, how: str, on: bool) -> Offline:
    """Begin or end the maintenance of the market (340) or of A/USD (5032)."""
    if how == "market":
        venue.trading = 1 if on else 2
        return venue.give("h", (336, "SESSION"), (340, venue.trading))
    venue.status["A/USD"] = 2 if on else 1
    request = [fields[320] for kind, fields in venue.sent if kind == "x"][-1]
    return venue.give("y", (320, request), (322, "u"), (560, 0), (146, 1), (55, "A/USD"), (5032, venue.status["A/USD"]))


@pytest.mark.parametrize("order", [["A/USD", "B/USD"], ["B/USD", "A/USD"]])
@pytest.mark.parametrize("how", ["market", "instrument"])
def test_a_halt_belongs_to_its_session(how, order):
    """The venue was in maintenance, the connection was lost, and the venue is online at the next logon."""
    venue = maintenance(Offline(*order).connect(), how, on=True)
    assert (venue.state(), venue.cause()) == ("HALTED", "STATUS")
    venue.lose()
    venue.trading, venue.status = 2, dict.fromkeys(venue.status, 1)
    venue.wait(1).connect()
    assert (venue.state("A/USD"), venue.state("B/USD")) == ("LIVE", "LIVE")
    assert venue.update("A/USD").state() == "LIVE"


@pytest.mark.parametrize("how", ["market", "instrument"])
def test_a_halt_is_found_again_at_the_next_logon(how):
    venue = maintenance(Offline().connect(), how, on=True).lose().wait(1).connect()
    assert (venue.state(), venue.cause()) == ("HALTED", "STATUS")
    assert venue.state("B/USD") == ("HALTED" if how == "market" else "LIVE")
    maintenance(venue, how, on=False).wait(0.1)
    assert venue.state() == venue.state("B/USD") == "LIVE"


def test_the_end_of_the_market_s_maintenance_does_not_end_that_of_an_instrument():
    venue = maintenance(Offline().connect(), "instrument", on=True)
    maintenance(maintenance(venue, "market", on=True), "market", on=False).wait(0.1)
    assert (venue.state("A/USD"), venue.state("B/USD")) == ("HALTED", "LIVE")
    assert maintenance(venue, "instrument", on=False).wait(0.1).state() == "LIVE"


def test_the_end_of_an_instrument_s_maintenance_does_not_end_that_of_the_market():
    venue = maintenance(Offline().connect(), "market", on=True)
    maintenance(maintenance(venue, "instrument", on=True), "instrument", on=False).wait(0.1)
    assert venue.state("A/USD") == venue.state("B/USD") == "HALTED"
    assert maintenance(venue, "market", on=False).wait(0.1).state() == "LIVE"


@pytest.mark.parametrize("how", ["market", "instrument"])
def test_a_maintenance_that_ends_while_a_snapshot_is_awaited_leaves_no_book_halted(how):
    venue = maintenance(Offline().connect(), how, on=True)
    venue.mute.add("V")  # a wrong message: the book is subscribed again, and the snapshot is slow
    venue.give("X", *venue.body("A/USD", (1, "11.0", "x"))).wait(1)
    assert venue.state() in ("STALE", "SYNCING")
    maintenance(venue, how, on=False)
    venue.mute.clear()
    venue.wait(60, step=0.1)
    assert venue.state() == "LIVE"


@pytest.mark.parametrize("ended", ["replay", "gapfill"])
def test_a_gap_that_closes_during_a_maintenance_leaves_the_book_halted(ended):
    venue = maintenance(Offline().connect(), "market", on=True)
    lost, at = venue.frame("X", *venue.body("A/USD", (1, "11.0", "3"))), venue.seq
    venue.update("A/USD", "4")
    assert venue.state() == "GAP"
    if ended == "replay":
        venue.update("A/USD", "3", seq=at, header=[(49, "KRAKEN-MD"), (56, "CLIENT"), (34, at), *dup(lost)])
    else:
        venue.give("4", (123, "Y"), (36, at + 1), seq=at)
    venue.wait(0.1)
    assert venue.state() == venue.state("B/USD") == "HALTED"


def dup(raw: bytes) -> list[tuple[int, str]]:
    """43, 52 and 122 of a frame that is sent again."""
    sent = raw.split(b"\x0152=")[1].split(b"\x01")[0].decode()
    return [(43, "Y"), (122, sent), (52, sent)]


# ---- gap rows: every outage is one, per symbol ----


def crossed(venue):
    venue.give("X", *venue.body("A/USD", (0, "12.0", "1")))


def malformed(venue):
    venue.give("X", *venue.body("A/USD", (1, "11.0", "x")))


def rejected_after_a_reconnect(venue):
    venue.lose().wait(0.5)
    venue.mute.add("V")
    venue.connect()
    for kind, fields in [each for each in venue.sent if each[0] == "V"][-2:]:
        venue.requests[fields[55]] = fields[262]
        assert kind == "V"
    venue.give("Y", (262, venue.requests["A/USD"]), (281, "0"), (58, "Unknown symbol"))
    venue.snapshot("B/USD").wait(0.5)
    venue.mute.clear()


def slow_snapshot_after_a_reconnect(venue):
    venue.lose().wait(0.5)
    venue.mute.add("V")
    venue.connect()
    for _, fields in [each for each in venue.sent if each[0] == "V"][-2:]:
        venue.requests[fields[55]] = fields[262]
    venue.snapshot("B/USD").wait(12)
    venue.mute.clear()


def lost_for_good(venue):
    at = venue.seq + 1
    venue.seq += 1
    venue.update("B/USD", "4")
    venue.wait(0.2)
    venue.give("4", (123, "Y"), (36, at + 1), seq=at)


def replayed(venue):
    lost = venue.frame("X", *venue.body("A/USD", (1, "11.0", "3")))
    at = venue.seq
    venue.update("B/USD", "4").wait(0.2)
    venue.update("A/USD", "3", seq=at, header=[(49, "KRAKEN-MD"), (56, "CLIENT"), (34, at), *dup(lost)])


def numbers_restart(venue):
    venue.seq = 0
    venue.give("A", (98, 0), (108, 60), (141, "Y"))


def market_maintenance(venue):
    maintenance(venue, "market", on=True).wait(0.3)
    maintenance(venue, "market", on=False)


def logout(venue):
    venue.give("5", (58, "bye")).wait(0.3)
    venue.lose().wait(0.2).connect()


def precision(venue):
    request = [fields[320] for kind, fields in venue.sent if kind == "x"][-1]
    venue.mute.add("V")
    venue.give("y", (320, request), (322, "u"), (560, 0), (146, 1), (55, "A/USD"), (5010, 7), (2349, 2)).wait(0.2)
    venue.mute.clear()


def resent_requests(venue):
    venue.mute.add("V")
    malformed(venue)
    venue.wait(1)
    venue.mute.clear()
    venue.give("2", (7, 1), (16, 0))  # the venue has not received our 35=V: it is sent again at once


def never_answered(venue):
    venue.mute.add("V")
    malformed(venue)
    venue.wait(8)
    venue.mute.clear()


KINDS = [
    crossed,
    malformed,
    rejected_after_a_reconnect,
    slow_snapshot_after_a_reconnect,
    lost_for_good,
    replayed,
    numbers_restart,
    market_maintenance,
    logout,
    precision,
    resent_requests,
    never_answered,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_outage_of_a_book_is_in_a_gap_row(kind):
    venue = Offline().connect().wait(1)
    venue.latency = 130 * MS
    kind(venue)
    venue.wait(90, step=0.05)
    assert venue.state("A/USD") == venue.state("B/USD") == "LIVE" and venue.service.open_gaps() == 0
    assert venue.outages("A/USD")
    for symbol in ("A/USD", "B/USD"):
        outages, gaps = venue.outages(symbol), venue.gaps(symbol)
        for start, end in outages:
            assert any(at <= start and end <= until for at, until in gaps), (symbol, outages, gaps)
        if (
            "a_reconnect" not in kind.__name__
        ):  # a session's gap lasts until all books whose requests are answered are good
            for at, until in gaps:
                assert any(abs(at - start) < LIMIT and abs(until - end) < LIMIT for start, end in outages), (
                    symbol,
                    gaps,
                )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_book_that_is_not_live_has_a_cause(kind):
    venue = Offline().connect().wait(1)
    kind(venue)
    venue.wait(30, step=0.05)
    seen = {(event.state, event.cause) for _, event in venue.journal.events if isinstance(event, BookChanged)}
    assert ("SYNCING", "SUBSCRIBED") in seen and ("LIVE", "NONE") in seen and len(seen) > 2
    assert {state for state, cause in seen if cause == "NONE"} <= {"LIVE", "EMPTY", "INIT"}


@pytest.mark.parametrize("harm", ["lost", "garbled"])
def test_a_list_that_was_lost_is_requested_at_once(harm):
    venue = Offline("A/USD")
    venue.mute.add("x")
    venue.connect()
    request = [fields[320] for kind, fields in venue.sent if kind == "x"][-1]
    row = [(55, "A/USD"), (5010, 8), (2349, 1), (5032, 1)]
    frame = venue.frame("y", (320, request), (322, "r"), (560, 0), (146, 1), *row)
    at = venue.seq
    venue.mute.clear()
    if harm == "garbled":
        venue.bytes(frame[:-2] + (b"0" if frame[-2:-1] != b"0" else b"1") + b"\x01").wait(0.1)
    else:
        venue.give("0").wait(0.1)
    assert venue.sent[-1][0] == "2" and venue.state() == "INIT"
    venue.give("4", (123, "Y"), (36, venue.seq + 1), seq=at)
    assert venue.wait(0.1).state() == "LIVE"


@pytest.mark.parametrize("ended", ["malformed", "reject"])
def test_a_snapshot_of_a_subscription_that_has_ended_begins_no_book(ended):
    """Its updates do not come any more: the book would be LIVE and stand still."""
    venue = Offline().connect()
    venue.mute.add("V")
    malformed(venue)
    venue.wait(3, step=0.1)  # subscribed again, and not answered
    request = [fields[262] for kind, fields in venue.sent if kind == "V" and fields[55] == "A/USD"][-1]
    venue.requests["A/USD"] = request
    assert venue.state() == "SYNCING"
    if ended == "reject":
        venue.give("Y", (262, request), (281, "0"), (58, "no"))
    else:
        malformed(venue)
    venue.snapshot("A/USD")
    assert venue.state() == ("DOWN" if ended == "reject" else "STALE")
    venue.mute.clear()
    venue.wait(60, step=0.1)
    assert venue.state() == "LIVE" and venue.update("A/USD").state() == "LIVE"


def test_a_slow_symbol_has_a_gap_of_its_own_when_that_of_the_session_is_over():
    venue = Offline().connect().wait(1)
    rejected_after_a_reconnect(venue)
    assert venue.state("B/USD") == "LIVE" and venue.state("A/USD") == "DOWN"
    of_a, of_b = venue.gaps("A/USD"), venue.gaps("B/USD")
    assert of_b[0][1] <= venue.now - 400 * MS and of_a[0][1] == venue.now  # still open
    venue.wait(60, step=0.05)
    assert venue.state("A/USD") == "LIVE" and venue.gaps("A/USD") == venue.outages("A/USD")


def test_a_symbol_that_is_unsubscribed_in_a_gap_closes_it():
    venue = Offline().connect().wait(1)
    venue.mute.add("V")
    malformed(venue)
    assert venue.service.open_gaps() == 1
    venue.service.subs.reload(["B/USD"], venue.now)
    assert venue.service.open_gaps() == 0 and venue.state() == "INIT"
