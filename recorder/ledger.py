"""Converts session events and admin messages to rows of sessions, gaps, status and instruments."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from kfix_md.instruments import Instrument, Status
from kfix_md.journal import events
from kfix_md.journal.event_json import Decoded
from kfix_md.trading_day import DAY_NS, session_bounds, session_date
from recorder.gaps import Gap, GapTable, Row

TRADING_STATUS = {"0": "unknown", "1": "maintenance", "2": "online", "101": "cancel_only", "102": "post_only"}
GOOD = ("LIVE", "EMPTY", "HALTED")
_USABLE = ("LIVE", "EMPTY", "UNVERIFIED")  # states that lagging messages take away
_NO_STATUS_ROW = (events.BookChanged, events.SessionDescribed, events.Carried, events.Released, events.Discarded)
_SESSION_COLUMNS = (
    "session",
    "session_id",
    "service",
    "level",
    "depth",
    "host",
    "port",
    "sender",
    "target",
    "started_ns",
    "messages",
    "rows",
    "ignored",
    "last_seq",
)


@dataclass(slots=True)
class FeedSession:
    """What is known of one feed session: who it is, its current logon, its books and its instruments."""

    service: str
    session: int | None = None  # number of the current logon, None while there is none
    last_session: int | None = None
    session_id: str | None = None
    level: str | None = None
    depth: int | None = None
    host: str | None = None
    port: int | None = None
    sender: str | None = None
    target: str | None = None
    started_ns: int | None = None
    messages: int = 0
    rows: int = 0
    ignored: int = 0
    last_seq: int | None = None
    last_ns: int | None = None
    listed_level: str | None = None
    lagging: bool = False  # its messages are late: readers do not trust its books
    books: dict[str, str] = field(default_factory=dict)  # state by symbol
    causes: dict[str, str] = field(default_factory=dict)  # of those states that have one
    instruments: dict[str, Row] = field(default_factory=dict)  # rows are replaced, never changed

    @classmethod
    def restored(cls, saved: Row) -> FeedSession:
        """From what `saved` returned, perhaps in an older version."""
        known = {each.name for each in dataclasses.fields(cls)}
        found = cls(**{name: value for name, value in saved.items() if name in known})
        found.books, found.causes, found.instruments = dict(found.books), dict(found.causes), dict(found.instruments)
        return found

    def saved(self) -> Row:
        """As JSON; later changes of the session do not reach it."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        copies = {"books": dict(self.books), "causes": dict(self.causes), "instruments": dict(self.instruments)}
        return values | copies


class Ledger:
    """Rows of sessions, gaps, status and instruments, in the order of the journal.

    Parameters
    ----------
    saved
        What `saved()` returned in an earlier process: this one continues from there. It is copied.
    """

    def __init__(self, saved: dict[str, Any] | None = None):
        saved = saved or {}
        self.sessions = {int(k): FeedSession.restored(v) for k, v in saved.get("sessions", {}).items()}
        self.gaps = GapTable(saved.get("gaps"))
        self.next_session: int = saved.get("next_session", 1)
        self.last_ns: int = saved.get("last_ns", 0)
        self.feed: str | None = saved.get("feed")  # name of the feed that writes the journal
        self.served = {name: dict(copies) for name, copies in saved.get("served", {}).items()}  # of hot pairs: numbers
        self._stated_ns: int | None = saved.get("stated_ns")
        self._rows: dict[str, list[Row]] = defaultdict(list)

    def saved(self) -> dict[str, Any]:
        """The whole memory as JSON, separate from this object."""
        stated = {} if self._stated_ns is None else {"stated_ns": self._stated_ns}
        return {
            "sessions": {str(number): one.saved() for number, one in self.sessions.items()},
            "gaps": self.gaps.saved(),
            "next_session": self.next_session,
            "last_ns": self.last_ns,
            "feed": self.feed,
            "served": {name: dict(copies) for name, copies in self.served.items()},
            **stated,
        }

    def take(self) -> dict[str, list[Row]]:
        """Rows by table since the last call."""
        self._restate(self.last_ns)
        rows, self._rows = self._rows, defaultdict(list)
        if gaps := self.gaps.take():
            rows["gaps"] = gaps
        return rows

    def __len__(self) -> int:
        """Rows waiting to be taken."""
        return sum(map(len, self._rows.values())) + len(self.gaps)

    def session(self, number: int) -> FeedSession:
        """The feed session of this number."""
        if number not in self.sessions:
            self.sessions[number] = FeedSession(f"session-{number}")
        return self.sessions[number]

    def _source(self, number: int) -> Row:
        """Columns that name where the rows of a feed session come from."""
        return {"feed": self.feed, "service": self.session(number).service, "number": number}

    def ordinal(self, number: int, recv_ns: int) -> int:
        """Number of the current logon; one begins where the journal shows data without a logon."""
        current = self.session(number)
        return self._begin(number, recv_ns, None) if current.session is None else current.session

    # ---- events of the feed ----

    def event(self, number: int, recv_ns: int, position: int, found: Decoded) -> None:
        """One event of the journal."""
        event = found.event
        if isinstance(event, events.Started | events.Stopped):
            self._feed_down(recv_ns, position, event)
            self._restate(recv_ns)  # a date that began after the end of the feed begins with books that are DOWN
            self._forget_books()
        self._restate(recv_ns)
        self.last_ns = recv_ns
        self._apply(number, recv_ns, position, event)
        if not isinstance(event, _NO_STATUS_ROW):
            kind = event.name if isinstance(event, events.Unknown) else event.type
            symbol = event.symbol if isinstance(event, events.Served) else None
            self._status(recv_ns, number, symbol, "feed", kind, getattr(event, "cause", None), found.raw)
        elif isinstance(event, events.BookChanged):
            self._book(number, recv_ns, event, found.raw)

    def _apply(self, number: int, recv_ns: int, position: int, event: events.JournalEvent) -> None:
        """The effect of an event on sessions and gaps; the others are rows of status alone."""
        match event:
            case events.SessionDescribed():
                self._describe(self.session(number if event.number is None else event.number), event)
            case events.LoggedOn():
                self._logged_on(number, recv_ns, event.session_id)
            case events.Disconnected():  # the feed opens the gap of a lost session itself
                self._end(number, recv_ns, event.reason or event.cause or "disconnected")
            case events.NumberingReset():
                self._renumbered(number, recv_ns, event.form)
            case events.Started():
                self.feed = event.feed or self.feed
            case events.GapOpened():
                self._gap_opened(number, recv_ns, position, event)
            case events.GapClosed():
                healed = event.healed or "snapshot"
                self.gaps.close_reported(number, event.id, healed, event.first, event.last, recv_ns)
            case events.Subscribed(symbol=str(symbol)):
                if symbol not in self.session(number).books:
                    self._state(number, recv_ns, symbol, "SYNCING", "SUBSCRIBED")
                self.gaps.reconnected(number, recv_ns)
            case events.Unsubscribed(symbol=str(symbol)):
                self.gaps.recovered(number, symbol, recv_ns)
                self._state(number, recv_ns, symbol, "INIT", "NONE")
            case events.Lagging(over=over):
                self._lagging(number, recv_ns, bool(over))
            case events.Served(symbol=str(symbol)):
                self.served.setdefault(self.session(number).service, {})[symbol] = number
            case events.JournalLost():
                self._journal_lost(number, recv_ns, position, event)

    def _describe(self, current: FeedSession, event: events.SessionDescribed) -> None:
        for key in ("service", "level", "depth", "host", "port", "sender", "target"):
            if (value := getattr(event, key)) is not None:
                setattr(current, key, value)

    def _logged_on(self, number: int, recv_ns: int, session_id: str | None) -> None:
        current = self.session(number)
        if current.session is not None and not current.last_seq and not current.session_id:
            current.session_id = session_id  # begun a moment ago, by a reset or by its own frames
            self._session_row(number, None, None)
            return
        self._end(number, recv_ns, "logged on again")
        self._begin(number, recv_ns, session_id)

    def _renumbered(self, number: int, recv_ns: int, form: str | None) -> None:
        """MsgSeqNum restarts inside one connection: a session of its own."""
        current = self.session(number)
        if current.session is not None and current.last_seq:
            self._end(number, recv_ns, f"sequence reset ({form})")
            self._begin(number, recv_ns, current.session_id)

    def _begin(self, number: int, recv_ns: int, session_id: str | None) -> int:
        current = self.session(number)
        current.session, self.next_session = self.next_session, self.next_session + 1
        current.session_id, current.started_ns = session_id, recv_ns
        current.messages = current.rows = current.ignored = 0
        current.last_seq = None
        self._session_row(number, None, None)
        return current.session

    def _end(self, number: int, ended_ns: int, reason: str) -> None:
        current = self.session(number)
        if current.session is not None:
            self._session_row(number, ended_ns, reason)
            current.last_session, current.session = current.session, None

    def _session_row(self, number: int, ended_ns: int | None, reason: str | None) -> None:
        row = {name: getattr(self.session(number), name) for name in _SESSION_COLUMNS}
        self._rows["sessions"].append(row | self._source(number) | {"ended_ns": ended_ns, "reason": reason})

    def _feed_down(self, recv_ns: int, position: int, event: events.Started | events.Stopped) -> None:
        """The feed process ended: so did every session, with the last record that the process wrote."""
        reason = "the feed was stopped"
        if isinstance(event, events.Started):
            reason = f"the feed process was killed{_torn(event.recovered or {})}"
        since = max([self.last_ns, *(one.last_ns or 0 for one in self.sessions.values())]) or recv_ns
        for number, current in self.sessions.items():
            waiting = [symbol for symbol, state in current.books.items() if state != "INIT"]
            self.gaps.orphaned(number, waiting)
            if current.session is not None:
                gap = self._gap(number, "RESTART", since)
                gap.detail, gap.healed, gap.waiting = reason, "reconnect", waiting
                self.gaps.open(position + number, gap)
            for symbol in waiting:
                if current.books[symbol] != "DOWN":
                    self._state(number, since, symbol, "DOWN", "RESTART")
            self._end(number, since, reason)

    def _forget_books(self) -> None:
        """The next feed process has no book, and serves none."""
        for current in self.sessions.values():
            current.books, current.causes, current.lagging = {}, {}, False
        self.served = {}

    def _gap_opened(self, number: int, recv_ns: int, position: int, event: events.GapOpened) -> None:
        gap = self._gap(number, (event.cause or "LOST").upper(), recv_ns)
        if gap.cause == "RESTART" and self.gaps.adopt(number, event.id, event.first):
            return
        gap.first_seq, gap.last_seq, gap.feed_id, gap.detail = event.first, event.last, event.id, event.detail
        gap.symbol = event.symbols[0] if len(event.symbols) == 1 else None
        self.gaps.open(position, gap)

    def _gap(self, number: int, cause: str, ns: int) -> Gap:
        """A gap of the current logon, or of the last one: the feed reports a lost session's gap just after its end."""
        current = self.session(number)
        session = current.session if current.session is not None else current.last_session
        return Gap(number, session, current.service, cause, ns, planned=cause == "ROLLOVER", feed=self.feed)

    def _book(self, number: int, recv_ns: int, event: events.BookChanged, raw: Row) -> None:
        if event.symbol is None:
            return
        state, cause = (event.state or "").upper(), (event.cause or "NONE").upper()
        self._state(number, recv_ns, event.symbol, state, cause, raw)
        if state in GOOD or state == "INIT":
            self.gaps.recovered(number, event.symbol, recv_ns)

    def _state(self, number: int, recv_ns: int, symbol: str, state: str, cause: str, detail: Row | None = None) -> None:
        """The state of a book: a row of status where it is another than before, or has a cause."""
        current = self.session(number)
        self._first_copy(number, recv_ns, symbol)
        if current.books.get(symbol, "INIT") != state or cause != "NONE":
            self._status(recv_ns, number, symbol, "book", *self._shown(number, state, cause), detail)
        if state == "INIT":  # unsubscribed
            current.books.pop(symbol, None)
            current.causes.pop(symbol, None)
            return
        current.books[symbol] = state
        if cause != "NONE":
            current.causes[symbol] = cause
        else:
            current.causes.pop(symbol, None)

    # ---- what readers see of a state ----

    def _copies(self, number: int) -> list[FeedSession]:
        """The feed sessions of the same service: a hot pair has two."""
        service = self.session(number).service
        return [one for one in self.sessions.values() if one.service == service]

    def _first_copy(self, number: int, recv_ns: int, symbol: str) -> None:
        """Of a hot pair readers see the copy that knew a symbol first, until another one is served."""
        if len(self._copies(number)) > 1:
            served = self.served.setdefault(self.session(number).service, {})
            if served.setdefault(symbol, number) == number and symbol not in self.session(number).books:
                self._status(recv_ns, number, symbol, "feed", events.Served.type, None, None)

    def _shown(self, number: int, state: str, cause: str) -> tuple[str, str]:
        """State and cause of a book as shared memory shows them: not usable while the messages of all copies lag."""
        lagging = all(one.lagging for one in self._copies(number))
        return ("STALE", "LAGGING") if lagging and state in _USABLE else (state, cause)

    def _lagging(self, number: int, recv_ns: int, over: bool) -> None:
        copies = self._copies(number)
        before = all(one.lagging for one in copies)
        self.session(number).lagging = over
        if before == all(one.lagging for one in copies):
            return
        for other, current in self.sessions.items():
            for symbol, state in current.books.items() if current in copies else ():
                if state in _USABLE:
                    shown = self._shown(other, state, current.causes.get(symbol, "NONE"))
                    self._status(recv_ns, other, symbol, "book", *shown, None)

    # ---- the journal itself ----

    def _journal_lost(self, number: int, recv_ns: int, position: int, event: events.JournalLost) -> None:
        opened = recv_ns if event.first is None else event.first
        gap = Gap(number, None, self.session(number).service, "JOURNAL_LOST", opened, lost=event.count, feed=self.feed)
        gap.detail = f"{event.count} records were not stored: no room"
        self.gaps.close(self.gaps.open(position, gap), recv_ns if event.last is None else event.last)

    def damage(self, position: int, skipped: int, text: str) -> None:
        """Bytes of the journal that cannot be read."""
        gap = Gap(-1, None, None, "JOURNAL_DAMAGE", self.last_ns, lost=skipped, detail=text, feed=self.feed)
        self.gaps.close(self.gaps.open(position, gap), self.last_ns)

    def undecoded(self, number: int, count: int, position: int, first_ns: int, last_ns: int) -> None:
        """Messages that the feed applied and that could not be decoded."""
        gap = self._gap(number, "UNDECODED", first_ns)
        gap.lost = count
        gap.detail = f"{count} messages cannot be decoded: the instrument list before them is missing or damaged"
        self.gaps.close(self.gaps.open(position, gap), last_ns)

    # ---- messages ----

    def instrument(self, number: int, symbol: str) -> Instrument | None:
        """The latest known of an instrument."""
        row = self.session(number).instruments.get(symbol)
        return None if row is None else Instrument(**{**row, "status": Status[row["status"].upper()]})

    def carried(self, number: int, symbol: str, price_precision: int, qty_precision: int) -> Instrument:
        """An instrument of which the precisions alone are known now."""
        known = self.instrument(number, symbol) or Instrument(symbol, price_precision, qty_precision, Status.UNKNOWN)
        return dataclasses.replace(known, price_precision=price_precision, qty_precision=qty_precision)

    def instruments(self, number: int, recv_ns: int, listed: list[Instrument], level: str | None) -> None:
        """Instruments of a 35=y: a row for each that is new or has changed."""
        self._restate(recv_ns)
        ordinal = self.ordinal(number, recv_ns)
        current = self.session(number)
        current.listed_level = level
        for one in listed:
            row = asdict(one) | {"status": one.status.name.lower()}
            symbol, before = row["symbol"], current.instruments.get(row["symbol"])
            if before == row:
                continue
            current.instruments[symbol] = row
            context = {"recv_ns": recv_ns, "session": ordinal, "level": level, **self._source(number)}
            self._rows["instruments"].append(row | context)
            if before is None or before["status"] != row["status"]:
                self._status(recv_ns, number, symbol, "instrument", row["status"], None, row)

    def _restate(self, now_ns: int) -> None:
        """Every session date begins with all that was known of instruments and books: none is looked up in another."""
        start = max(session_bounds(session_date(now_ns))[0], -1 << 63)
        before = start if self._stated_ns is None else self._stated_ns
        if start < before - DAY_NS:  # the clock had been far ahead: the dates that follow are to have theirs
            before = start - 1
        if start > before:
            for copies in self.served.values():
                for symbol, number in copies.items():
                    if symbol not in self.session(number).books:
                        continue  # unsubscribed: it has no state to begin the date with
                    self._status(start, number, symbol, "feed", events.Served.type, None, None)
            for number, current in self.sessions.items():
                for symbol, state in current.books.items():
                    shown = self._shown(number, state, current.causes.get(symbol, "NONE"))
                    self._status(start, number, symbol, "book", *shown, None)
                ordinal = current.session if current.session is not None else current.last_session
                context = {"recv_ns": start, "session": ordinal, "level": current.listed_level, **self._source(number)}
                self._rows["instruments"] += [row | context for row in current.instruments.values()]
        self._stated_ns = max(start, before)

    def trading_status(self, number: int, recv_ns: int, fields: dict[int, str]) -> None:
        """35=h TradingSessionStatus."""
        state = fields.get(340)
        self._status(recv_ns, number, None, "trading_session", TRADING_STATUS.get(state or "", state), None, fields)

    def counted(self, number: int, messages: int, rows: int, ignored: int, last_seq: int, last_ns: int) -> None:
        """What the decoder of a feed session has decoded since the last call."""
        current = self.session(number)
        if not messages:
            return
        self.ordinal(number, last_ns)
        current.messages += messages
        current.rows += rows
        current.ignored += ignored
        current.last_seq = max(current.last_seq or 0, last_seq) or None
        current.last_ns = last_ns
        self.last_ns = max(self.last_ns, last_ns)

    def _status(
        self, recv_ns: int, number: int, symbol: str | None, kind: str, state: str | None, cause: Any, detail: Any
    ) -> None:
        current = self.session(number)
        self._rows["status"].append(
            {
                **self._source(number),
                "recv_ns": recv_ns,
                "session": current.session,
                "symbol": symbol,
                "kind": kind,
                "state": state,
                "cause": None if cause is None else str(cause),
                "detail": None if detail is None else json.dumps(detail),
            }
        )


def _torn(recovered: dict[str, Any]) -> str:
    lost = sum(n for key in ("torn_bytes", "damaged_bytes") if isinstance(n := recovered.get(key), int) and n < 1 << 62)
    return f"; {lost} bytes of the journal after its last sound record were lost" if lost else ""
