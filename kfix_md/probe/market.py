"""Probes the market data of one service: subscriptions of several kinds, and what the messages look like."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from kfix_md.probe import reading
from kfix_md.probe.client import Frame
from kfix_md.session import fix

if TYPE_CHECKING:
    from kfix_md.probe.service import ServiceProbe

UNKNOWN_SYMBOL = "KFIX/PROBE"
SHALLOW = 10  # 264 of the subscription that looks for deletes at the depth's end
USUAL_RULE = {"L2": "level", "L3": "order"}


class MarketProbe:
    """The experiments with market data of a `ServiceProbe`, in whose name it sends and takes notes."""

    def __init__(self, probe: ServiceProbe) -> None:
        self.probe, self.client, self.section, self.pace = probe, probe.client, probe.section, probe.pace
        self.note = probe.note

    # ---- subscriptions

    def _body(self, request_id: str, symbols: list[str], depth: int) -> fix.Body:
        level3 = self.section.level == "L3"
        return fix.market_data_request(
            request_id, symbols, depth=depth, trades=bool(self.section.trades), level3=level3
        )

    async def subscribe(self, symbols: list[str]) -> None:
        """Subscribe to these, one and then several in a request; collect data; end; subscribe to ten levels."""
        first, *others = symbols
        request_id = self.probe.new_id()
        at = await self.probe.request("V", self._body(request_id, [first], self.section.depth))
        snapshot = await self.client.wait(lambda f: f.type in "WY" and f.text(262) == request_id, self.pace.answer, at)
        if snapshot is None or snapshot.type == "Y":
            self.note("snapshot", self.probe.refusal(at) or "no answer", False)
            return
        took = (snapshot.at_ns - self.client.frames[at].at_ns) / 1e6
        self.note("snapshot", f"after {took:.1f} ms", True)
        await self._duplicate_id(request_id, first)
        if others:
            await self._several_symbols(others)
        await asyncio.sleep(self.pace.data)
        await self._end_subscription(request_id, first)
        if self.section.level == "L2":
            await self._shallow(first)

    async def _several_symbols(self, symbols: list[str]) -> None:
        request_id = self.probe.new_id()
        at = await self.probe.request("V", self._body(request_id, symbols, self.section.depth))
        missing = set(symbols)
        deadline = time.monotonic() + self.pace.answer
        while missing and time.monotonic() < deadline:
            wanted = await self.client.wait(
                lambda f: f.type == "W" and f.text(262) == request_id and f.text(55) in missing, 0.5, at
            )
            if wanted is not None:
                missing.discard(wanted.text(55))
        text = f"all {len(symbols)}" if not missing else f"{len(symbols) - len(missing)} of {len(symbols)}"
        self.note("several-symbols", text + (f"; {self.probe.refusal(at)}" if missing else ""), not missing)

    async def _duplicate_id(self, request_id: str, symbol: str) -> None:
        at = await self.probe.request("V", self._body(request_id, [symbol], self.section.depth))
        answer = await self.client.wait(
            lambda f: f.type in "Yj3W" and f.text(262) in ("", request_id), self.pace.reject, at
        )
        self.note("duplicate-id", *self._answer(answer, "1"))

    async def unknown_symbol(self) -> None:
        """Subscribe to a symbol that does not exist."""
        at = await self.probe.request("V", self._body(self.probe.new_id(), [UNKNOWN_SYMBOL], self.section.depth))
        answer = await self.client.wait(lambda f: f.type in ("Y", "j", "3"), self.pace.reject, at)
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
        at = await self.probe.request("V", body)
        ended_ns = self.client.frames[at].at_ns
        await asyncio.sleep(1.5 * self.pace.late)
        late = [
            frame
            for frame in self.client.received(at)
            if frame.type in "WX" and frame.text(262) == request_id and frame.at_ns - ended_ns > self.pace.late * 1e9
        ]
        self.note("unsubscribe", f"{len(late)} late messages" if late else "none", not late)

    async def _shallow(self, symbol: str) -> None:
        """A subscription of ten levels: does the gateway delete what leaves them?"""
        request_id = self.probe.new_id()
        at = await self.probe.request("V", self._body(request_id, [symbol], SHALLOW))
        await asyncio.sleep(self.pace.shallow)
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

    async def resend(self) -> None:
        """Ask for the last five messages of market data again."""
        data = [frame for frame in self.client.received() if frame.type in ("W", "X")]
        if not data:
            return
        number = int(data[-1].text(34) or 0)
        first = max(1, number - 4)
        at = await self.probe.request("2", fix.resend_request(first, number))

        def answers(frame: Frame) -> bool:
            return frame.type in ("4", "3", "j") or frame.text(43) == "Y"

        answer = await self.client.wait(answers, self.pace.answer, at)
        if answer is None:
            self.note("resend", "silence", False)
        elif answer.type == "4":
            kind = "gap fill" if answer.text(123) == "Y" else "reset (123=N)"
            self.note("resend", f"{kind} to {answer.text(36)}", answer.text(123) == "Y")
        elif answer.type in ("3", "j"):
            self.note("resend", f"35={answer.type}: {answer.text(58)}", False)
        else:
            await asyncio.sleep(self.pace.between)
            replayed = [f for f in self.client.received(at) if f.text(43) == "Y"]
            missing = set(range(first, number + 1)) - reading.covered(replayed)
            text = f"replay of {sum(f.type != '4' for f in replayed)} of {number + 1 - first} messages"
            self.note("resend", text + (", the rest is not answered" if missing else ""), not missing)

    # ---- what the collected market data show

    def read(self) -> None:
        """Note the forms of what has been received, and which checksum rule it follows."""
        inbound = self.client.received()
        data = [frame for frame in inbound if frame.type in ("W", "X") and frame.text(43) != "Y"]
        if not data:
            return
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
        self._note_numbers(data)

    def _note_numbers(self, data: list[Frame]) -> None:
        forms = reading.number_forms(data)
        self.note("number-text", f"also {'; '.join(forms)}" if forms else "floats without padding", not forms)
        precisions = {row.symbol: (_whole(row.price_precision), _whole(row.qty_precision)) for row in self.probe.rows}
        huge = reading.huge_numbers(data, precisions)
        self.note("number-size", f"more: {huge}" if huge else "at most 18 digits", not huge)
        places = sorted({reading.symbol_place(frame) for frame in data} - {""})
        self.note("symbol-place", ", ".join(places), places == ["header"])
        with_crc, without = reading.checksum_places(data)
        usual = with_crc <= {"X"} and not without
        text = f"in 35={', '.join(sorted(with_crc))}" if with_crc else "absent"
        self.note("checksum-messages", text + (f"; missing in {without} 35=X" if with_crc and without else ""), usual)

    def _note_checksums(self, data: list[Frame]) -> None:
        level = self.section.level
        usual = USUAL_RULE[level]
        rows = {row.symbol: row for row in self.probe.rows}
        for symbol, frames in reading.by_symbol(_one_subscription(data)).items():
            if symbol in rows:
                precisions = _whole(rows[symbol].price_precision), _whole(rows[symbol].qty_precision)
                self.probe.checksums[symbol] = reading.checksums(frames, level, *precisions)
        checked = {symbol: found for symbol, found in self.probe.checksums.items() if found.checked}
        if not checked:
            return
        unknown = [symbol for symbol, found in checked.items() if not found.rules]
        rules = {usual if usual in found.rules else found.rules[0] for found in checked.values() if found.rules}
        changed = [f"{s} by {found.precision_change}" for s, found in checked.items() if any(found.precision_change)]
        texts = [", ".join(sorted(rules)), f"no known rule for {', '.join(unknown[:5])}" if unknown else ""]
        self.note("checksum-rule", "; ".join(filter(None, texts)), rules == {usual} and not unknown)
        if rules:
            self.note("checksum-precision", f"differ: {', '.join(changed[:5])}" if changed else "equal", not changed)


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
