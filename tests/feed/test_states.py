"""States of a service's books through maintenance, reconnects, gaps and rejects: the venue is plain frames, no I/O."""

from __future__ import annotations

import pytest

from tests.feed.offline import Offline


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
