"""`kfix follow`: publishes the books of a journal, through the same decoder and books as the feed that writes it.

The states of books are the source's: each change is in its journal. What the source cannot report, that it has ended
or is silent, makes all of its books STALE; a backlog makes them LAGGING until it is read.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from kfix_md._entry import Cause, State
from kfix_md._follow import FollowedSession, follow, skip_market_data
from kfix_md._handler import Handler
from kfix_md._state import Event, is_trusted
from kfix_md.errors import CaptureError, KfixError, NoSuchSymbol, ProtocolError, UsageError
from kfix_md.feed.notify import Notifier
from kfix_md.feed.place import Place
from kfix_md.journal import events, files
from kfix_md.journal.event_json import EventError, decode
from kfix_md.journal.reader import EVENT, FRAME, JournalReader
from kfix_md.shm.locks import held
from kfix_md.shm.writer import SegmentWriter

log = logging.getLogger("kfix.follow")

Record = tuple[int, int, int, int, int, bytes]  # as JournalReader yields them

States = dict[str, tuple[State, Cause]]  # of books by symbol

SECOND = 1_000_000_000
CHUNK = 20_000  # records between two heartbeats, while there is a backlog
PAUSE_S = 0.0005  # between two looks for new records
HEARTBEAT_NS = 500_000_000
BEAT_NS = 100_000_000
ABSENT_NS = SECOND  # silence after which it is looked whether the source lives, and how often
#: silence after which old messages are those of a quiet source; a mirror without a source has no lock by then
QUIET_NS = 4 * SECOND
HEARTBEATS_MISSED = 3
HEARTBTINT_S = 30  # of a session whose Logon the journal no longer has
SOUND = frozenset({State.LIVE, State.EMPTY, State.UNVERIFIED})
#: why a book is in GAP while messages of its whole session are missing
GAPS = frozenset({Cause.LOST, Cause.CHECKSUM, Cause.OVERFLOW})


@dataclass(slots=True)
class Described:
    """What the journal has about a session of the source."""

    service: str = ""
    level: str = "auto"
    depth: int = 0
    heartbeat_s: int = HEARTBTINT_S
    lagging: bool = False
    connected: bool = False


class JournalFollower:
    """Follows one journal into one segment.

    Parameters
    ----------
    journal : path
        Directory of the journal, of a feed on this machine or a replica of one.
    writer : SegmentWriter
    max_lag_s : float
        How old what is being read may be before all books are LAGGING.

    Attributes
    ----------
    absent : str
        Why the source is taken for ended or stopped; "" while it lives.
    states_differ : int
        Changes of a book's state in the journal that could not be followed.
    damages : int
        Places of the journal that could not be read.
    """

    def __init__(self, journal: Path, writer: SegmentWriter, max_lag_s: float = 5.0) -> None:
        self.journal, self.writer, self.max_lag_ns = journal, writer, int(max_lag_s * SECOND)
        self.sessions: list[FollowedSession | None] = []
        self.described: list[Described] = []
        self.served: dict[tuple[str, str], int] = {}  # by service and symbol: the session of a pair that is published
        self.absent = ""
        self.states_differ = self.damages = 0
        self._reader = JournalReader(journal)
        self._backlog = False
        self._before: list[States] = []  # states of books, by session, when the source became absent
        self._last_ns, self._looked_ns = time.monotonic_ns(), 0
        self._start()

    # ---- where to begin ---------------------------------------------------------------------------

    def _start(self) -> None:
        """Go to the start of the segment from which on each session can be followed: that of its last Logon."""
        numbers = sorted(files.segments(self.journal))
        wanted: set[int] | None = None
        for number in reversed(numbers):
            logged_on, described, began = self._heads(number)
            if wanted is None and described:
                wanted = described
            if wanted is not None:
                wanted -= logged_on
            if began or wanted == set():
                self._reader.seek(number << 32)
                return
        self._reader.seek(0)

    def _heads(self, number: int) -> tuple[set[int], set[int], bool]:
        """Of a segment: sessions with a Logon, sessions described, whether the feed process began in it."""
        logged_on: set[int] = set()
        described: set[int] = set()
        began = False
        reader = JournalReader(self.journal, number << 32)
        reader.hold_at_end = True
        while (record := skip_market_data(reader)) is not None:
            if record[1] != EVENT or record[0] >> 32 != number:
                continue
            event = _event(record)
            if isinstance(event, events.SessionDescribed):
                described.add(record[2])
            elif isinstance(event, events.LoggedOn):
                logged_on.add(record[2])
            elif isinstance(event, events.Started):
                began, logged_on, described = True, set(), set()
        return logged_on, described, began

    # ---- reading ----------------------------------------------------------------------------------

    def step(self) -> bool:
        """Read on, CHUNK records at most; whether there was anything to read."""
        try:
            if self.absent and self._frame_comes():
                self._present()  # before its messages are applied: their verdicts are those of trusted books
            what, record = follow(self._reader, self.sessions, CHUNK)
        except CaptureError as error:  # its segments were retired before they were read
            self._lose(str(error))
            self._start()
            return True
        if what == "nothing":
            self._caught_up()
            return False
        self._last_ns = time.monotonic_ns()
        if what == "damaged":
            return self._step_over()
        event = self._read(record) if record is not None else None
        if self.absent and not isinstance(event, events.Started):
            self._present()
        if record is not None and event is not None:
            self._apply(record[2], event)
        self._check_backlog()
        return True

    def _frame_comes(self) -> bool:
        """Whether the next record is a message: the source goes on without having been started again."""
        position = self._reader.position
        try:
            record = self._reader.read()
        except CaptureError:
            return False  # the next step meets it too
        if record is not None:
            self._reader.seek(position)
        return record is not None and record[1] == FRAME

    def _read(self, record: Record) -> events.JournalEvent | None:
        """The event of a record; instruments are learnt from a frame, and None returned."""
        _position, kind, number, recv_ns, _flags, body = record
        if kind == EVENT:
            event = _event(record)
            if event is None:
                self._lose(f"an event of session {number} that cannot be read")
            return event
        session = self._session(number)
        if kind == FRAME and session is not None:
            with contextlib.suppress(ProtocolError):  # the feed could not read it either
                session.handler.deliver(body, recv_ns)
        return None

    def _step_over(self) -> bool:
        text = str(self._reader.damage)
        if not self._reader.resync():
            return False  # the torn end of a source that died
        self._lose(text)
        return True

    def _lose(self, text: str) -> None:
        """Records are missing: no book is trusted before its next snapshot."""
        self.damages += 1
        log.error("%s: what was there is lost, and books are not trusted before their next snapshots", text)
        for session in filter(None, self.sessions):
            session.discard()
            session.handler.books.void_books(Event.LOST, Cause.LOST)

    # ---- sessions ---------------------------------------------------------------------------------

    def _session(self, number: int) -> FollowedSession | None:
        return self.sessions[number] if number < len(self.sessions) else None

    def _describe(self, number: int, event: events.SessionDescribed) -> None:
        while len(self.sessions) <= number:
            self.sessions.append(None)
            self.described.append(Described())
        known = self.described[number]
        level, service = event.level or "auto", event.service or ""
        if self.sessions[number] is None or (known.level, known.service) != (level, service):
            self.described[number] = known = Described(service, level)
            # the sessions of a hot pair share their slots, and one copy of each book is published: see `_serve`
            first = next(i for i, each in enumerate(self.described) if each.service == service)
            handler = Handler(level=level, session_number=number, publisher=self.writer, standby_for=first)
            self.sessions[number] = FollowedSession(handler)
        known.depth = max(event.depth or 0, 0)
        self.writer.set_session(
            number,
            service=service,
            state="ON" if known.connected else "DOWN",  # each segment begins with a description
            host=event.host,
            port=event.port,
            level=level,
            sender=event.sender,
            target=event.target,
        )

    def _apply(self, number: int, event: events.JournalEvent) -> None:
        if isinstance(event, events.Started):
            self._begin()
        elif isinstance(event, events.Stopped):
            self._ended("the source has ended")
        elif isinstance(event, events.JournalLost):
            self._lose("the source could not record messages")
        elif isinstance(event, events.SessionDescribed):
            self._describe(number, event)
        elif (session := self._session(number)) is not None:
            self._of_session(number, session, event)

    def _of_session(self, number: int, session: FollowedSession, event: events.JournalEvent) -> None:
        handler, known = session.handler, self.described[number]
        if isinstance(event, events.BookChanged):
            self._book(number, session, event)
        elif isinstance(event, events.Carried):
            for symbol, precisions in event.instruments.items():
                _define(handler, symbol, precisions)
        elif isinstance(event, events.Subscribed) and _knows(event.symbol, handler) and event.md_req_id:
            halted = handler.book_state(event.symbol)[0] is State.HALTED
            handler.fast = True  # nothing is subscribed while messages of the session are missing
            handler.subscribe(event.symbol, event.md_req_id, known.depth, halted)
        elif isinstance(event, events.Unsubscribed) and _knows(event.symbol, handler):
            handler.unsubscribe(event.symbol)
        elif isinstance(event, events.Released):
            session.release(event.first or 0, event.last)
            handler.fast = True
        elif isinstance(event, events.Discarded):
            session.discard(event.first or 0, event.last)
        elif isinstance(event, events.LoggedOn):
            known.heartbeat_s, known.connected = event.heartbeat or HEARTBTINT_S, True
            self.writer.set_session(number, state="ON", since_ns=self.writer.now_ns())
        elif isinstance(event, events.Disconnected):
            session.discard()
            known.connected = False
            self.writer.set_session(number, state="DOWN", since_ns=self.writer.now_ns())
        elif isinstance(event, events.Lagging):
            known.lagging = bool(event.over)
            self._show_lag()
        elif isinstance(event, events.Served) and event.symbol is not None and event.session is not None:
            self._serve(event.symbol, known.service, event.session)

    def _book(self, number: int, session: FollowedSession, event: events.BookChanged) -> None:
        """Follow a change of a book's state."""
        handler, symbol = session.handler, event.symbol
        state, cause = State.__members__.get(event.state or ""), Cause.__members__.get(event.cause or "", Cause.NONE)
        if symbol is None or state is None or not _knows(symbol, handler):
            return
        if state is State.GAP and cause in GAPS:
            handler.fast = False
        elif state in SOUND or state is State.HALTED:
            handler.fast = True
        service = self.described[number].service
        if (service, symbol) not in self.served:
            self._serve(symbol, service, number)
        if handler.book_state(symbol)[:2] != (state, cause):
            handler.mark(symbol, state, cause)
        if (found := handler.book_state(symbol)[0]) is not state and (is_trusted(found) or is_trusted(state)):
            self.states_differ += 1
            log.debug("%s of session %d: %s in the journal, %s here", symbol, number, state.name, found.name)

    def _serve(self, symbol: str, service: str, number: int) -> None:
        """The copy of one session of a pair is published."""
        self.served[service, symbol] = number
        for other, session in enumerate(self.sessions):
            if session is not None and self.described[other].service == service and _knows(symbol, session.handler):
                session.handler.books.serve(symbol, other == number)

    # ---- whether it can be believed -----------------------------------------------------------------

    def _begin(self) -> None:
        """A feed process begins: its sessions, and their books, begin with it."""
        if self.absent:
            log.info("journal %s: the source was started again", self.journal)
        self.absent = ""
        self.served.clear()
        for number, session in enumerate(self.sessions):
            if session is not None:
                session.discard()
                session.handler.books.void_books(Event.DISCONNECT, Cause.RESTART)
                self.described[number].lagging = self.described[number].connected = False
                self.writer.set_session(number, state="DOWN")
        self._show_lag()

    def _ended(self, why: str) -> None:
        """All books are STALE until the source's journal goes on."""
        if not self.absent:
            log.warning("journal %s: %s; books are STALE until it goes on", self.journal, why)
            self._before = [_states(session) for session in self.sessions]
        self.absent = why
        for number, session in enumerate(self.sessions):
            if session is not None:
                session.handler.mark(None, State.STALE, Cause.RESTART)
                self.writer.set_session(number, state="DOWN")

    def _present(self) -> None:
        if self.absent:
            log.info("journal %s goes on", self.journal)
            self.absent = ""
            for number, session in enumerate(self.sessions):
                if session is not None:
                    _restore(session, self._before[number])
                    self.writer.set_session(number, state="ON" if self.described[number].connected else "DOWN")

    def _caught_up(self) -> None:
        """Everything is read: a backlog is over, unless a mirror still receives it; a long silence means something."""
        now_ns = time.monotonic_ns()
        silence_ns = now_ns - self._last_ns
        if self._backlog and (silence_ns >= QUIET_NS or not self._is_late()):
            self._backlog = False
            self._show_lag()
        if self.absent or silence_ns < ABSENT_NS or now_ns - self._looked_ns < ABSENT_NS:
            return
        self._looked_ns = now_ns
        if not (held("journal", self.journal) or files.writer_alive(self.journal)):
            self._ended("no process writes it")
        elif silence_ns > self._silence_ns():
            self._ended(f"nothing was recorded for {silence_ns // SECOND} s, not even a Heartbeat")

    def _silence_ns(self) -> int:
        """How long a source with a session may record nothing: every session has a Heartbeat now and then."""
        intervals = [known.heartbeat_s for known in self.described if known.connected]
        return HEARTBEATS_MISSED * min(intervals, default=1 << 30) * SECOND

    def _check_backlog(self) -> None:
        if not self._backlog and self._is_late():
            self._backlog = True
            self._show_lag()

    def _is_late(self) -> bool:
        """Whether the newest message was received longer ago than max_lag_s."""
        newest = max((session.recv_ns for session in self.sessions if session is not None), default=0)
        return newest > 0 and self.writer.now_ns() - newest > self.max_lag_ns

    def _show_lag(self) -> None:
        for number, known in enumerate(self.described):
            copies = [each.lagging for each in self.described if each.service == known.service]
            self.writer.set_lagging(number, self._backlog or all(copies))

    # ---- what is counted ----------------------------------------------------------------------------

    def publish(self) -> None:
        """Write counts, and what consoles show of the sessions, into the segment."""
        for counter, value in self.counts().items():
            self.writer.set_counter(counter, value)
        for number, session in enumerate(self.sessions):
            if session is not None:
                self.writer.set_session(number, messages=session.messages, last_recv_ns=session.recv_ns)

    def counts(self) -> dict[str, int]:
        """Named counts, as they are published."""
        there = [session for session in self.sessions if session is not None]
        return {
            "messages": sum(session.messages for session in there),
            "verdicts_differ": sum(session.differ for session in there),
            "not_applied": sum(session.not_applied for session in there),
            "states_differ": self.states_differ,
            "journal_damages": self.damages,
            "journal_position": self._reader.position,
        }


def _states(session: FollowedSession | None) -> States:
    """States of the books of a session."""
    handler = session.handler if session is not None else None
    return {symbol: handler.book_state(symbol)[:2] for symbol in handler.symbols} if handler is not None else {}


def _restore(session: FollowedSession, states: States) -> None:
    """Give books that were STALE the states that they had."""
    handler = session.handler
    handler.mark(None, State.LIVE)  # those that are whole
    for symbol, (state, cause) in states.items():
        if handler.book_state(symbol)[:2] != (state, cause):
            handler.mark(symbol, state, cause)  # it was halted, or waits for a snapshot


def _knows(symbol: str | None, handler: Handler) -> TypeGuard[str]:
    try:
        handler.precisions(symbol or "")
    except NoSuchSymbol:
        return False
    return True


def _define(handler: Handler, symbol: str, precisions: tuple[int, int]) -> None:
    """Make an instrument known; one of which no book can be kept is left out, as the feed does."""
    if _knows(symbol, handler) and handler.precisions(symbol) == tuple(precisions):
        return
    try:
        handler.define(symbol, *precisions)
    except KfixError as error:
        log.warning("%s is left out: %s", symbol, error)


def _event(record: Record) -> events.JournalEvent | None:
    try:
        return decode(record[5]).event
    except EventError:
        return None


def run(journal: Path, name: str, directory: str, mode: int = 0o600, max_lag_s: float = 5.0, **room: Any) -> int:
    """`kfix follow`: follow a journal until SIGTERM or Ctrl-C; returns the exit status."""
    if not journal.is_dir():
        raise UsageError(f"no journal at {journal}: name the directory [journal] of the feed's configuration names")
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda caught, _frame: stopping.append(caught))
    notifier = Notifier()
    with SegmentWriter(name, directory, mode, heartbeat_ns=HEARTBEAT_NS, **room) as writer:
        follower = JournalFollower(journal, writer, max_lag_s)
        place = Place(writer)
        log.info("following journal %s as feed '%s', shared memory %s", journal, name, writer.path)
        notifier.send("READY=1")
        beat_ns = 0
        while not stopping:
            read = follower.step()
            now_ns = time.monotonic_ns()
            if now_ns - beat_ns >= BEAT_NS:
                beat_ns = now_ns
                writer.heartbeat()
                place.check()
                notifier.alive()
                follower.publish()
            if not read:
                time.sleep(PAUSE_S)
        log.info("stopping")
        notifier.send("STOPPING=1")
    return 0
