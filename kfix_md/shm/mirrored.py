"""Attaches to a feed on another machine: finds the mirror of it that runs here, or starts one."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path

from kfix_md.child import python
from kfix_md.errors import FeedError, UsageError
from kfix_md.shm.attach import Feed, attach

WAIT_S = 15.0


def attach_mirrored(url: str, directory: Path | None = None, allow_unverified: bool = False) -> Feed:
    """The books of "nats://host:port/feed", through a replica on this machine.

    A mirror that is started ends with the feed that is returned. Its replica stays, in $KFIX_MIRRORS or else
    ~/.local/state/kfix/mirrors, so that the next one goes on from there.

    Raises
    ------
    UsageError
        The address has no feed, or the broker rejects us.
    FeedError
        There are no books after WAIT_S.
    """
    match = re.fullmatch(r"(?:nats|tls)://([^/@\s]+)/([A-Za-z0-9._-]+)", url)
    if match is None:
        raise UsageError(f"{url}: must be like nats://host:4222/default")
    name = re.sub(r"[^A-Za-z0-9_-]", "-", f"{match[1]}-{match[2]}")[-48:].lstrip("-")
    with contextlib.suppress(FeedError):
        return attach(name, directory=directory, reconnect=False, allow_unverified=allow_unverified)
    root = Path(os.environ.get("KFIX_MIRRORS") or Path.home() / ".local/state/kfix/mirrors")
    command = python("-m", "kfix_md", "mirror", url, "--directory", str(root / name), "--publish", name)
    command += ["--name", socket.gethostname(), *(["--shm", str(directory)] if directory is not None else [])]
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stderr=said, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        )
        try:
            feed = _wait_for_books(process, name, directory, allow_unverified)
        except FeedError as error:
            _end(process)
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            kind = UsageError if process.returncode == 2 else FeedError
            raise kind(f"{url}: {lines[-1].removeprefix('kfix: ') if lines else error}") from None
        except BaseException:
            _end(process)
            raise
    weakref.finalize(feed, _end, process)
    return feed


def _wait_for_books(
    process: subprocess.Popen[bytes], name: str, directory: Path | None, allow_unverified: bool
) -> Feed:
    deadline, feed = time.monotonic() + WAIT_S, None
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FeedError):
            feed = feed or attach(name, directory=directory, allow_unverified=allow_unverified)
            if next(iter(feed.books()), None) is not None:
                return feed
        time.sleep(0.05)
    raise FeedError(f"no books came from there in {WAIT_S:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
