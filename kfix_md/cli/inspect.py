"""`kfix inspect`: a raw FIX stream through decoder and books, offline."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from kfix_md.errors import UsageError

CHUNK = 1 << 20


def chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a .fix or .fix.gz file; UsageError when it cannot be read to its end."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            while data := stream.read(CHUNK):
                yield data
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except (EOFError, zlib.error):
        raise UsageError(f"{path} is cut or damaged: its gzip stream does not end; gzip -t tells the same") from None


def symbol_report(handler: Any, symbol: str) -> dict[str, Any]:
    """State, exact best prices and sizes of one symbol's book."""
    view, book = handler[symbol], handler.book(symbol)
    bid, ask = view.top_text()
    return {
        "state": view.state.name,
        "cause": view.cause.name,
        "bid": bid,
        "ask": ask,
        "levels": [0, 0] if book is None else list(book.counts),
        "orders": None if book is None or book.order_counts is None else list(book.order_counts),
    }


def report(handler: Any, left_over: int) -> dict[str, Any]:
    """Everything `kfix inspect --json` prints."""
    stats = handler.stats
    return {
        "messages": stats["messages"],
        "entries": stats["entries"],
        "checksum": {
            "rule": handler.checksum,
            "checked": stats["crc_checked"],
            "ok": stats["crc_ok"],
            "failed": stats["crc_failed"],
        },
        "protocol_errors": handler.protocol_errors + (left_over > 0),
        "unfinished_bytes": left_over,
        "gaps": stats["gaps"],
        "counters": {name: count for name, count in stats.items() if count},
        "symbols": {symbol: symbol_report(handler, symbol) for symbol in handler.symbols},
    }


def failed(result: dict[str, Any]) -> bool:
    """Whether anything in the stream was wrong."""
    return bool(result["protocol_errors"] or result["gaps"] or result["checksum"]["failed"] or not result["messages"])


def print_report(result: dict[str, Any]) -> None:
    crc = result["checksum"]
    click.echo(f"{result['messages']:,} messages, {result['entries']:,} entries")
    counts = f"{crc['checked']:,} checked, {crc['ok']:,} ok, {crc['failed']:,} failed"
    click.echo(f"checksum 5041 (rule {crc['rule']}): {counts}")
    click.echo(f"{result['protocol_errors']:,} protocol errors, {result['gaps']:,} gaps")
    if not result["messages"]:
        click.echo("no FIX message in this file")
    for symbol, book in result["symbols"].items():
        bid, ask = (" x ".join(book[side]) if book[side] else "-" for side in ("bid", "ask"))
        orders = "" if book["orders"] is None else f", {book['orders'][0]:,}/{book['orders'][1]:,} orders"
        why = "" if book["cause"] == "NONE" else f" ({book['cause']})"
        click.echo(
            f"  {symbol:<20} {book['state']}{why}  bid {bid}  ask {ask}  "
            f"{book['levels'][0]:,}/{book['levels'][1]:,} levels{orders}"
        )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option(
    "--checksum",
    type=click.Choice(["auto", "level", "order", "off"]),
    default="auto",
    show_default=True,
    help="Rule of the book checksum (5041).",
)
def command(file: Path, as_json: bool, checksum: str) -> None:
    """Run a raw FIX stream FILE (.fix or .fix.gz) through decoder and books.

    Exit status: 0 all sound, 1 something in the stream is wrong, 2 the file cannot be used or ends inside a message.
    """
    from kfix_md._handler import Handler

    handler = Handler(checksum=checksum)
    for chunk in chunks(file):
        handler.on_bytes(chunk)
    result = report(handler, handler.unfinished)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        print_report(result)
    if handler.unfinished:
        raise UsageError(
            f"{file} is cut: its last message has no end ({handler.unfinished:,} bytes of it are there); "
            "copy it again, or cut it after a whole message"
        )
    sys.exit(1 if failed(result) else 0)
