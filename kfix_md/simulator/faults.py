"""What is being done to one session right now: messages lost, spoiled, held back, cut into small writes."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from kfix_md.simulator import wire
from kfix_md.simulator.edits import EDITS, HARM, SWALLOWS

if TYPE_CHECKING:
    from kfix_md.simulator.acceptor import Acceptor

LOGON_VARIANTS = (
    "heartbeat",
    "high",
    "low",
    "reset",
    "logout",
    "close",
    "none",
    "time",
    "before",
    "next_equal",
    "next_low",
    "next_high",
    "length",
    "begin",
    "sender",
    "target",
)


class Faults:
    """Pending faults of one session. `outgoing` is asked for every message while `active`."""

    def __init__(self, session: "Acceptor") -> None:
        self.session = session
        self.active = False
        self.deaf = False  # nothing is read
        self.held = False  # nothing is written
        self.drip = 0  # bytes per small write
        self.awaits_logon = False
        self._lose = 0
        self._lost: list[int] = []
        self._lost_symbols: set[str] = set()
        self._edits: deque[tuple[str, bytes, dict]] = deque()
        self._drips: deque[bytes] = deque()

    def clear(self) -> None:
        """Nothing is pending any more (the connection has ended)."""
        self._note_lost()
        self.active = self.deaf = self.held = False
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

    def edit(self, name: str, count: int, types: str, options: dict) -> None:
        """Spoil the next `count` messages of the given types (letters of 35; empty: any)."""
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
        self.held = True
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._release)

    def _release(self) -> None:
        self.held = self.deaf = False
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
            self._drop_falls()

    def _drop_falls(self) -> None:
        if not self._drips or self.session.ended:
            return
        data = self._drips.popleft()
        self.session.write_now(data[: self.drip])
        if len(data) > self.drip:
            self._drips.appendleft(data[self.drip :])
        if self._drips:
            asyncio.get_running_loop().call_soon(self._drop_falls)

    # at work ---------------------------------------------------------------------------------------------

    def outgoing(self, seq: int, kind: bytes, frame: bytes) -> list[bytes]:
        """What goes on the wire instead of `frame`."""
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
                self._note(name, HARM[name], [seq], [_symbol(frame)])
                return EDITS[name](self.session, seq, kind, frame, options)
        self.active = bool(self._edits)
        return [frame]

    def _note_lost(self) -> None:
        if self._lost:
            self._note("gap", "lost", self._lost, sorted(self._lost_symbols))
            self._lost, self._lost_symbols = [], set()

    def _note(self, kind: str, harm: str, seqs: list[int], symbols: list[str | None]) -> None:
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

    # the reply to a Logon --------------------------------------------------------------------------------

    def logon(self, variant: dict[str, Any], reset: bool) -> bool:
        """Answer a Logon wrongly; True when nothing more is to be done for it."""
        name, session = variant["variant"], self.session
        session.venue.fault(
            f"logon {name}",
            harm="session",
            session=session.id,
            sender=session.peer.sender,
            service=session.service.name,
        )
        if name == "none":
            self.mute(0)
            return True
        if name in ("close", "logout"):
            if name == "logout":
                session.send(b"5", [(58, variant.get("text", "Logon refused"))])
            session.close()
            return True
        if name == "before":
            session.send(b"0", [])
        elif name == "heartbeat":
            session.heartbeat_ns = int(variant.get("seconds", 30)) * 1_000_000_000
        elif name in ("high", "low"):
            by = int(variant.get("by", 5)) if name == "high" else -1
            session.peer.outgoing = max(0, session.peer.outgoing + by)
        elif name == "reset":
            session.peer.outgoing = session.peer.expected = 1
            session.send(b"A", [(98, 0), (108, session.heartbeat_ns // 1_000_000_000), (141, "Y")])
            session.peer.expected = 2
            return True
        elif name.startswith("next"):
            return self._next_expected(name, variant, reset)
        elif name in ("time", "length", "begin", "sender", "target"):
            self.edit({"length": "body_short"}.get(name, name), 1, "A", variant)
        return False

    def _next_expected(self, name: str, variant: dict, reset: bool) -> bool:
        session = self.session
        after = 2 if reset else session.peer.expected + 1
        by = int(variant.get("by", 1))
        value = {"next_equal": after, "next_low": max(1, after - by), "next_high": after + by}[name]
        session.peer.expected = after
        session.logon_reply(reset, ((789, value),))
        return True


def _symbol(frame: bytes) -> str | None:
    start = frame.find(b"\x0155=")
    return None if start < 0 else frame[start + 4 : frame.index(wire.SOH, start + 4)].decode(errors="replace")
