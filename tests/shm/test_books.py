"""What a reader sees of a book: values, states, missing sides, depth, snapshot."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfix_md import Cause, NoSuchSymbol, NotLive, State
from kfix_md.errors import FeedError, UsageError
from tests.shm.conftest import ASKS, BIDS


def test_top_is_the_nearest_float_of_the_exact_decimals(desk):
    btc = desk.attach()["BTC/USD"]
    assert btc.top() == (28003.0, 0.001, 28013.0, 0.00096506)
    assert (btc.bid, btc.bid_qty, btc.ask, btc.ask_qty) == btc.top()
    assert btc.top(price="int") == (280030, 100000, 280130, 96506)
    assert btc.precision == (1, 8)


def test_held_quote_is_filled_again(desk):
    btc = desk.attach()["BTC/USD"]
    quote = btc.read()
    desk.btc.set("bid", 2, 280031, 7)
    desk.btc.publish(recv_ns=55, seq=9)
    assert btc.read(quote) is quote
    assert (quote.bid, quote.bid_qty, quote.ask, quote.seq, quote.recv_ns) == (28003.1, 7e-8, 28013.0, 9, 55)
    assert quote.state is State.LIVE


def test_changed_means_since_this_object_was_read(desk):
    one, other = desk.attach()["BTC/USD"], desk.attach()["BTC/USD"]
    assert one.changed()
    one.top()
    assert not one.changed()
    assert other.changed()
    desk.btc.publish()
    assert one.changed()
    assert one.state is State.LIVE and one.age_ns >= 0  # looking at these is not a reading
    assert one.changed()
    one.depth(2)
    assert not one.changed()


@pytest.mark.parametrize("read", ["top", "depth", "read", "mid"])
def test_a_book_that_is_not_live_does_not_change_all_the_time(desk, read):
    btc = desk.attach()["BTC/USD"]
    desk.btc.publish(State.GAP, Cause.LOST)
    assert btc.changed()
    with pytest.raises(NotLive):
        value = getattr(btc, read)
        value()
    assert not btc.changed() and not btc.wait(0.001)  # a loop of wait() and top() would not sleep otherwise
    desk.btc.publish()
    assert btc.changed() and btc.wait(0) and btc.top()[0] == 28003.0


def test_a_missing_side_is_nan_and_zero(desk):
    desk.btc.fill([], ASKS)
    desk.btc.publish()
    btc = desk.attach()["BTC/USD"]
    bid, bid_qty, ask, _ = btc.top()
    assert math.isnan(bid) and bid_qty == 0.0 and ask == 28013.0
    assert btc.top(price="int")[:2] == (None, 0)
    desk.btc.fill([], [])
    desk.btc.publish(State.EMPTY)
    assert [math.isnan(x) for x in btc.top()] == [True, False, True, False]
    assert [len(side) for side in btc.depth()] == [0, 0]


@pytest.mark.parametrize("state", [state for state in State if state not in (State.LIVE, State.EMPTY)])
def test_a_book_not_live_raises_with_state_and_cause_and_keeps_its_values(desk, state):
    btc = desk.attach()["BTC/USD"]
    btc.top()
    desk.btc.publish(state, Cause.LOST)
    for read in (btc.top, btc.read, btc.depth, lambda: btc.bid, lambda: btc.ask_qty):
        with pytest.raises(NotLive) as error:
            read()
        assert error.value.state is state and error.value.cause is Cause.LOST
        assert "BTC/USD" in str(error.value) and state.name in str(error.value)
    assert btc.top(allow_stale=True) == (28003.0, 0.001, 28013.0, 0.00096506)
    assert btc.depth(1, allow_stale=True)[0]["price"][0] == 28003.0
    assert (btc.state, btc.cause) == (state, Cause.LOST)


def test_a_side_emptied_while_not_live_keeps_its_last_top(desk):
    btc = desk.attach()["BTC/USD"]
    desk.btc.fill([], [])
    desk.btc.publish(State.SYNCING, Cause.CRC)
    assert btc.top(allow_stale=True)[0] == 28003.0
    desk.btc.publish(State.EMPTY)
    assert math.isnan(btc.top()[0])


def test_set_state_reaches_every_block(desk):
    btc = desk.attach()["BTC/USD"]
    desk.writer.set_state(0, State.ROLLOVER, Cause.ROLLOVER, now_ns=77)
    for read in (btc.top, lambda: btc.depth(3), lambda: btc.depth(500)):
        with pytest.raises(NotLive):
            read()
    info = btc.info()
    assert (info["gaps"], info["gap_ns"], info["gap_cause"], info["gap_state"]) == (
        1,
        77,
        Cause.ROLLOVER,
        State.ROLLOVER,
    )
    with pytest.raises(IndexError):
        desk.writer.set_state(9, State.LIVE)


def test_last_gap_counts_leaving_live_only(desk):
    btc = desk.attach()["BTC/USD"]
    desk.btc.publish(State.GAP, Cause.LOST, recv_ns=10)
    desk.btc.publish(State.SYNCING, Cause.LOST, recv_ns=20)
    desk.btc.publish(State.LIVE, recv_ns=30)
    desk.btc.publish(State.CRC_FAIL, Cause.CRC, recv_ns=40)
    info = btc.info()
    assert (info["gaps"], info["gap_ns"], info["gap_state"]) == (2, 40, State.CRC_FAIL)


def test_depth_is_best_first_in_both_units(desk):
    btc = desk.attach()["BTC/USD"]
    bids, asks = btc.depth(2)
    assert bids.dtype.names == ("price", "qty", "orders")
    assert bids["price"].tolist() == [28003.0, 27999.9] and asks["qty"].tolist() == [0.00096506, 0.001]
    bids, asks = btc.depth(price="int")
    assert list(zip(bids["price"].tolist(), bids["qty"].tolist(), strict=True)) == BIDS
    assert list(zip(asks["price"].tolist(), asks["qty"].tolist(), strict=True)) == ASKS
    assert [len(side) for side in btc.depth(0)] == [0, 0]
    with pytest.raises(ValueError, match="float"):
        btc.depth(price="text")


def test_precision_change_empties_the_book_under_a_new_generation(desk):
    btc = desk.attach()["BTC/USD"]
    assert desk.writer.add_symbol("BTC/USD", "L2", 2, 8) == 0
    assert math.isnan(btc.top(allow_stale=True)[0])
    assert [len(side) for side in btc.depth(allow_stale=True)] == [0, 0]
    desk.btc.fill([(2800300, 5)], [])
    desk.btc.publish()
    assert btc.top()[0] == 28003.0 and btc.precision == (2, 8) and btc.info()["generation"] == 2


def test_symbols_levels_and_near_matches(desk):
    feed = desk.attach()
    desk.book("PF_ETHUSD", 3)  # after the reader attached
    assert feed["PF_ETHUSD"].level == "L3" and feed["PF_ETHUSD", "L3"] is feed["PF_ETHUSD"]
    assert feed["BTC/USD"] is feed["BTC/USD", "L2"]
    assert [(symbol, book.level) for symbol, book in feed.items()] == [("BTC/USD", "L2"), ("PF_ETHUSD", "L3")]
    assert "BTC/USD" in feed and "XBT" not in feed and len(feed) == 2
    for wrong, hint in (
        ("BTCUSD", "near: BTC/USD"),
        ("PF_ETHUSDT", "PF_ETHUSD"),
        (("BTC/USD", "L3"), "L2 only"),
        (("BTC/USD", "L9"), "'L2' and 'L3'"),
    ):
        with pytest.raises(NoSuchSymbol, match=hint):
            feed[wrong]


def test_snapshot_is_one_row_a_book_with_nan_where_not_trusted(desk):
    eth = desk.book("PF_ETHUSD", 3)
    eth.fill([(20448, 2874)], [(20450, 1)])
    eth.publish(State.GAP, Cause.LOST)
    feed = desk.attach()
    rows = feed.snapshot()
    assert rows["symbol"].tolist() == ["BTC/USD", "PF_ETHUSD"] and rows["level"].tolist() == [2, 3]
    assert rows["bid"][0] == 28003.0 and math.isnan(rows["ask"][1])
    assert rows["state"].tolist() == [State.LIVE, State.GAP] and rows["asks"].tolist() == [2, 1]
    assert feed.snapshot(allow_stale=True)["ask"][1] == 2045.0
    assert len(desk.attach().snapshot()) == 2


def test_more_levels_than_the_block_holds_keep_the_best_and_say_so(tmp_path):
    from tests.shm.conftest import Desk

    desk = Desk(tmp_path, depth=20)
    btc = desk.attach()["BTC/USD"]
    desk.btc.fill([(1000 - i, i + 1) for i in range(50)], [(2000 + i, i + 1) for i in range(5)])
    desk.btc.publish()
    assert btc.depth(None, price="int")[0]["price"].tolist() == list(range(1000, 980, -1))
    assert btc.truncated == (True, False)
    desk.btc.delete("bid", 49)  # the best: deeper ones move up
    desk.btc.publish()
    assert btc.depth(None, price="int")[0]["price"].tolist() == list(range(999, 979, -1))
    desk.btc.fill([(1000 - i, i + 1) for i in range(20)], [])
    desk.btc.publish()
    assert btc.depth(None, price="int")[0]["price"].tolist() == list(range(1000, 980, -1))
    assert btc.truncated == (False, False)
    desk.writer.close()


edits = st.lists(
    st.tuples(
        st.sampled_from("sid"), st.sampled_from(["bid", "ask"]), st.floats(0, 1), st.integers(1, 10**12), st.booleans()
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(edits)
def test_touched_ranges_alone_keep_the_reader_s_book_equal(tmp_path_factory, plan):
    """Whatever is set, inserted and deleted, published now or later, the reader's levels equal a plain list's."""
    from tests.shm.conftest import Desk

    desk = Desk(tmp_path_factory.mktemp("desk"), depth=16)
    btc = desk.attach()["BTC/USD"]
    plain = {"bid": [(p, q) for p, q in reversed(BIDS)], "ask": [(p, q) for p, q in reversed(ASKS)]}
    for n, (what, side, where, qty, now) in enumerate(plan):
        levels = plain[side]
        if what == "i" or not levels:
            i = int(where * len(levels))
            levels.insert(i, (n, qty))
            desk.btc.insert(side, i, n, qty)
        elif what == "s":
            i = int(where * (len(levels) - 1))
            levels[i] = (n, qty)
            desk.btc.set(side, i, n, qty)
        else:
            i = int(where * (len(levels) - 1))
            del levels[i]
            desk.btc.delete(side, i)
        if now:
            desk.btc.publish()
            for count in (10, None):
                seen = [side.tolist() for side in btc.depth(count, price="int")]
                most = 10 if count else 16
                want = [[(p, q, 0) for p, q in reversed(plain[s])][:most] for s in ("bid", "ask")]
                assert seen == want
    desk.writer.close()


def test_wait_wakes_on_the_book_and_on_the_feed(desk):
    feed = desk.attach()
    btc, other = feed["BTC/USD"], desk.book("ETH/USD")
    btc.top()
    assert not btc.wait(0.001)
    feed.wait(0)
    assert not feed.wait(0.001)
    desk.writer.heartbeat()  # finds out that somebody sleeps: from here on a publication wakes at once
    began = time.monotonic()
    timer = threading.Timer(0.05, desk.btc.publish)
    timer.start()
    assert btc.wait(20)
    assert feed.wait(20)
    timer.join()
    other.publish()
    btc.top()
    assert not btc.wait(0.001) and feed.wait(20)
    assert time.monotonic() - began < 10


def test_segment_tables(desk):
    desk.writer.set_session(
        0,
        service="spot-l2",
        state="up",
        host="h",
        port=4000,
        level="L2",
        sender="ME",
        target="KRAKEN-MD",
        messages=5,
        rollover_ns=9,
    )
    desk.writer.set_session(0, messages=6)
    desk.writer.set_counter("frames", 12)
    feed = desk.attach()
    (row,) = feed.sessions
    assert (row["service"], row["state"], row["port"], row["messages"], row["level"]) == (
        "spot-l2",
        "up",
        4000,
        6,
        "L2",
    )
    assert feed.counters == {"frames": 12}
    assert feed.info["layout"] == 2 and feed.name == "desk"
    with pytest.raises(UsageError):
        desk.writer.set_session(64, service="x")
    with pytest.raises(UsageError):
        desk.writer.set_counter("x" * 40, 1)


def test_writer_refuses_bad_words(tmp_path, desk):
    from kfix_md.shm.writer import SegmentWriter

    for bad in ({"name": "a/b"}, {"name": ""}, {"depth": 0}, {"directory": tmp_path / "none"}):
        with pytest.raises(UsageError):
            SegmentWriter(**{"name": "x", "directory": tmp_path, **bad})
    for bad in (("", 2), ("X" * 60, 2), ("A", 4), ("A", 2, 19), ("A", 2, 0, -1)):
        with pytest.raises(UsageError):
            desk.writer.add_symbol(*bad)
    for i in range(63):
        desk.writer.add_symbol(f"S{i}")
    with pytest.raises(UsageError, match="room for 64"):
        desk.writer.add_symbol("one more")
    desk.writer.close()
    with pytest.raises(FeedError, match="closed"):
        desk.writer.add_symbol("A")


def test_many_values_survive_the_float(desk):
    rng = np.random.default_rng(1)
    btc = desk.attach()["BTC/USD"]
    for price, qty in rng.integers(1, 10**12, (200, 2)).tolist():
        desk.btc.set("bid", 2, price, qty)
        desk.btc.publish()
        text = f"{price // 10}.{price % 10}", f"{qty // 10**8}.{qty % 10**8:08d}"
        assert btc.top()[:2] == (float(text[0]), float(text[1]))
