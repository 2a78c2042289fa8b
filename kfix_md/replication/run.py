"""Runs `kfix ship` and `kfix mirror` as processes: signals, service manager, metrics, and the follower of a replica."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kfix_md.child import end_with_parent, python
from kfix_md.config import Config, MirrorConfig, MirrorSection, ShipSection
from kfix_md.disk import Store
from kfix_md.errors import CaptureError, UsageError
from kfix_md.feed.checks import read_secret
from kfix_md.feed.notify import Notifier
from kfix_md.journal.holds import Hold
from kfix_md.metrics_server import MetricsServer, listen
from kfix_md.replication.chunks import Source
from kfix_md.replication.mirror import Mirror
from kfix_md.replication.replica import Replica
from kfix_md.replication.session import Replication
from kfix_md.replication.ship import HOLD, Shipper
from kfix_md.shm.locks import InUse, hold

STALLED_S = 60.0
AGAIN_S = 1.0
#: what is counted, exported as kfix_ship_<name>_total and kfix_mirror_<name>_total
COUNTERS = {
    "bytes": "bytes shipped and acknowledged, or stored",
    "chunks": "chunks shipped and acknowledged, or stored",
    "reconnects": "connections to the broker that ended",
    "failures": "attempts that ended with an error",
    "sent_again": "times that a mirror was sent again what it missed",
    "missed": "chunks that followed nothing",
    "corrupted": "chunks that did not match their checksum",
    "write_errors": "times that the replica could not be written or put on disk",
    "holes": "places of the replica at which segments are missing",
    "kept": "segments of which the replica has more than the source, which lost it",
    "deleted": "open segments of the replica that were deleted, and received again",
}


class _Collector:
    def __init__(self, prefix: str, end: Shipper | Mirror) -> None:
        self._prefix, self._end = prefix, end

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        end = self._end
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"{self._prefix}_{name}", text, value=end.counts[name])
        yield GaugeMetricFamily(f"{self._prefix}_failing", "1 while nothing is replicated", value=int(bool(end.fault)))
        with contextlib.suppress(OSError, CaptureError):  # segments are retired while they are listed
            lag_bytes, lag_s = end.behind()
            yield GaugeMetricFamily(f"{self._prefix}_lag_bytes", "not replicated yet, at most", value=lag_bytes)
            yield GaugeMetricFamily(f"{self._prefix}_lag_seconds", "since nothing was missing or heard", value=lag_s)


def _access(section: ShipSection | MirrorSection, what: str) -> Any:
    """How to reach the broker. UsageError where the extra or the broker's address is missing."""
    try:
        from kfix_md.replication.jetstream import Access
    except ImportError:
        raise UsageError(f"kfix {what} needs the package 'nats-py': pip install 'kfix-md[nats]'") from None
    if not section.servers:
        raise UsageError(f'{what}.url: missing; add [{what}] with url = "nats://host:4222"')
    access = Access(
        section.servers,
        credentials=section.credentials,
        token=read_secret(section.token) if section.token else None,
        user=section.user,
        password=read_secret(section.password) if section.password else None,
        tls_ca=section.tls_ca,
    )
    if isinstance(section, ShipSection):
        access.stream_bytes, access.replicas = int(section.stream_gb * 1e9), section.replicas
    return access


@contextlib.contextmanager
def _exclusive(journal: Path) -> Iterator[None]:
    """Be the only shipper of a journal on this machine. UsageError when there is another one, or no journal."""
    if not journal.is_dir():
        raise UsageError(f"no journal at {journal}: start `kfix feed` first, or correct [journal]")
    try:
        lock = hold("ship", journal)
    except InUse as error:
        raise UsageError(f"journal {journal} is being shipped by process {error.pid}: end that one first") from None
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def forget(config: Config) -> None:
    """`kfix ship --forget`: keep the journal for mirrors no longer."""
    with _exclusive(config.journal.directory):
        Hold(config.journal.directory, HOLD).release()


def ship(config: Config, once: bool = False, takeover: bool = False) -> int:
    """`kfix ship`: ship until SIGTERM or Ctrl-C; returns the exit status."""
    section, journal, feed = config.ship, config.journal.directory, config.feed.name
    access = _access(section, "ship")

    async def connect(source: Source) -> Any:
        from kfix_md.replication.jetstream import JetStreamOutlet

        return await JetStreamOutlet.open(access, feed, source, section.chunk_kb << 10)

    port = 0 if once else section.metrics_port
    with _exclusive(journal):
        shipper = Shipper(journal, feed, connect, section.mirrors, takeover, once)
        _run(shipper, "kfix_ship", config.metrics.host, port, Store("journal", journal))
    return 0


def mirror(config: MirrorConfig, directory: Path | None = None, as_json: bool = False) -> int:
    """`kfix mirror`: mirror until SIGTERM or Ctrl-C; returns the exit status."""
    section = config.mirror
    access = _access(section, "mirror")

    async def connect() -> Any:
        from kfix_md.replication.jetstream import JetStreamInlet

        return await JetStreamInlet.open(access, section.feed, section.name)

    replica = Replica(section.directory)
    end = Mirror(replica, section.name, connect, section.sync_ms / 1000)
    follower = None
    if section.publish is not None:
        follower = _Follower(section.directory, section.publish, directory, as_json)
    try:
        _run(
            end, "kfix_mirror", config.metrics.host, section.metrics_port, Store("replica", section.directory), follower
        )
    finally:
        replica.close()
    return 0


class _Follower:
    """`kfix follow` of the replica in a process of its own, started again when it ends."""

    def __init__(self, replica: Path, name: str, directory: Path | None, as_json: bool = False) -> None:
        self._command = python("-m", "kfix_md", "follow", str(replica), "--feed", name)
        self._command += ["--directory", str(directory)] if directory is not None else []
        self._command += ["--json"] if as_json else []
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0

    def look(self) -> None:
        """Start it where it does not run, once a second at most."""
        running = self._process is not None and self._process.poll() is None
        if not running and time.monotonic() - self._started_s >= AGAIN_S:
            self._started_s = time.monotonic()
            self._process = subprocess.Popen(self._command, preexec_fn=end_with_parent)  # noqa: PLW1509

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def _run(
    end: Shipper | Mirror, prefix: str, host: str, port: int, store: Store, follower: _Follower | None = None
) -> None:
    server = None
    if port:
        server = MetricsServer(
            listen(host, port, f"{prefix.removeprefix('kfix_')}.metrics_port"),
            [_Collector(prefix, end)],
            healthy=lambda: ["it does not go round"] if time.monotonic() - end.beat_s > STALLED_S else [],
            ready=lambda: [end.fault] if end.fault else [],
            stores=[store],
        )
    try:
        asyncio.run(_supervised(end, follower))
    finally:
        if follower is not None:
            follower.close()
        if server is not None:
            server.close()


async def _supervised(end: Replication, follower: _Follower | None) -> None:
    loop, notifier = asyncio.get_running_loop(), Notifier()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.stop)
    task = asyncio.create_task(end.run())
    notifier.send("READY=1")
    while not task.done():
        if time.monotonic() - end.beat_s < STALLED_S:
            notifier.alive()
        if follower is not None:
            follower.look()
        await asyncio.wait({task}, timeout=0.2)
    notifier.send("STOPPING=1")
    task.result()
