"""Applies pending faults to one session: messages lost, edited, delayed or cut into small writes."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kfix_md.simulator import (
    edits_forms,  # noqa: F401  registers its edits
    wire,
)
from kfix_md.simulator.edits import EDITS, HARM, SWALLOWS, Outgoing

if TYPE_CHECKING:
    from kfix_md.simulator.sender import Sender


class Faults:
    """Pending faults of one session. `outgoing` sees every message while `active`."""

    def __init__(self, session: "Sender") -> None:
        self.session = session
        self.active = False
        self.deaf = False  # nothing is read
        self.holding = False  # nothing is written
        self.drip = 0  # bytes per small write
        self.awaits_logon = False
        self._lose = 0
        self._lost: list[int] = []
        self._lost_symbols: set[str] = set()
        self._edits: deque[tuple[str, bytes, dict[str, Any]]] = deque()
        self._drips: deque[bytes] = deque()

    def clear(self) -> None:
        """Nothing is pending any more (the connection has ended)."""
        self._note_lost()
        self.active = self.deaf = self.holding = False
        self._lose, self.drip = 0, 0
        self._edits.clear()
        self._drips.clear()

    # set up ----------------------------------------------------------------------------------------------

    def lose(self, count: int, answer: str | None) -> None:
        """The next `count` messages vanish; `answer` is how the ResendRequest will be answered."""
        self._lose += count
        self.active = True
        if answer:
            self.session.resend_answers.append(answer)

    def edit(self, name: str, count: int, types: str, options: dict[str, Any]) -> None:
        """Edit the next `count` messages of the given types (letters of 35; empty: any)."""
        if name not in EDITS:
            raise ValueError(f"no such edit: {name} (one of {', '.join(sorted(EDITS))})")
        self._edits.extend([(name, types.encode(), options)] * count)
        self.active = True

    def mute(self, seconds: float) -> None:
        """A stalled peer: nothing is read and nothing leaves for a while, or for good when `seconds` is 0."""
        self.deaf = True
        self.hold(seconds)

    def hold(self, seconds: float) -> None:
        """Hold all output back for a while (0: for good); it then leaves in order."""
        self.holding = True
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._release)

    def _release(self) -> None:
        self.holding = self.deaf = False
        if not self.session.ended:
            self.session.flush()

    def small_writes(self, size: int, seconds: float) -> None:
        """Write at most `size` bytes at a time for a while."""
        self.drip = max(1, size)
        asyncio.get_running_loop().call_later(seconds, self._flow)

    def _flow(self) -> None:
        self.drip = 0
        if self._drips:
            self.session.write_now(b"".join(self._drips))
            self._drips.clear()

    def drip_out(self, data: bytes) -> None:
        """Queue bytes for small writes."""
        start = not self._drips
        self._drips.append(data)
        if start:
            self._write_piece()

    def _write_piece(self) -> None:
        if not self._drips or self.session.ended:
            return
        data = self._drips.popleft()
        self.session.write_now(data[: self.drip])
        if len(data) > self.drip:
            self._drips.appendleft(data[self.drip :])
        if self._drips:
            asyncio.get_running_loop().call_soon(self._write_piece)

    # outbound --------------------------------------------------------------------------------------------

    def outgoing(self, seq: int, kind: bytes, frame: bytes) -> list[bytes]:
        """The pieces to write instead of `frame`."""
        if self._lose:
            self._lose -= 1
            self._lost.append(seq)
            symbol = _symbol(frame)
            if symbol:
                self._lost_symbols.add(symbol)
            if not self._lose:
                self._note_lost()
            return []
        for place, (name, types, options) in enumerate(self._edits):
            if not types or kind in types:
                del self._edits[place]
                symbols = [_symbol(frame)]
                if name == "symbol_twice":
                    symbols.append(options.get("symbol", "ETH/USD"))
                self._note(name, HARM[name], [seq], symbols)
                return EDITS[name](Outgoing(self.session, frame, options))
        self.active = bool(self._edits)
        return [frame]

    def _note_lost(self) -> None:
        if self._lost:
            self._note("gap", "lost", self._lost, sorted(self._lost_symbols))
            self._lost, self._lost_symbols = [], set()

    def _note(self, kind: str, harm: str, seqs: list[int], symbols: Sequence[str | None]) -> None:
        self.session.venue.fault(
            kind,
            harm=harm,
            session=self.session.id,
            sender=self.session.peer.sender,
            service=self.session.service.name,
            first=seqs[0],
            last=seqs[-1],
            seqs=seqs,
            symbols=[symbol for symbol in symbols if symbol],
            may_take_next=kind in SWALLOWS,
        )


def _symbol(frame: bytes) -> str | None:
    start = frame.find(b"\x0155=")
    return None if start < 0 else wire.text(frame[start + 4 : frame.index(wire.SOH, start + 4)])
