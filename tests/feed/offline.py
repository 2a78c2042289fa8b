"""A service without I/O against a venue of plain frames: the clock is a number, and every state of a book is noted."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from kfix_md._entry import State
from kfix_md.config import ServiceSection
from kfix_md.feed.service import Service
from kfix_md.feed.subscriptions import is_followed
from kfix_md.journal.events import GapClosed, GapOpened, JournalEvent
from tests.session.peer import NOON, frame, parse

MS = 1_000_000
SECOND = 1000 * MS
BOOK = ((0, "10.0", "1"), (1, "11.0", "1"))  # 269, 270, 271


class Journal:
    """Keeps events with their times; frames are not of interest here."""

    def __init__(self) -> None:
        self.events: list[tuple[int, JournalEvent]] = []

    def event(self, _session, now_ns, event) -> None:
        self.events.append((now_ns, event))


class Offline:
    """One service and its venue, which answers every request unless a type is in `mute`.

    A 35=V is answered `latency` ns later (see `wait`), at once with 0. `wiring` are more arguments of Service.
    """

    def __init__(self, *symbols: str, start=NOON, number=0, wiring: dict[str, Any] | None = None, **section) -> None:
        self.now, self.symbols = start, list(symbols or ("A/USD", "B/USD"))
        settings = {"name": "spot-l2", "sender_comp_id": "CLIENT", "symbols": ["*"], "heartbeat_s": 60, **section}
        self.service = Service(ServiceSection(**settings), number, start_ns=start, **(wiring or {}))
        self.journal = Journal()
        if self.service.journal is None:
            self.service.journal = self.journal
        self.service.on_state = self._on_state
        self.status = {symbol: 1 for symbol in self.symbols}  # 5032
        self.trading = 2  # 340
        self.mute: set[str] = set()
        self.requests: dict[str, str] = {}  # symbol -> 262
        self.sent: list[tuple[str, dict[int, str]]] = []  # what the service sent
        self.states: dict[str, list[tuple[int, State]]] = defaultdict(list)
        self.seq = 0
        self.latency = 0
        self._due: list[tuple[int, str, str]] = []  # (when, symbol, 262) of the snapshots that are on their way

    def _on_state(self, _service, symbol, state) -> None:
        self.states[symbol].append((self.now, state))

    # ---- time and bytes ----

    def wait(self, seconds: float, step: float = 0.01) -> Offline:
        """Let time pass, with a tick each `step`."""
        until = self.now + int(seconds * SECOND)
        while self.now < until:
            self.now = min(until, self.now + int(step * SECOND))
            self.service.tick(self.now)
            self._answer()
            while self._due and self._due[0][0] <= self.now:
                _, symbol, request = self._due.pop(0)
                if self.requests.get(symbol) == request:
                    self.snapshot(symbol)
        return self

    def bytes(self, *frames: bytes) -> Offline:
        """One read of these frames."""
        data = b"".join(frames)
        buffer = self.service.handler.get_buffer(len(data))
        buffer[: len(data)] = data
        self.service.received(len(data), self.now)
        self._answer()
        return self

    def frame(self, kind: str, *body, **header) -> bytes:
        """The venue's next frame; `seq` replaces its number."""
        if "seq" not in header:
            self.seq += 1
        return frame(kind, header.pop("seq", self.seq), self.now, *body, **header)

    def give(self, kind: str, *body, **header) -> Offline:
        """Send the venue's next frame."""
        return self.bytes(self.frame(kind, *body, **header))

    def _answer(self) -> None:
        while self.service.session.outbox:
            raw, *rest = self.service.session.outbox
            self.service.session.outbox[:] = rest
            fields = {tag: value.decode() for tag, value in reversed(parse(raw))}
            self.sent.append((fields[35], fields))
            if fields[35] not in self.mute:
                self._respond(fields[35], fields)

    def _respond(self, kind: str, fields: dict[int, str]) -> None:
        if kind == "A":
            self.seq = 0 if fields.get(141) == "Y" else self.seq
            self.give("A", (98, 0), (108, fields[108]), *([(141, "Y")] if fields.get(141) == "Y" else []))
        elif kind == "x":
            self.listing(fields[320])
        elif kind == "g":
            self.give("h", (335, fields[335]), (336, "SESSION"), (340, self.trading))
        elif kind == "1":
            self.give("0", (112, fields[112]))
        elif kind == "V" and fields[263] == "1":
            self.requests[fields[55]] = fields[262]
            if self.latency:
                self._due.append((self.now + self.latency, fields[55], fields[262]))
            else:
                self.snapshot(fields[55])
        elif kind == "V":
            self.requests.pop(fields[55], None)

    # ---- what a venue sends ----

    def connect(self) -> Offline:
        """Log on, with everything that follows."""
        self.requests.clear()
        self.service.connected(self.now)
        self._answer()
        return self

    def lose(self, reason: str = "fin") -> Offline:
        """The connection is gone."""
        self.service.disconnected(self.now, reason)
        self.requests.clear()
        return self

    def listing(self, request_id: str) -> None:
        """35=y of all symbols."""
        rows = []
        for symbol in self.symbols:
            rows += [(55, symbol), (5010, 8), (2349, 1), (5022, "0.1"), (5032, self.status[symbol])]
        self.give("y", (320, request_id), (322, "r"), (560, 0), (146, len(self.symbols)), *rows)

    def body(self, symbol: str, *entries, action: int | None = 1):
        """Fields of a W or X from 55 on."""
        groups = []
        for side, price, qty in entries:
            groups += [] if action is None else [(279, action)]
            groups += [(269, side), (278, f"{'BO'[side]}{price}"), (270, price), (271, qty), (273, "12:00:00.000")]
        return [(55, symbol), (262, self.requests[symbol]), (268, len(entries)), *groups]

    def snapshot(self, symbol: str, entries=BOOK, **header) -> Offline:
        """35=W."""
        return self.give("W", *self.body(symbol, *entries, action=None), **header)

    def update(self, symbol: str, qty: str = "2", **header) -> Offline:
        """35=X of the best offer."""
        return self.give("X", *self.body(symbol, (1, "11.0", qty)), **header)

    # ---- what a reader and a researcher see ----

    def state(self, symbol: str = "A/USD") -> str:
        """Name of the present state."""
        return self.service.state_of(symbol).name

    def cause(self, symbol: str = "A/USD") -> str:
        """Name of the present cause."""
        return self.service.handler.book_state(symbol)[1].name

    def outages(self, symbol: str) -> list[tuple[int, int]]:
        """[(from, to)] in which the book was not followed, from its first snapshot on."""
        found: list[tuple[int, int]] = []
        since = None
        begun = False
        for at, state in self.states[symbol]:
            begun |= is_followed(state)
            if is_followed(state) and since is not None:
                found.append((since, at))
            since = None if is_followed(state) or not begun else at if since is None else since
        return [each for each in found + ([(since, self.now)] if since is not None else []) if each[0] < each[1]]

    def gaps(self, symbol: str) -> list[tuple[int, int]]:
        """[(from, to)] that gap rows state for the symbol, those that touch joined."""
        opened, rows = {}, []
        for at, event in self.journal.events:
            if isinstance(event, GapOpened) and symbol in event.symbols:
                opened[event.id] = at
            elif isinstance(event, GapClosed) and event.id in opened:
                rows.append((opened.pop(event.id), at))
        rows += [(at, self.now) for at in opened.values()]
        joined: list[tuple[int, int]] = []
        for start, end in sorted(rows):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            elif end > start:
                joined.append((start, end))
        return joined
