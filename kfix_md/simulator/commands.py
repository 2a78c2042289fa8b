"""What the control socket and fault scripts may ask of a running venue, by name."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from kfix_md.errors import UsageError
from kfix_md.simulator import rollover, wire
from kfix_md.simulator.acceptor import Acceptor
from kfix_md.simulator.book import BID, OFFER, Book, L3Book
from kfix_md.simulator.edits import EDITS, HARM
from kfix_md.simulator.faults import LOGON_VARIANTS
from kfix_md.simulator.lines import Line
from kfix_md.simulator.venue import Service, Venue

COMMANDS: dict[str, Callable[["Commands", dict], Any]] = {}


def command(function: Callable[["Commands", dict], Any]) -> Callable[["Commands", dict], Any]:
    """Register a method as the command of its name."""
    COMMANDS[function.__name__.rstrip("_")] = function
    return function


class Commands:
    """Carries out requests: dicts with `cmd` and arguments; answers are dicts with `ok`."""

    def __init__(self, venue: Venue) -> None:
        self.venue = venue

    def run(self, request: dict) -> dict:
        """One request; a fault in it is an answer with `ok` false and `error`, never an exception."""
        name = request.get("cmd")
        if name not in COMMANDS:
            return {"ok": False, "error": f"no such command: {name} (one of {', '.join(sorted(COMMANDS))})"}
        try:
            return {"ok": True, **(COMMANDS[name](self, request) or {})}
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return {"ok": False, "error": f"{name}: {error}" if str(error) else f"{name}: {type(error).__name__}"}

    # who is meant ----------------------------------------------------------------------------------------

    def _services(self, request: dict) -> list[Service]:
        name = request.get("service")
        if name is None:
            return list(self.venue.services.values())
        if name not in self.venue.services:
            raise ValueError(f"no such service: {name} (one of {', '.join(self.venue.services)})")
        return [self.venue.services[name]]

    def _sessions(self, request: dict) -> list[Acceptor]:
        wanted, sender = request.get("session"), request.get("sender")
        found = [session for service in self._services(request) for session in service.live()
                 if wanted in (None, session.id) and sender in (None, session.peer.sender)]
        if not found:
            raise ValueError("no such session is logged on")
        return found

    def _lines(self, request: dict) -> list[tuple[Service, Line]]:
        symbol = request["symbol"]
        level = request.get("level")
        found = [(service, service.lines[symbol]) for service in self._services(request)
                 if symbol in service.lines and level in (None, service.level)]
        if not found:
            raise ValueError(f"no such symbol here: {symbol}")
        return found

    # what is true ----------------------------------------------------------------------------------------

    @command
    def truth(self, request: dict) -> dict:
        """The book of `symbol` (`level` L2 by default) now, or after MsgSeqNum `seq` of a session
        (`session` id, or `sender`, or the only one on the service); `depth` 0 is all of it."""
        request = {"level": "L2", **request}
        service, line = self._lines(request)[0]
        if "seq" not in request:
            answer = {"service": service.name, **book_text(line, line.current(), line.version, request)}
            seqs = {}
            for session in service.live():
                seen = session.sightings.get(request["symbol"])
                if seen:
                    seqs[session.id] = {"sender": session.peer.sender, "seq": session.peer.outgoing - 1,
                                        "message_seq": seen.at(session.peer.outgoing)[0]}
            return {**answer, "sessions": seqs}
        session = self._sessions({**request, "service": service.name})[0]
        seen = session.sightings.get(request["symbol"])
        spot = seen.at(int(request["seq"])) if seen else None
        if int(request["seq"]) >= session.peer.outgoing:
            raise ValueError(f"{session.id} has only sent up to {session.peer.outgoing - 1}")
        book = line.book_at(spot[1]) if spot else None
        if book is None:
            raise ValueError(f"{request['symbol']} at {request['seq']} of {session.id} is not known any more")
        return {"service": service.name, "session": session.id, "seq": int(request["seq"]), "message_seq": spot[0],
                **book_text(line, book, spot[1], request)}

    @command
    def stats(self, request: dict) -> dict:
        """Messages by session, faults injected with what they lost (`since`: index of the first wanted)."""
        since = int(request.get("since", 0))
        services = {}
        for service in self.venue.services.values():
            sessions = {session.id: {
                "sender": session.peer.sender, "sent": session.peer.outgoing - 1, "received": session.peer.expected - 1,
                "subscriptions": sum(len(group) for group in session.subscriptions.values()),
                "garbled": session._reader.garbled} for session in service.live()}
            services[service.name] = {"port": service.port, "level": service.level, "symbols": len(service.lines),
                                      "messages": service.messages, "counts": dict(service.counts),
                                      "sessions": sessions}
        return {"services": services, "faults": self.venue.faults[since:], "fault_count": len(self.venue.faults),
                "captures": [{"file": player.capture.path.name, "position": player.position,
                              "events": len(player.capture.events), "done": player.done}
                             for player in self.venue.players]}

    @command
    def events(self, request: dict) -> dict:
        """What happened to sessions, the newest `last` of it."""
        events = self.venue.events
        return {"events": list(islice(events, max(0, len(events) - int(request.get("last", 1000))), None))}

    @command
    def symbols(self, request: dict) -> dict:
        """Symbols of each service with precisions and status."""
        return {"symbols": {service.name: {
            symbol: {"price_precision": line.instrument.price_precision,
                     "qty_precision": line.instrument.qty_precision, "status": line.instrument.status}
            for symbol, line in service.lines.items() if line.listed} for service in self._services(request)}}

    # the market ------------------------------------------------------------------------------------------

    @command
    def pause(self, _request: dict) -> None:
        """The market stands still."""
        self.venue.paused = True

    @command
    def resume(self, _request: dict) -> None:
        """The market goes on, without what it missed."""
        self.venue.paused = False
        self.venue._last_pump = self.venue.now()

    @command
    def rate(self, request: dict) -> None:
        """`rate` book changes a second and service from now on."""
        self.venue.config.rate = float(request["rate"])

    @command
    def step(self, request: dict) -> None:
        """`count` orders of the generated market of `symbol`, now."""
        row = next((row for row in self.venue.markets if row[0].instrument.symbol == request["symbol"]), None)
        if row is None or self.venue.config.rendered:
            raise ValueError(f"no generated live market for {request['symbol']}")
        for _ in range(int(request.get("count", 1))):
            self.venue._step(row, self.venue.now())

    @command
    def status(self, request: dict) -> None:
        """5032 of a symbol becomes `status`; told by 35=y to those who watch."""
        for service, line in self._lines(request):
            line.instrument.status = int(request["status"])
            line.instrument.verbatim = b""
            if service.level == "L2" or not self._lines({**request, "level": None})[1:]:
                self.venue.announce(service.venue_name, line.instrument)

    @command
    def trading_status(self, request: dict) -> None:
        """340 of the spot venue; told by 35=h."""
        self.venue.announce_status(int(request["status"]))

    @command
    def precision(self, request: dict) -> None:
        """Other precisions of a symbol (`price_precision`, `qty_precision`), finer by powers of ten; `silent` tells
        nobody. Listeners get a new snapshot."""
        rows = [(market, level2, level3) for market, level2, level3 in self.venue.markets
                if market.instrument.symbol == request["symbol"]]
        if not rows or self.venue.config.rendered:
            raise ValueError(f"no generated live market for {request['symbol']}")
        market, level2, level3 = rows[0]
        row = market.instrument
        finer = (int(request.get("price_precision", row.price_precision)) - row.price_precision,
                 int(request.get("qty_precision", row.qty_precision)) - row.qty_precision)
        if min(finer) < 0:
            raise ValueError("precisions only become finer")
        market.rescale(*finer)
        level2.replace(market.levels)
        level3.replace(market.book)
        if not request.get("silent"):
            self.venue.announce(market.venue, row)
        for line in (level2, level3):
            line.resnapshot()

    @command
    def list_(self, request: dict) -> None:
        """A new generated symbol on `venue` (spot or derivatives)."""
        self.venue.list_symbol(request.get("venue", "spot"), request["symbol"],
                               int(request.get("price_precision", 2)), int(request.get("qty_precision", 8)))

    @command
    def delist(self, request: dict) -> None:
        """A symbol's status becomes 6 (told by 35=y), its book empties, and it can not be subscribed any more."""
        self.status({**request, "status": 6})
        for _, line in self._lines(request):
            line.clear()
            line.listed = False
        self.venue.drop_market(request["symbol"])

    # faults on messages ----------------------------------------------------------------------------------

    @command
    def gap(self, request: dict) -> dict:
        """The next `count` messages of the sessions meant are lost; `answer` to the ResendRequest: replay,
        gapfill, mixed or ignore."""
        answer = request.get("answer")
        if answer not in (None, "replay", "gapfill", "mixed", "ignore"):
            raise ValueError(f"no such answer: {answer}")
        sessions = self._sessions(request)
        for session in sessions:
            session.faults.lose(int(request.get("count", 1)), answer)
        return {"sessions": [session.id for session in sessions]}

    @command
    def crc(self, request: dict) -> None:
        """The next `count` 5041 of a symbol are wrong."""
        for _, line in self._lines(request):
            line.on_corrupt = self.venue._corrupted
            line.corrupt_next += int(request.get("count", 1))

    @command
    def garble(self, request: dict) -> dict:
        """Edit `edit` on the next `count` messages of `types` (letters of 35, default WX) of the sessions meant;
        other keys are options of the edit."""
        sessions = self._sessions(request)
        for session in sessions:
            session.faults.edit(request["edit"], int(request.get("count", 1)), request.get("types", "WX"), request)
        return {"sessions": [session.id for session in sessions], "harm": HARM[request["edit"]]}

    @command
    def edits(self, _request: dict) -> dict:
        """The names of all edits and their harm, and of all variants of the reply to a Logon."""
        return {"edits": {name: HARM[name] for name in EDITS}, "logon": list(LOGON_VARIANTS)}

    @command
    def resend(self, request: dict) -> None:
        """How ResendRequests are answered from now on: `answer` replay, gapfill, mixed or ignore."""
        if request["answer"] not in ("replay", "gapfill", "mixed", "ignore"):
            raise ValueError(f"no such answer: {request['answer']}")
        self.venue.config.replay = request["answer"]

    # faults on connections -------------------------------------------------------------------------------

    @command
    def rollover(self, request: dict) -> dict:
        """`form` logout, fin, rst, seqreset, inlogon, restart0, restart1 or silent; logons are then refused for
        `refuse` seconds in the way `how` (close, logout, tcp)."""
        return {"sessions": rollover.perform(
            self.venue, request.get("form", "logout"), float(request.get("refuse", 2.0)), request.get("how", "close"),
            self._services(request), request.get("keep"))}

    @command
    def drop(self, request: dict) -> dict:
        """End connections: `how` fin or rst."""
        how = request.get("how", "fin")
        sessions = self._sessions(request)
        for session in sessions:
            self.venue.fault("drop", harm="session", how=how, session=session.id, sender=session.peer.sender,
                             service=session.service.name, last_seq=session.peer.outgoing - 1)
            session.close(how)
        return {"sessions": [session.id for session in sessions]}

    @command
    def logout(self, request: dict) -> None:
        """Send Logout with `text`."""
        for session in self._sessions(request):
            self.venue.fault("logout", harm="session", session=session.id, sender=session.peer.sender,
                             service=session.service.name, last_seq=session.peer.outgoing)
            session.logout(request.get("text", "Session ended by the venue"))

    @command
    def refuse(self, request: dict) -> None:
        """Refuse logons for `seconds`: `how` close, logout or tcp."""
        for service in self._services(request):
            service.refuse(float(request.get("seconds", 5)), request.get("how", "close"))

    @command
    def mute(self, request: dict) -> None:
        """Nothing is read or written for `seconds` (0: until the client goes)."""
        for session in self._sessions(request):
            self.venue.fault("mute", harm="stall", session=session.id, seconds=float(request.get("seconds", 5)),
                             sender=session.peer.sender, service=session.service.name)
            session.faults.mute(float(request.get("seconds", 5)))

    @command
    def delay(self, request: dict) -> None:
        """Output leaves `seconds` later, once."""
        for session in self._sessions(request):
            session.faults.hold(float(request.get("seconds", 1)))

    @command
    def small_writes(self, request: dict) -> None:
        """Writes of `size` bytes for `seconds`."""
        for session in self._sessions(request):
            session.faults.small_writes(int(request.get("size", 1)), float(request.get("seconds", 1)))

    @command
    def slow_reads(self, request: dict) -> None:
        """Nothing is read from the client for `seconds`."""
        for session in self._sessions(request):
            session.pause_reading(float(request.get("seconds", 1)))

    @command
    def logon(self, request: dict) -> None:
        """The next Logon on the services meant is answered by a `variant` (see `edits`)."""
        if request.get("variant") not in LOGON_VARIANTS:
            raise ValueError(f"no such variant: {request.get('variant')} (one of {', '.join(LOGON_VARIANTS)})")
        for service in self._services(request):
            service.logon_faults.append({key: value for key, value in request.items() if key != "cmd"})

    # messages of the venue's own accord ------------------------------------------------------------------

    @command
    def reject(self, request: dict) -> None:
        """The next `count` subscriptions of `symbol` get 35=Y with 281 `reason`."""
        for service, _ in self._lines(request):
            queue = service.symbol_rejects.setdefault(request["symbol"], deque())
            queue.extend([request.get("reason", 0)] * int(request.get("count", 1)))

    @command
    def answer(self, request: dict) -> None:
        """The next request of `type` (35; empty: any) gets `with`: j or 3."""
        if request.get("with") not in ("j", "3"):
            raise ValueError("`with` is j or 3")
        for service in self._services(request):
            service.request_faults.append((request["with"], request.get("type", "")))

    @command
    def send(self, request: dict) -> dict:
        """Send a message of `type` with `fields` [[tag, value], ...]; answers its MsgSeqNum by session."""
        fields = [(int(tag), str(value)) for tag, value in request.get("fields", [])]
        return {"seqs": {session.id: session.send(str(request["type"]).encode(), fields)
                         for session in self._sessions(request)}}

    @command
    def j(self, request: dict) -> dict:
        """Send a BusinessMessageReject of message `ref`."""
        return self.send({**request, "type": "j", "fields": [
            [45, request.get("ref", 1)], [372, "V"], [380, request.get("reason", 3)], [58, "by order"]]})

    @command
    def testrequest(self, request: dict) -> dict:
        """Send a TestRequest with `id`."""
        return self.send({**request, "type": "1", "fields": [[112, request.get("id", "KFIX")]]})

    @command
    def resendrequest(self, request: dict) -> dict:
        """Send a ResendRequest for `first` to `last` of the client's messages."""
        return self.send({**request, "type": "2",
                          "fields": [[7, request.get("first", 1)], [16, request.get("last", 0)]]})

    @command
    def sequence_reset(self, request: dict) -> None:
        """SequenceReset: `gap_fill` true or false, to `new`, from `seq` (default: the next number)."""
        for session in self._sessions(request):
            new = int(request.get("new", session.peer.outgoing + 1))
            if request.get("gap_fill", True):
                session.gap_fill(int(request.get("seq", session.peer.outgoing)), new, dup=request.get("dup", False))
            else:
                session.sequence_reset(new)
            if request.get("move", True):
                session.peer.outgoing = new

    @command
    def late(self, request: dict) -> None:
        """Unsubscribed streams go on for `seconds` from now on (0: they end at once)."""
        self.venue.late_seconds = float(request.get("seconds", 0))

    @command
    def resnapshot(self, request: dict) -> None:
        """A fresh W of a symbol to all its listeners."""
        for _, line in self._lines(request):
            line.resnapshot()

    @command
    def clear(self, request: dict) -> None:
        """All orders of a symbol vanish (an empty W)."""
        for _, line in self._lines(request):
            line.clear()


def book_text(line: Line, book: Book, version: int, request: dict) -> dict:
    """A book as exact text: bids and offers, best first, as [price, quantity, orders]; `ints` are the same in units
    of the precisions; with `orders`, every order of an L3 book as [id, price, quantity]."""
    depth = int(request.get("depth", 10 if request.get("top") else 0))
    price, qty = line.instrument.price_precision, line.instrument.qty_precision
    rows = {"bids": book.rows(BID, depth), "offers": book.rows(OFFER, depth)}
    answer = {
        "symbol": line.instrument.symbol, "level": book.level, "version": version, "price_precision": price,
        "qty_precision": qty, "crc": book.checksum(line.rule), "ints": rows,
        **{name: [[wire.number(p, price), wire.number(q, qty), n] for p, q, n in side] for name, side in rows.items()},
        "levels": [len(book.sides[BID].prices), len(book.sides[OFFER].prices)]}
    if isinstance(book, L3Book):
        answer["order_counts"] = [sum(len(queue) for queue in book.queues[side].values()) for side in (BID, OFFER)]
        if request.get("orders"):
            answer["orders"] = [[order.ident, wire.number(order.price, price), wire.number(order.qty, qty)]
                                for side in (BID, OFFER) for level in book.sides[side].best(10**9)
                                for order in book.queues[side][level]]
    return answer


async def serve(commands: Commands, path: Path) -> asyncio.AbstractServer:
    """The control socket: one JSON object a line each way."""
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    request = json.loads(line)
                    answer = commands.run(request) if isinstance(request, dict) else {"ok": False, "error": "no object"}
                except ValueError as error:
                    answer = {"ok": False, "error": f"not JSON: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    try:
        server = await asyncio.start_unix_server(talk, str(path), limit=1 << 20)
    except OSError as error:
        raise UsageError(f"{path}: the control socket cannot be made ({error.strerror or error})") from None
    path.chmod(0o600)
    return server
