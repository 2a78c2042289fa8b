"""What a person sees of a book and a feed, what TAB offers, and a pickled book in another process."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from decimal import Decimal

import pytest

from kfix_md import Cause, FeedError, Handler, NotLive, State
from kfix_md.shm.attach import attach
from tests.odd_arguments import SNAPSHOT
from tests.shm.conftest import ASKS, BIDS

PATIENT = r"""
import pickle, sys
book, feed, trades = pickle.load(sys.stdin.buffer)
print(book.top(), book.level, feed["BTC/USD"].bid, feed.name, trades.book is book, repr(book).split(",")[0])
"""


@pytest.fixture
def btc(desk):
    desk.btc.publish(recv_ns=1_000, seq=9)
    return desk.attach()["BTC/USD"]


def test_exact_decimals_of_top_and_depth(desk, btc):
    assert btc.top(price="decimal") == tuple(map(Decimal, ("28003.0", "0.00100000", "28013.0", "0.00096506")))
    bids, asks = btc.depth(2, price="decimal")
    assert bids["price"].tolist() == [Decimal("28003.0"), Decimal("27999.9")]
    assert asks["qty"].tolist() == [Decimal("0.00096506"), Decimal("0.001")]
    deep, _ = btc.depth(None, price="decimal")
    assert deep["price"].tolist()[:2] == bids["price"].tolist()
    desk.btc.fill([], ASKS)
    desk.btc.publish()
    assert btc.top(price="decimal")[:2] == (None, Decimal(0))
    for call in (btc.top, btc.depth):
        with pytest.raises(ValueError, match='"float", "int" or "decimal", not \'text\''):
            call(price="text")


def test_sides_and_imbalance(desk, btc):
    assert btc.bids.tolist() == btc.depth()[0].tolist() and btc.asks.tolist() == btc.depth()[1].tolist()
    assert btc.imbalance == pytest.approx((0.001 - 0.00096506) / (0.001 + 0.00096506))
    desk.btc.fill([], ASKS)
    desk.btc.publish()
    assert btc.imbalance == -1.0
    desk.btc.fill([], [])
    desk.btc.publish(State.EMPTY)
    assert math.isnan(btc.imbalance)
    desk.btc.publish(State.GAP, Cause.LOST)
    for name in ("bids", "asks", "imbalance", "mid", "spread"):
        with pytest.raises(NotLive):
            getattr(btc, name)


def test_a_book_in_one_line_and_as_a_table(desk, btc):
    assert btc.changed()
    assert repr(btc).startswith("<BTC/USD L2 LIVE 28003.0 / 28013.0, ")
    page = btc._repr_html_()
    assert "28,003.0" in page and "0.00096506" in page and page.count("<tr>") == 1 + max(len(BIDS), len(ASKS))
    assert btc.changed()  # to look at a book is not to read it
    desk.btc.fill([], ASKS)
    desk.btc.publish()
    assert "LIVE – / 28013.0" in repr(btc)
    desk.btc.publish(State.GAP, Cause.LOST)
    assert repr(btc).startswith("<BTC/USD L2 GAP (LOST), ")
    page = btc._repr_html_()
    assert "28,0" not in page and "GAP (LOST)" in page
    untouched = desk.book("<A&B>")
    assert repr(desk.attach()["<A&B>"]) == "<<A&B> L2 INIT, no message yet>"
    assert "&lt;A&amp;B&gt;" in desk.attach()["<A&B>"]._repr_html_()
    del untouched


def test_a_feed_in_one_line_and_as_a_table(desk):
    for i in range(50):
        desk.book(f"S{i}/USD").publish(State.GAP if i == 7 else State.LIVE)
    feed = desk.attach()
    assert repr(feed) == "<feed 'desk': 51 books, 50 LIVE, 1 GAP>"
    page = feed._repr_html_()
    assert "28,003.0" in page and "10.0" in page and "the first 40 of 51" in page and page.count("<tr>") == 41
    desk.writer.close()
    assert "51 books, feed 'desk'" in repr(feed) and "BTC/USD" in feed._repr_html_()


def test_tab_offers_symbols_and_names(desk):
    desk.book("PF_ETHUSD", 3, orders=4)
    feed = desk.attach()
    assert feed._ipython_key_completions_() == ["BTC/USD", "PF_ETHUSD", ("BTC/USD", "L2"), ("PF_ETHUSD", "L3")]
    names = {"bid", "ask", "mid", "spread", "imbalance", "top", "depth", "bids", "asks", "trades", "state", "age_ns"}
    assert names <= set(dir(feed["BTC/USD"]))
    handler = Handler()
    handler.define("BTC/USD", 1, 2)
    assert handler._ipython_key_completions_() == ["BTC/USD"]


def test_a_pickled_book_is_attached_to_again(desk, btc):
    feed = desk.attach(reconnect=True, allow_unverified=True)
    there = pickle.loads(pickle.dumps((feed, feed["BTC/USD", "L2"], feed["BTC/USD"])))
    assert there[0] is not feed and there[0].reconnect and there[0].allow_unverified
    assert there[0]["BTC/USD"] is there[1] is there[2]
    assert there[1].top() == btc.top()
    assert copy.copy(btc).top() == btc.top()
    quote = pickle.loads(pickle.dumps(btc.read()))
    assert (quote.bid, quote.seq, quote.state) == (28003.0, 9, State.LIVE)
    data = pickle.dumps((btc, desk.attach(), btc.trade_reader()))
    done = subprocess.run([sys.executable, "-c", PATIENT], input=data, capture_output=True, check=True)
    assert done.stdout.decode().split("\n")[0] == (
        "(28003.0, 0.001, 28013.0, 0.00096506) L2 28003.0 desk True <BTC/USD L2 LIVE 28003.0 / 28013.0"
    )
    desk.writer.close()
    with pytest.raises(FeedError, match="no feed named 'desk'"):
        pickle.loads(data)


def test_a_book_made_of_a_segment_is_pickled_by_its_path(desk):
    from kfix_md.shm.deep import Book
    from kfix_md.shm.segment import Segment

    book = Book(Segment(str(attach("desk", directory=desk.directory).path)), 0)
    assert pickle.loads(pickle.dumps(book)).top() == book.top()


def test_a_book_of_a_handler_speaks_the_same_words():
    handler = Handler()
    handler.define("BTC/USD", 1, 2)
    book = handler["BTC/USD"]
    assert repr(book) == "<BTC/USD INIT – / –>" and "INIT" in book._repr_html_()
    handler.on_bytes(SNAPSHOT, 1)
    assert repr(book) == "<BTC/USD L2 LIVE 10.0 / 11.0>"
    assert "10.0" in book._repr_html_() and (book.mid, book.spread, book.imbalance) == (10.5, 1.0, 0.0)
    assert book.top(price="decimal") == (Decimal(10), Decimal(1), Decimal(11), Decimal(1))
    assert book.depth(price="decimal")[0].tolist() == [(Decimal(10), Decimal(1), 0)]
    assert book.bids["price"].tolist() == [10.0] and book.asks["price"].tolist() == [11.0]
    with pytest.raises(ValueError, match="decimal"):
        book.top(price="text")
