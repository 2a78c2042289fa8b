"""Captures as a person meets them: times with a zone, the index of pandas, books in one line, pickled captures."""

from __future__ import annotations

import math
import pickle
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import kfix_md
import recorder
from kfix_md.errors import UsageError
from recorder.rebuild import BookAt
from tests.recorder import build

SYMBOL, TRADED = "BTC/USD", "PF_BTCUSD"
UTC = pa.timestamp("ns", "UTC")


@pytest.fixture(scope="module")
def cap(tmp_path_factory):
    root = tmp_path_factory.mktemp("captures")
    build.journal_of(root / "journal", ("spot-l2", "derivatives-l2"), messages=150)
    build.record(root)
    return recorder.open(root / "captures")


def test_every_table_has_its_times_as_timestamps(cap):
    tables = {
        "recv_time": (cap.ticks, cap.bbo),
        "time": (cap.bars, lambda symbol, time: cap.depth(symbol, every="event", levels=2, time=time)),
    }
    for index, calls in tables.items():
        for call in calls:
            symbol = TRADED if call == cap.bars else SYMBOL
            plain, timed = call(symbol, time="ns"), call(symbol, time="datetime")
            as_ints = [name for name, kind in zip(plain.schema.names, plain.schema.types, strict=True) if kind == UTC]
            assert as_ints == [] and plain.num_rows == timed.num_rows > 0
            assert timed.schema.field(index).type == UTC
            for name in timed.schema.names:
                if timed.schema.field(name).type == UTC:
                    before = plain["time_ns" if name == "time" else name.replace("_time", "_ns")]
                    assert timed[name].cast(pa.int64()).equals(before)
            frame = timed.to_pandas()
            assert frame.index.name == index and str(frame.index.dtype) == "datetime64[ns, UTC]"
            assert frame.index.asi8.tolist() == timed[index].cast(pa.int64()).to_pylist()
            assert not [name for name in timed.schema.names if name.endswith("_ns") and name != "event_frac_ns"]
    for call, index in ((cap.gaps, "opened_time"), (cap.coverage, "from_time"), (cap.sessions, "started_time")):
        assert call(time="datetime").to_pandas().index.name == index
    for call in (cap.instruments, cap.status):
        assert call(time="datetime").to_pandas().index.name == "recv_time"


def test_batches_and_readers_have_the_same_types(cap):
    whole = cap.ticks(SYMBOL, time="datetime", price="float")
    batches = list(cap.tick_batches(SYMBOL, time="datetime", price="float"))
    assert sum(batch.num_rows for batch in batches) == whole.num_rows
    assert {batch.schema.field("recv_time").type for batch in batches} == {UTC}
    frame = cap.scan(SYMBOL, time="datetime", price="float").read_pandas()
    assert frame.index.equals(whole.to_pandas().index)
    assert pl.from_arrow(whole)["recv_time"].dtype == pl.Datetime("ns", "UTC")
    sampled = next(cap.depth_batches(SYMBOL, every="event", levels=1, time="datetime"))
    assert sampled.to_pandas().index.name == "time"
    kept = cap.ticks(SYMBOL, columns=["event_frac_ns", "price"], time="datetime")
    assert kept.schema.names == ["event_frac_ns", "price"]  # a part of a time stays a number


def test_a_grid_of_seconds_is_one_line_of_pandas(cap):
    quotes = cap.bbo(SYMBOL, time="datetime").to_pandas()
    every = quotes["bid"].resample("10ms").last()
    assert isinstance(every.index, pd.DatetimeIndex) and every.index.freqstr == "10ms" and every.notna().any()


@pytest.mark.parametrize("name", ["ticks", "tick_batches", "scan", "bars", "bbo", "depth", "depth_batches"])
def test_a_wrong_form_of_time_is_an_error_at_once(cap, name):
    with pytest.raises(UsageError, match="time is 's': use"):
        getattr(cap, name)(SYMBOL, time="s")


def test_a_symbol_alone_means_its_levels(cap):
    assert set(cap.ticks(SYMBOL)["level"].to_pylist()) == {"L2"}
    assert cap.ticks(SYMBOL, level="both").num_rows >= cap.ticks(SYMBOL).num_rows


def test_a_recorded_book_has_the_words_of_a_live_one(cap):
    at = cap.book(SYMBOL, build.START_NS + 80 * build.STEP_NS, depth=3)
    assert at.trusted
    bid, bid_qty, ask, ask_qty = at.top()
    assert all(isinstance(value, int) for value in (bid, bid_qty, ask, ask_qty))
    price, qty = at.precision
    assert at.top("decimal") == (
        *(Decimal(bid).scaleb(-price), Decimal(bid_qty).scaleb(-qty)),
        *(Decimal(ask).scaleb(-price), Decimal(ask_qty).scaleb(-qty)),
    )
    assert at.top("float") == (at.bid, at.bid_qty, at.ask, at.ask_qty)
    assert at.bid == bid / 10**price and at.mid == (at.bid + at.ask) / 2
    assert at.spread == float(Decimal(ask - bid).scaleb(-price))
    assert at.imbalance == pytest.approx((bid_qty - ask_qty) / (bid_qty + ask_qty))
    assert len(at.bids) == 3 and len(at.depth(5)[0]) == 5 and at.depth(price="int")[0]["price"][0] == bid
    assert at.depth(price="decimal")[1]["price"][0] == at.top("decimal")[2]
    assert repr(at).startswith("<BTC/USD L2 at 2024-02-29 10:00:00.08Z ") and " / " in repr(at)
    assert "bid qty" in at._repr_html_()
    with pytest.raises(UsageError, match="price is 'text'"):
        at.top("text")


def test_a_book_that_is_not_there_says_why(cap):
    at = cap.book(SYMBOL, build.START_NS - 1)
    assert at.book is None and math.isnan(at.bid) and at.bid_qty == 0 and math.isnan(at.spread + at.mid + at.imbalance)
    assert at.top() == at.top("decimal") == (None, None, None, None)
    assert repr(at).endswith(": nothing was received before this time>")
    assert "nothing was received" in at._repr_html_()
    assert repr(cap.book(SYMBOL, build.START_NS + 10**9)).startswith("<BTC/USD L2 at 2024-02-29 10:00:01Z ")
    assert repr(cap.book(SYMBOL, "2024-02-29T10:00")).startswith("<BTC/USD L2 at 2024-02-29 10:00:00Z")
    late = cap.book(SYMBOL, build.START_NS + 3600 * 10**9)
    assert "not trusted: " in repr(late)
    assert isinstance(late, BookAt)


def test_tab_offers_what_is_for_users(cap):
    assert {"book", "bbo", "spread", "coverage"} <= set(dir(vars(cap)["plot"]))
    for module in (recorder, kfix_md):
        assert [name for name in dir(module) if not name.startswith("_")] == sorted(module.__all__)


def test_captures_are_shown_and_opened_again_when_unpickled(cap):
    page = cap._repr_html_()
    assert "2024-02-29" in page and f"{cap.rows():,}" in page and SYMBOL in page
    again = pickle.loads(pickle.dumps(cap))
    assert again.symbols() == cap.symbols() and again.tree.root == cap.tree.root
