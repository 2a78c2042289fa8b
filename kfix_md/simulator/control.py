"""Sends commands to a running venue over its unix socket: one JSON object a line each way."""

import json
import socket
from pathlib import Path
from typing import Any


class ControlError(RuntimeError):
    """A command failed; the message is the reason the venue gave."""


class Control:
    """A blocking client of the control socket: `control("gap", service="spot-l2", count=3)`."""

    def __init__(self, path: str | Path, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")

    def __call__(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        """Run a command; its answer, or ControlError."""
        answer = self.request({"cmd": cmd, **arguments})
        if not answer.pop("ok"):
            raise ControlError(answer.get("error", "refused"))
        return answer

    def request(self, request: Any) -> dict[str, Any]:
        """Send one request as it is; the whole answer."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        line = self._file.readline()
        if not line:
            raise ControlError("the venue closed the control socket")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def truth(self, symbol: str, level: str = "L2", **arguments: Any) -> dict[str, Any]:
        """The venue's own book of a symbol; with `seq` (and `sender` or `session`) at that
        MsgSeqNum."""
        return self("truth", symbol=symbol, level=level, **arguments)

    def close(self) -> None:
        """Close the socket."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
