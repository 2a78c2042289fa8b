"""Numbers, keeps, sends and resends the messages of a session."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kfix_md.simulator import wire
from kfix_md.simulator.faults import Faults
from kfix_md.simulator.lines import Sightings, VenueSubscription

if TYPE_CHECKING:
    from kfix_md.simulator.acceptor import Acceptor
    from kfix_md.simulator.service import VenueService

TRAILERS = [b"10=%03d\x01" % value for value in range(256)]
Record = tuple[bytes, bytes, bytes, bytes]  # type, text of 52, text of the body up to 268, and from 268 on
#: headers by order of 34, 49, 52 and 56
HEADERS = {
    "guide": b"35=%(kind)b\x0134=%(seq)d\x01%(from)b52=%(time)b\x01%(to)b",
    "ids": b"35=%(kind)b\x01%(from)b%(to)b34=%(seq)d\x0152=%(time)b\x01",
    "time-last": b"35=%(kind)b\x0134=%(seq)d\x01%(from)b%(to)b52=%(time)b\x01",
}
ADMIN = frozenset((b"0", b"1", b"2", b"3", b"4", b"5", b"A"))


class Peer:
    """Sequence numbers of one CompID, kept between its connections."""

    def __init__(self, sender: str) -> None:
        self.sender = sender
        self.expected = self.outgoing = 1
        self.session: Acceptor | None = None


class Sent:
    """The last messages of a session by MsgSeqNum, for resends."""

    def __init__(self, limit: int) -> None:
        self._ring: deque[Record] = deque(maxlen=limit)
        self._next = 1

    def add(self, seq: int, record: Record) -> None:
        """Keep (type, text of 52, text after the header) of message `seq`; numbers rise by one."""
        if seq != self._next:
            self._ring.clear()
        self._ring.append(record)
        self._next = seq + 1

    def between(self, first: int, last: int) -> list[tuple[int, Record | None]]:
        """(MsgSeqNum, record) of a range; None for those forgotten."""
        start = self._next - len(self._ring)
        kept = {seq: record for seq, record in enumerate(self._ring, start) if first <= seq <= last}
        return [(seq, kept.get(seq)) for seq in range(first, min(last, self._next - 1) + 1)]


class Sender:
    """The outbound half of a session."""

    def __init__(self, service: "VenueService", number: int) -> None:
        self.service, self.venue, self.number = service, service.venue, number
        self.epoch = 0
        self.peer = Peer("")
        self.ended = False
        self.sent = Sent(self.venue.config.history)
        self.sightings: dict[str, Sightings] = {}
        self.faults = Faults(self)
        self.resend_answers: deque[str] = deque()
        self.from_id = self.to_id = b""  # "49=...|" and "56=...|" of our messages
        self.out: list[bytes] = []
        self.last_out = 0
        self.transport: Any = None
        self.adapt()

    @property
    def id(self) -> str:
        """Names this run of MsgSeqNums: service, connection and how often the numbers restarted in it."""
        return f"{self.service.name}/{self.number}.{self.epoch}"

    def send(self, kind: bytes, fields: Sequence[tuple[int, object]]) -> int:
        """Send one message; returns its MsgSeqNum."""
        return self.emit(kind, wire.join(fields), b"", 0)

    def send_data(self, kind: bytes, subscription: VenueSubscription, rest: bytes, total: int, version: int) -> int:
        """Send W or X: `rest` (byte sum `total`) is its text from 268 on; `version` is what it brings the
        symbol to."""
        seq = self.emit(kind, subscription.prefix, rest, total)
        if version >= 0:
            self.sight(subscription, seq, version)
        return seq

    def sight(self, subscription: VenueSubscription, seq: int, version: int) -> None:
        """Note that message `seq` brought the symbol of a subscription to `version`."""
        symbol = subscription.line.instrument.symbol
        seen = self.sightings.get(symbol)
        if seen is None:
            seen = self.sightings[symbol] = Sightings(subscription.line.history)
        seen.add(subscription, seq, version)

    def _header(self, kind: bytes, seq: int, stamp: bytes) -> bytes:
        """35, 34, 49, 52 and 56; by default in the order of the examples for W and X in Kraken's FIX guide."""
        return self._form % {b"kind": kind, b"seq": seq, b"from": self.from_id, b"time": stamp, b"to": self.to_id}

    def emit(self, kind: bytes, prefix: bytes, rest: bytes, total: int) -> int:
        seq = self.peer.outgoing
        self.peer.outgoing = seq + 1
        stamp = self._stamp.at(self.venue.now())
        body = self._header(kind, seq, stamp) + prefix
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

    def adapt(self) -> None:
        """Take the form of the header from the venue's switches."""
        config = self.venue.config
        self._stamp = wire.Stamp(config.time_decimals, config.clock_offset)
        self._form = HEADERS[config.header]

    def write(self, data: bytes) -> None:
        """Queue bytes; they leave at the end of this turn of the loop."""
        if not self.out and not self.ended:
            self.venue.soon(self.flush)
        self.out.append(data)

    def flush(self) -> None:
        """Hand what is queued to the transport, unless a fault delays it."""
        if not self.out or self.faults.holding:
            return
        data = b"".join(self.out)
        self.out.clear()
        self.last_out = self.venue.now()
        if self.transport is None or self.transport.is_closing():
            return
        if self.faults.drip:
            self.faults.drip_out(data)
        else:
            self.transport.write(data)
        if self.transport.get_write_buffer_size() > self.venue.config.write_limit:
            self.venue.log("slow reader dropped", session=self.id)
            self.close("rst")

    def close(self, how: str = "fin") -> None:
        """End the connection: `fin` after what was written, or `rst` at once."""
        raise NotImplementedError

    def write_now(self, data: bytes) -> None:
        """Past the queue, for the drip of small writes."""
        if not self.ended and not self.transport.is_closing():
            self.transport.write(data)

    def resend(self, first: int, last: int) -> None:
        """Answer a ResendRequest in one of the ways of `habits.ANSWERS`."""
        answer = self.resend_answers.popleft() if self.resend_answers else self.venue.config.replay
        newest = self.peer.outgoing - 1
        last = newest if last == 0 else min(last, newest)
        self.venue.log("resend", session=self.id, first=first, last=last, answer=answer)
        if answer == "ignore" or first > last:
            return
        if answer == "reject":
            self.send(b"3", [(45, self.peer.expected - 1), (372, "2"), (373, 99), (58, "ResendRequest not supported")])
            return
        if answer == "gapfill":
            self.gap_fill(first, last + 1)
            return
        if answer == "chunks":
            last = min(last, first + self.venue.config.chunk - 1)
        fill_from = 0
        for number, (seq, record) in enumerate(self.sent.between(first, last)):
            if record is None or record[0] in ADMIN or (answer == "mixed" and number % 3 == 1):
                fill_from = fill_from or seq
                continue
            if fill_from:
                self.gap_fill(fill_from, seq)
                fill_from = 0
            self.again(seq, record)
        if fill_from:
            self.gap_fill(fill_from, last + 1)

    def again(self, seq: int, record: Record, poss_dup: bytes | None = None) -> None:
        """Write message `seq` once more, with 43=Y and 122 (or with the header fields `poss_dup`)."""
        kind, stamp, prefix, rest = record
        marks = b"43=Y\x01122=%b\x01" % stamp if poss_dup is None else poss_dup
        self.write(
            wire.finish(b"%b%b%b%b" % (self._header(kind, seq, self._stamp.at(self.venue.now())), marks, prefix, rest))
        )

    def gap_fill(self, seq: int, new: int, dup: bool = True) -> None:
        """SequenceReset 123=Y from `seq` to `new`, with 43=Y and 122 when `dup`."""
        stamp = self._stamp.at(self.venue.now())
        marks = b"43=Y\x01122=%b\x01" % stamp if dup else b""
        self.write(wire.finish(b"%b%b123=Y\x0136=%d\x01" % (self._header(b"4", seq, stamp), marks, new)))

    def sequence_reset(self, new: int) -> None:
        """SequenceReset 123=N: the next number is `new`, whatever this message carries."""
        stamp = self._stamp.at(self.venue.now())
        self.write(wire.finish(b"%b123=N\x0136=%d\x01" % (self._header(b"4", self.peer.outgoing, stamp), new)))
