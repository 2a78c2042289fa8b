"""Several feeds read as one: which copy of a book is read, when it changes, and what a reader notices of it."""

from __future__ import annotations

import itertools
import math
import time

import pytest

from kfix_md import Cause, FeedDead, FeedError, NotLive, State, attach
from kfix_md.shm.failover import FailoverFeed
from tests.shm.conftest import BIDS, Desk
from tests.shm.test_processes import end, start

#: the best ask of a copy shows which feed it is of
ASK = {"a": 28013.0, "b": 28014.0}
OLD_NS = 10_000_000_000


@pytest.fixture
def pair(tmp_path):
    """Feeds "a" and "b", both with BTC/USD LIVE."""
    made = {}
    for name, ask in ASK.items():
        made[name] = Desk(tmp_path, name)
        publish(made[name], ask)
    yield made
    for desk in made.values():
        desk.writer.close()


def publish(desk: Desk, ask: float, *how, **more) -> None:
    desk.btc.fill(BIDS, [(round(ask * 10), 1)])
    desk.btc.publish(*how, **more)


def read(book) -> str:
    """Name of the feed whose copy a reading is of."""
    (name,) = [name for name, ask in ASK.items() if ask == book.top()[2]]
    return name


def test_the_first_good_copy_is_read_and_kept(pair, tmp_path):
    feed = attach(["a", "b"], directory=tmp_path)
    book = feed["BTC/USD"]
    assert isinstance(feed, FailoverFeed) and read(book) == "a" and feed.serving("BTC/USD") == "a"
    publish(pair["a"], ASK["a"], State.GAP, Cause.LOST)
    assert read(book) == "b" and feed.switches == 1
    publish(pair["a"], ASK["a"])
    assert read(book) == "b", "the earlier copy is well again, and not returned to"
    publish(pair["b"], ASK["b"], State.STALE, Cause.DISCONNECT)
    assert read(book) == "a" and feed.switches == 2


def test_a_snapshot_has_books_that_one_feed_has_no_more(pair, tmp_path):
    for desk in pair.values():
        desk.book("ETH/USD")
    pair["a"].writer.set_state(1, State.LIVE)
    feed = attach(["a", "b"], directory=tmp_path)
    rows = feed.snapshot()
    assert rows["symbol"].tolist() == ["BTC/USD", "ETH/USD"] and feed.serving("ETH/USD") == "a"
    assert rows["state"].tolist() == [State.LIVE, State.LIVE]
    pair["a"].writer.close()
    pair["a"] = Desk(tmp_path, "a")  # started again, without ETH/USD
    publish(pair["a"], ASK["a"])
    rows = feed.snapshot()
    assert rows["symbol"].tolist() == ["BTC/USD", "ETH/USD"] and rows["state"].tolist() == [State.LIVE, State.INIT]
    assert feed.serving("ETH/USD") == "b" and math.isnan(rows["bid"][1])


@pytest.mark.parametrize(
    "reading",
    [
        lambda book: book.top()[2],
        lambda book: book.top(price="int")[2] / 10,
        lambda book: book.read().ask,
        lambda book: book.ask,
        lambda book: book.mid * 2 - 28003.0,
        lambda book: book.depth(1)[1]["price"][0],
        lambda book: book.depth(None)[1]["price"][0],
    ],
)
def test_every_reading_moves(pair, tmp_path, reading):
    book = attach("a,b", directory=tmp_path)["BTC/USD"]
    assert reading(book) == ASK["a"]
    publish(pair["a"], ASK["a"], State.CRC_FAIL, Cause.CRC)
    assert reading(book) == ASK["b"]


def test_state_and_cause_are_those_of_a_copy_that_can_be_read(pair, tmp_path):
    book = attach("a,b", directory=tmp_path)["BTC/USD"]
    publish(pair["a"], ASK["a"], State.GAP, Cause.LOST)
    assert (book.state, book.cause) == (State.LIVE, Cause.NONE) and read(book) == "b"


def test_a_book_that_no_copy_has_raises_with_the_reason_of_the_copy_that_was_read(pair, tmp_path):
    feed = attach(["b", "a"], directory=tmp_path)
    book = feed["BTC/USD"]
    publish(pair["a"], ASK["a"], State.HALTED, Cause.STATUS)
    publish(pair["b"], ASK["b"], State.GAP, Cause.LOST)
    with pytest.raises(NotLive) as error:
        book.top()
    assert (error.value.state, error.value.cause) == (State.GAP, Cause.LOST)
    assert book.top(allow_stale=True)[2] == ASK["b"] and feed.switches == 0
    publish(pair["a"], ASK["a"])
    assert read(book) == "a"


def test_an_ended_feed_costs_no_reading(pair, tmp_path):
    feed = attach(["a", "b"], directory=tmp_path)
    book = feed["BTC/USD"]
    pair["a"].writer.close()
    assert read(book) == "b" and feed.alive and "'a' has ended" in feed.fault
    pair["b"].writer.close()
    with pytest.raises(FeedDead, match="'b' has ended"):
        book.top()
    assert not feed.alive and book.state is State.DOWN
    with pytest.raises(FeedDead, match=r"'a' has ended.*'b' has ended"):
        feed.check()


def test_the_copy_of_a_living_feed_is_shown_when_none_can_be_read(pair, tmp_path):
    book = attach(["a", "b"], directory=tmp_path)["BTC/USD"]
    publish(pair["b"], ASK["b"], State.GAP, Cause.LOST)
    pair["a"].writer.close()
    with pytest.raises(NotLive, match="GAP"):
        book.top()


def test_a_copy_that_receives_nothing_is_left_when_another_does(pair, tmp_path):
    now = time.time_ns()
    publish(pair["a"], ASK["a"], recv_ns=now - OLD_NS)
    publish(pair["b"], ASK["b"], recv_ns=now - OLD_NS)
    feed = attach(["a", "b"], directory=tmp_path)
    book = feed["BTC/USD"]
    assert read(book) == "a", "a quiet market: neither has anything newer"
    publish(pair["b"], ASK["b"])
    time.sleep(0.3)  # a quiet book looks at the other copies every 200 ms
    assert read(book) == "b"
    publish(pair["a"], ASK["a"], recv_ns=now - OLD_NS + 1)
    assert read(book) == "b"


def test_waiting_moves_to_the_copy_that_publishes(pair, tmp_path):
    feed = attach(["a", "b"], directory=tmp_path)
    book = feed["BTC/USD"]
    assert read(book) == "a" and not book.wait(0.01) and not feed.wait(0.01)
    publish(pair["b"], ASK["b"])
    assert feed.wait(1), "any of the feeds wakes"
    publish(pair["a"], ASK["a"], State.GAP, Cause.LOST)
    assert book.wait(1) and read(book) == "b"
    pair["b"].writer.close()
    publish(pair["a"], ASK["a"])
    assert book.wait(1) and read(book) == "a"


def test_trades_go_on_after_the_last_one_read(pair, tmp_path):
    feed = attach(["a", "b"], directory=tmp_path)
    trades = feed["BTC/USD"].trade_reader()
    for event_ns, qty in [(1, 10), (2, 20), (2, 21)]:
        for desk in pair.values():
            desk.btc.trade(1, qty, event_ns=event_ns)
    assert len(trades.read()) == 3
    for event_ns, qty in [(2, 22), (3, 30)]:
        pair["b"].btc.trade(1, qty, event_ns=event_ns)
    pair["a"].writer.close()
    assert [round(float(trade["qty"]) * 1e8) for trade in trades.read()] == [22, 30]
    assert len(trades.read()) == 0 and trades.lost == 0


def test_symbols_of_all_feeds_and_one_row_for_each_book(pair, tmp_path):
    only = pair["b"].book("ETH/USD")
    only.fill(BIDS, [])
    only.publish()
    feed = attach(["a", "b"], directory=tmp_path)
    assert feed.symbols == ["BTC/USD", "ETH/USD"] and len(feed) == 2 and feed["ETH/USD"].top()[0] == 28003.0
    publish(pair["a"], ASK["a"], State.GAP, Cause.LOST)
    rows = feed.snapshot()
    assert rows["symbol"].tolist() == ["BTC/USD", "ETH/USD"]
    assert rows["ask"][0] == ASK["b"] and math.isnan(rows["ask"][1]) and feed.serving("BTC/USD") == "b"
    pair["b"].writer.close()
    rows = feed.snapshot()
    assert rows["state"].tolist() == [State.GAP, State.DOWN] or rows["state"].tolist() == [State.DOWN, State.DOWN]
    assert all(math.isnan(price) for price in rows["bid"])


def test_a_feed_that_starts_later_is_found(tmp_path):
    with pytest.raises(FeedError, match="no feed named 'a'"):
        attach(["a", "b"], directory=tmp_path)
    first = Desk(tmp_path, "b")
    publish(first, ASK["b"])
    feed = attach(["a", "b"], directory=tmp_path)
    book = feed["BTC/USD"]
    assert read(book) == "b" and "no feed named 'a'" in feed.fault
    second = Desk(tmp_path, "a")
    publish(second, ASK["a"])
    first.writer.close()
    deadline = time.monotonic() + 5
    while "no feed" in feed.fault:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert read(book) == "a" and feed.info["name"] == "b,a"[::-1] and set(feed.info["feeds"]) == {"a", "b"}
    assert [session["number"] for session in feed.sessions] == list(range(len(feed.sessions)))
    second.writer.close()


def test_killed_and_started_again_in_turn_readers_never_fail(tmp_path):
    """Two feeds, one of them always alive: after each kill, readings go on without an exception."""
    running = {name: start(tmp_path, name, heartbeat_ms=100) for name in "ab"}
    try:
        feed = attach(["a", "b"], directory=tmp_path)
        book = feed["BTC/USD"]
        for victim in itertools.islice(itertools.cycle("ab"), 4):
            end(running[victim])
            switched, until = feed.switches, time.monotonic() + 0.5
            while time.monotonic() < until:
                bid, *_ = book.top()
                book.depth(12)
                assert book.age_ns < 1_000_000_000 and bid > 0
            assert feed.serving("BTC/USD") != victim and feed.switches - switched <= 1
            running[victim] = start(tmp_path, victim, heartbeat_ms=100)
        assert feed.switches == 4
    finally:
        for process in running.values():
            end(process)
