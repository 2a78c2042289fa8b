"""Real streams served over TLS: the same books in shared memory, the same entries in Parquet, and the proof of them."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from click.testing import CliRunner

import kfix_md
from kfix_md._handler import Handler
from tests.feed.rig import Venue, drive, until

CAPTURES = ("spot-l2", "derivatives-l2", "derivatives-l3")
DEEP = "PF_ESUSD"  # the one instrument of the L3 capture


@pytest.fixture(scope="module")
def venue(captures, tmp_path_factory):
    files = [part for name in CAPTURES for part in ("--capture", str(captures / f"{name}.fix.gz"))]
    venue = Venue(tmp_path_factory.mktemp("venue"), *files, "--speed", "max")
    yield venue
    venue.close()


def test_captures_end_as_they_should_in_shared_memory_and_in_parquet(venue, captures, capture, tmp_path):
    shown = {name: json.loads((captures / f"{name}.fix.gz.json").read_text()) for name in CAPTURES}

    wanted = {name: sum(capture(name).count(b"\x0135=%b\x01" % kind) for kind in (b"W", b"X")) for name in CAPTURES}

    def ended(feed):
        return all(s.handler.stats["market_data"] >= wanted[s.name] for s in feed.services)

    async def script(feed):
        await until(lambda: ended(feed), 60)
        books = kfix_md.attach("t-captures", directory=tmp_path)
        for name in CAPTURES:
            if name == "derivatives-l3":
                compare_orders(books[DEEP, "L3"], shown[name])
                continue
            for symbol, final in shown[name]["symbols"].items():
                compare(books[symbol, "L2"], final)
        assert sum(s.handler.stats["market_data"] for s in feed.services) == sum(wanted.values())
        assert sum(s.handler.stats["crc_failed"] for s in feed.services) == 0

    config = tmp_path / "feed.toml"
    drive(tmp_path, venue.toml(tmp_path, "t-captures", CAPTURES), script)
    from recorder.cli import record, verify

    assert CliRunner().invoke(record, [str(config), "--once"]).exit_code == 0
    proof = CliRunner().invoke(verify, [str(tmp_path / "captures"), "--json"])
    assert proof.exit_code == 0, proof.output
    assert json.loads(proof.output)["holds"]

    import recorder

    cap = recorder.open(tmp_path / "captures")
    for name in CAPTURES:
        handler = Handler(collect=True)
        handler.on_bytes(capture(name))
        expected = handler.ticks()
        for row, symbol in enumerate(handler.symbols):
            mine = expected[expected["instrument"] == row]
            rows = cap.ticks(symbol, price="int")
            assert rows.num_rows == len(mine), symbol
            for column in ("price", "qty"):
                assert rows[column].to_numpy().tolist() == mine[column].tolist(), (symbol, column)


def compare(book, final):
    """A polled book against the book at the end of a capture."""
    bids, asks = book.depth(None, price="int", allow_stale=True)
    price_digits, qty_digits = book.precision
    for side, key in ((bids, "best_bid"), (asks, "best_offer")):
        price, qty = (Decimal(text) for text in final[key])
        assert int(side[0]["price"]) == price.scaleb(price_digits), (book.symbol, key)
        assert int(side[0]["qty"]) == qty.scaleb(qty_digits), (book.symbol, key)
    assert [len(bids), len(asks)] == final["levels"], book.symbol


def compare_orders(book, final):
    """The same of the L3 capture: the best prices, and how many orders are left."""
    bids, asks = book.depth(None, price="int", allow_stale=True)
    for side, key in ((bids, "b"), (asks, "a")):
        assert int(side[0]["price"]) == Decimal(final["best"][key][0]).scaleb(final["price_precision"])
    assert int(bids["orders"].sum() + asks["orders"].sum()) == final["orders_left"]
