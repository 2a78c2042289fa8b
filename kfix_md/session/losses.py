"""Which losses are open until the books have been verified again, and what healed each."""

from collections import deque
from typing import NamedTuple

from kfix_md.journal.events import GapClosed, GapOpened
from kfix_md.session.gap import Hole
from kfix_md.session.link import Link
from kfix_md.session.types import Healed

_MAX_UNHEALED = 1_000


class Loss(NamedTuple):
    """A hole whose messages never come, and what will heal the books."""

    hole: Hole
    healed: Healed


class LossEstimate:
    """Opens gaps (each with an id of its own) and closes those that only new snapshots can heal."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.unhealed: deque[Loss] = deque()
        self._last_gap_id = 0

    def new_gap_id(self, now_ns: int) -> int:
        """An id for a gap that no other gap of this session has, also across restarts."""
        self._last_gap_id = max(now_ns, self._last_gap_id + 1)
        return self._last_gap_id

    def open(self, first: int, last: int | None, cause: str, now_ns: int) -> Hole:
        """Report a gap of MsgSeqNum first..last (None: unknown, to the next logon)."""
        hole = Hole(first, last, cause, self.new_gap_id(now_ns), now_ns)
        self._link.count("gaps")
        self._link.event(now_ns, GapOpened(hole.id, first, last, cause))
        return hole

    def close(self, hole: Hole, healed: Healed, now_ns: int) -> None:
        """Report that a gap is over."""
        self._link.event(now_ns, GapClosed(hole.id, healed))

    def add(self, hole: Hole, healed: Healed) -> None:
        """Keep a gap open until the books are verified; bounded."""
        self.unhealed.append(Loss(hole, healed))
        if len(self.unhealed) > _MAX_UNHEALED:
            oldest = self.unhealed.popleft()
            self.close(oldest.hole, oldest.healed, oldest.hole.opened_ns)

    def interrupted(self, cause: str, expected: int, now_ns: int, healed: Healed) -> None:
        """Everything from `expected` to the next verified books is missing (one such gap at a time)."""
        if not any(loss.hole.last is None for loss in self.unhealed):
            self.add(self.open(expected, None, cause, now_ns), healed)

    def verified(self, now_ns: int) -> None:
        """Every book is verified: all losses are healed."""
        while self.unhealed:
            loss = self.unhealed.popleft()
            self.close(loss.hole, loss.healed, now_ns)
