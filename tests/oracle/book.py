"""Books as plain dicts and sorted(), and their CRC32 by zlib over printed text."""

from __future__ import annotations

import heapq
import zlib
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from tests.oracle.codec import Entry

DEPTH = 10  # levels under the checksum, whatever was subscribed


@lru_cache(1 << 16)
def digits(value: Decimal, precision: int) -> str:
    """Printed with `precision` decimals, dot removed, leading zeros removed."""
    return f"{value:.{precision}f}".replace(".", "").lstrip("0")


@dataclass(slots=True)
class Order:
    """A resting order: queued at its price by (`queue_ns`, `arrival`)."""

    side: str
    price: Decimal
    qty: Decimal
    queue_ns: int
    arrival: int


class Book:
    """What both levels share: precisions, best levels, and the two checksum rules."""

    level = ""

    def __init__(self, price_precision: int, qty_precision: int) -> None:
        self.price_precision, self.qty_precision = price_precision, qty_precision
        self.applied = 0
        self.clear()

    def clear(self) -> None:
        """Empty both sides."""
        raise NotImplementedError

    def apply(self, entry: Entry) -> None:
        """One bid or offer entry, in the order given."""
        raise NotImplementedError

    def prices(self, side: str) -> dict:
        """The side's levels by price."""
        raise NotImplementedError

    def quantities(self, side: str, price: Decimal, rule: str) -> list[Decimal]:
        """What the level contributes to the checksum: one total, or each order in queue order."""
        raise NotImplementedError

    def best(self, side: str, n: int = DEPTH) -> list[Decimal]:
        """Up to `n` prices, best first."""
        pick = heapq.nsmallest if side == "1" else heapq.nlargest
        return pick(n, self.prices(side))

    def checksum(self, rule: str) -> int:
        """5041 by the rule "level" or "order": ten best offers upwards, then ten best bids downwards."""
        text = ""
        for side in ("1", "0"):
            for price in self.best(side):
                for qty in self.quantities(side, price, rule):
                    text += digits(price, self.price_precision) + digits(qty, self.qty_precision)
        return zlib.crc32(text.encode())

    def depth(self, side: str, n: int) -> list[tuple[Decimal, Decimal, int]]:
        """(price, total quantity, orders) of the `n` best levels; orders 0 on L2."""
        return [(price, *self.total(side, price)) for price in self.best(side, n)]

    def total(self, side: str, price: Decimal) -> tuple[Decimal, int]:
        """Quantity and number of orders of one level."""
        raise NotImplementedError

    def crossed(self) -> bool:
        """The best bid is at or above the best offer."""
        bids, offers = self.prices("0"), self.prices("1")
        return bool(bids and offers and max(bids) >= min(offers))


class L2Book(Book):
    """Levels as a dict from price to quantity."""

    level = "L2"

    def clear(self) -> None:
        self.sides: dict[str, dict[Decimal, Decimal]] = {"0": {}, "1": {}}

    def apply(self, entry: Entry) -> None:
        if entry.action == "2" or not entry.qty:
            self.sides[entry.side].pop(entry.price, None)
        else:
            self.sides[entry.side][entry.price] = entry.qty

    def prices(self, side: str) -> dict:
        return self.sides[side]

    def quantities(self, side: str, price: Decimal, rule: str) -> list[Decimal]:
        return [self.sides[side][price]]

    def total(self, side: str, price: Decimal) -> tuple[Decimal, int]:
        return self.sides[side][price], 0


class L3Book(Book):
    """Orders as a dict from id to Order, and again under each price."""

    level = "L3"

    def clear(self) -> None:
        self.orders: dict[str, Order] = {}
        self.levels: dict[str, dict[Decimal, dict[str, Order]]] = {"0": {}, "1": {}}

    def remove(self, order_id: str) -> Order | None:
        """Take an order out of the book, with its level when it was the last one there."""
        order = self.orders.pop(order_id, None)
        if order is not None:
            level = self.levels[order.side][order.price]
            del level[order_id]
            if not level:
                del self.levels[order.side][order.price]
        return order

    def apply(self, entry: Entry) -> None:
        self.applied += 1
        old = self.remove(entry.id)
        if entry.action == "2" or not entry.qty:
            return
        order = Order(entry.side, entry.price, entry.qty, entry.queue_ns, self.applied)
        if old and (old.side, old.price) == (order.side, order.price) and order.queue_ns in (0, old.queue_ns):
            order.arrival, order.queue_ns = old.arrival, old.queue_ns  # only the quantity is new: same place
        self.orders[entry.id] = order
        self.levels[entry.side].setdefault(entry.price, {})[entry.id] = order

    def prices(self, side: str) -> dict:
        return self.levels[side]

    def queue(self, side: str, price: Decimal) -> list[tuple[str, Order]]:
        """(id, order) of one level, first in the queue first."""
        level = self.levels[side].get(price, {})
        return sorted(level.items(), key=lambda item: (item[1].queue_ns, item[1].arrival))

    def position(self, order_id: str) -> tuple[int, Decimal]:
        """Orders and quantity ahead of an order at its price."""
        ahead, mine = Decimal(0), self.orders[order_id]
        for place, (other, order) in enumerate(self.queue(mine.side, mine.price)):
            if other == order_id:
                return place, ahead
            ahead += order.qty
        raise AssertionError("an order is always in its own queue")

    def quantities(self, side: str, price: Decimal, rule: str) -> list[Decimal]:
        if rule == "level":
            return [self.total(side, price)[0]]
        return [order.qty for _, order in self.queue(side, price)]

    def total(self, side: str, price: Decimal) -> tuple[Decimal, int]:
        level = self.levels[side][price]
        return sum((order.qty for order in level.values()), Decimal(0)), len(level)
