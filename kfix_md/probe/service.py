"""Probes one service: logs on, requests the list, subscribes to a few symbols, and notes what the gateway does."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from kfix_md.config import ServiceSection
from kfix_md.feed.checks import read_secret
from kfix_md.feed.dial import DialError, DialResult, Endpoint, dial, tls_context
from kfix_md.probe import reading
from kfix_md.probe.assumptions import BY_KEY, Assumption
from kfix_md.probe.client import Client, Frame
from kfix_md.probe.market import MarketProbe
from kfix_md.session import fix, refusals


@dataclass(frozen=True)
class ProbePace:
    """How patient the probe is, in seconds."""

    data: float = 20.0  # collecting market data
    answer: float = 5.0  # waiting for an answer that is expected
    reject: float = 2.0  # waiting for an answer that may not come
    between: float = 0.25  # between two requests
    late: float = 2.0  # data later than this after the end of a subscription is late
    shallow: float = 10.0  # watching a subscription of ten levels


class Ended(Exception):
    """The gateway ended the session or the connection in the middle of the probe."""


#: fields of a Logon reply that Kraken's reference lists, and those of the header and trailer
_LOGON_FIELDS = frozenset({8, 9, 10, 34, 35, 43, 49, 52, 56, 58, 98, 108, 122, 141, 789})
#: assumptions that a connection which fails in this way disproves
_KINDS = {"identity": "certificate", "tls": "tls-version"}


class Seen(NamedTuple):
    """What a gateway did about one assumption; `as_expected` is None when the probe could not see it."""

    assumption: Assumption
    text: str
    as_expected: bool | None


class ServiceProbe:
    """The experiments on one service, in order; each notes one or more assumptions.

    Parameters
    ----------
    section : ServiceSection
        The service as configured.
    create : callable
        What `kfix_md.feed.dial.choose_engine` returned.
    symbols : int
        How many symbols to subscribe to.
    pace : Pace
        How long to wait for what.
    room : int
        Books that the configured feed has room for.
    """

    def __init__(
        self, section: ServiceSection, create: Callable[..., Any], *, symbols: int, pace: ProbePace, room: int = 1 << 31
    ) -> None:
        self.section, self.create = section, create
        self.count, self.pace, self.room = symbols, pace, room
        self.seen: dict[str, Seen] = {}
        self.client = Client(section.sender_comp_id, str(section.target_comp_id))
        self.problem = ""
        self.rows: list[reading.Listed] = []
        self.symbols: list[str] = []
        self.checksums: dict[str, reading.Checksums] = {}
        self._ids = itertools.count(int(time.time()) % 100_000 * 1000)

    # ---- notes

    def note(self, key: str, text: str, as_expected: bool | None) -> None:
        """Keep what was seen about one assumption."""
        self.seen[key] = Seen(BY_KEY[key], text, as_expected)

    def results(self) -> list[Seen]:
        """What was seen about every assumption that applies here, in the order of the table."""
        spec = self.section.spec
        wanted = [each for each in BY_KEY.values() if each.applies_to(spec.market, spec.level)]
        return [self.seen.get(each.key, Seen(each, "not seen", None)) for each in wanted]

    # ---- the order of the experiments

    async def run(self, rollover_at: float | None = None) -> None:
        """Run every experiment; `problem` is why the probe ended early.

        Parameters
        ----------
        rollover_at : float, optional
            Unix time of the reset to stay for, in seconds.
        """
        try:
            await self._connect()
            if await self._logon():
                await self._session(rollover_at)
        except DialError as error:
            self.problem = str(error)
            if error.kind in _KINDS:
                self.note(_KINDS[error.kind], str(error), False)
        finally:
            self.client.abort()

    async def _session(self, rollover_at: float | None) -> None:
        beats = asyncio.create_task(self._heartbeats())
        try:
            await self._experiments()
            if rollover_at is not None:
                await self._rollover(rollover_at)
            await self._logout()
        except Ended as ended:
            self.problem = str(ended)
        finally:
            beats.cancel()
            MarketProbe(self).read()

    async def _experiments(self) -> None:
        await self._test_request()
        await self._instrument_list()
        if not self.symbols:
            self.problem = self.problem or "no symbol to subscribe to"
            return
        market = MarketProbe(self)
        await market.subscribe(self.symbols)
        await market.unknown_symbol()
        await market.resend()
        if self.section.spot:
            await self._trading_status()
        self._note_update_rows()

    def new_id(self) -> str:
        return f"PRB{next(self._ids)}"

    async def request(self, msg_type: str, body: fix.Body) -> int:
        """Send politely; returns the position from which answers are found. Raises Ended when it is gone."""
        await asyncio.sleep(self.pace.between)
        client = self.client
        farewell = next((f for f in client.received() if f.type == "5"), None)
        if client.closed.is_set() or farewell is not None:
            sent = [frame for frame in client.frames if not frame.inbound and frame.type != "0"]
            text = f"Logout {farewell.text(58)!r}" if farewell is not None else client.close_text
            raise Ended(
                f"the gateway ended the session ({text}) after our 35={sent[-1].type}, MsgSeqNum {sent[-1].text(34)}"
            )
        at = len(client.frames)
        client.send(msg_type, body)
        return at

    # ---- connection and logon

    async def _connect(self) -> None:
        end = Endpoint.of(self.section)
        _, details = await dial(end, lambda: self.client, tls_context(end), self.create)
        self._note_connection(details)

    def _note_connection(self, details: DialResult) -> None:
        if not details.tls_version:
            self.note("tls-version", "no TLS (a tunnel on this machine)", None)
            return
        took = f"{details.took_s * 1000:.0f} ms to {details.address}"
        self.note("tls-version", f"{details.tls_version}, {took}", details.tls_version == "TLSv1.3")
        until = details.certificate.get("notAfter", "not shown")
        verified = self.section.verify
        self.note("certificate", f"{'verified' if verified else 'not verified'}, until {until}", verified or None)

    async def _logon(self) -> bool:
        section, client = self.section, self.client
        body = fix.logon(section.heartbeat_s, True)
        body += [(int(tag), value) for tag, value in section.logon_fields.items()]
        if section.api_key and section.api_secret:
            key, secret = read_secret(section.api_key), read_secret(section.api_secret)
            body += fix.credentials(key, secret, 1, client.sender, client.target, time.time_ns())
        client.send("A", body)
        reply = await client.wait(lambda frame: frame.type in "A5", section.logon_timeout_s)
        if reply is None or reply.type == "5":
            text = f"Logout: {reply.text(58)}" if reply else client.close_text or "no answer"
            advice = refusals.explain(reply.text(58)) if reply else ""
            self.problem = f"no logon: {text}" + (f" ({advice})" if advice else "")
            self.note("logon", text, False)
            return False
        self.note("logon", "accepted", True)
        self._note_logon(reply)
        again = await client.wait(lambda frame: frame.type == "A", 0.5, client.frames.index(reply) + 1)
        if again is not None:
            self.note("logon-reset", f"a second Logon with 141={again.text(141) or 'absent'}", False)
        return True

    def _note_logon(self, reply: Frame) -> None:
        self.note("logon-number", f"34={reply.text(34)}", reply.text(34) == "1")
        reset = reply.get(141)
        self.note("logon-reset", f"141={reset.decode()}" if reset else "absent", reset in (None, b"Y"))
        others = sorted({tag for tag, _ in reply.fields} - _LOGON_FIELDS)
        self.note(
            "logon-fields", f"also {', '.join(map(str, others))}" if others else "documented ones only", not others
        )

    async def _test_request(self) -> None:
        trips, lags = [], []
        for _ in range(3):
            mark = self.new_id()
            at = await self.request("1", fix.test_request(mark))
            sent = self.client.frames[at]
            answer = await self.client.wait(partial(_answers_test, mark), self.pace.answer, at)
            if answer is None:
                self.note("test-request", "no answer", False)
                return
            trips.append((answer.at_ns - sent.at_ns) / 1e6)
            sending = fix.parse_time(answer.get(52))
            if sending is not None:
                lags.append((answer.at_ns - sending) / 1e9 - trips[-1] / 2000)
        self.note("test-request", f"answered in {statistics.median(trips):.1f} ms", True)
        if lags:
            lag = statistics.median(lags)
            self.note("clock", f"this machine is {abs(lag):.3f} s {'ahead' if lag > 0 else 'late'}", abs(lag) <= 1)

    # ---- instruments

    async def _instrument_list(self) -> None:
        at = await self.request("x", fix.instrument_list_request(self.new_id(), updates=1))
        parts = await self._list_parts(at)
        if not parts:
            refused = self.refusal(at)
            self.note("list-updates", refused or "no answer", False)
            at = await self.request("x", fix.instrument_list_request(self.new_id()))
            parts = await self._list_parts(at)
        else:
            self.note("list-updates", "accepted", True)
        if not parts:
            self.note("instrument-list", self.refusal(at) or "no answer", False)
            return
        result = parts[0].text(560) or "0"
        fragments = [part for part in parts if part.text(893)] or parts
        self.rows = reading.listed(fragments)
        text = f"560={result}, {len(self.rows)} instruments"
        text += f" in {len(fragments)} messages" if len(fragments) > 1 else ""
        text += ", interrupted by an update" if len(parts) > len(fragments) else ""
        self.note("instrument-list", text, result == "0" and len(parts) == len(fragments))
        self._note_rows(fragments)
        if self.section.spot:
            await self._stocks()
        self._choose_symbols()

    async def _stocks(self) -> None:
        """Instruments that only a list of their own security type has: tokenised stocks."""
        at = await self.request("x", fix.instrument_list_request(self.new_id(), security_type="TS"))
        answer = await self.client.wait(lambda f: f.type in "yj3", self.pace.reject, at)
        if answer is None:
            self.note("list-scope", "no answer to 167=TS", None)
            return
        known = {row.symbol for row in self.rows}
        more = [row.symbol for row in reading.listed([answer]) if answer.type == "y" and row.symbol not in known]
        text = f"{len(more)} more with 167=TS, such as {more[0]}" if more else "no others with 167=TS"
        self.note("list-scope", text, not more)

    async def _list_parts(self, at: int) -> list[Frame]:
        """The fragments of one list, and updates that interrupt it; empty when it is not answered."""
        parts: list[Frame] = []
        while True:
            position = self.client.frames.index(parts[-1]) + 1 if parts else at
            part = await self.client.wait(lambda f: f.type in "yj3", self.pace.answer, position)
            if part is None or part.type != "y":
                return parts
            parts.append(part)
            if part.text(893) == "Y" or all(each.text(893) == "" for each in parts):
                return parts

    def refusal(self, at: int) -> str:
        for frame in self.client.received(at):
            if frame.type in ("j", "3", "Y"):
                return f"35={frame.type}: {frame.text(58) or frame.text(373) or frame.text(380)}"
        return ""

    def _note_rows(self, parts: list[Frame]) -> None:
        text, whole = reading.precision_forms(self.rows)
        self.note("precision-text", text, whole)
        codes = {row.status for row in self.rows}
        known = codes <= {str(code) for code in range(8)}
        self.note("status-codes", ", ".join(sorted(codes)), known)
        foreign = [row.symbol for row in self.rows if not row.symbol.isascii()]
        self.note("symbol-text", f"not ASCII: {foreign[0]!r}" if foreign else "ASCII", not foreign)
        unusable = reading.unusable(parts)
        more = f" and {len(unusable) - 3} more" if len(unusable) > 3 else ""
        self.note("list-rows", "; ".join(unusable[:3]) + more if unusable else "every row", not unusable)
        text = f"{len(self.rows)} instruments, room for {self.room}"
        self.note("list-size", text, len(self.rows) <= self.room)

    def _note_update_rows(self) -> None:
        """Updates of the list that came during the probe."""
        updates = [f for f in self.client.received() if f.type == "y" and f.text(146) == "1" and not f.text(893)]
        partial = [row for row in reading.listed(updates) if not (row.price_precision and row.qty_precision)]
        if partial:
            self.note("update-rows", f"in part: {partial[0].symbol} without precisions", False)
        elif len(updates) > 1:
            self.note("update-rows", "every field", True)

    def _choose_symbols(self) -> None:
        online = [row.symbol for row in self.rows if row.status in ("1", "") and reading.nameable(row.symbol)]
        named = [symbol for symbol in online if symbol in self.section.symbols]
        self.symbols = list(dict.fromkeys([*named, *online]))[: self.count]

    async def _trading_status(self) -> None:
        at = await self.request("g", [(335, self.new_id()), (336, "SESSION"), (263, 0)])
        answer = await self.client.wait(lambda f: f.type in ("h", "j", "3"), self.pace.answer, at)
        if answer is None:
            self.note("trading-status", "no answer", False)
        else:
            text = f"35={answer.type}, 340={answer.text(340) or 'absent'} {answer.text(58)}".strip()
            self.note("trading-status", text, answer.type == "h")

    # ---- leaving

    async def _rollover(self, at: float) -> None:
        """Stay until the reset is over, and note the first thing that shows it."""
        client = self.client
        wait_s = at - time.time() + 90
        position = len(client.frames)
        last = max((int(frame.text(34) or 0) for frame in client.received()), default=0)

        def shows(frame: Frame) -> bool:
            if abs(frame.at_ns / 1e9 - at) > 90:
                return False
            restarted = frame.text(34).isdigit() and int(frame.text(34)) < last and frame.text(43) != "Y"
            return frame.type in ("5", "A") or (frame.type == "4" and frame.text(123) != "Y") or restarted

        form = await client.wait(shows, wait_s, position)
        if form is not None and form.type == "5" and not client.closed.is_set():
            client.send("5", fix.logout())
        echoes = await self._answer_logon() if form is not None and form.type == "A" else 0
        await asyncio.sleep(self.pace.reject)
        if form is None:
            text = "the connection closed" if client.closed.is_set() else "nothing was seen"
        else:
            names = {"5": "Logout", "A": "Logon inside the connection", "4": "SequenceReset"}
            text = names.get(form.type, "MsgSeqNum restarted inside the connection")
            if form.type == "5":
                text += ", then the connection closes" if client.closed.is_set() else ", the connection stays open"
            text += f", our answer is answered by {echoes} more" if echoes else ""
            text += f" ({datetime.fromtimestamp(form.at_ns / 1e9, UTC):%H:%M:%S})"
        self.note("rollover", text, text.startswith("Logout, then the connection closes"))

    async def _answer_logon(self) -> int:
        """Answer a Logon 141=Y inside the connection; how many Logons that brings."""
        at = len(self.client.frames)
        self.client.next_out = 1
        self.client.send("A", fix.logon(self.section.heartbeat_s, True))
        await asyncio.sleep(self.pace.reject)
        return sum(frame.type == "A" for frame in self.client.received(at))

    async def _heartbeats(self) -> None:
        while not self.client.closed.is_set():
            await asyncio.sleep(self.section.heartbeat_s / 2)
            self.client.send("0", [])

    async def _logout(self) -> None:
        client = self.client
        if client.closed.is_set():
            return
        at = await self.request("5", fix.logout())
        answer = await client.wait(lambda f: f.type == "5", self.pace.answer, at)
        try:
            await asyncio.wait_for(client.closed.wait(), 2.0)
            closed = "closed"
        except TimeoutError:
            closed = "left open"
        confirmed = "confirmed" if answer is not None else "not confirmed"
        self.note("logout", f"{confirmed}, connection {closed}", answer is not None and closed == "closed")


def _answers_test(mark: str, frame: Frame) -> bool:
    return frame.type == "0" and frame.text(112) == mark
