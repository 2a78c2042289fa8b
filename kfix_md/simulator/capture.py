"""Reads a recorded stream (instruments, first snapshots, timed changes) and plays it into lines."""

import calendar
import gzip
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from kfix_md.errors import UsageError
from kfix_md.simulator import wire
from kfix_md.simulator.book import DELETE, NEW, VenueEntry, VenueInstrument, VenueL2Book, VenueL3Book
from kfix_md.simulator.dialect import Dialect
from kfix_md.simulator.lines import Line


@dataclass(slots=True)
class CaptureEvent:
    """One recorded X: `rest` is its text from 268 to 5041, `entries` its changes (empty for trades)."""

    at_ns: int
    symbol: str
    rest: bytes
    entries: list[VenueEntry]
    trades: bool


@dataclass(slots=True)
class Capture:
    """A capture file. `level` is L2 or L3, `venue` spot or derivatives."""

    path: Path
    venue: str = "spot"
    level: str = "L2"
    instruments: dict[str, VenueInstrument] = field(default_factory=dict)
    snapshots: dict[str, tuple[bytes, list[VenueEntry]]] = field(default_factory=dict)
    events: list[CaptureEvent] = field(default_factory=list)


class _Streams:
    """What each subscription of each symbol brought, by (symbol, 262), while a capture is read."""

    def __init__(self) -> None:
        self.snapshots: dict[tuple[str, bytes], tuple[bytes, list[VenueEntry]]] = {}
        self._events: list[tuple[tuple[str, bytes], CaptureEvent]] = []
        self._starts: dict[tuple[str, bytes], int] = {}
        self._newest = 0

    def repeated(self, header: dict[int, bytes]) -> bool:
        """Whether a message was there before: the answer to a ResendRequest."""
        seq = int(header[34])
        known = header.get(43) == b"Y" and seq <= self._newest
        self._newest = max(self._newest, seq)
        return known

    def begin(self, key: tuple[str, bytes], snapshot: tuple[bytes, list[VenueEntry]]) -> None:
        """A W: what came before it for this subscription is of no use any more."""
        self.snapshots[key] = snapshot
        self._starts[key] = len(self._events)

    def add(self, key: tuple[str, bytes], event: CaptureEvent) -> None:
        """An X."""
        self._events.append((key, event))

    def chosen(self, capture: Capture) -> None:
        """Give the capture one subscription of each symbol: the one with the most messages."""
        kept = [(key, event) for at, (key, event) in enumerate(self._events) if at >= self._starts.get(key, 0)]
        counts = Counter(key for key, _ in kept)
        best: dict[str, tuple[str, bytes]] = {}
        for key in dict.fromkeys([*self.snapshots, *counts]):
            if key[0] not in best or counts[key] > counts[best[key[0]]]:
                best[key[0]] = key
        capture.snapshots = {symbol: self.snapshots[key] for symbol, key in best.items() if key in self.snapshots}
        capture.events = [event for key, event in kept if best[key[0]] == key]


def read(path: str | Path) -> Capture:
    """Read FILE.fix or FILE.fix.gz whole; UsageError when it is not such a file or is cut off."""
    path = Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise UsageError(
            f"{path}: cannot be read as a capture ({getattr(error, 'strerror', None) or error}); give .fix or .fix.gz"
        ) from None
    capture, streams, reader = Capture(path), _Streams(), wire.FrameReader()
    for frame in reader.feed(data):
        try:
            _take(capture, streams, frame)
        except (ValueError, KeyError, StopIteration) as error:
            raise UsageError(f"{path}: not a market data capture ({error})") from None
    if not capture.instruments:
        raise UsageError(f"{path}: no instrument list (35=y) in it; nothing to serve")
    if reader.garbled:
        raise UsageError(f"{path}: {reader.garbled} damaged frames in it; give a whole capture")
    streams.chosen(capture)
    return capture


def _take(capture: Capture, streams: _Streams, frame: bytes) -> None:
    kind = frame[frame.index(b"\x0135=") + 4 :][:1]
    if kind == b"y":
        _take_instruments(capture, wire.split(frame))
    elif kind in b"WX":
        _take_data(capture, streams, kind, frame)


def _take_instruments(capture: Capture, fields: wire.Fields) -> None:
    header = dict(fields[:8])
    capture.venue = "derivatives" if b"DRV" in header.get(49, b"") else "spot"
    for group in _groups(fields, 55):
        row = dict(group)
        if not {2349, 5010} <= row.keys():  # an update of other fields
            continue
        price, qty = int(Decimal(row[2349].decode())), int(Decimal(row[5010].decode()))
        symbol = wire.text(row[55])
        capture.instruments[symbol] = VenueInstrument(
            symbol,
            price,
            qty,
            wire.scaled(row.get(5022, b"1").decode(), price),
            wire.scaled(row.get(5011, b"1").decode(), qty),
            int(row.get(5032, b"1")),
            security="CASH" if capture.venue == "spot" else "FUT",
            verbatim=wire.join(group),
        )


def _groups(fields: wire.Fields, first: int) -> Iterator[wire.Fields]:
    group: wire.Fields = []
    for pair in fields:
        if pair[0] == first:
            if group:
                yield group
            group = [pair]
        elif pair[0] == 10:
            break
        elif group:
            group.append(pair)
    if group:
        yield group


def _take_data(capture: Capture, streams: _Streams, kind: bytes, frame: bytes) -> None:
    fields = wire.split(frame)
    header = dict(reversed(fields))
    if streams.repeated(header):
        return
    symbols = {value for tag, value in fields if tag == 55}
    if len(symbols) != 1:
        raise ValueError(f"{len(symbols)} symbols in one message")
    symbol = wire.text(symbols.pop())
    key = symbol, header[262]
    instrument = capture.instruments[symbol]
    day, clock = header[52].split(b"-")
    sent = calendar.timegm(time.strptime(day.decode(), "%Y%m%d")) * 10**9
    groups = list(_groups(fields, 279 if kind == b"X" else 269))
    groups = [[pair for pair in group if pair[0] != 5041] for group in groups]
    if any(tag == 5273 for group in groups for tag, _ in group):
        capture.level = "L3"
    rest = frame[frame.index(b"\x01268=") + 1 : frame.rindex(b"\x0110=") + 1]
    trades = all(dict(group)[269] == b"2" for group in groups) and bool(groups)
    entries = [] if trades else [_entry(dict(group), instrument, sent) for group in groups]
    if kind == b"W":
        streams.begin(key, (rest, entries))
    else:
        streams.add(key, CaptureEvent(sent + _clock_ns(clock.decode()), symbol, rest, entries, trades))


def _clock_ns(text: str) -> int:
    hours, minutes, seconds = text.split(":")
    return (int(hours) * 60 + int(minutes)) * 60 * 10**9 + wire.scaled(seconds, 9)


def _entry(row: dict[int, bytes], instrument: VenueInstrument, day_ns: int) -> VenueEntry:
    action = int(row.get(279, b"0"))
    queued = row.get(5273)
    qty = wire.scaled(row[271].decode(), instrument.qty_precision)
    return VenueEntry(
        action,
        int(row[269]),
        row[278].decode() if queued else "",
        wire.scaled(row[270].decode(), instrument.price_precision),
        0 if action == DELETE else qty,
        wire.iso_ns(row[5060].decode()) if 5060 in row else day_ns + _clock_ns(row[273].decode()),
        wire.iso_ns(queued.decode()) if queued else 0,
    )


class CaptureLine(Line):
    """A line whose first snapshot is served as it was recorded."""

    def __init__(
        self,
        instrument: VenueInstrument,
        snapshot: tuple[bytes, list[VenueEntry]] | None,
        *,
        level: str,
        dialect: Dialect,
        history: int,
        clock: Callable[[], int],
    ) -> None:
        book = VenueL2Book() if level == "L2" else VenueL3Book()
        self._recorded = b""
        self._spoken = False
        if snapshot:
            self._recorded = snapshot[0]
            book.apply([entry._replace(action=NEW) for entry in snapshot[1]])
        self._first = book.copy()
        super().__init__(instrument, book, dialect, history, clock)

    def snapshot(self, depth: int) -> bytes:
        deepest = max(len(side.prices) for side in self.book.sides)
        whole = not self._levels(depth) or deepest <= self._levels(depth)
        if self.version == 0 and self._recorded and whole and not self._spoken:
            return self._recorded
        return super().snapshot(depth)

    def speak(self, dialect: Dialect) -> None:
        self._spoken = True
        super().speak(dialect)

    def publish(self, entries: list[VenueEntry], verbatim: bytes | None = None) -> None:
        super().publish(entries, None if self._spoken else verbatim)

    def rewind(self) -> None:
        """Back to the first snapshot."""
        self.book, self.version = self._first.copy(), 0
        self._undo.clear()


class CapturePlayer:
    """Plays the events of a capture into its lines at `speed` times the recorded pace (0: at once).

    It starts when every symbol is subscribed, or one second after the first subscription, and rewinds
    when the last subscription has ended.
    """

    PATIENCE_NS = 1_000_000_000

    def __init__(self, capture: Capture, lines: dict[str, CaptureLine], speed: float) -> None:
        self.capture, self.lines, self.speed = capture, lines, speed
        self.position = 0
        self._waiting_since = 0
        self._started = 0
        self._first_ns = capture.events[0].at_ns if capture.events else 0

    def run(self, now_ns: int, most: int = 2000) -> int:
        """Play what is due, at most `most` events; returns how many."""
        listened = [line.listened for line in self.lines.values()]
        if not any(listened):
            if self.position or self._waiting_since:
                self._rewind()
            return 0
        if not self._started:
            self._waiting_since = self._waiting_since or now_ns
            if not all(listened) and now_ns < self._waiting_since + self.PATIENCE_NS:
                return 0
            self._started = now_ns
        due = now_ns - self._started
        played = 0
        events = self.capture.events
        while played < most and self.position < len(events):
            event = events[self.position]
            if self.speed and (event.at_ns - self._first_ns) > due * self.speed:
                break
            self.position += 1
            played += 1
            line = self.lines[event.symbol]
            if event.trades:
                line.publish_trades([], event.rest)
            else:
                line.publish(event.entries, event.rest)
        return played

    @property
    def done(self) -> bool:
        """Whether the last event has been played."""
        return self.position >= len(self.capture.events)

    def _rewind(self) -> None:
        self.position = self._waiting_since = self._started = 0
        for line in self.lines.values():
            line.rewind()
