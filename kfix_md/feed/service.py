"""One FIX service as a whole without I/O: session, handler and subscriptions, and what each tells the others.

Bytes, times and the fate of the connection go in; frames to send, journal events, book states and log lines
come out. The connector owns the socket, the feed owns the shared memory and the journal.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from kfix_md._entry import Cause, State
from kfix_md._handler import Handler
from kfix_md.config import ServiceSection
from kfix_md.feed.checks import read_secret
from kfix_md.feed.pacing import SECOND, Pace, SubscriptionSpec, trusted
from kfix_md.feed.subscriptions import FAULTS, Subscriptions
from kfix_md.session import Application, Close, Session, SessionConfig, SessionState
from kfix_md.session.store import SequenceStore
from kfix_md.trading_day import ROLLOVER_S

_PLANNED = (State.ROLLOVER, Cause.ROLLOVER)
_UNPLANNED = (State.DOWN, Cause.DISCONNECT)
_QUIET = frozenset({"released", "garbled"})  # the handler journals releases itself; garbage is counted


def cause_of(text: str) -> Cause:
    """The Cause of a session's word for one ("lost", "rollover"...)."""
    return Cause.__members__.get(text.upper(), Cause.LOST)


class Service(Application):
    """One [[service]] of the configuration at work.

    `connected`, `received`, `disconnected` and `tick` are its inputs; after each of them `output()` holds the
    bytes to be written and `close_reason` says whether the connection is to be ended.
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
    ) -> None:
        self.section, self.number = section, number
        self.name = section.name
        self.log = logging.LoggerAdapter(logging.getLogger("kfix.feed"), {"service": self.name})
        self.journal, self.publisher = journal, publisher
        self.now_ns = start_ns
        self.unknown: list[str] = []  # names that the first instrument list does not settle
        self.gaps: Counter[str] = Counter()
        self.healed: list[tuple[str, str, float]] = []  # (cause, how, seconds), for the demo and metrics
        self.on_state: Callable[[Service, str, State], None] | None = None  # a hot pair listens
        self.connects = 0
        self.leaving = False
        self.since_ns = start_ns  # of the present session state
        self.verified_ns = 0  # all books verified in this connection
        self.states: Counter[State] = Counter()
        self._state_of: dict[str, State] = {}
        self._open: dict[Any, tuple[str, int]] = {}  # gaps open: id -> (cause, opened)
        self._book_gaps: dict[str, int] = {}
        self._resync: Cause | None = None
        self._doubt_ns = 0  # since when not all books are known to be good; 0: they are
        self.session = Session(session_config(section, rollover_s), self, store=store)
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
            self.handler,
            self._send,
            pace=Pace(burst=section.batch, per_second=section.requests_per_s),
            emit=self.event,
            on_unknown=self.unknown.extend,
            first_id=max(1, start_ns // SECOND),
            log=self.log,
        )

    # ---- inputs -----------------------------------------------------------------------------------

    def announce(self, now_ns: int) -> None:
        """Write who this session is into the journal, once per process."""
        s = self.section
        self.now_ns = now_ns
        self.event(
            {
                "type": "session",
                "number": self.number,
                "service": s.name,
                "level": s.level,
                "host": s.host,
                "port": s.port,
                "sender": s.sender_comp_id,
                "target": s.target_comp_id,
            }
        )

    def connected(self, now_ns: int, details: str = "") -> None:
        """The transport is up: the Logon goes out."""
        self.now_ns = self.since_ns = now_ns
        self.connects += 1
        self.log.info("connected to %s", details or self.section.host)
        self.event({"type": "connected", "details": details})
        self.handler.reset_stream()
        self.session.connected(now_ns)

    def received(self, n: int, now_ns: int) -> bool:
        """`n` bytes were read into `handler.get_buffer()`; True when there is something to write, or to end."""
        session, self.now_ns = self.session, now_ns
        if self.handler.buffer_updated(n, now_ns):
            session.last_recv_ns = now_ns
        if session.unsettled or self._doubt_ns or self._resync is not None or self.subs.due:
            self._after(now_ns)
        return bool(session.outbox) or session.close_reason is not None

    def disconnected(self, now_ns: int, reason: str) -> None:
        """The transport is gone, or could not be made."""
        self.now_ns = now_ns
        was_up = self.session.state != SessionState.OFF
        planned = self.session.rollover.armed(now_ns)
        self.session.disconnected(now_ns, reason)
        if not was_up:
            return
        self.since_ns, self.verified_ns = now_ns, 0
        self._resync = None
        self._doubt()
        self.subs.lost()
        self.handler.reset_stream()
        self._void(*(_PLANNED if planned else _UNPLANNED))

    def tick(self, now_ns: int) -> None:
        """Time passed."""
        self.now_ns = now_ns
        self.session.tick(now_ns)
        if self.session.state == SessionState.ON:
            self.subs.tick(now_ns)
        self._after(now_ns)

    def calm(self, until_ns: int) -> bool:
        """Nothing is open or doubtful, and no request is due before then."""
        if self._doubt_ns or not self.session.ready:
            return False
        due_ns = self.subs.next_due_ns()
        return due_ns is None or due_ns > until_ns

    def logout(self, now_ns: int) -> None:
        """Begin to leave in order."""
        self.now_ns, self.leaving = now_ns, True
        self.session.logout(now_ns)

    def reload(self, section: ServiceSection, now_ns: int) -> list[str]:
        """Take other symbols from a configuration read again; returns complaints about them."""
        self.now_ns = now_ns
        complaints = self.subs.reload(section.symbols, now_ns)
        self._doubt()
        return complaints

    def output(self) -> bytes:
        """Take the bytes to be written now."""
        if not self.session.outbox:
            return b""
        data = b"".join(self.session.outbox)
        self.session.outbox.clear()
        return data

    @property
    def close_reason(self) -> Close | None:
        """Why the connection is to be ended, None while it is not."""
        return self.session.close_reason

    def _after(self, now_ns: int) -> None:
        """What is due once a read or a tick has been worked through."""
        while self.session.unsettled:
            self.handler.release(now_ns)
        if self._resync is not None and self.session.ready:
            cause, self._resync = self._resync, None
            self.subs.resync(now_ns, cause)
        if self.subs.due and self.session.state == SessionState.ON:
            self.subs.pump(now_ns)
        if self._doubt_ns and self.session.ready and not self.subs.pending(without_failed=True):
            self._verified(now_ns)

    def _verified(self, now_ns: int) -> None:
        if not self.subs.instruments.complete:
            return
        took, self._doubt_ns = (now_ns - self._doubt_ns) / SECOND, 0
        self.verified_ns = now_ns
        self.session.books_verified(now_ns)
        self.event({"type": "verified"})
        live = self.states[State.LIVE] + self.states[State.EMPTY]
        self.log.info("%d books good after %.3f s", live, took)

    def _doubt(self) -> None:
        self._doubt_ns = self._doubt_ns or self.now_ns

    def _void(self, state: State, cause: Cause) -> None:
        """No book may be used, nor changed, before its next snapshot."""
        for sub in self.subs.all.values():
            self.handler.mark(sub.symbol, state, cause)

    # ---- what the session tells (Application) -----------------------------------------------------

    def on_ready(self) -> None:
        """Logged on with no gap open."""
        self._doubt()
        self._resync = None
        self.subs.ready(self.now_ns)

    def on_message(self, msg_type: str, fields: Any, recv_ns: int) -> None:
        """35=y, Y, j, 3, h."""
        self.subs.on_message(msg_type, fields, recv_ns)

    def on_gap(self, first: int, last: int, cause: str) -> None:
        """Nothing of this session is to be trusted until the gap is closed."""
        self._doubt()
        for sub in self.subs.all.values():
            self.handler.mark(sub.symbol, State.GAP, cause_of(cause))

    def on_gap_closed(self) -> None:
        """Every message was replayed and applied: the books that were kept are whole again."""
        if self._resync is not None:  # not those that lost something before: snapshots are on the way
            return
        for sub in self.subs.all.values():
            if self._state_of.get(sub.symbol) is State.GAP:
                self.handler.mark(sub.symbol, State.LIVE, Cause.NONE)

    def on_lost(self, first: int, last: int, cause: str) -> None:
        """Messages will never come: new snapshots for every book, once the numbering is whole again."""
        self._doubt()
        self._resync = cause_of(cause)
        self._void(State.SYNCING, self._resync)

    def on_reset(self, cause: str) -> None:
        """New numbering inside the connection: subscriptions and books are void."""
        self._doubt()
        self._resync = None
        self._void(*(_PLANNED if cause == "rollover" else _UNPLANNED))
        self.subs.ready(self.now_ns)

    def on_requests_lost(self, requests: list[tuple[str, str]]) -> None:
        """The venue never saw these requests."""
        self.subs.requests_lost(requests, self.now_ns)

    def on_event(self, now_ns: int, event: dict[str, Any]) -> None:
        """A session event: completed, journaled, told to the operator."""
        kind = event["type"]
        if kind == "gap_open":
            event["symbols"] = list(self.subs.all)
            self._open[event["id"]] = (event["cause"], now_ns)
            self.gaps[event["cause"]] += 1
        elif kind == "gap_close":
            self._heal(event["id"], event["healed"], now_ns)
        elif kind == "logged_on":
            self.since_ns = now_ns
        if kind not in _QUIET:
            self.event(event, now_ns)
        tell(self.log, event, self.leaving)

    # ---- what the handler tells -------------------------------------------------------------------

    def on_book(self, symbol: str, state: State, cause: Cause, seq: int, recv_ns: int) -> None:
        """A book changed its state."""
        self._count_state(symbol, state)
        now_ns = max(recv_ns, self.now_ns)
        self.event({"type": "book", "symbol": symbol, "state": state.name, "cause": cause.name, "seq": seq}, now_ns)
        if cause in FAULTS and not trusted(state) and symbol not in self._book_gaps:
            gap, word = self.session.new_gap_id(now_ns), cause.name.lower()
            self._book_gaps[symbol], self._open[gap] = gap, (word, now_ns)
            self.gaps[word] += 1
            self.event(
                {"type": "gap_open", "id": gap, "first": seq, "last": None, "cause": word, "symbols": [symbol]}, now_ns
            )
        elif trusted(state) and symbol in self._book_gaps:
            gap = self._book_gaps.pop(symbol)
            self._heal(gap, "snapshot", now_ns)
            self.event({"type": "gap_close", "id": gap, "healed": "snapshot"}, now_ns)
        self.subs.on_book(symbol, state, cause, now_ns)
        if self.on_state is not None:
            self.on_state(self, symbol, state)

    def on_checksum_rule(self, rule: str) -> None:
        """The stream has shown which checksum rule holds."""
        self.log.info("checksum rule found: %s", rule)
        self.event({"type": "checksum_rule", "rule": rule})

    def state_of(self, symbol: str) -> State:
        """The state of our copy of a book; INIT when there is none."""
        return self._state_of.get(symbol, State.INIT)

    def _count_state(self, symbol: str, state: State) -> None:
        before = self._state_of.get(symbol)
        if before is not None:
            self.states[before] -= 1
        self._state_of[symbol] = state
        self.states[state] += 1

    def _send(self, msg_type: str, body: Any, now_ns: int) -> int:
        """A request goes out; one that comes too late, in a session that is ending, goes nowhere."""
        if self.session.state != SessionState.ON:
            return 0
        return self.session.send(msg_type, body, now_ns)

    # ---- records ----------------------------------------------------------------------------------

    def event(self, event: dict[str, Any], now_ns: int | None = None) -> None:
        """Into the journal."""
        if self.journal is not None:
            self.journal.event(self.number, self.now_ns if now_ns is None else now_ns, event)

    def _heal(self, gap: Any, how: str, now_ns: int) -> None:
        if gap in self._open:
            cause, opened_ns = self._open.pop(gap)
            seconds = (now_ns - opened_ns) / SECOND
            self.healed.append((cause, how, seconds))
            del self.healed[:-1000]
            self.log.info("gap (%s) healed by %s after %.3f s", cause, how, seconds)

    def open_gaps(self) -> int:
        """Gaps that are not healed yet."""
        return len(self._open)


def session_config(section: ServiceSection, rollover_s: int) -> SessionConfig:
    """The session's part of a [[service]]; secrets are read here, so that a missing one stops the start."""
    return SessionConfig(
        sender=section.sender_comp_id,
        target=str(section.target_comp_id),
        heartbeat=section.heartbeat_s,
        reset_on_logon=section.reset_seq_num,
        logon_timeout=section.logon_timeout_s,
        gap_timeout=section.gap_timeout_s,
        sending_time_limit=section.sending_time_limit_s,
        rollover_at=rollover_s,
        api_key=read_secret(section.api_key) if section.api_key else "",
        api_secret=read_secret(section.api_secret) if section.api_secret else "",
    )


def subscription_spec(section: ServiceSection) -> SubscriptionSpec:
    """The subscriptions' part of a [[service]]."""
    return SubscriptionSpec(tuple(section.symbols), section.level, section.depth, bool(section.trades), section.spot)


def tell(log: Any, event: dict[str, Any], leaving: bool = False) -> None:
    """A session event in plain words, for the operator; nothing alarming when we are `leaving`."""
    kind = event["type"]
    if leaving and kind in ("disconnected", "gap_open"):
        if kind == "disconnected":
            log.info("disconnected: %s", event["reason"])
        return
    if kind == "logged_on":
        log.info("logged on (session %s)", event["session_id"])
    elif kind == "disconnected":
        what = "planned, rollover" if event["planned"] else event["cause"]
        level = logging.INFO if event["planned"] else logging.WARNING
        log.log(level, "disconnected: %s (%s)", event["reason"], what)
    elif kind == "gap_open":
        last = "?" if event["last"] is None else event["last"]
        level = logging.INFO if event["cause"] in ("rollover", "restart") else logging.WARNING
        log.log(level, "gap: MsgSeqNum %s to %s missing (%s)", event["first"], last, event["cause"])
    elif kind == "rollover":
        log.info("rollover %s", _rollover_words(event))
    elif kind == "rejected":
        why = event["text"] or event["reason"]
        log.warning("the venue rejected our message %s: %s", event["ref_seq"], why)
    elif kind == "clock_warning":
        log.warning("our clock is %d ms ahead of SendingTime: check this machine's clock", event["lag_ms"])
    elif kind == "logout" and event["by"] == "peer":
        log.info("the venue logged us out: %s", event["text"] or "no text")
    elif kind == "reset":
        log.info("the venue began a new numbering (%s)", event["form"])


def _rollover_words(event: dict[str, Any]) -> str:
    phase = event["phase"]
    if phase == "armed":
        return f"expected at {time.strftime('%H:%M:%S', time.gmtime(event['at'] // SECOND))} UTC"
    if phase == "began":
        return f"began ({event['form']}, {event['seconds_after']:+.1f} s from its time)"
    if phase == "date":
        return f"passed: session date {event['date']}"
    word = "logged on" if phase == "logged_on" else "over, every book good"
    return f"{word} after {event['seconds']:.2f} s"
