"""Runs the FIX session of one connection: Logon, sequence numbers, heartbeats, resend requests."""

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

from kfix_md.simulator import logons, requests, wire
from kfix_md.simulator.lines import VenueSubscription
from kfix_md.simulator.listing import ListWatch
from kfix_md.simulator.sender import Peer, Sender, Sent

if TYPE_CHECKING:
    from kfix_md.simulator.service import VenueService

LOGOUT_WAIT_NS = 2_000_000_000
SECOND = 1_000_000_000


class Acceptor(Sender, asyncio.Protocol):
    """One connection to one service of the venue."""

    def __init__(self, service: "VenueService", number: int) -> None:
        super().__init__(service, number)
        self.logged_on = False
        self.closing = 0  # when our Logout went out
        self.lingering = 0  # when the connection was left open after a Logout
        self.heartbeat_ns = 60 * SECOND
        self.subscriptions: dict[str, list[VenueSubscription]] = {}
        self.used_ids: set[str] = set()
        self.instrument_watch: dict[str, ListWatch] = {}
        self.status_watch: set[str] = set()
        self.reader = wire.FrameReader()
        self._pending: dict[int, tuple[bytes, wire.Fields]] = {}
        self._resend_requested = False
        self._last_in = self._test_sent = 0

    # connection ------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.service.sessions.add(self)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._last_in = self.last_out = self.venue.now()
        if not self.service.accepts(self):
            transport.abort()
        self.faults.deaf = self.service.dead

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
        if self.transport is None:  # refused before it was connected
            pass
        elif how == "rst":
            raw = self.transport.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()
        self.end()

    def data_received(self, data: bytes) -> None:
        if self.ended or self.faults.deaf:
            return
        self._last_in, self._test_sent = self.venue.now(), 0
        for frame in self.reader.feed(data):
            try:
                fields = wire.split(frame)
                self._received(fields[2][1], fields)
            except (ValueError, IndexError) as error:  # a client may send anything
                self.reader.garbled += 1
                self.venue.log("garbled message", session=self.id, error=str(error)[:200])
            if self.ended:
                return

    def pause_reading(self, seconds: float) -> None:
        """Read nothing for a while: the client's writes back up."""
        self.transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        if not self.ended:
            self.transport.resume_reading()

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
            self._resend_requested = False
        elif kind == b"1":
            if self.venue.config.test_request == "answer":
                self.send(b"0", [(112, row.get(112, b""))])
        elif kind == b"2":
            self.resend(int(row.get(7, b"1")), int(row.get(16, b"0")))
        elif kind == b"5":
            self._logout_received()
        elif kind == b"3":
            self.venue.log(
                "reject received",
                session=self.id,
                ref=row.get(45, b"").decode(),
                tag=row.get(371, b"").decode(),
                reason=row.get(373, b"").decode(),
                text=row.get(58, b"").decode(),
            )
        elif kind not in (b"0",):
            requests.handle(self, kind, row, fields)

    def _gap(self, kind: bytes, fields: wire.Fields, seq: int) -> None:
        row = dict(reversed(fields))
        if kind == b"2":
            self.resend(int(row.get(7, b"1")), int(row.get(16, b"0")))
        if kind == b"5":
            self._logout_received()
            return
        self._pending[seq] = (kind, fields)
        if len(self._pending) > 10_000:
            self.logout("too many messages out of order")
        elif not self._resend_requested:
            self._resend_requested = True
            self.send(b"2", [(7, self.peer.expected), (16, 0)])

    def _drain(self) -> None:
        while self._pending and not self.ended:
            for seq in [seq for seq in self._pending if seq < self.peer.expected]:
                del self._pending[seq]
            if self.peer.expected not in self._pending:
                return
            kind, fields = self._pending.pop(self.peer.expected)
            if kind == b"2":
                self.peer.expected += 1  # already answered
            else:
                self._in_order(kind, dict(reversed(fields)), fields)
        self._resend_requested = False

    def _logon(self, row: dict[int, bytes], seq: int) -> None:
        sender = row.get(49, b"").decode(errors="replace")
        self.from_id = b"49=%b\x01" % self.service.target.encode()
        self.to_id = b"56=%b\x01" % sender.encode()
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
        if variant is None or variant["variant"] not in logons.NO_SESSION:
            self.venue.log("logged on", session=self.id, sender=self.peer.sender, reset=reset)
        if variant and logons.reply(self, variant, reset):
            return
        self.logon_reply(reset)
        if seq > self.peer.expected:
            self._resend_requested = True
            self.send(b"2", [(7, self.peer.expected), (16, 0)])
        else:
            self.peer.expected = seq + 1
        wanted = row.get(789)
        if wanted and wanted.isdigit() and int(wanted) < self.peer.outgoing - 1:
            self.resend(int(wanted), self.peer.outgoing - 2)

    def logon_reply(self, reset: bool, extra: tuple[tuple[int, object], ...] = ()) -> None:
        fields: list[tuple[int, object]] = [(98, 0), (108, self.heartbeat_ns // SECOND)]
        if reset and self.venue.config.logon_reset == "echo":
            fields.append((141, "Y"))
        self.send(b"A", [*fields, *extra])

    def _second_logon(self, row: dict[int, bytes], seq: int) -> None:
        if row.get(141) != b"Y":
            self.logout("unexpected Logon")
            return
        if self.faults.awaits_logon:  # the client's answer to our Logon 141=Y
            self.faults.awaits_logon = False
            self._pending.clear()  # what was on its way has the old numbers
            self._resend_requested = False
            self.peer.expected = seq + 1
            if self.venue.config.logon_echo:
                if self.venue.config.logon_echo == "one":
                    self.peer.outgoing = 1
                self.logon_reply(True)
            return
        self.restart_numbers(drop=True)
        self.peer.expected = seq + 1
        self.logon_reply(True)

    def restart_numbers(self, first: int = 1, drop: bool = False) -> None:
        """MsgSeqNums of both directions begin again inside this connection."""
        self.epoch += 1
        self.peer.expected, self.peer.outgoing = 1, first
        self.sent = Sent(self.venue.config.history)
        self.sightings = {}
        self._pending.clear()
        self._resend_requested = False
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
            how = "held back" if self.faults.holding else "sent"  # by a silent rollover, for example
            self.venue.log(f"logout {how}", session=self.id, sender=self.peer.sender)
            if self.venue.config.after_logout != "data":
                self.drop_subscriptions()
            if self.venue.config.after_logout != "close":
                self._linger(self.venue.config.after_logout == "open")

    def _logout_received(self) -> None:
        how = self.venue.config.on_logout
        self.venue.log("logout received", session=self.id, sender=self.peer.sender)
        if self.lingering:
            return
        if how != "ignore" and not self.closing:
            self.send(b"5", [])
        if how == "close":
            self.close()
        else:
            self._linger(how == "open")

    def _linger(self, silent: bool) -> None:
        """Keep the connection open, `silent` or with the data going on; what the client sends is not read.

        A TLS close_notify of the client is not read either, and so never answered.
        """
        self.lingering = self.venue.now()
        if silent:
            self.flush()
            self.drop_subscriptions()
        self.faults.deaf = True
        self.transport.pause_reading()

    # time ------------------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Heartbeats, TestRequests and time-outs."""
        if self.ended:
            return
        if self.lingering:
            if now_ns - self.lingering > self.venue.config.linger * SECOND:
                self.close("rst")
            return
        if self.closing:
            if now_ns - self.closing > LOGOUT_WAIT_NS:
                self.close()
            return
        silent = now_ns - self._last_in
        if self.faults.holding and len(self.out) > self.venue.config.held_limit:
            self.close("rst")
            return
        if not self.logged_on:
            if silent > 15 * SECOND:
                self.close()
            return
        if self.faults.deaf:
            return
        if now_ns - self.last_out >= self.heartbeat_ns:
            self.last_out = now_ns
            self.send(b"0", [])
        if silent > 2.4 * self.heartbeat_ns:
            self.venue.log("silent client dropped", session=self.id)
            self.close()
        elif silent > 1.2 * self.heartbeat_ns and not self._test_sent:
            self._test_sent = now_ns
            self.send(b"1", [(112, f"TEST{now_ns // SECOND}")])
