"""Proof: hides how every recorded message is put through fresh books and held against its own checksum."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kfix_md import trading_day
from recorder import _proof, derive, files, rebuild, schema
from recorder.catalog import Captures
from recorder.loss import Losses
from recorder.schema import Flags

_LIVE_OK = Flags.CRC_CHECKED | Flags.CRC_OK
_COLUMNS = [*derive.BOOK_COLUMNS, "symbol"]


@dataclass
class Stream:
    """One symbol in one session: its book, and what its messages showed."""

    session: int
    symbol: str
    level: str = "L2"
    book: Any = None
    sound: bool = False  # the book is whole: from a snapshot on, until the feed itself found it wrong
    rows: int = 0
    messages: int = 0
    with_crc: int = 0
    by_level: int = 0  # CRCs that rule "level" explains
    by_order: int = 0
    failed_level: int = 0  # CRCs that had to match and did not, by rule
    failed_order: int = 0
    failed_live: int = 0
    unproven: int = 0  # messages on a book that is not whole
    in_doubt: int = 0  # messages the feed marked MAYBE_BAD_BOOK
    crossed: int = 0
    first_ns: int = 0
    last_ns: int = 0
    first_failure: dict = field(default_factory=dict)
    pending: pa.Table | None = None  # rows of a message that a batch cut


@dataclass
class Proof:
    """What was proven of captures; `holds` when nothing speaks against them."""

    streams: list[Stream]
    gaps: pa.Table
    uncovered: dict[str, float]  # seconds by symbol
    faults: list[str]
    services: set[str] = field(default_factory=set)

    @property
    def holds(self) -> bool:
        return not self.faults and not any(self.failed(s) for s in self.streams)

    def rule(self, level: str) -> str:
        """The rule of 5041 that explains the streams of a level best."""
        if level == "L2":
            return "level"
        told = [s for s in self.streams if s.level == "L3"]
        return "order" if sum(s.by_order for s in told) >= sum(s.by_level for s in told) else "level"

    def failed(self, s: Stream) -> int:
        """Messages of a stream whose CRC had to match and did not."""
        return s.failed_order if self.rule(s.level) == "order" else s.failed_level

    def ok(self, s: Stream) -> int:
        """Messages of a stream whose CRC matched."""
        return s.by_order if self.rule(s.level) == "order" else s.by_level

    def summary(self) -> dict[str, Any]:
        """As JSON: totals and a row for each symbol and level."""
        symbols: dict[str, dict] = {}
        for s in self.streams:
            row = symbols.setdefault(
                f"{s.symbol} {s.level}",
                {
                    "symbol": s.symbol,
                    "level": s.level,
                    "sessions": 0,
                    "rows": 0,
                    "messages": 0,
                    "checked": 0,
                    "ok": 0,
                    "failed": 0,
                    "failed_live": 0,
                    "unproven": 0,
                    "in_doubt": 0,
                    "seconds_not_covered": round(self.uncovered.get(s.symbol, 0.0), 3),
                },
            )
            row["sessions"] += 1
            counts = {
                "rows": s.rows,
                "messages": s.messages,
                "checked": self.ok(s) + self.failed(s),
                "ok": self.ok(s),
                "failed": self.failed(s),
                "failed_live": s.failed_live,
                "unproven": s.unproven,
                "in_doubt": s.in_doubt,
            }
            for key, value in counts.items():
                row[key] += value
        total = {
            k: sum(r[k] for r in symbols.values())
            for k in ("rows", "messages", "checked", "ok", "failed", "failed_live", "unproven", "in_doubt")
        }
        return {
            "holds": self.holds,
            **total,
            "gaps": self.gaps.num_rows,
            "rule_L3": self.rule("L3"),
            "faults": self.faults,
            "symbols": [symbols[k] for k in sorted(symbols)],
        }


def verify(captures: Captures, day: date | None = None, progress: Callable[[int], None] = lambda rows: None) -> Proof:
    """Rebuild every book from ticks alone and check each CRC that was checked live; one session date or all."""
    streams: dict[tuple[int, str, str], Stream] = {}
    start, end = (None, None) if day is None else trading_day.session_bounds(day)
    paths = captures._files.of("ticks", start, None if end is None else end - 1)
    seed = None if start is None else (lambda s: _seed(captures, s, start))
    losses = Losses(captures._table("gaps", None if start is None else start - trading_day.DAY_NS, end))
    for batch in files.batches("ticks", paths, _COLUMNS):
        _take(streams, batch, seed, losses)
        progress(batch.num_rows)
    found = list(streams.values())
    gaps = captures.gaps(day)
    cut = [s for s in found if s.pending is not None]
    faults = [f"{s.symbol}: the last message of session {s.session} is not whole" for s in cut]
    faults += _row_faults(captures, found, day)
    named = {r["session"]: r["service"] for r in captures.sessions().to_pylist()}
    services = {str(named.get(s.session)) for s in found}
    return Proof(found, gaps, uncovered(captures, found, gaps), faults, services)


def _seed(captures: Captures, stream: Stream, start: int) -> None:
    """A session that was kept over the date's start: its book comes from the date before."""
    book = captures.latest_book(stream.symbol, 3 if stream.level == "L3" else 2, stream.session, start - 1)
    if book is not None:
        stream.book, stream.sound = book, True


def _take(streams: dict, batch: pa.RecordBatch, seed: Any, losses: Losses) -> None:
    table = pa.Table.from_batches([batch])
    symbols = batch["symbol"].dictionary.to_pylist()
    codes = batch["symbol"].indices.to_numpy(zero_copy_only=False)
    session = batch["session"].to_numpy()
    level = schema._indices(batch["level"], schema.LEVELS)
    order = np.lexsort((level, session, codes))  # stable: arrival order stays inside a group
    keys = np.stack([codes[order], session[order], level[order]])
    edges = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
    for part in np.split(order, edges):
        if not len(part):
            continue
        one = part[0]
        key = (int(session[one]), symbols[codes[one]], schema.LEVELS[level[one]])
        stream = streams.get(key)
        if stream is None:
            stream = streams[key] = Stream(key[0], key[1], key[2])
            if seed is not None:
                seed(stream)
        _stream(stream, table.take(pa.array(part)), losses)


def _stream(s: Stream, rows: pa.Table, losses: Losses) -> None:
    if s.pending is not None:
        rows, s.pending = pa.concat_tables([s.pending, rows]).unify_dictionaries(), None
    ends = derive.message_ends(rows)
    flags = rows["flags"].to_numpy()
    if not flags[-1] & Flags.LAST:
        cut = int(ends[-2]) if len(ends) > 1 else 0
        s.pending = rows.slice(cut)
        rows = rows.slice(0, cut)
        if not cut:
            return
    for part in derive.segments(rows):
        _check(s, part, losses)


def _runs(s: Stream, clear: np.ndarray, failed: np.ndarray, lost: tuple) -> Iterator[tuple[int, int, bool]]:
    """(first message, end, sound) of runs between snapshots, losses and the feed's own findings."""
    n, (behind, at) = len(clear), lost
    marks = np.flatnonzero(clear | behind | at).tolist()
    edges = sorted({0, n, *marks, *(np.flatnonzero(failed) + 1).tolist()} - {n + 1})
    for a, b in itertools.pairwise(edges):
        s.sound = (clear[a] or (s.sound and not behind[a])) and not at[a]
        yield a, b, s.sound
        if failed[b - 1]:
            s.sound = False


def _check(s: Stream, rows: pa.Table, losses: Losses) -> None:
    ends = derive.message_ends(rows)
    last = ends - 1
    first = np.r_[0, ends[:-1]]
    flags = rows["flags"].to_numpy()[last]
    clear = pc.equal(rows["action"].cast(pa.string()), "clear").to_numpy()[first]
    scales = rows["price_scale"][0].as_py(), rows["qty_scale"][0].as_py()
    if s.book is None or (s.book.price_precision, s.book.qty_precision) != scales:
        s.book, s.sound = rebuild.new_book(3 if s.level == "L3" else 2, *scales), False
    has = (flags & Flags.HAS_CRC) != 0
    crc = rows["crc"].fill_null(0).to_numpy()[last]
    result = _proof.check(s.book, schema.entries(rows), ends, crc, has)
    failed_live = (flags & _LIVE_OK) == Flags.CRC_CHECKED
    sound = np.zeros(len(ends), bool)
    lost = losses.marks(s.session, s.last_ns, rows["recv_ns"].to_numpy()[last])
    for a, b, good in _runs(s, clear, failed_live, lost):
        sound[a:b] = good
    _count(s, rows, flags, has, result, failed_live, sound, last)


def _count(s: Stream, rows: pa.Table, flags, has, result, failed_live, sound, last) -> None:
    s.rows += rows.num_rows - int(pc.sum(pc.equal(rows["action"].cast(pa.string()), "clear")).as_py())
    s.messages += len(last)
    s.with_crc += int(has.sum())
    s.failed_live += int(failed_live.sum())
    s.unproven += int((~sound).sum())
    s.in_doubt += int(((flags & Flags.MAYBE_BAD_BOOK) != 0).sum())
    s.crossed += int(((result & _proof.IS_CROSSED) != 0).sum())
    level, order = (result & _proof.LEVEL) != 0, (result & _proof.ORDER) != 0
    s.by_level += int((level & sound).sum())
    s.by_order += int((order & sound).sum())
    must = has & sound & ~failed_live & ((flags & _LIVE_OK) == _LIVE_OK)
    s.failed_level += int((must & ~level).sum())
    s.failed_order += int((must & ~order).sum())
    bad = np.flatnonzero(must & ~level & ~order)
    time = rows["recv_ns"].to_numpy()[last]
    if len(bad) and not s.first_failure:
        at = last[bad[0]]
        s.first_failure = {"recv_ns": int(time[bad[0]]), "seq": rows["seq"][int(at)].as_py()}
    s.first_ns = s.first_ns or int(time[0])
    s.last_ns = int(time[-1])


def _row_faults(captures: Captures, streams: list[Stream], day: date | None) -> list[str]:
    """Every row the recorder decoded of an ended session must be there."""
    if day is not None:
        return []
    held: dict[int, int] = {}
    for s in streams:
        held[s.session] = held.get(s.session, 0) + s.rows
    faults = []
    for row in captures.sessions().to_pylist():
        if row["ended_ns"] is not None and row["rows"] != held.get(row["session"], 0):
            faults.append(
                f"session {row['session']} ({row['service']}) had {row['rows']} rows, "
                f"{held.get(row['session'], 0)} are here"
            )
    return faults


def uncovered(captures: Captures, streams: list[Stream], gaps: pa.Table) -> dict[str, float]:
    """Seconds inside the capture during which a symbol's book was not to be trusted, by symbol."""
    sessions = {r["session"]: r["service"] for r in captures.sessions().to_pylist()}
    begin = min((s.first_ns for s in streams if s.first_ns), default=0)
    end = max((s.last_ns for s in streams), default=0)
    rows = gaps.to_pylist()
    out: dict[str, float] = {}
    for symbol in {s.symbol for s in streams}:
        services = {sessions.get(s.session) for s in streams if s.symbol == symbol}
        spans = [
            (max(r["opened_ns"], begin), min(r["closed_ns"] or end, end))
            for r in rows
            if r["symbol"] in (None, symbol) and (r["service"] is None or r["service"] in services)
        ]
        out[symbol] = _union(spans) / 1e9
    return out


def _union(spans: list[tuple[int, int]]) -> int:
    total, reach = 0, 0
    for a, b in sorted(spans):
        total += max(0, b - max(a, reach))
        reach = max(reach, b)
    return total
