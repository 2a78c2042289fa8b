"""Publishes one symbol at one level: snapshots and changes by depth, CRCs, and its book at any version."""

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from kfix_md.simulator import checksum, wire
from kfix_md.simulator.book import BID, DELETE, OFFER, Undo, VenueBook, VenueEntry, VenueInstrument, VenueL2Book
from kfix_md.simulator.depths import Change, edges
from kfix_md.simulator.dialect import Dialect
from kfix_md.simulator.market import Trade
from kfix_md.simulator.render import Renderer, resting


class VenueSubscription:
    """One symbol of one MarketDataRequest, and which version of the symbol each MsgSeqNum carried."""

    _numbers = count(1)

    def __init__(self, session: Any, md_req_id: str, line: "Line", *, depth: int, book: bool, trades: bool) -> None:
        self.number = next(self._numbers)  # a later subscription has a higher one
        self.session, self.md_req_id, self.line = session, md_req_id, line
        self.depth, self.book, self.trades = depth, book, trades
        self.set_prefix()

    def set_prefix(self) -> None:
        """Compute 55 and 262 of the header, as the dialect of the symbol has them."""
        symbol, request = wire.raw(self.line.instrument.symbol), wire.raw(self.md_req_id)
        self.prefix = b"55=%b\x01262=%b\x01" % (symbol, request)
        if self.line.dialect.symbols == "group":
            self.prefix = b"262=%b\x01" % request


class Sightings:
    """(MsgSeqNum, version) pairs of one symbol on one session, bounded, for the truth at a MsgSeqNum.

    Where a client subscribes to a symbol again without ending the first subscription, both are served. The
    book that the client follows is that of the newest, so the messages of the older ones are left out.
    """

    def __init__(self, limit: int) -> None:
        self._seqs, self._versions, self._limit = array("q"), array("q"), limit
        self._newest = 0

    def add(self, subscription: VenueSubscription, seq: int, version: int) -> None:
        """Note that message `seq` of a subscription brought its symbol to `version`."""
        if subscription.number < self._newest:
            return
        self._newest = subscription.number
        self._seqs.append(seq)
        self._versions.append(version)
        if len(self._seqs) > 2 * self._limit:
            del self._seqs[: self._limit], self._versions[: self._limit]

    def at(self, seq: int) -> tuple[int, int] | None:
        """Last (MsgSeqNum, version) not after `seq`; None when unknown or forgotten."""
        index = bisect_right(self._seqs, seq) - 1
        return (self._seqs[index], self._versions[index]) if index >= 0 else None


class Line:
    """One symbol at one level (L2 or L3) on one service, and its subscriptions."""

    def __init__(
        self, instrument: VenueInstrument, book: VenueBook, dialect: Dialect, history: int, clock: Callable[[], int]
    ) -> None:
        self.instrument, self.book, self.dialect = instrument, book, dialect
        self.renderer = Renderer(instrument, dialect)
        self.version = 0
        self.history = history
        self.listed = True
        self.corrupt_next = 0
        self.collected: list[tuple[VenueSubscription, bytes]] | None = None  # what is sent, instead of sending it
        self.on_corrupt: Callable[[VenueSubscription, int], None] | None = None
        self._clock = clock
        self._snapshots: dict[int, tuple[int, int, bytes]] = {}
        self._undo: deque[Undo] = deque(maxlen=history)
        self._listeners: dict[int, list[VenueSubscription]] = {}
        self._trade_listeners: list[VenueSubscription] = []

    # subscriptions ---------------------------------------------------------------------------------------

    @property
    def listened(self) -> bool:
        """Whether anyone is subscribed."""
        return bool(self._listeners or self._trade_listeners)

    def join(self, subscription: VenueSubscription) -> None:
        """Start a subscription; a subscription to the book begins with its snapshot."""
        if subscription.book:
            rest = self.snapshot(subscription.depth)
            subscription.session.send_data(b"W", subscription, rest, wire.byte_sum(rest), self.version)
            self._listeners.setdefault(subscription.depth, []).append(subscription)
        if subscription.trades:
            self._trade_listeners.append(subscription)

    def leave(self, subscription: VenueSubscription) -> None:
        """End a subscription."""
        listeners = self._listeners.get(subscription.depth, [])
        if subscription in listeners:
            listeners.remove(subscription)
            if not listeners:
                del self._listeners[subscription.depth]
        if subscription in self._trade_listeners:
            self._trade_listeners.remove(subscription)

    def resnapshot(self) -> None:
        """Send every listener a fresh W."""
        for depth, listeners in self._listeners.items():
            rest = self.snapshot(depth)
            total = wire.byte_sum(rest)
            for subscription in listeners:
                subscription.session.send_data(b"W", subscription, rest, total, self.version)

    def _levels(self, depth: int) -> int:
        return depth or (1000 if isinstance(self.book, VenueL2Book) else 0)

    def snapshot(self, depth: int) -> bytes:
        """268 and the entries of a W at a depth; one that is still current is reused for a minute."""
        now = self._clock()
        version, made, rest = self._snapshots.get(depth, (-1, 0, b""))
        if version != self.version or now - made > 60_000_000_000:
            rest = self.renderer.snapshot(self.current(), self._levels(depth), now)
            self._snapshots[depth] = (self.version, now, rest)
        return rest

    # changes ---------------------------------------------------------------------------------------------

    def current(self) -> VenueBook:
        """The book at `version`."""
        return self.book

    def publish(self, entries: list[VenueEntry], verbatim: bytes | None = None) -> None:
        """Apply changes and send every listener those inside its depth; `verbatim` is sent unchanged where the
        whole change is visible."""
        change = Change(self.book, entries)
        depths = {depth: self._levels(depth) for depth in self._listeners}
        before = {depth: edges(self.book, levels) for depth, levels in depths.items()}
        self._undo.append(self.book.apply(entries))
        self.version += 1
        if not self._listeners:
            return
        crc = self.checksum()
        for depth, listeners in list(self._listeners.items()):
            shown = change.seen(before[depth], edges(self.book, depths[depth]), self.dialect.implicit_deletes)
            whole = verbatim if shown == entries else None
            if shown:
                self._send(listeners, whole or self.renderer.incremental(shown, crc))
        self.corrupt_next = max(0, self.corrupt_next - 1)

    def publish_trades(self, trades: list[Trade], verbatim: bytes | None = None) -> None:
        """Send trades to their listeners."""
        if not self._trade_listeners:
            return
        rest = verbatim or self.renderer.trades(trades)
        total = wire.byte_sum(rest)
        for subscription in list(self._trade_listeners):
            subscription.session.send_data(b"X", subscription, rest, total, -1)

    def crc(self, book: VenueBook) -> int:
        """5041 of any book of this symbol."""
        return checksum.crc(book, self.instrument, self.dialect)

    def speak(self, dialect: Dialect) -> None:
        """Write the symbol in another dialect from now on; listeners get a fresh W."""
        self.dialect, self.renderer = dialect, Renderer(self.instrument, dialect)
        self._snapshots.clear()
        for listeners in self._listeners.values():
            for subscription in listeners:
                subscription.set_prefix()
        for subscription in self._trade_listeners:
            subscription.set_prefix()
        self.resnapshot()

    def checksum(self) -> int:
        """5041 of the book as it is now."""
        return self.crc(self.book)

    def _send(self, listeners: list[VenueSubscription], rest: bytes) -> None:
        if self.collected is not None:
            self.collected += [(subscription, rest) for subscription in listeners]
            return
        if self.corrupt_next and b"5041=" in rest:
            head, _, crc = rest.rpartition(b"5041=")
            rest = b"%b5041=%d\x01" % (head, int(crc[:-1]) ^ 0x5A5A5A5A)
        total = wire.byte_sum(rest)
        for subscription in list(listeners):
            seq = subscription.session.send_data(b"X", subscription, rest, total, self.version)
            if self.corrupt_next and self.on_corrupt:
                self.on_corrupt(subscription, seq)

    # past versions ---------------------------------------------------------------------------------------

    def book_at(self, version: int) -> VenueBook | None:
        """The book as it was at a version, None when that is forgotten."""
        back = self.version - version
        if back < 0 or back > len(self._undo):
            return None
        book = self.book.copy()
        for step in range(1, back + 1):
            book.revert(self._undo[-step])
        return book

    def replace(self, book: VenueBook) -> None:
        """Another book altogether (its precisions changed): earlier versions are forgotten."""
        self.book = book
        self._undo.clear()
        self.version += 1

    def advance(self) -> None:
        """Play the next position of a pre-rendered cycle; only a `LoopLine` has one."""
        raise NotImplementedError

    def clear(self) -> None:
        """All orders vanish: listeners get the empty W of a book without prices."""
        undo: Undo = []
        for side in (BID, OFFER):
            for price in list(self.book.sides[side].prices):
                undo += self.book.apply(
                    [entry._replace(action=DELETE, qty=0) for entry in resting(self.book, side, price)]
                )
        self._undo.append(undo)
        self.version += 1
        self.resnapshot()
