"""Hides how a stream is followed: MsgSeqNum, instruments, snapshots, books, checksums, one by one."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from .book import Book, L2Book, L3Book
from .codec import BOOK_SIDES, Entry, FixError, Message, frames, message

RULES = ("order", "level")


class Follower:
    """Books of one clean stream; `on_message(message, book or None)` is called after each message."""

    def __init__(self, on_message: Callable[[Message, Book | None], None] | None = None) -> None:
        self.on_message = on_message
        self.expected: int | None = None
        self.precisions: dict[str, tuple[int, int]] = {}
        self.books: dict[str, Book] = {}
        self.rules = set(RULES)
        self.entries: list[tuple[Message, int, Entry]] = []
        self.messages = self.checked = self.ok = self.gaps = self.protocol_errors = 0

    def feed(self, data: bytes) -> Follower:
        """All frames of a clean stream."""
        for frame in frames(data):
            self.frame(frame)
        return self

    def frame(self, frame: bytes) -> None:
        """One whole frame with the right length and checksum."""
        self.messages += 1
        try:
            told = message(frame)
        except FixError:
            self.protocol_errors += 1
            if self.expected is not None:
                self.expected += 1
            return
        if self.expected is not None and told.seq < self.expected:
            return
        self.gaps += self.expected is not None and told.seq > self.expected
        self.expected = told.seq + 1
        for group in told.instruments:
            self.precisions[group[55].decode()] = int(group[2349]), int(group[5010])
        book = self.apply(told) if told.type in ("W", "X") else None
        if self.on_message:
            self.on_message(told, book)

    def apply(self, told: Message) -> Book | None:
        """Entries of a W or X in the order given, then the checksum."""
        self.entries.extend((told, i, entry) for i, entry in enumerate(told.entries))
        book = self.books.get(told.symbol)
        if told.type == "W":
            l3 = is_l3(told.entries) if told.entries else isinstance(book, L3Book)
            book = self.books[told.symbol] = (L3Book if l3 else L2Book)(*self.precisions[told.symbol])
        if book is None:
            return None
        for entry in told.entries:
            if entry.side in BOOK_SIDES:
                book.apply(entry)
        if told.crc is not None:
            self.verify(book, told.crc)
        return book

    def verify(self, book: Book, crc: int) -> None:
        """Every message keeps only the rules that explain it; which one holds shows in `rules`."""
        self.checked += 1
        held = {rule for rule in self.rules if book.checksum(rule) == crc}
        self.ok += bool(held)
        self.rules = held or self.rules


def is_l3(entries: list[Entry]) -> bool:
    """Bids and offers named otherwise than by side letter and price are orders."""
    book = [entry for entry in entries if entry.side in BOOK_SIDES]
    return any(not names_its_price(entry) for entry in book)


def names_its_price(entry: Entry) -> bool:
    """278 on L2 is B or O and the price, or absent."""
    if not entry.id:
        return True
    letter, text = entry.id[0], entry.id[1:]
    try:
        return letter == "BO"[int(entry.side)] and Decimal(text) == entry.price
    except ArithmeticError:
        return False
