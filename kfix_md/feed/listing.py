"""The instruments of one service: requests for their lists (35=x), retries, and what the patterns select of them."""

from __future__ import annotations

import logging
import random
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kfix_md.feed.pacing import SECOND, Pace
from kfix_md.feed.requests import Fields, Requests
from kfix_md.feed.symbols import Selection, SymbolTable
from kfix_md.instruments import RESULTS, Instrument, InstrumentList, ListChange, parse_list
from kfix_md.session import fix

#: Sends a message (MsgType, body, time in ns) and returns its MsgSeqNum.
Send = Callable[[str, fix.Body, int], int]
Log = logging.Logger | logging.LoggerAdapter[Any]

#: The security type that stands for a list of everything (559=4).
ALL = "ALL"


class Listing:
    """Requests one instrument list for each configured security type and shows them as one.

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
        self.errors = 0  # rows that could not be used
        self.due_ns = 0
        self._requests, self._send, self._pace, self._rng, self._log = requests, send, pace, rng, log
        self._lists = {security: InstrumentList() for security in securities}
        self._security_of: dict[str, str] = {}  # by 320
        self._waiting: list[ListChange] = []  # of lists that are whole while others are not
        self._failures = 0
        self._given_up: set[str] = set()  # extra lists that the venue does not have, in this connection
        self._table, self._unlisted = SymbolTable(), SymbolTable()

    # ---- what is known ----------------------------------------------------------------------------

    @property
    def known(self) -> Mapping[str, Instrument]:
        """Every usable instrument by symbol, whatever its status."""
        return ChainMap(*(each.known for each in self._lists.values()))

    @property
    def complete(self) -> bool:
        """True when every list has arrived whole."""
        return all(each.complete or name in self._given_up for name, each in self._lists.items())

    def listed(self) -> list[str]:
        """Symbols that may be subscribed, sorted."""
        return sorted({symbol for each in self._lists.values() for symbol in each.listed()})

    def select(self, patterns: Sequence[str], near: bool = True) -> Selection:
        """What the patterns select; a name that is known but not listed becomes a warning.

        `near`: name similar symbols for each that is unknown.
        """
        self._table.update(self.listed())
        selection = self._table.select(patterns, near)
        if selection.unknown:
            self._unlisted.update(symbol for symbol, row in self.known.items() if not row.status.listed)
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
        return f"{symbol} is {self.known[symbol].status.name.lower()} at the venue: left out until it is listed"

    # ---- requests ---------------------------------------------------------------------------------

    def lost(self) -> None:
        """The connection is gone: no answer is expected any more."""
        self.due_ns = self._failures = 0
        self._waiting.clear()
        self._given_up.clear()

    def request(self, now_ns: int, again: bool = False) -> None:
        """Request every list and updates to it; `again`: only what is missing, and late answers count as well."""
        if not again:
            self._security_of.clear()
            self._waiting.clear()
        for security, instruments in self._lists.items():
            if again and (instruments.complete or security in self._given_up):
                continue
            request_id = self._requests.new_id()
            self._security_of[request_id] = security
            instruments.expect(request_id, again)
            security_type = None if security == ALL else security
            body = fix.instrument_list_request(request_id, security_type=security_type, updates=1)
            self._requests.sent(self._send("x", body, now_ns), f"list {security}")
        self.due_ns = now_ns + self._pace.answer_within(self._failures)

    def tick(self, now_ns: int) -> None:
        """Request again what is overdue."""
        if self.due_ns and now_ns >= self.due_ns:
            self._failures += 1
            self._log.warning("no usable instrument list yet; requesting it again")
            self.request(now_ns, again=True)

    def rejected(self, security: str, why: str, now_ns: int) -> ListChange | None:
        """A request was rejected: repeat it later, with growing pauses.

        An extra list is done without in this connection; when it was the last to wait for, returns what is known.
        """
        name = "" if security == ALL else f" of {security}"
        if security in list(self._lists)[1:]:
            self._given_up.add(security)
            self._log.warning("instrument list%s %s; continuing without it", name, why)
            return self._joined() if self.complete else None
        self._failures += 1
        delay = SECOND + self._pace.patience(self._rng, self._failures + 1)
        self.due_ns = now_ns + delay
        self._log.warning("instrument list%s %s; requesting it again in %.1f s", name, why, delay / SECOND)
        return None

    # ---- answers ----------------------------------------------------------------------------------

    def on_message(self, fields: Fields, now_ns: int) -> ListChange | None:
        """Take in one 35=y; what it changed, None while fragments or lists are missing."""
        part = parse_list(fields)
        for error in part.errors:
            self.errors += 1
            self._log.warning("instrument list: %s", error)
        security = self._security_of.get(part.request_id, "")
        if part.result != 0:
            reason = RESULTS.get(part.result, f"answered 560={part.result}")
            return self.rejected(security or next(iter(self._lists)), reason, now_ns)
        whole = self.complete
        change = self._list_for(security, part.instruments).apply(part)
        if change is None or whole:
            return change
        if change.complete:
            name = f" of {security}" if len(self._lists) > 1 else ""
            self._log.info("instrument list%s: %d instruments", name, len(self._list_for(security, ()).known))
        self._waiting.append(change)
        return self._joined() if self.complete else None

    def _list_for(self, security: str, rows: Sequence[Instrument]) -> InstrumentList:
        """The list that a message belongs to: by its request, else the one that knows its symbols."""
        if security:
            return self._lists[security]
        lists = list(self._lists.values())
        return next((each for each in lists if any(row.symbol in each.known for row in rows)), lists[0])

    def _joined(self) -> ListChange:
        """The changes of all lists as one, once the last has arrived."""
        joined = ListChange([], [], [], complete=True)
        for change in self._waiting:
            joined.added += change.added
            joined.changed += change.changed
            joined.removed += change.removed
        self._waiting.clear()
        self.due_ns = self._failures = 0
        return joined
