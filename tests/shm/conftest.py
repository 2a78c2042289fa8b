"""A writer with books made by hand, in a directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from kfix_md.shm.attach import Feed, attach
from kfix_md.shm.writer import SegmentWriter
from tests.shm._stress import ManualBook

BIDS = [(280030, 100000), (279999, 96375), (279699, 73860423)]
ASKS = [(280130, 96506), (280398, 100000)]


class Desk:
    """A writer, a book "BTC/USD" in it, and as many readers as wanted."""

    def __init__(self, directory: Path, name: str = "desk", **how) -> None:
        self.directory, self.name = directory, name
        how.setdefault("heartbeat_ns", 60_000_000_000)
        self.writer = SegmentWriter(name, directory, capacity=64, **how)
        self.btc = self.book("BTC/USD", 2, 1, 8)
        self.btc.fill(BIDS, ASKS)
        self.btc.publish()

    def book(self, symbol: str, level: int = 2, price: int = 1, qty: int = 3, orders: int = 0) -> ManualBook:
        return ManualBook(self.writer, self.writer.add_symbol(symbol, level, price, qty), orders=orders)

    def attach(self, **how) -> Feed:
        return attach(self.name, directory=self.directory, **how)


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    made.writer.close()
