"""Runs one process per service and restarts those that end (processes = "per-service")."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfix_md.child import end_with_parent, ending, python
from kfix_md.config import Config, service_names
from kfix_md.errors import FeedError, UsageError
from kfix_md.feed.notify import Notifier, without_notification
from kfix_md.shm.names import part_paths, segment_path
from kfix_md.shm.owners import own_directory
from kfix_md.shm.segment import Segment

log = logging.getLogger("kfix.feed")
POLL_S = 0.1
CALM_S = 60.0  # a process that ran for so long has its failures forgotten
LONGEST_PAUSE_S = 10.0
PATIENCE_S = 15.0  # for an orderly end


def clear_way(config: Config) -> None:
    """Remove segments that a dead feed of this name left in the other form; UsageError while it is alive."""
    name, several = config.feed.name, config.feed.processes == "per-service"
    try:
        whole = segment_path(own_directory(config.feed.directory), name)
    except OSError:  # the process that needs the directory says so
        return
    others = [whole] if several else list(part_paths(whole).values())
    for path in others:
        with contextlib.suppress(FeedError, FileNotFoundError):
            segment = Segment(str(path))
            if not segment.abandoned():
                raise UsageError(
                    f"feed {name!r} is running already (process {segment.info()['pid']}); stop it first, "
                    "or give feed.name another value"
                )
            path.unlink()


class Supervisor:
    """Runs `command --service NAME` for every name, restarts what dies, and ends all of them together.

    `segments`: the shared memory of each. Where the service manager has a watchdog, a process that has not beaten
    there for its time is killed and started again: the watchdog is for all, and the others go on.

    A process whose first run ends with status 2 (a configuration error, which it has reported) ends the others
    too. After a restart that status is retried like any other: the services that work must not suffer.
    """

    def __init__(self, command: Sequence[str], names: Sequence[str], segments: dict[str, Path] | None = None) -> None:
        self._command, self._names, self._segments = list(command), list(names), segments or {}
        self._notifier, self._looked = Notifier(), 0.0
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._born = dict.fromkeys(names, 0.0)
        self._starts = dict.fromkeys(names, 0)
        self._failures = dict.fromkeys(names, 0)
        self._stopping = False

    def run(self) -> int:
        """Run until SIGTERM or SIGINT (status 0) or a configuration error (2). SIGHUP and SIGUSR2 go to all."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for number in (signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, self._forward)
        status = 0
        self._notifier.send("READY=1", f"STATUS=a process for each of {', '.join(self._names)}")
        try:
            while not self._stopping and not status:
                status = self._poll(time.monotonic())
                self._notifier.alive()
                time.sleep(POLL_S)
        finally:
            self._notifier.send("STOPPING=1")
            self._end()
        return status

    def _poll(self, now: float) -> int:
        if self._notifier.watchdog_s and now - self._looked >= 1.0:
            self._looked = now
            self._kill_wedged(now)
        for name in self._names:
            child = self.children.get(name)
            if child is not None and child.poll() is None:
                continue
            if child is not None and child.returncode == 2 and self._starts[name] == 1:
                return 2
            if child is None or self._may_start(name, child.returncode, now):
                self.children[name] = subprocess.Popen(
                    [*self._command, "--service", name],
                    env=without_notification(os.environ),
                    preexec_fn=end_with_parent,  # noqa: PLW1509
                )
                self._born[name] = now
                self._starts[name] += 1
        return 0

    def _kill_wedged(self, now: float) -> None:
        for name, child in self.children.items():
            silent_s = min(now - self._born[name], _silence(self._segments.get(name), child.pid))
            if child.poll() is None and silent_s > self._notifier.watchdog_s:
                log.error("the process of %s has not beaten for %.1f s; killed", name, silent_s)
                child.send_signal(signal.SIGABRT)  # it says where it is
                try:
                    child.wait(1.0)
                except subprocess.TimeoutExpired:
                    child.kill()

    def _may_start(self, name: str, status: int, now: float) -> bool:
        """After a death: at once the first time, then after growing pauses."""
        if now - self._born[name] > CALM_S:
            self._failures[name] = 0
        pause = min(0.25 * 2.0 ** self._failures[name], LONGEST_PAUSE_S) if self._failures[name] else 0.0
        if now - self._born[name] < pause:
            return False
        self._failures[name] += 1
        log.error("the process of %s %s; starting it again", name, ending(status))
        return True

    def _stop(self, *_: Any) -> None:
        self._stopping = True

    def _forward(self, number: int, _: Any) -> None:
        for child in self.children.values():
            if child.poll() is None:
                child.send_signal(number)

    def _end(self) -> None:
        """End every process in order; kill those that do not end."""
        self._forward(signal.SIGTERM, None)
        deadline = time.monotonic() + PATIENCE_S
        for name, child in self.children.items():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("the process of %s did not end in time; killed", name)
                child.kill()
                child.wait()


def _silence(path: Path | None, pid: int) -> float:
    """Seconds since the last heartbeat of the process `pid` in its segment; 0.0 while it has none."""
    if path is None:
        return 0.0
    try:
        info = Segment(str(path)).info()
    except (FeedError, OSError):
        return 0.0
    return (time.monotonic_ns() - info["heartbeat_ns"]) / 1e9 if info["pid"] == pid else 0.0


def supervise(path: str | Path, config: Config, subcommand: str, options: Sequence[str] = ()) -> int:
    """Run `kfix SUBCOMMAND` for every service of a configuration in its own process; returns the exit status."""
    names = service_names(config)
    log.info("%s: one process for each of %s", subcommand, ", ".join(names))
    command = python("-m", "kfix_md", subcommand, os.fspath(path), *options)
    segments = {}
    with contextlib.suppress(OSError):
        if subcommand == "feed":
            segments = part_paths(segment_path(own_directory(config.feed.directory), config.feed.name))
    return Supervisor(command, names, segments).run()
