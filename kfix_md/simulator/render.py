"""Renders the entries of one instrument as the repeating groups of W and X, in a dialect."""

from hashlib import blake2b

from kfix_md.simulator import checksum, numbers, wire
from kfix_md.simulator.book import BID, NEW, OFFER, VenueBook, VenueEntry, VenueInstrument, VenueL2Book
from kfix_md.simulator.dialect import Dialect
from kfix_md.simulator.market import Trade

UNKNOWN_BEFORE = "20001=x\x01"  # before 268
UNKNOWN_IN_GROUP = "5999=y\x0120002=z=1\x01"


class Renderer:
    """Entries of one instrument as text."""

    def __init__(self, instrument: VenueInstrument, dialect: Dialect) -> None:
        self.instrument, self.dialect = instrument, dialect
        self._price, self._qty = numbers.FORMS[dialect.price_form], numbers.FORMS[dialect.qty_form]
        self._tail = f"55={instrument.symbol}\x01" if dialect.symbols != "header" else ""
        if dialect.unknown_tags:
            self._tail += UNKNOWN_IN_GROUP

    def group(self, entry: VenueEntry, snapshot: bool) -> str:
        """One entry; without 279 in a snapshot."""
        price = self._price(entry.price, self.instrument.price_precision)
        qty = self._qty(entry.qty, self.instrument.qty_precision)
        clock = wire.time_of_day(entry.event_ns, self.dialect.times)
        text = f"269={entry.side}\x01278={self.ident(entry)}\x01270={price}\x01271={qty}\x01273={clock}\x01"
        if entry.queue_ns:
            event, queued = (wire.iso_time(ns, self.dialect.iso_times) for ns in (entry.event_ns, entry.queue_ns))
            text += f"5060={event}\x015273={queued}\x01"
        if self._tail:
            text += self._tail
        return text if snapshot else f"279={entry.action}\x01{text}"

    def ident(self, entry: VenueEntry) -> str:
        """278 of an entry: the order id, or for a level `B` or `O` and its price."""
        own = entry.ident or f"{'BO'[entry.side]}{wire.number(entry.price, self.instrument.price_precision)}"
        form = self.dialect.ids
        if form == "kraken":
            return own
        if form == "long":
            return f"{own}-{'x' * 64}-{own}"
        key = blake2b(own.encode(), digest_size=16).hexdigest()
        if form == "uuid":
            return f"{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:]}"
        return f"#{key[:16]}/{len(own)}" if form == "opaque" else key[:10]

    def incremental(self, entries: list[VenueEntry], crc: int) -> bytes:
        """268 to 5041 of an X."""
        groups = [self.group(entry, False) for entry in entries]
        end = "" if self.dialect.checksum == "off" else f"5041={crc}\x01"
        return self._message(groups, self._other(entries[-1], "279=0\x01"), end)

    def trades(self, trades: list[Trade]) -> bytes:
        """268 and the trade entries of an X (no 5041: the book is not touched)."""
        return self._message([self._trade(trade) for trade in trades], [], "")

    def _trade(self, trade: Trade) -> str:
        price = self._price(trade.price, self.instrument.price_precision)
        qty = self._qty(trade.qty, self.instrument.qty_precision)
        kind = self.dialect.ord_type or trade.ord_type
        aggressor = self.dialect.aggressor or trade.aggressor
        clock = wire.time_of_day(trade.event_ns, self.dialect.times)
        return (
            f"279=0\x01269=2\x01278={trade.ident}\x01270={price}\x01271={qty}\x01"
            f"273={clock}\x0140={kind}\x012446={aggressor}\x01{self._tail}"
        )

    def snapshot(self, book: VenueBook, depth: int, now_ns: int) -> bytes:
        """268 and the entries of a W: offers, then bids, best first; L2 levels are timed `now_ns`."""
        entries = [
            entry
            for side in (OFFER, BID)
            for price in book.sides[side].best(depth or len(book.sides[side].prices) or 1)
            for entry in resting(book, side, price, now_ns)
        ]
        other = self._other(entries[-1], "") if entries else []
        end = ""
        if self.dialect.snapshot_crc:
            end = f"5041={checksum.crc(book, self.instrument, self.dialect)}\x01"
        return self._message([self.group(entry, True) for entry in entries], other, end)

    def _other(self, entry: VenueEntry, action: str) -> list[str]:
        """An entry that is no part of the book, in the form of `entry`."""
        if not self.dialect.entry_kind:
            return []
        text = self.group(entry, True).partition("\x01")[2]
        return [f"{action}269={self.dialect.entry_kind}\x01{text}"]

    def _message(self, groups: list[str], other: list[str], end: str) -> bytes:
        head = UNKNOWN_BEFORE if self.dialect.unknown_tags else ""
        if not groups and self.dialect.symbols == "group":  # an empty W has no entry that could name the symbol
            head = f"55={self.instrument.symbol}\x01{head}"
        return wire.raw(f"{head}268={len(groups) + len(other)}\x01{''.join(groups)}{''.join(other)}{end}")


def resting(book: VenueBook, side: int, price: int, now_ns: int = 0) -> list[VenueEntry]:
    """The contents of one price, as entries: the level on L2, its orders in queue order on L3."""
    if isinstance(book, VenueL2Book):
        return [VenueEntry(NEW, side, "", price, book.qty[side][price], now_ns)]
    return [
        VenueEntry(NEW, side, order.ident, price, order.qty, order.event_ns, order.queue_ns)
        for order in book.queues[side][price]
    ]
