"""Instrument lists of a live venue: partial rows, bad rows, and symbols that are not ASCII."""

from __future__ import annotations

import asyncio

from kfix_md._entry import State
from tests.feed.rig import all_good, drive, until
from tests.feed.test_first_contact import row, states, venue

__all__ = ["venue"]


def test_an_update_may_state_a_part_of_a_row(venue, tmp_path):
    there = venue(row("BTC/USD"), row("ETH/USD"), row("XRP/USD"))

    async def script(feed):
        await all_good(feed)
        there.conn.list([row("BTC/USD", 2, None, None)])
        there.conn.list([row("ETH/USD", 6, None, None)])
        service = feed.services[0]
        await until(lambda: service.state_of("BTC/USD") is State.HALTED and "ETH/USD" not in service.subs.all)
        there.conn.list([row("BTC/USD", None, 1)])  # a precision alone does not end the maintenance
        await asyncio.sleep(0.3)
        found = states(tmp_path, "part")
        assert found["BTC/USD"] is State.HALTED and found["XRP/USD"] is State.LIVE
        assert found["ETH/USD"] not in (State.LIVE, State.EMPTY)
        there.conn.list([row("BTC/USD", 1, None, None)])
        await until(lambda: states(tmp_path, "part")["BTC/USD"] is State.LIVE)
        assert service.connects == 1

    drive(tmp_path, there.toml(tmp_path, "part"), script)


def test_a_bad_row_is_left_out_by_name_and_nothing_else(venue, tmp_path, caplog):
    there = venue(row("BTC/USD"), row("BAD/USD", price="x"), row("NONE/USD", price=None), row("EIGHT/USD", qty="8.0"))

    async def script(feed):
        await all_good(feed)
        assert states(tmp_path, "bad") == {"BTC/USD": State.LIVE, "EIGHT/USD": State.LIVE}
        assert feed.services[0].session.ready
        there.conn.list([row("BAD/USD")])  # the venue corrects it
        await until(lambda: states(tmp_path, "bad").get("BAD/USD") is State.LIVE)

    drive(tmp_path, there.toml(tmp_path, "bad", '["BTC/USD", "BAD/USD", "EIGHT/USD"]'), script)
    assert "BAD/USD: no usable price_precision (2349=x)" in caplog.text and "NONE/USD" in caplog.text


def test_symbols_that_are_not_ascii_are_kept_exactly(venue, tmp_path):
    there = venue(row("BTC/USD"), row("\u00c4\u00d6/USD"), row("\u20bf/USD"))

    async def script(feed):
        await all_good(feed)
        assert set(states(tmp_path, "text").values()) == {State.LIVE}
        assert set(there.conn.subs) == {"BTC/USD", "\u00c4\u00d6/USD", "\u20bf/USD"}

    drive(tmp_path, there.toml(tmp_path, "text", '["BTC/USD", "\u00c4*", "\u20bf/USD"]'), script)
