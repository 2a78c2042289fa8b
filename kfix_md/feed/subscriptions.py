"""Which symbol is asked for when: instrument list, subscriptions one by one, pacing, back-off and quarantine.

No socket, clock or loop: `Subscriptions` is told what happened and the time, and sends through a function.
Each MarketDataRequest (35=V) names one symbol under a 262 that was never used before, so that a reject,
an unsubscription or a fault touches that symbol alone.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from kfix_md._entry import Cause, State
from kfix_md.errors import KfixError
from kfix_md.feed.pacing import SECOND, Bucket, Counters, Pace, Phase, Subscription, SubscriptionSpec
from kfix_md.feed.requests import Fields, Requests, text_of
from kfix_md.feed.symbols import select
from kfix_md.instruments import RESULTS, Instrument, InstrumentList, ListChange, parse_list
from kfix_md.session import fix

#: causes for which a book asks to be subscribed to again
FAULTS = frozenset({Cause.CRC, Cause.CROSSED, Cause.MALFORMED, Cause.PRECISION})
#: 340 TradSesStatus in words
TRADING = {b"0": "unknown", b"1": "maintenance", b"2": "online", b"101": "cancel only", b"102": "post only"}


class Books(Protocol):
    """What is asked of a handler."""

    def define(self, symbol: str, price_precision: int, qty_precision: int) -> int: ...
    def subscribe(self, symbol: str, md_req_id: str, depth: int = 0) -> None: ...
    def unsubscribe(self, symbol: str, cause: Cause = Cause.UNSUBSCRIBED) -> None: ...
    def mark(self, symbol: str | None, state: State, cause: Cause) -> None: ...


class Subscriptions:
    """The symbols of one service over one session.

    `send(msg_type, body, now_ns)` sends a message and returns its MsgSeqNum. `emit(event)` records a
    session event (a dict with "type"). `on_refused(complaints)` hears of names that the first whole list
    does not settle.
    """

    def __init__(
        self,
        wish: SubscriptionSpec,
        books: Books,
        send: Callable[[str, fix.Body, int], int],
        *,
        pace: Pace | None = None,
        emit: Callable[[dict[str, Any]], None] = lambda event: None,
        on_refused: Callable[[list[str]], None] = lambda complaints: None,
        first_id: int = 1,
        log: logging.Logger | logging.LoggerAdapter[Any] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.wish, self.pace = wish, pace or Pace()
        self.instruments = InstrumentList()
        self.all: dict[str, Subscription] = {}
        self.counters = Counters()
        self.trading_status = ""
        self._books, self._send, self._emit, self._on_refused = books, send, emit, on_refused
        self._log = log or logging.getLogger("kfix.subscriptions")
        self._rng = rng or random.Random()
        self._requests, self._order = Requests(first_id), itertools.count()
        self._due: list[tuple[int, int, Subscription]] = []
        self._bucket = Bucket(self.pace.burst, self.pace.per_second)
        self._ready = False
        self._judged = False  # the names of the configuration were held against a whole list
        self._list_due_ns = 0  # when to ask for the list (again); 0: not waiting
        self._list_failures = 0

    # ---- what the session tells -------------------------------------------------------------------

    def ready(self, now_ns: int) -> None:
        """Logged on: nothing is subscribed, so ask for the list and, as it answers, for every symbol."""
        self.lost()
        self._ready = True
        self._list_failures = 0
        self._bucket.tokens, self._bucket.at_ns = float(self.pace.burst), now_ns
        self._ask_list(now_ns)
        if self.wish.spot:
            body = fix.trading_session_status_request(self._requests.new_id())
            self._requests.sent(self._send("g", body, now_ns), "trading session status")

    def lost(self) -> None:
        """The connection is gone and every subscription with it. (The books' states are the session's.)"""
        self._ready = False
        self._list_due_ns = 0
        self._requests.clear()
        self._due.clear()
        for sub in self.all.values():
            sub.phase, sub.md_req_id, sub.due_ns = Phase.WAITING, "", 0

    def resync(self, now_ns: int, cause: Cause, symbols: Iterable[str] | None = None) -> None:
        """Messages were lost for good: take new snapshots of these symbols (default all), without blame."""
        for symbol in list(self.all if symbols is None else symbols):
            sub = self.all.get(symbol)
            if sub is not None and self._ready:
                sub.cause = cause
                self._plan(sub, now_ns)
        self.pump(now_ns)

    def requests_lost(self, requests: Iterable[tuple[str, str]], now_ns: int) -> None:
        """The venue never saw these (MsgType, request id): make those that still matter again."""
        for msg_type, request_id in requests:
            sub = self._requests.of_id(request_id)
            if msg_type == "V" and sub is not None:
                self._plan(sub, now_ns)
            elif msg_type == "x" and self._list_due_ns:
                self._ask_list(now_ns, again=True)
        self.tick(now_ns)

    def on_message(self, msg_type: str, fields: Fields, now_ns: int) -> None:
        """An admin or application message that concerns requests: 35=y, Y, h, 3, j."""
        if msg_type == "y":
            self._on_list(fields, now_ns)
        elif msg_type == "h":
            self._on_trading_status(fields, now_ns)
        elif msg_type in ("Y", "3", "j"):
            self._on_refusal(msg_type, fields, now_ns)
        self.pump(now_ns)

    def on_book(self, symbol: str, state: State, cause: Cause, now_ns: int) -> None:
        """A book changed its state (the handler's listener). Sends at the next `pump`: a fault is told
        from inside the handler, in the middle of a message."""
        sub = self.all.get(symbol)
        if sub is None or not self._ready:
            return
        if state in (State.LIVE, State.EMPTY, State.HALTED):
            if sub.phase is Phase.REQUESTED:
                sub.phase, sub.live_ns, sub.due_ns = Phase.ACTIVE, now_ns, 0
                if sub.failures:
                    self._log.info("%s is %s again", symbol, state.name)
                if self._maintenance(symbol):
                    self._halt(sub)
        elif cause in FAULTS and sub.phase is not Phase.WAITING:
            self._fault(sub, cause, now_ns)

    def reload(self, patterns: Sequence[str], now_ns: int) -> list[str]:
        """Other patterns from now on; returns complaints about those that find nothing."""
        self.wish = SubscriptionSpec(
            tuple(patterns), self.wish.level, self.wish.depth, self.wish.trades, self.wish.spot
        )
        if not self.instruments.complete:
            return []
        complaints = self._follow(now_ns)
        self.pump(now_ns)
        return complaints

    def tick(self, now_ns: int) -> None:
        """Time passed: due requests, unanswered ones, the instrument list again."""
        if not self._ready:
            return
        if self._list_due_ns and now_ns >= self._list_due_ns:
            self._list_failures += 1
            self._log.warning("no usable instrument list yet; asking again")
            self._ask_list(now_ns, again=True)
        self.pump(now_ns)

    def next_due_ns(self) -> int | None:
        """When `tick` has something to do at the latest; None: nothing waits."""
        times = [self._due[0][0]] if self._due else []
        return min([*times, self._list_due_ns] if self._list_due_ns else times, default=None)

    def pending(self, blameless: bool = False) -> list[str]:
        """Symbols that are wanted and not live yet; `blameless`: without those that failed by themselves."""
        waiting = (sub for sub in self.all.values() if sub.phase in (Phase.WAITING, Phase.REQUESTED))
        return [sub.symbol for sub in waiting if not (blameless and sub.failures)]

    @property
    def due(self) -> bool:
        """Requests wait to be sent."""
        return bool(self._due)

    # ---- requests ---------------------------------------------------------------------------------

    def _ask_list(self, now_ns: int, again: bool = False) -> None:
        request_id = self._requests.new_id()
        self.instruments.expect(request_id, again)
        self._list_due_ns = now_ns + self.pace.answer_within(self._list_failures)
        self._requests.sent(self._send("x", fix.instrument_list_request(request_id, updates=1), now_ns), "list")

    def _plan(self, sub: Subscription, due_ns: int) -> None:
        sub.phase, sub.due_ns = Phase.WAITING, due_ns
        heapq.heappush(self._due, (due_ns, next(self._order), sub))

    def pump(self, now_ns: int) -> None:
        """Send what is due, as far as the pace allows."""
        while self._ready and self._due and self._due[0][0] <= now_ns:
            due_ns, _, sub = self._due[0]
            waits = sub.phase in (Phase.WAITING, Phase.REQUESTED) and sub.due_ns == due_ns
            stale = not waits or self.all.get(sub.symbol) is not sub
            if not stale and not self._bucket.take(now_ns):
                return
            heapq.heappop(self._due)
            if stale:
                continue
            if sub.phase is Phase.REQUESTED:
                self._unanswered(sub, now_ns)
            else:
                self._subscribe(sub, now_ns)

    def _unanswered(self, sub: Subscription, now_ns: int) -> None:
        self.counters.unanswered += 1
        sub.failures += 1
        self._log.warning("%s: no snapshot after %.0f s; asking again", sub.symbol, (now_ns - sub.asked_ns) / SECOND)
        self._plan(sub, now_ns + self.pace.patience(self._rng, sub.failures))

    def _request(self, sub: Subscription, now_ns: int, end: bool = False) -> int:
        body = fix.market_data_request(
            sub.md_req_id,
            [sub.symbol],
            depth=self.wish.depth,
            trades=self.wish.trades,
            level3=self.wish.level == "L3",
            unsubscribe=end,
        )
        return self._send("V", body, now_ns)

    def _close(self, sub: Subscription, now_ns: int) -> None:
        """End what is open at the venue; late messages under its 262 are ignored by the handler."""
        if sub.md_req_id:
            self._requests.sent(self._request(sub, now_ns, end=True), "unsubscribe")
            self._requests.closed(sub)
            sub.md_req_id = ""

    def _subscribe(self, sub: Subscription, now_ns: int) -> None:
        self._close(sub, now_ns)
        sub.md_req_id = self._requests.new_id()
        self._requests.opened(sub)
        self._books.subscribe(sub.symbol, sub.md_req_id, self.wish.depth)
        self._requests.sent(self._request(sub, now_ns), sub)
        sub.asked_ns = now_ns
        self.counters.subscribed += 1
        self._emit({"type": "subscribed", "symbol": sub.symbol, "md_req_id": sub.md_req_id})
        self._plan(sub, now_ns + self.pace.answer_within(sub.failures))
        sub.phase = Phase.REQUESTED

    # ---- faults of one symbol ---------------------------------------------------------------------

    def _fault(self, sub: Subscription, cause: Cause, now_ns: int) -> None:
        """Its book cannot be trusted: end the subscription and begin another, later each time it fails."""
        if sub.live_ns and now_ns - sub.live_ns > self.pace.calm_ns:
            sub.failures = 0
        sub.failures += 1
        sub.cause, sub.live_ns = cause, 0
        self.counters.faults[cause.name] = self.counters.faults.get(cause.name, 0) + 1
        self._close(sub, now_ns)
        delay = self.pace.patience(self._rng, sub.failures)
        # a coarser precision than ours shows as checksums that fail again behind a fresh snapshot
        suspect = (cause is Cause.PRECISION and sub.failures == 1) or (cause is Cause.CRC and sub.failures == 2)
        if suspect and not self._list_due_ns:
            self._log.warning("%s: %s; its precision may have changed: asking for the list", sub.symbol, cause.name)
            self._ask_list(now_ns)
        elif sub.failures == self.pace.quarantine_after:
            self._log.error(
                "%s: quarantined after %d faults in a row (%s); next try in %.1f s, then rarer",
                sub.symbol,
                sub.failures,
                cause.name,
                delay / SECOND,
            )
        else:
            self._log.warning(
                "%s: %s; new snapshot%s", sub.symbol, cause.name, f" in {delay / SECOND:.1f} s" if delay else ""
            )
        self._plan(sub, now_ns + delay)

    def _refuse(self, sub: Subscription, why: str, now_ns: int, at_once: bool = False) -> None:
        self.counters.rejected += 1
        sub.failures += 1
        self._requests.closed(sub)
        sub.md_req_id, sub.live_ns = "", 0
        # a refusal is rarely cured by haste: four steps of patience more than a fault
        delay = 0 if at_once and sub.failures < 3 else self.pace.patience(self._rng, sub.failures + 4)
        self._books.mark(sub.symbol, State.DOWN, Cause.REJECTED)
        self._log.warning(
            "%s: the venue refused the subscription: %s; again in %.0f s", sub.symbol, why, delay / SECOND
        )
        self._emit({"type": "refused", "symbol": sub.symbol, "why": why})
        self._plan(sub, now_ns + delay)

    def _on_refusal(self, msg_type: str, fields: Fields, now_ns: int) -> None:
        refusal = self._requests.refusal(msg_type, fields)
        what = refusal.what
        if isinstance(what, Subscription):
            if what.phase is Phase.REQUESTED:
                self._refuse(what, refusal.why, now_ns, at_once=refusal.duplicate)
        elif what == "list":
            self._retry_list(f"rejected: {refusal.why}", now_ns)
        elif msg_type != "Y":  # a Y that belongs to nothing is of a subscription ended long ago
            self._log.warning("the venue rejected %s (%s)", what or "a message of ours", refusal.why)

    # ---- instruments ------------------------------------------------------------------------------

    def _retry_list(self, why: str, now_ns: int) -> None:
        self._list_failures += 1
        delay = SECOND + self.pace.patience(self._rng, self._list_failures + 1)
        self._list_due_ns = now_ns + delay
        self._log.warning("instrument list %s; asking again in %.1f s", why, delay / SECOND)

    def _on_list(self, fields: Fields, now_ns: int) -> None:
        part = parse_list(fields)
        for error in part.errors:
            self.counters.list_errors += 1
            self._log.warning("instrument list: %s", error)
        if part.result != 0:
            self._retry_list(RESULTS.get(part.result, f"answered 560={part.result}"), now_ns)
            return
        change = self.instruments.apply(part)
        if change is None:
            return
        if change.complete:
            self._list_due_ns = self._list_failures = 0
            self._log.info("instrument list: %d instruments", len(self.instruments.known))
        self._on_change(change, now_ns)

    def _on_change(self, change: ListChange, now_ns: int) -> None:
        for row in change.changed:
            sub = self.all.get(row.symbol)
            if sub is not None:
                self._redefine(sub, row, now_ns)
        if not change.complete:
            for row in change.added:
                self._log.info("new instrument %s", row.symbol)
        complaints = self._follow(now_ns)
        names = [text for text in complaints if not text.startswith("pattern")]
        if change.complete and not self._judged:
            self._judged = True
            if names:
                self._on_refused(names)
        if change.complete:
            for text in complaints:
                self._log.warning("%s", text)

    def _redefine(self, sub: Subscription, row: Instrument, now_ns: int) -> None:
        """Precision or status of an instrument that we hold changed."""
        if sub.phase is Phase.HALTED and not row.status.halted:
            self._books.mark(sub.symbol, State.LIVE, Cause.NONE)  # the handler lifts its halt
        self._plan(sub, now_ns)  # before the handler tells us that this book left LIVE
        if not self._define(row):
            return
        if row.status.halted:
            self._halt(sub)
            self._log.warning("%s is in maintenance", row.symbol)
        else:
            self._log.info(
                "%s changed (precision %d/%d, %s); new snapshot",
                row.symbol,
                row.price_precision,
                row.qty_precision,
                row.status.name,
            )

    def _define(self, row: Instrument) -> bool:
        try:
            self._books.define(row.symbol, row.price_precision, row.qty_precision)
        except KfixError as error:
            self.counters.list_errors += 1
            self._log.error("%s cannot be kept: %s", row.symbol, error)
            return False
        return True

    def _follow(self, now_ns: int) -> list[str]:
        """Make the subscriptions those that the patterns ask for, given the instruments there are."""
        wanted, complaints = select(self.wish.patterns, self.instruments.listed())
        for symbol in self.all.keys() - set(wanted):
            self._drop(symbol, now_ns)
        for symbol in wanted:
            row = self.instruments.known[symbol]
            sub = self.all.get(symbol)
            if sub is None:
                if not self._define(row):
                    continue
                sub = self.all[symbol] = Subscription(symbol)
            elif sub.phase is not Phase.WAITING or sub.due_ns:
                continue  # on its way already
            else:
                self._define(row)
            self._plan(sub, now_ns)
        return complaints

    def _drop(self, symbol: str, now_ns: int) -> None:
        sub = self.all.pop(symbol)
        gone = symbol not in self.instruments.known or not self.instruments.known[symbol].status.listed
        self._log.info("%s: %s", symbol, "no longer listed" if gone else "no longer wanted")
        if self._ready:
            self._close(sub, now_ns)
        self._books.unsubscribe(symbol, Cause.STATUS if gone else Cause.UNSUBSCRIBED)

    def _maintenance(self, symbol: str) -> bool:
        row = self.instruments.known.get(symbol)
        return self.trading_status == "maintenance" or (row is not None and row.status.halted)

    def _halt(self, sub: Subscription) -> None:
        sub.phase, sub.due_ns = Phase.HALTED, 0
        self._books.mark(sub.symbol, State.HALTED, Cause.STATUS)

    # ---- the spot venue as a whole ----------------------------------------------------------------

    def _on_trading_status(self, fields: Fields, now_ns: int) -> None:
        found = dict(fields)
        if 567 in found:
            self._log.warning("trading session status refused: 567=%s", text_of(found[567]))
            return
        code = found.get(340, b"0")
        word, before = TRADING.get(code, f"340={text_of(code)}"), self.trading_status
        self.trading_status = word
        if word == before:
            return
        self._log.info("trading session: %s", word)
        self._emit({"type": "trading_status", "status": word})
        if code == b"1":
            for sub in self.all.values():
                if sub.phase is Phase.ACTIVE:
                    self._halt(sub)
        elif before == "maintenance":
            halted = [sub.symbol for sub in self.all.values() if sub.phase is Phase.HALTED]
            for symbol in halted:
                self._books.mark(symbol, State.LIVE, Cause.NONE)
            self.resync(now_ns, Cause.STATUS, halted)
