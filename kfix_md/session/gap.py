"""The queue of messages above the expected MsgSeqNum, and the holes below them."""

import heapq
from collections import deque
from dataclasses import dataclass, field

from kfix_md.session.message import Message


@dataclass(slots=True)
class Hole:
    """A run of missing MsgSeqNums, first..last; `lost` once a gap fill covers part of it."""

    first: int
    last: int | None  # None: unknown, everything until the next logon
    cause: str
    id: int
    opened_ns: int
    lost: bool = False


@dataclass(slots=True)
class GapQueue:
    """Messages above the expected number, by MsgSeqNum, bounded by count and bytes.

    Numbers leave in rising order from a heap; holes are kept in rising order too. No operation walks the
    whole queue, so that a peer cannot make it slow.
    """

    max_messages: int
    max_bytes: int
    holes: deque[Hole] = field(default_factory=deque)
    kept: dict[int, Message | None] = field(default_factory=dict)  # None: dealt with on arrival
    bytes: int = 0
    highest: int = 0  # the highest number seen, or covered by a gap fill kept here
    _order: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.holes)

    def add(self, seq: int, message: Message | None, covers: int = 0) -> bool:
        """Keep `message` under `seq` (numbers to `covers` need no other); False when a bound is passed."""
        self.kept[seq] = message
        heapq.heappush(self._order, seq)
        self.bytes += message.weight if message else 0
        self.highest = max(self.highest, seq, covers)
        return len(self.kept) <= self.max_messages and self.bytes <= self.max_bytes

    def pop_below(self, limit: int) -> tuple[int, Message | None] | None:
        """Take the lowest number kept when it is below `limit`."""
        if not self._order or self._order[0] >= limit:
            return None
        seq = heapq.heappop(self._order)
        message = self.kept.pop(seq)
        self.bytes -= message.weight if message else 0
        return seq, message

    def lacks(self, seq: int) -> bool:
        """Whether `seq` is in the first hole."""
        first = self.holes[0] if self.holes else None
        return first is not None and first.last is not None and first.first <= seq <= first.last

    def mark_lost(self, first: int, last: int) -> Hole | None:
        """Numbers first..last will never come: the first hole they touch, all of them marked, or None."""
        touched = None
        for hole in self.holes:
            if hole.first > last:
                break
            if hole.last is not None and first <= hole.last:
                hole.lost = True
                touched = touched or hole
        return touched

    def closed(self, expected: int) -> list[Hole]:
        """Take the holes that lie wholly below `expected`."""
        done = []
        while self.holes and self.holes[0].last is not None and self.holes[0].last < expected:
            done.append(self.holes.popleft())
        return done

    def span(self) -> tuple[int, int] | None:
        """Lowest and highest number of a W or X kept, or None."""
        numbers = [seq for seq, message in self.kept.items() if message and message.is_market_data]
        return (min(numbers), max(numbers)) if numbers else None

    def drop_messages(self) -> None:
        """Drop every message; the holes stay."""
        self.kept.clear()
        self._order.clear()
        self.bytes = self.highest = 0


def missing_ranges(first: int, last: int, present: list[int]) -> list[tuple[int, int]]:
    """The runs of first..last without the sorted numbers `present`; work grows with `present` alone."""
    ranges = []
    for number in present:
        if number > first:
            ranges.append((first, number - 1))
        first = max(first, number + 1)
    if first <= last:
        ranges.append((first, last))
    return ranges
