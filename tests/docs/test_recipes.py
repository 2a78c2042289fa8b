"""docs/recipes.md: the dictionary is that of the schema, and every recipe gives what the reader gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import recorder
from recorder import schema
from tests.docs.recipes import CAPTURES, FOLDER, PAGE, blocks, derived, dictionary, rewritten, unit

Names = dict[str, Any]
RECIPES = blocks(PAGE.read_text())


@pytest.fixture(scope="module")
def cap():
    return recorder.open(CAPTURES)


def test_the_dictionary_has_every_column_of_every_table():
    page = PAGE.read_text()
    assert rewritten(page) == page, "run: python -m tests.docs.recipes"
    text = dictionary()
    for name, columns in (schema.SCHEMAS | derived()).items():
        part = text.split(f"### `{name}`\n")[1].split("###")[0]
        assert [line.split(" | ")[0][2:] for line in part.splitlines()[3:] if line] == columns.names


def test_every_number_has_a_unit():
    for name, columns in (schema.SCHEMAS | derived()).items():
        for field in columns:
            number = str(field.type) in ("int16", "int64", "int32", "int8", "double")
            plain = field.name in ("session", "gap", "port", "number")
            assert not number or unit(field.name) or plain, (name, field.name)


def levels(side: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(side["price"].tolist(), side["qty"].tolist(), strict=True))


def book_in_polars(found: Names, cap: recorder.catalog.Captures) -> None:
    bids, asks = cap.book("BTC/USD", found["at"]).depth(1000)
    assert len(bids) > 5 and len(asks) > 5
    assert found["bids"].select("price", "qty").rows() == levels(bids)
    assert found["asks"].select("price", "qty").rows() == levels(asks)


def book_in_duckdb(found: Names, cap: recorder.catalog.Captures) -> None:
    bids, asks = cap.book("BTC/USD", found["at"]).depth(1000)
    wanted = [("bid", *level) for level in levels(bids)] + [("offer", *level) for level in levels(asks)]
    assert [(side, float(price), float(qty)) for side, price, qty in found["book"]] == wanted


def vwap(found: Names, cap: recorder.catalog.Captures) -> None:
    bars = cap.bars("PF_XBTUSD", "1s").to_pylist()
    assert len(bars) > 5
    assert [row[0] * 10**9 for row in found["vwap"]] == [bar["time_ns"] for bar in bars]
    assert [row[2] for row in found["vwap"]] == pytest.approx([bar["volume"] for bar in bars])
    assert [row[3] for row in found["vwap"]] == [bar["trades"] for bar in bars]
    for (_, price, *_), bar in zip(found["vwap"], bars, strict=True):
        assert bar["low"] <= price <= bar["high"]
    ticks = cap.ticks("PF_XBTUSD", price="float").to_pandas().query("side == 'trade'")
    total = sum(row[1] * row[2] for row in found["vwap"])
    assert total == pytest.approx((ticks["price"] * ticks["qty"]).sum())


def queues(found: Names, cap: recorder.catalog.Captures) -> None:
    resting = found["resting"]
    assert len(resting) > 50 and (resting["rest_ms"] > 0).all() and found["by_place"]["orders_ahead"][0] == 0
    checked = 0
    for row in resting.sample(40, seed=1).iter_rows(named=True):
        at = cap.book("BTC/USD", row["from_ns"], level="L3")
        raw = row["order_id"]
        orders = at.orders().to_pylist()
        mine = [o for o in orders if recorder.shape.raw_text(KRAKEN, raw) == o["order_id"]]
        if len(mine) == 1 and mine[0]["price"] == row["price"]:
            same = [o for o in orders if (o["side"], o["price"]) == (mine[0]["side"], mine[0]["price"])]
            assert same.index(mine[0]) == row["orders_ahead"]
            checked += 1
    assert checked > 20


def two_symbols(found: Names, cap: recorder.catalog.Captures) -> None:
    both = found["both"]
    assert len(both) > 50 and both["btc"].is_not_null().all() and both["eth"].is_not_null().all()
    frames = [
        cap.bbo(symbol, time="datetime").to_pandas().sort_index(kind="stable") for symbol in ("BTC/USD", "ETH/USD")
    ]
    joined = pd.merge_asof(frames[0], frames[1], left_index=True, right_index=True, suffixes=("", "_eth"))
    joined = joined[joined["trusted"] & joined["trusted_eth"].eq(True)]
    mids = (joined["bid"] + joined["ask"]) / 2, (joined["bid_eth"] + joined["ask_eth"]) / 2
    assert both["btc"].to_list() == mids[0].tolist() and both["eth"].to_list() == mids[1].tolist()
    dark = [
        row for row in cap.coverage(symbol="BTC/USD").to_pylist() if row["state"] == "ROLLOVER" and row["level"] == "L2"
    ]
    times = both["recv_time"].dt.epoch("ns")
    assert dark and not any(times.is_between(row["from_ns"], row["to_ns"] - 1).any() for row in dark)
    assert isinstance(found["ratio"], pl.DataFrame)


KRAKEN = schema.ID_KINDS.index("kraken")
CHECKS: dict[str, Callable[[Names, Any], None]] = {
    "A book from the ticks alone, in polars": book_in_polars,
    "A book from the ticks alone, in duckdb": book_in_duckdb,
    "Volume weighted average price": vwap,
    "How long orders rest, and how far from the front of their queue they began": queues,
    "Two symbols, as of the same moments": two_symbols,
}


def test_every_recipe_is_checked():
    assert list(RECIPES) == list(CHECKS) and all(RECIPES.values())


@pytest.mark.parametrize("heading", CHECKS)
def test_a_recipe_gives_what_the_reader_gives(heading, cap, monkeypatch):
    monkeypatch.chdir(FOLDER)
    found: Names = {}
    exec(compile(RECIPES[heading], heading, "exec"), found)
    CHECKS[heading](found, cap)
