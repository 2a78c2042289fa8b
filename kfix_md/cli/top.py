"""`kfix top`: every book of a running feed, one row each, with its sessions and the recorder's backlog."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from kfix_md._entry import State
from kfix_md.cli import ladder
from kfix_md.cli.console import (
    DIRECTORY,
    FEED,
    STYLES,
    Reading,
    Watch,
    as_dicts,
    colourless,
    dead_banner,
    fitted,
    help_page,
    name_of,
    row_dict,
    screen,
    short,
    span,
)
from kfix_md.errors import NoSuchSymbol
from kfix_md.shm.attach import attach

if TYPE_CHECKING:
    from kfix_md.shm.deep import Rows

#: (title, priority: the highest numbers are dropped first on a narrow terminal, aligned right)
COLUMNS = [
    ("symbol", 0, False),
    ("lv", 4, False),
    ("state", 0, False),
    ("bid qty", 9, True),
    ("bid", 1, True),
    ("ask", 1, True),
    ("ask qty", 9, True),
    ("spread", 7, True),
    ("rate/s", 6, True),
    ("age", 2, True),
    ("CRC ok", 8, True),
    ("failed", 3, True),
    ("last gap", 5, False),
    ("levels", 10, True),
]
SORTS = ["symbol", "rate/s", "age", "spread", "failed", "state", "gaps"]
KEYS = (
    ("?", "this help"),
    ("q", "quit"),
    ("s", "next column to sort by: " + ", ".join(SORTS)),
    ("r", "reverse the order"),
    ("/", "filter by symbol or state; esc shows all again"),
    ("↑ ↓ j k", "choose a book; page and home keys as well"),
    ("enter", "ladder of the chosen book"),
)
HELP = "q quit  s sort  r reverse  / filter  ↑↓ choose  enter ladder  ? help"
SHORT_HELP = "? help  q quit"


@dataclass
class View:
    """Sorting, filter and selection of the user."""

    sort: str = "symbol"
    reverse: bool = False
    filter: str = ""
    typing: bool = False
    chosen: int = 0
    help: bool = False

    def order(self, reading: Reading) -> list[int]:
        """Row numbers to show, in order."""
        rows, text = reading.rows, self.filter.upper()
        shown = [
            i
            for i in range(len(rows))
            if text in str(rows["symbol"][i]).upper() or text in name_of(State, rows["state"][i])
        ]
        keys = {
            "rate/s": -reading.rate,
            "age": -rows["age_ns"].astype("f8"),
            "spread": -spread_bp(rows),
            "failed": -rows["crc_failed"].astype("i8"),
            "state": -_severity(rows["state"]),
            "gaps": -rows["gaps"].astype("i8"),
        }
        name = [(str(symbol), int(level)) for symbol, level in zip(rows["symbol"], rows["level"], strict=True)]
        column = keys.get(self.sort)
        shown.sort(key=lambda i: name[i] if column is None else (column[i], name[i]), reverse=self.reverse)
        return shown

    def press(self, key: str, n: int, page: int) -> None:
        """Handle one key that changes the view."""
        if self.typing:
            self._type(key)
            return
        if self.help or key == "?":
            self.help = not self.help
            return
        step = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page, "home": -n, "end": n}
        if key in step:
            self.chosen += step[key]
        elif key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        elif key == "r":
            self.reverse = not self.reverse
        elif key == "/":
            self.typing, self.filter = True, ""
        elif key == "escape":
            self.filter = ""
        self.chosen = max(0, min(self.chosen, n - 1))

    def _type(self, key: str) -> None:
        if key in ("enter", "escape"):
            self.typing = False
            self.filter = self.filter if key == "enter" else ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter += key
        self.chosen = 0


def spread_bp(rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Spread in basis points of the mid price, -1 where a side is missing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (rows["ask"] - rows["bid"]) / (rows["ask"] + rows["bid"]) * 2e4
    return np.where(np.isfinite(value), value, -1.0)


def _severity(states: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    order = [
        State.EMPTY,
        State.LIVE,
        State.INIT,
        State.HALTED,
        State.SYNCING,
        State.ROLLOVER,
        State.UNVERIFIED,
        State.STALE,
        State.GAP,
        State.CRC_FAIL,
        State.DOWN,
    ]
    rank = np.full(256, len(order), np.int64)  # a state unknown to this version is worse than any other
    rank[order] = range(len(order))
    found: np.ndarray[Any, np.dtype[np.int64]] = rank[states]
    return found


def cells(reading: Reading, i: int) -> dict[str, str]:
    """Text of every column of one row."""
    row = row_dict(reading.rows[i], reading.now_ns)
    gap = row["last_gap"]
    return {
        "symbol": row["symbol"],
        "lv": row["level"],
        "state": f"{row['state']} ({row['cause']})" if row["state"] == "UNVERIFIED" else row["state"],
        "bid qty": row["bid_qty"] or "-",
        "bid": row["bid"] or "-",
        "ask": row["ask"] or "-",
        "ask qty": row["ask_qty"] or "-",
        "spread": row["spread"] or "-",
        "rate/s": short(float(reading.rate[i])),
        "age": span(row["age_s"]),
        "CRC ok": short(row["crc_ok"]),
        "failed": short(row["crc_failed"]),
        "last gap": f"{gap['cause'] if gap['cause'] != 'NONE' else gap['state']} {span(gap['age_s'])}" if gap else "-",
        "levels": f"{row['levels'][0]}/{row['levels'][1]}",
    }


def fit(texts: list[dict[str, str]], width: int) -> dict[str, int]:
    """Columns that fit, with their widths. What belongs together, such as both quantities, is there or is not."""
    widths = {name: max([len(name), *(len(text[name]) for text in texts)]) for name, *_ in COLUMNS}
    kept = [(name, priority) for name, priority, _ in COLUMNS]
    while sum(widths[name] + 2 for name, _ in kept) - 2 > width and len(kept) > 2:
        least = max(priority for _, priority in kept)
        kept = [column for column in kept if column[1] != least]
    return {name: widths[name] for name, _ in kept}


def draw(reading: Reading, view: View, width: int, height: int | None = None) -> tuple[Any, list[int]]:
    """(renderable, the row numbers in order); `height` None: every row, without cursor and footer."""
    from rich.console import Group

    order = view.order(reading)
    head = header(reading, width)
    room = len(order) if height is None else max(1, height - len(head) - 3)
    view.chosen = max(0, min(view.chosen, len(order) - 1))
    first = max(0, min(view.chosen - room // 2, len(order) - room))
    visible = order[first : first + room]
    lines = table(reading, visible, width, None if height is None else view.chosen - first)
    foot = [] if height is None else [footer(view, len(order), len(reading.rows), width)]
    return Group(*head, *lines, *foot), order


def table(reading: Reading, visible: list[int], width: int, chosen: int | None) -> list[Any]:
    """The title and one line for each visible row; `chosen` is highlighted."""
    from rich.text import Text

    texts = [cells(reading, i) for i in visible]
    widths = fit(texts, width)
    to_right = {name for name, _, right in COLUMNS if right}

    def padded(name: str, text: str) -> str:
        return text.rjust(widths[name]) if name in to_right else text.ljust(widths[name])

    lines = [Text("  ".join(padded(name, name) for name in widths).rstrip(), "bold", no_wrap=True, overflow="crop")]
    for at, text in enumerate(texts):
        line = Text(no_wrap=True, overflow="crop", style="reverse" if at == chosen else "dim" if reading.dead else "")
        for name in widths:
            style = STYLES.get(text["state"].partition(" ")[0], "") if name == "state" else ""
            if name == "failed" and text[name] != "0":
                style = "bold red"
            line.append(padded(name, text[name]) + "  ", style)
        line.rstrip()
        lines.append(line)
    return lines


def header(reading: Reading, width: int) -> list[Any]:
    """Feed, states, rollover and recorder; then one line for each session."""
    from rich.text import Text

    info = reading.info
    counts = np.bincount(reading.rows["state"], minlength=len(State))
    first = [(f"kfix top  {info['name']}  ", "bold")]
    for state in State:
        if counts[state]:
            why = f" ({', '.join(reading.unverified)})" if state is State.UNVERIFIED else ""
            first.append((f"{counts[state]} {state.name}{why}  ", STYLES[state.name]))
    up = "" if reading.dead else f"up {span((reading.now_ns - info['start_ns']) / 1e9)}"
    first += [(f"pid {info['pid']}  ", "dim"), (up, "dim")]
    rollover = "-" if reading.dead else span(reading.rollover_s)
    second = ((f"rollover in {rollover}   ", ""), (f"recorder {recorder_text(reading)}", ""))
    lines = [fitted(width, *first), fitted(width, *second)]
    if reading.dead:
        lines = dead_banner(reading.fault, width) + lines
    elif reading.fault:
        lines += [Text(line, "bold red") for line in textwrap.wrap(reading.fault, width)]
    lines += [Text(line, "bold red") for text in alarms(reading) for line in textwrap.wrap(text, width)]
    lines += [session_line(each, reading, width) for each in reading.sessions]
    return [*lines, Text("")]


def alarms(reading: Reading) -> Iterator[str]:
    """What is wrong with the feed, apart from its books."""
    if reading.counters.get("journal_alarm", 0):
        yield "JOURNAL: messages are not being recorded: the log of the feed has the reason"
    if lost := reading.counters.get("journal_lost", 0):
        yield f"JOURNAL: {lost} records were lost since the feed's start"
    if reading.counters.get("shm_alarm", 0):
        yield "SHARED MEMORY: its file is gone and cannot be made again: no reader can attach"
    if left_out := reading.counters.get("left_out", 0):
        yield f"{left_out} symbols left out: the log of the feed names them"


def recorder_text(reading: Reading) -> str:
    backlog = reading.recorder
    if backlog is None:
        return "-"
    if backlog["behind_segments"] is None:
        return f"started {span(backlog['commit_age_s'])} ago, nothing committed yet"
    segments = backlog["behind_segments"]
    size = f"{segments} segment{'s' if segments > 1 else ''}" if segments else f"{short(backlog['behind_bytes'])}B"
    return f"{size} behind, committed {span(backlog['commit_age_s'])} ago"


def session_line(each: dict[str, Any], reading: Reading, width: int) -> Any:
    silent = (reading.now_ns - each["last_recv_ns"]) / 1e9 if each["last_recv_ns"] else None
    rate = short(reading.session_rate.get(each["number"], 0.0))
    lag = "-" if reading.dead else f"lag {span(max(0, each['lag_ns']) / 1e9)}"
    return fitted(
        width,
        (f"  {each['service']:<16} ", ""),
        (f"{each['state']:<9}", STYLES.get(each["state"], "bold yellow")),
        (f"{lag:<10}", "bold red" if each["lagging"] and not reading.dead else ""),
        (f"{rate:>6}/s  ", ""),
        (f"silent {span(silent):<6} ", ""),
        (f"gaps {each['gaps']:<3} ", ""),
        (f"reconnects {each['reconnects']:<3} ", ""),
        (f"{short(each['messages'])} messages  ", ""),
        (f"{each['host']}:{each['port']}", ""),
    )


def footer(view: View, shown: int, total: int, width: int) -> Any:
    from rich.text import Text

    if view.typing:
        return Text(f"filter: {view.filter}_   (enter keeps, esc drops)", "bold", no_wrap=True, overflow="ellipsis")
    some = f"{shown} of {total} '{view.filter}'  " if view.filter else f"{total} books  "
    sort = f"sort {view.sort}{' reversed' if view.reverse else ''}  "
    choices = (some + sort + HELP, some + sort + SHORT_HELP, some + SHORT_HELP, SHORT_HELP)
    line = next((each for each in choices if len(each) <= width), choices[-1])
    return Text(line, "dim", no_wrap=True, overflow="ellipsis")


def as_json(reading: Reading) -> dict[str, Any]:
    """The reading as a JSON object."""
    return {
        "feed": reading.info["name"],
        "alive": not reading.fault,
        "fault": reading.fault or None,
        "time_ns": reading.now_ns,
        "pid": reading.info["pid"],
        "start_ns": reading.info["start_ns"],
        "software": reading.info["software"],
        "unverified": reading.unverified,
        "serve_unverified": reading.info["serve_unverified"],
        "rollover_s": reading.rollover_s,
        "recorder": reading.recorder,
        "sessions": [
            {**each, "rate": round(reading.session_rate.get(each["number"], 0.0), 1)} for each in reading.sessions
        ],
        "counters": reading.counters,
        "symbols": as_dicts(reading),
    }


@click.command()
@click.argument("filter", default="")
@FEED
@DIRECTORY
@click.option(
    "--captures",
    type=click.Path(path_type=Path),
    default="captures",
    show_default=True,
    help="Directory of the recorder, for its backlog.",
)
@click.option("--sort", type=click.Choice(SORTS), default="symbol", show_default=True)
@click.option("--once", is_flag=True, help="Print one reading and end.")
@click.option("--json", "json_wanted", is_flag=True, help="One reading as a JSON object.")
@click.option(
    "--sample",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 60),
    help="With --once, --json: seconds over which rates are measured.",
)
@click.option("--interval", default=0.2, show_default=True, type=click.FloatRange(0.05, 60), help="Seconds a frame.")
def command(
    filter: str,
    name: str | None,
    directory: Path | None,
    captures: Path,
    sort: str,
    once: bool,
    json_wanted: bool,
    sample: float,
    interval: float,
) -> int:
    """One row for every book of the running feed (whose symbol or state contains FILTER).

    Reads shared memory only: any number of consoles do not disturb the feed. Exit status 1: the feed is not alive.
    """
    feed = attach(name, directory=directory, reconnect=True)
    watch, view = Watch(feed, captures), View(sort=sort, filter=filter)
    if json_wanted or once or not sys.stdout.isatty():
        reading = watch.look()
        if sample:
            time.sleep(sample)
            reading = watch.look()
        if json_wanted:
            click.echo(json.dumps(as_json(reading)))
        else:
            print_once(reading, view)
        return 1 if reading.fault else 0
    run(watch, view, interval)
    return 0


def print_once(reading: Reading, view: View) -> None:
    """Print one reading, every row; to a pipe without colours and 200 columns wide."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(no_color=colourless() or None, highlight=False, width=None if terminal else 200)
    with console.capture() as printed:  # rich would end a closed pipe with status 1
        console.print(draw(reading, view, console.size.width)[0])
    click.echo(printed.get(), nl=False)


def run(watch: Watch, view: View, interval: float) -> None:
    """Show the live screen until q is pressed."""
    with screen() as (live, keys):
        while True:
            size = live.console.size
            reading = watch.look()
            shown, order = draw(reading, view, size.width, size.height)
            live.update(help_page("kfix top", KEYS) if view.help else shown, refresh=True)
            for key in keys.wait(interval):
                if key == "q" and not (view.typing or view.help):
                    return
                if key == "enter" and not (view.typing or view.help) and order:
                    if _ladder(live, keys, watch, reading, order[view.chosen], interval) == "q":
                        return
                else:
                    view.press(key, len(order), max(1, size.height - 8))


def _ladder(live: Any, keys: Any, watch: Watch, reading: Reading, i: int, interval: float) -> str:
    row = reading.rows[i]
    try:
        book = watch.feed[str(row["symbol"]), int(row["level"])]
    except NoSuchSymbol:  # not in the new feed
        return "escape"
    return ladder.show(live, keys, watch.feed, book, 40, interval)
