"""Keeps the gaps that are open in a journal and produces the rows of the gaps table."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
_NOT_A_COLUMN = ("waiting", "feed_id")


@dataclass(slots=True)
class Gap:
    """One gap, as it is saved between two flushes and, but for two fields, as its row."""

    number: int  # feed session, -1 when it concerns none
    session: int | None
    service: str | None
    cause: str
    opened_ns: int
    planned: bool = False
    symbol: str | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    lost: int | None = None
    detail: str | None = None
    healed: str | None = None
    feed: str | None = None  # name of the feed
    waiting: list[str] = field(default_factory=list)  # symbols whose books have yet to recover
    feed_id: int | None = None  # id in the feed's events


class GapTable:
    """Open gaps by number (the journal position of the record that opened each), in the order they were opened.

    Parameters
    ----------
    saved
        What `saved()` returned in an earlier process; it is copied.
    """

    def __init__(self, saved: dict[str, Row] | None = None):
        known = {each.name for each in dataclasses.fields(Gap)}
        rows = copy.deepcopy(saved or {})
        self._open = {int(key): Gap(**{k: v for k, v in row.items() if k in known}) for key, row in rows.items()}
        self._rows: list[Row] = []

    def saved(self) -> dict[str, Row]:
        """The open gaps as JSON."""
        return {str(key): dataclasses.asdict(gap) for key, gap in self._open.items()}

    def take(self) -> list[Row]:
        """Rows since the last call: one when a gap opens, another when it closes."""
        rows, self._rows = self._rows, []
        return rows

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, position: int, gap: Gap) -> int:
        """Add a gap; returns its number. Records are 8 bytes apart at least: numbers in between are free."""
        while position in self._open:
            position += 1
        self._open[position] = gap
        self._row(position, gap, None)
        return position

    def adopt(self, number: int, feed_id: int | None, first: int | None) -> bool:
        """Give the feed's id to the open gap of a restart of this session; False when there is none.

        A feed that continues its numbering reports the outage that the end of the feed before it has opened.
        """
        found = [g for g in self._open.values() if g.number == number and g.cause == "RESTART"]
        for gap in found:
            gap.feed_id, gap.first_seq = feed_id, first
        return bool(found)

    def close(self, key: int, ns: int) -> None:
        """The gap is over at receive time `ns`."""
        gap = self._open.pop(key)
        gap.healed = gap.healed or ("snapshot" if gap.waiting or gap.symbol else None)
        self._row(key, gap, ns)

    def close_reported(self, number: int, feed_id: int | None, healed: str, first: Any, last: Any, ns: int) -> None:
        """The feed reports that its gap `feed_id` is over; `first`, `last` None: as they were."""
        for key, gap in list(self._open.items()):
            if gap.number == number and feed_id is not None and gap.feed_id == feed_id:
                gap.healed = healed
                gap.first_seq = gap.first_seq if first is None else first
                gap.last_seq = gap.last_seq if last is None else last
                self.close(key, ns)

    def recovered(self, number: int, symbol: str, ns: int) -> None:
        """A book is good again: gaps that waited for it alone are over."""
        for key, gap in list(self._open.items()):
            if gap.number == number and symbol in gap.waiting:
                gap.waiting.remove(symbol)
                if not gap.waiting:
                    self.close(key, ns)

    def reconnected(self, number: int, ns: int) -> None:
        """A session without books has its first subscription: what waited for the reconnect is over."""
        for key, gap in list(self._open.items()):
            if gap.number == number and gap.healed == "reconnect" and not gap.waiting:
                self.close(key, ns)

    def orphaned(self, number: int, waiting: list[str]) -> None:
        """The feed process is gone: the next one heals what it had open, when these books are good again."""
        for gap in self._open.values():
            if gap.number == number and not gap.waiting:
                gap.waiting, gap.healed = list(waiting), "reconnect"

    def _row(self, key: int, gap: Gap, closed_ns: int | None) -> None:
        row = {k: v for k, v in dataclasses.asdict(gap).items() if k not in _NOT_A_COLUMN}
        healed = gap.healed if closed_ns is not None else None
        number = None if gap.number < 0 else gap.number
        self._rows.append(row | {"gap": key, "closed_ns": closed_ns, "healed": healed, "number": number})
