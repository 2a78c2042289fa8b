"""Starts a real S3 server on loopback: moto's, in a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUCKET = "market"


def command() -> str | None:
    """moto_server of KFIX_MOTO_SERVER, of this environment or of PATH; None when there is none."""
    own = Path(sys.executable).parent / "moto_server"
    return os.environ.get("KFIX_MOTO_SERVER") or (str(own) if own.exists() else shutil.which("moto_server"))


def _request(url: str, method: str = "GET") -> bytes:
    signed = "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    data = b"" if method != "GET" else None
    with urllib.request.urlopen(
        urllib.request.Request(url, data, {"Authorization": signed}, method=method), timeout=10
    ) as answer:
        return answer.read()


class Server:
    """A running server with one empty bucket."""

    def __init__(self, port: int, log: Path) -> None:
        self.endpoint, self.log = f"http://127.0.0.1:{port}", log

    @property
    def variables(self) -> dict[str, str]:
        """The environment that leads a client here."""
        return {
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }

    def requests(self) -> list[str]:
        """Method and path of each request so far."""
        lines = [line for line in self.log.read_text().splitlines() if '"' in line and " HTTP/1" in line]
        return [line.split('"')[1].rsplit(" HTTP", 1)[0] for line in lines]


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server for the time of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "moto.log"
    quiet = {**os.environ, "NO_COLOR": "1", "TERM": "dumb"}
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [str(command()), "-H", "127.0.0.1", "-p", str(port)], stdout=out, stderr=out, env=quiet
        )
    server = Server(port, log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                _request(f"{server.endpoint}/moto-api/")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"moto_server did not start: {log.read_text()}") from None
                time.sleep(0.05)
        _request(f"{server.endpoint}/{BUCKET}", "PUT")
        yield server
    finally:
        process.terminate()
        process.wait(10)
