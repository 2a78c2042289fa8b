"""Pins the loop's thread to its CPUs and raises its priority; helper threads are left alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading

from kfix_md.config import FeedSection
from kfix_md.errors import UsageError


def cpus_of(feed: FeedSection) -> set[int]:
    """The CPUs of feed.cpu, empty when there is none."""
    if feed.cpu is None:
        return set()
    return set(feed.cpu if isinstance(feed.cpu, list) else [feed.cpu])


def check(feed: FeedSection) -> None:
    """Raise UsageError when feed.cpu names a CPU that this process may not use."""
    allowed = os.sched_getaffinity(0)
    if strange := cpus_of(feed) - allowed:
        raise UsageError(
            f"feed.cpu = {feed.cpu}: {min(strange)} is not one of this process's CPUs "
            f"({', '.join(map(str, sorted(allowed)))})"
        )


def permitted(priority: int) -> bool:
    """This process may run under SCHED_FIFO at this priority (tried in a thread that ends)."""

    def attempt() -> None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
            answers.append(True)

    answers: list[bool] = []
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return bool(answers)


async def settle(feed: FeedSection, log: logging.Logger) -> None:
    """Pin the calling thread and raise its priority; what is not permitted is logged and skipped.

    Threads inherit both from the thread that starts them, and a loop that polls under SCHED_FIFO would starve
    name resolution on its CPU. So the resolver's threads are started first (journal and metrics have theirs).
    """
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().getaddrinfo("localhost", None)
    if cpus := cpus_of(feed):
        os.sched_setaffinity(0, cpus)
    if feed.rt_priority is not None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(feed.rt_priority))
        except OSError:
            log.warning(
                "feed.rt_priority = %d: not permitted, continuing without; grant CAP_SYS_NICE (or LimitRTPRIO)",
                feed.rt_priority,
            )
