"""Receivers of the TLS benchmarks: each in a process of its own, which measures nothing itself.

`python -m benchmarks.receivers KIND PORT CA [MAP]`: connects to a venue (benchmarks.venue) on this machine and takes in
what comes until the connection ends. MAP: where the C receiver writes the MsgSeqNum it has seen.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.build import ROOT, library

C, FRAMING, STREAMS = "c", "framing", "streams"


def native() -> ctypes.CDLL | None:
    """native/receiver.c; None without a C compiler or OpenSSL's headers."""
    try:
        lib = library("receiver", "-D_GNU_SOURCE", "-lssl", "-lcrypto", suffix="c")
    except RuntimeError:
        return None
    if lib is not None:
        lib.receiver_open.restype = ctypes.c_void_p
        lib.receiver_open.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
        lib.receiver_run.restype = ctypes.c_int64
        lib.receiver_run.argtypes = [ctypes.c_void_p]
    return lib


def has(module: str) -> bool:
    """It is installed."""
    return importlib.util.find_spec(module) is not None


def missing(*more: str) -> str:
    """Why there can be no venue and no feed here; "" when all is there."""
    gone = [module for module in ("cryptography", "uvloop", "click", "pydantic", *more) if not has(module)]
    return f"not installed: {', '.join(gone)}" if gone else ""


def start(kind: str, port: int, ca: Path, *more: str) -> subprocess.Popen[bytes]:
    """A receiver in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.receivers", kind, str(port), str(ca), *more], cwd=ROOT)


def start_feed(
    folder: Path,
    port: int,
    ca: Path,
    comp_id: str,
    *,
    engine: str,
    busy_poll: bool = False,
    cpu: int | None = None,
    shm: Path | None = None,
    more: str = "",
) -> subprocess.Popen[bytes]:
    """`kfix feed` itself, its books in `shm` (`folder` when None), its journal in `folder`; `more`: TOML sections."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "feed.toml"
    config.write_text(f"""
[feed]
name = "bench"
directory = "{shm or folder}"
symbols_max = 8
tls_engine = "{engine}"
busy_poll = {str(busy_poll).lower()}
{"" if cpu is None else f"cpu = {cpu}"}
[[service]]
name = "spot-l2"
sender_comp_id = "{comp_id}"
symbols = ["*"]
host = "localhost"
port = {port}
tls_ca = "{ca}"
heartbeat_s = 600
sending_time_limit_s = 86400
[journal]
directory = "journal"
{more}
""")
    return subprocess.Popen(
        [sys.executable, "-m", "kfix_md", "feed", str(config)], cwd=ROOT, stderr=(folder / "feed.log").open("wb")
    )


def run_c(port: int, shared: str | None, spin: bool) -> None:
    """native/receiver.c until the venue goes."""
    lib = native()
    assert lib is not None
    address = None
    if shared is not None:
        with open(shared, "r+b") as file:
            view = mmap.mmap(file.fileno(), 8)
        address = ctypes.addressof(ctypes.c_uint64.from_buffer(view))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receiver = lib.receiver_open(sock.fileno(), spin, address)
        if not receiver:
            raise SystemExit("the C receiver has no TLS connection")
        while lib.receiver_run(receiver) >= 0:
            pass


async def run_framing(port: int, ca: Path, engine: str) -> None:
    """The connector as it is, in front of a Stream: frames are found and checked, and nothing else."""
    from kfix_md._stream import FrameSink, Stream
    from kfix_md.config import ServiceSection
    from kfix_md.feed.connector import Connector, _Protocol
    from kfix_md.feed.dial import choose_engine, dial
    from kfix_md.feed.service import Service

    class Framing(FrameSink):
        """Takes the handler's place; answers the bytes that end a round."""

        def __init__(self) -> None:
            self.stream = Stream()
            self.get_buffer = self.stream.get_buffer
            self.last_recv_ns = 0

        def buffer_updated(self, n: int, recv_ns: int) -> int:
            return self.stream.buffer_updated(self, n, recv_ns)

        def reset_stream(self) -> None:
            self.stream.reset(self)

        def on_garbled(self, *_: Any) -> None:
            transport.write(b"done")

    section = ServiceSection(
        name="spot-l2", sender_comp_id="BENCH", symbols=["*"], host="localhost", port=port, tls_ca=ca
    )
    service = Service(section, 0)
    service.handler = Framing()
    connector = Connector(service, choose_engine(engine), on_fatal=sys.exit)
    transport, _ = await dial(connector.endpoint, lambda: _Protocol(connector), connector.context, connector._create)
    protocol = transport.get_protocol()
    ticker = asyncio.create_task(connector._tick(protocol))
    await protocol.closed
    ticker.cancel()


async def run_streams(port: int, ca: Path) -> None:
    """asyncio's own streams on asyncio's own loop, the same framing on top."""
    import ssl

    from kfix_md._stream import FrameSink, Stream

    class Framing(FrameSink):
        def on_garbled(self, *_: Any) -> None:
            writer.write(b"done")

    stream, framing = Stream(), Framing()
    context = ssl.create_default_context(cafile=str(ca))
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    while data := await reader.read(1 << 18):
        stream.on_bytes(framing, data, time.time_ns())


def main() -> None:
    """Be the receiver that the command line names."""
    kind, port, ca, *more = sys.argv[1:]
    runs: dict[str, Callable[[], Any]] = {
        C: lambda: run_c(int(port), more[0] if more else None, "spin" in more),
        STREAMS: lambda: asyncio.run(run_streams(int(port), Path(ca))),
        FRAMING: lambda: on_uvloop(run_framing(int(port), Path(ca), more[0])),
    }
    runs[kind]()


def on_uvloop(work: Any) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


if __name__ == "__main__":
    main()
    os._exit(0)
