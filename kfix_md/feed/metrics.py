"""Counters and gauges of the feed, and the HTTP server that Prometheus reads them from."""

from __future__ import annotations

import platform
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfix_md import __version__
from kfix_md._entry import State
from kfix_md.errors import UsageError
from kfix_md.log_output import lines_lost
from kfix_md.session import SessionState

if TYPE_CHECKING:
    from kfix_md.feed.process import FeedProcess

#: handler counters exported as kfix_<name>_total
COUNTERS = {
    "messages": "FIX messages received",
    "bytes": "bytes of FIX messages received",
    "entries": "market data entries decoded",
    "crc_checked": "messages whose 5041 was checked",
    "crc_failed": "messages whose 5041 did not match the book",
    "malformed": "messages that could not be applied whole",
    "late": "messages of ended subscriptions",
    "bad_checksum": "frames with a wrong tag 10",
    "bad_length": "frames with a wrong tag 9",
    "garbage": "runs of bytes between messages",
}


@dataclass(slots=True)
class FeedCounters:
    """All counters of a feed at one moment."""

    services: list[dict[str, Any]] = field(default_factory=list)
    journal: dict[str, Any] = field(default_factory=dict)
    clock_steps: int = 0
    disks: dict[str, Path] = field(default_factory=dict)  # what is written -> its directory
    beat_age_s: float = 0.0  # seconds since the loop's last heartbeat

    def not_ready(self) -> list[str]:
        """One line for each session that does not deliver and is not in its planned rollover."""
        return [
            f"{one['labels'][0]} ({one['labels'][1]}): {fault}"
            for one in self.services
            if (fault := _fault(one)) and not one["planned"]
        ]

    def stalled(self) -> str:
        """Why the process does not work; empty while it does."""
        return "" if self.beat_age_s < STALLED_S else f"the loop has not run for {self.beat_age_s:.0f} s"

    def totals(self) -> dict[str, int]:
        """Sums over the services, for the counters in shared memory."""
        sums = {name: sum(int(one["counters"].get(name, 0)) for one in self.services) for name in COUNTERS}
        sums["gaps"] = sum(sum(one["gaps"].values()) for one in self.services)
        sums["gaps_open"] = sum(one["gaps_open"] for one in self.services)
        sums["left_out"] = sum(one["left_out"] for one in self.services)
        sums["unverified"] = sum(one["states"][State.UNVERIFIED.name] for one in self.services)
        sums["lagging"] = sum(one["lagging"] for one in self.services)
        sums["reconnects"] = sum(one["reconnects"] for one in self.services)
        sums["clock_steps"] = self.clock_steps
        sums["journal_records"] = int(self.journal.get("records", 0))
        sums["journal_position"] = int(self.journal.get("position", 0))
        sums["journal_lost"] = int(self.journal.get("lost", 0))
        return sums


def _fault(one: dict[str, Any]) -> str:
    """Why a session does not deliver; empty when it does."""
    if not one["up"]:
        return "a gap is open" if one["logged_on"] else "not logged on"
    return f"messages arrive {one['lag_seconds']:.1f} s late" if one["lagging"] else ""


def gather(feed: FeedProcess) -> FeedCounters:
    """Collect every counter of a feed."""
    config, now_ns = feed.config, feed.clock.now_ns()
    reading = FeedCounters(clock_steps=feed.clock.steps, beat_age_s=feed.beat_age_s())
    if config.journal.enabled:
        reading.disks["journal"] = config.journal.directory
    reading.disks["captures"] = config.recorder.directory
    for service in feed.services:
        session = service.session
        reading.services.append(
            {
                "labels": (service.name, service.section.sender_comp_id),
                "counters": service.handler.stats,
                "states": {state.name: service.states[state] for state in State},
                "gaps": dict(service.gaps),
                "gaps_open": service.open_gaps(),
                "reconnects": max(0, service.connects - 1),
                "errors": service.errors,
                "up": int(session.ready),
                "logged_on": session.state == SessionState.ON,
                "planned": int(session.rollover.armed(now_ns)),
                "silence_seconds": max(0, now_ns - session.last_recv_ns) / 1e9,
                "lag_seconds": service.lag.lag_ns / 1e9,
                "lagging": int(service.lag.over),
                "clock_lag_seconds": _clock_lag(service) / 1e9,
                "next_rollover_seconds": max(0, session.rollover.next_instant(now_ns) - now_ns) / 1e9,
                "rollover_duration_seconds": _took(session.rollover),
                "rejected": service.subs.counters.rejected,
                "left_out": len(service.subs.left_out.reasons),
                "resubscribed": dict(service.subs.counters.faults),
            }
        )
    if feed.journal is not None:
        reading.journal = feed.journal.stats()
    return reading


def _clock_lag(service: Any) -> int:
    """Receive time minus SendingTime of the last market data message, else of the last session message, in ns."""
    handler = service.handler
    if handler.last_sending_ns and handler.last_recv_ns:
        return int(handler.last_recv_ns + handler.clock_step_ns - handler.last_sending_ns)
    return int(service.session.clock_lag_ns)


def _took(rollover: Any) -> float:
    """Seconds that the last rollover took until every book was verified; 0 before the first."""
    return max(0, rollover.verified_ns - rollover.began_ns) / 1e9 if rollover.verified_ns else 0.0


#: connections that /metrics serves at a time, and seconds that one may wait for its next bytes
CONNECTIONS, IDLE_S = 8, 5.0
#: a heartbeat is written every 4 s at the longest (feed.heartbeat_ms)
STALLED_S = 10.0


class Metrics:
    """HTTP server of /metrics, /healthz and /readyz, in threads of its own. UsageError when the port is taken.

    It has CONNECTIONS descriptors at most, and closes a connection that is idle for IDLE_S: whoever can reach the
    port cannot take those that sessions and journal need.
    """

    def __init__(self, host: str, port: int, read: Callable[[], FeedCounters]) -> None:
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
        except ImportError:
            message = "metrics.port: needs prometheus-client: pip install 'kfix-md[operator]'"
            raise UsageError(message) from None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(read))
        ProcessCollector(registry=registry)
        try:
            self._server = _server(host, port, _routes(read, make_wsgi_app(registry)))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"metrics.port = {port}: {reason}; choose another or 0 for none") from None
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="kfix-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


def _routes(read: Callable[[], FeedCounters], metrics: Any) -> Any:
    """WSGI application: /metrics, /healthz (the process works), /readyz (its sessions deliver); 404 for the rest."""

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        status, text = "404 Not Found", "there are /metrics, /healthz and /readyz"
        if path in ("/healthz", "/readyz"):
            reading = read()
            reasons = [reading.stalled()] if reading.stalled() else []
            if path == "/readyz":
                reasons += reading.not_ready()
            status, text = ("503 Service Unavailable" if reasons else "200 OK"), "\n".join(reasons) or "ok"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [(text + "\n").encode()]

    return serve


def _server(host: str, port: int, app: Any) -> Any:
    """A WSGI server whose number of connections, and their patience, is limited; not started yet."""
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    places = threading.BoundedSemaphore(CONNECTIONS)

    class Request(WSGIRequestHandler):
        timeout = IDLE_S

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not logged."""

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True
        block_on_close = False

        def process_request(self, request: Any, client_address: Any) -> None:
            if not places.acquire(blocking=False):
                self.shutdown_request(request)
                return
            super().process_request(request, client_address)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                places.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is no error of the feed."""

    server = Server((host, port), Request)
    server.set_app(app)
    return server


class _Collector:
    def __init__(self, read: Callable[[], FeedCounters]) -> None:
        self._read = read

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        reading, labels = self._read(), ["service", "sender"]
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"kfix_{name}", text, labels=labels)
            for one in reading.services:
                counter.add_metric(one["labels"], one["counters"].get(name, 0))
            yield counter
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"kfix_{name}", text, labels=labels)
            for one in reading.services:
                gauge.add_metric(one["labels"], one[name])
            yield gauge
        for name, text in _FAULTS.items():
            counter = CounterMetricFamily(f"kfix_{name}", text, labels=labels)
            for one in reading.services:
                counter.add_metric(one["labels"], one[name])
            yield counter
        for kind, name, label, text in (
            (GaugeMetricFamily, "states", "state", "books in each state"),
            (CounterMetricFamily, "gaps", "cause", "gaps since the start"),
            (CounterMetricFamily, "resubscribed", "cause", "books subscribed again"),
        ):
            family = kind(f"kfix_{name}", text, labels=[*labels, label])
            for one in reading.services:
                for key, value in one[name].items():
                    family.add_metric([*one["labels"], key.lower()], value)
            yield family
        yield from _of_process(reading)
        for name, text in (
            ("records", "records appended"),
            ("lost", "records that could not be stored"),
            ("syncs", "times it was put on disk"),
            ("sync_failed", "times that failed"),
        ):
            value = reading.journal.get(name, 0)
            yield CounterMetricFamily(f"kfix_journal_{name}", f"journal: {text}", value=value)
        exposed = reading.journal.get("exposed_max_ns", 0) / 1e9
        yield GaugeMetricFamily(
            "kfix_journal_exposed_max_seconds",
            "longest a record may have waited to be on disk, what a power loss costs",
            value=exposed,
        )
        position, synced = (reading.journal.get(name, 0) for name in ("position", "synced"))
        waiting = max(0, position - synced) if position >> 32 == synced >> 32 else position & 0xFFFFFFFF
        yield GaugeMetricFamily("kfix_journal_unsynced_bytes", "written since the last sync", value=waiting)
        text = "times that the clock of this machine was set to another time"
        yield CounterMetricFamily("kfix_clock_steps", text, value=reading.clock_steps)
        yield CounterMetricFamily("kfix_log_lines_lost", "log lines that could not be written", value=lines_lost())
        alarm = int(bool(reading.journal.get("alarm")))
        yield GaugeMetricFamily("kfix_journal_alarm", "1 while the journal cannot be written", value=alarm)


def _of_process(reading: FeedCounters) -> Iterable[Any]:
    """What there is once for the process: its build, its loop, its disks."""
    from prometheus_client.core import GaugeMetricFamily

    build = GaugeMetricFamily("kfix_build_info", "version of the running process", labels=["version", "python"])
    build.add_metric([__version__, platform.python_version()], 1)
    yield build
    yield GaugeMetricFamily(
        "kfix_heartbeat_age_seconds", "seconds since the loop's last heartbeat", value=reading.beat_age_s
    )
    free = GaugeMetricFamily("kfix_disk_free_bytes", "room for what is written", labels=["holds"])
    size = GaugeMetricFamily("kfix_disk_size_bytes", "size of the file system", labels=["holds"])
    for holds, directory in reading.disks.items():
        try:
            usage = shutil.disk_usage(directory)
        except OSError:  # the recorder makes its directory when it starts
            continue
        free.add_metric([holds], usage.free)
        size.add_metric([holds], usage.total)
    yield from (free, size)


_GAUGES = {
    "up": "1 while the session is logged on with no gap open",
    "planned": "1 in the window of the daily rollover, in which a lost session is no fault",
    "gaps_open": "gaps not healed yet",
    "silence_seconds": "seconds since the last message",
    "lag_seconds": "how late the last message arrived, less what the clocks provably differ by",
    "lagging": "1 while messages arrive later than max_lag_s: readers do not trust the books",
    "clock_lag_seconds": "our clock minus SendingTime of the last message",
    "next_rollover_seconds": "seconds to the next rollover",
    "rollover_duration_seconds": "seconds the last rollover took until the last book was verified",
    "left_out": "symbols that are not served because something failed for them alone",
}
_FAULTS = {
    "reconnects": "connections made after the first",
    "errors": "internal errors that cost a connection",
    "rejected": "subscriptions that the venue rejected",
}
