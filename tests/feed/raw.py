"""A venue of sockets and threads that does exactly what a test scripts, where the simulator would be too polite."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kfix_md.simulator import tls

SOH = "\x01"


def frame(kind: str, pairs: list[tuple[int, object]]) -> bytes:
    """One FIX message with length and checksum."""
    body = f"35={kind}{SOH}".encode() + b"".join(f"{tag}={value}{SOH}".encode() for tag, value in pairs)
    head = f"8=FIX.4.4{SOH}9={len(body)}{SOH}".encode() + body
    return head + f"10={sum(head) % 256:03d}{SOH}".encode()


def utc() -> str:
    """Now, as SendingTime writes it."""
    now = time.time()
    return time.strftime("%Y%m%d-%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}"


class Conn:
    """One connection: numbers what it sends, answers what it receives as the venue's `rows` and hooks say."""

    def __init__(self, venue: RawVenue, sock: socket.socket) -> None:
        self.venue, self.sock, self.seq = venue, sock, 0
        self.got: list[tuple[str, dict[int, str]]] = []
        self.subs: dict[str, str] = {}
        self.alive = True
        self._lock = threading.RLock()

    def send(self, kind: str, pairs: list[tuple[int, object]]) -> None:
        with self._lock:
            self.seq += 1
            head = [(34, self.seq), (49, "KRAKEN-MD"), (52, utc()), (56, "ME")]
            self.sock.sendall(frame(kind, [*head, *pairs]))

    def list(self, rows: list[list[tuple[int, object]]], request: str | None = None, **more: object) -> None:
        """35=y of these rows, each given as its fields."""
        request = request or next(body[320] for kind, body in reversed(self.got) if kind == "x")
        fields = [field for row in rows for field in row]
        self.send("y", [(320, request), (322, "r"), (560, 0), (146, len(rows)), *fields])

    def book(self, kind: str, symbol: str, entries: list[tuple[int, object]], count: int) -> None:
        """35=W or X with these entry fields."""
        self.send(kind, [(55, symbol), (262, self.subs[symbol]), (268, count), *entries])

    def snapshot(self, symbol: str) -> None:
        clock = utc()[9:]
        ask = [(269, 1), (278, "O28013.0"), (270, "28013.0"), (271, "0.001"), (273, clock)]
        bid = [(269, 0), (278, "B28003.0"), (270, "28003.0"), (271, "0.001"), (273, clock)]
        self.book("W", symbol, [*ask, *bid], 2)

    def update(self, symbol: str, qty: str) -> None:
        entry = [(279, 1), (269, 1), (278, "O28013.0"), (270, "28013.0"), (271, qty), (273, utc()[9:])]
        self.book("X", symbol, entry, 1)

    def serve(self) -> None:
        buffer = b""
        try:
            while self.alive:
                data = self.sock.recv(65536)
                if not data:
                    break
                buffer += data
                while found := re.match(rb"8=FIX\.4\.4\x019=(\d+)\x01", buffer):
                    end = found.end() + int(found[1]) + 7
                    if len(buffer) < end:
                        break
                    text, buffer = buffer[:end].decode("utf-8"), buffer[end:]
                    fields = [part.split("=", 1) for part in text.rstrip(SOH).split(SOH)]
                    body = {int(tag): value for tag, value in reversed(fields)}
                    self.got.append((body[35], body))
                    self._answer(body[35], body)
        except OSError:
            pass
        self.alive = False

    def _answer(self, kind: str, body: dict[int, str]) -> None:
        hook = self.venue.hooks.get(kind)
        if hook is not None:
            hook(self, body)
        elif kind == "A":
            self.send("A", [(98, 0), (108, body[108]), (141, "Y")])
        elif kind == "x":
            self.list(self.venue.rows)
        elif kind == "g":
            self.send("h", [(335, body[335]), (336, "SESSION"), (340, 2)])
        elif kind == "1":
            self.send("0", [(112, body[112])])
        elif kind == "5":
            self.send("5", [])
            self.close()
        elif kind == "V" and body[263] == "1":
            self.subs[body[55]] = body[262]
            self.snapshot(body[55])

    def close(self) -> None:
        self.alive = False
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


def row(symbol: str, status: int | None = 1, price: object = 1, qty: object = 8) -> list[tuple[int, object]]:
    """One instrument of a list; None leaves a field out."""
    fields = [(55, symbol), (5010, qty), (2349, price), (5032, status)]
    return [field for field in fields if field[1] is not None]


class RawVenue:
    """Listens on one port of every address of `hosts`; `hooks` replace the answer to a MsgType."""

    def __init__(self, folder: Path, rows: list[list[tuple[int, object]]], hosts: tuple[str, ...] = ("127.0.0.1",)):
        self.rows, self.hooks = rows, {}  # type: ignore[var-annotated]
        self.conns: list[Conn] = []
        self.accepted: list[tuple[str, float]] = []  # (host, time.monotonic)
        self.mute: set[str] = set()  # hosts that complete TLS and say nothing
        self.ca = tls.make(folder / "tls") / tls.CA
        self.context = tls.server_context(folder / "tls")
        self.port, self._listeners = 0, []  # type: ignore[var-annotated]
        for host in hosts:
            listener = socket.create_server((host, self.port), backlog=64)
            self.port = listener.getsockname()[1]
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener, host), daemon=True).start()

    def _accept(self, listener: socket.socket, host: str) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.accepted.append((host, time.monotonic()))
            threading.Thread(target=self._serve, args=(sock, host), daemon=True).start()

    def _serve(self, sock: socket.socket, host: str) -> None:
        try:
            wrapped = self.context.wrap_socket(sock, server_side=True)
        except OSError:
            return
        if host in self.mute:
            with contextlib.suppress(OSError):
                while wrapped.recv(65536):
                    pass
            return
        conn = Conn(self, wrapped)
        self.conns.append(conn)
        conn.serve()

    @property
    def conn(self) -> Conn:
        """The last connection."""
        return self.conns[-1]

    def toml(self, folder: Path, name: str, symbols: str = '["*"]', feed: str = "", service: str = "") -> str:
        """A configuration for this venue."""
        return (
            f'[feed]\nname = "{name}"\ndirectory = "{folder}"\n{feed}\n[[service]]\nname = "spot-l2"\n'
            f'sender_comp_id = "ME"\nsymbols = {symbols}\nhost = "localhost"\nport = {self.port}\n'
            f'tls_ca = "{self.ca}"\n{service}\n[journal]\ndirectory = "journal"\nsegment_mb = 1\n'
        )

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for conn in self.conns:
            conn.close()


Hook = Callable[[Conn, dict[int, str]], None]
