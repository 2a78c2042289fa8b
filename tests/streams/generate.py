"""Generates one gateway session: logon, instruments, snapshots, incrementals, logout."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.streams.market import BID, OFFER, TRADE, Instrument, L2Market, L3Market, Market, Row
from tests.streams.wire import clock, frame, iso, number, stamp

SERVICES = ("spot-l2", "derivatives-l2", "derivatives-l3", "spot-l3")
HEADERS = (
    (34, 49, 52, 56),
    (49, 56, 34, 52),
    (34, 56, 49, 52),
    (49, 34, 52, 56),
    (52, 34, 49, 56),
    (56, 52, 49, 34),
)
#: 23:59:58 on 29 February: the streams cross midnight, into March
START_NS = 1_709_251_198_000_000_000
NAMES = ("BTC", "ETH", "SOL", "XRP", "ADA", "DOT", "ATOM", "LTC", "PEPE", "OCEAN")
PRECISIONS = ((1, 8), (2, 8), (5, 8), (9, 8), (4, 5), (0, 8))


@dataclass
class Stream:
    """A generated session: its frames, and the markets as they are after the last one."""

    service: str
    frames: list[bytes]
    markets: dict[str, Market]
    entries: int = 0
    checksums: int = 0

    @property
    def data(self) -> bytes:
        """All frames as one run of bytes."""
        return b"".join(self.frames)


@dataclass
class Writer:
    """Numbers, dates and addresses the frames of one session."""

    service: str
    header: tuple[int, ...] | None
    rng: random.Random
    now_ns: int
    seq: int = 0
    frames: list[bytes] = field(default_factory=list)
    entries: int = 0
    checksums: int = 0

    def send(self, kind: str, pairs: list[tuple[int, str]]) -> None:
        """One frame; the header order is the session's, or another one every time."""
        self.seq += 1
        spot = self.service.startswith("spot")
        head = {
            34: str(self.seq),
            49: "KRAKEN-MD" if spot else "KRAKEN-DRV-MD",
            52: stamp(self.now_ns),
            56: "MYCOMPID" if spot else "MYCOMPID_DRV",
        }
        order = self.header or self.rng.choice(HEADERS)
        self.frames.append(frame(kind, [*((tag, head[tag]) for tag in order), *pairs]))

    def book(self, kind: str, market: Market, req_id: str, rows: list[Row], crc: bool) -> None:
        """A W or an X with these rows, and the checksum of the book as it is now."""
        pairs = [(55, market.instrument.symbol), (262, req_id), (268, str(len(rows)))]
        for row in rows:
            pairs += self.entry(kind, market, row)
        if crc:
            pairs.append((5041, str(market.crc())))
        self.entries += len(rows)
        self.checksums += crc
        self.send(kind, pairs)

    def entry(self, kind: str, market: Market, row: Row) -> list[tuple[int, str]]:
        """One repeating group."""
        instrument = market.instrument
        price = number(row.price, instrument.price_precision)
        name = row.id or f"{'BO'[row.side]}{price}"
        event_ns = row.event_ns or self.now_ns - self.rng.randrange(-5, 40) * 10**6
        pairs = [(279, str(row.action))] if kind == "X" else []
        pairs += [
            (269, str(row.side)),
            (278, name),
            (270, price),
            (271, number(row.qty, instrument.qty_precision)),
            (273, clock(event_ns)),
        ]
        if row.side == TRADE:
            return [*pairs, (40, self.rng.choice("12")), (2446, self.rng.choice("12"))]
        if row.queue_ns:
            pairs += [(5060, iso(event_ns)), (5273, iso(row.queue_ns))]
        return pairs


def instruments(service: str, count: int) -> list[Instrument]:
    """Symbols of a service with precisions of every kind."""
    listed = []
    for i in range(count):
        base = NAMES[i % len(NAMES)] + (str(i // len(NAMES)) if i >= len(NAMES) else "")
        price_precision, qty_precision = PRECISIONS[i % len(PRECISIONS)]
        if service.startswith("spot"):
            listed.append(Instrument(f"{base}/USD", price_precision, qty_precision, 1, 2_801_300 + 7919 * i))
        else:
            tick = 25 if price_precision == 2 else 5 if price_precision == 1 else 1
            qty = 0 if i % 2 == 0 else 4
            mid = (480_950 + 104_729 * i) * tick
            listed.append(Instrument(f"PF_{base}USD", price_precision, qty, tick, mid))
    return listed


def open_session(writer: Writer, markets: list[Market]) -> None:
    """Logon, the instrument list and, on spot, the trading session status."""
    writer.send("A", [(98, "0"), (108, "60"), (141, "Y")])
    groups: list[tuple[int, str]] = []
    for market in markets:
        seen = market.instrument
        tick = number(seen.tick, seen.price_precision)
        groups += [
            (55, seen.symbol),
            (562, number(1, seen.qty_precision)),
            (5010, str(seen.qty_precision)),
            (5011, "0.0001"),
            (2349, str(seen.price_precision)),
            (5022, tick),
            (5032, "1"),
        ]
    writer.send("y", [(320, "SLR1"), (322, "1"), (560, "0"), (146, str(len(markets))), *groups])
    if writer.service.startswith("spot"):
        writer.send("h", [(335, "TSR1"), (336, "SESSION"), (340, "2")])


def trade(market: Market, rng: random.Random) -> Row | None:
    """A trade at the best price of a side."""
    side = rng.choice((BID, OFFER))
    if not market.prices[side]:
        return None
    text = f"{rng.getrandbits(128):032x}"
    name = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return Row(0, TRADE, market.nth(side, 0), market.quantity(), name)


def incremental(writer: Writer, market: Market, req_id: str, max_entries: int, trades: bool) -> None:
    """One X: one or a few things that happened, sometimes with trades between."""
    rng, rows = writer.rng, []
    wanted = min(1 + int(rng.expovariate(0.8)), max_entries)
    while len(rows) < wanted:
        rows += market.step(writer.now_ns - rng.randrange(-5, 40) * 10**6)
    if trades and rng.random() < 0.15 and (seen := trade(market, rng)):
        rows = [seen] if rng.random() < 0.5 and len(rows) == 0 else [*rows, seen]
    writer.book("X", market, req_id, rows, crc=any(row.side != TRADE for row in rows))
    if trades and rng.random() < 0.05 and (seen := trade(market, rng)):
        writer.book("X", market, req_id, [seen], crc=False)


def generate(
    service: str = "spot-l2",
    *,
    symbols: int = 4,
    messages: int = 1000,
    depth: int = 25,
    seed: int = 1,
    header: tuple[int, ...] | None = HEADERS[0],
    max_entries: int = 8,
    id_kind: str = "",
    per_level: int = 3,
    empties: bool = True,
    admin: bool = True,
    gap_ms: float = 3.0,
    start_ns: int = START_NS,
    logout: bool = True,
) -> Stream:
    """A session of one service with `messages` incrementals over `symbols` books of `depth` levels a side.

    The same arguments give the same bytes. header: tags after 35 in order, or None for another order every
    time. id_kind: "uuid" or "kraken" (L3; default by service). per_level: mean orders per level of an L3
    snapshot. empties: now and then a book is emptied by a snapshot with 268=0 and opens again.
    """
    rng = random.Random(f"{service} {seed}")
    writer = Writer(service, header, rng, start_ns)
    kind = id_kind or ("kraken" if service.startswith("spot") else "uuid")
    markets: list[Market] = [
        L3Market(seen, rng, depth, kind, per_level) if service.endswith("l3") else L2Market(seen, rng, depth)
        for seen in instruments(service, symbols)
    ]
    open_session(writer, markets)
    for i, market in enumerate(markets):
        market.fill(start_ns)
        writer.book("W", market, f"md{i + 1}", market.snapshot(), crc=False)
    for count in range(messages):
        writer.now_ns += max(int(rng.expovariate(1 / gap_ms)), 0) * 10**6
        i = rng.randrange(symbols)
        if empties and count % 397 == 211:
            writer.book("W", markets[i], f"md{i + 1}", [], crc=False)
            markets[i].fill(writer.now_ns)
            writer.book("W", markets[i], f"md{i + 1}", markets[i].snapshot(), crc=False)
        incremental(writer, markets[i], f"md{i + 1}", max_entries, trades=service == "derivatives-l2")
        if admin and count % 97 == 51:
            writer.send("0", [])
    if logout:
        writer.send("5", [])
    names = {market.instrument.symbol: market for market in markets}
    return Stream(service, writer.frames, names, writer.entries, writer.checksums)
