"""Keeps the venue's own books in dicts and sorted lists of integers: the truth that clients are compared with."""

from bisect import bisect_left, insort
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple
from zlib import crc32

BID, OFFER, TRADE = 0, 1, 2
NEW, UPDATE, DELETE = 0, 1, 2


@dataclass(slots=True)
class VenueInstrument:
    """One row of 35=y; the integer fields are in units of its precisions."""

    symbol: str
    price_precision: int
    qty_precision: int
    tick: int = 1  # 5022, in units of the price precision
    minimum: int = 1  # 5011, in units of the quantity precision
    status: int = 1  # 5032
    price_text: str = ""  # 2349 and 5010 where they are not the precisions above
    qty_text: str = ""
    security: str = "CASH"  # 167
    grain: int = 1  # every quantity is a multiple of it, in units of the quantity precision
    huge: bool = False  # some orders are of more than 10^10 units
    verbatim: bytes = b""  # a capture's own group, served as recorded


class VenueEntry(NamedTuple):
    """One change of a book: `qty` is the quantity after it (0 for a delete)."""

    action: int
    side: int
    ident: str  # order id on L3, empty on L2
    price: int
    qty: int
    event_ns: int = 0
    queue_ns: int = 0


class Order(NamedTuple):
    """A resting order. `rank` settles equal queue times by arrival; `text` is what it adds to 5041."""

    ident: str
    side: int
    price: int
    qty: int
    queue_ns: int
    event_ns: int
    rank: int
    text: str


#: what one `apply` changed, in order; only the book that made it can read it
Undo = list[Any]
_QUEUE = attrgetter("queue_ns", "rank")


class Levels:
    """Prices of one side, ascending."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.prices: list[int] = []

    def best(self, n: int) -> list[int]:
        """The `n` best prices, best first."""
        return self.prices[:n] if self.side == OFFER else self.prices[: -n - 1 : -1]

    def boundary(self, depth: int) -> int | None:
        """Price of the last level inside `depth`; None when all levels are inside."""
        if depth == 0 or len(self.prices) < depth:
            return None
        return self.prices[depth - 1 if self.side == OFFER else -depth]

    def between(self, one: int | None, other: int | None) -> list[int]:
        """Prices that lie inside exactly one of two boundaries (None is no boundary)."""
        if one == other or not self.prices:
            return []
        if self.side == OFFER:
            low, high = sorted(len(self.prices) if b is None else bisect_left(self.prices, b + 1) for b in (one, other))
        else:
            low, high = sorted(0 if b is None else bisect_left(self.prices, b) for b in (one, other))
        return self.prices[low:high]

    def add(self, price: int) -> None:
        """Open a level."""
        insort(self.prices, price)

    def remove(self, price: int) -> None:
        """Close a level."""
        del self.prices[bisect_left(self.prices, price)]


class VenueL2Book:
    """Quantity by price."""

    level = "L2"

    def __init__(self) -> None:
        self.sides = (Levels(BID), Levels(OFFER))
        self.qty: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def apply(self, entries: list[VenueEntry]) -> Undo:
        """Apply changes in order; returns what `revert` needs."""
        undo: Undo = []
        for entry in entries:
            side = entry.side
            undo.append((side, entry.price, self.qty[side].get(entry.price, 0)))
            self._set(side, entry.price, 0 if entry.action == DELETE else entry.qty)
        return undo

    def revert(self, undo: Undo) -> None:
        """Take back one `apply`."""
        for side, price, qty in reversed(undo):
            self._set(side, price, qty)

    def _set(self, side: int, price: int, qty: int) -> None:
        quantities = self.qty[side]
        if qty:
            if price not in quantities:
                self.sides[side].add(price)
            quantities[price] = qty
        elif quantities.pop(price, None) is not None:
            self.sides[side].remove(price)

    def rows(self, side: int, depth: int = 0) -> list[tuple[int, int, int]]:
        """(price, quantity, 0) best first."""
        quantities = self.qty[side]
        return [(price, quantities[price], 0) for price in self.sides[side].best(depth or len(quantities) or 1)]

    def checksum(self, _rule: str = "level") -> int:
        """5041: CRC32 of price and quantity digits of ten offers, then of ten bids, best first."""
        text = [f"{price}{self.qty[side][price]}" for side in (OFFER, BID) for price in self.sides[side].best(10)]
        return crc32("".join(text).encode())

    def copy(self) -> "VenueL2Book":
        """An independent book of the same contents."""
        other = VenueL2Book()
        for mine, levels, theirs, copied in zip(self.sides, self.qty, other.sides, other.qty, strict=True):
            theirs.prices = list(mine.prices)
            copied.update(levels)
        return other


class VenueL3Book:
    """Orders by id, queued at each price by 5273."""

    level = "L3"

    def __init__(self) -> None:
        self.sides = (Levels(BID), Levels(OFFER))
        self.queues: tuple[dict[int, list[Order]], dict[int, list[Order]]] = ({}, {})
        self.orders: dict[str, Order] = {}
        self._rank = 0

    def apply(self, entries: list[VenueEntry]) -> Undo:
        """Apply changes in order; returns what `revert` needs."""
        undo: Undo = []
        for entry in entries:
            known = self.orders.get(entry.ident)
            undo.append((entry.ident, known))
            if known:
                self._take(known)
            if entry.action != DELETE:
                self._rank += 1
                self._put(
                    Order(
                        entry.ident,
                        entry.side,
                        entry.price,
                        entry.qty,
                        entry.queue_ns,
                        entry.event_ns,
                        known.rank if known and known.queue_ns == entry.queue_ns else self._rank,
                        f"{entry.price}{entry.qty}",
                    )
                )
        return undo

    def revert(self, undo: Undo) -> None:
        """Take back one `apply`."""
        for ident, earlier in reversed(undo):
            now = self.orders.get(ident)
            if now:
                self._take(now)
            if earlier:
                self._put(earlier)

    def _put(self, order: Order) -> None:
        queue = self.queues[order.side].get(order.price)
        if queue is None:
            queue = self.queues[order.side][order.price] = []
            self.sides[order.side].add(order.price)
        if queue and _QUEUE(queue[-1]) > _QUEUE(order):
            insort(queue, order, key=_QUEUE)
        else:
            queue.append(order)
        self.orders[order.ident] = order

    def _take(self, order: Order) -> None:
        del self.orders[order.ident]
        queue = self.queues[order.side][order.price]
        queue.remove(order)
        if not queue:
            del self.queues[order.side][order.price]
            self.sides[order.side].remove(order.price)

    def rows(self, side: int, depth: int = 0) -> list[tuple[int, int, int]]:
        """(price, total quantity, number of orders) best first."""
        queues = self.queues[side]
        return [
            (price, sum(order.qty for order in queues[price]), len(queues[price]))
            for price in self.sides[side].best(depth or len(queues) or 1)
        ]

    def checksum(self, rule: str = "order") -> int:
        """5041 over the ten best levels: order by order, or by the totals of the levels (`rule` level)."""
        text = []
        for side in (OFFER, BID):
            for price in self.sides[side].best(10):
                queue = self.queues[side][price]
                if rule == "level":
                    text.append(f"{price}{sum(order.qty for order in queue)}")
                else:
                    text += [order.text for order in queue]
        return crc32("".join(text).encode())

    def copy(self) -> "VenueL3Book":
        """An independent book of the same contents."""
        other = VenueL3Book()
        for mine, levels, theirs, copied in zip(self.sides, self.queues, other.sides, other.queues, strict=True):
            theirs.prices = list(mine.prices)
            copied.update({price: list(queue) for price, queue in levels.items()})
        other.orders = dict(self.orders)
        other._rank = self._rank
        return other


VenueBook = VenueL2Book | VenueL3Book
