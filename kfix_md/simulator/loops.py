"""Plays a market rendered in advance, forwards and then undone, for very high rates."""

import time
from typing import Any

from kfix_md.simulator import wire
from kfix_md.simulator.book import DELETE, NEW, UPDATE, VenueBook, VenueEntry, VenueL3Book
from kfix_md.simulator.dialect import Dialect
from kfix_md.simulator.lines import Line, VenueSubscription
from kfix_md.simulator.market import Market, Trade, level_entries

Step = tuple[list[VenueEntry], list[Trade]]


def inverse(entries: list[VenueEntry], before: dict[Any, VenueEntry], event_ns: int) -> list[VenueEntry]:
    """Changes that take `entries` back; `before` has what each level or order was when they were made."""
    back = []
    for key in reversed(list(before)):
        was, now = before[key], [entry for entry in entries if _key(entry) == key][-1]
        exists = now.action != DELETE
        stays = exists and was.qty and was.price == now.price and was.queue_ns == now.queue_ns
        if exists and not stays:
            back.append(now._replace(action=DELETE, qty=0, event_ns=event_ns))
        if was.qty:
            back.append(was._replace(action=UPDATE if stays else NEW, event_ns=event_ns))
    return back


def _key(entry: VenueEntry) -> Any:
    return entry.ident or (entry.side, entry.price)


def _before(book: VenueBook, entries: list[VenueEntry]) -> dict[Any, VenueEntry]:
    known: dict[Any, VenueEntry] = {}
    for entry in entries:
        if entry.ident:
            order = book.orders.get(entry.ident) if isinstance(book, VenueL3Book) else None
            was = (
                entry._replace(qty=0)
                if order is None
                else VenueEntry(NEW, order.side, order.ident, order.price, order.qty, 0, order.queue_ns)
            )
        else:
            was = VenueEntry(
                NEW,
                entry.side,
                "",
                entry.price,
                0 if isinstance(book, VenueL3Book) else book.qty[entry.side].get(entry.price, 0),
            )
        known.setdefault(_key(entry), was)
    return known


def cycle(market: Market, steps: int, now_ns: int) -> tuple[list[Step], list[Step]]:
    """A closed walk of `2 * steps` positions from the market's book back to it: (L2 steps, L3 steps)."""
    forward: list[tuple[Step, Step]] = []
    backward: list[tuple[Step, Step]] = []
    orders, levels = market.book.copy(), market.levels.copy()
    market.book, mine = orders, market.book
    for number in range(steps):
        decision = market.decide(now_ns + number)
        was_orders = _before(orders, decision.entries)
        orders.apply(decision.entries)
        changes = level_entries(decision.entries, orders, levels, now_ns)
        was_levels = _before(levels, changes)
        levels.apply(changes)
        forward.append(((changes, decision.trades), (decision.entries, [])))
        backward.append(
            ((inverse(changes, was_levels, now_ns), []), (inverse(decision.entries, was_orders, now_ns), []))
        )
    market.book = mine
    walk = forward + backward[::-1]
    return [step[0] for step in walk], [step[1] for step in walk]


class _Collector:
    """A session that keeps what it is sent instead of sending it."""

    def __init__(self) -> None:
        self.rest: bytes | None = None

    def send_data(self, mtype: bytes, _sub: VenueSubscription, rest: bytes, _total: int, _version: int) -> int:
        self.rest = rest if mtype == b"X" else None
        return 0


class LoopLine(Line):
    """A line that plays the positions of a cycle, rendered once for each subscribed depth."""

    def __init__(self, line: Line, steps: list[Step]) -> None:
        super().__init__(line.instrument, line.book.copy(), line.dialect, line.history, line._clock)
        self._start = line.book.copy()
        self._steps = steps
        self._at = 0
        self._deepest = 0
        self._rendered = {0: self._render(0)}
        self._trades = [self._trade_text(trades) for _, trades in steps]

    def _trade_text(self, trades: list[Trade]) -> tuple[bytes, int] | None:
        if not trades:
            return None
        rest = self.renderer.trades(trades)
        return rest, wire.byte_sum(rest)

    def join(self, subscription: VenueSubscription) -> None:
        if subscription.book and subscription.depth not in self._rendered:
            whole = subscription.depth >= self._deepest
            self._rendered[subscription.depth] = self._rendered[0] if whole else self._render(subscription.depth)
        super().join(subscription)

    def _render(self, depth: int) -> list[tuple[bytes, int] | None]:
        line = Line(self.instrument, self._start.copy(), self.dialect, 1, time.time_ns)
        sink = _Collector()
        line.join(VenueSubscription(sink, "", line, depth=depth, book=True, trades=False))
        texts: list[tuple[bytes, int] | None] = []
        for entries, _ in self._steps:
            sink.rest = None
            if entries:
                line.publish(entries)
            self._deepest = max(self._deepest, *(len(side.prices) for side in line.book.sides))
            texts.append((sink.rest, wire.byte_sum(sink.rest)) if sink.rest else None)
        return texts

    def advance(self) -> None:
        """Play the next position to the listeners."""
        place = self.version % len(self._steps)
        self.version += 1
        trades = self._trades[place]
        if trades:
            for subscription in self._trade_listeners:
                subscription.session.send_data(b"X", subscription, *trades, -1)
        for depth, listeners in self._listeners.items():
            text = self._rendered[depth][place]
            if text is None:
                continue
            if self.corrupt_next:
                self._send(listeners, text[0])
                self.corrupt_next -= 1
                continue
            for subscription in listeners:
                subscription.session.send_data(b"X", subscription, *text, self.version)

    def current(self) -> VenueBook:
        """The book at `version`, brought up to date now."""
        period = len(self._steps)
        lag = self.version - self._at
        if lag > period:
            self.book, lag = self._start.copy(), self.version % period
        for number in range(self.version - lag, self.version):
            self.book.apply(self._steps[number % period][0])
        self._at = self.version
        return self.book

    def book_at(self, version: int) -> VenueBook | None:
        """The book at any version of the present cycle or of an earlier one."""
        if version > self.version:
            return None
        book = self._start.copy()
        for number in range(version % len(self._steps)):
            book.apply(self._steps[number][0])
        return book

    def checksum(self) -> int:
        """5041 of the book as it is now."""
        return self.crc(self.current())

    def publish(self, entries: list[VenueEntry], verbatim: bytes | None = None) -> None:
        raise ValueError("a rendered market follows its cycle; it takes no other change")

    def speak(self, dialect: Dialect) -> None:
        raise ValueError("a rendered market is written in advance; choose its switches with --vary")

    def clear(self) -> None:
        raise ValueError("the book of a rendered market cannot be emptied")
