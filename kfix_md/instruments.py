"""What an InstrumentList (35=y) means: fragments put together, rows checked one by one, status understood."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

# more than this cannot be a precision of an int64 price or quantity
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

    @property
    def listed(self) -> bool:
        """May be subscribed to."""
        return self not in (Status.HIDDEN, Status.DELISTED)

    @property
    def halted(self) -> bool:
        """Its book is there but nothing happens in it."""
        return self is Status.MAINTENANCE


@dataclass(frozen=True, slots=True)
class Instrument:
    """One group of 35=y. Numbers that only inform stay the venue's own text."""

    symbol: str
    price_precision: int  # 2349
    qty_precision: int  # 5010
    status: Status = Status.ONLINE  # 5032
    tick_size: str = ""  # 5022
    min_increment: str = ""  # 562
    min_qty: str = ""  # 5011
    max_qty: str = ""  # 5012
    min_cost: str = ""  # 5013


@dataclass(frozen=True, slots=True)
class ListPart:
    """One 35=y message: 320, 560, whether it ends the list (893), its sound rows and what was wrong."""

    request_id: str
    result: int
    last: bool
    instruments: list[Instrument]
    errors: list[str]


#: 560 SecurityRequestResult in words
RESULTS = {0: "valid", 1: "invalid request", 2: "no instruments found", 4: "temporarily unavailable"}
_GROUP_TEXT = {5022: "tick_size", 562: "min_increment", 5011: "min_qty", 5012: "max_qty", 5013: "min_cost"}


def _small_int(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) < 9 else None


def _instrument(group: dict[int, bytes]) -> Instrument | str:
    """The row of one group, or a sentence about why it cannot be used."""
    symbol = group[55].decode("ascii", "replace")
    precisions = []
    for tag, name in ((2349, "price"), (5010, "quantity")):
        number = _small_int(group.get(tag, b""))
        if number is None or number > MAX_PRECISION:
            held = group.get(tag, b"").decode("ascii", "replace")
            return f"{symbol}: no usable {name} precision ({tag}={held})"
        precisions.append(number)
    code = _small_int(group.get(5032, b"1"))
    try:
        status = Status(1 if code is None else code)
    except ValueError:
        status = Status.ONLINE  # a status of tomorrow: the data decide whether the book is good
    texts = {name: group.get(tag, b"").decode("ascii", "replace") for tag, name in _GROUP_TEXT.items()}
    return Instrument(symbol, precisions[0], precisions[1], status, **texts)


def parse_list(fields: Iterable[tuple[int, bytes]]) -> ListPart:
    """Read one 35=y, given as (tag, value) pairs in wire order. Never raises: bad rows become `errors`."""
    head: dict[int, bytes] = {}
    groups: list[dict[int, bytes]] = []
    for tag, value in fields:
        if tag == 55:
            groups.append({55: value})
        elif groups and tag in _GROUP_TAGS:
            groups[-1].setdefault(tag, value)
        elif tag not in head:
            head[tag] = value
    rows = [_instrument(group) for group in groups]
    errors = [row for row in rows if isinstance(row, str)]
    stated = _small_int(head.get(146, b""))
    if stated is not None and stated != len(groups):
        errors.append(f"35=y says 146={stated} but holds {len(groups)} groups")
    result = _small_int(head.get(560, b"0"))
    return ListPart(
        request_id=head.get(320, b"").decode("ascii", "replace"),
        result=1 if result is None else result,
        last=head.get(893, b"Y") != b"N",
        instruments=[row for row in rows if isinstance(row, Instrument)],
        errors=errors,
    )


_GROUP_TAGS = frozenset({562, 5010, 5011, 5012, 5013, 2349, 5022, 5032, 58, *_GROUP_TEXT})


@dataclass(slots=True)
class ListChange:
    """What a finished list (or an update to it) changed."""

    added: list[Instrument]
    changed: list[Instrument]
    removed: list[str]
    complete: bool  # the list asked for has arrived whole (an update later: False)


class InstrumentList:
    """The instruments of one service, kept through fragments, updates (263=1) and new lists."""

    def __init__(self) -> None:
        self.known: dict[str, Instrument] = {}
        self.complete = False
        self._collecting: dict[str, dict[str, Instrument]] = {}  # of each request that may be answered

    def expect(self, request_id: str, again: bool = False) -> None:
        """A new request (35=x) with this 320 is under way; the next whole list replaces what is known.

        `again`: an answer to the requests before it, late as it may come, is as good.
        """
        if not again:
            self._collecting.clear()
        self._collecting[request_id] = {}
        self.complete = False

    def apply(self, part: ListPart) -> ListChange | None:
        """Take in a sound part (560=0). None while fragments are missing, and for an old request."""
        request_id = part.request_id or next(reversed(self._collecting), "")
        if request_id not in self._collecting:
            return None
        fresh = {row.symbol: row for row in part.instruments}
        if self.complete:  # an update of the standing list
            return self._merge(fresh, gone=[], complete=False)
        self._collecting[request_id].update(fresh)
        if not part.last:
            return None
        fresh, self._collecting[request_id], self.complete = self._collecting[request_id], {}, True
        gone = [symbol for symbol in self.known if symbol not in fresh]
        return self._merge(fresh, gone, complete=True)

    def _merge(self, fresh: dict[str, Instrument], gone: list[str], complete: bool) -> ListChange:
        change = ListChange([], [], [], complete)
        for symbol in gone:
            if self.known.pop(symbol).status.listed:
                change.removed.append(symbol)
        for symbol, row in fresh.items():
            old = self.known.get(symbol)
            self.known[symbol] = row
            was_listed = old is not None and old.status.listed
            if row.status.listed and not was_listed:
                change.added.append(row)
            elif was_listed and not row.status.listed:
                change.removed.append(symbol)
            elif old is not None and old != row:
                change.changed.append(row)
        return change

    def listed(self) -> list[str]:
        """Symbols that may be subscribed to, sorted."""
        return sorted(symbol for symbol, row in self.known.items() if row.status.listed)
