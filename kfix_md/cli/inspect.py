"""`kfix inspect`: a file with FIX messages through decoder and books, offline."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfix_md.cli import logs
from kfix_md.errors import UsageError
from kfix_md.symbol_text import one_line

if TYPE_CHECKING:
    from kfix_md._handler import Handler

CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"


def chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked when it is compressed with gzip.

    Raises
    ------
    UsageError
        When the file cannot be read to its end.
    """
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == _GZIP
            with gzip.GzipFile(fileobj=file) if packed else file as opened:
                while data := opened.read(CHUNK):
                    yield data
    except gzip.BadGzipFile as error:
        raise UsageError(f"{path} is damaged: {error}; `gzip -t` reports the same") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error):
        raise UsageError(
            f"{path} is cut or damaged: its gzip stream does not end; `gzip -t` reports the same"
        ) from None


class Inspection:
    """One file through decoder and books: a handler for each session that the gateway has in it."""

    def __init__(self, checksum: str) -> None:
        self.checksum = checksum
        self.handlers: dict[logs.Pair, Handler] = {}
        self.form = ""
        self.directions: logs.Directions | None = None
        self.broken = self.recomputed = 0
        self._unfinished = 0

    def run(self, path: Path) -> None:
        """Read the whole file; UsageError when it is of a kind that cannot hold FIX messages."""
        found = chunks(path)
        head = b""
        while len(head) < logs.SNIFFED and (more := next(found, b"")):
            head += more
        what = logs.foreign(head)
        if what:
            raise UsageError(f"{path} is {what}")
        data = itertools.chain([head], found)
        if logs.is_stream(head[: logs.SNIFFED]):
            self.form = "a raw FIX stream"
            self._stream(data)
        else:
            self._log(data)
        if not self.messages:
            self.form = f"no FIX message in this file: it is {logs.without_messages(head[: logs.SNIFFED])}"

    @property
    def messages(self) -> int:
        """Messages that the handlers took."""
        return sum(handler.stats["messages"] for handler in self.handlers.values())

    @property
    def unfinished(self) -> int:
        """Bytes of a message that the end of the file cuts."""
        return self._unfinished + sum(int(handler.unfinished) for handler in self.handlers.values())

    def _stream(self, data: Iterator[bytes]) -> None:
        handler = self._handler((b"", b""))
        for chunk in data:
            handler.on_bytes(chunk)

    def _log(self, data: Iterator[bytes]) -> None:
        reader, directions = logs.LogReader(), logs.Directions()
        for chunk in data:
            for message in reader.feed(chunk):
                self._apply(directions.take(message))
        for message in reader.finish():
            self._apply(directions.take(message))
        self._apply(directions.rest())
        self.directions, self.broken, self.recomputed = directions, reader.broken, reader.recomputed
        self._unfinished = reader.unfinished
        self.form = _form(reader, directions)

    def _apply(self, messages: list[logs.LoggedMessage]) -> None:
        for message in messages:
            self._handler(message.pair).on_bytes(message.frame)

    def _handler(self, pair: logs.Pair) -> Handler:
        from kfix_md._handler import Handler

        if pair not in self.handlers:
            self.handlers[pair] = Handler(checksum=self.checksum)
        return self.handlers[pair]

    def report(self) -> dict[str, Any]:
        """Everything `kfix inspect --json` prints."""
        handlers = list(self.handlers.values()) or [self._handler((b"", b""))]
        counts = {name: sum(handler.stats[name] for handler in handlers) for name in handlers[0].stats}
        errors = sum(handler.protocol_errors for handler in handlers)
        return {
            "form": self.form,
            "messages": counts["messages"],
            "entries": counts["entries"],
            "checksum": {
                "rule": ", ".join(dict.fromkeys(handler.checksum for handler in handlers)),
                "checked": counts["crc_checked"],
                "ok": counts["crc_ok"],
                "failed": counts["crc_failed"],
            },
            "protocol_errors": errors + self.broken + (self.unfinished > 0),
            "unfinished_bytes": self.unfinished,
            "recomputed": self.recomputed,
            "gaps": counts["gaps"],
            "directions": self._directions(),
            "counters": {name: count for name, count in counts.items() if count},
            "symbols": self._symbols(),
        }

    def _directions(self) -> list[dict[str, Any]]:
        """Messages by sender and target, and whether they were read; empty for a raw stream."""
        if self.directions is None:
            return []
        return [
            {
                "sender": _text(sender),
                "target": _text(target),
                "messages": n,
                "read": self.directions.inbound[sender, target],
            }
            for (sender, target), n in self.directions.counts.items()
        ]

    def _symbols(self) -> dict[str, Any]:
        """Reports by symbol, with the session where several have the same one."""
        found: dict[str, Any] = {}
        for (sender, target), handler in self.handlers.items():
            for symbol in handler.symbols:
                name = f"{symbol} ({_text(sender)} to {_text(target)})" if symbol in found else symbol
                found[name] = symbol_report(handler, symbol)
        return found


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _form(reader: logs.LogReader, directions: logs.Directions) -> str:
    """One line about a log."""
    names = " or ".join(logs.separator_name(separator) for separator, _ in reader.separators.most_common(3))
    parts = ["FIX messages" if names == "SOH" else f"FIX messages with {names} for SOH"]
    parts += ["text before them"] if reader.prefixed else []
    ways = set(directions.inbound[pair] for pair in directions.counts)
    parts += ["two directions"] if len(ways) == 2 else []
    sessions = sum(directions.inbound[pair] for pair in directions.counts)
    parts += [f"{sessions} sessions"] if sessions > 1 else []
    return ", ".join(parts)


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


def failed(result: dict[str, Any]) -> bool:
    """Whether anything in the stream was wrong."""
    return bool(result["protocol_errors"] or result["gaps"] or result["checksum"]["failed"] or not result["messages"])


def print_report(result: dict[str, Any]) -> None:
    """Print a report as text; one line when there is no message in the file."""
    click.echo(result["form"])
    if not result["messages"]:
        return
    crc = result["checksum"]
    for way in result["directions"]:
        use = "read" if way["read"] else "left out, not sent by the gateway"
        names = one_line(f"{way['sender']} to {way['target']}")
        click.echo(f"  {names}: {way['messages']:,} messages, {use}")
    if result["recomputed"]:
        click.echo(
            f"{result['recomputed']:,} body lengths or checksums were counted over the log's text: computed again"
        )
    click.echo(f"{result['messages']:,} messages, {result['entries']:,} entries")
    counts = f"{crc['checked']:,} checked, {crc['ok']:,} ok, {crc['failed']:,} failed"
    click.echo(f"checksum 5041 (rule {crc['rule']}): {counts}")
    click.echo(f"{result['protocol_errors']:,} protocol errors, {result['gaps']:,} gaps")
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
    """Run the FIX messages of FILE through decoder and books: a raw stream or a log, plain or gzip.

    In a log SOH may be printed as any short text (| ^A ; <SOH> ...), with times or directions before a message; of two
    directions the gateway's is read.

    Exit status: 0 all sound, 1 something in the file is wrong, 2 the file cannot be used or ends inside a message.
    """
    inspection = Inspection(checksum)
    inspection.run(file)
    result = inspection.report()
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        print_report(result)
    if inspection.unfinished:
        raise UsageError(
            f"{file} is cut: its last message has no end ({inspection.unfinished:,} bytes of it are there); "
            "copy it again, or cut it after a whole message"
        )
    sys.exit(1 if failed(result) else 0)
