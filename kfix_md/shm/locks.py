"""Holds the names of a running feed and identifies processes across a reuse of their ids."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import socket
import struct
import time
from pathlib import Path

log = logging.getLogger("kfix.feed")
_HOLDER_TRIES, _HOLDER_PAUSE_S = 20, 0.005


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


class InUse(Exception):
    """A name is held by another process; `pid` is 0 when that lives in another pid namespace."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        super().__init__(f"in use by process {pid}" if pid else "in use by another process")


def address(kind: str, directory: str | os.PathLike[str], name: str = "") -> str:
    """Abstract address of a lock: of this user, in this network namespace.

    It has path and device of the directory: another one made in its place is the same, one in another mount namespace
    is not.
    """
    where = f"{os.stat(directory).st_dev} {os.path.realpath(directory)}"
    return f"\0kfix-md/{os.geteuid()}/{kind}/{hashlib.sha256(os.fsencode(where)).hexdigest()[:16]}/{name}"


def hold(kind: str, directory: str | os.PathLike[str], name: str = "") -> socket.socket | None:
    """Hold `name` in `directory`, as long as the result is open.

    The lock is an abstract socket (see `address`): there is no file that somebody could delete under a living
    process, and the kernel releases it with the process. None where the system has no such sockets, and where
    somebody else took it.

    Raises
    ------
    InUse
        Another process of this user holds the name.
    OSError
        There is no such directory.
    """
    at, lock = address(kind, directory, name), None
    try:
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        lock.bind(at)
        lock.listen(socket.SOMAXCONN)
        return lock
    except OSError as error:
        if lock is not None:
            lock.close()
        if error.errno != errno.EADDRINUSE:
            log.warning("no lock of %s %s: %s", kind, name or os.fspath(directory), error.strerror)
            return None
    holder = _holder(at)
    if holder is None or holder[1] != os.geteuid():  # a feed of ours answers
        who = f"process {holder[0]} of user {holder[1]}" if holder else "a process that does not answer"
        log.warning("the lock of %s %s was taken by %s; going on without", kind, name or os.fspath(directory), who)
        return None
    raise InUse(holder[0])


def held(kind: str, directory: str | os.PathLike[str], name: str = "") -> bool:
    """Whether a process holds `name` in `directory`; asking takes nothing that the holder, or the next one, needs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            return probe.connect_ex(address(kind, directory, name)) in (0, errno.EAGAIN)
        except OSError:
            return False


def _holder(at: str) -> tuple[int, int] | None:
    """(pid, uid) of the process that listens at an abstract address; None when none does."""
    for _ in range(_HOLDER_TRIES):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(at)
            except OSError:  # bound, and about to listen
                time.sleep(_HOLDER_PAUSE_S)
                continue
            pid, uid, _gid = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return pid, uid
    return None
