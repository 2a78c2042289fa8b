"""The HTTP server of /metrics, /healthz and /readyz, and what every process exports about itself."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from kfix_md import __version__
from kfix_md.disk import DAY_S, MEASURED_S, Store, rooms
from kfix_md.errors import UsageError, reason_of
from kfix_md.log_output import lines_lost

#: connections that are served at a time, and seconds that one may wait for its next bytes, and last
CONNECTIONS, IDLE_S, LONGEST_S = 8, 5.0, 15.0
BACKLOG = 5  # connections that wait to be accepted
AGAIN_S = 0.1  # after which one that could not be accepted is tried again

Probe = Callable[[], list[str]]


class MetricsServer:
    """Serves a registry and two probes over HTTP, in threads of its own.

    It has CONNECTIONS descriptors at most, and closes a connection that is idle for IDLE_S or lasts for LONGEST_S:
    whoever can reach the port can neither take those that the process needs nor keep others from its answers for long.

    Parameters
    ----------
    listener : socket.socket
        From `listen`; closed with the server.
    collectors
        Collectors of prometheus_client; build, process, disks and log are added to them.
    healthy, ready
        Functions that return the reasons for 503, none for 200. A process that is not healthy is not ready.
    stores
        The directories whose disks are exported.
    pid : int
        The process whose memory, CPU time and descriptors are exported; 0: this one.
    lost
        Returns how many log lines that process could not write.
    """

    def __init__(
        self,
        listener: socket.socket,
        collectors: Sequence[Any],
        *,
        healthy: Probe,
        ready: Probe,
        stores: Sequence[Store] = (),
        pid: int = 0,
        lost: Callable[[], int] = lines_lost,
    ) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

        self.registry = CollectorRegistry(auto_describe=False)
        for collector in (*collectors, _ProcessCollector(stores, lost)):
            self.registry.register(collector)
        ProcessCollector(pid=lambda: pid or "self", registry=self.registry)
        probes = {"/healthz": healthy, "/readyz": lambda: [*healthy(), *ready()]}
        self._server = _server(listener, _routes(make_wsgi_app(self.registry), probes))
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="kfix-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


def listen(host: str, port: int, key: str = "metrics.port") -> socket.socket:
    """A socket for a MetricsServer; `key`: the configuration key that `port` is from, for errors.

    Of a name with addresses of both families the one of IPv4 is taken; `host` "::" is every address of both.

    Raises
    ------
    UsageError
        When the port is taken, when `host` is no address of this machine, or prometheus-client is not installed.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise UsageError(f"{key}: needs prometheus-client: pip install 'kfix-md[operator]'")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except socket.gaierror as error:
        cause = OSError(errno.EADDRNOTAVAIL, error.strerror) if error.errno == socket.EAI_AGAIN else error
        raise UsageError(_wrong_host(host, error)) from cause
    except OSError as error:
        plain = OSError(error.errno, os.strerror(error.errno or 0))
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise UsageError(_wrong_host(host, plain)) from error
        why = reason_of(plain, lower=True)
        raise UsageError(f"{key} = {port}: {why} on {host}; choose another or 0 for none") from error


def _wrong_host(host: str, error: OSError) -> str:
    return f"metrics.host = {host!r}: {reason_of(error, lower=True)}; name an address of this machine"


def _routes(metrics: Any, probes: dict[str, Probe]) -> Any:
    """WSGI application: /metrics, /healthz (the process works), /readyz (it delivers); 404 for the rest."""

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        status, text = "404 Not Found", "there are /metrics, /healthz and /readyz"
        if path in probes:
            reasons = probes[path]()
            status, text = ("503 Service Unavailable" if reasons else "200 OK"), "\n".join(reasons) or "ok"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [(text + "\n").encode()]

    return serve


def _server(listener: socket.socket, app: Any) -> Any:
    """A WSGI server whose number of connections, and their patience, is limited; not started yet."""
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    places = threading.BoundedSemaphore(CONNECTIONS)
    since_s: dict[Any, float] = {}  # connection -> when it came

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
            since_s[request] = time.monotonic()
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread could be started
                self.leave(request)
                raise

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                self.leave(request)

        def leave(self, request: Any) -> None:
            """A connection has ended."""
            del since_s[request]
            places.release()

        def get_request(self) -> Any:
            """Accept a connection."""
            try:
                return super().get_request()
            except OSError:  # no descriptor or memory: it stays in the queue, and is asked for again at once
                time.sleep(AGAIN_S)
                raise

        def service_actions(self) -> None:
            """Twice a second: end connections whose clients are never idle, and never done either."""
            for request, came_s in list(since_s.items()):
                if time.monotonic() - came_s > LONGEST_S:
                    with suppress(OSError):  # it has just ended
                        request.shutdown(socket.SHUT_RDWR)

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is no error of the process."""

    address = listener.getsockname()
    server = Server(address, Request, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.server_name, server.server_port = address[:2]
    server.setup_environ()
    server.set_app(app)
    return server


class _ProcessCollector:
    """What there is once for a process: its build, its log, its disks."""

    def __init__(self, stores: Sequence[Store], lost: Callable[[], int]) -> None:
        self._stores, self._lost = stores, lost
        self._days_left: dict[str, float] = {}
        self._measured_s = -MEASURED_S
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        build = GaugeMetricFamily("kfix_build_info", "version of the running process", labels=["version", "python"])
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        yield CounterMetricFamily("kfix_log_lines_lost", "log lines that could not be written", value=self._lost())
        free = GaugeMetricFamily("kfix_disk_free_bytes", "room for what is written", labels=["holds"])
        size = GaugeMetricFamily("kfix_disk_size_bytes", "size of the file system", labels=["holds"])
        left = GaugeMetricFamily("kfix_disk_left_seconds", "until it is full at the present growth", labels=["holds"])
        for store in self._stores:
            try:
                usage = shutil.disk_usage(store.directory)
            except OSError:  # the recorder makes its directory when it starts
                continue
            free.add_metric([store.name], usage.free)
            size.add_metric([store.name], usage.total)
        for holds, days in self._forecast().items():
            left.add_metric([holds], days * DAY_S)
        yield from (free, size, left)

    def _forecast(self) -> dict[str, float]:
        """Days left by store; captures of years are many files, which are not looked at for every scrape."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._measured_s >= MEASURED_S:
                found = rooms(self._stores)
                self._days_left = {name: room.days_left for name, room in found.items() if room.days_left is not None}
                self._measured_s = now_s
            return self._days_left
