"""Sends subscription requests (35=V) when they are due, as fast as the pace allows, and repeats unanswered ones."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Protocol

from kfix_md._entry import Cause, State
from kfix_md.feed.left_out import SYMBOL_ERRORS
from kfix_md.feed.listing import Log, Send
from kfix_md.feed.pacing import SECOND, Bucket, Pace, Phase, RequestCounters, Subscription, SubscriptionSpec
from kfix_md.feed.requests import Requests
from kfix_md.journal.events import JournalEvent, Subscribed
from kfix_md.session import fix


class Books(Protocol):
    """The part of a handler's books (Symbols) that subscriptions use."""

    def define(self, symbol: str, price_precision: int, qty_precision: int) -> int: ...
    def subscribe(self, symbol: str, md_req_id: str, depth: int = 0, halted: bool = False) -> None: ...
    def end_request(self, symbol: str) -> None: ...
    def unsubscribe(self, symbol: str, cause: Cause = Cause.UNSUBSCRIBED) -> None: ...
    def mark(self, symbol: str | None, state: State, cause: Cause) -> None: ...


class RequestQueue:
    """Subscriptions by the time their next request is due. A subscription that is in phase ENDED is skipped."""

    def __init__(
        self,
        spec: SubscriptionSpec,
        books: Books,
        requests: Requests,
        send: Send,
        pace: Pace,
        counters: RequestCounters,
        *,
        emit: Callable[[JournalEvent], None],
        leave_out: Callable[[str, str, int], None],
        halted: Callable[[str], bool],
        log: Log,
        rng: random.Random,
    ) -> None:
        self._spec, self._books, self._requests, self._send, self._pace = spec, books, requests, send, pace
        self._emit, self._counters, self._log, self._rng = emit, counters, log, rng
        self._leave_out, self._halted = leave_out, halted
        self.waiting: list[tuple[int, int, Subscription]] = []
        self._order = itertools.count()
        self._bucket = Bucket(pace.burst, pace.per_second)

    @property
    def due_ns(self) -> int | None:
        """When the first request is due; None: none waits."""
        return self.waiting[0][0] if self.waiting else None

    def start(self, now_ns: int) -> None:
        """A session begins: a whole burst may go out."""
        self._bucket.tokens, self._bucket.at_ns = float(self._pace.burst), now_ns

    def clear(self) -> None:
        """The connection is gone: forget what was due."""
        self.waiting.clear()

    def plan(self, sub: Subscription, due_ns: int) -> None:
        """Subscribe at `due_ns`."""
        self._push(sub, due_ns, Phase.WAITING)

    def pump(self, now_ns: int) -> None:
        """Send what is due, as far as the pace allows."""
        while self.waiting and self.waiting[0][0] <= now_ns:
            due_ns, _, sub = self.waiting[0]
            valid = sub.phase in (Phase.WAITING, Phase.REQUESTED) and sub.due_ns == due_ns
            if valid and not self._bucket.take(now_ns):
                return
            heapq.heappop(self.waiting)
            if not valid:
                continue
            if sub.phase is Phase.REQUESTED:
                self._unanswered(sub, now_ns)
            else:
                self._subscribe(sub, now_ns)

    def close(self, sub: Subscription, now_ns: int) -> None:
        """Unsubscribe if subscribed; the handler ignores late messages under the old 262."""
        if sub.md_req_id:
            self._requests.sent(self._request(sub, now_ns, end=True), "unsubscribe")
            self.ended(sub)

    def ended(self, sub: Subscription) -> None:
        """Nothing of its present 262 counts any more: a snapshot on its way would begin a book without updates."""
        self._requests.closed(sub)
        self._books.end_request(sub.symbol)
        sub.md_req_id = ""

    def _push(self, sub: Subscription, due_ns: int, phase: Phase) -> None:
        sub.phase, sub.due_ns = phase, due_ns
        heapq.heappush(self.waiting, (due_ns, next(self._order), sub))

    def _subscribe(self, sub: Subscription, now_ns: int) -> None:
        self.close(sub, now_ns)
        request_id = self._requests.new_id()
        try:
            self._books.subscribe(sub.symbol, request_id, self._spec.book_depth, self._halted(sub.symbol))
        except SYMBOL_ERRORS as error:
            self._leave_out(sub.symbol, str(error) or type(error).__name__, now_ns)
            return
        sub.md_req_id = request_id
        self._requests.opened(sub)
        self._requests.sent(self._request(sub, now_ns), sub)
        sub.requested_ns = now_ns
        self._counters.subscribed += 1
        self._emit(Subscribed(sub.symbol, sub.md_req_id))
        self._push(sub, now_ns + self._pace.answer_within(sub.failures), Phase.REQUESTED)

    def _unanswered(self, sub: Subscription, now_ns: int) -> None:
        self._counters.unanswered += 1
        sub.failures += 1
        waited_s = (now_ns - sub.requested_ns) / SECOND
        self._log.warning("%s: no snapshot after %.0f s; requesting it again", sub.symbol, waited_s)
        self.plan(sub, now_ns + self._pace.patience(self._rng, sub.failures))

    def _request(self, sub: Subscription, now_ns: int, end: bool = False) -> int:
        body = fix.market_data_request(
            sub.md_req_id,
            [sub.symbol],
            depth=self._spec.depth,
            trades=self._spec.trades,
            level3=self._spec.level == "L3",
            unsubscribe=end,
        )
        return self._send("V", body, now_ns)
