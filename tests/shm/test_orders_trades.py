"""Orders in their queues (L3) and the ring of trades."""

from __future__ import annotations

import numpy as np
import pytest

from kfix_md import NotLive, State
from kfix_md._codec import id_key
from kfix_md.shm.attach import QueuePosition
from tests.padding import assert_equal_bytes
from tests.shm.conftest import Desk

IDS = [f"00bf007e-0039-00dd-0071-00ae00d7{i:04x}" for i in range(400)]


def place(book, row, side, price, qty, prev, nxt, text=None):
    kind, hi, lo = id_key(text or IDS[row])
    book.order(row, side, price, qty, hi, lo, kind, queue_ns=1000 + row, prev=prev, next=nxt)


@pytest.fixture
def eth(desk):
    """2044.8 bid: orders 0, 2, 1 in this order; 2045.0 ask: order 3, a Kraken id."""
    book = desk.book("PF_ETHUSD", 3, 1, 3, orders=512)
    place(book, 0, "bid", 20448, 1000, -1, 2)
    place(book, 2, "bid", 20448, 250, 0, 1)
    place(book, 1, "bid", 20448, 500, 2, -1)
    place(book, 3, "ask", 20450, 7, -1, -1, "OABCDE-FGHIJ-KLMNOP")
    book.fill([(20448, 1750, 3, 0)], [(20450, 7, 1, 3)])
    book.publish()
    return book


def test_orders_of_a_level_in_queue_order(desk, eth):
    book = desk.attach()["PF_ETHUSD", "L3"]
    queue = book.orders(2044.8)
    assert queue["qty"].tolist() == [1.0, 0.25, 0.5] and queue["queue_ns"].tolist() == [1000, 1002, 1001]
    assert (int(queue["id_kind"][1]), int(queue["id_hi"][1]), int(queue["id_lo"][1])) == id_key(IDS[2])
    assert book.orders("2045.0")["qty"].tolist() == [0.007]
    assert len(book.orders(book.depth(1)[0]["price"][0])) == 3
    assert len(book.orders(2046)) == 0
    assert book.depth(1)[0]["orders"].tolist() == [3]
    with pytest.raises(ValueError, match="more decimals"):
        book.orders(2044.85)


def test_queue_position_by_the_id_s_text(desk, eth):
    book = desk.attach()["PF_ETHUSD"]
    assert book.queue_position(IDS[1]) == QueuePosition("bid", 2044.8, 0.5, 2, 1.25, 3, 1.75)
    assert book.queue_position("OABCDE-FGHIJ-KLMNOP").side == "ask"
    assert book.queue_position(IDS[9]) is None
    # the first in the queue is filled: its row is free, the next one leads
    eth.order(0, "bid", 20448, 0)
    place(eth, 2, "bid", 20448, 250, -1, 1)
    eth.fill([(20448, 750, 2, 2)], [(20450, 7, 1, 3)])
    eth.publish()
    assert book.queue_position(IDS[1])[3:5] == (1, 0.25)
    assert book.queue_position(IDS[0]) is None
    eth.publish(State.GAP)
    with pytest.raises(NotLive):
        book.queue_position(IDS[1])
    assert book.queue_position(IDS[1], allow_stale=True).ahead == 1


def test_equal_rows_have_equal_bytes(desk, eth):
    eth.trade(20450, 7)
    eth.publish()
    book = desk.attach()["PF_ETHUSD"]
    assert_equal_bytes(lambda: book.orders(2044.8))
    assert_equal_bytes(book.trades)
    for price in ("float", "int"):
        assert_equal_bytes(lambda price=price: book.depth(price=price)[0])


def test_l2_knows_no_orders(desk):
    with pytest.raises(ValueError, match="L3 only"):
        desk.attach()["BTC/USD"].orders(28003.0)


def test_rows_grow_past_the_first_pages(tmp_path):
    desk = Desk(tmp_path, orders=350)
    book = desk.book("PF_X", 3, 0, 0, orders=400)
    reader = desk.attach()["PF_X"]
    for row in range(400):
        place(book, row, "bid", 5, row + 1, row - 1, row + 1)
        if row == 340:
            book.fill([(5, 1, 341, 0)], [])
            book.publish()
            assert reader.truncated == (False, False)
            assert reader.orders(5)["qty"].tolist() == [float(n + 1) for n in range(341)]
    book.fill([(5, 1, 400, 0)], [])
    book.publish()
    assert reader.truncated == (False, True)
    assert len(reader.orders(5)) == 350
    desk.writer.close()


def test_trades_ring_and_loss_of_a_slow_reader(tmp_path):
    desk = Desk(tmp_path, trades=8)
    book = desk.attach()["BTC/USD"]
    fast, late = book.trade_reader(), book.trade_reader()
    assert len(book.trades()) == 0 and len(fast.read()) == 0
    desk.btc.trade(280030, 5000, aggressor=2, ord_type=1, event_ns=4, recv_ns=5, seq=6)
    (row,) = fast.read().tolist()
    assert row == (0, 28003.0, 0.00005, 5, 4, 6, 2, 1)
    for n in range(1, 21):
        desk.btc.trade(n, 1)
        fast.read()
    assert fast.lost == 0
    assert late.read()["index"].tolist() == list(range(13, 21)) and late.lost == 13
    assert book.trades(3)["price"].tolist() == [1.8, 1.9, 2.0]
    assert book.trade_reader(from_start=True).read()["index"].tolist() == list(range(13, 21))
    assert isinstance(book.trades(), np.ndarray)
    desk.writer.close()
