"""Follows a stream the plain way: MsgSeqNum, instruments, snapshots, books, checksums, one by one."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Context, Decimal

from tests.oracle.book import Book, L2Book, L3Book
from tests.oracle.codec import BOOK_SIDES, Entry, FixError, Message, frames, message

RULES = ("order", "level")
ORDER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|O[0-9A-Z]{5}-[0-9A-Z]{5}-[0-9A-Z]{6}")
EXACT = Context(prec=10_000, Emax=999_999_999, Emin=-999_999_999)


class Follower:
    """Books of one stream without resend requests; `on_message(message, book or None)` after each message.

    A book is followed from a snapshot until something is wrong: a missing MsgSeqNum (GAP), a message that
    cannot be taken whole (STALE), a wrong 5041 or a book that an X without one has crossed (CRC_FAIL). Then it
    waits for the next snapshot. A snapshot that is crossed is followed (UNVERIFIED) until a 5041 proves the book or it
    uncrosses. `verify_every`: look at one 5041 in so many only (the plain way is slow on L3).
    """

    def __init__(self, on_message: Callable[[Message, Book | None], None] | None = None, verify_every: int = 1) -> None:
        self.on_message, self.verify_every = on_message, verify_every
        self.with_crc = 0
        self.expected: int | None = None
        self.precisions: dict[str, tuple[int, int]] = {}
        self.books: dict[str, Book] = {}
        self.states: dict[str, str] = {}
        self.crossed: set[str] = set()  # since a snapshot without 5041
        self.rules = set(RULES)
        self.entries: list[tuple[Message, int, Entry]] = []
        self.messages = self.checked = self.ok = 0
        self.unclear = False  # the last message may be read in more than one way
        self.gaps = self.lost = self.too_low = self.malformed = self.unknown = 0

    @property
    def protocol_errors(self) -> int:
        """Everything the peer may not send."""
        return self.malformed + self.unknown + self.too_low

    def feed(self, data: bytes) -> Follower:
        """All frames of a clean stream."""
        for frame in frames(data):
            self.frame(frame)
        return self

    def frame(self, frame: bytes) -> None:
        """One whole frame with the right length and checksum."""
        self.messages += 1
        try:
            msg = message(frame)
        except FixError:
            self.malformed += 1
            return
        self.unclear = msg.unclear
        if not self.in_order(msg):
            return
        if msg.type == "y":
            for group in msg.instruments:
                self.define(group[55].decode(), int(group[2349]), int(group[5010]))
        book = self.market_data(msg) if msg.type in ("W", "X") else None
        if self.on_message:
            self.on_message(msg, book)

    def in_order(self, msg: Message) -> bool:
        """Count what is missing before this message; False when it was there already."""
        if self.expected is not None and msg.seq < self.expected:
            self.too_low += not msg.possdup
            return False
        if self.expected is not None and msg.seq > self.expected:
            self.gaps += 1
            self.lost += msg.seq - self.expected
            for symbol in self.followed():
                self.states[symbol] = "GAP"
        self.expected = msg.seq + 1
        return True

    def followed(self) -> list[str]:
        """Symbols whose books hold a snapshot and every message since."""
        return [symbol for symbol, state in self.states.items() if state in ("LIVE", "EMPTY", "UNVERIFIED")]

    def define(self, symbol: str, price_precision: int, qty_precision: int) -> None:
        """An instrument of 35=y; other precisions than before make its book void."""
        if self.precisions.get(symbol, (price_precision, qty_precision)) != (price_precision, qty_precision):
            self.states[symbol] = "SYNCING"
        self.precisions[symbol] = price_precision, qty_precision

    def market_data(self, msg: Message) -> Book | None:
        """35=W, 35=X: the whole message or nothing of it."""
        if msg.fault and not msg.symbol:
            self.malformed += 1
            for symbol in self.followed():  # one of them missed a message
                self.states[symbol] = "STALE"
            return None
        if msg.symbol not in self.precisions:
            self.unknown += 1
            self.malformed += bool(msg.fault)
            return None
        lost = msg.type == "X" and msg.empty and msg.crc is None  # its entries, and nothing proves the book
        if msg.fault or lost or not self.exact(msg, [entry for entry in msg.entries if entry.side in BOOK_SIDES]):
            self.malformed += 1
            self.states[msg.symbol] = "STALE"
            return None
        msg.entries = [entry for entry in msg.entries if entry.side in BOOK_SIDES or self.exact(msg, [entry])]
        if self.is_of_orders(msg) and any(entry.side in BOOK_SIDES and not entry.id for entry in msg.entries):
            self.malformed += 1  # an order is known by its id alone
            self.states[msg.symbol] = "STALE"
            return None
        self.entries.extend((msg, i, entry) for i, entry in enumerate(msg.entries))
        book = self.books.get(msg.symbol)
        if msg.type == "W":
            l3 = self.is_of_orders(msg)
            book = self.books[msg.symbol] = (L3Book if l3 else L2Book)(*self.precisions[msg.symbol])
            self.states[msg.symbol] = "LIVE"
        if book is None or msg.symbol not in self.followed():
            return None
        self.apply(msg, book)
        return book

    def is_of_orders(self, msg: Message) -> bool:
        """Whether a message is one of an L3 book."""
        if msg.type == "W" and msg.entries:
            return is_l3(msg.entries)
        return isinstance(self.books.get(msg.symbol), L3Book)

    def exact(self, msg: Message, entries: list[Entry]) -> bool:
        """Every number is a whole multiple of the instrument's unit, and one that int64 holds."""
        price_precision, qty_precision = self.precisions[msg.symbol]
        return all(fits(entry.price, price_precision) and fits(entry.qty, qty_precision) for entry in entries)

    def apply(self, msg: Message, book: Book) -> None:
        """Entries in the order given, then the checksum, then what the book is worth."""
        on_book = [entry for entry in msg.entries if entry.side in BOOK_SIDES]
        for entry in on_book:
            book.apply(entry)
        right = True
        waits = msg.type != "W" and msg.symbol in self.crossed
        self.crossed.discard(msg.symbol)
        if msg.crc is not None and (on_book or msg.empty or msg.type == "W"):
            self.with_crc += 1
            right = self.with_crc % self.verify_every != 0 or self.verify(book, msg.crc)
        elif book.crossed() and (msg.type == "W" or waits):
            self.crossed.add(msg.symbol)
        elif book.crossed():
            right = False
        empty = not book.prices("0") and not book.prices("1")
        sound = "UNVERIFIED" if msg.symbol in self.crossed else "EMPTY" if empty else "LIVE"
        self.states[msg.symbol] = sound if right else "CRC_FAIL"

    def verify(self, book: Book, crc: int) -> bool:
        """Every message keeps only the rules that explain it; which one holds shows in `rules`."""
        self.checked += 1
        holding = {rule for rule in self.rules if book.checksum(rule) == crc}
        self.ok += bool(holding)
        self.rules = holding or self.rules
        return bool(holding)


def fits(value: Decimal, precision: int) -> bool:
    """The number in units of 10**-precision is whole, and int64 holds it."""
    scaled = value.scaleb(precision, context=EXACT)
    return scaled == scaled.to_integral_value() and abs(scaled) < 2**63


def is_l3(entries: list[Entry]) -> bool:
    """Bids and offers are orders when they have a place in a queue (5273) or an order id, or several have one price."""
    on_book = [entry for entry in entries if entry.side in BOOK_SIDES]
    ids: dict[tuple[str, Decimal], set[str]] = {}
    for entry in on_book:
        ids.setdefault((entry.side, entry.price), set()).add("" if names_its_price(entry) else entry.id)
    named = any(ORDER_ID.fullmatch(entry.id) for entry in on_book)
    return named or any(entry.queue_ns for entry in on_book) or any(len(names) > 1 for names in ids.values())


def names_its_price(entry: Entry) -> bool:
    """278 on L2 is B or O and the price."""
    letter, text = entry.id[:1], entry.id[1:]
    try:
        return letter == "BO"[int(entry.side)] and Decimal(text) == entry.price
    except ArithmeticError:
        return False
