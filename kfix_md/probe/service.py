"""Probes one service: logs on, requests the list, subscribes to a few symbols, and notes what the gateway does."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from kfix_md.config import ServiceSection
from kfix_md.feed.checks import read_secret
from kfix_md.feed.dial import Connected, DialError, Endpoint, dial, tls_context
from kfix_md.probe import reading
from kfix_md.probe.assumptions import BY_KEY, Assumption
from kfix_md.probe.client import Client, Frame
from kfix_md.session import fix

ANSWER_S = 5.0  # how long the probe waits for an answer
PACE_S = 0.25  # between two requests
UNSUBSCRIBE_S = 2.0  # data later than this is late
UNKNOWN_SYMBOL = "KFIX/PROBE"
SHALLOW = 10  # 264 of the subscription that looks for deletes at the depth's end


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
    seconds : float
        How long to collect market data.
    """

    def __init__(self, section: ServiceSection, create: Callable[..., Any], *, symbols: int, seconds: float) -> None:
        self.section, self.create = section, create
        self.count, self.seconds = symbols, seconds
        self.seen: dict[str, Seen] = {}
        self.client = Client(section.sender_comp_id, str(section.target_comp_id))
        self.problem = ""
        self.rows: list[reading.Listed] = []
        self.symbols: list[str] = []
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
        """Run every experiment; `problem` says why the probe ended early.

        Parameters
        ----------
        rollover_at : float, optional
            Unix time of the reset to stay for, in seconds.
        """
        try:
            await self._connect()
            if await self._logon():
                await self._experiments()
                if rollover_at is not None:
                    await self._rollover(rollover_at)
                await self._logout()
        except DialError as error:
            self.problem = str(error)
            self.note("certificate" if error.kind == "identity" else "tls-version", str(error), False)
        finally:
            self.client.abort()

    async def _experiments(self) -> None:
        await self._test_request()
        await self._instrument_list()
        if not self.symbols:
            self.problem = self.problem or "no symbol to subscribe to"
            return
        await self._market_data()
        await self._unknown_symbol()
        await self._resend()
        if self.section.spot:
            await self._trading_status()
        self._read_market_data()

    def _new_id(self) -> str:
        return f"PRB{next(self._ids)}"

    async def _request(self, msg_type: str, body: fix.Body) -> int:
        """Send politely; returns the position from which answers are found."""
        await asyncio.sleep(PACE_S)
        at = len(self.client.frames)
        self.client.send(msg_type, body)
        return at

    # ---- connection and logon

    async def _connect(self) -> None:
        section = self.section
        end = Endpoint(
            section.host, int(section.port or 0), section.tls, section.tls_ca, section.tls_name, section.verify
        )
        _, details = await dial(end, lambda: self.client, tls_context(end), self.create)
        self._note_connection(details)

    def _note_connection(self, details: Connected) -> None:
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
            self.problem = f"no logon: {text}"
            self.note("logon-number", text, False)
            return False
        self.note("logon-number", f"34={reply.text(34)}", reply.text(34) == "1")
        reset = reply.get(141)
        self.note("logon-reset", f"141={reset.decode()}" if reset else "absent", reset in (None, b"Y"))
        again = await client.wait(lambda frame: frame.type == "A", 0.5, client.frames.index(reply) + 1)
        if again is not None:
            self.note("logon-reset", f"a second Logon with 141={again.text(141) or 'absent'}", False)
        return True

    async def _test_request(self) -> None:
        trips, lags = [], []
        for _ in range(3):
            mark = self._new_id()
            at = await self._request("1", fix.test_request(mark))
            sent = self.client.frames[at]
            answer = await self.client.wait(partial(_answers_test, mark), ANSWER_S, at)
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
        at = await self._request("x", fix.instrument_list_request(self._new_id(), updates=1))
        parts = await self._list_parts(at)
        if not parts:
            refused = self._refusal(at)
            self.note("list-updates", refused or "no answer", False)
            at = await self._request("x", fix.instrument_list_request(self._new_id()))
            parts = await self._list_parts(at)
        else:
            self.note("list-updates", "accepted", True)
        if not parts:
            self.note("instrument-list", self._refusal(at) or "no answer", False)
            return
        result, fragments = parts[0].text(560) or "0", len(parts)
        self.rows = reading.listed(parts)
        pieces = f" in {fragments} messages" if fragments > 1 else ""
        self.note("instrument-list", f"560={result}, {len(self.rows)} instruments{pieces}", result == "0")
        self._note_rows()
        self._choose_symbols()

    async def _list_parts(self, at: int) -> list[Frame]:
        """The fragments of one list; empty when it is not answered."""
        parts: list[Frame] = []
        while True:
            position = self.client.frames.index(parts[-1]) + 1 if parts else at
            part = await self.client.wait(lambda f: f.type in "yj3", ANSWER_S, position)
            if part is None or part.type != "y":
                return parts
            parts.append(part)
            if part.text(893) != "N":
                return parts

    def _refusal(self, at: int) -> str:
        for frame in self.client.received(at):
            if frame.type in ("j", "3", "Y"):
                return f"35={frame.type}: {frame.text(58) or frame.text(373) or frame.text(380)}"
        return ""

    def _note_rows(self) -> None:
        text, whole = reading.precision_forms(self.rows)
        self.note("precision-text", text, whole)
        codes = {row.status for row in self.rows}
        known = codes <= {str(code) for code in range(8)}
        self.note("status-codes", ", ".join(sorted(codes)), known)
        foreign = [row.symbol for row in self.rows if not row.symbol.isascii()]
        self.note("symbol-text", f"not ASCII: {foreign[0]!r}" if foreign else "ASCII", not foreign)

    def _choose_symbols(self) -> None:
        online = [row.symbol for row in self.rows if row.status in ("1", "")]
        named = [symbol for symbol in online if symbol in self.section.symbols]
        self.symbols = list(dict.fromkeys([*named, *online]))[: self.count]

    # ---- market data

    def _subscribe(self, request_id: str, symbols: list[str], depth: int) -> fix.Body:
        level3 = self.section.level == "L3"
        return fix.market_data_request(
            request_id, symbols, depth=depth, trades=bool(self.section.trades), level3=level3
        )

    async def _market_data(self) -> None:
        first, *others = self.symbols
        request_id = self._new_id()
        at = await self._request("V", self._subscribe(request_id, [first], self.section.depth))
        snapshot = await self.client.wait(lambda f: f.type in "WY" and f.text(262) == request_id, ANSWER_S, at)
        if snapshot is None or snapshot.type == "Y":
            self.note("snapshot", self._refusal(at) or "no answer", False)
            return
        took = (snapshot.at_ns - self.client.frames[at].at_ns) / 1e6
        self.note("snapshot", f"after {took:.1f} ms", True)
        await self._duplicate_id(request_id, first)
        if others:
            await self._several_symbols(others)
        await asyncio.sleep(self.seconds)
        await self._end_subscription(request_id, first)
        if self.section.level == "L2":
            await self._shallow(first)

    async def _several_symbols(self, symbols: list[str]) -> None:
        request_id = self._new_id()
        at = await self._request("V", self._subscribe(request_id, symbols, self.section.depth))
        missing = set(symbols)
        deadline = time.monotonic() + ANSWER_S
        while missing and time.monotonic() < deadline:
            wanted = await self.client.wait(
                lambda f: f.type == "W" and f.text(262) == request_id and f.text(55) in missing, 0.5, at
            )
            if wanted is not None:
                missing.discard(wanted.text(55))
        text = f"all {len(symbols)}" if not missing else f"{len(symbols) - len(missing)} of {len(symbols)}"
        self.note("several-symbols", text + (f"; {self._refusal(at)}" if missing else ""), not missing)

    async def _duplicate_id(self, request_id: str, symbol: str) -> None:
        at = await self._request("V", self._subscribe(request_id, [symbol], self.section.depth))
        answer = await self.client.wait(lambda f: f.type in "Yj3W" and f.text(262) in ("", request_id), 2.0, at)
        self.note("duplicate-id", *self._answer(answer, "1"))

    async def _unknown_symbol(self) -> None:
        at = await self._request("V", self._subscribe(self._new_id(), [UNKNOWN_SYMBOL], self.section.depth))
        answer = await self.client.wait(lambda f: f.type in ("Y", "j", "3"), 2.0, at)
        self.note("unknown-symbol", *self._answer(answer, "0"))

    @staticmethod
    def _answer(answer: Frame | None, reason: str) -> tuple[str, bool]:
        if answer is None:
            return "no answer", False
        if answer.type == "W":
            return "accepted with a snapshot", False
        text = f"35={answer.type} with 281={answer.text(281) or 'absent'} {answer.text(58)}".strip()
        return text, answer.type == "Y" and answer.text(281) == reason

    async def _end_subscription(self, request_id: str, symbol: str) -> None:
        body = fix.market_data_request(
            request_id,
            [symbol],
            depth=self.section.depth,
            trades=bool(self.section.trades),
            level3=self.section.level == "L3",
            unsubscribe=True,
        )
        at = await self._request("V", body)
        ended_ns = self.client.frames[at].at_ns
        await asyncio.sleep(UNSUBSCRIBE_S + 1)
        late = [
            frame
            for frame in self.client.received(at)
            if frame.type in "WX" and frame.text(262) == request_id and frame.at_ns - ended_ns > UNSUBSCRIBE_S * 1e9
        ]
        self.note("unsubscribe", f"{len(late)} late messages" if late else "none", not late)

    async def _shallow(self, symbol: str) -> None:
        """A subscription of ten levels: does the gateway delete what leaves them?"""
        request_id = self._new_id()
        at = await self._request("V", self._subscribe(request_id, [symbol], SHALLOW))
        await asyncio.sleep(max(2.0, self.seconds / 2))
        frames = [f for f in self.client.received(at) if f.type in "WX" and f.text(262) == request_id]
        if not frames or frames[0].type != "W":
            return
        most, leaving = reading.deepest(frames[0], frames[1:])
        if most > SHALLOW:
            self.note("depth-deletes", f"not deleted: up to {most} levels a side", False)
        elif leaving:
            self.note("depth-deletes", f"deleted, {leaving} times", True)
        else:
            self.note("depth-deletes", "no level left the depth during the probe", None)

    async def _resend(self) -> None:
        data = [frame for frame in self.client.received() if frame.type in ("W", "X")]
        if not data:
            return
        number = int(data[-1].text(34) or 0)
        first = max(1, number - 4)
        at = await self._request("2", fix.resend_request(first, number))

        def answers(frame: Frame) -> bool:
            return frame.type in ("4", "3", "j") or frame.text(43) == "Y"

        answer = await self.client.wait(answers, ANSWER_S, at)
        if answer is None:
            self.note("resend", "silence", False)
        elif answer.type == "4":
            kind = "gap fill" if answer.text(123) == "Y" else "reset (123=N)"
            self.note("resend", f"{kind} to {answer.text(36)}", answer.text(123) == "Y")
        elif answer.type in ("3", "j"):
            self.note("resend", f"35={answer.type}: {answer.text(58)}", False)
        else:
            await asyncio.sleep(1.0)
            replayed = [frame for frame in self.client.received(at) if frame.text(43) == "Y"]
            self.note("resend", f"replay of {len(replayed)} messages", True)

    async def _trading_status(self) -> None:
        at = await self._request("g", [(335, self._new_id()), (336, "SESSION"), (263, 0)])
        answer = await self.client.wait(lambda f: f.type in ("h", "j", "3"), ANSWER_S, at)
        if answer is None:
            self.note("trading-status", "no answer", False)
        else:
            text = f"35={answer.type}, 340={answer.text(340) or 'absent'} {answer.text(58)}".strip()
            self.note("trading-status", text, answer.type == "h")

    # ---- what the collected market data show

    def _read_market_data(self) -> None:
        inbound = self.client.received()
        data = [frame for frame in inbound if frame.type in ("W", "X") and frame.text(43) != "Y"]
        orders = {reading.header_order(frame) for frame in data}
        self.note("header-order", "; ".join(sorted(orders)), orders == {"35,34,49,52,56"})
        digits = reading.decimals(frame.text(52) for frame in inbound)
        self.note("sending-time", digits, digits == "3")
        self._note_entries(data)
        self._note_checksums(data)

    def _note_entries(self, data: list[Frame]) -> None:
        level = self.section.level
        forms = reading.id_forms(data)
        usual = {"side letter and price", "absent"} if level == "L2" else {"UUID", "OXXXXX-XXXXX-XXXXXX"}
        self.note(f"ids-{level.lower()}", "; ".join(forms) or "none", set(forms) <= usual)
        clock = reading.clock_forms(data)
        self.note("entry-times", clock, clock == "HH:MM:SS, 3 decimals")
        if level == "L3":
            times = reading.order_time_forms(data)
            self.note("order-times", times or "absent", times == "ISO 8601, 9 decimals")
        kinds = {entry.kind for frame in data for entry in reading.entries(frame)}
        self.note("entry-types", ", ".join(sorted(kinds)), kinds <= {"0", "1", "2"})
        if level == "L2":
            types = {text for frame in data for text in frame.all(40)}
            aggressors = {text for frame in data for text in frame.all(2446)}
            known = types | aggressors <= {"1", "2"}
            text = f"40 in {', '.join(sorted(types))}; 2446 in {', '.join(sorted(aggressors))}"
            self.note("trade-codes", text if types or aggressors else "no trade seen", known if types else None)
        unknown = reading.unknown_fields(data)
        self.note("fields", f"also {', '.join(map(str, unknown))}" if unknown else "documented ones only", not unknown)

    def _note_checksums(self, data: list[Frame]) -> None:
        level = self.section.level
        usual = "level" if level == "L2" else "order"
        precisions = {row.symbol: row for row in self.rows}
        rules, changed, none = set(), [], []
        for symbol, frames in reading.by_symbol(_one_subscription(data)).items():
            row = precisions.get(symbol)
            if row is None:
                continue
            found = reading.checksums(frames, level, _whole(row.price_precision), _whole(row.qty_precision))
            if not found.checked:
                continue
            if not found.rules:
                none.append(symbol)
                continue
            rules.add(usual if usual in found.rules else found.rules[0])
            if found.precision_change != (0, 0):
                changed.append(f"{symbol} by {found.precision_change}")
        if not (rules or none):
            return
        text = ", ".join(sorted(rules)) + (f"; no known rule for {', '.join(none[:5])}" if none else "")
        self.note("checksum-rule", text.removeprefix("; "), rules == {usual} and not none)
        if rules:
            self.note("checksum-precision", f"differ: {', '.join(changed[:5])}" if changed else "equal", not changed)

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

        beat = asyncio.create_task(self._heartbeats())
        form = await client.wait(shows, wait_s, position)
        await asyncio.sleep(2.0)
        beat.cancel()
        if form is None:
            text = "the connection closed" if client.closed.is_set() else "nothing was seen"
        else:
            names = {"5": "Logout", "A": "Logon inside the connection", "4": "SequenceReset"}
            text = names.get(form.type, "MsgSeqNum restarted inside the connection")
            text += ", then the connection closes" if client.closed.is_set() else ""
            text += f" ({datetime.fromtimestamp(form.at_ns / 1e9, UTC):%H:%M:%S})"
        self.note("rollover", text, text.startswith("Logout, then the connection closes"))

    async def _heartbeats(self) -> None:
        while not self.client.closed.is_set():
            await asyncio.sleep(self.section.heartbeat_s / 2)
            self.client.send("0", [])

    async def _logout(self) -> None:
        client = self.client
        if client.closed.is_set():
            return
        at = await self._request("5", fix.logout())
        answer = await client.wait(lambda f: f.type == "5", ANSWER_S, at)
        try:
            await asyncio.wait_for(client.closed.wait(), 2.0)
            closed = "closed"
        except TimeoutError:
            closed = "left open"
        confirmed = "confirmed" if answer is not None else "not confirmed"
        self.note("logout", f"{confirmed}, connection {closed}", answer is not None and closed == "closed")


def _answers_test(mark: str, frame: Frame) -> bool:
    return frame.type == "0" and frame.text(112) == mark


def _whole(text: str) -> int:
    """A precision as an integer whatever its form; 0 when it is none."""
    try:
        return int(float(text))
    except ValueError:
        return 0


def _one_subscription(data: list[Frame]) -> list[Frame]:
    """For each symbol, the frames of its first subscription only."""
    first: dict[str, str] = {}
    for frame in data:
        if frame.type == "W":
            first.setdefault(frame.text(55), frame.text(262))
    return [frame for frame in data if first.get(frame.text(55)) == frame.text(262)]
