"""Fixtures and helpers: a venue in its own process, and a plain FIX client that shares nothing with the package.

with running_venue(tmp_path, "--symbols", "4", "--rate", "200") as venue:
    venue.ports["spot-l2"], venue.ca, venue.control("gap", service="spot-l2", count=3)
"""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kfix_md.simulator.control import Control

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {
    "spot-l2": "KRAKEN-MD",
    "spot-l3": "KRAKEN-MD",
    "derivatives-l2": "KRAKEN-DRV-MD",
    "derivatives-l3": "KRAKEN-DRV-MD",
}


class RunningVenue:
    """A simulator process: `ports` by service, `ca` (None without TLS), `control` to command it."""

    def __init__(self, process, ready, control):
        self.process, self.ports, self.ca, self.control = process, ready["ports"], ready["ca"], control
        self.control_path = ready["control"]


@contextlib.contextmanager
def running_venue(directory, *options, tls=True):
    """Start `kfix simulate` on free ports with a control socket (and TLS); it ends with the block."""
    directory = Path(directory)
    short = tempfile.mkdtemp(prefix="kfix-")  # a unix socket's path is at most 107 bytes
    arguments = [
        sys.executable,
        "-m",
        "kfix_md.simulator",
        "--port-base",
        "0",
        "--control",
        f"{short}/control",
        *options,
    ]
    if tls:
        arguments += ["--tls-dir", str(directory / "tls")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the simulator did not start: {process.stderr.read()}")
        with Control(f"{short}/control") as control:
            yield RunningVenue(process, json.loads(line), control)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()
        Path(short, "control").unlink(missing_ok=True)
        Path(short).rmdir()


@pytest.fixture
def venue(tmp_path):
    """A venue with four generated symbols on each service, TLS 1.3, standing still until `resume`."""
    with running_venue(tmp_path, "--symbols", "4", "--rate", "300") as running:
        running.control("pause")
        yield running


class Client:
    """A plain blocking FIX client: sends any message, collects what comes, knows nothing of sessions."""

    def __init__(self, venue, service, sender="TESTER", tls=True):
        self.service, self.sender, self.seq = service, sender, 1
        raw = socket.create_connection(("127.0.0.1", venue.ports[service]), timeout=10)
        if tls and venue.ca:
            context = ssl.create_default_context(cafile=venue.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            raw = context.wrap_socket(raw, server_hostname="localhost")
        self.socket = raw
        self.buffer = b""
        self.closed = False

    def send(self, kind, fields=(), seq=None, **header):
        """Send one message; `header` may replace sender and target."""
        number = self.seq if seq is None else seq
        if seq is None:
            self.seq += 1
        body = [
            (35, kind),
            (34, number),
            (49, header.get("sender", self.sender)),
            (52, time.strftime("%Y%m%d-%H:%M:%S.000", time.gmtime())),
            (56, header.get("target", TARGETS[self.service])),
            *fields,
        ]
        text = "".join(f"{tag}={value}\x01" for tag, value in body).encode(errors="surrogateescape")
        text = b"8=FIX.4.4\x019=%d\x01" % len(text) + text
        self.socket.sendall(text + b"10=%03d\x01" % (sum(text) % 256))

    def logon(self, heartbeat=60, reset="Y"):
        """Log on and return the reply."""
        self.send("A", [(98, 0), (108, heartbeat), *([(141, reset)] if reset else [])])
        return self.message()

    def subscribe(self, request, *symbols, depth=0, types=(0, 1), level="Y"):
        """Send one V."""
        self.send(
            "V",
            [
                (262, request),
                (263, 1),
                (264, depth),
                (265, 1),
                (266, level),
                (267, len(types)),
                *((269, kind) for kind in types),
                (146, len(symbols)),
                *((55, symbol) for symbol in symbols),
            ],
        )

    def frame(self, timeout=10):
        """The next whole frame as bytes; None when the venue closed or sent nothing in time."""
        self.socket.settimeout(timeout)
        while True:
            end = self.buffer.find(b"\x0110=")
            stop = self.buffer.find(b"\x01", end + 1) if end >= 0 else -1
            if stop >= 0:
                frame, self.buffer = self.buffer[: stop + 1], self.buffer[stop + 1 :]
                return frame
            try:
                data = self.socket.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return None
            self.buffer += data

    def message(self, timeout=10):
        """The next frame as a list of (tag, text); frames are checked on the way."""
        frame = self.frame(timeout)
        if frame is None:
            return None
        assert int(frame[-4:-1]) == sum(frame[:-7]) % 256, "checksum"
        head, length, _ = frame.split(b"\x01", 2)
        assert int(length[2:]) == len(frame) - len(head) - len(length) - 2 - 7, "body length"
        text = frame.decode(errors="surrogateescape").rstrip("\x01")
        return [(int(tag), value) for tag, _, value in (piece.partition("=") for piece in text.split("\x01"))]

    def until(self, kind, timeout=10, count=1):
        """All messages up to the `count`-th of a type."""
        seen = []
        while count:
            message = self.message(timeout)
            assert message is not None, f"no 35={kind}; saw {[value(m, 35) for m in seen]}"
            seen.append(message)
            count -= value(message, 35) == kind
        return seen

    def close(self):
        """Drop the connection."""
        self.socket.close()


def value(message, tag):
    """First value of a tag, None when absent."""
    return next((text for number, text in message if number == tag), None)
