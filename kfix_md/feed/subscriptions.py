"""Subscribes the symbols of one service one by one: pacing, retries, back-off and quarantine.

There is no socket, clock or loop here: `Subscriptions` is called with events and the time, and sends through a
function. Each MarketDataRequest (35=V) names one symbol under a 262 that was never used before, so that a reject,
an unsubscription or a fault touches that symbol alone.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from kfix_md._entry import Cause, State
from kfix_md._state import is_trusted
from kfix_md.feed.left_out import SYMBOL_ERRORS, LeftOut
from kfix_md.feed.listing import Listing, Log, Send
from kfix_md.feed.pacing import SECOND, Pace, Phase, RequestCounters, Subscription, SubscriptionSpec
from kfix_md.feed.receiving import is_due
from kfix_md.feed.request_queue import Books, RequestQueue
from kfix_md.feed.requests import Fields, Requests
from kfix_md.feed.symbols import Selection
from kfix_md.feed.trading_status import MarketStatus
from kfix_md.instruments import Instrument, ListChange
from kfix_md.journal import events
from kfix_md.session import fix

#: causes for which a book is subscribed again
FAULTS = frozenset({Cause.CRC, Cause.CROSSED, Cause.MALFORMED, Cause.PRECISION})
#: causes that a new snapshot will hardly remove: it is requested rarely
LASTING = frozenset({Cause.NUMBER, Cause.IDS, Cause.LIMIT})


_FOLLOWED = tuple(is_trusted(state) or state in (State.HALTED, State.UNVERIFIED) for state in State)


def is_followed(state: State) -> bool:
    """Whether a book in this state holds its snapshot and every message since, be it trusted or not."""
    return _FOLLOWED[state]


_WAITS = (Phase.WAITING, Phase.REQUESTED)


def _waits(sub: Subscription | None) -> bool:
    """Whether a symbol waits for its snapshot, and its own requests never failed."""
    return sub is not None and sub.phase in _WAITS and not sub.failures


class Subscriptions:
    """The symbols of one service over one session.

    Parameters
    ----------
    spec
        What to subscribe.
    books
        The handler.
    send
        Sends a message and returns its MsgSeqNum.
    emit
        Records a session event.
    on_unknown
        Called once, with reasons why names are unknown to the first whole instrument list.
    first_id
        First request id; ids count up from it.
    """

    def __init__(
        self,
        spec: SubscriptionSpec,
        books: Books,
        send: Send,
        *,
        pace: Pace | None = None,
        emit: Callable[[events.JournalEvent], None] = lambda event: None,
        on_unknown: Callable[[list[str]], None] = lambda reasons: None,
        first_id: int = 1,
        log: Log | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.spec, self.pace = spec, pace or Pace()
        self.all: dict[str, Subscription] = {}
        self.counters = RequestCounters()
        self._trading = MarketStatus()
        self._books, self._send, self._emit, self._on_unknown = books, send, emit, on_unknown
        self._log = log or logging.getLogger("kfix.subscriptions")
        self._rng = rng or random.Random()
        self._requests = Requests(first_id)
        self.left_out = LeftOut(self._log, emit)
        self.listing = Listing(self._requests, send, self.pace, self._rng, self._log, spec.securities)
        self._queue = RequestQueue(
            spec,
            books,
            self._requests,
            send,
            self.pace,
            emit=emit,
            counters=self.counters,
            leave_out=self.leave_out,
            halted=self._maintenance,
            log=self._log,
            rng=self._rng,
        )
        self._ready = False
        self._later: tuple[str, ...] | None = (
            None  # patterns of a reload that no instrument list could be compared with yet
        )
        self._waiting: Subscription | None = None  # what `answered` saw last
        self._unseen: Iterator[Subscription] = iter(())  # and those after it
        self.judged = False  # the configuration's names were compared with a whole list

    # ---- events of the session ---------------------------------------------------------------------

    def ready(self, now_ns: int) -> None:
        """Logged on: nothing is subscribed, so request the list and, once it has come, every symbol."""
        self.lost()
        self._ready = True
        self._trading = MarketStatus()  # of another session: this one has not reported any
        self._queue.start(now_ns)
        self.listing.request(now_ns)
        self._ask_status(now_ns)

    def _ask_status(self, now_ns: int) -> None:
        if self.spec.spot:
            body = fix.trading_session_status_request(self._requests.new_id())
            self._requests.sent(self._send("g", body, now_ns), "trading session status")

    def lost(self) -> None:
        """The connection is gone and every subscription with it. (The books' states are the session's.)"""
        self._ready = False
        self.listing.lost()
        self._requests.clear()
        self._queue.clear()
        for sub in self.all.values():
            sub.phase, sub.md_req_id, sub.due_ns = Phase.WAITING, "", 0

    def messages_lost(self, now_ns: int, cause: Cause) -> None:
        """Messages of an unknown kind were lost for good: request everything that they may have contained."""
        if not self._ready:
            return
        self.listing.request(now_ns, again=True)
        self._ask_status(now_ns)
        self._resubscribe(list(self.all), now_ns, cause)

    def _resubscribe(self, symbols: Iterable[str], now_ns: int, cause: Cause) -> None:
        """Request new snapshots of these symbols."""
        for symbol in symbols:
            sub = self.all.get(symbol)
            if sub is not None and self._ready:
                sub.cause = cause
                self._queue.plan(sub, now_ns)
        self.pump(now_ns)

    def requests_lost(self, requests: Iterable[tuple[str, str]], now_ns: int) -> None:
        """The venue never received these (MsgType, request id): repeat those that still matter."""
        for msg_type, request_id in requests:
            sub = self._requests.of_id(request_id)
            if msg_type == "V" and sub is not None and sub.phase is Phase.REQUESTED:  # an answered V was received
                self._queue.plan(sub, now_ns)
            elif msg_type == "x" and self.listing.due_ns:
                self.listing.request(now_ns, again=True)
        self.tick(now_ns)

    def on_message(self, msg_type: str, fields: Fields, now_ns: int) -> None:
        """An admin or application message that concerns requests: 35=y, Y, h, 3, j."""
        if msg_type == "y":
            self._on_list(fields, now_ns)
        elif msg_type == "h":
            self._on_trading_status(fields, now_ns)
        elif msg_type in ("Y", "3", "j"):
            self._on_reject(msg_type, fields, now_ns)
        self.pump(now_ns)

    def on_book(self, symbol: str, state: State, cause: Cause, now_ns: int) -> None:
        """A book changed its state. The handler calls this in the middle of a message, so nothing is sent here."""
        sub = self.all.get(symbol)
        if sub is None or not self._ready:
            return
        if is_followed(state):
            if sub.phase is Phase.REQUESTED:
                sub.phase, sub.live_ns, sub.due_ns = Phase.ACTIVE, now_ns, 0
                self.left_out.discard(symbol)
                if sub.failures:
                    self._log.info("%s is %s again", symbol, state.name)
                if self._maintenance(symbol):
                    self._halt(sub)
        elif cause in FAULTS | LASTING and sub.phase not in (Phase.WAITING, Phase.LEFT_OUT):
            self._fault(sub, cause, now_ns)

    def mistakes(self, patterns: Sequence[str]) -> list[str]:
        """Why names in other patterns mean no instrument, those left out that are wrong in the present ones too.

        Nothing is known, and nothing wrong, before the first whole instrument list.
        """
        if not self.listing.complete:
            return []
        known = self.listing.select(self.spec.patterns, near=False).unknown
        unknown = self.listing.select(patterns).unknown
        return [reason for name, reason in unknown.items() if name not in known]

    def reload(self, patterns: Sequence[str], now_ns: int) -> list[str]:
        """Follow other patterns from now on; returns what is wrong with them.

        Without a whole instrument list that is decided when it comes: `mistakes` could not see one.
        """
        self._later = None if self.listing.complete else tuple(patterns)
        if self._later is not None:
            self._log.info("symbols read again: they are compared with the instrument list when it comes")
            return []
        self.spec = replace(self.spec, patterns=tuple(patterns))
        selection = self._follow(now_ns)
        self.pump(now_ns)
        return [*selection.warnings, *selection.unknown.values()]

    def tick(self, now_ns: int) -> None:
        """Time passed: send due requests, repeat unanswered ones."""
        if not self._ready:
            return
        self.listing.tick(now_ns)
        self.pump(now_ns)

    def next_due_ns(self) -> int | None:
        """When `tick` has work at the latest; None: nothing waits."""
        times = (self._queue.due_ns, self.listing.due_ns or None)
        return min((due_ns for due_ns in times if due_ns is not None), default=None)

    def mark_all(self, state: State, cause: Cause) -> None:
        """Mark every book that the handler knows; a symbol that it could not define has none."""
        for sub in self.all.values():
            if sub.defined:
                self._books.mark(sub.symbol, state, cause)

    def pending(self) -> list[str]:
        """Symbols that are not live yet."""
        return [sub.symbol for sub in self.all.values() if sub.phase in _WAITS]

    def answered(self) -> bool:
        """Whether every symbol is live whose own requests never failed.

        Called after each read: it goes on from the symbol that was waiting at the last call, so that thousands of
        snapshots, each in a read of its own, do not look at all symbols each time.
        """
        if _waits(self._waiting):
            return False
        self._waiting = next(filter(_waits, self._unseen), None)
        if self._waiting is None:  # from the start: one that was passed may wait again
            self._unseen = iter(list(self.all.values()))
            self._waiting = next(filter(_waits, self._unseen), None)
        return self._waiting is None

    @property
    def requests(self) -> list[tuple[int, int, Subscription]]:
        """What waits until its time has come, the earliest (int ns) first: always the same list object."""
        return self._queue.waiting

    def due(self, now_ns: int) -> bool:
        """True when a request is to be sent now, or its answer has not come in time."""
        return is_due(self._queue.waiting, now_ns)

    @property
    def trading_status(self) -> str:
        """Status of the spot market as text, "" while unknown."""
        return self._trading.text

    def pump(self, now_ns: int) -> None:
        """Send what is due, as far as the pace allows."""
        if self._ready:
            self._queue.pump(now_ns)
        self.left_out.report()

    # ---- faults of one symbol ---------------------------------------------------------------------

    def leave_out(self, symbol: str, reason: str, now_ns: int) -> None:
        """Serve this symbol no longer in this connection; the others go on."""
        sub = self.all.get(symbol)
        if sub is None:
            return
        if self._ready:
            self._queue.close(sub, now_ns)
        sub.phase, sub.due_ns = Phase.LEFT_OUT, 0
        self.left_out.add(symbol, reason)

    def _fault(self, sub: Subscription, cause: Cause, now_ns: int) -> None:
        """The book cannot be trusted: subscribe again under a new id, after a pause that grows with each failure."""
        if sub.live_ns and now_ns - sub.live_ns > self.pace.calm_ns:
            sub.failures = 0
        sub.failures += 1
        sub.cause, sub.live_ns = cause, 0
        self.counters.faults[cause.name] = self.counters.faults.get(cause.name, 0) + 1
        self._queue.close(sub, now_ns)
        delay = self.pace.patience(self._rng, sub.failures)
        if cause in LASTING:
            delay = max(delay, self.pace.longest_retry_ns)
        # a precision that became coarser shows as checksums that fail again after a new snapshot
        suspect = (cause is Cause.PRECISION and sub.failures == 1) or (cause is Cause.CRC and sub.failures == 2)
        if suspect and not self.listing.due_ns:
            self._log.warning(
                "%s: %s; requesting the instrument list: has its precision changed?", sub.symbol, cause.name
            )
            self.listing.request(now_ns)
        elif sub.failures == self.pace.quarantine_after:
            self._log.error(
                "%s: quarantined after %d faults in a row (%s); next attempt in %.1f s, then less often",
                sub.symbol,
                sub.failures,
                cause.name,
                delay / SECOND,
            )
        else:
            self._log.warning(
                "%s: %s; new snapshot%s", sub.symbol, cause.name, f" in {delay / SECOND:.1f} s" if delay else ""
            )
        self._queue.plan(sub, now_ns + delay)

    def _rejected(self, sub: Subscription, why: str, now_ns: int, at_once: bool = False) -> None:
        self.counters.rejected += 1
        sub.failures += 1
        self._queue.ended(sub)
        sub.live_ns = 0
        # a retry rarely cures a reject: four steps more patience than after a fault
        delay = 0 if at_once and sub.failures < 3 else self.pace.patience(self._rng, sub.failures + 4)
        self._books.mark(sub.symbol, State.DOWN, Cause.REJECTED)
        self._log.warning(
            "%s: the venue rejected the subscription: %s; next attempt in %.0f s", sub.symbol, why, delay / SECOND
        )
        self._emit(events.Refused(sub.symbol, why))
        self._queue.plan(sub, now_ns + delay)

    def _on_reject(self, msg_type: str, fields: Fields, now_ns: int) -> None:
        reject = self._requests.reject(msg_type, fields)
        what = reject.what
        if isinstance(what, Subscription):
            if what.phase is Phase.REQUESTED:
                self._rejected(what, reject.why, now_ns, at_once=reject.duplicate)
        elif what is not None and what.startswith("list "):
            change = self.listing.rejected(what.removeprefix("list "), f"rejected: {reject.why}", now_ns)
            if change is not None:
                self._on_change(change, now_ns)
        elif msg_type != "Y":  # a Y that belongs to nothing is of a subscription ended long ago
            self._log.warning("the venue rejected %s (%s)", what or "a message of ours", reject.why)

    # ---- instruments ------------------------------------------------------------------------------

    def _on_list(self, fields: Fields, now_ns: int) -> None:
        change = self.listing.on_message(fields, now_ns)
        if change is not None:
            self._on_change(change, now_ns)

    def _on_change(self, change: ListChange, now_ns: int) -> None:
        for row in change.changed:
            sub = self.all.get(row.symbol)
            if sub is not None and sub.phase is not Phase.LEFT_OUT:
                self._redefine(sub, row, now_ns)
        if change.complete:
            self._adopt_later()
            self._judge(self._follow(now_ns))
        elif change.added or change.removed:
            for row in change.added:
                self._log.info("new instrument %s", row.symbol)
            self._follow(now_ns, near=False)

    def _adopt_later(self) -> None:
        """Follow the patterns of a reload that came before this list, unless there is a mistake in them."""
        later, self._later = self._later, None
        if later is None:
            return
        if wrong := self.mistakes(later):
            self._log.error("configuration not reloaded, nothing changed: %s", "; ".join(wrong))
        else:
            self.spec = replace(self.spec, patterns=later)

    def _judge(self, selection: Selection) -> None:
        """Report what is wrong with the patterns, after every whole list."""
        for text in (*selection.warnings, *selection.unknown.values()):
            self._log.warning("%s", text, extra={"event": "symbols_warning"})
        if not self.judged:
            self.judged = True
            if selection.unknown:
                self._on_unknown(list(selection.unknown.values()))

    def _redefine(self, sub: Subscription, row: Instrument, now_ns: int) -> None:
        """Precision or status of a subscribed instrument changed."""
        if sub.phase is Phase.HALTED and not self._maintenance(row.symbol):
            self._books.mark(sub.symbol, State.LIVE, Cause.NONE)  # the handler lifts its halt
        self._queue.plan(sub, now_ns)  # before the handler reports that this book left LIVE
        if not self._define(row, now_ns):
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

    def _define(self, row: Instrument, now_ns: int) -> bool:
        try:
            self._books.define(row.symbol, row.price_precision, row.qty_precision)
        except SYMBOL_ERRORS as error:
            self.leave_out(row.symbol, str(error) or type(error).__name__, now_ns)
            return False
        self.all[row.symbol].defined = True
        return True

    def _follow(self, now_ns: int, near: bool = True) -> Selection:
        """Subscribe what the patterns select and drop the rest."""
        selection = self.listing.select(self.spec.patterns, near)
        known = self.listing.known
        for symbol in self.all.keys() - set(selection.symbols):
            self._drop(symbol, now_ns)
        for symbol in selection.symbols:
            sub = self.all.get(symbol)
            if sub is None:
                sub = self.all[symbol] = Subscription(symbol)
            elif sub.phase is not Phase.WAITING or sub.due_ns:
                continue  # requested already
            if self._define(known[symbol], now_ns):
                self._queue.plan(sub, now_ns)
        return selection

    def _drop(self, symbol: str, now_ns: int) -> None:
        sub = self.all.pop(symbol)
        left_out, sub.phase = sub.phase is Phase.LEFT_OUT, Phase.ENDED
        self.left_out.discard(symbol)
        row = self.listing.known.get(symbol)
        gone = row is None or not row.status.listed
        self._log.info("%s: %s", symbol, "no longer listed" if gone else "no longer selected")
        if self._ready:
            self._queue.close(sub, now_ns)
        if sub.defined and not left_out:
            self._books.unsubscribe(symbol, Cause.STATUS if gone else Cause.UNSUBSCRIBED)

    def _maintenance(self, symbol: str) -> bool:
        row = self.listing.known.get(symbol)
        return self._trading.maintenance or (row is not None and row.status.halted)

    def _halt(self, sub: Subscription) -> None:
        sub.phase, sub.due_ns = Phase.HALTED, 0
        self._books.mark(sub.symbol, State.HALTED, Cause.STATUS)

    # ---- the spot venue as a whole ----------------------------------------------------------------

    def _on_trading_status(self, fields: Fields, now_ns: int) -> None:
        status = self._trading
        text, maintenance = status.text, status.maintenance
        if reason := status.on_message(fields):
            self._log.warning("trading session status rejected: %s", reason)
        if status.text == text:
            return
        self._log.info("trading session: %s", status.text)
        self._emit(events.TradingStatus(status.text))
        if status.maintenance:
            for sub in self.all.values():
                if sub.phase is Phase.ACTIVE:
                    self._halt(sub)
        elif maintenance:
            traded = [sub for sub in self.all.values() if not self._maintenance(sub.symbol)]
            halted = [sub.symbol for sub in traded if sub.phase is Phase.HALTED]
            for sub in traded:
                if sub.phase in (Phase.HALTED, Phase.REQUESTED):  # a snapshot may be on its way to a halted book
                    self._books.mark(sub.symbol, State.LIVE, Cause.NONE)
            self._resubscribe(halted, now_ns, Cause.STATUS)
