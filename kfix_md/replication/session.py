"""Keeps one end of a replication running: connects, and connects again for ever after a pause that grows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter

from kfix_md.errors import Unreadable
from kfix_md.replication.transport import Away, Rejected

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class Replication:
    """A shipper or a mirror.

    Attributes
    ----------
    counts : Counter
        What is counted, by the names of its metrics.
    fault : str
        Why nothing is replicated now; "" while it is.
    """

    log = logging.getLogger("kfix.replication")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.fault = "not connected yet"
        self.beat_s = time.monotonic()
        self._stopping = asyncio.Event()
        self._connected_once = False

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()

    async def session(self) -> None:
        """Connect and replicate until `stop`."""
        raise NotImplementedError

    def alive(self) -> None:
        """The loop went round."""
        self.beat_s = time.monotonic()

    def connected(self) -> bool:
        """Replication works; whether it did not before."""
        before, self.fault = self.fault, ""
        self._connected_once, self._pause_s = True, FIRST_PAUSE_S
        return bool(before)

    async def run(self) -> None:
        """Replicate until `stop`.

        Raises
        ------
        Rejected
            By the broker, at the first connection, for what a person has to change. Later it is tried again like
            everything else: what worked before may work again.
        """
        self._pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                await self.session()
            except Rejected as error:
                if not self._connected_once:
                    raise
                self._fail(str(error))
            except (Away, Unreadable) as error:
                self._fail(str(error))
            except OSError as error:
                self._fail(error.strerror or str(error))
            if not self._stopping.is_set():
                await self.pause(self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _fail(self, why: str) -> None:
        """Log a reason once; others of the same failure are details."""
        level = logging.DEBUG if self.fault and self.counts["failures"] else logging.WARNING
        self.counts["failures"] += 1
        self.fault = why
        self.log.log(level, "replication stands still: %s; trying again until it works", why)

    async def pause(self, seconds: float) -> None:
        """Wait, or for `stop`."""
        self.alive()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        self.alive()


class Every:
    """Whether an interval has passed since it was last asked with success."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
