"""The FIX 4.4 initiator as a state machine without socket, clock or loop: bytes and times in, bytes out."""

from collections import Counter, deque
from typing import Any, Protocol

from kfix_md.session import admin, fix
from kfix_md.session.gap import GapQueue
from kfix_md.session.message import Message
from kfix_md.session.sequence import Sequence
from kfix_md.session.store import SequenceStore
from kfix_md.session.timers import Liveness
from kfix_md.session.types import (
    SECOND,
    Application,
    Close,
    Fields,
    LocalError,
    SessionConfig,
    SessionState,
)

OFF, LOGON_SENT, ON, LOGOUT_SENT, LOGGED_OUT, CLOSED = SessionState

#: frames waiting for the connector before the peer is judged to ask faster than it reads
_MAX_OUTBOX = 20_000
_MAX_REQUESTS = 8_192
_MAX_EVENTS = 4_096
#: MD_* code of the decoder to 373, 371, 58
_MALFORMED = {
    1: (fix.INVALID_TAG, None, "Invalid tag number"),
    2: (fix.NO_VALUE, None, "Tag specified without a value"),
    4: (fix.TAG_MISSING, None, "Required tag missing"),
    5: (fix.GROUP_COUNT, 268, "Incorrect NumInGroup count for repeating group"),
    6: (fix.INCORRECT_VALUE, None, "Value is incorrect (out of range) for this tag"),
}
_ID_TAG = {"V": 262, "x": 320, "g": 335}


class _Handler(Protocol):
    """What a session needs of the hot loop."""

    sequence: Sequence
    fast: bool
    last_recv_ns: int
    sending_time_limit_ns: int

    def expect_comp_ids(self, sender: bytes, target: bytes) -> None: ...


class Session(Liveness):
    """One FIX session of the initiator.

    Inputs: connected, receive, garbled, tick, disconnected, logout, send; times are int ns since the epoch.
    Outputs, to be looked at after each input: `outbox` (whole frames to write), `close_reason` (a Close, or
    None), `take_released()` (frames to apply now, to be called until it is empty), `events`, and the calls of
    the Application. Nothing the peer sends raises; our own misuse raises LocalError.
    """

    def __init__(
        self,
        config: SessionConfig,
        app: Application | None = None,
        *,
        store: SequenceStore | None = None,
        sequence: Sequence | None = None,
    ) -> None:
        super().__init__(config)
        self.config = config
        self.app = app or Application()
        self.store = store
        self.sequence = sequence or Sequence()
        self.gap = GapQueue(config.max_gap_messages, config.max_gap_bytes)
        self.state = OFF
        self.inbound_ids = (config.target.encode(), config.sender.encode())
        self.outbox: list[bytes] = []
        self.events: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_MAX_EVENTS)
        self.stats: Counter[str] = Counter()
        self.close_reason: Close | None = None
        self.retry = "backoff"  # when to connect again: rollover (every 2 s), backoff, long or never
        self.session_id = ""
        self.heartbeat_s = config.heartbeat
        self.clock_lag_ns = 0  # our receive time minus the peer's SendingTime, of the last message seen here
        self.asked_reset = True
        self.force_reset = False
        self._handler: _Handler | None = None
        self._warned_ns = 0
        self._reject_second = self._rejects = 0
        self._was_on = False
        self._requests: dict[int, tuple[str, str]] = {}
        self._resume()

    # ------------------------------------------------------------ wiring

    def bind(self, handler: _Handler) -> None:
        """Share the counters with the hot loop and keep its `fast` switch true to ours."""
        handler.sequence.expected = self.sequence.expected
        handler.sequence.outgoing = self.sequence.outgoing
        self.sequence = handler.sequence
        self._handler = handler
        handler.expect_comp_ids(*self.inbound_ids)
        limit = self.config.sending_time_limit
        handler.sending_time_limit_ns = 0 if limit is None else int(limit * SECOND)
        self.refresh_fast()

    def _resume(self) -> None:
        self._before = self.store.load() if self.store else None  # what the last process left
        if self._before is not None:
            self.sequence.expected, self.sequence.outgoing = self._before.expected, self._before.outgoing

    @property
    def fast(self) -> bool:
        """In-order W and X may go the C path without us: logged on, no gap, nothing waiting to be applied."""
        return self.state in (ON, LOGOUT_SENT) and not self.gap and not self.unsettled

    @property
    def ready(self) -> bool:
        """Logged on and no gap open."""
        return self.state == ON and not self.gap

    def refresh_fast(self) -> None:
        """Mirror `fast` into the handler; after every change of state or gap."""
        if self._handler is not None:
            self._handler.fast = self.fast

    # ------------------------------------------------------------ inputs

    def connected(self, now_ns: int) -> None:
        """The transport is up: send the Logon, the first thing on the wire."""
        if self.state != OFF:
            raise LocalError("connected() twice without disconnected()")
        config, sequence = self.config, self.sequence
        if self._before is not None:
            self.interrupted("restart", self._before.expected, self._before.saved_ns)
            self._before = None
        self.asked_reset = config.reset_on_logon or self.force_reset or self._numbers_too_old(now_ns)
        if self.asked_reset:
            sequence.reset()
        self.outbox.clear()
        self._requests.clear()
        self.close_reason, self._leave_text, self._was_on = None, "", False
        self.heartbeat_s = config.heartbeat
        self.last_recv_ns, self._probe_ns = now_ns, 0
        self._enter(LOGON_SENT, now_ns)
        seq = sequence.outgoing
        next_expected = sequence.expected if config.next_expected else None
        body = fix.logon(config.heartbeat, self.asked_reset, next_expected)
        if config.api_key:
            key, secret = config.api_key, config.api_secret
            body += fix.credentials(key, secret, seq, config.sender, config.target, now_ns)
        self.transmit("A", body, now_ns)

    def receive(self, frame: bytes, fields: Fields, recv_ns: int) -> int:
        """One whole frame off the fast path; returns fix.DELIVER, DEFER, IGNORE, or 0 (consumed)."""
        if self.state not in (LOGON_SENT, ON, LOGOUT_SENT):
            return self.ignore("after_close")
        m = Message.parse(frame, fields, recv_ns)
        self.last_recv_ns = max(self.last_recv_ns, recv_ns)
        self._probe_ns = 0
        if m.repeated:
            self.count("repeated_header_tag")
        if admin.header_fault(self, m):
            return fix.IGNORE if m.is_market_data else 0
        answer = admin.action_for(self.state, m.type)(self, m)
        if len(self.outbox) > _MAX_OUTBOX:
            self.close("flooded", "the peer asks faster than it reads", recv_ns)
        return answer

    def garbled(self, kind: str, n_bytes: int, recv_ns: int) -> None:
        """Bytes that are no message (bad checksum or length, noise): counted, no number used, no Reject."""
        self.count(f"garbled_{kind}")
        self.note_garbled(self.sequence.expected)
        self.event(recv_ns, "garbled", what=kind, bytes=n_bytes)
        if self.state == LOGON_SENT:
            self.close("protocol", f"garbled bytes ({kind}) instead of a Logon", recv_ns)

    def malformed(self, seq: int, msg_type: str, error: int, recv_ns: int) -> None:
        """A W or X whose number was used and whose body cannot be: `error` is a MD_* code of the decoder."""
        reason, tag, text = _MALFORMED.get(error, (fix.INCORRECT_FORMAT, None, "Incorrect data format for value"))
        self.count("malformed")
        self.reject(seq, msg_type, reason, tag, text, recv_ns)

    def disconnected(self, now_ns: int, reason: str) -> None:
        """The transport is gone (or could not be made); `reason` in a word or two: fin, rst, refused..."""
        planned = self.rollover.armed(now_ns)
        if self.state == OFF:  # a failed attempt to connect
            if self.retry not in ("long", "never"):
                self.retry = "rollover" if planned else "backoff"
            return
        left = self.close_reason
        if self.state == LOGOUT_SENT or (left and left.retry == "never"):
            planned, self.retry = False, "never"
        else:
            self.retry = "rollover" if planned else left.retry if left else "backoff"
        was_on, expected = self._was_on, self.sequence.expected
        if planned and was_on:
            form = "logout" if self.state == LOGGED_OUT else left.kind if left else reason
            self.rollover_began(form, now_ns)
        self._enter(OFF, now_ns)
        cause = "rollover" if planned else "overflow" if left and left.kind == "overflow" else "disconnect"
        if self.retry == "never":  # we left: it ends when somebody starts us again
            cause = "restart"
        why = left.text if left else self._leave_text or reason
        self.event(now_ns, "disconnected", reason=why, cause=cause, planned=planned, logged_on=was_on)
        self.drop_queue(now_ns)
        if was_on:
            self.interrupted(cause, expected, now_ns)
        if planned:
            self.force_reset = True
        self._outage_over(now_ns)

    def _outage_over(self, now_ns: int) -> None:
        self.outbox.clear()
        self._save(now_ns)
        self.refresh_fast()

    def logout(self, now_ns: int, text: str = "") -> None:
        """Leave: 35=5, then data until the peer confirms or logout_timeout passes."""
        if self.state == ON:
            self.transmit("5", fix.logout(text), now_ns)
            self._enter(LOGOUT_SENT, now_ns)
        elif self.state == LOGON_SENT:
            self.close("logout", text or "logged out before the Logon reply", now_ns, "never")

    def send(self, msg_type: str, body: fix.Body, now_ns: int) -> int:
        """An application message (V, x, g ...); returns its MsgSeqNum. LocalError when it may not be sent."""
        if self.state != ON:
            raise LocalError(f"35={msg_type} cannot be sent: not logged on ({self.state.name})")
        if msg_type in ("A", "0", "1", "2", "3", "4", "5"):
            raise LocalError(f"35={msg_type} belongs to the session layer, which sends it by itself")
        for tag, value in body:
            fix.value_bytes(tag, value)  # refused before a number is used
        seq = self.sequence.outgoing
        wanted = _ID_TAG.get(msg_type)
        self._requests[seq] = (msg_type, next((str(value) for tag, value in body if tag == wanted), ""))
        if len(self._requests) > _MAX_REQUESTS:
            del self._requests[next(iter(self._requests))]
        self.transmit(msg_type, body, now_ns)
        return seq

    def request_of(self, seq: int) -> tuple[str, str] | None:
        """(msg_type, request id) of the application message we sent as `seq`: what a 45 RefSeqNum means."""
        return self._requests.get(seq)

    # ------------------------------------------------------------ for admin.py and recovery.py

    def _enter(self, state: SessionState, now_ns: int) -> None:
        self.state, self._since_ns = state, now_ns
        self.refresh_fast()

    def transmit(self, msg_type: str, body: fix.Body, now_ns: int, seq: int | None = None) -> None:
        """Put one frame in the outbox; a given `seq` uses no number of ours (gap fills)."""
        if seq is None:
            seq = self.sequence.next_outgoing()
            self._save(now_ns)  # before it can be on the wire: a number is never used twice
        self.last_sent_ns = max(self.last_sent_ns, now_ns)
        self.outbox.append(fix.encode(msg_type, seq, self.config.sender, self.config.target, now_ns, body))
        self.count("sent")

    def event(self, now_ns: int, kind: str, **words: Any) -> None:
        """Record something worth the journal."""
        event = {"type": kind, **words}
        self.events.append((now_ns, event))
        self.app.on_event(now_ns, event)

    def count(self, what: str, n: int = 1) -> None:
        """Add to `stats`."""
        self.stats[what] += n

    def ignore(self, what: str) -> int:
        """Count a frame that is dropped; returns fix.IGNORE."""
        self.count(what)
        return fix.IGNORE

    def close(self, kind: str, text: str, now_ns: int, retry: str = "backoff") -> int:
        """Ask the connector to close; the first reason stands."""
        if self.close_reason is None:
            if self.rollover.armed(now_ns) and retry != "never":
                retry = "rollover"
            self.close_reason = Close(kind, text, retry)
            self.count(f"close_{kind}")
        self._enter(CLOSED, now_ns)
        return 0

    def fatal(self, kind: str, text: str, now_ns: int) -> int:
        """The peer broke the protocol: Logout with the reason when we are logged on, then close."""
        if self.state == ON or (self.state == LOGON_SENT and kind in ("too_low", "next_expected")):
            self.transmit("5", fix.logout(text), now_ns)
        self.force_reset = True
        return self.close(kind, text, now_ns)

    def too_low(self, m: Message) -> int:
        """34 below the expected one without 43=Y: fatal, unless it is the rollover in its plainest form."""
        text = f"MsgSeqNum too low, expecting {self.sequence.expected} but received {m.seq}"
        if self.rollover.armed(m.recv_ns) and m.seq <= 1:
            self.rollover_began("restart", m.recv_ns)
        self.fatal("too_low", text, m.recv_ns)
        return fix.IGNORE if m.is_market_data else 0

    def reject(self, ref_seq: int, ref_type: str, reason: int, tag: int | None, text: str, now_ns: int) -> None:
        """35=3, when logged on, and no more of them a second than a gateway bears."""
        second = now_ns // SECOND
        if second != self._reject_second:
            self._reject_second, self._rejects = second, 0
        self._rejects += 1
        if self.state not in (ON, LOGOUT_SENT) or self._rejects > self.config.max_rejects_per_s:
            self.count("rejects_withheld")
            return
        ref_type = ref_type if ref_type.isascii() and ref_type.isalnum() else ""
        self.transmit("3", fix.reject(ref_seq, ref_type, reason, tag, text), now_ns)
        self.count("rejects")

    def refuse(self, m: Message, reason: int, tag: int) -> int:
        """Reject a message whose number is not used."""
        self.reject(m.seq, m.type, reason, tag, f"Value is incorrect for tag {tag}", m.recv_ns)
        return 0

    def sending_time_off(self, m: Message) -> bool:
        """Measure 52 against our clock; True when it is past the limit."""
        lag = m.recv_ns - m.sending_ns
        if not m.possdup:
            self.clock_lag_ns = lag
            warning = self.config.sending_time_warning * SECOND
            if abs(lag) > warning and m.recv_ns - self._warned_ns > 60 * SECOND:
                self._warned_ns = m.recv_ns
                self.event(m.recv_ns, "clock_warning", lag_ms=lag // 1_000_000)
        limit = self.config.sending_time_limit
        return limit is not None and abs(lag) > limit * SECOND

    def logged_on(self, m: Message) -> None:
        """The Logon reply is accepted."""
        beat = m.number(fix.HEART_BT_INT)
        if beat:  # 0 or nonsense: ours stands
            self.heartbeat_s = min(beat, 3600)
        self._enter(ON, m.recv_ns)
        self._was_on, self.force_reset = True, False
        stamp = fix.time_text(m.recv_ns).replace(":", "")
        self.session_id = f"{self.config.sender}-{self.config.target}-{stamp}"
        self.event(
            m.recv_ns,
            "logged_on",
            session_id=self.session_id,
            heartbeat=self.heartbeat_s,
            reset=self.asked_reset,
            next_in=self.sequence.expected,
            next_out=self.sequence.outgoing,
        )
        self.rollover_logged_on(m.recv_ns)

    def peer_left(self, text: str, now_ns: int) -> None:
        """The peer logged out and was answered: wait for its close."""
        self._leave_text = text
        if self.rollover.armed(now_ns):
            self.rollover_began("logout", now_ns)
        self._enter(LOGGED_OUT, now_ns)

    def gap_fill(self, first: int, last: int, now_ns: int) -> None:
        """Answer for our own numbers first..last: 35=4 123=Y with 34=first, no new number used."""
        self.transmit("4", fix.sequence_reset(last + 1, now_ns), now_ns, seq=first)
        self.count("gap_fills_sent")
        unseen = [seq for seq in self._requests if first <= seq <= last]
        requests = [self._requests.pop(seq) for seq in unseen]
        if requests:
            self.app.on_requests_lost(requests)

    def _save(self, now_ns: int) -> None:
        if self.store is not None:
            self.store.save(self.sequence.expected, self.sequence.outgoing, now_ns)

    def _numbers_too_old(self, now_ns: int) -> bool:
        stored = self.store.load() if self.store else None
        return stored is not None and stored.saved_ns < self.rollover.last_instant(now_ns)
