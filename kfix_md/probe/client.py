"""A FIX client for experiments: keeps every frame of both directions and answers only what a session must."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kfix_md._frame import fields
from kfix_md.errors import ProtocolError
from kfix_md.session import fix

_BEGIN = re.compile(rb"8=FIX[^\x01]*\x019=(\d{1,9})\x01")
#: fields that identify a person or an account; their values leave no trace in what is saved
_SECRET = {fix.USERNAME, fix.PASSWORD, fix.NONCE}


@dataclass(frozen=True, slots=True)
class Frame:
    """One FIX message as it was on the wire."""

    raw: bytes
    fields: list[tuple[int, bytes]]
    at_ns: int  # receive or send time, ns since the epoch
    inbound: bool

    @property
    def type(self) -> str:
        """35 MsgType."""
        return self.text(35)

    def get(self, tag: int) -> bytes | None:
        """Value of the first field with this tag."""
        return next((value for found, value in self.fields if found == tag), None)

    def text(self, tag: int) -> str:
        """Value of the first field with this tag as text; "" when it is absent."""
        return (self.get(tag) or b"").decode("utf-8", "backslashreplace")

    def all(self, tag: int) -> list[str]:
        """Values of every field with this tag."""
        return [value.decode("utf-8", "backslashreplace") for found, value in self.fields if found == tag]


class Client(asyncio.Protocol):
    """One connection to a gateway.

    Parameters
    ----------
    sender, target : str
        49 and 56 of what is sent.
    """

    def __init__(self, sender: str, target: str) -> None:
        self.sender, self.target = sender, target
        self.frames: list[Frame] = []
        self.garbage: list[str] = []
        self.next_out = 1
        self.closed = asyncio.Event()
        self.close_text = ""
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._news = asyncio.Event()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # asyncio types it as the base class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for raw in self._split():
            self._take(raw, time.time_ns())
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.close_text = str(exc) if exc else "closed by the gateway"
        self.closed.set()
        self._news.set()

    def _split(self) -> Iterator[bytes]:
        while True:
            found = _BEGIN.search(self._buffer)
            if found is None:
                return
            end = found.end() + int(found[1]) + 7  # 10=ccc|
            if len(self._buffer) < end:
                return
            raw = bytes(self._buffer[found.start() : end])
            del self._buffer[:end]
            yield raw

    def _take(self, raw: bytes, now_ns: int) -> None:
        try:
            frame = Frame(raw, fields(raw), now_ns, inbound=True)
        except ProtocolError as error:
            self.garbage.append(str(error))
            return
        self.frames.append(frame)
        if frame.type == "1":
            self.send("0", fix.heartbeat(frame.get(112)))
        elif frame.type == "2":  # nothing of ours is worth a replay
            following, self.next_out = self.next_out, int(frame.text(7) or 1)
            self.send("4", fix.sequence_reset(following, frame.at_ns))
            self.next_out = following

    # ---- what the probe does with it

    def send(self, msg_type: str, body: fix.Body) -> Frame:
        """Send a message with the next MsgSeqNum; returns it."""
        raw = fix.encode(msg_type, self.next_out, self.sender, self.target, time.time_ns(), body)
        self.next_out += 1
        frame = Frame(raw, fields(raw), time.time_ns(), inbound=False)
        self.frames.append(frame)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(raw)
        return frame

    def received(self, since: int = 0) -> list[Frame]:
        """Inbound frames from position `since` of `frames` on."""
        return [frame for frame in self.frames[since:] if frame.inbound]

    async def wait(self, wanted: Callable[[Frame], bool], timeout_s: float, since: int = 0) -> Frame | None:
        """The first inbound frame from `since` on that is wanted; None when time is up or the connection ends."""
        deadline = time.monotonic() + timeout_s
        at = since
        while True:
            while at < len(self.frames):
                if self.frames[at].inbound and wanted(self.frames[at]):
                    return self.frames[at]
                at += 1
            left = deadline - time.monotonic()
            if left <= 0 or self.closed.is_set():
                return None
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), left)
            except TimeoutError:
                continue

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()


def without_credentials(frame: Frame, sender: str) -> bytes:
    """The frame with the CompID of the account replaced and credentials masked, length and checksum computed again."""
    body = []
    for tag, value in frame.fields:
        if tag in (8, 9, 10):
            continue
        if tag in _SECRET:
            kept = b"*"
        elif value == sender.encode():
            kept = b"CLIENT"
        else:
            kept = value.replace(sender.encode(), b"CLIENT")
        body.append(b"%d=%b\x01" % (tag, kept))
    content = b"".join(body)
    head = b"8=%b\x019=%d\x01%b" % (frame.get(8) or fix.BEGIN_STRING, len(content), content)
    return b"%b10=%03d\x01" % (head, sum(head) % 256)
