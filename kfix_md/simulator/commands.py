"""Carries out the named commands of the control socket and of fault scripts on a running venue."""

import asyncio
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from kfix_md.errors import UsageError
from kfix_md.simulator import wire
from kfix_md.simulator.acceptor import Acceptor
from kfix_md.simulator.book import BID, OFFER, VenueBook, VenueL3Book
from kfix_md.simulator.lines import Line
from kfix_md.simulator.service import VenueService
from kfix_md.simulator.venue import Venue

Request = dict[str, Any]
Answer = dict[str, Any]
Command = Callable[["Commands", Request], Answer | None]
COMMANDS: dict[str, Command] = {}
_LINE_MAX = 1 << 20


def command(function: Command) -> Command:
    """Register a method as the command of its name."""
    COMMANDS[function.__name__.rstrip("_")] = function
    return function


class Commands:
    """Carries out requests: dicts with `cmd` and arguments; answers are dicts with `ok`."""

    def __init__(self, venue: Venue) -> None:
        from kfix_md.simulator import (  # noqa: F401  they register themselves
            fault_commands,
            market_commands,
            variation_commands,
        )

        self.venue = venue

    def run(self, request: Request) -> Answer:
        """One request; a fault in it is an answer with `ok` false and `error`, never an exception."""
        name = request.get("cmd") if isinstance(request, dict) else None
        if name not in COMMANDS:
            return {"ok": False, "error": f"no such command: {name} (one of {', '.join(sorted(COMMANDS))})"}
        try:
            return {"ok": True, **(COMMANDS[name](self, request) or {})}
        except Exception as error:  # numbers, texts and lists of any kind are given to commands as they came
            return {"ok": False, "error": f"{name}: {type(error).__name__} {error}"}

    # selection -------------------------------------------------------------------------------------------

    def services(self, request: Request) -> list[VenueService]:
        name = request.get("service")
        if name is None:
            return list(self.venue.services.values())
        if name not in self.venue.services:
            raise ValueError(f"no such service: {name} (one of {', '.join(self.venue.services)})")
        return [self.venue.services[name]]

    def sessions(self, request: Request) -> list[Acceptor]:
        wanted, sender = request.get("session"), request.get("sender")
        found = [
            session
            for service in self.services(request)
            for session in service.live()
            if wanted in (None, session.id) and sender in (None, session.peer.sender)
        ]
        if not found:
            raise ValueError("no such session is logged on")
        return found

    def lines(self, request: Request) -> list[tuple[VenueService, Line]]:
        """The lines of `symbol` ("*": of all symbols) at a `level`, on a `service` (default: all)."""
        symbol = request["symbol"]
        level = request.get("level")
        if symbol == "*":
            return [
                (service, line)
                for service in self.services(request)
                for line in service.lines.values()
                if level in (None, service.level)
            ]
        found = [
            (service, service.lines[symbol])
            for service in self.services(request)
            if symbol in service.lines and level in (None, service.level)
        ]
        if not found:
            raise ValueError(f"no such symbol here: {symbol}")
        return found

    # queries ---------------------------------------------------------------------------------------------

    @command
    def truth(self, request: Request) -> Answer:
        """The book of `symbol` (`level` L2 by default) now, or after MsgSeqNum `seq` of a session
        (`session` id, or `sender`, or the only one on the service); `depth` 0 is all of it."""
        request = {"level": "L2", **request}
        service, line = self.lines(request)[0]
        if "seq" not in request:
            answer = {"service": service.name, **book_text(line, line.current(), line.version, request)}
            seqs = {}
            for session in service.live():
                seen = session.sightings.get(request["symbol"])
                last = seen.at(session.peer.outgoing) if seen else None
                if last:
                    seqs[session.id] = {
                        "sender": session.peer.sender,
                        "seq": session.peer.outgoing - 1,
                        "message_seq": last[0],
                    }
            return {**answer, "sessions": seqs}
        session = self.sessions({**request, "service": service.name})[0]
        seen = session.sightings.get(request["symbol"])
        spot = seen.at(int(request["seq"])) if seen else None
        if int(request["seq"]) >= session.peer.outgoing:
            raise ValueError(f"{session.id} has only sent up to {session.peer.outgoing - 1}")
        book = line.book_at(spot[1]) if spot else None
        if book is None or spot is None:
            raise ValueError(f"{request['symbol']} at {request['seq']} of {session.id} is no longer known")
        return {
            "service": service.name,
            "session": session.id,
            "seq": int(request["seq"]),
            "message_seq": spot[0],
            **book_text(line, book, spot[1], request),
        }

    @command
    def stats(self, request: Request) -> Answer:
        """Messages by session, faults injected with what they lost (`since`: index of the first wanted)."""
        since = int(request.get("since", 0))
        services = {}
        for service in self.venue.services.values():
            sessions = {
                session.id: {
                    "sender": session.peer.sender,
                    "sent": session.peer.outgoing - 1,
                    "received": session.peer.expected - 1,
                    "subscriptions": sum(len(group) for group in session.subscriptions.values()),
                    "garbled": session.reader.garbled,
                }
                for session in service.live()
            }
            services[service.name] = {
                "port": service.port,
                "level": service.level,
                "symbols": len(service.lines),
                "messages": service.messages,
                "counts": dict(service.counts),
                "sessions": sessions,
            }
        return {
            "services": services,
            "faults": self.venue.faults[since:],
            "fault_count": len(self.venue.faults),
            "captures": [
                {
                    "file": player.capture.path.name,
                    "position": player.position,
                    "events": len(player.capture.events),
                    "done": player.done,
                }
                for player in self.venue.players
            ],
        }

    @command
    def events(self, request: Request) -> Answer:
        """What happened to sessions, the newest `last` of it."""
        events = self.venue.events
        return {"events": list(islice(events, max(0, len(events) - int(request.get("last", 1000))), None))}

    @command
    def symbols(self, request: Request) -> Answer:
        """Symbols of each service with precisions and status."""
        return {
            "symbols": {
                service.name: {
                    symbol: {
                        "price_precision": line.instrument.price_precision,
                        "qty_precision": line.instrument.qty_precision,
                        "status": line.instrument.status,
                    }
                    for symbol, line in service.lines.items()
                    if line.listed
                }
                for service in self.services(request)
            }
        }


def book_text(line: Line, book: VenueBook, version: int, request: Request) -> Answer:
    """A book as exact text: bids and offers, best first, as [price, quantity, orders]; `ints` are the same in
    units of the precisions; with `orders`, every order of an L3 book as [id, price, quantity]."""
    depth = int(request.get("depth", 10 if request.get("top") else 0))
    price, qty = line.instrument.price_precision, line.instrument.qty_precision
    rows = {"bids": book.rows(BID, depth), "offers": book.rows(OFFER, depth)}
    answer = {
        "symbol": line.instrument.symbol,
        "level": book.level,
        "version": version,
        "price_precision": price,
        "qty_precision": qty,
        "crc": line.crc(book),
        "ints": rows,
        **{name: [[wire.number(p, price), wire.number(q, qty), n] for p, q, n in side] for name, side in rows.items()},
        "levels": [len(book.sides[BID].prices), len(book.sides[OFFER].prices)],
    }
    if isinstance(book, VenueL3Book):
        answer["order_counts"] = [sum(len(queue) for queue in book.queues[side].values()) for side in (BID, OFFER)]
        if request.get("orders"):
            answer["orders"] = [
                [order.ident, wire.number(order.price, price), wire.number(order.qty, qty)]
                for side in (BID, OFFER)
                for level in book.sides[side].best(10**9)
                for order in book.queues[side][level]
            ]
    return answer


def answer_line(commands: Commands, line: bytes) -> bytes:
    """The answer to one line of the control socket."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        answer = {"ok": False, "error": f"not JSON: {error}"}
    else:
        answer = commands.run(request)
    return json.dumps(answer).encode() + b"\n"


async def serve(commands: Commands, path: Path) -> asyncio.AbstractServer:
    """The control socket: one JSON object a line each way."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(answer_line(commands, line))
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        except ValueError:  # longer than the limit: where the next line begins is not known
            writer.write(json.dumps({"ok": False, "error": f"a line has at most {_LINE_MAX} bytes"}).encode() + b"\n")
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    try:
        server = await asyncio.start_unix_server(talk, str(path), limit=_LINE_MAX)
    except OSError as error:
        raise UsageError(f"{path}: the control socket cannot be made ({error.strerror or error})") from None
    path.chmod(0o600)
    return server
