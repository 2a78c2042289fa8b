"""The instruments of one service: requests for their lists (35=x), retries, and what the patterns select of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kfix_md.feed.pacing import SECOND, Bucket, Pace
from kfix_md.feed.requests import Fields, Requests
from kfix_md.feed.symbols import Selection, SymbolTable
from kfix_md.instruments import MAX_ROWS, RESULTS, Instrument, InstrumentList, ListChange, parse_list
from kfix_md.session import fix

#: Sends a message (MsgType, body, time in ns) and returns its MsgSeqNum.
Send = Callable[[str, fix.Body, int], int]
Log = logging.Logger | logging.LoggerAdapter[Any]

#: The security type that means a list of everything (559=4).
ALL = "ALL"

#: rows that a venue may send for long; at once it may send a list of MAX_ROWS
ROWS_PER_S = 1_000

#: rows that cannot be used and are named in the log, of one message
NAMED = 20


def _whole_list() -> Bucket:
    # of each connection: those of a venue that ends them are paced, and thousands of rows are no flood at a reconnect
    return Bucket(MAX_ROWS, ROWS_PER_S, MAX_ROWS)


class Listing:
    """Requests an instrument list for each configured security type and keeps what they contain as one list.

    `due_ns` is when `tick` has work, 0 for never.
    """

    def __init__(
        self,
        requests: Requests,
        send: Send,
        pace: Pace,
        rng: random.Random,
        log: Log,
        securities: Sequence[str] = (ALL,),
    ) -> None:
        self.errors = 0  # rows and messages that could not be used
        self.due_ns = 0
        self.instruments = InstrumentList()
        self._requests, self._send, self._pace, self._rng, self._log = requests, send, pace, rng, log
        self._securities = tuple(securities)
        self._missing: set[str] = set()  # extra lists that the venue does not have, in this connection
        self._security_of: dict[str, str] = {}  # by 320
        self._failures = 0
        self._rows = _whole_list()
        self._ignored_until_ns = 0  # 0, or until when no list is read
        self._table, self._unlisted = SymbolTable(), SymbolTable()

    # ---- what is known ----------------------------------------------------------------------------

    @property
    def known(self) -> Mapping[str, Instrument]:
        """Every usable instrument by symbol, whatever its status."""
        return self.instruments.known

    @property
    def complete(self) -> bool:
        """True when every list has arrived whole."""
        return self.instruments.complete

    def listed(self) -> list[str]:
        """Symbols that may be subscribed, sorted."""
        return self.instruments.listed()

    def select(self, patterns: Sequence[str], near: bool = True) -> Selection:
        """What the patterns select; a name that is known but cannot be subscribed becomes a warning.

        `near`: name similar symbols for each that is unknown.
        """
        self._table.update(self.listed())
        selection = self._table.select(patterns, near)
        if selection.unknown:
            hidden = [symbol for symbol, row in self.known.items() if not row.status.listed]
            self._unlisted.update([*hidden, *self.instruments.unusable])
        for name in list(selection.unknown):
            reason = self._why_not_listed(name)
            if reason:
                del selection.unknown[name]
                selection.warnings.append(reason)
        return selection

    def _why_not_listed(self, name: str) -> str:
        try:
            symbol = self._unlisted.resolve(name, near=False)
        except LookupError:
            return ""
        if symbol in self.instruments.unusable:
            return f"{self.instruments.unusable[symbol]}: left out until the venue corrects it"
        return f"{symbol} is {self.known[symbol].status.name.lower()} at the venue: left out until it is listed"

    # ---- requests ---------------------------------------------------------------------------------

    def lost(self) -> None:
        """The connection is gone: no answer is expected any more, and the next one may list everything again."""
        self.due_ns = self._failures = self._ignored_until_ns = 0
        self._rows = _whole_list()
        self._missing.clear()

    def request(self, now_ns: int, again: bool = False) -> None:
        """Request every list and updates to it; `again`: late answers to earlier requests count as well.

        After a flood of lists the request goes out at its end.
        """
        if self._ignored_until_ns:
            self.due_ns = self._ignored_until_ns
            return
        if not again:
            self._security_of.clear()
        for security in self._securities:
            if security in self._missing:
                continue
            request_id = self._requests.new_id()
            self._security_of[request_id] = security
            self.instruments.expect(request_id, again, security)
            security_type = None if security == ALL else security
            body = fix.instrument_list_request(request_id, security_type=security_type, updates=1)
            self._requests.sent(self._send("x", body, now_ns), f"list {security}")
        self.due_ns = now_ns + self._pace.answer_within(self._failures)

    def tick(self, now_ns: int) -> None:
        """Request again what is overdue."""
        if not self.due_ns or now_ns < self.due_ns:
            return
        if self._ignored_until_ns:
            self._ignored_until_ns = 0
            self.request(now_ns)  # an answer that lacks what was ignored may not be taken for a whole one
        else:
            self._failures += 1
            self._log.warning("no usable instrument list yet; requesting it again")
            self.request(now_ns, again=True)

    def rejected(self, security: str, why: str, now_ns: int) -> ListChange | None:
        """A request was rejected: repeat it later, with growing pauses.

        An extra list is done without in this connection; when it was the last to wait for, returns what is known.
        """
        name = "" if security == ALL else f" of {security}"
        if security in self._securities[1:]:
            self._missing.add(security)
            self._log.warning("instrument list%s %s; continuing without it", name, why)
            return self._finished(self.instruments.dismiss(security))
        self._failures += 1
        delay = SECOND + self._pace.patience(self._rng, self._failures + 1)
        self.due_ns = now_ns + delay
        self._log.warning("instrument list%s %s; requesting it again in %.1f s", name, why, delay / SECOND)
        return None

    # ---- answers ----------------------------------------------------------------------------------

    def on_message(self, fields: Fields, now_ns: int) -> ListChange | None:
        """Take in one 35=y; what it changed, None while fragments or lists are missing."""
        if self._ignored_until_ns:
            self.errors += 1
            return None
        room, readable = self.instruments.room, self._rows.held(now_ns)
        part = parse_list(fields, min(room, readable))
        if readable < min(room, part.groups):
            self._flooded(part.groups, readable, now_ns)
            return None
        self._rows.take(now_ns, len(part.rows))
        if part.count_error:
            self._unusable(part.count_error)
        if part.result != 0:
            reason = RESULTS.get(part.result, f"answered 560={part.result}")
            return self.rejected(self._security_of.get(part.request_id, self._securities[0]), reason, now_ns)
        return self._finished(self.instruments.apply(part))

    def _flooded(self, rows: int, readable: int, now_ns: int) -> None:
        """More rows than anybody lists, which would occupy the loop: no list is read until a whole one may be."""
        pause = self._rows.full_in(now_ns)
        self._ignored_until_ns = self.due_ns = now_ns + max(pause, SECOND)
        self.errors += 1
        self._log.warning(
            "instrument list: %d rows, of which %d may be read so soon after the rows before them: lists are ignored, "
            "and requested again in %.1f s",
            rows,
            readable,
            pause / SECOND,
        )

    def _finished(self, change: ListChange | None) -> ListChange | None:
        if change is None:
            return None
        reasons = list(change.unusable.values())
        for reason in reasons[:NAMED]:
            self._unusable(reason)
        if (more := len(reasons) - NAMED) > 0:
            self.errors += more
            self._log.warning("instrument list: %d more rows cannot be used", more)
        if change.complete:
            self.due_ns = self._failures = 0
            self._log.info("instrument list: %d instruments", len(self.known))
        return change

    def _unusable(self, reason: str) -> None:
        self.errors += 1
        self._log.warning("instrument list: %s", reason)
