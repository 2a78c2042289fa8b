"""Moves a book by seeded random order flow over one instrument, by price level or by order."""

from __future__ import annotations

import random
import zlib
from bisect import bisect_left, insort
from dataclasses import dataclass, field

BID, OFFER, TRADE = 0, 1, 2
NEW, UPDATE, DELETE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Instrument:
    """What 35=y states of a symbol; `mid` is where its market starts, in units of 10**-price_precision."""

    symbol: str
    price_precision: int
    qty_precision: int
    tick: int
    mid: int


@dataclass(slots=True)
class Row:
    """One entry as it goes on the wire; price and quantity are whole units of the precisions."""

    action: int
    side: int
    price: int
    qty: int
    id: str = ""
    event_ns: int = 0
    queue_ns: int = 0


@dataclass(slots=True)
class Resting:
    """An order of an L3 market."""

    side: int
    price: int
    qty: int
    queue_ns: int
    event_ns: int


@dataclass
class Market:
    """What L2 and L3 share: the ladder of prices and the choice of where something happens."""

    instrument: Instrument
    rng: random.Random
    depth: int
    prices: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))  # ascending

    def nth(self, side: int, distance: int) -> int:
        """The price `distance` levels from the best."""
        ladder = self.prices[side]
        distance = min(distance, len(ladder) - 1)
        return ladder[distance] if side == OFFER else ladder[-1 - distance]

    def near(self) -> int:
        """A distance from the best: small most of the time."""
        return int(self.rng.expovariate(0.35))

    def spot(self, side: int) -> int:
        """A price for something new on a side, never crossing the other side."""
        tick, sign = self.instrument.tick, 1 if side == OFFER else -1
        mine, other = self.prices[side], self.prices[1 - side]
        best = self.nth(side, 0) if mine else self.instrument.mid + sign * tick
        price = best + sign * tick * (self.near() - 1)
        if other:
            edge = self.nth(1 - side, 0)
            price = max(price, edge + tick) if side == OFFER else min(price, edge - tick)
        return max(price, tick)

    def quantity(self) -> int:
        """A quantity of the instrument: small, large, or with all its decimals."""
        unit = 10**self.instrument.qty_precision
        draw = self.rng.random()
        if draw < 0.4 and unit > 1:
            return self.rng.randrange(1, 50 * unit)
        if draw < 0.45:
            return self.rng.randrange(1, 10) * 10**6 * unit
        return self.rng.randrange(1, 20) * max(unit // 1000, 1)

    def insert(self, side: int, price: int) -> None:
        """A price joins the ladder unless it is there."""
        ladder = self.prices[side]
        at = bisect_left(ladder, price)
        if at == len(ladder) or ladder[at] != price:
            insort(ladder, price)

    def drop(self, side: int, price: int) -> None:
        """A price leaves the ladder."""
        ladder = self.prices[side]
        del ladder[bisect_left(ladder, price)]

    def ten(self, side: int) -> list[int]:
        """The ten best prices, best first."""
        return self.prices[side][:10] if side == OFFER else self.prices[side][:-11:-1]

    def quantities(self, side: int, price: int) -> list[int]:
        """What a level contributes to the checksum."""
        raise NotImplementedError

    def crc(self) -> int:
        """5041: digits of price and quantity, ten best offers then ten best bids."""
        return zlib.crc32(
            "".join(
                f"{price}{qty}"
                for side in (OFFER, BID)
                for price in self.ten(side)
                for qty in self.quantities(side, price)
            ).encode()
        )

    def fill(self, now_ns: int) -> None:
        """The market opens: `depth` levels on each side, some prices left out."""
        self.prices[BID].clear()
        self.prices[OFFER].clear()
        for side, sign in ((BID, -1), (OFFER, 1)):
            price = self.instrument.mid
            for _ in range(self.depth):
                price += sign * self.instrument.tick * (1 + int(self.rng.expovariate(1.5)))
                if price > 0:
                    self.open_level(side, price, now_ns)

    def open_level(self, side: int, price: int, now_ns: int) -> None:
        """One level of the opening book."""
        raise NotImplementedError

    def step(self, now_ns: int) -> list[Row]:
        """One thing happens: the rows that describe it, none at all when the draw does not fit the book."""
        side = self.rng.randrange(2)
        draw = self.rng.random()
        if len(self.prices[side]) < max(self.depth * 3 // 4, 2):
            rows = self.add(side, now_ns)
        elif draw < 0.42:
            rows = self.change(side, now_ns)
        elif draw < 0.70:
            rows = self.add(side, now_ns)
        elif draw < 0.94:
            rows = self.remove(side, now_ns)
        elif draw < 0.97:
            rows = self.blink(side, now_ns)
        else:
            rows = self.sweep(side, now_ns)
        return rows + self.trim(now_ns)

    def add(self, side: int, now_ns: int) -> list[Row]:
        """Something new rests."""
        raise NotImplementedError

    def change(self, side: int, now_ns: int) -> list[Row]:
        """A quantity changes."""
        raise NotImplementedError

    def remove(self, side: int, now_ns: int) -> list[Row]:
        """Cancelled or filled: 279=2 with 271=0."""
        raise NotImplementedError

    def blink(self, side: int, now_ns: int) -> list[Row]:
        """Created and deleted within one message."""
        raise NotImplementedError

    def clear_level(self, side: int, price: int, now_ns: int, left_depth: bool) -> list[Row]:
        """Delete a whole level: gone, or only out of the subscribed depth (271 above 0)."""
        raise NotImplementedError

    def sweep(self, side: int, now_ns: int) -> list[Row]:
        """A new price on the other side's best; what it crosses is deleted in the same message."""
        other, tick = 1 - side, self.instrument.tick
        if len(self.prices[other]) < 4:
            return []
        price = self.nth(other, self.rng.randrange(2))
        rows = self.place(side, price, now_ns)
        for gone in list(self.prices[other]):
            if (gone <= price) if side == BID else (gone >= price):
                rows += self.clear_level(other, gone, now_ns, left_depth=False)
        assert tick > 0
        return rows

    def place(self, side: int, price: int, now_ns: int) -> list[Row]:
        """Something new rests at this price."""
        raise NotImplementedError

    def trim(self, now_ns: int) -> list[Row]:
        """Levels beyond the subscribed depth leave it."""
        rows: list[Row] = []
        for side in (BID, OFFER):
            while len(self.prices[side]) > self.depth:
                rows += self.clear_level(side, self.nth(side, 10**9), now_ns, left_depth=True)
        return rows


class L2Market(Market):
    """A book by price level."""

    def __init__(self, instrument: Instrument, rng: random.Random, depth: int) -> None:
        super().__init__(instrument, rng, depth)
        self.qty: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def quantities(self, side: int, price: int) -> list[int]:
        return [self.qty[side][price]]

    def row(self, action: int, side: int, price: int, qty: int, now_ns: int) -> Row:
        """A level's entry; 278 repeats side letter and price."""
        return Row(action, side, price, qty, "", now_ns)

    def open_level(self, side: int, price: int, now_ns: int) -> None:
        self.insert(side, price)
        self.qty[side][price] = self.quantity()

    def fill(self, now_ns: int) -> None:
        self.qty[BID].clear()
        self.qty[OFFER].clear()
        super().fill(now_ns)

    def snapshot(self) -> list[Row]:
        """Offers low to high, then bids high to low."""
        offers = [Row(NEW, OFFER, price, self.qty[OFFER][price]) for price in self.prices[OFFER]]
        return offers + [Row(NEW, BID, price, self.qty[BID][price]) for price in self.prices[BID][::-1]]

    def place(self, side: int, price: int, now_ns: int) -> list[Row]:
        action = UPDATE if price in self.qty[side] else NEW
        self.insert(side, price)
        qty = self.qty[side][price] = self.quantity()
        return [self.row(action, side, price, qty, now_ns)]

    def add(self, side: int, now_ns: int) -> list[Row]:
        return self.place(side, self.spot(side), now_ns)

    def change(self, side: int, now_ns: int) -> list[Row]:
        return self.place(side, self.nth(side, self.near()), now_ns)

    def remove(self, side: int, now_ns: int) -> list[Row]:
        return self.clear_level(side, self.nth(side, self.near()), now_ns, left_depth=False)

    def blink(self, side: int, now_ns: int) -> list[Row]:
        price = self.spot(side)
        return self.place(side, price, now_ns) + self.clear_level(side, price, now_ns, left_depth=False)

    def clear_level(self, side: int, price: int, now_ns: int, left_depth: bool) -> list[Row]:
        self.drop(side, price)
        qty = self.qty[side].pop(price)
        return [self.row(DELETE, side, price, qty if left_depth else 0, now_ns)]


class L3Market(Market):
    """A book by order; orders of one price are queued by the time they joined the queue."""

    def __init__(self, instrument: Instrument, rng: random.Random, depth: int, id_kind: str, per_level: int) -> None:
        super().__init__(instrument, rng, depth)
        self.id_kind, self.per_level = id_kind, per_level
        self.orders: dict[str, Resting] = {}
        self.queues: tuple[dict[int, list[str]], dict[int, list[str]]] = ({}, {})

    def new_id(self) -> str:
        """A UUID, or Kraken's OXXXXX-XXXXX-XXXXXX."""
        if self.id_kind == "uuid":
            text = f"{self.rng.getrandbits(128):032x}"
            return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        text = "".join(self.rng.choices("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=16))
        return f"O{text[:5]}-{text[5:10]}-{text[10:]}"

    def quantities(self, side: int, price: int) -> list[int]:
        return [self.orders[order_id].qty for order_id in self.queues[side][price]]

    def row(self, action: int, order_id: str, qty: int, event_ns: int) -> Row:
        """An order's entry as it is now."""
        order = self.orders[order_id]
        return Row(action, order.side, order.price, qty, order_id, event_ns, order.queue_ns)

    def join(self, side: int, price: int, qty: int, queue_ns: int, order_id: str) -> None:
        """An order joins the end of its queue."""
        self.insert(side, price)
        self.orders[order_id] = Resting(side, price, qty, queue_ns, queue_ns)
        self.queues[side].setdefault(price, []).append(order_id)

    def leave(self, order_id: str) -> None:
        """An order leaves the book, and its price with the last of them."""
        order = self.orders.pop(order_id)
        queue = self.queues[order.side][order.price]
        queue.remove(order_id)
        if not queue:
            del self.queues[order.side][order.price]
            self.drop(order.side, order.price)

    def open_level(self, side: int, price: int, now_ns: int) -> None:
        for i in range(1 + self.rng.randrange(2 * self.per_level - 1)):
            queue_ns = now_ns - 10**11 + i * 10**6 + self.rng.randrange(10**6)
            self.join(side, price, self.quantity(), queue_ns, self.new_id())

    def fill(self, now_ns: int) -> None:
        self.orders.clear()
        self.queues[BID].clear()
        self.queues[OFFER].clear()
        super().fill(now_ns)

    def snapshot(self) -> list[Row]:
        """Every order, in no particular order of queue: 5273 gives it."""
        rows = [
            Row(NEW, order.side, order.price, order.qty, order_id, order.event_ns, order.queue_ns)
            for order_id, order in self.orders.items()
        ]
        if self.rng.random() < 0.5:
            self.rng.shuffle(rows)
        return rows

    def place(self, side: int, price: int, now_ns: int) -> list[Row]:
        order_id = self.new_id()
        queue = self.queues[side].get(price)
        last = self.orders[queue[-1]].queue_ns if queue else 0
        queue_ns = last if self.rng.random() < 0.02 and last else max(now_ns, last)
        self.join(side, price, self.quantity(), queue_ns, order_id)
        return [self.row(NEW, order_id, self.orders[order_id].qty, now_ns)]

    def add(self, side: int, now_ns: int) -> list[Row]:
        if self.rng.random() < 0.6:
            return self.place(side, self.nth(side, self.near()), now_ns)
        return self.place(side, self.spot(side), now_ns)

    def pick(self, side: int) -> str:
        """An order near the best."""
        return self.rng.choice(self.queues[side][self.nth(side, self.near())])

    def change(self, side: int, now_ns: int) -> list[Row]:
        order_id = self.pick(side)
        order = self.orders[order_id]
        if self.rng.random() < 0.6:  # less of it keeps its place
            order.qty = max(order.qty * self.rng.randrange(1, 100) // 100, 1)
            return [self.row(UPDATE, order_id, order.qty, now_ns)]
        queue = self.queues[side][order.price]
        queue_ns = max(now_ns, self.orders[queue[-1]].queue_ns + 1)
        queue.remove(order_id)
        queue.append(order_id)
        order.qty, order.queue_ns = order.qty + self.quantity(), queue_ns
        return [self.row(UPDATE, order_id, order.qty, now_ns)]

    def remove(self, side: int, now_ns: int) -> list[Row]:
        order_id = self.pick(side)
        gone = self.row(DELETE, order_id, 0, now_ns)
        self.leave(order_id)
        if self.rng.random() < 0.25:  # moved: deleted and created again under the same id
            self.join(side, self.spot(side), self.quantity(), now_ns, order_id)
            self.settle(order_id)
            return [gone, self.row(NEW, order_id, self.orders[order_id].qty, now_ns)]
        return [gone]

    def settle(self, order_id: str) -> None:
        """The newest order of a queue is never older than the one before it."""
        order = self.orders[order_id]
        queue = self.queues[order.side][order.price]
        if len(queue) > 1:
            order.queue_ns = max(order.queue_ns, self.orders[queue[-2]].queue_ns)

    def blink(self, side: int, now_ns: int) -> list[Row]:
        rows = self.place(side, self.spot(side), now_ns)
        rows.append(self.row(DELETE, rows[0].id, 0, now_ns))
        self.leave(rows[0].id)
        return rows

    def clear_level(self, side: int, price: int, now_ns: int, left_depth: bool) -> list[Row]:
        rows = []
        for order_id in list(self.queues[side][price]):
            rows.append(self.row(DELETE, order_id, self.orders[order_id].qty if left_depth else 0, now_ns))
            self.leave(order_id)
        return rows
