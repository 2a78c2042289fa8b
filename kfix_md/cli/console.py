"""Shared parts of the consoles: readings of a feed, formats of numbers, colours, keys of a terminal."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import sys
import termios
import textwrap
import time
import tty
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from kfix_md._entry import Cause, State
from kfix_md.errors import FeedError
from kfix_md.shm.attach import Feed, attach, feeds

if TYPE_CHECKING:
    from kfix_md.shm.deep import Rows

NEVER_NS = (1 << 63) - 1
SEGMENT_SHIFT = 32  # a journal position is segment number << 32 | offset

STYLES = {
    "LIVE": "green",
    "EMPTY": "cyan",
    "INIT": "dim",
    "SYNCING": "yellow",
    "GAP": "bold yellow",
    "STALE": "magenta",
    "CRC_FAIL": "bold red",
    "HALTED": "blue",
    "ROLLOVER": "blue",
    "DOWN": "bold red",
    "UNVERIFIED": "bold magenta",
    "ON": "green",
}


def _feed_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in feeds(ctx.params.get("directory")) if name.startswith(incomplete)]


def symbols_of_feed(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Symbols that complete a word on the command line; none without a feed."""
    try:
        feed = attach(ctx.params.get("name"), directory=ctx.params.get("directory"))
    except FeedError:
        return []
    return [symbol for symbol in feed.symbols if symbol.startswith(incomplete)]


FEED = click.option(
    "--feed",
    "name",
    shell_complete=_feed_names,
    help="Name of the feed ($KFIX_FEED, else the only one there is, else 'default').",
)
DIRECTORY = click.option("--directory", type=click.Path(path_type=Path), help="Where feeds put their shared memory.")


@dataclass
class Reading:
    """One reading of a feed: `rows` as `Feed.snapshot` returns them (last values), and rates."""

    now_ns: int
    fault: str  # why the feed is not alive, "" when it is
    info: dict[str, Any]
    sessions: list[dict[str, Any]]
    counters: dict[str, int]
    rows: Rows
    rate: np.ndarray[tuple[int], np.dtype[np.float64]]  # messages a second of each row
    session_rate: dict[int, float] = field(default_factory=dict)
    recorder: dict[str, Any] | None = None
    dead: bool = False  # no process of the feed lives: all of the above are last values

    @property
    def unverified(self) -> dict[str, int]:
        """Number of UNVERIFIED books by cause."""
        causes = self.rows["cause"][self.rows["state"] == State.UNVERIFIED]
        return dict(Counter(name_of(Cause, code) for code in causes))

    @property
    def rollover_s(self) -> float | None:
        """Seconds to the next planned rollover of any session."""
        known = [each["rollover_ns"] for each in self.sessions if each["rollover_ns"]]
        return (min(known) - self.now_ns) / 1e9 if known else None


class Watch:
    """Reads a feed repeatedly; rates are smoothed over the last readings."""

    def __init__(self, feed: Feed, captures: Path | None = None) -> None:
        self.feed, self.captures = feed, captures
        self._before: tuple[int, np.ndarray, dict[int, int]] | None = None
        self._rate = np.zeros(0)
        self._session_rate: dict[int, float] = {}

    def look(self) -> Reading:
        """One reading; a feed that has ended shows its last values, all books DOWN."""
        now_ns, fault = time.time_ns(), self.feed.fault
        rows, sessions = self.feed.snapshot(allow_stale=True), self.feed.sessions
        dead = bool(fault) and not self.feed.alive
        if dead:
            rows["state"], rows["cause"] = State.DOWN, Cause.RESTART
            sessions = [{**each, "state": "DOWN"} for each in sessions]
        self._rates(
            time.monotonic_ns(), rows["updates"].astype("i8"), {each["number"]: each["messages"] for each in sessions}
        )
        reading = Reading(
            now_ns, fault, self.feed.info, sessions, self.feed.counters, rows, self._rate, dict(self._session_rate)
        )
        reading.recorder = self._recorder(reading)
        if dead:  # rates are smoothed: they would take some seconds to reach 0
            reading.dead, reading.rate, reading.session_rate = True, np.zeros(len(rows)), {}
        return reading

    def _rates(self, now_ns: int, updates: np.ndarray, messages: dict[int, int]) -> None:
        if self._before is None:
            self._rate = np.zeros(len(updates))
        else:
            then_ns, old, old_messages = self._before
            seconds = max(now_ns - then_ns, 1) / 1e9
            fresh = np.zeros(len(updates))
            n = min(len(old), len(updates))
            fresh[:n] = np.maximum(updates[:n] - old[:n], 0) / seconds
            weight = min(1.0, seconds / 2) if self._rate.any() else 1.0
            last_rate = np.zeros(len(updates))
            last_rate[: len(self._rate)] = self._rate[: len(updates)]
            self._rate = last_rate + weight * (fresh - last_rate)
            for number, count in messages.items():
                one = max(0, count - old_messages.get(number, count)) / seconds
                last = self._session_rate.get(number, one)
                self._session_rate[number] = last + weight * (one - last)
        self._before = now_ns, updates, messages

    def _recorder(self, reading: Reading) -> dict[str, Any] | None:
        """Backlog of the recorder: its last commit against the journal; None without a known commit."""
        if self.captures is None:
            return None
        parts = getattr(self.feed, "parts", None)
        if parts is None:
            return self._backlog(self.captures, reading.counters)
        known = [
            backlog
            for service, feed in parts.items()
            if (backlog := self._backlog(self.captures / service, feed.counters)) is not None
        ]
        return max(known, key=lambda each: (each["behind_segments"] or 0, each["behind_bytes"] or 0), default=None)

    @staticmethod
    def _backlog(captures: Path, counters: dict[str, int]) -> dict[str, Any] | None:
        path = captures / "state" / "commit.json"
        try:
            committed, written = int(json.loads(path.read_bytes())["position"]), path.stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError):
            return None
        end = counters.get("journal_position", 0)
        # segments are not numbered from 0: before the first commit the number of segments is unknown
        segments = max(0, (end >> SEGMENT_SHIFT) - (committed >> SEGMENT_SHIFT)) if committed else None
        mask = (1 << SEGMENT_SHIFT) - 1
        behind = max(0, (end & mask) - (committed & mask)) if segments == 0 else None
        return {
            "committed": committed,
            "behind_bytes": behind,
            "behind_segments": segments,
            "commit_age_s": max(0.0, time.time() - written),
        }


def as_dicts(reading: Reading) -> list[dict[str, Any]]:
    """The rows for JSON: prices and quantities as exact decimal text, None for a missing side."""
    return [
        {**row_dict(row, reading.now_ns), "rate": round(float(rate), 1)}
        for row, rate in zip(reading.rows, reading.rate, strict=True)
    ]


def row_dict(row: np.void, now_ns: int) -> dict[str, Any]:
    """One row of `Feed.snapshot` for JSON."""
    pp, qp = int(row["price_precision"]), int(row["qty_precision"])
    gaps, age = int(row["gaps"]), int(row["age_ns"])
    return {
        "symbol": str(row["symbol"]),
        "level": f"L{row['level']}",
        "state": name_of(State, row["state"]),
        "cause": name_of(Cause, row["cause"]),
        "bid": decimal(row["bid"], pp),
        "bid_qty": None if math.isnan(row["bid"]) else decimal(row["bid_qty"], qp),
        "ask": decimal(row["ask"], pp),
        "ask_qty": None if math.isnan(row["ask"]) else decimal(row["ask_qty"], qp),
        "spread": decimal(row["ask"] - row["bid"], pp),
        "age_s": None if age == NEVER_NS else age / 1e9,
        "seq": int(row["seq"]),
        "updates": int(row["updates"]),
        "levels": [int(row["bids"]), int(row["asks"])],
        "crc_ok": int(row["crc_checked"]) - int(row["crc_failed"]),
        "crc_failed": int(row["crc_failed"]),
        "gaps": gaps,
        "last_gap": {
            "state": name_of(State, row["gap_state"]),
            "cause": name_of(Cause, row["gap_cause"]),
            "age_s": (now_ns - int(row["gap_ns"])) / 1e9,
        }
        if gaps
        else None,
    }


def name_of(kind: type[State] | type[Cause], code: int) -> str:
    """Name of a code; "code 99" for one that this version does not know."""
    try:
        name: str = kind(int(code)).name
        return name
    except ValueError:
        return f"code {int(code)}"


def decimal(value: float, precision: int) -> str | None:
    """Exact decimal text of a float at its instrument's precision; None for NaN."""
    return None if math.isnan(value) else f"{value:.{precision}f}"


def short(count: float) -> str:
    """A count in at most five characters: 812, 12.3k, 1.20M."""
    for size, mark in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            scaled = count / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{mark}"
    return f"{count:.0f}" if count >= 10 or count == int(count) else f"{count:.1f}"


def span(seconds: float | None) -> str:
    """A duration in at most six characters: 12ms, 3.2s, 4m05s, 2h13m, 3d04h."""
    if seconds is None or seconds > 1e9:
        return "-"
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1e3:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def fitted(width: int, *parts: tuple[str, str]) -> Any:
    """A line of the (text, style) parts, up to the first that does not fit in `width` columns."""
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    for text, style in parts:
        if len(line) + len(text.rstrip()) > width and len(line):
            break
        line.append(text, style)
    line.rstrip()
    return line


def dead_banner(fault: str, width: int) -> list[Any]:
    """Lines that no one overlooks, for a feed that has ended: everything under them is its last values."""
    from rich.text import Text

    lines = textwrap.wrap(f"{fault[0].upper()}{fault[1:]}; below are its last values", max(width, 20))
    return [Text(line.ljust(width), "bold white on red", no_wrap=True, overflow="crop") for line in lines]


def help_page(title: str, keys: tuple[tuple[str, str], ...]) -> Any:
    """The page of the help key: a line for each key."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = f"{title}: keys", "left"
    for key, what in keys:
        table.add_row(f"[bold]{key}[/bold]", what)
    table.add_row("", "[dim]any key: back[/dim]")
    return table


def colourless() -> bool:
    """Whether NO_COLOR is set (https://no-color.org) or the terminal has no colours."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\r": "enter",
    "\n": "enter",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x03": "q",
}


class Keys:
    """Keys as they are pressed, without echo; the context manager restores the terminal."""

    def __init__(self) -> None:
        self.fd = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else -1

    def __enter__(self) -> Keys:
        if self.fd >= 0:
            self._before = termios.tcgetattr(self.fd)
            tty.setcbreak(self.fd)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.fd >= 0:
            with contextlib.suppress(termios.error):  # the terminal may be gone
                termios.tcsetattr(self.fd, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> list[str]:
        """The keys pressed within `seconds` (returns at the first); SystemExit when the terminal is gone."""
        if self.fd < 0:
            time.sleep(seconds)
            return []
        if not select.select([self.fd], [], [], max(0.0, seconds))[0]:
            return []
        try:
            pressed = os.read(self.fd, 1024)
        except OSError:  # EIO
            pressed = b""
        if not pressed:  # select() reports the end at once, every time
            sys.exit(1)
        return list(split_keys(pressed.decode(errors="ignore")))


def split_keys(text: str) -> Iterator[str]:
    """Names of special keys, other characters as they are."""
    while text:
        known = next((sequence for sequence in sorted(KEYS, key=len, reverse=True) if text.startswith(sequence)), None)
        yield KEYS[known] if known else text[0]
        text = text[len(known or text[0]) :]


@contextlib.contextmanager
def screen() -> Iterator[tuple[Any, Keys]]:
    """(rich Live on the whole terminal, Keys), for the interactive consoles."""
    from rich.console import Console
    from rich.live import Live

    console = Console(no_color=colourless() or None, highlight=False)
    with Keys() as keys, Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        yield live, keys
