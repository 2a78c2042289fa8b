"""Computes tag 5041 of a book under every rule the venue may use."""

from zlib import crc32

from kfix_md.simulator import numbers
from kfix_md.simulator.book import BID, OFFER, VenueBook, VenueInstrument, VenueL2Book
from kfix_md.simulator.dialect import Dialect

LEVELS = 10


class Rule:
    """5041 of one instrument under one dialect; numbers are made text by `decimals` each."""

    def __init__(self, instrument: VenueInstrument, dialect: Dialect) -> None:
        self.instrument, self.dialect = instrument, dialect
        self._sent = dialect.checksum.endswith("-sent")
        price, qty = numbers.FORMS[dialect.price_form], numbers.FORMS[dialect.qty_form]
        self._forms = (price, qty)

    def price(self, value: int) -> str:
        """What a price contributes."""
        row, wanted = self.instrument, self.dialect.crc_price_precision
        if self._sent:
            places = numbers.decimals(self._forms[0](value, row.price_precision))
        else:
            places = row.price_precision if wanted is None else wanted
        return numbers.digits(value, row.price_precision, places)

    def places(self, qty: int) -> int:
        """Decimals that a quantity contributes with."""
        row, wanted = self.instrument, self.dialect.crc_qty_precision
        if self._sent:
            return numbers.decimals(self._forms[1](qty, row.qty_precision))
        return row.qty_precision if wanted is None else wanted

    def quantity(self, value: int, places: int | None = None) -> str:
        """What a quantity contributes, with its own decimals or with `places`."""
        return numbers.digits(value, self.instrument.qty_precision, self.places(value) if places is None else places)

    def level(self, book: VenueBook, side: int, price: int) -> list[tuple[str, str]]:
        """(price, quantity) text of each level or order at one price."""
        text = self.price(price)
        if isinstance(book, VenueL2Book):
            return [(text, self.quantity(book.qty[side][price]))]
        queue = [order.qty for order in book.queues[side][price]]
        if self.dialect.checksum.startswith("order"):
            return [(text, self.quantity(qty)) for qty in queue]
        return [(text, self.quantity(sum(queue), max(map(self.places, queue))))]

    def crc(self, book: VenueBook) -> int:
        """CRC32 over ten offers, then ten bids, best first."""
        if self.dialect.checksum == "unknown":
            pairs = [
                (qty, price)
                for side in (BID, OFFER)
                for at in book.sides[side].best(LEVELS)
                for price, qty in self.level(book, side, at)
            ]
        else:
            pairs = [
                pair
                for side in (OFFER, BID)
                for at in book.sides[side].best(LEVELS)
                for pair in self.level(book, side, at)
            ]
        return crc32("".join(map("".join, pairs)).encode())


def printed(dialect: Dialect) -> bool:
    """Whether the rule is a documented one at the listed precisions, which books compute themselves."""
    return (
        dialect.checksum in ("level", "order")
        and dialect.crc_price_precision is None
        and dialect.crc_qty_precision is None
    )


def crc(book: VenueBook, instrument: VenueInstrument, dialect: Dialect) -> int:
    """5041 of a book."""
    if printed(dialect):
        return book.checksum(dialect.checksum)
    return Rule(instrument, dialect).crc(book)
