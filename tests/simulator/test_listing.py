"""Instrument lists in every form: precisions, bad and partial rows, fragments, tokenised stocks, odd names."""

import pytest

from kfix_md.simulator.control import ControlError
from kfix_md.simulator.listing import BAD_ROWS
from tests.simulator.plain import PlainBook, groups
from tests.simulator.venue import Client, running_venue, value


@pytest.fixture
def venue(tmp_path):
    with running_venue(tmp_path, "--symbols", "2", "--rate", "0", tls=False) as running:
        yield running


def logged_on(venue, service="spot-l2"):
    client = Client(venue, service)
    client.logon()
    return client


def rows(message):
    """Groups of one 35=y by symbol."""
    return {row[55]: row for row in groups(message, 55)}


def listing(client, *fields):
    """The groups of a whole list."""
    client.send("x", [(320, "R"), *(fields or [(559, 4)])])
    return rows(client.until("y")[-1])


@pytest.mark.parametrize(("form", "texts"), [("int", ("1", "8")), ("float", ("1.0", "8.0")), ("zeros", ("01", "08"))])
def test_precisions_as_text(venue, form, texts):
    venue.control("vary", symbol="*", precision_form=form)
    found = listing(logged_on(venue))
    assert (found["BTC/USD"][2349], found["BTC/USD"][5010]) == texts


@pytest.mark.parametrize("level", ["L2", "L3"])
def test_a_negative_precision(venue, level):
    """Quantities in thousands: the list has -3, 5041 is printed at -3, and the book is whole."""
    venue.control("list", venue="derivatives", symbol="PF_PEPEUSD", price_precision=7, qty_precision=-3)
    venue.control("vary", symbol="PF_PEPEUSD", precision_form="zeros", qty_form="plain")
    client = logged_on(venue, f"derivatives-{level.lower()}")
    assert listing(client)["PF_PEPEUSD"][5010] == "-03"
    client.subscribe("M", "PF_PEPEUSD", level="Y" if level == "L2" else "N")
    book = PlainBook(level, 7, -3)
    book.apply(client.message())
    venue.control("step", symbol="PF_PEPEUSD", count=40)
    client.send("1", [(112, "END")])
    for message in client.until("0")[:-1]:
        book.apply(message)
        assert all(int(entry[271]) % 1000 == 0 for entry in groups(message, 279))
    assert book.checked > 10
    assert book.same_as(venue.control.truth("PF_PEPEUSD", level))


def test_quantities_beyond_ten_to_the_ten(venue):
    venue.control("list", symbol="BTT/USD", price_precision=9, qty_precision=8, huge=True)
    client = logged_on(venue, "spot-l3")
    client.subscribe("M", "BTT/USD", level="N")
    book = PlainBook("L3", 9, 8)
    book.apply(client.message())
    venue.control("step", symbol="BTT/USD", count=300)
    client.send("1", [(112, "END")])
    most = 0
    for message in client.until("0")[:-1]:
        book.apply(message)
        most = max([most, *(float(entry[271]) for entry in groups(message, 279))])
    assert most > 1e10 and book.checked > 100
    truth = venue.control.truth("BTT/USD", "L3")
    assert book.same_as(truth) and max(qty for _, qty, _ in truth["ints"]["bids"] + truth["ints"]["offers"]) < 2**63


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_are_in_the_whole_list_only(venue, kind):
    venue.control("bad_row", kind=kind)
    client = logged_on(venue)
    client.send("x", [(320, "R"), (559, 4)])
    message = client.until("y")[-1]
    found = groups(message, 55)
    assert value(message, 146) == "3" and len(found) == 3
    assert found[0] == {tag: str(text) for tag, text in BAD_ROWS[kind]}
    assert set(listing(client, (559, 0), (55, "BTC/USD"))) == {"BTC/USD"}
    venue.control("bad_row", kind="")
    assert len(listing(client)) == 2


def test_status_only_and_partial_updates(venue):
    client = logged_on(venue)
    client.send("x", [(320, "W"), (559, 4), (263, 1)])
    client.until("y")
    venue.control("update", symbol="ETH/USD", status=2, tags=[5032])
    assert groups(client.message(), 55) == [{55: "ETH/USD", 5032: "2"}]
    venue.control("update", symbol="ETH/USD", price_text="2.0", tags=[2349])
    assert groups(client.message(), 55) == [{55: "ETH/USD", 2349: "2.0"}]
    venue.control("update", symbol="ETH/USD", status=1)
    assert len(groups(client.message(), 55)[0]) == 7


@pytest.mark.parametrize("status", [0, 6])
def test_hidden_and_delisted_instruments_are_listed_and_cannot_be_subscribed(venue, status):
    venue.control("list", symbol="OLD/USD", status=status)
    client = logged_on(venue)
    assert listing(client)["OLD/USD"][5032] == str(status)
    client.subscribe("M", "OLD/USD")
    message = client.until("Y")[-1]
    assert (value(message, 55), value(message, 281)) == ("OLD/USD", "0")


@pytest.mark.parametrize("symbol", ["ÆTH/USD", "Æ\udcff\udcfe/USD", "a b/USD", "x" * 60, "aaplX/USD"])
def test_symbols_of_any_bytes(venue, symbol):
    venue.control("list", symbol=symbol)
    client = logged_on(venue)
    raw = symbol.encode("utf-8", "surrogateescape")
    client.send("x", [(320, "R"), (559, 4)])
    assert b"\x0155=%b\x01" % raw in client.frame()
    client.subscribe("M", symbol)
    assert b"\x0155=%b\x01262=M\x01" % raw in client.frame()


def test_fragments_with_an_update_between_them(tmp_path):
    options = ("--symbols", "5", "--rate", "0", "--fragment", "2", "--interleave")
    with running_venue(tmp_path, *options, tls=False) as venue:
        client = logged_on(venue)
        client.send("x", [(320, "R"), (559, 4)])
        messages = [client.message() for _ in range(4)]
        assert [value(message, 893) for message in messages] == ["N", None, "N", "Y"]
        assert [len(groups(message, 55)) for message in messages] == [2, 1, 2, 1]
        assert {value(message, 320) for message in messages} == {"R"}
        assert value(messages[1], 393) is None and value(messages[1], 322) != value(messages[0], 322)


def test_a_list_of_2500_instruments(tmp_path):
    with running_venue(tmp_path, "--symbols", "2", "--rate", "0", "--listing", "2500", tls=False) as venue:
        for service in ("spot-l2", "derivatives-l3"):
            client = logged_on(venue, service)
            client.send("x", [(320, "R"), (559, 4)])
            found = [symbol for _ in range(5) for symbol in rows(client.message())]
            assert len(set(found)) == 2500
            client.subscribe("M", found[-1], level="Y" if service == "spot-l2" else "N")
            assert value(client.message(), 268) == "0"


def test_tokenised_stocks(tmp_path):
    with running_venue(tmp_path, "--symbols", "1", "--stocks", "2", "--rate", "0", tls=False) as venue:
        spot, futures = logged_on(venue), logged_on(venue, "derivatives-l2")
        assert set(listing(spot)) == set(listing(spot, (559, 1), (167, "CASH"))) == {"BTC/USD"}
        assert set(listing(spot, (559, 1), (167, "TS"))) == {"AAPLx/USD", "TSLAx/USD"}
        assert set(listing(spot, (559, 0), (55, "AAPLx/USD"))) == {"AAPLx/USD"}
        assert set(listing(futures)) == {"PF_XBTUSD", "PF_AAPLxUSD", "PF_TSLAxUSD"}
        spot.send("x", [(320, "TS"), (559, 1), (167, "TS"), (263, 1)])
        spot.until("y")
        venue.control("status", symbol="BTC/USD", status=3)
        venue.control("status", symbol="AAPLx/USD", status=2)
        assert value(spot.until("y")[-1], 55) == "AAPLx/USD"
        spot.subscribe("M", "AAPLx/USD")
        assert value(spot.until("W")[-1], 55) == "AAPLx/USD"


def test_mistakes_are_named(venue):
    for command, arguments, message in [
        ("list", {"symbol": "X/USD", "colour": 1}, "no such option of an instrument: colour"),
        ("bad_row", {"kind": "odd"}, "no such bad row"),
        ("list", {"symbol": "BTC/USD"}, "already listed"),
    ]:
        with pytest.raises(ControlError, match=message):
            venue.control(command, **arguments)
