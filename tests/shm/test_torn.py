"""No torn readings: a self-checking payload, every kind of reader, and a naive one in the same run that does tear."""

from __future__ import annotations

import threading

import pytest

from tests.shm._stress import check_levels, torn_levels, torn_tops
from tests.shm.conftest import Desk

ROUNDS, SECONDS = 12, 0.5


class Tally:
    """What a run of readers saw."""

    reads = torn = naive = distinct = levels = copies = 0

    def look(self, book, deep: bool) -> None:
        torn, _, distinct = torn_tops(book, 20_000)
        self.torn, self.distinct, self.reads = self.torn + torn, self.distinct + distinct, self.reads + 20_000
        self.naive += torn_tops(book, 20_000, naive=True)[0]
        for whole_book in (False, True):
            torn, whole = torn_levels(book, 500, 10 if deep else 1, whole_book)
            self.torn, self.copies = self.torn + torn, self.copies + whole
        for _ in range(20):
            bid, bid_qty, ask, ask_qty = book.top(price="int")
            self.torn += (bid_qty, ask, ask_qty) != (bid + 1, bid + 2, bid + 3)
            if deep:
                self.torn += not check_levels(*book.depth(10, price="int"))
                self.levels += 1

    def enough(self, deep: bool) -> bool:
        return self.naive > 0 and self.distinct > 500 and self.copies > 500 and (self.levels > 500 or not deep)


@pytest.mark.parametrize("rate", [1_000_000, 0], ids=["a million a second", "flat out"])
def test_seqlocked_readings_are_whole_and_naive_ones_tear(tmp_path, rate):
    desk = Desk(tmp_path)
    desk.btc.fill([(2000 - i, 1) for i in range(10)], [(3000 + i, 1) for i in range(10)])
    desk.btc.storm(0.001, levels=10)
    book, tally, published = desk.attach()["BTC/USD"], Tally(), 0
    for _ in range(ROUNDS):  # a busy machine may run reader and writer on one core, where little tears
        counts: list[int] = []
        writer = threading.Thread(
            target=lambda counts=counts: counts.append(desk.btc.storm(SECONDS, rate, 10 if rate else 1))
        )
        writer.start()
        while writer.is_alive():
            tally.look(book, deep=rate > 0)
        writer.join()
        published += counts[0]
        if tally.enough(deep=rate > 0):
            break
    assert tally.torn == 0
    assert tally.enough(deep=rate > 0), vars(tally)
    assert book.info()["updates"] >= published > 100_000, "the writer got through"
    desk.writer.close()
