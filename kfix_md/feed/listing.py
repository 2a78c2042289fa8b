"""The instrument list of one service: requests for it (35=x), retries, and the symbols that the patterns select."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from kfix_md.feed.pacing import SECOND, Pace
from kfix_md.feed.requests import Fields, Requests
from kfix_md.feed.symbols import select
from kfix_md.instruments import RESULTS, InstrumentList, ListChange, parse_list
from kfix_md.session import fix

#: Sends a message (MsgType, body, time in ns) and returns its MsgSeqNum.
Send = Callable[[str, fix.Body, int], int]
Log = logging.Logger | logging.LoggerAdapter[Any]


class Listing:
    """Requests the instrument list and keeps what it contains; `due_ns` is when `tick` has work, 0 for never."""

    def __init__(self, requests: Requests, send: Send, pace: Pace, rng: random.Random, log: Log) -> None:
        self.instruments = InstrumentList()
        self.errors = 0  # rows that could not be used
        self.due_ns = 0
        self._requests, self._send, self._pace, self._rng, self._log = requests, send, pace, rng, log
        self._failures = 0

    def lost(self) -> None:
        """The connection is gone: no answer is expected any more."""
        self.due_ns = self._failures = 0

    def request(self, now_ns: int, again: bool = False) -> None:
        """Request the whole list and updates to it; `again`: a late answer to an earlier request counts as well."""
        request_id = self._requests.new_id()
        self.instruments.expect(request_id, again)
        self.due_ns = now_ns + self._pace.answer_within(self._failures)
        self._requests.sent(self._send("x", fix.instrument_list_request(request_id, updates=1), now_ns), "list")

    def tick(self, now_ns: int) -> None:
        """Request the list again when its answer is overdue."""
        if self.due_ns and now_ns >= self.due_ns:
            self._failures += 1
            self._log.warning("no usable instrument list yet; requesting it again")
            self.request(now_ns, again=True)

    def retry(self, why: str, now_ns: int) -> None:
        """The request was rejected: repeat it later, with growing pauses."""
        self._failures += 1
        delay = SECOND + self._pace.patience(self._rng, self._failures + 1)
        self.due_ns = now_ns + delay
        self._log.warning("instrument list %s; requesting it again in %.1f s", why, delay / SECOND)

    def on_message(self, fields: Fields, now_ns: int) -> ListChange | None:
        """Take in one 35=y; what it changed, None while fragments are missing."""
        part = parse_list(fields)
        for error in part.errors:
            self.errors += 1
            self._log.warning("instrument list: %s", error)
        if part.result != 0:
            self.retry(RESULTS.get(part.result, f"answered 560={part.result}"), now_ns)
            return None
        change = self.instruments.apply(part)
        if change is not None and change.complete:
            self.due_ns = self._failures = 0
            self._log.info("instrument list: %d instruments", len(self.instruments.known))
        return change

    def select(self, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
        """(symbols that the patterns select, complaints about patterns that select none)."""
        return select(patterns, self.instruments.listed())
