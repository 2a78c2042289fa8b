"""How missing numbers are asked for, waited for, closed and told: gaps, outages and the rollover."""

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from kfix_md.session import admin, fix
from kfix_md.session.gap import GapQueue, Hole
from kfix_md.session.message import Message
from kfix_md.session.rollover import Rollover
from kfix_md.session.sequence import Sequence
from kfix_md.session.types import SECOND, Application, SessionConfig, SessionState
from kfix_md.trading_day import session_date

_MAX_UNHEALED = 1_000


class Recovery:
    """The half of a Session that is about loss; it knows nothing of logons and timers of liveness."""

    if TYPE_CHECKING:
        config: SessionConfig
        app: Application
        sequence: Sequence
        gap: GapQueue
        stats: Counter[str]
        state: SessionState
        force_reset: bool

        def event(self, now_ns: int, kind: str, **words: Any) -> None: ...
        def count(self, what: str, n: int = 1) -> None: ...
        def close(self, kind: str, text: str, now_ns: int, retry: str = "backoff") -> int: ...
        def transmit(self, msg_type: str, body: fix.Body, now_ns: int, seq: int | None = None) -> None: ...
        def ignore(self, what: str) -> int: ...
        def refresh_fast(self) -> None: ...

    def __init__(self, config: SessionConfig) -> None:
        self.rollover = Rollover(config)
        self.unhealed: deque[tuple[Hole, str]] = deque()  # loss that ends when the books are verified again
        self.unsettled = False  # a gap closed, and its frames are not all applied yet
        self._released: deque[tuple[int, bytes, int]] = deque()
        self._replayed: list[Hole] = []
        self._lossy = False  # part of the open gap will never come: a replay of the rest heals no book
        self._announced = False  # on_ready was called for this connection
        self._asked: Hole | None = None
        self._asked_ns = self._progress_ns = self._attempts = 0
        self._garbled_at = self._last_gap_id = 0

    # ------------------------------------------------------------ a gap opens

    def note_garbled(self, expected: int) -> None:
        """The message that would have been next was garbled: the gap it leaves has cause checksum."""
        self._garbled_at = max(expected, self.gap.highest + 1)

    def new_gap_id(self, now_ns: int) -> int:
        """An id for a gap that no other gap of this session has, also across restarts."""
        self._last_gap_id = max(now_ns, self._last_gap_id + 1)
        return self._last_gap_id

    def _open_hole(self, first: int, last: int | None, cause: str, now_ns: int) -> Hole:
        hole = Hole(first, last, cause, self.new_gap_id(now_ns), now_ns)
        self.count("gaps")
        self.event(now_ns, "gap_open", id=hole.id, first=first, last=last, cause=cause, symbols=[])
        return hole

    def keep(self, seq: int, message: Message | None, now_ns: int, covers: int = 0) -> None:
        """Hold a message whose number is too high; numbers nobody has seen become a hole."""
        top = max(self.gap.highest, self.sequence.expected - 1)
        if seq > top + 1:
            cause = "checksum" if self._garbled_at == top + 1 else "lost"
            hole = self._open_hole(top + 1, seq - 1, cause, now_ns)
            if not self.gap:
                self._progress_ns, self._asked, self._attempts = now_ns, None, 0
            self.gap.holes.append(hole)
            self.refresh_fast()
            self.app.on_gap(hole.first, seq - 1, cause)
        if not self.gap.add(seq, message.slim() if message else None, covers):
            self.force_reset = True
            self.close("overflow", "the gap queue is full: a new session is cheaper", now_ns)

    def keep_and_ask(self, m: Message, covers: int = 0) -> int:
        """Hold a message and ask for what is missing before it, once per hole."""
        if m.seq in self.gap.kept:
            return self.ignore("duplicate")
        self.keep(m.seq, m, m.recv_ns, covers)
        self.request_missing(m.recv_ns, live=not m.possdup)
        return fix.DEFER if m.is_market_data else 0

    def request_missing(self, now_ns: int, live: bool = True, silent: bool = False) -> None:
        """One ResendRequest per hole: a later hole waits until the replay of the first has gone past it.

        16=0 asks for everything to the end, so a second hole may be filled by the same replay; only a live
        message (no 43=Y) that comes after the first hole closed proves that it was not.
        """
        if not self.gap or self.state not in (SessionState.ON, SessionState.LOGOUT_SENT):
            return
        hole = self.gap.holes[0]
        if self._asked is hole or (self._asked is not None and not live):
            return
        self._ask(hole, now_ns, silent)

    def _ask(self, hole: Hole, now_ns: int, silent: bool = False) -> None:
        self._asked, self._asked_ns = hole, now_ns
        if not silent:  # with 789 in our Logon the venue fills by itself
            self.count("resend_requests")
            self.transmit("2", fix.resend_request(self.sequence.expected), now_ns)

    def gap_deadline(self) -> int:
        """When check_gap() has something to do; 0 when no gap is open."""
        if not self.gap:
            return 0
        return max(self._asked_ns, self._progress_ns) + int(self.config.gap_timeout * SECOND)

    def check_gap(self, now_ns: int) -> None:
        """No progress in gap_timeout: ask once more; again: give the session up and log on with 141=Y."""
        if not self.gap or now_ns < self.gap_deadline():
            return
        self._attempts += 1
        if self._attempts == 1:
            self._ask(self.gap.holes[0], now_ns)
            return
        self.force_reset = True
        self.close("gap_timeout", "the missing messages did not come", now_ns)

    # ------------------------------------------------------------ a gap closes

    def advance(self, expected: int) -> None:
        """Expect this number next."""
        self.sequence.expected = expected

    def pass_on(self, m: Message) -> int:
        """A W or X in its turn: to the handler now, or behind those that wait to be applied."""
        if not self._released:
            return fix.DELIVER
        self.release(m)
        return fix.DEFER

    def release(self, m: Message) -> None:
        """A kept message whose turn has come."""
        if m.is_market_data:
            self._released.append((m.seq, m.frame, m.recv_ns))
        else:
            admin.when_due(m)(self, m)  # type: ignore[arg-type]

    def drain(self, now_ns: int) -> None:
        """Take everything whose turn has come, and see which holes are closed by it."""
        while item := self.gap.pop_below(self.sequence.expected + 1):
            seq, kept = item
            if kept is not None and kept.type == "4":
                admin.fill(self, kept, kept.number(fix.NEW_SEQ_NO) or seq + 1)  # type: ignore[arg-type]
                continue
            self.advance(max(seq + 1, self.sequence.expected))
            if kept is not None:
                self.release(kept)
        if not self.gap:
            return
        self._progress_ns = now_ns
        for hole in self.gap.closed(self.sequence.expected):
            self.unsettled = True
            if hole.lost:
                self._to_heal(hole, "snapshot")
            else:
                self._replayed.append(hole)
        self.refresh_fast()

    def take_released(self, now_ns: int = 0) -> list[tuple[bytes, int]]:
        """Frames to apply now, in order, as (frame, recv_ns); call it until it is empty.

        The empty answer is what ends a gap: only then are the books whole and the fast path open again.
        Whoever applies them journals their numbers ("released"), behind the frame that set them free.
        """
        if self._released:
            taken = list(self._released)
            self._released.clear()
            return [(frame, recv_ns) for _, frame, recv_ns in taken]
        if self.unsettled:
            self._settled(now_ns)
        return []

    def _settled(self, now_ns: int) -> None:
        self.unsettled = False
        now_ns = now_ns or self._progress_ns
        healed, self._replayed = self._replayed, []
        for hole in healed:
            self.event(now_ns, "gap_close", id=hole.id, healed="replay")
        self.refresh_fast()
        if not self.gap:
            if healed and not self._lossy:
                self.app.on_gap_closed()
            self._lossy = False
        self.settle(now_ns)

    def settle(self, now_ns: int) -> None:
        """Logged on and no gap: say so once per connection."""
        if not self._announced and self.state == SessionState.ON and not self.gap and not self.unsettled:
            self._announced = True
            self.app.on_ready()

    # ------------------------------------------------------------ loss

    def lose(self, first: int, last: int, now_ns: int) -> None:
        """Numbers first..last will never come: the application subscribes again."""
        hole = self.gap.mark_lost(first, last)
        if hole is None:
            hole = self._open_hole(first, last, "lost", now_ns)
            self._to_heal(hole, "snapshot")
        self._lossy = bool(self.gap)
        self.count("messages_lost", last - first + 1)
        self.app.on_lost(first, last, hole.cause)

    def _to_heal(self, hole: Hole, how: str) -> None:
        self.unhealed.append((hole, how))
        if len(self.unhealed) > _MAX_UNHEALED:
            old, how = self.unhealed.popleft()
            self.event(hole.opened_ns, "gap_close", id=old.id, healed=how)

    def interrupted(self, cause: str, expected: int, now_ns: int, how: str = "reconnect") -> None:
        """Everything from `expected` to the next verified books is missing (one such gap at a time)."""
        self._announced = False
        for hole in self.gap.holes:
            self._to_heal(hole, how)
        for hole in self._replayed:
            self._to_heal(hole, how)
        if not any(hole.last is None for hole, _ in self.unhealed):
            self._to_heal(self._open_hole(expected, None, cause, now_ns), how)
        self.gap.holes.clear()
        self._replayed.clear()

    def books_verified(self, now_ns: int) -> None:
        """The application has all its books verified again: what was lost is healed from here on."""
        if self.gap or self.unsettled or self.state != SessionState.ON:
            return
        while self.unhealed:
            hole, how = self.unhealed.popleft()
            self.event(now_ns, "gap_close", id=hole.id, healed=how)
        rollover = self.rollover
        if rollover.began_ns and not rollover.verified_ns:
            rollover.verified_ns = now_ns
            seconds = (now_ns - rollover.began_ns) / SECOND
            self.event(now_ns, "rollover", phase="verified", form=rollover.form, seconds=seconds)

    def drop_queue(self, now_ns: int) -> None:
        """Forget what is held back: the numbers it has mean nothing any more."""
        numbers = [span for span in (self.gap.span(),) if span]
        numbers += [(seq, seq) for seq, _, _ in self._released]
        if numbers:
            first, last = min(low for low, _ in numbers), max(high for _, high in numbers)
            self.event(now_ns, "discarded", first=first, last=last)
        self._released.clear()
        self.gap.kept.clear()
        holes = list(self.gap.holes)
        self.gap.clear()
        self.gap.holes.extend(holes)
        self.unsettled = False
        self._asked = None
        self._garbled_at = 0
        self._lossy = False

    # ------------------------------------------------------------ new numbering, rollover

    def restart_numbering(self, expected: int, form: str, now_ns: int, both: bool) -> None:
        """The peer counts anew inside this connection; `both` when ours start at 1 as well."""
        planned = self.rollover.armed(now_ns)
        old = self.sequence.expected
        self.drop_queue(now_ns)
        self.interrupted("rollover" if planned else "lost", old, now_ns, "snapshot")
        if both:
            self.sequence.reset()
        self.advance(expected)
        if planned:
            self.rollover_began(form, now_ns)
        self.count("resets")
        self.event(now_ns, "reset", form=form, planned=planned)
        self.refresh_fast()

    def announce_reset(self, now_ns: int) -> None:
        """Tell the application, once the answer to the reset is in the outbox."""
        self._announced = True
        self.rollover_logged_on(now_ns)
        self.app.on_reset("rollover" if self.rollover.armed(now_ns) else "reset")

    def rollover_began(self, form: str, now_ns: int) -> None:
        """The planned reset reached us, in this form; the first form of a window names it."""
        if self.rollover.began(form, now_ns):
            late = (now_ns - self.rollover.instant(now_ns)) / SECOND
            self.event(now_ns, "rollover", phase="began", form=form, seconds_after=late)

    def rollover_logged_on(self, now_ns: int) -> None:
        """Logged on (or renumbered) after a rollover began."""
        rollover = self.rollover
        if rollover.began_ns and not rollover.logged_on_ns:
            rollover.logged_on_ns = now_ns
            seconds = (now_ns - rollover.began_ns) / SECOND
            self.event(now_ns, "rollover", phase="logged_on", form=rollover.form, seconds=seconds)

    def rollover_pending(self, now_ns: int) -> bool:
        """The instant has passed, its window is open, and nothing has happened yet."""
        return self.rollover.passed(now_ns) and not self.rollover.began_ns

    def rollover_timeout(self, now_ns: int) -> int:
        """The next moment at which rollover_tick() has something to say."""
        window = self.rollover.window_start(now_ns)
        return window if window > now_ns else self.rollover.next_instant(now_ns + 1)

    def rollover_tick(self, now_ns: int) -> None:
        """Arm before the instant, turn the trading date at it."""
        rollover = self.rollover
        if rollover.arm(now_ns):
            self.event(now_ns, "rollover", phase="armed", at=rollover.armed_for)
        if rollover.turn(now_ns):
            date = session_date(now_ns).isoformat()
            self.event(now_ns, "rollover", phase="date", date=date)
