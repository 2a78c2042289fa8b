"""Reads InstrumentList (35=y): fragments put together, rows checked one by one, updates merged with what is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import lru_cache
from typing import Any

from kfix_md._frame import CollectionPaused
from kfix_md._list_rows import Row, read_rows

#: rows that are read of a list with all its fragments, and instruments kept: several times what any venue lists
MAX_ROWS = 10_000
MAX_INSTRUMENTS = 10_000

#: largest number of decimals of an int64 price or quantity, and of zeros that a negative precision cuts off
MAX_PRECISION = 18


class Status(IntEnum):
    """5032: what the venue does with an instrument."""

    HIDDEN = 0
    ONLINE = 1
    MAINTENANCE = 2
    CANCEL_ONLY = 3
    POST_ONLY = 4
    LIMIT_ONLY = 5
    DELISTED = 6
    REDUCE_ONLY = 7
    #: a code that is not documented: the instrument is used, and its data show whether the book is good
    UNKNOWN = 255

    @classmethod
    def _missing_(cls, value: object) -> Status:
        return cls.UNKNOWN

    @property
    def listed(self) -> bool:
        """Whether the instrument may be subscribed to."""
        return self not in (Status.HIDDEN, Status.DELISTED)

    @property
    def halted(self) -> bool:
        """Whether its book exists, but nothing happens in it."""
        return self is Status.MAINTENANCE


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument of 35=y. Numbers that only inform stay the venue's own text."""

    symbol: str
    price_precision: int  # 2349; negative: the venue counts in tens, hundreds, ...
    qty_precision: int  # 5010
    status: Status = Status.ONLINE  # 5032
    tick_size: str = ""  # 5022
    min_increment: str = ""  # 562
    min_qty: str = ""  # 5011
    max_qty: str = ""  # 5012
    min_cost: str = ""  # 5013


def merged(row: Row, known: Instrument | None) -> Instrument | str:
    """Return the instrument that a row makes of what is known, or a sentence about why there is none."""
    if row.error:
        return row.error
    if known is not None:
        for name, value in row.stated.items():
            if getattr(known, name) != value:
                return replace(known, **row.stated)
        return known  # as most rows of most lists: nothing is new
    for tag, name in _PRECISIONS.items():
        if name not in row.stated:
            return f"{row.symbol}: no usable {name} ({tag} missing)"
    return Instrument(row.symbol, **row.stated)


@dataclass(frozen=True, slots=True)
class ListPart:
    """One 35=y message: 320, 560, 393, 893 and its rows."""

    request_id: str
    result: int
    total: int | None  # 393: rows of all fragments together
    last_fragment: bool | None  # 893, None where it is not stated
    rows: list[Row]
    groups: int  # rows of the message, those that are left out counted
    count_error: str = ""  # 146 differs from the groups

    @property
    def last(self) -> bool:
        """Whether this message announces no further fragment."""
        return self.last_fragment is not False

    @property
    def instruments(self) -> list[Instrument]:
        """Instruments of the rows that need nothing known from before."""
        found = (merged(row, None) for row in self.rows)
        return [instrument for instrument in found if isinstance(instrument, Instrument)]

    @property
    def errors(self) -> list[str]:
        """One sentence for each row that can be used neither alone nor as an update, and one for a wrong 146."""
        return [row.error for row in self.rows if row.error] + ([self.count_error] if self.count_error else [])


#: 560 SecurityRequestResult as text
RESULTS = {0: "valid", 1: "invalid request", 2: "no instruments found", 4: "temporarily unavailable"}
_PRECISIONS = {2349: "price_precision", 5010: "qty_precision"}
_TEXTS = {5022: "tick_size", 562: "min_increment", 5011: "min_qty", 5012: "max_qty", 5013: "min_cost"}
_INTEGRAL = re.compile(rb"([+-]?)0*(\d{1,9})(?:\.0*)?")


# a list has the same few values in thousands of rows, so that the conversions below are cached
_cached = lru_cache(maxsize=1024)


@_cached
def integral(value: bytes) -> int | None:
    """Return the whole number that a FIX int or float states (``8``, ``8.0``, ``-3``, ``008``), or None."""
    found = _INTEGRAL.fullmatch(value)
    return None if found is None else int(found[1] + found[2])


@_cached
def precision_of(value: bytes) -> int | None:
    """Return the precision that 2349 or 5010 states, -18 to 18, or None when it is no such number."""
    number = integral(value)
    return number if number is not None and abs(number) <= MAX_PRECISION else None


@_cached
def _text(value: bytes) -> str:
    return value.decode("ascii", "backslashreplace")


@_cached
def _status(value: bytes) -> Status:
    code = integral(value)
    return Status.UNKNOWN if code is None else Status(code)


#: what a group of 35=y may state besides its symbol: tag -> (name of Instrument, how its value is read)
_GROUP: dict[int, tuple[str, Callable[[bytes], Any]]] = {
    **{tag: (name, precision_of) for tag, name in _PRECISIONS.items()},
    **{tag: (name, _text) for tag, name in _TEXTS.items()},
    5032: ("status", _status),
}


def parse_list(fields: Iterable[tuple[int, bytes]], room: int = MAX_ROWS) -> ListPart:
    """Read one 35=y, given as (tag, value) pairs in wire order; never raises.

    A row that is wrong states its error. Rows after the first `room` are only counted.
    """
    with CollectionPaused():
        rows, head, excess = read_rows(fields, room, _GROUP)
    declared = integral(head.get(146, b""))
    result = integral(head.get(560, b"0"))
    return ListPart(
        request_id=_text(head.get(320, b"")),
        result=1 if result is None else result,
        total=integral(head.get(393, b"")),
        last_fragment=None if 893 not in head else head[893] != b"N",
        rows=rows,
        groups=len(rows) + excess,
        count_error=_count_error(declared, len(rows), excess),
    )


def _count_error(declared: int | None, found: int, excess: int) -> str:
    if excess:
        return f"35=y has {found + excess} instruments: {MAX_ROWS} are read of a list, the rest left out"
    if declared is None or declared == found:
        return ""
    return f"35=y states 146={declared} but has {found} groups"


def merge_rows(rows: Iterable[Row], known: Mapping[str, Instrument]) -> tuple[dict[str, Instrument], dict[str, str]]:
    """Merge rows with the instruments known.

    Returns (instruments by symbol, reasons by symbol of the rows that cannot be used). A symbol with several rows is
    merged row by row.
    """
    fresh: dict[str, Instrument] = {}
    unusable: dict[str, str] = {}
    for row in rows:
        found = merged(row, fresh.get(row.symbol) or known.get(row.symbol))
        if isinstance(found, str):
            unusable[row.symbol] = found
        else:
            fresh[row.symbol] = found
    return fresh, unusable


@dataclass(slots=True)
class ListChange:
    """What a finished list (or an update to it) changed."""

    added: list[Instrument]
    changed: list[Instrument]
    removed: list[str]
    complete: bool  # the list that was requested has arrived whole (an update later: False)
    unusable: dict[str, str] = field(default_factory=dict)  # symbol -> why its row is left out


@dataclass(slots=True)
class _Answer:
    """What has arrived of the answer to one request."""

    rows: list[Row] = field(default_factory=list)
    counted: int = 0  # rows of its fragments, those of updates between them left out
    fragmented: bool = False

    def add(self, part: ListPart) -> bool:
        """Take in a message; True when the answer is whole."""
        self.rows += part.rows[: MAX_ROWS - len(self.rows)]
        if part.last_fragment is None and part.total is None and self.fragmented:
            return False  # an update between two fragments
        self.fragmented = True
        self.counted += part.groups
        if part.last_fragment is not None:
            return part.last_fragment or (part.total is not None and self.counted >= part.total > 0)
        return part.total is None or self.counted >= part.total


class InstrumentList:
    """The instruments of one service, kept through fragments, updates (263=1) and new lists."""

    def __init__(self) -> None:
        self.known: dict[str, Instrument] = {}
        self.unusable: dict[str, str] = {}  # symbols that the venue lists, and why they are left out
        # of each question (one 35=x; lists may be requested by type) the requests that may be answered
        self._open: dict[str, dict[str, _Answer]] = {}
        self._whole: dict[str, list[Row]] = {}

    @property
    def room(self) -> int:
        """How many rows of the next message can be of use: less than MAX_ROWS while a list goes on and on."""
        if self.complete:
            return MAX_ROWS
        held = [len(answer.rows) for answers in self._open.values() for answer in answers.values()]
        return MAX_ROWS - min(held, default=0)

    @property
    def complete(self) -> bool:
        """Whether every list that was requested has arrived whole."""
        return bool(self._whole) and self._whole.keys() >= self._open.keys()

    def expect(self, request_id: str, again: bool = False, question: str = "") -> None:
        """Note that a request (35=x) with this 320 is sent; the next whole list replaces what is known.

        Parameters
        ----------
        again: the answer to an earlier request of this question, late as it may come, is as good.
        question: names the request where a list is requested in several parts (all, and 167=TS); the list is complete
            when each part is.
        """
        if not again:
            self._open.pop(question, None)
        answers = self._open.setdefault(question, {})
        if sum(len(answer.rows) for answer in answers.values()) >= MAX_ROWS:
            answers.clear()  # none of them has come to an end: no memory for more
        answers[request_id] = _Answer()
        self._whole.pop(question, None)

    def dismiss(self, question: str) -> ListChange | None:
        """Do without a part of the list that the venue does not give; returns what `apply` returns."""
        was_complete = self.complete
        self._open.pop(question, None)
        self._whole.pop(question, None)
        return self._merge_whole() if self.complete and not was_complete else None

    def apply(self, part: ListPart) -> ListChange | None:
        """Take in a sound part (560=0). None while fragments are missing, and for an old request."""
        with CollectionPaused():
            return self._apply(part)

    def _apply(self, part: ListPart) -> ListChange | None:
        if self.complete:
            return self._merge(part.rows, complete=False)
        question = self._question(part.request_id)
        if question is None:
            return None
        if question in self._whole:  # an update, while another part of the list is missing
            self._whole[question] += part.rows[: MAX_ROWS - len(self._whole[question])]
            return None
        answers = self._open[question]
        answer = answers[part.request_id or next(reversed(answers))]
        if not answer.add(part):
            return None
        self._whole[question] = answer.rows
        return self._merge_whole() if self.complete else None

    def _merge_whole(self) -> ListChange:
        rows = [row for rows in self._whole.values() for row in rows]
        self._whole = {question: [] for question in self._whole}
        return self._merge(rows, complete=True)

    def _question(self, request_id: str) -> str | None:
        if not request_id:
            return next(reversed(self._open), None)
        return next((name for name, answers in self._open.items() if request_id in answers), None)

    def _merge(self, rows: list[Row], complete: bool) -> ListChange:
        fresh, unusable = merge_rows(rows, self.known)
        if len(self.known) + len(fresh) + len(self.unusable) > MAX_INSTRUMENTS:
            fresh, unusable = self._within_limit(fresh, unusable)
        if complete:
            self.unusable = {}
        new = {symbol: why for symbol, why in unusable.items() if self.unusable.get(symbol) != why}
        self.unusable = {symbol: why for symbol, why in self.unusable.items() if symbol not in fresh} | unusable
        change = ListChange([], [], [], complete, new)
        listed = fresh.keys() | unusable.keys()
        for symbol in [symbol for symbol in self.known if complete and symbol not in listed]:
            if self.known.pop(symbol).status.listed:
                change.removed.append(symbol)
        for symbol, row in fresh.items():
            self._replace(symbol, row, change)
        return change

    def _within_limit(
        self, fresh: dict[str, Instrument], unusable: dict[str, str]
    ) -> tuple[dict[str, Instrument], dict[str, str]]:
        """What of new rows is kept: those of known instruments, and others up to MAX_INSTRUMENTS."""
        new = [symbol for symbol in fresh if symbol not in self.known]
        left_out = set(new[max(MAX_INSTRUMENTS - len(self.known), 0) :])
        kept = {symbol: row for symbol, row in fresh.items() if symbol not in left_out}
        reasons = dict(list(unusable.items())[: max(MAX_INSTRUMENTS - len(self.unusable), 0)])
        if left_out:
            first = min(left_out)
            reasons[first] = f"{first} and {len(left_out) - 1} more: {MAX_INSTRUMENTS} instruments are kept"
        return kept, reasons

    def _replace(self, symbol: str, row: Instrument, change: ListChange) -> None:
        old = self.known.get(symbol)
        self.known[symbol] = row
        was_listed = old is not None and old.status.listed
        if row.status.listed and not was_listed:
            change.added.append(row)
        elif was_listed and not row.status.listed:
            change.removed.append(symbol)
        elif old is not None and old != row:
            change.changed.append(row)

    def listed(self) -> list[str]:
        """Return the symbols that may be subscribed to, sorted."""
        return sorted(symbol for symbol, row in self.known.items() if row.status.listed)
