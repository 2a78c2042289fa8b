"""The sending side of the TLS benchmarks: one venue, whose messages are sealed, each its own record, before any
clock runs."""

from __future__ import annotations

import itertools
import random
import socket
import ssl
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from kfix_md.session.fix import first_request_id
from kfix_md.simulator.tls import CERTIFICATE, KEY, make
from tests.streams.wire import Pairs, frame, number, stamp

MESSAGE_BYTES = 372
MARKER = b"#" * 64  # bytes that are no frame: the end of a round, which a receiver without a session answers
SYMBOL, PRICE_PRECISION, QTY_PRECISION = "BTC/USD", 1, 8
VENUE = "KRAKEN-MD"
LEVELS = 25
#: as long as the feed's own, so that the CompID that pads messages is known before it connects
REQ_ID = str(first_request_id(time.time_ns()))


class Market:
    """One L2 book whose messages are all of MESSAGE_BYTES: three levels change their quantity, 5041 is right.

    It walks `steps` messages away from its snapshot and the same way back, for ever.
    """

    def __init__(self, req_id: str = REQ_ID, steps: int = 256) -> None:
        self._rng = random.Random(372)
        self.req_id = req_id
        self.time = stamp(time.time_ns())
        self.prices = ([280_000 - i for i in range(LEVELS)], [280_001 + i for i in range(LEVELS)])
        self.qtys = ([self.quantity() for _ in range(LEVELS)], [self.quantity() for _ in range(LEVELS)])
        self.comp_id = ""
        self._first = [list(side) for side in self.qtys]
        short = MESSAGE_BYTES - len(self.update(0, [(0, 0, self.qtys[0][0])] * 3, 10**9))
        self.comp_id = ("KFIX-BENCHMARK-" * 5)[:short]
        self._cycle = self._make(steps)

    def quantity(self) -> int:
        """Eight digits, so that all are as long on the wire."""
        return self._rng.randrange(10_000_000, 99_999_999) // 10 * 10 + self._rng.randrange(1, 10)

    def crc(self) -> int:
        """5041 of the book as it is."""
        text = "".join(
            f"{price}{qty}"
            for side in (1, 0)
            for price, qty in list(zip(self.prices[side], self.qtys[side], strict=True))[:10]
        )
        return zlib.crc32(text.encode())

    def header(self, seq: int) -> list[tuple[int, str]]:
        """34, 49, 52, 56; numbers are padded, so that all are as long."""
        return [(34, f"{seq:09}"), (49, VENUE), (52, self.time), (56, self.comp_id)]

    def message(self, kind: str, seq: int, pairs: Pairs) -> bytes:
        """One frame of this session."""
        return frame(kind, [*self.header(seq), *pairs])

    def entry(self, side: int, level: int, qty: int) -> list[tuple[int, str]]:
        price = number(self.prices[side][level], PRICE_PRECISION)
        return [
            (269, str(side)),
            (278, f"{'BO'[side]}{price}"),
            (270, price),
            (271, number(qty, QTY_PRECISION)),
            (273, self.time[9:]),
        ]

    def update(self, seq: int, changes: list[tuple[int, int, int]], crc: int) -> bytes:
        """35=X of (side, level, quantity) changes."""
        pairs = [(55, SYMBOL), (262, self.req_id), (268, str(len(changes)))]
        for change in changes:
            pairs += [(279, "1"), *self.entry(*change)]
        return self.message("X", seq, [*pairs, (5041, str(crc))])

    def snapshot(self, seq: int) -> bytes:
        """35=W of the book as the messages of `updates` expect it."""
        pairs = [(55, SYMBOL), (262, self.req_id), (268, str(2 * LEVELS))]
        for side in (0, 1):
            for level, qty in enumerate(self._first[side]):
                pairs += self.entry(side, level, qty)
        return self.message("W", seq, pairs)

    def _apply(self, changes: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        before = [(side, level, self.qtys[side][level]) for side, level, _ in changes]
        for side, level, qty in changes:
            self.qtys[side][level] = qty
        return before

    def _make(self, steps: int) -> list[tuple[bytes, bytes, int]]:
        """(bytes before 34's value, bytes after it, byte sum of both) of every message of the way out and back."""
        whole, back = [], []
        while self.crc() < 10**9:  # 5041 with ten digits, here and all the way
            self._apply([(0, 0, self.quantity())])
        self._first = [list(side) for side in self.qtys]
        while len(back) < steps:
            crc = self.crc()
            places = self._rng.sample([(side, level) for side in (0, 1) for level in range(LEVELS)], 3)
            changes = [(side, level, self.quantity()) for side, level in places]
            before = self._apply(changes)
            if self.crc() < 10**9:
                self._apply(before)
                continue
            whole.append(self.update(0, changes, self.crc()))
            back.append(self.update(0, before, crc))
        return [self._split(message) for message in [*whole, *reversed(back)]]

    def _split(self, message: bytes) -> tuple[bytes, bytes, int]:
        assert len(message) == MESSAGE_BYTES, len(message)
        at = message.index(b"\x0134=") + 4
        head, tail = message[:at], message[at + 9 : -7]
        return head, tail, sum(head) + sum(tail)

    def updates(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """35=X for ever, under these MsgSeqNums."""
        for seq, (head, tail, total) in zip(numbers, itertools.cycle(self._cycle), strict=False):
            digits = b"%09d" % seq
            yield b"%b%b%b10=%03d\x01" % (head, digits, tail, (total + sum(digits)) % 256)


class Link:
    """One TLS 1.3 connection, this side the venue."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(30.0)
        self.sock, self._in, self._out = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._take()
        self._flush()

    def _flush(self) -> None:
        if data := self._out.read():
            self.sock.sendall(data)

    def _take(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the receiver has gone")
        self._in.write(data)

    def seal(self, *messages: bytes) -> bytes:
        """Each message its own record."""
        for message in messages:
            self._tls.write(message)
        return self._out.read()

    def send(self, *messages: bytes) -> None:
        """Seal and send."""
        self.sock.sendall(self.seal(*messages))

    def receive(self) -> bytes:
        """Wait for plain bytes from the other side."""
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                self._take()

    def close(self) -> None:
        self.sock.close()


class Venue:
    """Listens on a free port of loopback with a certificate of its own (`folder`/ca.pem)."""

    def __init__(self, folder: Path) -> None:
        make(folder)
        self.ca = folder / "ca.pem"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(30.0)
        self.port = self._listener.getsockname()[1]

    def accept(self) -> Link:
        """The next receiver."""
        return Link(self._listener.accept()[0], self._context)

    def close(self) -> None:
        self._listener.close()


class Session:
    """The venue's end of a FIX session: logs the feed on, lists one instrument, opens its book."""

    def __init__(self, link: Link) -> None:
        self.link, self._held, self.seq = link, b"", 0
        logon = self.expect(b"A")
        self.market = Market()
        self.market.comp_id = logon[b"49"].decode()
        self.send_message("A", [(98, "0"), (108, "600"), (141, "Y")])
        listing = self.expect(b"x")
        self.send_message(
            "y",
            [
                (320, listing[b"320"].decode()),
                (322, "1"),
                (560, "0"),
                (146, "1"),
                (55, SYMBOL),
                (5010, str(QTY_PRECISION)),
                (2349, str(PRICE_PRECISION)),
                (5022, "0.1"),
                (5032, "1"),
            ],
        )
        request_id = self.expect(b"V")[b"262"].decode()
        self.market = Market(request_id)
        assert self.market.comp_id == logon[b"49"].decode()
        self.seq += 1
        link.send(self.market.snapshot(self.seq))
        self.updates = self.market.updates(self.numbers())

    def numbers(self) -> Iterator[int]:
        """MsgSeqNums, each used up as it is taken."""
        while True:
            self.seq += 1
            yield self.seq

    def test_request(self) -> bytes:
        """35=1, to be answered with a 35=0."""
        self.seq += 1
        return self.market.message("1", self.seq, [(112, "end")])

    def send_message(self, kind: str, pairs: Pairs) -> None:
        self.seq += 1
        self.link.send(self.market.message(kind, self.seq, pairs))

    def expect(self, kind: bytes) -> dict[bytes, bytes]:
        """The next message of a type from the feed; others are passed over."""
        while True:
            while b"\x0110=" not in self._held or not self._held.endswith(b"\x01"):
                self._held += self.link.receive()
            whole, _, rest = self._held.partition(b"\x0110=")
            self._held = rest[4:]
            found = dict(part.partition(b"=")[::2] for part in whole.split(b"\x01"))
            if found[b"35"] == kind:
                return found
