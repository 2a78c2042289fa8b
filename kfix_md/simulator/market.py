"""Generates a market: a seeded flow of orders matched in price-time priority."""

import random
from dataclasses import dataclass, field

from kfix_md.simulator import wire
from kfix_md.simulator.book import (
    BID,
    DELETE,
    NEW,
    OFFER,
    UPDATE,
    Order,
    VenueEntry,
    VenueInstrument,
    VenueL2Book,
    VenueL3Book,
)

BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# base name, price in whole units of the quote, price precision, quantity precision, tick in price units
SPOT_BASES = [
    ("BTC", 28000, 1, 8, 1),
    ("ETH", 1900, 2, 8, 1),
    ("SOL", 24, 2, 8, 1),
    ("XRP", 0.51, 5, 8, 1),
    ("ADA", 0.29, 6, 8, 1),
    ("DOGE", 0.062, 7, 8, 1),
    ("DOT", 5.1, 4, 8, 1),
    ("LTC", 84, 2, 8, 1),
    ("LINK", 6.4, 5, 8, 1),
    ("XMR", 155, 2, 8, 1),
]
FUTURES_BASES = [
    ("XBT", 28000, 0, 4, 1),
    ("ETH", 1900, 1, 3, 1),
    ("SOL", 24, 2, 2, 1),
    ("XRP", 0.51, 5, 0, 1),
    ("ADA", 0.29, 5, 0, 1),
    ("DOGE", 0.062, 6, 0, 1),
    ("DOT", 5.1, 3, 1, 1),
    ("LTC", 84, 2, 2, 1),
    ("LINK", 6.4, 3, 1, 1),
    ("XMR", 155, 2, 2, 25),
]


def instruments(venue: str, count: int) -> list[tuple[VenueInstrument, int]]:
    """`count` instruments of a venue (`spot` or `derivatives`), each with its first fair price in ticks."""
    bases = SPOT_BASES if venue == "spot" else FUTURES_BASES
    rows = []
    for number in range(count):
        name, price, price_precision, qty_precision, tick = bases[number % len(bases)]
        if number >= len(bases):
            name = f"{name}{number:04d}"
        symbol = f"{name}/USD" if venue == "spot" else f"PF_{name}USD"
        minimum, security = 10 ** max(0, qty_precision - 4), "CASH" if venue == "spot" else "FUT"
        instrument = VenueInstrument(symbol, price_precision, qty_precision, tick, minimum, security=security)
        rows.append((instrument, max(200, round(price * 10**price_precision / tick))))
    return rows


@dataclass(slots=True)
class Trade:
    """One match: `aggressor` is 1 (buy) or 2 (sell), `ord_type` 1 (market) or 2 (limit)."""

    ident: str
    price: int
    qty: int
    ord_type: int
    aggressor: int
    event_ns: int


@dataclass(slots=True)
class Decision:
    """What one order did: changes of the order book in order, and the trades it made."""

    entries: list[VenueEntry] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)


class Market:
    """Order flow on one instrument. `decide` reads `book`; the caller applies what it returns."""

    def __init__(self, instrument: VenueInstrument, venue: str, fair: int, seed: int, orders: int = 60) -> None:
        self.instrument, self.venue = instrument, venue
        self.book = VenueL3Book()
        self.levels = VenueL2Book()
        self.target = orders
        self.floor = max(2, min(12, orders // 5))  # levels that each side keeps, whatever the flow
        self._random = random.Random(wire.raw(f"{seed}/{venue}/{instrument.symbol}"))
        self._fair = self._mean = float(fair)
        self._clock = 0
        self._trade = self._random.randrange(10**6, 10**7)

    def _ident(self) -> str:
        bits = self._random.getrandbits
        if self.venue == "derivatives":
            text = f"{bits(128):032x}"
            return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        text = "".join(self._random.choices(BASE36, k=16))
        return f"O{text[:5]}-{text[5:10]}-{text[10:]}"

    def _trade_ident(self) -> str:
        self._trade += 1
        return self._ident() if self.venue == "derivatives" else str(self._trade)

    def _qty(self) -> int:
        """Two thirds are whole lots, as people type them; the others use every digit of the precision."""
        lots, minimum = max(1, int(self._random.expovariate(1 / 40))), self.instrument.minimum
        tail = self._random.randrange(minimum) if self._random.random() < 0.33 else 0
        qty = lots * minimum + tail
        if self.instrument.huge and self._random.random() < 0.04:
            qty += 12 * 10 ** (9 + self.instrument.qty_precision)
        return max(1, qty // self.instrument.grain) * self.instrument.grain

    def _price(self, side: int) -> int:
        away = 1 + int(self._random.expovariate(1 / 12)) - (self._random.random() < 0.05) * 3
        ticks = round(self._fair) + (away if side == OFFER else -away)
        return max(1, ticks) * self.instrument.tick

    def open(self, now_ns: int) -> list[VenueEntry]:
        """The first resting orders of both sides, none of them crossing."""
        entries = []
        self._clock = max(now_ns - 4 * self.target * 1_000_000, self._clock)
        for number in range(2 * self.target):
            self._clock += 1 + self._random.randrange(1_000_000)
            side = number & 1
            away = 1 + int(self._random.expovariate(1 / 12))
            price = max(1, round(self._fair) + (away if side == OFFER else -away)) * self.instrument.tick
            entries.append(VenueEntry(NEW, side, self._ident(), price, self._qty(), self._clock, self._clock))
        return entries

    def decide(self, now_ns: int) -> Decision:
        """The next order of the flow: limit, market, cancel or modify.

        A side with fewer than `floor` levels is refilled first, so that both sides have prices for hours.
        """
        self._clock = max(self._clock + 1, now_ns)
        drift = self._random.gauss(0, 0.4) - (self._fair - self._mean) * 1e-4
        self._fair = max(50.0, self._fair + drift)
        side = self._random.getrandbits(1)
        resting = len(self.book.orders)
        dice = self._random.random() * (1.6 if resting > 2 * self.target else 1.0)
        short = self._short_side()
        if short is not None:
            return self._limit(short, self._passive_price(short), self._qty(), self._ident())
        if resting < self.target or dice < 0.46:
            return self._limit(side, self._price(side), self._qty(), self._ident())
        if dice < 0.53:
            return self._market(side)
        side = self._removable_side(side)
        return self._modify(side) if dice < 0.66 else self._cancel(side)

    def _short_side(self) -> int | None:
        bids, offers = (len(side.prices) for side in self.book.sides)
        if min(bids, offers) >= self.floor:
            return None
        return BID if bids < offers else OFFER

    def _removable_side(self, side: int) -> int:
        """`side`, or the other one when an order less could leave it with too few levels."""
        other = OFFER if side == BID else BID
        if len(self.book.sides[side].prices) > self.floor or len(self.book.sides[other].prices) <= self.floor:
            return side
        return other

    def _passive_price(self, side: int) -> int:
        """A price that rests: beyond the fair price, and never through the other side."""
        away = 1 + int(self._random.expovariate(1 / 12))
        price = max(1, round(self._fair) + (away if side == OFFER else -away)) * self.instrument.tick
        best = self.book.sides[OFFER if side == BID else BID].best(1)
        if not best:
            return price
        through = away * self.instrument.tick
        if side == BID:
            return max(self.instrument.tick, min(price, best[0] - through))
        return max(price, best[0] + through)

    def rescale(self, price: int, qty: int) -> None:
        """Prices and quantities become finer by these powers of ten."""
        by_price, by_qty, row = 10**price, 10**qty, self.instrument
        orders, levels = VenueL3Book(), VenueL2Book()
        entries = [
            VenueEntry(
                NEW, order.side, order.ident, order.price * by_price, order.qty * by_qty, order.event_ns, order.queue_ns
            )
            for side in (BID, OFFER)
            for queue in self.book.queues[side].values()
            for order in queue
        ]
        orders.apply(entries)
        levels.apply(level_entries(entries, orders, levels, self._clock))
        self.book, self.levels = orders, levels
        row.price_precision += price
        row.qty_precision += qty
        row.tick *= by_price
        row.minimum *= by_qty

    def _some_order(self, side: int) -> Order:
        prices = self.book.sides[side].prices
        near = min(len(prices), 1 + int(self._random.expovariate(1 / 8)))
        queue = self.book.queues[side][self.book.sides[side].best(near)[-1]]
        return queue[self._random.randrange(len(queue))]

    def _cancel(self, side: int) -> Decision:
        order = self._some_order(side)
        return Decision([self._entry(DELETE, order, 0)])

    def _modify(self, side: int) -> Decision:
        """Less quantity keeps the place in the queue; more, or another price, is a new place."""
        order = self._some_order(side)
        grain = self.instrument.grain
        if order.qty > grain and self._random.random() < 0.6:
            left = self._random.randrange(1, order.qty // grain) * grain
            return Decision([self._entry(UPDATE, order, left)])
        price = order.price if self._random.random() < 0.4 else self._price(side)
        again = self._limit(side, price, self._qty(), order.ident)
        again.entries.insert(0, self._entry(DELETE, order, 0))
        return again

    def _market(self, side: int) -> Decision:
        """A market order of `side` takes the other side; what cannot be filled is dropped."""
        decision = Decision()
        self._take(decision, side, self._qty() * self._random.choice((1, 1, 2, 5)), None, ord_type=1)
        return decision

    def _limit(self, side: int, price: int, qty: int, ident: str) -> Decision:
        decision = Decision()
        left = self._take(decision, side, qty, price, ord_type=2)
        if left:
            decision.entries.append(VenueEntry(NEW, side, ident, price, left, self._clock, self._clock))
        return decision

    def _take(self, decision: Decision, side: int, qty: int, limit: int | None, ord_type: int) -> int:
        """Match against the other side in price-time order; returns the quantity left.

        The last levels of a side (`floor`) are not taken: what would need them is dropped.
        """
        other = OFFER if side == BID else BID
        levels = self.book.sides[other].best(len(self.book.sides[other].prices) or 1)
        for number, price in enumerate(levels):
            if not qty or (limit is not None and (price > limit if side == BID else price < limit)):
                break
            if len(levels) - number <= self.floor:
                return 0
            for order in self.book.queues[other][price]:
                filled = min(qty, order.qty)
                qty -= filled
                left = order.qty - filled
                decision.entries.append(self._entry(UPDATE if left else DELETE, order, left))
                decision.trades.append(Trade(self._trade_ident(), price, filled, ord_type, side + 1, self._clock))
                if not qty:
                    break
        return qty

    def _entry(self, action: int, order: Order, qty: int) -> VenueEntry:
        return VenueEntry(action, order.side, order.ident, order.price, qty, self._clock, order.queue_ns)


def level_entries(
    entries: list[VenueEntry], orders: VenueL3Book, levels: VenueL2Book, event_ns: int
) -> list[VenueEntry]:
    """The L2 changes that `entries`, already applied to `orders`, make to `levels` (not yet applied)."""
    changes = []
    for side, price in dict.fromkeys((entry.side, entry.price) for entry in entries):
        before = levels.qty[side].get(price, 0)
        after = sum(order.qty for order in orders.queues[side].get(price, ()))
        if after != before:
            action = DELETE if not after else UPDATE if before else NEW
            changes.append(VenueEntry(action, side, "", price, after, event_ns))
    return changes
