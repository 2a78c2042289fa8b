"""State that all parts of a session share, and its outputs: frames, events, counters, the reason to close."""

from collections import Counter, deque
from collections.abc import Callable

from kfix_md.journal import events
from kfix_md.journal.events import JournalEvent
from kfix_md.session import fix
from kfix_md.session.rollover import RolloverWindow
from kfix_md.session.sequence import Sequence
from kfix_md.session.types import LEAVING, Application, Close, Retry, SessionConfig, SessionState

_MAX_EVENTS = 4_096


class Link:
    """One session's state and everything that leaves it.

    Parts of a session (gap recovery, timers, losses) know this and never the session itself.
    """

    def __init__(self, config: SessionConfig, app: Application) -> None:
        self.config = config
        self.app = app
        self.sequence = Sequence()
        self.rollover = RolloverWindow(config)
        self.state = SessionState.OFF
        self.state_since_ns = 0
        self.last_recv_ns = 0  # of a bound handler the fast path counts as well, at each tick
        self.last_sent_ns = 0
        self.clock_step_ns = 0  # how far the wall clock is ahead of the times passed in
        self.outbox: list[bytes] = []
        self.events: deque[tuple[int, JournalEvent]] = deque(maxlen=_MAX_EVENTS)
        self.stats: Counter[str] = Counter()
        self.close_reason: Close | None = None
        self.peer_text = ""  # 58 of the peer's Logout
        self.peer_retry: Retry = "backoff"  # when to connect again after it
        self.force_reset = False  # the next Logon carries 141=Y whatever the configuration
        self.on_change: Callable[[], None] = lambda: None  # state or gap changed
        self.on_leave: Callable[[int], None] = lambda now_ns: None  # the connection delivers nothing more

    def enter(self, state: SessionState, now_ns: int) -> None:
        """Change the state; `on_leave` is called once per connection, when it stops delivering."""
        was_leaving = self.state in (SessionState.OFF, *LEAVING)
        self.state, self.state_since_ns = state, now_ns
        self.on_change()
        if not was_leaving and state in (SessionState.OFF, *LEAVING):
            self.on_leave(now_ns)

    def wall_ns(self, ns: int) -> int:
        """A time passed in as a time of day."""
        return ns + self.clock_step_ns

    def transmit(self, msg_type: str, body: fix.Body | bytes, now_ns: int, seq: int | None = None) -> None:
        """Put one frame in the outbox; a given `seq` uses no number of ours (gap fills). Bytes: of `fix.render`."""
        if seq is None:
            seq = self.sequence.next_outgoing()
        self.last_sent_ns = max(self.last_sent_ns, now_ns)
        sending_ns = self.wall_ns(now_ns)
        self.outbox.append(fix.encode(msg_type, seq, self.config.sender, self.config.target, sending_ns, body))
        self.count("sent")

    def event(self, now_ns: int, event: JournalEvent) -> None:
        """Record something worth the journal."""
        self.events.append((now_ns, event))
        self.app.on_event(now_ns, event)

    def count(self, what: str, n: int = 1) -> None:
        """Add to `stats`."""
        self.stats[what] += n

    def ignore(self, what: str) -> int:
        """Count a frame that is dropped; returns fix.IGNORE."""
        self.count(what)
        return fix.IGNORE

    def close(self, kind: str, text: str, now_ns: int, retry: Retry = "backoff") -> int:
        """Request that the connection be closed; the first reason is kept. Returns 0 (frame consumed)."""
        if self.close_reason is None:
            if self.rollover.armed(now_ns) and retry in ("now", "backoff"):
                retry = "rollover"
            self.close_reason = Close(kind, text, retry)
            self.count(f"close_{kind}")
        self.enter(SessionState.CLOSED, now_ns)
        return 0

    def fatal(self, kind: str, text: str, now_ns: int, retry: Retry = "backoff") -> int:
        """The peer broke the protocol: Logout with the reason when we are logged on, then close."""
        answering = self.state == SessionState.LOGON_SENT and kind in ("too_low", "next_expected")
        if self.state == SessionState.ON or answering:
            self.transmit("5", fix.logout(text), now_ns)
        self.force_reset = True
        return self.close(kind, text, now_ns, retry)

    def rollover_reached(self, form: str, now_ns: int) -> None:
        """The planned reset reached us in this form; the first form of a window names it."""
        if self.rollover.began(form, now_ns):
            late = (now_ns - self.rollover.instant(now_ns)) / 1e9
            self.event(now_ns, events.Rollover("began", form=form, seconds_after=late))

    def rollover_logged_on(self, now_ns: int) -> None:
        """Logged on (or renumbered) after a rollover began."""
        if self.rollover.logged_on(now_ns):
            self._rollover_phase("logged_on", now_ns)

    def rollover_verified(self, now_ns: int) -> None:
        """Every book was verified after a rollover."""
        if self.rollover.verified(now_ns):
            self._rollover_phase("verified", now_ns)

    def _rollover_phase(self, phase: str, now_ns: int) -> None:
        rollover = self.rollover
        self.event(now_ns, events.Rollover(phase, form=rollover.form, seconds=rollover.seconds(now_ns)))
