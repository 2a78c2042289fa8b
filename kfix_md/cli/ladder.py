"""`kfix ladder`: the book of one symbol on a terminal, with quantities as bars."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from kfix_md._entry import State
from kfix_md._state import is_trusted
from kfix_md.cli.console import (
    DIRECTORY,
    FEED,
    STYLES,
    colourless,
    dead_banner,
    decimal,
    fitted,
    help_page,
    screen,
    short,
    span,
    symbols_of_feed,
)
from kfix_md.errors import FeedDead, FeedError
from kfix_md.shm.attach import Book, Feed, attach

KEYS = (("?", "this help"), ("+ -", "more or fewer levels"), ("esc", "back"), ("q", "quit"))
SIDES = {1: "buy", 2: "sell"}  # 2446, the aggressor


def read(book: Book, n: int) -> dict[str, Any]:
    """One reading of a book, as printed in JSON: prices and quantities as exact decimal text, best first."""
    bids, asks = book.depth(n, allow_stale=True)
    info, (pp, qp) = book.info(), book.precision
    trades = book.trades(5)

    def levels(side: Any) -> list[dict[str, Any]]:
        return [
            {"price": decimal(price, pp), "qty": decimal(qty, qp), **({"orders": orders} if orders else {})}
            for price, qty, orders in side.tolist()
        ]

    return {
        "symbol": book.symbol,
        "level": book.level,
        "state": book.state.name,
        "cause": book.cause.name,
        "seq": info["seq"],
        "recv_ns": info["recv_ns"],
        "age_s": book.age_ns / 1e9 if info["recv_ns"] else None,
        "crc_ok": info["crc_checked"] - info["crc_failed"],
        "crc_failed": info["crc_failed"],
        "gaps": info["gaps"],
        "levels": [info["bids"], info["asks"]],
        "bids": levels(bids),
        "asks": levels(asks),
        "trades": [
            {
                "price": decimal(each["price"], pp),
                "qty": decimal(each["qty"], qp),
                "side": SIDES.get(int(each["aggressor"]), ""),
                "recv_ns": int(each["recv_ns"]),
            }
            for each in trades
        ],
    }


def draw(reading: dict[str, Any], width: int, plain: bool = False, dead: bool = False) -> Any:
    """The reading as a rich renderable of at most `width` columns, asks above bids; all dim when the feed is dead."""
    from rich.console import Group
    from rich.text import Text

    style = STYLES.get(reading["state"], "")
    cause = f" ({reading['cause']})" if reading["cause"] != "NONE" else ""
    head = fitted(
        width,
        (f"{reading['symbol']} {reading['level']}  ", "bold"),
        (reading["state"], style),
        (cause, style),
        (f"  age {span(reading['age_s'])}", ""),
        (f"  seq {reading['seq']}", ""),
        (f"  levels {reading['levels'][0]}/{reading['levels'][1]}", ""),
        (f"  CRC ok {short(reading['crc_ok'])} failed {reading['crc_failed']}", ""),
        (f"  gaps {reading['gaps']}", ""),
    )
    sides = [*reading["asks"], *reading["bids"]]
    price_width = max([len(level["price"]) for level in sides] + [5])
    qty_width = max([len(level["qty"]) for level in sides] + [3])
    most = max([float(level["qty"]) for level in sides] + [0.0]) or 1.0
    with_orders = any("orders" in level for level in sides) and width >= 40
    room = max(0, min(60, width - price_width - qty_width - 5 - (7 if with_orders else 0)))

    def line(level: dict[str, Any], colour: str) -> Text:
        text = Text(no_wrap=True, overflow="crop", style="dim" if dead else "")
        colour = "" if dead else colour
        text.append(f"{level['price']:>{price_width}} ", "" if dead else "bold " + colour)
        text.append(f"{level['qty']:>{qty_width}} ")
        if with_orders:
            text.append(f"{level.get('orders', ''):>5}  ", "dim")
        text.append(("#" if plain else "█") * round(float(level["qty"]) / most * room), colour)
        return text

    lines = [line(level, "red") for level in reversed(reading["asks"])]
    lines.append(_middle(reading, price_width))
    lines += [line(level, "green") for level in reading["bids"]]
    lines += _trades(reading["trades"])
    return Group(head, Text(""), *lines)


def _middle(reading: dict[str, Any], price_width: int) -> Any:
    from rich.text import Text

    if not (reading["bids"] and reading["asks"]):
        return Text("-- no price --".rjust(price_width + 6), "dim")
    bid, ask = reading["bids"][0]["price"], reading["asks"][0]["price"]
    places = len(bid.partition(".")[2])
    spread, mid = float(ask) - float(bid), (float(ask) + float(bid)) / 2
    basis = f"  {spread / mid * 1e4:.2f} bp" if mid > 0 else ""
    return Text(f"{'spread':>{price_width}} {spread:.{places}f}{basis}", "dim")


def _trades(trades: list[dict[str, Any]]) -> list[Any]:
    from rich.text import Text

    lines = [Text(""), Text("last trades", "dim")] if trades else []
    for each in reversed(trades):
        clock = time.strftime("%H:%M:%S", time.gmtime(each["recv_ns"] / 1e9)) if each["recv_ns"] else "-"
        colour = {"buy": "green", "sell": "red"}.get(each["side"], "")
        lines.append(Text(f"{clock} {each['side']:<4} {each['qty']} @ {each['price']}", colour))
    return lines


def faults(feed: Feed) -> str:
    """Why the feed is not alive, "" when it is."""
    try:
        feed.check()
    except FeedDead as error:
        return str(error)
    return ""


def show(live: Any, keys: Any, feed: Feed, book: Book, n: int, interval: float) -> str:
    """Show a ladder until q or escape is pressed; returns that key."""
    from rich.console import Group
    from rich.text import Text

    helping = False
    while True:
        size, fault = live.console.size, faults(feed)
        parts = dead_banner(fault, size.width) if fault else []
        depth = max(1, min(n, (size.height - 11 - len(parts)) // 2))
        try:
            parts.append(draw(read(book, depth), size.width, dead=bool(fault)))
        except FeedError as error:  # killed inside a write: there is no consistent copy
            parts.append(Text(str(error), "bold red"))
        foot = Text("q quit   esc back   + - levels   ? help", "dim", no_wrap=True, overflow="ellipsis")
        live.update(help_page("kfix ladder", KEYS) if helping else Group(*parts, Text(""), foot), refresh=True)
        for key in keys.wait(interval):
            if helping or key == "?":
                helping = not helping
            elif key in ("q", "escape", "backspace"):
                return "q" if key == "q" else "escape"
            n = max(1, min(500, n + {"+": 1, "=": 1, "-": -1}.get(key, 0)))


@click.command()
@click.argument("symbol", shell_complete=symbols_of_feed)
@click.option("-n", "levels", default=10, show_default=True, type=click.IntRange(1, 1000), help="Levels a side.")
@click.option("--level", type=click.Choice(["L2", "L3"]), help="Which book, when the feed has both.")
@FEED
@DIRECTORY
@click.option("--once", is_flag=True, help="Print one reading and end.")
@click.option("--json", "as_json", is_flag=True, help="One reading as a JSON object.")
@click.option("--interval", default=0.2, show_default=True, type=click.FloatRange(0.05, 60), help="Seconds a frame.")
def command(
    symbol: str,
    levels: int,
    level: str | None,
    name: str | None,
    directory: Path | None,
    once: bool,
    as_json: bool,
    interval: float,
) -> int:
    """The book of SYMBOL, live, read from shared memory; exit status 1 when it is not trusted.

    An UNVERIFIED book is shown with its cause; it is trusted only if the feed is configured with unverified = "serve".
    """
    feed = attach(name, directory=directory, reconnect=True)
    book = feed[(symbol, level) if level else symbol]
    if as_json or once or not sys.stdout.isatty():
        reading = read(book, levels)
        if as_json:
            click.echo(json.dumps(reading))
        else:
            print_once(reading, faults(feed))
        served = reading["state"] == "UNVERIFIED" and feed.info["serve_unverified"]
        return 0 if served or is_trusted(State[reading["state"]]) else 1
    with screen() as (live, keys):
        show(live, keys, feed, book, levels, interval)
    return 0


def print_once(reading: dict[str, Any], fault: str) -> None:
    """Print one reading to stdout, the fault of the feed to stderr."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(no_color=colourless() or None, highlight=False, width=None if terminal else 100)
    if fault:
        click.echo(fault, err=True)
    with console.capture() as printed:  # rich would end a closed pipe with status 1
        console.print(draw(reading, console.size.width, plain=not terminal))
    click.echo(printed.get(), nl=False)
