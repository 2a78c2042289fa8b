"""Notifies the service manager (sd_notify): ready, alive, stopping. Without one it does nothing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from kfix_md.symbol_text import one_line

#: of the watchdog's interval, after which `alive` sends again
_SHARE = 4


class Notifier:
    """Sends states to the socket that the service manager named in the environment.

    Attributes
    ----------
    watchdog_s : float
        The service manager ends this process when `alive` was not called for so long; 0: it has no watchdog.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get("NOTIFY_SOCKET", "")
        mine = given.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        interval = given.get("WATCHDOG_USEC", "") if self._address and mine else ""
        self.watchdog_s = int(interval) / 1e6 if interval.isdigit() else 0.0
        self._sent = 0.0

    def send(self, *states: str) -> None:
        """Send states such as "READY=1"; a service manager that does not listen disturbs nothing."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as to:
                to.sendto("\n".join(map(one_line, states)).encode(), address)
        except OSError:
            pass

    def alive(self) -> None:
        """The loop goes round: to be called often."""
        now = time.monotonic()
        if self.watchdog_s and now - self._sent >= self.watchdog_s / _SHARE:
            self._sent = now
            self.send("WATCHDOG=1")


def without_notification(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for processes that another one answers for."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    return {name: value for name, value in environment.items() if name not in ours}
