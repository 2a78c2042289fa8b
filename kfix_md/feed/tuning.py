"""Pins the loop's thread to its CPUs and lets it run before others; helper threads are left alone."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import platform
import threading

from kfix_md.config import FeedSection
from kfix_md.errors import UsageError

#: time that the loop is given at once: the least that the kernel allows
SLICE_NS = 100_000
_SETATTR, _GETATTR = {"x86_64": (314, 315), "aarch64": (274, 275)}.get(platform.machine(), (0, 0))


class _Attributes(ctypes.Structure):
    """struct sched_attr of Linux, in its first version."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


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


def slice_ns() -> int:
    """Time in ns that the calling thread is given at once; 0 where the kernel does not have one for each thread."""
    found = _Attributes()
    answer = ctypes.CDLL(None).syscall(_GETATTR, 0, ctypes.byref(found), ctypes.sizeof(found), 0) if _GETATTR else -1
    return found.runtime if answer == 0 else 0


def shorten_slice() -> None:
    """Let the calling thread run when it wakes up, on Linux 6.12 and later.

    A thread that has the CPU keeps it for its slice, which is looked at with the timer's tick only: 10 ms of a helper
    thread or of another process. One with a shorter slice does not wait for that. It gets no larger share of the CPU,
    and its children do not inherit it. Earlier kernels ignore it.
    """
    if not _SETATTR or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    wanted = _Attributes(ctypes.sizeof(_Attributes), os.SCHED_OTHER, 1, nice, 0, SLICE_NS)  # 1: reset on fork
    ctypes.CDLL(None).syscall(_SETATTR, 0, ctypes.byref(wanted), 0)


async def settle(feed: FeedSection, log: logging.Logger) -> None:
    """Pin the calling thread and let it run before others; what is not permitted is logged and skipped.

    Threads inherit both from the thread that starts them, and a loop that polls under SCHED_FIFO would starve
    name resolution on its CPU. So the resolver's threads are started first (the journal has its own).
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
    shorten_slice()
