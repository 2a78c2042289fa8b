"""One FIX service without I/O: connects its session, its handler and its subscriptions with each other.

Bytes, times and connection events go in; frames to send, journal events, book states and log lines come out.
The connector owns the socket, the feed owns the shared memory and the journal.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from kfix_md._entry import Cause, State
from kfix_md._handler import Handler
from kfix_md._state import TRUSTED
from kfix_md.config import ServiceSection
from kfix_md.errors import KfixError
from kfix_md.feed.event_log import log_event
from kfix_md.feed.lag import Lag
from kfix_md.feed.pacing import SECOND, Pace
from kfix_md.feed.receiving import Receiving
from kfix_md.feed.settings import session_config, subscription_spec
from kfix_md.feed.subscriptions import FAULTS, LASTING, Subscriptions, is_followed
from kfix_md.journal import events
from kfix_md.journal.events import JournalEvent
from kfix_md.log_events import EventLog
from kfix_md.session.fix import first_request_id
from kfix_md.session.machine import Session
from kfix_md.session.store import SequenceStore
from kfix_md.session.types import Application, Close, Request, SessionState
from kfix_md.trading_day import ROLLOVER_S

_PLANNED = (State.ROLLOVER, Cause.ROLLOVER)
_LOST = (State.DOWN, Cause.DISCONNECT)
_LEAVING = (State.DOWN, Cause.LEAVING)
_NOT_JOURNALED = (events.Released, events.Garbled)  # the handler journals releases; garbage is only counted
SYMBOL_ERRORS_MAX = 3  # errors of ours in messages of one symbol before it is left out
NAMED = 10  # symbols that a log line names


def cause_of(text: str) -> Cause:
    """Cause for a session's name of it ("lost", "rollover"...)."""
    return Cause.__members__.get(text.upper(), Cause.LOST)


class Service(Receiving, Application):
    """One [[service]] of the configuration while it runs.

    `connected`, `received`, `disconnected` and `tick` are its inputs; after each of them `output()` returns the
    bytes to write and `close_reason` is set when the connection has to be closed.
    """

    def __init__(
        self,
        section: ServiceSection,
        number: int,
        *,
        rollover_s: int = ROLLOVER_S,
        journal: Any = None,
        publisher: Any = None,
        store: SequenceStore | None = None,
        start_ns: int = 0,
        standby_for: int = -1,
        max_lag_s: float = 5.0,
    ) -> None:
        self.section, self.number = section, number
        self.name = section.name
        self.log = EventLog(logging.getLogger("kfix.feed"), {"service": self.name})
        self.journal, self.publisher = journal, publisher
        self.now_ns = start_ns
        self.unknown: list[str] = []  # complaints about names that the first instrument list does not contain
        self.gaps: Counter[str] = Counter()
        self.healed: list[tuple[str, str, float]] = []  # (cause, how, seconds)
        self.on_state: Callable[[Service, str, State], None] | None = None  # called by on_book, for a hot pair
        self.lag = Lag(int(max_lag_s * SECOND))
        self.on_lag: Callable[[Service], None] = Service._publish_lag  # called when `lag.over` changes
        self.connects = 0
        self.errors = 0  # internal errors, each of which cost a connection
        self.leaving = False
        self.since_ns = start_ns  # of the present session state
        self.verified_ns = 0  # all books verified in this connection
        self.states: Counter[State] = Counter()
        self._state_of: dict[str, State] = {}
        self._errors: Counter[str] = Counter()  # of ours, by symbol
        self._unverified_changed = False
        self._rules: Counter[str] = Counter()  # symbols for which a checksum rule was found
        self._open: dict[Any, tuple[str, int]] = {}  # gaps open: id -> (cause, opened)
        self._book_gaps: dict[str, int] = {}  # those that concern one book: symbol -> id
        self._resync = None
        self._left = True  # this connection delivers no longer, or there is none
        self._down = _LEAVING  # state and cause of its books from then on
        self.store, self._store_failed = store, False
        self.session = Session(session_config(section, rollover_s), self, numbers=store.load() if store else None)
        self.handler = Handler(
            checksum=section.checksum,
            level=section.level,
            session=self.session,
            session_number=number,
            journal=journal,
            publisher=publisher,
            listener=self,
            standby_for=standby_for,
        )
        self.session.bind(self.handler)
        self.subs = Subscriptions(
            subscription_spec(section),
            self.handler.books,
            self._send,
            pace=Pace(burst=section.batch, per_second=section.requests_per_s),
            emit=self.event,
            on_unknown=self.unknown.extend,
            first_id=first_request_id(start_ns),
            log=self.log,
        )
        self._bind()

    def attach_journal(self, journal: Any, now_ns: int) -> None:
        """Record everything from now on in a journal that could not be opened before."""
        self.journal = journal
        self.announce(now_ns)
        self.handler.record_to(journal, now_ns)

    # ---- inputs -----------------------------------------------------------------------------------

    def announce(self, now_ns: int) -> None:
        """Write the identity of this session into the journal, once per process."""
        s = self.section
        self.now_ns = now_ns
        self.event(
            events.SessionDescribed(
                number=self.number,
                service=s.name,
                level=s.level,
                host=s.host,
                port=s.port,
                sender=s.sender_comp_id,
                target=s.target_comp_id,
                depth=s.depth,
            )
        )

    def connected(self, now_ns: int, details: str = "") -> None:
        """The transport is up: send the Logon."""
        self.now_ns = self.since_ns = now_ns
        self.connects += 1
        self._left, self._down = False, _LEAVING
        self.log.info("connected to %s", details or self.section.host)
        self.event(events.Connected(details))
        self.handler.reset_stream()
        self.lag.connected()
        self.session.connected(now_ns)

    def disconnected(self, now_ns: int, reason: str) -> None:
        """The connection is gone, or could not be made."""
        self.now_ns = now_ns
        was_up = self.session.state != SessionState.OFF
        planned = self.session.rollover.armed(now_ns)
        self._down = _LOST
        self.session.disconnected(now_ns, reason)
        if not was_up:
            return
        self.since_ns = now_ns
        self.on_leaving(planned)
        self.handler.reset_stream()
        self._save()

    def failed(self, consequence: str) -> None:
        """Log and count the exception being handled: an internal error that costs a connection."""
        self.errors += 1
        self.log.exception("internal error; %s", consequence)

    def abandon(self, now_ns: int) -> None:
        """An internal error ended the connection, perhaps in the middle of `disconnected`: finish what that does."""
        self.now_ns = now_ns
        self.on_leaving(False)
        if self.session.state != SessionState.OFF:
            self.session.disconnected(now_ns, "internal error")
        self.handler.reset_stream()

    def stopped(self, ns: int) -> None:
        """The process did nothing for `ns`: its books are as old, until what has piled up is read."""
        if self.lag.stopped(ns):
            self._lag_changed()

    def _lag_changed(self) -> None:
        lag = self.lag
        if lag.over:
            limit_s = lag.limit_ns / SECOND
            self.log.error(
                "messages arrive %s late, more than max_lag_s = %g: readers do not trust the books", lag.text, limit_s
            )
        else:
            self.log.warning(
                "messages arrive in time again (%s); they were up to %.1f s late", lag.text, lag.max_ns / SECOND
            )
        self.on_lag(self)
        self.event(events.Lagging(lag.over, lag.lag_ns // 1_000_000))

    def _publish_lag(self) -> None:
        if self.publisher is not None:
            self.publisher.set_lagging(self.number, self.lag.over)

    def clock_stepped(self, step_ns: int) -> None:
        """The wall clock was stepped, by `step_ns` in sum since the start: for times of day only."""
        self.session.clock_stepped(step_ns)

    def leave(self, now_ns: int, by_venue: bool = False) -> None:
        """The connection is being closed, by us or `by_venue`: from now on it delivers nothing."""
        self.now_ns = now_ns
        if by_venue:
            self._down = _LOST
        self.on_leaving(self.session.rollover.armed(now_ns))

    def on_leaving(self, planned: bool) -> None:
        """The connection delivers no longer (Logout, closing, lost): void all that depends on it, once."""
        if self._left:
            return
        self._left, self.verified_ns, self._resync = True, 0, None
        try:
            self.session.interrupt(self.now_ns)  # before the books report it
            self._doubt()
            self.subs.lost()
        finally:  # an error of ours leaves no book live
            self._void(*(_PLANNED if planned else self._down))

    def tick(self, now_ns: int) -> None:
        """Time passed."""
        self.now_ns = now_ns
        if self.lag.tick():
            self._lag_changed()
        self.session.tick(now_ns)
        if self._unverified_changed:
            self._report_unverified()
        if self.session.state == SessionState.ON:
            self.subs.tick(now_ns)
        self._after(now_ns)
        self._save()

    def calm(self, until_ns: int) -> bool:
        """True when every book is verified and no request is due before `until_ns`."""
        if self._doubt_ns or not self.session.ready:
            return False
        due_ns = self.subs.next_due_ns()
        return due_ns is None or due_ns > until_ns

    def logout(self, now_ns: int) -> None:
        """Begin an orderly end of the session."""
        self.now_ns, self.leaving = now_ns, True
        self.session.logout(now_ns)

    def mistakes(self, section: ServiceSection) -> list[str]:
        """What is wrong with the symbols of a configuration that was read again."""
        return self.subs.mistakes(section.symbols)

    def reload(self, section: ServiceSection, now_ns: int) -> list[str]:
        """Follow the symbols of a configuration that was read again; returns complaints about them."""
        self.now_ns = now_ns
        complaints = self.subs.reload(section.symbols, now_ns)
        self._doubt()
        return complaints

    def output(self) -> bytes:
        """Bytes to write now, removed from the outbox; the numbers in them are stored first."""
        self._save()
        if not self.session.outbox:
            return b""
        data = b"".join(self.session.outbox)
        self.session.outbox.clear()
        return data

    def _save(self) -> None:
        if self.store is None or not (numbers := self.session.take_save(self.now_ns)):
            return
        try:
            self.store.save(*numbers)
        except OSError as error:  # without them the next process begins with 141=Y: no reason to end this session
            if not self._store_failed:
                self.log.error("sequence numbers cannot be stored: %s; a restart will begin with 141=Y", error)
            self._store_failed = True
        else:
            self._store_failed = False

    @property
    def close_reason(self) -> Close | None:
        """Why the connection has to be closed; None while it has not."""
        return self.session.close_reason

    def _after(self, now_ns: int) -> None:
        """Work that is due after a read or a tick."""
        while self.session.unsettled:
            self.handler.release(now_ns)
        if self._resync is not None and self.session.ready:
            cause, self._resync = self._resync, None
            self.subs.messages_lost(now_ns, cause)
        if self.subs.due(now_ns) and self.session.state == SessionState.ON:
            self.subs.pump(now_ns)
        if self._doubt_ns and self.session.ready and self.subs.answered():
            self._verified(now_ns)
        if self._gap_ended:
            self._gap_ended = False
            self._continue_gaps(now_ns)

    def _verified(self, now_ns: int) -> None:
        if not self.subs.listing.complete:
            return
        took, self._doubt_ns = (now_ns - self._doubt_ns) / SECOND, 0
        self.verified_ns = now_ns
        self.session.books_verified(now_ns)
        self.event(events.Verified())
        live = sum(self.states[state] for state in TRUSTED)
        self._report_unverified()
        self.log.info("all books good: %d books live after %.3f s", live, took)

    def _report_unverified(self) -> None:
        """Log how many books no known checksum rule fits. (Crossed ones wait for their next 5041.)"""
        self._unverified_changed = False
        symbols = sorted(
            symbol
            for symbol, state in self._state_of.items()
            if state is State.UNVERIFIED and self.handler.book_state(symbol)[1] is not Cause.CROSSED
        )
        if symbols:
            more = f" and {len(symbols) - NAMED} more" if len(symbols) > NAMED else ""
            self.log.warning(
                "%d books UNVERIFIED: 5041 of %s%s fits no known checksum rule; they are followed, but not live",
                len(symbols),
                ", ".join(symbols[:NAMED]),
                more,
            )

    def _doubt(self) -> None:
        self._doubt_ns = self._doubt_ns or self.now_ns

    def _void(self, state: State, cause: Cause) -> None:
        """Mark every book as unusable until its next snapshot."""
        self.subs.mark_all(state, cause)

    # ---- events of the session (Application) ------------------------------------------------------

    def on_ready(self) -> None:
        """Logged on with no gap open."""
        self.lag.answered(*self.session.logon_ns)
        self._doubt()
        self._resync = None
        self.subs.ready(self.now_ns)

    def on_message(self, msg_type: str, fields: Any, recv_ns: int) -> None:
        """35=y, Y, j, 3, h; nothing is subscribed any more while we leave, and a list takes long."""
        if not self.leaving:
            self.subs.on_message(msg_type, fields, recv_ns)

    def on_gap(self, first: int, last: int, cause: str) -> None:
        """Messages are missing: no book of this session can be trusted until the gap is closed."""
        self._doubt()
        self.subs.mark_all(State.GAP, cause_of(cause))

    def on_gap_closed(self) -> None:
        """Every missing message was replayed and applied: the handler's `fast` switch has ended GAP of its books."""

    def on_lost(self, first: int, last: int, cause: str) -> None:
        """Messages are lost for good: request new snapshots for every book, once the gap is closed."""
        self._doubt()
        self._resync = cause_of(cause)
        self._void(State.SYNCING, self._resync)

    def on_reset(self, cause: str) -> None:
        """The message numbers restarted inside the connection: subscriptions and books are void."""
        self._doubt()
        self._resync = None
        self._void(*(_PLANNED if cause == "rollover" else _LOST))
        self.subs.ready(self.now_ns)

    def on_requests_lost(self, requests: list[Request]) -> None:
        """The venue never received these requests."""
        self.subs.requests_lost(requests, self.now_ns)

    def on_event(self, now_ns: int, event: JournalEvent) -> None:
        """Complete, journal and log one session event."""
        if isinstance(event, events.GapOpened):
            event = dataclasses.replace(event, symbols=tuple(self.subs.all))
            self._open[event.id] = (str(event.cause), now_ns)
            self.gaps[str(event.cause)] += 1
        elif isinstance(event, events.GapClosed):
            self._heal(event.id, str(event.healed), now_ns)
            self._gap_ended = True
        elif isinstance(event, events.LoggedOn):
            self.since_ns = now_ns
        if not isinstance(event, _NOT_JOURNALED):
            self.event(event, now_ns)
        log_event(self.log, event, self.leaving)

    # ---- events of the handler --------------------------------------------------------------------

    def on_book(self, symbol: str, state: State, cause: Cause, seq: int, recv_ns: int) -> None:
        """A book changed its state."""
        was_followed = is_followed(self.state_of(symbol))
        self._count_state(symbol, state)
        now_ns = max(recv_ns, self.now_ns)
        self.event(events.BookChanged(symbol, state.name, cause.name, seq), now_ns)
        self._gap_of_book(symbol, state, cause, seq, now_ns, was_followed)
        self._unverified_changed |= state is State.UNVERIFIED
        self.subs.on_book(symbol, state, cause, now_ns)
        if self.on_state is not None:
            self.on_state(self, symbol, state)

    def _gap_of_book(self, symbol: str, state: State, cause: Cause, seq: int, now_ns: int, was_followed: bool) -> None:
        """A book that is not followed is a gap of its own, unless one of the session covers it."""
        if symbol in self._book_gaps:
            if is_followed(state) or state is State.INIT:
                self._close_book_gap(symbol, "unsubscribed" if state is State.INIT else "snapshot", now_ns)
        elif is_followed(state) or state is State.INIT:
            return
        elif cause in FAULTS | LASTING or (was_followed and not self._session_gaps()):
            self._open_book_gap(symbol, cause, seq, now_ns)

    def _session_gaps(self) -> int:
        """Number of open gaps that concern every book."""
        return len(self._open) - len(self._book_gaps)

    def _continue_gaps(self, now_ns: int) -> None:
        """A gap of the session is over: books that are not followed yet have one of their own from here on."""
        if self._session_gaps():
            return
        for sub in self.subs.all.values():
            state, cause, *_ = self.handler.book_state(sub.symbol) if sub.defined else (State.INIT, Cause.NONE)
            if sub.symbol not in self._book_gaps and not is_followed(state) and state is not State.INIT:
                self._open_book_gap(sub.symbol, cause, 0, now_ns)

    def _open_book_gap(self, symbol: str, cause: Cause, seq: int, now_ns: int) -> None:
        gap, reason = self.session.new_gap_id(now_ns), cause.name.lower() if cause else "lost"
        self._book_gaps[symbol], self._open[gap] = gap, (reason, now_ns)
        self.gaps[reason] += 1
        self.event(events.GapOpened(gap, seq or None, None, reason, (symbol,)), now_ns)

    def _close_book_gap(self, symbol: str, healed: str, now_ns: int) -> None:
        gap = self._book_gaps.pop(symbol)
        self._heal(gap, healed, now_ns)
        self.event(events.GapClosed(gap, healed), now_ns)

    def on_fault(self, symbol: str, error: Exception) -> None:
        """An error while a message of this symbol was applied: no room, or the third of ours, leaves the symbol out."""
        if isinstance(error, KfixError | MemoryError | OSError):
            self.subs.leave_out(symbol, str(error) or type(error).__name__, self.now_ns)
            return
        self._errors[symbol] += 1
        self.log.error("%s: message not applied: %r", symbol, error)
        if self._errors[symbol] >= SYMBOL_ERRORS_MAX:
            self.subs.leave_out(symbol, f"internal error: {error!r}", self.now_ns)

    def on_checksum_rule(self, rule: str, symbol: str, precisions: tuple[int, int] | None) -> None:
        """A symbol has shown which checksum rule applies; `precisions`: of the text, where not the instrument's."""
        row = self.subs.listing.known.get(symbol)
        if precisions is not None and (row is None or (row.price_precision, row.qty_precision) != precisions):
            self.log.warning(
                "%s: 5041 is computed with %d/%d decimals (rule %s), not with those of the instrument list",
                *(symbol, *precisions, rule),
            )
        elif not self._rules[rule]:
            self.log.info("checksum rule: %s (first found for %s)", rule, symbol)
        self._rules[rule] += 1
        of_price, of_qty = precisions or (None, None)
        self.event(events.ChecksumRule(rule, symbol, of_price, of_qty))

    def on_number(self, symbol: str, tag: int, text: str) -> None:
        """A number of the venue does not fit 64 bits at the symbol's precision; called once for each symbol."""
        self.log.warning(
            "%s: %s %s does not fit 64 bits at the precision of the instrument list; its book cannot be kept",
            symbol,
            {270: "price", 271: "quantity"}.get(tag, str(tag)),
            text,
        )

    def on_limit(self, symbol: str, limit: str) -> None:
        """The messages of this symbol would take more than a book may; it is void until its next snapshot."""
        self.log.error("%s: its book would take %s; it is void until its next snapshot", symbol, limit)

    def state_of(self, symbol: str) -> State:
        """State of this session's copy of a book; INIT when there is none."""
        return self._state_of.get(symbol, State.INIT)

    def _count_state(self, symbol: str, state: State) -> None:
        before = self._state_of.get(symbol)
        if before is not None:
            self.states[before] -= 1
        self._state_of[symbol] = state
        self.states[state] += 1

    def _send(self, msg_type: str, body: Any, now_ns: int) -> int:
        """Send a request and return its MsgSeqNum; 0 when the session is ending and nothing is sent."""
        if self.session.state != SessionState.ON:
            return 0
        return self.session.send(msg_type, body, now_ns)

    # ---- records ----------------------------------------------------------------------------------

    def event(self, event: JournalEvent, now_ns: int | None = None) -> None:
        """Append an event to the journal."""
        if self.journal is not None:
            self.journal.event(self.number, self.now_ns if now_ns is None else now_ns, event)

    def _heal(self, gap: Any, how: str, now_ns: int) -> None:
        if gap in self._open:
            cause, opened_ns = self._open.pop(gap)
            seconds = (now_ns - opened_ns) / SECOND
            self.healed.append((cause, how, seconds))
            del self.healed[:-1000]
            self.log.info("gap (%s) closed by %s after %.3f s", cause, how, seconds)

    def open_gaps(self) -> int:
        """Number of gaps that are still open."""
        return len(self._open)
