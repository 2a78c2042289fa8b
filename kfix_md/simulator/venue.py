"""Runs the venue: four services, their symbols, the pace of the market, the daily rollover."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfix_md.errors import UsageError
from kfix_md.services import PORT_BASE, SERVICES
from kfix_md.simulator import catalogue, habits, listing, requests, rollover, tls, wire
from kfix_md.simulator.book import VenueInstrument
from kfix_md.simulator.capture import CaptureLine, CapturePlayer, read
from kfix_md.simulator.dialect import Dialect
from kfix_md.simulator.lines import Line, VenueSubscription
from kfix_md.simulator.loops import LoopLine, cycle
from kfix_md.simulator.market import Market, instruments, level_entries
from kfix_md.simulator.service import VenueService

PUMP_NS = 10_000_000  # a market never blocks the loop longer
TICK_SECONDS = 0.005
#: a generated market, and what L2 and L3 show of it
Row = tuple[Market, Line, Line]
logger = logging.getLogger("kfix.simulator")


@dataclass(slots=True)
class VenueConfig:
    """Everything that can be chosen about a venue; `rate` is in order book changes a second and service."""

    host: str = "127.0.0.1"
    port_base: int = PORT_BASE  # 0: any free ports
    captures: list[Path] = field(default_factory=list)
    symbols: int = 0  # generated ones, for each venue
    rate: float = 100.0
    orders: int = 60  # resting on each side of a generated book, about
    seed: int = 1
    speed: float = 1.0  # of captures; 0: as fast as it goes
    rendered: int = 0  # steps of a pre-rendered market for each symbol; 0: a live one
    tls_dir: Path | None = None  # None: no TLS
    tls: str = "1.3"  # the only version, 1.3 or 1.2
    dead_host: str = ""  # an address where TCP and TLS succeed and no Logon is answered
    names: list[str] = field(default_factory=list)
    control: Path | None = None
    l3_rule: str = "order"  # what 5041 covers on L3: order or level
    vary: dict[str, str] = field(default_factory=dict)  # switches of `Dialect` (for every symbol) and `habits`
    replay: str = "replay"  # answer to ResendRequests, see `habits.ANSWERS`
    chunk: int = 20  # messages that answer one ResendRequest when `replay` is chunks
    logon_echo: str = ""  # the client's answer to our Logon 141=Y gets a Logon: with the next 34, or with one
    on_logout: str = "close"  # the client's Logout: confirmed and closed, confirmed and left open, ignored
    after_logout: str = "close"  # our own Logout: then nothing, data as before, or an open connection
    linger: int = 30  # seconds that a connection stays open after a Logout where it does
    time_decimals: int = 3  # of tag 52
    clock_offset: int = 0  # seconds that tag 52 is ahead of the clock
    header: str = "guide"  # order of 34, 49, 52 and 56: as in the guide, 49 and 56 first, 52 last
    logon_reset: str = "echo"  # 141=Y in the reply to 141=Y, or absent
    test_request: str = "answer"  # or ignore
    unknown_symbol: str = "reject"  # a V for an unknown symbol: 35=Y, ignore, or 35=j (business)
    duplicate_id: str = "reject"  # a V with a 262 in use: 35=Y, ignore, or accept
    several_symbols: str = "each"  # a V for several symbols is answered for each, or for the first
    list_updates: str = "accept"  # 263=1 in an x is accepted, or rejected
    history: int = 100_000  # messages kept for resends, per session
    versions: int = 2_000_000  # book changes kept for the truth, shared by all symbols
    fragment: int = 500  # instruments in one 35=y
    interleave: bool = False  # an update comes between the fragments of a list
    listing: int = 0  # instruments of each venue; those beyond `symbols` have empty books
    stocks: int = 0  # generated tokenised stocks (167=TS) on spot
    rollover_at: str | None = None  # HH:MM:SS UTC
    rollover_form: str = "logout"
    rollover_refuse: float = 30.0
    write_limit: int = 256 << 20
    held_limit: int = 1_000_000


def _dialect(dialect: Dialect, row: VenueInstrument) -> Dialect:
    """The dialect of an instrument: negative precisions are those of its checksum."""
    if row.price_text.startswith("-"):
        dialect = dialect.changed(crc_price_precision=row.price_text)
    return dialect.changed(crc_qty_precision=row.qty_text) if row.qty_text.startswith("-") else dialect


class Venue:
    """The four services and what drives them."""

    def __init__(self, config: VenueConfig) -> None:
        self.config = config
        habits.change(config, {name: value for name, value in config.vary.items() if name in habits.SWITCHES})
        self.services = {name: VenueService(self, name) for name in SERVICES}
        self.trading_status = 2
        self.started_ns = time.time_ns()
        self.events: deque[dict[str, Any]] = deque(maxlen=20_000)
        self.faults: list[dict[str, Any]] = []
        self.markets: list[Row] = []
        self.players: list[CapturePlayer] = []
        self.paused = False
        self.late_seconds = 0.0
        self._owed = 0.0
        self._ids = 0
        self._turn = self._drawn = 0
        self._by_venue: list[list[Row]] = []
        self._last_pump = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._load()

    # contents --------------------------------------------------------------------------------------------

    def _load(self) -> None:
        if not self.config.captures and not self.config.symbols:
            raise UsageError("nothing to serve: give --capture FILE or --symbols N")
        for path in self.config.captures:
            self._load_capture(Path(path))
        for venue in ("spot", "derivatives"):
            for instrument, fair in instruments(venue, self.config.symbols):
                self._add_market(venue, instrument, fair)
            for instrument, fair in catalogue.stocks(venue, self.config.stocks):
                self._add_market(venue, instrument, fair)
            for instrument in catalogue.dormant(venue, max(0, self.config.listing - self.config.symbols)):
                self._add_lines(venue, Market(instrument, venue, 1000, self.config.seed), 500)

    def _load_capture(self, path: Path) -> None:
        capture = read(path)
        service = self.services[f"{capture.venue}-{capture.level.lower()}"]
        if service.lines:
            raise UsageError(f"{path}: another capture already serves {service.name}; give one a service")
        lines = {
            symbol: CaptureLine(
                instrument,
                capture.snapshots.get(symbol),
                level=capture.level,
                dialect=service.dialect,
                history=self._history(len(capture.instruments)),
                clock=self.now,
            )
            for symbol, instrument in capture.instruments.items()
        }
        service.lines.update(lines)
        self.players.append(CapturePlayer(capture, lines, self.config.speed))

    def _history(self, symbols: int) -> int:
        return max(500, min(20_000, self.config.versions // max(1, symbols)))

    def _add_market(self, venue: str, instrument: VenueInstrument, fair: int) -> Row | None:
        if any(instrument.symbol in self.services[f"{venue}-{level}"].lines for level in ("l2", "l3")):
            return None
        market = Market(instrument, venue, fair, self.config.seed, self.config.orders)
        opening = market.open(self.now())
        market.book.apply(opening)
        market.levels.apply(level_entries(opening, market.book, market.levels, self.now()))
        row = self._add_lines(venue, market, self._history(4 * max(1, self.config.symbols)))
        self.markets.append(row)
        self._group_markets()
        return row

    def _add_lines(self, venue: str, market: Market, history: int) -> Row:
        """Publish a market on the two services of its venue."""
        row = market.instrument
        level2, level3 = self.services[f"{venue}-l2"], self.services[f"{venue}-l3"]
        line2: Line = Line(row, market.levels, _dialect(level2.dialect, row), history, self.now)
        line3: Line = Line(row, market.book, _dialect(level3.dialect, row), history, self.now)
        if self.config.rendered and market.book.orders:
            steps2, steps3 = cycle(market, self.config.rendered, self.now())
            line2, line3 = LoopLine(line2, steps2), LoopLine(line3, steps3)
        line2.on_corrupt = line3.on_corrupt = self._corrupted
        level2.lines[row.symbol], level3.lines[row.symbol] = line2, line3
        return market, line2, line3

    def _group_markets(self) -> None:
        by_venue: dict[str, list[Row]] = {}
        for row in self.markets:
            by_venue.setdefault(row[0].venue, []).append(row)
        self._by_venue = list(by_venue.values())

    def list_symbol(self, venue: str, instrument: VenueInstrument, silent: bool = False) -> None:
        """A new instrument with a generated market, announced unless `silent`."""
        if not self._add_market(venue, instrument, 1000 * 10**instrument.price_precision):
            raise ValueError(f"{instrument.symbol} is already listed")
        if not silent:
            self.announce(venue, instrument)

    def drop_market(self, symbol: str) -> None:
        """The generated market of a symbol stops."""
        self.markets = [row for row in self.markets if row[0].instrument.symbol != symbol]
        self._group_markets()

    def announce(self, venue: str, instrument: VenueInstrument, tags: Iterable[int] = ()) -> None:
        """35=y (with these `tags` only) to every session that subscribed with 263=1."""
        for service in self.services.values():
            if service.venue_name == venue and instrument.symbol in service.lines:
                for session in service.live():
                    listing.announce(session, service.lines[instrument.symbol], tags)

    def announce_status(self, status: int) -> None:
        """35=h (spot) to every session that subscribed with 263=1."""
        self.trading_status = status
        for service in self.services.values():
            for session in service.live():
                for request in session.status_watch:
                    requests.send_status(session, request)

    # running ---------------------------------------------------------------------------------------------

    async def start(self) -> dict[str, Any]:
        """Open all ports; returns the contents of the ready line."""
        self._loop = asyncio.get_running_loop()
        context = None
        if self.config.tls_dir:
            tls.make(self.config.tls_dir, self.config.names)
            context = tls.server_context(self.config.tls_dir, self.config.tls)
        try:
            for service in self.services.values():
                base = self.config.port_base
                await service.listen(base + service.offset if base else 0, context)
        except UsageError:
            self.stop()
            raise
        self._last_pump = self.now()
        self._tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._watch())]
        return {
            "ready": True,
            "ports": {name: service.port for name, service in self.services.items()},
            "ca": str(Path(self.config.tls_dir).absolute() / tls.CA) if self.config.tls_dir else None,
            "control": str(self.config.control) if self.config.control else None,
        }

    def stop(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
        for service in self.services.values():
            service.close()

    def now(self) -> int:
        """Wall clock, ns since the epoch."""
        return time.time_ns()

    def soon(self, call: Callable[[], None]) -> None:
        """Run `call` in the next turn of the loop."""
        assert self._loop is not None
        self._loop.call_soon(call)

    async def _pump(self) -> None:
        while True:
            now = self.now()
            busy = 0 if self.paused else self.pump(now)
            spent = (self.now() - now) / 1e9
            await asyncio.sleep(0 if busy and spent > TICK_SECONDS else TICK_SECONDS - spent)

    def pump(self, now_ns: int) -> int:
        """Let the market run to `now_ns`; returns the number of changes made."""
        played = sum(player.run(now_ns) for player in self.players)
        if not self.markets:
            return played
        pace = self.config.rate * len(self._by_venue)
        # a machine that cannot keep up drops time, not memory
        self._owed = min(self._owed + (now_ns - self._last_pump) / 1e9 * pace, max(1.0, pace))
        self._last_pump = now_ns
        due = int(self._owed)
        done = self._pump_rendered(due) if self.config.rendered else self._pump_live(due, now_ns)
        self._owed -= done
        return played + done

    def _pump_live(self, due: int, now_ns: int) -> int:
        """Make at most `due` changes, and no longer than sessions and timers can wait; returns their number."""
        end_ns = self.now() + PUMP_NS
        for number in range(due):
            self._step(self._next_market(), now_ns)
            if self.now() > end_ns:
                return number + 1
        return due

    def _next_market(self) -> Row:
        """From the venues in turn; symbols at the front of a venue's list are busier."""
        self._turn = (self._turn * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        self._drawn += 1
        rows = self._by_venue[self._drawn % len(self._by_venue)]
        dice = (self._turn >> 33) / 2**31
        return rows[int(dice * dice * len(rows))]

    def _pump_rendered(self, due: int) -> int:
        """Play at most `due` positions, and no longer than sessions and timers can wait; returns their number."""
        markets = self.markets
        count = len(markets)
        end_ns, played = self.now() + PUMP_NS, 0
        while played < due and self.now() < end_ns:
            some = min(due - played, 256)
            for number in range(self._turn, self._turn + some):
                _, level2, level3 = markets[number % count]
                level2.advance()
                level3.advance()
            self._turn = (self._turn + some) % count
            played += some
        return played

    def market(self, symbol: str) -> Row:
        """The generated market of a symbol; ValueError when there is none."""
        for row in self.markets:
            if row[0].instrument.symbol == symbol:
                return row
        raise ValueError(f"no generated market for {symbol}")

    def step(self, row: Row) -> None:
        """The next order of one symbol, now."""
        if self.config.rendered:
            row[1].advance()
            row[2].advance()
        else:
            self._step(row, self.now())

    def _step(self, row: Row, now_ns: int) -> None:
        """One order arrives: trades, then the levels, then the orders they leave."""
        market, level2, level3 = row
        decision = market.decide(now_ns)
        if not decision.entries:
            return
        if decision.trades:
            level2.publish_trades(decision.trades)
        level3.publish(decision.entries)
        changes = level_entries(decision.entries, market.book, market.levels, now_ns)
        if changes:
            level2.publish(changes)

    async def _watch(self) -> None:
        """Session timers, and the daily rollover."""
        done = ""
        while True:
            await asyncio.sleep(0.1)
            now = self.now()
            for service in self.services.values():
                for session in list(service.sessions):
                    session.tick(now)
            today = wire.sending_time(now)[:17].decode()
            if self.config.rollover_at and today[9:] == self.config.rollover_at and today != done:
                done = today
                rollover.perform(self, self.config.rollover_form, self.config.rollover_refuse)

    # reports ---------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """A number for tags such as 322."""
        self._ids += 1
        return self.started_ns + self._ids

    def log(self, event: str, **facts: Any) -> None:
        """Record an event of a session."""
        self.events.append({"event": event, "at_ns": self.now(), **facts})
        logger.info("%s %s", event, facts)

    def fault(self, kind: str, **facts: Any) -> None:
        """Record a fault and its cost."""
        row = {"fault": kind, "at_ns": self.now(), **facts}
        self.faults.append(row)
        logger.info("fault %s %s", kind, facts)

    def _corrupted(self, subscription: VenueSubscription, seq: int) -> None:
        session = subscription.session
        self.fault(
            "crc",
            harm="content",
            session=session.id,
            sender=session.peer.sender,
            service=session.service.name,
            first=seq,
            last=seq,
            seqs=[seq],
            symbols=[subscription.line.instrument.symbol],
        )

    def after_unsubscribe(self, subscription: VenueSubscription) -> None:
        """End a subscription, at once or `late_seconds` later."""
        if self.late_seconds and self._loop:
            self._loop.call_later(self.late_seconds, subscription.line.leave, subscription)
        else:
            subscription.line.leave(subscription)
