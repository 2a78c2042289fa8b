"""The session side of one connection: logon, numbers, heartbeats, resends; what is sent and in which order."""

import asyncio
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from kfix_md.simulator import requests, wire
from kfix_md.simulator.faults import Faults
from kfix_md.simulator.lines import Sightings, Subscription

if TYPE_CHECKING:
    from kfix_md.simulator.venue import Service

TRAILERS = [b"10=%03d\x01" % value for value in range(256)]
ADMIN = frozenset((b"0", b"1", b"2", b"3", b"4", b"5", b"A"))
LOGOUT_WAIT_NS = 2_000_000_000
SECOND = 1_000_000_000


class Peer:
    """What the venue remembers of one CompID between its connections."""

    def __init__(self, sender: str) -> None:
        self.sender = sender
        self.expected = self.outgoing = 1
        self.session: Acceptor | None = None


class Sent:
    """The last messages of a session by MsgSeqNum, for resends."""

    def __init__(self, limit: int) -> None:
        self._ring: deque[tuple] = deque(maxlen=limit)
        self._next = 1

    def add(self, seq: int, record: tuple) -> None:
        """Keep (type, text of 52, text after the header) of message `seq`; numbers rise by one."""
        if seq != self._next:
            self._ring.clear()
        self._ring.append(record)
        self._next = seq + 1

    def between(self, first: int, last: int) -> list[tuple[int, tuple | None]]:
        """(MsgSeqNum, record) of a range; None for those forgotten."""
        start = self._next - len(self._ring)
        held = {start + index: record for index, record in enumerate(self._ring) if first <= start + index <= last}
        return [(seq, held.get(seq)) for seq in range(first, min(last, self._next - 1) + 1)]


class Acceptor(asyncio.Protocol):
    """One connection to one service of the venue."""

    def __init__(self, service: "Service", number: int) -> None:
        self.service, self.venue, self.number = service, service.venue, number
        self.epoch = 0
        self.peer = Peer("")
        self.logged_on = False
        self.closing = 0                # when our Logout went out
        self.heartbeat_ns = 60 * SECOND
        self.subscriptions: dict[str, list[Subscription]] = {}
        self.used_ids: set[str] = set()
        self.instrument_watch: dict[str, str | None] = {}
        self.status_watch: set[str] = set()
        self.sightings: dict[str, Sightings] = {}
        self.sent = Sent(self.venue.config.history)
        self.faults = Faults(self)
        self.resend_answers: deque[str] = deque()
        self.counts: dict[str, int] = {}
        self.ended = False
        self._reader = wire.FrameReader()
        self._out: list[bytes] = []
        self._pending: dict[int, tuple[bytes, wire.Fields]] = {}
        self._asked = False
        self._stamp = wire.Stamp()
        self._ids = b""
        self._transport: Any = None
        self._last_in = self._last_out = self._test_sent = 0

    @property
    def id(self) -> str:
        """Names this run of MsgSeqNums: service, connection and how often the numbers restarted in it."""
        return f"{self.service.name}/{self.number}.{self.epoch}"

    # connection ------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._last_in = self._last_out = self.venue.now()
        if not self.service.accepts(self):
            transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.end()
        self.service.sessions.discard(self)

    def end(self) -> None:
        """No subscription survives its connection."""
        if self.ended:
            return
        self.ended = True
        self.drop_subscriptions()
        self.faults.clear()
        if self.peer.session is self:
            self.peer.session = None
        if self.logged_on:
            self.logged_on = False
            self.venue.log("disconnected", session=self.id, sender=self.peer.sender, last_seq=self.peer.outgoing - 1)

    def close(self, how: str = "fin") -> None:
        """End the connection: `fin` after what was written, or `rst` at once."""
        self.flush()
        if how == "rst":
            raw = self._transport.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()
        self.end()

    def data_received(self, data: bytes) -> None:
        if self.ended or self.faults.deaf:
            return
        self._last_in, self._test_sent = self.venue.now(), 0
        for frame in self._reader.feed(data):
            try:
                fields = wire.split(frame)
            except ValueError:
                self._reader.garbled += 1
                continue
            self._received(fields[2][1], fields)
            if self.ended:
                return

    def pause_reading(self, seconds: float) -> None:
        """Read nothing for a while: the client's writes back up."""
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        if not self.ended:
            self._transport.resume_reading()

    # inbound ---------------------------------------------------------------------------------------------

    def _received(self, kind: bytes, fields: wire.Fields) -> None:
        row = dict(reversed(fields))
        seq = int(row.get(34, b"0"))
        if not self.logged_on:
            if kind == b"A" and not self.closing:
                self._logon(row, seq)
            else:
                self.close()
            return
        if row.get(49, b"").decode() != self.peer.sender or row.get(56, b"").decode() != self.service.target:
            self.logout("CompID problem")
        elif kind == b"4" and row.get(123, b"N") != b"Y":
            self.peer.expected = int(row.get(36, b"1"))
        elif kind == b"A":
            self._second_logon(row, seq)
        elif seq > self.peer.expected:
            self._gap(kind, fields, seq)
        elif seq < self.peer.expected:
            if row.get(43) != b"Y" and kind != b"5":
                self.logout(f"MsgSeqNum too low, expecting {self.peer.expected} but received {seq}")
            elif kind == b"5":
                self._logout_received()
        else:
            self._in_order(kind, row, fields)
            self._drain()

    def _in_order(self, kind: bytes, row: dict[int, bytes], fields: wire.Fields) -> None:
        self.peer.expected += 1
        if kind == b"4":
            self.peer.expected = max(self.peer.expected, int(row.get(36, b"0")))
            self._asked = False
        elif kind == b"1":
            self.send(b"0", [(112, row.get(112, b""))])
        elif kind == b"2":
            self._resend(int(row.get(7, b"1")), int(row.get(16, b"0")))
        elif kind == b"5":
            self._logout_received()
        elif kind == b"3":
            self.venue.log("reject received", session=self.id, ref=row.get(45, b"").decode(),
                           tag=row.get(371, b"").decode(), reason=row.get(373, b"").decode(),
                           text=row.get(58, b"").decode())
        elif kind not in (b"0",):
            requests.handle(self, kind, row, fields)

    def _gap(self, kind: bytes, fields: wire.Fields, seq: int) -> None:
        row = dict(reversed(fields))
        if kind == b"2":
            self._resend(int(row.get(7, b"1")), int(row.get(16, b"0")))
        if kind == b"5":
            self._logout_received()
            return
        self._pending[seq] = (kind, fields)
        if len(self._pending) > 10_000:
            self.logout("too many messages out of order")
        elif not self._asked:
            self._asked = True
            self.send(b"2", [(7, self.peer.expected), (16, 0)])

    def _drain(self) -> None:
        while self._pending and not self.ended:
            for seq in [seq for seq in self._pending if seq < self.peer.expected]:
                del self._pending[seq]
            if self.peer.expected not in self._pending:
                return
            kind, fields = self._pending.pop(self.peer.expected)
            if kind == b"2":
                self.peer.expected += 1     # already answered
            else:
                self._in_order(kind, dict(reversed(fields)), fields)
        self._asked = False

    def _logon(self, row: dict[int, bytes], seq: int) -> None:
        sender = row.get(49, b"").decode(errors="replace")
        self._ids = b"49=%b\x0156=%b\x01" % (self.service.target.encode(), sender.encode())
        refusal = self.service.refuses(sender, row.get(56, b"").decode(errors="replace"))
        if refusal is not None:
            if refusal:
                self._refuse(sender, refusal)
            else:
                self.close()
            return
        self.peer = self.service.peers.setdefault(sender, Peer(sender))
        reset = row.get(141, b"N") == b"Y"
        if reset:
            self.peer.expected = self.peer.outgoing = 1
        elif seq < self.peer.expected:
            self._refuse(sender, f"MsgSeqNum too low, expecting {self.peer.expected} but received {seq}")
            return
        self.heartbeat_ns = max(1, int(row.get(108, b"60"))) * SECOND
        self._accept(row, seq, reset)

    def _refuse(self, sender: str, text: str) -> None:
        self.peer = Peer(sender)
        self.send(b"5", [(58, text)])
        self.closing = self.venue.now()
        self.close()

    def _accept(self, row: dict[int, bytes], seq: int, reset: bool) -> None:
        self.peer.session, self.logged_on = self, True
        self.service.count("logons")
        variant = self.service.take_logon_fault()
        if variant and self.faults.logon(variant, reset):
            return
        self._logon_reply(reset)
        self.venue.log("logged on", session=self.id, sender=self.peer.sender, reset=reset)
        if seq > self.peer.expected:
            self._asked = True
            self.send(b"2", [(7, self.peer.expected), (16, 0)])
        else:
            self.peer.expected = seq + 1
        asked = row.get(789)
        if asked and asked.isdigit() and int(asked) < self.peer.outgoing - 1:
            self._resend(int(asked), self.peer.outgoing - 2)

    def _logon_reply(self, reset: bool, extra: tuple = ()) -> None:
        fields = [(98, 0), (108, self.heartbeat_ns // SECOND)]
        if reset:
            fields.append((141, "Y"))
        self.send(b"A", [*fields, *extra])

    def _second_logon(self, row: dict[int, bytes], seq: int) -> None:
        if row.get(141) != b"Y":
            self.logout("unexpected Logon")
            return
        if self.faults.awaits_logon:            # the client's answer to our Logon 141=Y
            self.faults.awaits_logon = False
            self.peer.expected = seq + 1
            return
        self.restart_numbers(drop=True)
        self.peer.expected = seq + 1
        self._logon_reply(True)

    def restart_numbers(self, first: int = 1, drop: bool = False) -> None:
        """MsgSeqNums of both directions begin again inside this connection."""
        self.epoch += 1
        self.peer.expected, self.peer.outgoing = 1, first
        self.sent = Sent(self.venue.config.history)
        self.sightings = {}
        self._pending.clear()
        self._asked = False
        if drop:
            self.drop_subscriptions()

    def drop_subscriptions(self) -> None:
        """Forget all subscriptions and watches of this connection."""
        for group in self.subscriptions.values():
            for subscription in group:
                subscription.line.leave(subscription)
        self.subscriptions.clear()
        self.used_ids.clear()
        self.instrument_watch.clear()
        self.status_watch.clear()

    def logout(self, text: str) -> None:
        """Send Logout and close when it is confirmed, or two seconds later."""
        if not self.closing and not self.ended:
            self.send(b"5", [(58, text)])
            self.closing = self.venue.now()
            self.drop_subscriptions()

    def _logout_received(self) -> None:
        if not self.closing:
            self.send(b"5", [])
        self.close()

    # outbound --------------------------------------------------------------------------------------------

    def send(self, kind: bytes, fields: list[tuple[int, object]]) -> int:
        """Send one message; returns its MsgSeqNum."""
        return self._emit(kind, wire.join(fields), b"", 0)

    def send_data(self, kind: bytes, subscription: Subscription, rest: bytes, total: int, version: int) -> int:
        """Send W or X: `rest` (byte sum `total`) is its text from 268 on, `version` what it brings the symbol to."""
        seq = self._emit(kind, subscription.prefix, rest, total)
        if version >= 0:
            symbol = subscription.line.instrument.symbol
            seen = self.sightings.get(symbol)
            if seen is None:
                seen = self.sightings[symbol] = Sightings(subscription.line.history)
            seen.add(seq, version)
        return seq

    def _emit(self, kind: bytes, prefix: bytes, rest: bytes, total: int) -> int:
        seq = self.peer.outgoing
        self.peer.outgoing = seq + 1
        stamp = self._stamp.at(self.venue.now())
        body = b"35=%b\x0134=%d\x01%b52=%b\x01%b" % (kind, seq, self._ids, stamp, prefix)
        begin = b"8=FIX.4.4\x019=%d\x01" % (len(body) + len(rest))
        check = (wire.byte_sum(begin) + wire.byte_sum(body) + total) & 255
        frame = b"%b%b%b%b" % (begin, body, rest, TRAILERS[check])
        self.sent.add(seq, (kind, stamp, prefix, rest))
        self.service.messages += 1
        if self.faults.active:
            for piece in self.faults.outgoing(seq, kind, frame):
                self.write(piece)
        else:
            self.write(frame)
        return seq

    def write(self, data: bytes) -> None:
        """Queue bytes; they leave at the end of this turn of the loop."""
        if not self._out and not self.ended:
            self.venue.soon(self.flush)
        self._out.append(data)

    def flush(self) -> None:
        """Hand what is queued to the transport, unless a fault holds it back."""
        if not self._out or self.faults.held:
            return
        data = b"".join(self._out)
        self._out.clear()
        self._last_out = self.venue.now()
        if self._transport is None or self._transport.is_closing():
            return
        if self.faults.drip:
            self.faults.drip_out(data)
        else:
            self._transport.write(data)
        if self._transport.get_write_buffer_size() > self.venue.config.write_limit:
            self.venue.log("slow reader dropped", session=self.id)
            self.close("rst")

    def write_now(self, data: bytes) -> None:
        """Past the queue, for the drip of small writes."""
        if not self.ended and not self._transport.is_closing():
            self._transport.write(data)

    def _resend(self, first: int, last: int) -> None:
        """Answer a ResendRequest: `replay` of the messages, `gapfill`, `mixed` or `ignore`."""
        answer = self.resend_answers.popleft() if self.resend_answers else self.venue.config.replay
        newest = self.peer.outgoing - 1
        last = newest if last == 0 else min(last, newest)
        self.venue.log("resend", session=self.id, first=first, last=last, answer=answer)
        if answer == "ignore" or first > last:
            return
        if answer == "gapfill":
            self.gap_fill(first, last + 1)
            return
        fill_from = 0
        for number, (seq, record) in enumerate(self.sent.between(first, last)):
            lost = record is None or record[0] in ADMIN or (answer == "mixed" and number % 3 == 1)
            if lost:
                fill_from = fill_from or seq
                continue
            if fill_from:
                self.gap_fill(fill_from, seq)
                fill_from = 0
            self.again(seq, record)
        if fill_from:
            self.gap_fill(fill_from, last + 1)

    def again(self, seq: int, record: tuple, poss_dup: bytes | None = None) -> None:
        """Write message `seq` once more, with 43=Y and 122 (or with the header fields `poss_dup`)."""
        kind, stamp, prefix, rest = record
        marks = b"43=Y\x01122=%b\x01" % stamp if poss_dup is None else poss_dup
        self.write(wire.finish(b"35=%b\x0134=%d\x01%b52=%b\x01%b%b%b" % (
            kind, seq, self._ids, self._stamp.at(self.venue.now()), marks, prefix, rest)))

    def gap_fill(self, seq: int, new: int, dup: bool = True) -> None:
        """SequenceReset 123=Y from `seq` to `new`, with 43=Y and 122 when `dup`."""
        stamp = self._stamp.at(self.venue.now())
        marks = b"43=Y\x01122=%b\x01" % stamp if dup else b""
        self.write(wire.finish(b"35=4\x0134=%d\x01%b52=%b\x01%b123=Y\x0136=%d\x01" % (
            seq, self._ids, stamp, marks, new)))

    def sequence_reset(self, new: int) -> None:
        """SequenceReset 123=N: the next number is `new`, whatever this message carries."""
        stamp = self._stamp.at(self.venue.now())
        self.write(wire.finish(b"35=4\x0134=%d\x01%b52=%b\x01123=N\x0136=%d\x01" % (
            self.peer.outgoing, self._ids, stamp, new)))

    # time ------------------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Heartbeats, TestRequests and time-outs."""
        if self.ended:
            return
        if self.closing:
            if now_ns - self.closing > LOGOUT_WAIT_NS:
                self.close()
            return
        silent = now_ns - self._last_in
        if self.faults.held and len(self._out) > self.venue.config.held_limit:
            self.close("rst")
            return
        if not self.logged_on:
            if silent > 15 * SECOND:
                self.close()
            return
        if self.faults.deaf:
            return
        if now_ns - self._last_out >= self.heartbeat_ns:
            self._last_out = now_ns
            self.send(b"0", [])
        if silent > 2.4 * self.heartbeat_ns:
            self.venue.log("silent client dropped", session=self.id)
            self.close()
        elif silent > 1.2 * self.heartbeat_ns and not self._test_sent:
            self._test_sent = now_ns
            self.send(b"1", [(112, f"TEST{now_ns // SECOND}")])
