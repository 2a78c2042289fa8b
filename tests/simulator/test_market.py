"""Generated markets: L2, L3 and trades agree, every 5041 is right, every depth shows the top of the same book."""

import os
from decimal import Decimal

import pytest

from kfix_md.simulator.book import BID, OFFER, VenueInstrument, VenueL2Book, VenueL3Book
from kfix_md.simulator.market import Market, instruments, level_entries
from tests.simulator.plain import PlainBook, groups
from tests.simulator.venue import Client, running_venue, value

LONG = os.environ.get("KFIX_LONG_TESTS")
WHY = "KFIX_LONG_TESTS=1 runs 100,000 decisions of each market (several minutes)"


def precisions(client):
    client.send("x", [(320, "R"), (559, 4)])
    listing = client.until("y")[-1]
    return {row[55]: (int(row[2349]), int(row[5010])) for row in groups(listing, 55)}


@pytest.mark.parametrize("options", [(), ("--rendered", "150")], ids=["live", "rendered"])
@pytest.mark.parametrize("name", ["spot", "derivatives"])
def test_all_views_of_one_market_agree(tmp_path, name, options):
    """Depths 1, 10, 25 and full of L2 and L3, side by side, message by message, and the truth at each MsgSeqNum."""
    with running_venue(tmp_path, "--symbols", "2", "--rate", "0", "--orders", "30", *options, tls=False) as venue:
        for level in ("L2", "L3"):
            service = f"{name}-{level.lower()}"
            clients = {depth: Client(venue, service, f"T{depth}") for depth in (0, 1, 10, 25)}
            books = {}
            for depth, client in clients.items():
                client.logon()
                known = precisions(client)
                client.subscribe(
                    "M",
                    *known,
                    depth=depth,
                    level="Y" if level == "L2" else "N",
                    types=(0, 1, 2) if level == "L2" else (0, 1),
                )
                for symbol, precision in known.items():
                    books[depth, symbol] = PlainBook(level, *precision)
            for turn in range(8):
                for symbol in known:
                    venue.control("step", symbol=symbol, count=50 + turn)
            for depth, client in clients.items():
                received = follow(client, depth, books)
                assert received > 20
            for (depth, symbol), book in books.items():
                truth = venue.control.truth(
                    symbol, level, sender=f"T{depth}", service=service, seq=venue_seq(venue, service, f"T{depth}")
                )
                assert book.same_as(truth, depth or None)
                assert not depth or all(len(side) <= depth for side in book.totals())
                assert book.checked > 20 if depth in (0, 10, 25) else book.checked == 0
            venue.control("drop", service=service)


def venue_seq(venue, service, sender):
    sessions = venue.control("stats")["services"][service]["sessions"].values()
    return next(session["sent"] for session in sessions if session["sender"] == sender)


def follow(client, depth, books):
    """Apply all that comes; returns the number of messages."""
    received = 0
    client.send("1", [(112, "END")])
    for message in client.until("0"):
        received += 1
        if value(message, 35) in "WX":
            books[depth, value(message, 55)].apply(message, check_crc=depth != 1)
    return received


@pytest.mark.parametrize("venue_name", ["spot", "derivatives"])
def test_engine_keeps_price_time_priority(venue_name):
    """No book is ever crossed; trades fill the oldest order of the best price; quantity is conserved."""
    ((instrument, fair),) = instruments(venue_name, 1)
    market = Market(instrument, venue_name, fair, seed=7, orders=20)
    opening = market.open(10**18)
    market.book.apply(opening)
    market.levels.apply(level_entries(opening, market.book, market.levels, 0))
    for step in range(3000):
        before = {ident: order for ident, order in market.book.orders.items()}
        fronts = {
            side: market.book.queues[side][market.book.sides[side].best(1)[0]][0].ident
            for side in (BID, OFFER)
            if market.book.sides[side].prices
        }
        decision = market.decide(10**18 + step * 1000)
        if decision.trades:
            maker_side = OFFER if decision.trades[0].aggressor == 1 else BID
            fills = [entry for entry in decision.entries if entry.side == maker_side and entry.ident in before]
            assert fronts[maker_side] in [entry.ident for entry in fills]
            filled = sum(before[entry.ident].qty - entry.qty for entry in fills)
            assert filled >= sum(trade.qty for trade in decision.trades) > 0
        market.book.apply(decision.entries)
        market.levels.apply(level_entries(decision.entries, market.book, market.levels, 0))
        bids, offers = market.book.sides[BID].prices, market.book.sides[OFFER].prices
        assert not bids or not offers or bids[-1] < offers[0]
        for side in (BID, OFFER):
            assert [(p, q) for p, q, _ in market.book.rows(side)] == [(p, q) for p, q, _ in market.levels.rows(side)]


@pytest.mark.parametrize(
    ("decisions", "count"), [(5_000, 10), pytest.param(100_000, 10, marks=pytest.mark.skipif(not LONG, reason=WHY))]
)
@pytest.mark.parametrize("venue_name", ["spot", "derivatives"])
def test_markets_stay_two_sided(venue_name, decisions, count):
    """Every instrument keeps ten levels a side, a bounded number of orders, and trades."""
    for instrument, fair in instruments(venue_name, count):
        market = Market(instrument, venue_name, fair, seed=1)
        market.book.apply(market.open(10**18))
        trades, most, sides = 0, 0, market.book.sides
        fewest = min(len(side.prices) for side in sides)
        for step in range(decisions):
            decision = market.decide(10**18 + step)
            market.book.apply(decision.entries)
            trades += len(decision.trades)
            fewest = min(fewest, len(sides[BID].prices), len(sides[OFFER].prices))
            most = max(most, len(market.book.orders))
        assert fewest >= 10, instrument.symbol
        assert most < 4 * market.target, instrument.symbol
        assert trades > decisions / 20, instrument.symbol


def test_books_revert():
    """Undo returns exactly to every earlier state, queue order included."""
    ((instrument, fair),) = instruments("derivatives", 1)
    market = Market(instrument, "derivatives", fair, seed=3, orders=15)
    market.book.apply(market.open(10**18))
    states, undos = [market.book.copy()], []
    for step in range(400):
        undos.append(market.book.apply(market.decide(10**18 + step).entries))
        states.append(market.book.copy())
    while undos:
        assert market.book.checksum() == states.pop().checksum()
        market.book.revert(undos.pop())
        assert market.book.queues == states[-1].queues


def test_worked_example_of_the_checksum():
    """The documented L2 example: 3341325816 after the update of the best offer."""
    prices = [
        "28013.0",
        "28039.8",
        "28066.5",
        "28093.3",
        "28120.0",
        "28146.7",
        "28173.5",
        "28200.2",
        "28227.0",
        "28253.7",
    ]
    bids = [
        ("28003.0", "0.001"),
        ("27999.9", "0.00096375"),
        ("27969.9", "0.73860423"),
        ("27700.1", "0.0035"),
        ("27573.2", "0.0032"),
        ("27137.4", "0.01"),
        ("27091.3", "0.004"),
        ("26729.4", "0.001"),
        ("26702.6", "0.001"),
        ("26675.9", "0.001"),
    ]
    from kfix_md.simulator.book import NEW, UPDATE, VenueEntry
    from kfix_md.simulator.wire import number, scaled

    def entry(action, side, price, qty):
        return VenueEntry(action, side, "", scaled(price, 1), scaled(qty, 8))

    book = VenueL2Book()
    book.apply([entry(NEW, OFFER, price, "0.001") for price in prices] + [entry(NEW, BID, *row) for row in bids])
    book.apply([entry(UPDATE, OFFER, "28013.0", "0.00096506")])
    assert book.checksum() == 3341325816
    assert number(scaled("0.00096506", 8), 8) == "0.00096506" and number(280030, 1) == "28003.0"
    assert number(100000, 8) == "0.001" and number(12, 0) == "12.0" and number(0, 8) == "0.0"
    assert Decimal(number(-15, 1)) == Decimal("-1.5")
    with pytest.raises(ValueError, match="finer"):
        scaled("1.23", 1)


def test_l3_checksum_of_one_order_a_level_is_the_level_rule():
    """Both rules agree when every level holds one order, and differ when one holds two."""
    from kfix_md.simulator.book import NEW, VenueEntry

    book = VenueL3Book()
    book.apply([VenueEntry(NEW, OFFER, "a", 11, 5, 0, 1), VenueEntry(NEW, BID, "b", 10, 5, 0, 2)])
    assert book.checksum("order") == book.checksum("level")
    book.apply([VenueEntry(NEW, OFFER, "c", 11, 7, 0, 3)])
    assert book.checksum("order") != book.checksum("level")
    assert VenueInstrument("X", 1, 1).status == 1
