"""Which books may be trusted, in plain Python: from the messages delivered and the requests sent, and nothing else.

A book is whole from the snapshot of its present subscription on, until something that it needed is lost. It is LIVE
when it is whole, no number of its session is missing, the session is logged on, and nothing is halted. Books are
two-sided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Fields = Sequence[tuple[int, str]]
Message = tuple[str, Fields]


@dataclass
class Book:
    """One book."""

    request: str | None = None  # 262 of the present subscription
    whole: bool = False
    halted: bool = False  # 5032


class States:
    """All books of one service."""

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self.logged_on = False
        self.halted = False  # 340
        self.expected = 1
        self.ahead: dict[int, Message] = {}  # delivered, with numbers that are missing before them

    def state(self, symbol: str) -> str:
        """LIVE or HALTED of a book that is right; else "", which is any state that is not trusted."""
        book = self.books.get(symbol, Book())
        if not self.logged_on or self.ahead or not book.whole:
            return ""
        return "HALTED" if self.halted or book.halted else "LIVE"

    # ---- what the feed does ----

    def sent(self, kind: str, fields: dict[int, str]) -> None:
        """The feed sent a message."""
        if kind == "V":
            book = self.books.setdefault(fields[55], Book())
            book.request, book.whole = (fields[262] if fields[263] == "1" else None), False

    def ended(self) -> None:
        """The session does not deliver any more."""
        self.logged_on = self.halted = False
        self.ahead.clear()
        for book in self.books.values():
            book.whole = book.halted = False

    # ---- what the venue does ----

    def delivered(self, kind: str, fields: Fields) -> None:
        """A sound frame came."""
        first = dict(reversed(fields))
        seq = int(first[34])
        if kind == "A":
            self._logon(seq)
        elif kind == "5":
            self.ended()
        elif seq > self.expected:
            self.ahead.setdefault(seq, (kind, fields))
        elif seq == self.expected:
            self._in_turn(seq, kind, fields)
            while self.ahead and min(self.ahead) <= self.expected:
                due = min(self.ahead)
                message = self.ahead.pop(due)
                if due == self.expected:
                    self._in_turn(due, *message)

    def _logon(self, seq: int) -> None:
        self._lose_all()
        self.ahead.clear()
        self.logged_on, self.expected = True, seq + 1

    def _in_turn(self, seq: int, kind: str, fields: Fields) -> None:
        self.expected = seq + 1
        if kind == "4":
            new = int(dict(fields)[36])
            # the fill replaces the numbers from its own on; what was delivered of them is applied
            while self.expected <= new:
                at, self.expected = self.expected - 1, self.expected + 1
                message = self.ahead.pop(at, None)
                if message is None:
                    self._lose_all()
                elif message[0] != "4":
                    self._apply(*message)
            self.expected = new
        else:
            self._apply(kind, fields)

    def _lose_all(self) -> None:
        for book in self.books.values():
            book.whole = False

    def _apply(self, kind: str, fields: Fields) -> None:
        first = dict(reversed(fields))
        if kind == "h":
            self.halted = first[340] == "1"
        elif kind == "y":
            self._list(fields)
        elif kind in "WX":
            self._market_data(kind, fields, first)

    def _list(self, fields: Fields) -> None:
        book = Book()
        for tag, value in fields:
            if tag == 55:
                book = self.books.setdefault(value, Book())
            elif tag == 5032:
                book.halted = value == "2"

    def _market_data(self, kind: str, fields: Fields, first: dict[int, str]) -> None:
        book = self.books.get(first[55])
        if book is None or first[262] != book.request:
            return
        prices = [value for tag, value in fields if tag == 270]
        usable = first[268] != "0" and all(value.replace(".", "").isdigit() for value in prices)
        crossing = usable and any(
            dict(group)[269] == "0" and float(dict(group)[270]) >= 11 for group in _groups(fields)
        )
        book.whole = usable and not crossing and (kind == "W" or book.whole)


def _groups(fields: Fields) -> list[list[tuple[int, str]]]:
    found: list[list[tuple[int, str]]] = []
    for tag, value in fields:
        if tag == 269:
            found.append([])
        if found:
            found[-1].append((tag, value))
    return found
