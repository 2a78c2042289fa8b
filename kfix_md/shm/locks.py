"""Takes the file locks of a starting feed and identifies processes across a reuse of their ids."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from kfix_md.errors import UsageError

START_WAIT_S = 5.0


def process_start(pid: int) -> int:
    """Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat), 0 when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


@functools.cache
def boot_id() -> str:
    """Identity of the running kernel, a new one at each boot; "" where /proc does not have it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def start_lock(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of `directory`: feeds that start in it take their names one after another.

    Raises
    ------
    UsageError
        The directory cannot be opened, or another process keeps the lock for longer than a start takes.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"shared memory directory {os.fspath(directory)}: {error.strerror}") from error
    try:
        if not _try_lock(fd):
            raise UsageError(f"{os.fspath(directory)} is locked by another process; is a feed just starting?")
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    """Take the exclusive flock, retrying for START_WAIT_S; False when another process keeps it."""
    deadline = time.monotonic() + START_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
