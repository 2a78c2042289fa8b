"""Sequence rules of a Handler without a session, which cannot request what is missing: a recording, a test, a replay.

Whatever comes is applied, gaps are counted, and no book is trusted across one until its next snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfix_md._entry import Cause
from kfix_md._state import Event

if TYPE_CHECKING:
    from kfix_md._handler import Handler

CONSUMED, DELIVER, IGNORE = 0, 1, 4  # as kfix_md.session.fix has them


def number(value: bytes | None) -> int | None:
    """A tag's value as a number, None when it is none."""
    return int(value) if value is not None and value.isdigit() and len(value) < 19 else None


class Follower:
    """Takes the place of a Session. `counts` is part of Handler.stats."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.sequence = handler.sequence
        self.counts = {"gaps": 0, "lost": 0, "too_low": 0, "duplicates": 0, "garbled": 0}

    def garbled(self, _kind: str, _n: int, _recv_ns: int) -> None:
        self.counts["garbled"] += 1

    def malformed(self, _seq: int, _msg_type: str, _error: int, _recv_ns: int) -> None:
        """Nothing to do: the handler has counted it and voided its book, and there is no peer to send a reject to."""

    def take_released(self, _recv_ns: int) -> list[tuple[bytes, int]]:
        return []

    def receive(self, _frame: bytes, fields: list[tuple[int, bytes]], _recv_ns: int) -> int:
        """Decide on one message that is not an in-order W or X."""
        head = dict(reversed(fields))
        seq, msg_type = number(head.get(34)), head.get(35)
        if seq is None:
            self.handler.books.void_books(Event.MALFORMED, Cause.MALFORMED)
            return IGNORE
        if msg_type == b"A":  # Logon: a new connection, nothing subscribed
            if head.get(141) == b"Y":
                self.sequence.expected = seq
            self.handler.books.void_books(Event.DISCONNECT, Cause.DISCONNECT)
        if msg_type == b"4" and head.get(123) != b"Y":  # SequenceReset without gap fill: jump, ignore 34
            return self._jump(number(head.get(36)))
        if not self._in_sequence(seq, head.get(43) == b"Y"):
            return IGNORE
        if msg_type == b"4":
            return self._gap_fill(seq, number(head.get(36)))
        if msg_type == b"y":
            self.handler.read_instruments(fields)
        return DELIVER if msg_type in (b"W", b"X") else CONSUMED

    def _in_sequence(self, seq: int, poss_dup: bool) -> bool:
        expected = self.sequence.expected
        if 0 <= seq < expected:
            self.counts["duplicates" if poss_dup else "too_low"] += 1
            return False
        if 0 <= expected < seq:
            self._lose(seq - expected)
        self.sequence.expected = seq + 1
        return True

    def _lose(self, n: int) -> None:
        self.counts["gaps"] += 1
        self.counts["lost"] += n
        self.handler.books.void_books(Event.GAP_OPENED, Cause.LOST)

    def _jump(self, to: int | None) -> int:
        if to is None:
            return IGNORE
        self.sequence.expected = to
        self.handler.books.void_books(Event.GAP_OPENED, Cause.LOST)
        return CONSUMED

    def _gap_fill(self, seq: int, to: int | None) -> int:
        if to is not None and to > seq + 1:
            self._lose(to - seq - 1)
            self.sequence.expected = to
        return CONSUMED
