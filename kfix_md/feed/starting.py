"""Starts a feed on a machine that is short of something: what time may cure is tried again for ever."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
from collections.abc import Callable
from typing import TypeVar

from kfix_md.errors import KfixError
from kfix_md.feed.notify import Notifier

log = logging.getLogger("kfix.feed")
T = TypeVar("T")
#: no space, a failing disk, no descriptors or memory, a port that is taken
PASSING = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
        *(errno.ENOBUFS, errno.EADDRINUSE, errno.EADDRNOTAVAIL),
    }
)
#: a directory that is away: a mistake of the configuration, unless it was there before
AWAY = frozenset({errno.ENOENT, errno.EROFS, errno.ENODEV, errno.ENXIO})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0


def may_pass(error: BaseException, ran_before: bool = False) -> bool:
    """Whether time may cure an error, by the OSError that it is or comes from. Status 2 is for the others."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError):
        return cause.errno in PASSING or (ran_before and cause.errno in AWAY)
    return isinstance(error, MemoryError)


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
