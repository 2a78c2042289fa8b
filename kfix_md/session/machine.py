"""The FIX 4.4 initiator as a state machine without socket, clock or loop: bytes and times in, bytes out."""

from collections import Counter, deque

from kfix_md.journal import events
from kfix_md.journal.events import JournalEvent
from kfix_md.session import fix, table
from kfix_md.session.clock import SendingClock
from kfix_md.session.link import Link
from kfix_md.session.logon import Logon
from kfix_md.session.losses import LossEstimate
from kfix_md.session.message import Message
from kfix_md.session.outgoing import Rejects, SentRequests
from kfix_md.session.recovery import GapRecovery
from kfix_md.session.refusals import refusal_of
from kfix_md.session.rollover import RolloverWindow
from kfix_md.session.saved import SavedNumbers
from kfix_md.session.sequence import Sequence
from kfix_md.session.timers import Timers
from kfix_md.session.types import (
    LOGGED_ON,
    SECOND,
    Application,
    Close,
    Fields,
    Healed,
    HotLoop,
    LocalError,
    ReleasedFrame,
    Request,
    Retry,
    SequenceNumbers,
    SessionConfig,
    SessionState,
)
from kfix_md.trading_day import session_date

#: frames not yet written, above which the peer asks faster than it reads
_MAX_OUTBOX = 20_000


class Session:
    """One FIX session of the initiator: the logon, requests and numbering, with gap recovery and timers of its own.

    Inputs: connected, receive, garbled, malformed, tick, disconnected, logout, send; times are int ns since the
    epoch. Outputs, to be read after each input: `take_save()` (numbers to store before the outbox is written),
    `outbox` (whole frames to write), `close_reason` (a Close, or None), `take_released()` (frames to apply now,
    to be called until it is empty), `events`, and the calls of the Application. Nothing the peer sends raises;
    our own misuse raises LocalError.

    Parameters
    ----------
    config : SessionConfig
    app : Application, optional
        Receives the calls; the default ignores them.
    numbers : SequenceNumbers, optional
        Both counters as the last process stored them (`SequenceStore.load`).
    """

    def __init__(
        self, config: SessionConfig, app: Application | None = None, *, numbers: SequenceNumbers | None = None
    ) -> None:
        self.config = config
        self.app = app or Application()
        self.link = Link(config, self.app)
        self.link.on_change, self.link.on_leave = self.refresh_fast, self._leave
        self.losses = LossEstimate(self.link)
        self.gaps = GapRecovery(self.link, self.losses, self._apply_kept)
        self.timers = Timers(self.link, self.gaps)
        self.logon = Logon(self.link)
        self.clock = SendingClock(self.link)
        self.clock.on_step = self._on_clock
        self.rejects = Rejects(self.link)
        self.inbound_ids = (config.target.encode(), config.sender.encode())
        self.retry: Retry = "backoff"  # when to connect again
        self._handler: HotLoop | None = None
        self._announced = False  # on_ready was called for this connection
        self._was_on = False
        self._requests = SentRequests(self.link)
        self._saved = SavedNumbers(self.link, numbers)

    # ------------------------------------------------------------ what callers read

    @property
    def state(self) -> SessionState:
        """Where the session is in its life."""
        return self.link.state

    @property
    def sequence(self) -> Sequence:
        """Both MsgSeqNum counters."""
        return self.link.sequence

    @property
    def rollover(self) -> RolloverWindow:
        """The planned daily reset."""
        return self.link.rollover

    @rollover.setter
    def rollover(self, rollover: RolloverWindow) -> None:
        self.link.rollover = rollover

    @property
    def outbox(self) -> list[bytes]:
        """Frames to be written; the caller clears it."""
        return self.link.outbox

    @property
    def events(self) -> deque[tuple[int, JournalEvent]]:
        """The last events as (int ns, event)."""
        return self.link.events

    @property
    def stats(self) -> Counter[str]:
        """Counters by name."""
        return self.link.stats

    @property
    def close_reason(self) -> Close | None:
        """Why the connection is to be closed; None while it is not."""
        return self.link.close_reason

    @property
    def last_recv_ns(self) -> int:
        """When the peer was last heard of."""
        return self.link.last_recv_ns

    @last_recv_ns.setter
    def last_recv_ns(self, recv_ns: int) -> None:
        self.link.last_recv_ns = recv_ns

    @property
    def clock_lag_ns(self) -> int:
        """Our receive time minus the peer's SendingTime, of the last message that came by the session."""
        return self.clock.lag_ns

    @property
    def logon_ns(self) -> tuple[int, int, int]:
        """When our last Logon was sent, when its answer was received, and the SendingTime of the answer."""
        return self.clock.logon_ns

    @property
    def session_id(self) -> str:
        """Name of the present or last numbering: both CompIDs and the time of the logon."""
        return self.logon.session_id

    @property
    def unsettled(self) -> bool:
        """A gap closed and its frames are not all applied: call take_released()."""
        return self.gaps.unsettled

    @property
    def next_timeout(self) -> int:
        """When tick() has something to do next (int ns)."""
        return self.timers.next_timeout

    @property
    def fast(self) -> bool:
        """In-order W and X may be applied without us: logged on, no gap, nothing waiting to be applied."""
        return self.state == SessionState.ON and self.gaps.settled

    @property
    def ready(self) -> bool:
        """Logged on and no gap open."""
        return self.state == SessionState.ON and not self.gaps

    def request_of(self, seq: int) -> Request | None:
        """The application message we sent as `seq`: what a 45 RefSeqNum refers to."""
        return self._requests.get(seq)

    def new_gap_id(self, now_ns: int) -> int:
        """An id for a gap that no other gap of this session has, also across restarts."""
        return self.losses.new_gap_id(now_ns)

    def take_save(self, now_ns: int) -> SequenceNumbers | None:
        """Counters to be stored, None when they are as last taken.

        Store them before the outbox is written: a number that was on the wire is never used twice.
        """
        return self._saved.take(now_ns)

    def take_released(self, now_ns: int = 0) -> list[ReleasedFrame]:
        """Frames to apply now, in order; call it until it is empty.

        The empty answer is what ends a gap: only then are the books whole and the fast path open again.
        The caller journals their numbers ("released"), after the frame that released them.
        """
        released = self.gaps.take_released()
        if not released and self.gaps.unsettled:
            self.gaps.settle(now_ns)
            self.announce_ready()
        return released

    def _on_clock(self, step_ns: int) -> None:
        if self._handler is not None:
            self._handler.clock_step_ns = step_ns

    def clock_stepped(self, step_ns: int) -> None:
        """The wall clock was stepped, by `step_ns` in sum since the start.

        The times passed in go on as before (elapsed time); times of day are corrected by this.
        """
        self.link.clock_step_ns = self.rollover.clock_step_ns = step_ns

    # ------------------------------------------------------------ wiring

    def bind(self, handler: HotLoop) -> None:
        """Share the counters with the hot loop and keep its `fast` switch equal to ours."""
        handler.sequence.expected = self.sequence.expected
        handler.sequence.outgoing = self.sequence.outgoing
        self.link.sequence = handler.sequence
        self._handler = handler
        handler.expect_comp_ids(*self.inbound_ids)
        limit = self.config.sending_time_limit
        handler.sending_time_limit_ns = 0 if limit is None else int(limit * SECOND)
        handler.clock_step_ns = self.clock.step_ns
        self.refresh_fast()

    def refresh_fast(self) -> None:
        """Mirror `fast` into the handler; after every change of state or gap."""
        if self._handler is not None:
            self._handler.fast = self.fast

    # ------------------------------------------------------------ inputs

    def connected(self, now_ns: int) -> None:
        """The transport is up: send the Logon, the first thing on the wire."""
        if self.state != SessionState.OFF:
            raise LocalError("connected() twice without disconnected()")
        link = self.link
        if inherited := self._saved.take_inherited():
            self.interrupted("restart", inherited.expected, inherited.saved_ns)
        reset = self.config.reset_on_logon or link.force_reset or self._saved.too_old(now_ns)
        if reset:
            self.sequence.reset()
        link.outbox.clear()
        self._requests.clear()
        link.close_reason, self._was_on = None, False
        link.peer_text, link.peer_retry = "", "backoff"
        self.timers.connected(now_ns)
        link.enter(SessionState.LOGON_SENT, now_ns)
        self.logon.send(reset, now_ns)

    def receive(self, frame: bytes, fields: Fields, recv_ns: int) -> int:
        """Handle one whole frame off the fast path; returns fix.DELIVER, DEFER, IGNORE, or 0 (consumed)."""
        if self.state not in (SessionState.LOGON_SENT, *LOGGED_ON):
            return self.link.ignore("after_close")
        m = Message.parse(frame, fields, recv_ns)
        self.timers.received(recv_ns)
        if m.repeated:
            self.link.count("repeated_header_tag")
        if table.header_fault(self, m):
            return fix.IGNORE if m.is_market_data else 0
        answer = table.action_for(self.state, m.type)(self, m)
        if len(self.outbox) > _MAX_OUTBOX:
            self.link.close("flooded", "the peer asks faster than it reads", recv_ns)
        return answer

    def garbled(self, kind: str, n_bytes: int, recv_ns: int) -> None:
        """Bytes that are no message (bad checksum or length, noise): counted, no number used, no Reject."""
        self.link.count(f"garbled_{kind}")
        self.gaps.note_garbled()
        self.link.event(recv_ns, events.Garbled(kind, n_bytes))
        self.timers.something_lost(recv_ns)
        if self.state == SessionState.LOGON_SENT:
            self.link.close("protocol", f"garbled bytes ({kind}) instead of a Logon", recv_ns)

    def malformed(self, seq: int, msg_type: str, error: int, recv_ns: int) -> None:
        """A W or X whose number was used and whose body cannot be: `error` is a Fault of the decoder."""
        self.link.count("malformed")
        self.rejects.malformed(seq, msg_type, error, recv_ns)

    def tick(self, now_ns: int) -> None:
        """Everything that time alone brings; call it at `next_timeout` or a few times a second."""
        if self._handler is not None:  # what came by the fast path counts as received
            self.link.last_recv_ns = max(self.link.last_recv_ns, self._handler.last_recv_ns)
        self._tick_rollover(now_ns)
        self.timers.tick(now_ns)

    def _tick_rollover(self, now_ns: int) -> None:
        if self.rollover.arm(now_ns):
            self.link.event(now_ns, events.Rollover("armed", at=self.link.wall_ns(self.rollover.armed_for)))
        if self.rollover.turn(now_ns):
            date = session_date(self.link.wall_ns(now_ns)).isoformat()
            self.link.event(now_ns, events.Rollover("date", date=date))

    def disconnected(self, now_ns: int, reason: str) -> None:
        """The transport is gone (or could not be made); `reason` in a word or two: fin, rst, refused..."""
        planned = self.rollover.armed(now_ns)
        if self.state == SessionState.OFF:  # a failed attempt to connect
            if self.retry not in ("long", "never"):
                self.retry = "rollover" if planned else "backoff"
            return
        left = self.close_reason
        self.retry = left.retry if left else self.link.peer_retry
        if self._we_leave():
            planned, self.retry = False, "never"
        elif planned and self.retry != "long":
            self.retry = "rollover"
        if planned and self._was_on:
            form = "logout" if self.state == SessionState.LOGGED_OUT else left.kind if left else reason
            self.link.rollover_reached(form, now_ns)
        cause = self._outage_cause(planned)
        self.link.enter(SessionState.OFF, now_ns)
        why = left.text if left else self.link.peer_text or reason
        self.link.event(now_ns, events.Disconnected(why, cause, planned, logged_on=self._was_on))
        if planned:
            self.link.force_reset = True
        self.outbox.clear()

    def _leave(self, now_ns: int) -> None:
        """The connection delivers nothing more (Logout, close or loss): the gap begins, books are void."""
        self.gaps.drop_queue(now_ns)
        self.interrupt(now_ns)
        if self.state != SessionState.OFF:
            self.app.on_leaving(self._ends_as_planned(now_ns))

    def interrupt(self, now_ns: int) -> None:
        """The application has voided its books because the connection is ending: the gap begins now."""
        if self._was_on:
            self.interrupted(self._outage_cause(self._ends_as_planned(now_ns)), self.sequence.expected, now_ns)

    def _ends_as_planned(self, now_ns: int) -> bool:
        return self.rollover.armed(now_ns) and not self._we_leave()

    def _we_leave(self) -> bool:
        left = self.close_reason
        return self.state == SessionState.LOGOUT_SENT or (left is not None and left.retry == "never")

    def _outage_cause(self, planned: bool) -> str:
        if self._we_leave():  # the gap ends when somebody starts us again
            return "restart"
        left = self.close_reason
        return "rollover" if planned else "overflow" if left and left.kind == "overflow" else "disconnect"

    def logout(self, now_ns: int, text: str = "") -> None:
        """Leave: 35=5, then wait until the peer confirms or logout_timeout passes; market data is ignored."""
        if self.state == SessionState.ON:
            self.link.transmit("5", fix.logout(text), now_ns)
            self.link.enter(SessionState.LOGOUT_SENT, now_ns)
        elif self.state == SessionState.LOGON_SENT:
            self.link.close("logout", text or "logged out before the Logon reply", now_ns, "never")

    def send(self, msg_type: str, body: fix.Body, now_ns: int) -> int:
        """Send an application message (V, x, g ...); returns its MsgSeqNum. LocalError when not allowed."""
        if self.state != SessionState.ON:
            raise LocalError(f"35={msg_type} cannot be sent: not logged on ({self.state.name})")
        if msg_type in ("A", "0", "1", "2", "3", "4", "5"):
            raise LocalError(f"35={msg_type} belongs to the session layer, which sends it when it is due")
        content = fix.render(body)  # raises before a number is used
        seq = self.sequence.outgoing
        self._requests.add(seq, msg_type, body)
        self.link.transmit(msg_type, content, now_ns)
        return seq

    def books_verified(self, now_ns: int) -> None:
        """The application has all its books verified again: what was lost is healed from here on."""
        if not self.gaps.settled or self.state != SessionState.ON:
            return
        self.losses.verified(now_ns)
        self.link.rollover_verified(now_ns)

    # ------------------------------------------------------------ for table.py

    def _apply_kept(self, m: Message) -> None:
        table.run_due(self, m, table.when_due(m))

    def announce_ready(self) -> None:
        """Logged on and no gap: on_ready, once per connection."""
        if not self._announced and self.state == SessionState.ON and self.gaps.settled:
            self._announced = True
            self.app.on_ready()

    def too_low(self, m: Message, retry: Retry = "backoff") -> int:
        """34 below the expected one without 43=Y: fatal, unless it is the rollover in its plainest form."""
        text = f"MsgSeqNum too low, expecting {self.sequence.expected} but received {m.seq}"
        if self.rollover.armed(m.recv_ns) and m.seq <= 1:
            self.link.rollover_reached("restart", m.recv_ns)
        self.link.fatal("too_low", text, m.recv_ns, retry)
        return fix.IGNORE if m.is_market_data else 0

    def reject_unused(self, m: Message, reason: int, tag: int) -> int:
        """Reject a message whose number is not used."""
        self.rejects.send(m.seq, m.type, reason, tag, f"Value is incorrect for tag {tag}", m.recv_ns)
        return 0

    def logged_on(self, m: Message) -> None:
        """The Logon reply is accepted."""
        beat = m.number(fix.HEART_BT_INT)
        if beat:  # 0 or nonsense: ours is kept
            self.timers.heartbeat_s = min(beat, 3600)
        self.link.enter(SessionState.ON, m.recv_ns)
        self._was_on, self.link.force_reset = True, False
        self.logon.accepted(self.timers.heartbeat_s, m.recv_ns)
        self.link.rollover_logged_on(m.recv_ns)

    def peer_left(self, text: str, now_ns: int) -> None:
        """The peer logged out and was answered: wait for its close."""
        near_rollover = self.rollover.armed(now_ns)
        self.link.peer_text = text
        self.link.peer_retry = "long" if refusal_of(text, near_rollover) else "backoff"
        if near_rollover:
            self.link.rollover_reached("logout", now_ns)
        self.link.enter(SessionState.LOGGED_OUT, now_ns)

    def gap_fill(self, first: int, last: int, now_ns: int) -> None:
        """Answer for our own numbers first..last: 35=4 123=Y with 34=first, no new number used."""
        requests = self._requests.gap_fill(first, last, now_ns)
        if requests:
            self.app.on_requests_lost(requests)

    def interrupted(self, cause: str, expected: int, now_ns: int, healed: Healed = "reconnect") -> None:
        """Everything from `expected` to the next verified books is missing."""
        self._announced = False
        for hole in self.gaps.take_holes():
            self.losses.add(hole, healed)
        self.losses.interrupted(cause, expected, now_ns, healed)

    def restart_numbering(self, expected: int, form: str, now_ns: int, both: bool) -> None:
        """The peer restarts its numbers inside this connection; `both` when ours start at 1 as well."""
        planned = self.rollover.armed(now_ns)
        old = self.sequence.expected
        self.gaps.drop_queue(now_ns)
        self.interrupted("rollover" if planned else "lost", old, now_ns, "snapshot")
        if both:
            self.sequence.reset()
        self.gaps.advance(expected)
        if planned:
            self.link.rollover_reached(form, now_ns)
        self.link.count("resets")
        self.link.event(now_ns, events.NumberingReset(form, planned))
        self.refresh_fast()

    def announce_reset(self, now_ns: int) -> None:
        """Call the application, once the answer to the reset is in the outbox."""
        self._announced = True
        self.link.rollover_logged_on(now_ns)
        self.app.on_reset("rollover" if self.rollover.armed(now_ns) else "reset")
