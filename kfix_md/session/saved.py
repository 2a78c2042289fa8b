"""Which MsgSeqNums have to be stored, and whether the stored ones may still be continued."""

from kfix_md.session.link import Link
from kfix_md.session.types import SequenceNumbers


class SavedNumbers:
    """The counters as they were last handed out to be stored.

    `numbers` are those that the last process stored (None: none): both counters continue there.
    """

    def __init__(self, link: Link, numbers: SequenceNumbers | None) -> None:
        self._link = link
        self._last = self._inherited = numbers
        if numbers is not None:
            link.sequence.expected, link.sequence.outgoing = numbers.expected, numbers.outgoing

    def take(self, now_ns: int) -> SequenceNumbers | None:
        """Counters to store now, None when they are as last taken."""
        sequence = self._link.sequence
        if self._last is not None and self._last[:2] == (sequence.expected, sequence.outgoing):
            return None
        self._last = SequenceNumbers(sequence.expected, sequence.outgoing, self._link.wall_ns(now_ns))
        return self._last

    def take_inherited(self) -> SequenceNumbers | None:
        """What the last process stored, once."""
        inherited, self._inherited = self._inherited, None
        return inherited

    def too_old(self, now_ns: int) -> bool:
        """They are from before the last rollover, which made them void."""
        last_ns = self._link.wall_ns(self._link.rollover.last_instant(now_ns))
        return self._last is not None and self._last.saved_ns < last_ns
