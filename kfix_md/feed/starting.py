"""Starts a feed on a machine that is short of something: what time may cure is tried again for ever."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import TypeVar

from kfix_md.errors import KfixError, may_pass
from kfix_md.feed.notify import Notifier

log = logging.getLogger("kfix.feed")
T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0


async def patiently(attempt: Callable[[], T], ran_before: Callable[[], bool], notifier: Notifier) -> T | None:
    """The result of `attempt`, which is tried again while its error may pass; None when a signal ends the waiting."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    pause_s, said = FIRST_PAUSE_S, ""
    while not stopping.is_set():
        try:
            return attempt()
        except (KfixError, OSError, MemoryError) as error:
            if not may_pass(error, ran_before()):
                raise
            text = str(error) or type(error).__name__
            if text != said:
                log.error("the feed cannot start yet: %s; it is tried again until it can", text)
            said = text
        notifier.send(f"STATUS=cannot start yet: {said}", "EXTEND_TIMEOUT_USEC=60000000")
        try:
            await asyncio.wait_for(stopping.wait(), pause_s)
        except TimeoutError:
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return None
