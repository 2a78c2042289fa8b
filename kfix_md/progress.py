"""Progress of commands that take a while: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LINE_EVERY_S = 5.0  # where stderr is no terminal

#: called with how much has been done since the last call, in units of the total
Advance = Callable[[float], None]


@contextmanager
def progress(what: str, total: float, *, lines: bool = True, stdout: bool = False) -> Iterator[Advance]:
    """Show on stderr how far something has come, while the context lasts.

    Parameters
    ----------
    what
        The beginning of the line, such as "compacting 2026-11-20".
    total
        All there is to do, in any unit. What is done beyond it is shown as 100 %.
    lines
        False: show nothing where there is no terminal.
    stdout
        Show it there: for a program that prints there meanwhile, which appears above the bar.
    """
    stream = sys.stdout if stdout else sys.stderr
    if stream is not None and stream.isatty():
        yield from _bar(what, total, stdout)
    elif lines and stream is not None:
        yield _Lines(what, total, stream)
    else:
        yield lambda done: None


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show on a terminal that something is at work whose length is not known."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _bar(what: str, total: float, stdout: bool) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=not stdout), transient=True) as shown:
        task = shown.add_task(what, total=max(total, 1e-9))
        yield lambda done: shown.advance(task, done)


class _Lines:
    """Writes a line each LINE_EVERY_S, so that a log does not fill with them."""

    def __init__(self, what: str, total: float, stream: TextIO) -> None:
        self._what, self._total, self._done, self._stream = what, total, 0.0, stream
        self._started = self._last = time.monotonic()

    def __call__(self, done: float) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._last < LINE_EVERY_S or not self._total:
            return
        self._last, share = now, min(self._done / self._total, 1.0)
        left = (now - self._started) * (1 - share) / share if share else float("inf")
        print(f"{self._what}: {share:.0%}, {left:.0f} s left", file=self._stream, flush=True)
