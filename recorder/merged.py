"""Reads captures of several feeds, or the copies of a hot pair, as one stream: what one lost is taken from another.

For each book a timeline of pieces has whose copy is read when: a copy is kept until it is not trusted and another one
is; of a hot pair it is the published one. Where the copies change, the message that was the last of one is looked up in
the other one (see recorder.seams), which goes on after it: no message is missing or there twice, whatever the delays of
both were.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow.compute import Expression

from kfix_md import trading_day
from kfix_md.errors import NoSuchSymbol, UsageError
from recorder import blocks, coverage, derive, files, sampled, schema, seams, shape, times
from recorder.catalog import Captures, Ids, Price
from recorder.compute import pc
from recorder.layout import TABLES, Tree
from recorder.listing import RecordedListing, Symbols, names_of
from recorder.missing import MissingFiles
from recorder.moments import Day, Moment, span, to_date, to_ns
from recorder.plot import Plots
from recorder.rebuild import BookAt, Rebuilder
from recorder.times import Time

if TYPE_CHECKING:
    pass

_STRIDE = 1 << 24  # sessions of the second captures are numbered from here on
_FOREVER = (1 << 63) - 1
_IDENTITY = ["session", "seq", "recv_ns"]


@dataclass(frozen=True)
class Piece:
    """A time in which one book is read from one copy; `to_ns` is _FOREVER where it lasts."""

    source: int
    copy: tuple[str, int] | None  # of a hot pair: service and number
    from_ns: int
    to_ns: int


class Line(Captures):
    """One copy of a hot pair: the sessions of one place in the feed's configuration."""

    def __init__(self, tree: Tree, service: str, number: int) -> None:
        super().__init__(tree)
        self._service, self._number = service, number
        self._files = files.Files(self.tree, self._own_sessions)
        self._rebuild = Rebuilder(self._files)
        self._listing = RecordedListing(self._files)

    def _own_sessions(self) -> frozenset[int]:
        rows = self._session_rows(self.tree.dates("sessions")).to_pylist()
        return frozenset(
            row["session"] for row in rows if (row["service"], row["number"]) == (self._service, self._number)
        )

    def own(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of this copy among those of all."""
        mask = np.isin(rows["session"].to_numpy(), list(self._own_sessions()))
        return rows if mask.all() else rows.filter(pa.array(mask))

    def _coverage(self, symbol: str | None, start: int | None, end: int | None, **options: Any) -> pa.Table:
        found = super()._coverage(symbol, start, end, copies="both")
        mine = pc.and_(pc.equal(found["service"], self._service), pc.equal(found["number"], self._number))
        return found.filter(mine.fill_null(False))


@dataclass(frozen=True)
class Read:
    """Rows of one book that are read of one copy: those after `begin` and up to `last`, received in [low, high)."""

    source: int
    copy: Captures
    low: int | None
    high: int | None
    begin: seams.Begin
    last: seams.Message | None


class _MergedRows:
    """Rows of a session date as blocks of messages are made of them, see blocks.RowReader: each message once.

    The rows of each captures directory are read once from their beginning to their end, and those kept that are read
    of it.
    """

    def __init__(self, cap: "Merged", begin: int, end: int, symbols: list[str] | None, columns: list[str]) -> None:
        self._span, self._columns = (begin, end), columns
        self._since = begin - seams.REACH_NS  # rows may be raised to the time at which a copy begins to be read
        self._readers = [part._reader(self._since, end, symbols, columns) for part in cap.parts]
        self.pieces = [piece for reader in self._readers for piece in reader.pieces]
        self._reads: dict[tuple[str, str], list[Read]] = {}
        for name in cap._symbols(begin, end) if symbols is None else symbols:
            for level in schema.LEVELS:
                self._reads[name, level] = files.attempt(lambda: list(cap._reads(name, level, begin, end)))  # noqa: B023
        self._raised: list[tuple[int, pa.RecordBatch]] = []  # to a later time than was asked for until now

    def rows(self, start: int, end: int) -> pa.Table:
        """Rows received in [start, end), one book after the other."""
        found = [batch for until, batch in self._raised if until < end]
        self._raised = [(until, batch) for until, batch in self._raised if until >= end]
        for source, reader in enumerate(self._readers):
            for key, book in _by_book(reader.rows(self._since, end)):
                for read in self._reads.get(key, []):
                    if read.source == source and (kept := self._kept(read, book)).num_rows:
                        batch = _numbered(kept, source)
                        if read.begin.not_before_ns < end:
                            found.append(batch)
                        else:
                            self._raised.append((read.begin.not_before_ns, batch))
        self._since = end
        return blocks.joined(found) if found else files.table("ticks", [], self._columns)

    def _kept(self, read: Read, book: pa.RecordBatch) -> pa.RecordBatch:
        if isinstance(read.copy, Line):
            book = read.copy.own(book)
        return read.begin.cut(book, read.last, *self._span)


def _by_book(rows: pa.Table) -> Iterator[tuple[tuple[str, str], pa.RecordBatch]]:
    """Rows by symbol and level, each in their order."""
    if not rows.num_rows:
        return
    [whole] = rows.combine_chunks().to_batches()
    names = whole["symbol"].dictionary.to_pylist()
    book = whole["symbol"].indices.to_numpy() * len(schema.LEVELS) + schema._indices(whole["level"], schema.LEVELS)
    if (book[1:] < book[:-1]).any():
        order = np.argsort(book, kind="stable")
        whole, book = whole.take(pa.array(order)), book[order]
    edges = [0, *(np.flatnonzero(book[1:] != book[:-1]) + 1).tolist(), len(book)]
    for first, end in pairwise(edges):
        code, level = divmod(int(book[first]), len(schema.LEVELS))
        yield (names[code], schema.LEVELS[level]), whole.slice(first, end - first)


class _NoFiles:
    """Takes the place of the files of one captures directory."""

    def __getattr__(self, name: str) -> Any:
        raise UsageError("this is not possible over several captures: open one of the directories")


class Merged(Captures):
    """Several captures as one.

    Numbers of sessions are made unique: those of the second captures begin at 16,777,216, and so on; the columns `feed`
    and `service` name where rows are from.

    Parameters
    ----------
    parts
        Captures of feeds of the same venue; where several are trusted at the start of a book, the first is read.
    """

    def __init__(self, parts: Sequence[Captures]) -> None:
        self.parts = list(parts)
        self._lines: dict[tuple[int, tuple[str, int]], Line] = {}
        self.tree = self.parts[0].tree
        several = len(self.parts) > 1
        self._files: Any = _NoFiles() if several else self.parts[0]._files
        self._rebuild: Any = _NoFiles() if several else self.parts[0]._rebuild
        self._listing: Any = _NoFiles() if several else self.parts[0]._listing
        self.plot = Plots(self)

    def __repr__(self) -> str:
        days = self.dates()
        span = f", {days[0]} to {days[-1]}" if days else ""
        return f"<captures {' + '.join(str(part.tree.root) for part in self.parts)}: {len(days)} session dates{span}>"

    # ---- which copy when ----

    def _copies(self, source: int, copy: tuple[str, int] | None) -> Captures:
        """What is read of one copy: of a hot pair the sessions of one (service, number)."""
        if copy is None:
            return self.parts[source]
        if (source, copy) not in self._lines:
            self._lines[source, copy] = Line(self.parts[source].tree, *copy)
        return self._lines[source, copy]

    def _timeline(self, symbol: str, level: str, start: int | None, end: int | None) -> list[coverage.Row]:
        """States of a book and the copy that shows each; a copy is kept until it is not trusted and another one is."""
        found: list[tuple[int, list[coverage.Row]]] = []
        for source, part in enumerate(self.parts):
            rows = part._coverage(symbol, start, end).to_pylist() if self._has(part, symbol) else []
            found.append((source, [row for row in rows if row["level"] in (level, None)]))
        return seams.merged_states(found)

    def _pieces(self, symbol: str, level: str, start: int | None, end: int | None) -> list[Piece]:
        pieces: list[Piece] = []
        for row in self._timeline(symbol, level, start, end):
            to_ns = _FOREVER if row["to_ns"] is None else row["to_ns"]
            paired = row["service"] in self.parts[row["source"]].pairs()
            copy = (row["service"], row["number"]) if paired and row["number"] is not None else None
            last = pieces[-1] if pieces else None
            if last is not None and (last.source, last.copy) == (row["source"], copy):
                pieces[-1] = replace(last, to_ns=max(last.to_ns, to_ns))
            elif to_ns > row["from_ns"] or last is None:
                pieces.append(Piece(row["source"], copy, row["from_ns"], to_ns))
        if not pieces:  # no states were recorded: the first that has the symbol
            sources = [source for source, part in enumerate(self.parts) if self._has(part, symbol)]
            pieces = [Piece(sources[0], None, 0, _FOREVER)] if sources else []
        else:
            pieces[0] = replace(pieces[0], from_ns=0)
            pieces[-1] = replace(pieces[-1], to_ns=_FOREVER)
        return pieces

    @staticmethod
    def _has(part: Captures, symbol: str) -> bool:
        try:
            part._listing.check(symbol)
        except NoSuchSymbol:
            return False
        return True

    def _check(self, symbol: Symbols, at: int | None = None) -> None:
        for name in names_of(symbol):
            if not any(self._has(part, name) for part in self.parts):
                raise NoSuchSymbol(f"no {name} in any of {', '.join(str(part.tree.root) for part in self.parts)}")

    def _require(self, symbol: Symbols, start: int | None, end: int | None) -> None:
        for name in names_of(symbol):
            if not any(part._files.recorded(name, start, end) for part in self.parts):
                self.parts[0]._listing.require(name, start, end)

    def _levels_of(self, symbol: str, level: str | None, at: int | None, named: bool) -> list[str]:
        """Levels to read of a symbol."""
        if level not in (None, "both", *schema.LEVELS):
            raise UsageError(f'level is {level!r}: use "L2", "L3" or "both"')
        if level in schema.LEVELS:
            return [str(level)]
        if level == "both" or not named:
            return schema.LEVELS
        return [self._level(symbol, None, at)]

    def _level(self, symbol: str, level: str | None, at: int | None) -> str:
        found = [part._listing.level(symbol, at, level) for part in self.parts if self._has(part, symbol)]
        return min((one for one in found if one is not None), default="L2")

    # ---- messages ----

    def _merged(
        self, symbol: str, level: str, start: int | None, end: int | None, columns: list[str], ids: Ids
    ) -> Iterator[pa.RecordBatch]:
        """Rows of one book, the pieces one after the other, each message once."""
        names = list(dict.fromkeys([*columns, *_IDENTITY]))
        for read in self._reads(symbol, level, start, end):
            where = pc.field("level") == level
            paths = read.copy._files.of("ticks", read.low, read.high, [symbol])
            limits: dict[str, Any] = {"symbols": [symbol], "start": read.low, "end": read.high}
            for batch in files.batches("ticks", paths, names, where, **limits):
                kept = read.begin.cut(batch, read.last, start, end)
                if kept.num_rows:
                    kept = shape.text_ids(kept) if ids == "text" else kept
                    yield _numbered(kept.select(columns), read.source)

    def _reads(self, symbol: str, level: str, start: int | None, end: int | None) -> Iterator[Read]:
        """What is read of which copy for one book, in order."""
        pieces = self._pieces(symbol, level, None if start is None else start - seams.REACH_NS, end)
        begin = seams.Begin()
        for i, piece in enumerate(pieces):
            copy = self._copies(piece.source, piece.copy)
            last: seams.Message | None = None
            if i + 1 < len(pieces):
                following = self._copies(pieces[i + 1].source, pieces[i + 1].copy)
                last, after = seams.find(copy, following, symbol, level, piece.to_ns)
            if start is None or piece.to_ns + seams.REACH_NS >= start:
                low = None if start is None else start - seams.REACH_NS
                low = low if i == 0 else max(low or 0, begin.since_ns)
                high = end if last is None else min(end or _FOREVER, last.until_ns + 1)
                yield Read(piece.source, copy, low, high, begin, last)
            if i + 1 < len(pieces):
                begin = after

    def _ticks(
        self,
        symbol: Symbols,
        start: Moment | None,
        end: Moment | None,
        level: str | None,
        columns: list[str] | None,
        ids: Ids,
        price: Price,
    ) -> Iterator[pa.RecordBatch]:
        """As of one captures directory; after a change of copies no row is received before those already given."""
        first, last = span(start, end)
        needed = shape.wanted(columns, price != "int", ids)
        names = self._symbols(first, last) if symbol is None else names_of(symbol)
        for name in names:
            for one in self._levels_of(name, level, first if last is None else last, symbol is not None):
                yield from self._merged(name, one, first, last, needed, ids)

    def bars(
        self,
        symbol: str,
        every: str | int | timedelta = "1s",
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        price: Price = "float",
        time: Time = "ns",
    ) -> pa.Table:
        """As of one captures directory."""
        rows = self.ticks(symbol, start, end, level="both", columns=[*derive.TRADE_COLUMNS, "side"])
        trades = rows.filter(pc.equal(rows["side"], "trade").fill_null(False))
        return times.form(derive.bars(trades.select(derive.TRADE_COLUMNS), derive.duration(every), price), time)

    def _reader(self, begin: int, end: int, symbols: list[str] | None, columns: list[str]) -> "_MergedRows":
        return _MergedRows(self, begin, end, symbols, columns)

    def _table(
        self,
        name: str,
        start: int | None,
        end: int | None,
        columns: list[str] | None = None,
        where: Expression | None = None,
        symbols: list[str] | None = None,
    ) -> pa.Table:
        if name != "ticks":
            tables = [part._table(name, start, end, columns, where, symbols=symbols) for part in self.parts]
            return pa.concat_tables([_numbered(rows, i) for i, rows in enumerate(tables)]).unify_dictionaries()
        found = list(self._ticks(symbols, start, end, "both", columns, "binary", "int"))
        whole = pa.Table.from_batches(found).unify_dictionaries() if found else shape.empty(columns, "binary")
        return whole if where is None else whole.filter(where)

    def _batches(
        self, name: str, start: int | None, end: int | None, columns: list[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Rows of all copies."""
        for part in self.parts:
            yield from part._batches(name, start, end, columns)

    # ---- books ----

    def book(self, symbol: str, at: Moment, depth: int = 10, *, level: str | None = None) -> BookAt:
        """As of one captures directory, from the copy that is read at the time."""
        moment = to_ns(at)
        if moment is None:  # a caller without type checks
            raise UsageError("book needs a time: at=ns, ISO text or datetime")
        self._check(symbol)
        level = self._level(symbol, level, moment)
        piece = self._piece_at(symbol, level, moment)
        found = self._copies(piece.source, piece.copy).book(symbol, moment, depth, level=level)
        return replace(found, session=found.session + _STRIDE * piece.source if found.session else 0)

    def _piece_at(self, symbol: str, level: str, moment: int) -> Piece:
        pieces = self._pieces(
            symbol, level, trading_day.session_bounds(trading_day.session_date(moment))[0], moment + 1
        )
        return next(piece for piece in reversed(pieces) if piece.from_ns <= moment)

    def bbo(
        self,
        symbol: str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        level: str | None = None,
        price: Price = "float",
        time: Time = "ns",
    ) -> pa.Table:
        """As of one captures directory; where the copies change there is a row with the prices of the new one."""
        first, last = span(start, end)
        self._check(symbol)
        self._require(symbol, first, last)
        level = self._level(symbol, level, first if last is None else last)
        tables = []
        for i, (piece, low, high) in enumerate(self._spans(symbol, level, first, last)):
            copy = self._copies(piece.source, piece.copy)
            opening = None
            if i and low is not None:
                opening = partial(_first_row, copy.book(symbol, low, 1, level=level), at=low)
            best = files.attempt(partial(derive.bbo, copy, symbol, low, high, level, price, opening))
            tables.append(_numbered(best, piece.source))
        return times.form(pa.concat_tables(tables, promote_options="permissive"), time)

    def _spans(
        self, symbol: str, level: str, first: int | None, last: int | None
    ) -> Iterator[tuple[Piece, int | None, int | None]]:
        """Pieces that reach into [first, last), and the limits of each inside it."""
        for piece in self._pieces(symbol, level, first, last):
            low = max(piece.from_ns, first or 0) or None
            high = min(piece.to_ns, _FOREVER if last is None else last)
            if low is None or low < high:
                yield piece, low, None if high == _FOREVER else high

    def depth_batches(
        self,
        symbol: str | list[str],
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        every: str | int | timedelta = "100ms",
        levels: int = 10,
        level: str | None = None,
        price: Price = "float",
        time: Time = "ns",
    ) -> Iterator[pa.RecordBatch]:
        """As of one captures directory, from the copy that is read at each time."""
        (first, last), step = span(start, end), sampled.step_of(every)
        self._check(symbol)
        self._require(symbol, first, last)

        def found() -> Iterator[pa.RecordBatch]:
            for name in names_of(symbol):
                one = self._level(name, level, first if last is None else last)
                for piece, low, high in self._spans(name, one, first, last):
                    begin = low
                    if low is not None and step is not None:
                        origin = 0 if first is None else first
                        begin = origin + -(-(low - origin) // step) * step
                    copy = self._copies(piece.source, piece.copy)
                    options: dict[str, Any] = {"every": every, "levels": levels, "level": one, "price": price}
                    for batch in copy.depth_batches(name, begin, high, **options):
                        yield times.form(_numbered(batch, piece.source), time)

        times.check(time)
        return found()

    def depth(
        self,
        symbol: str | list[str],
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        every: str | int | timedelta = "100ms",
        levels: int = 10,
        level: str | None = None,
        price: Price = "float",
        time: Time = "ns",
    ) -> pa.Table:
        """As of one captures directory, from the copy that is read at each time."""
        options: dict[str, Any] = {"every": every, "levels": levels, "level": level, "price": price, "time": time}
        tables = files.attempt(
            lambda: [pa.Table.from_batches([one]) for one in self.depth_batches(symbol, start, end, **options)]
        )
        return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries() if tables else pa.table({})

    # ---- what is known of them ----

    def pairs(self, last_dates: int | None = None) -> set[str]:
        """Services of hot pairs in any of them."""
        return {service for part in self.parts for service in part.pairs(last_dates)}

    def dates(self) -> list[date]:
        """Session dates with ticks in any of them."""
        return sorted({day for part in self.parts for day in part.dates()})

    def symbols(self, day: Day | None = None) -> list[str]:
        """Symbols with ticks in any of them."""
        return sorted({name for part in self._with(day) for name in part.symbols(day)})

    def _symbols(self, start: int | None, end: int | None) -> list[str]:
        days = [day for day in self.dates() if start is None or trading_day.session_bounds(day)[1] > start]
        days = [day for day in days if end is None or trading_day.session_bounds(day)[0] < end]
        return sorted({name for day in days for name in self.symbols(day)})

    def _with(self, day: Day | None) -> list[Captures]:
        """The captures that have a session date; UsageError when none has."""
        if day is None:
            return self.parts
        found = [part for part in self.parts if any(to_date(day) in part.tree.dates(table) for table in TABLES)]
        if not found:
            self.parts[0]._span(day)
        return found

    def _span(self, day: Day | None) -> tuple[int | None, int | None]:
        return (None, None) if day is None else self._with(day)[0]._span(day)

    def rows(self, day: Day | None = None) -> int:
        """Number of rows of ticks, each message counted once: all are read."""
        span = self._span(day)
        return sum(batch.num_rows for batch in self._ticks(None, *span, "both", ["seq"], "binary", "int"))

    def coverage(self, day: Day | None = None, symbol: str | None = None, *, time: Time = "ns") -> pa.Table:
        """As of one captures directory; feed and number say whose copy is read."""
        self._check(symbol)
        span = self._span(day)
        tables = [part._coverage(symbol, *span) for part in self.parts if symbol is None or self._has(part, symbol)]
        books = sorted({(row["symbol"], row["level"] or "") for one in tables for row in one.to_pylist()})
        rows = [row for name, level in books for row in self._timeline(name, level, *span)]
        if symbol is not None and not rows:
            return times.form(coverage.not_recorded(symbol, *span), time)
        found = pa.Table.from_pylist(rows, coverage.SCHEMA)
        sessions = [None if r["session"] is None else r["session"] + _STRIDE * r["source"] for r in rows]
        at = found.schema.get_field_index("session")
        return times.form(found.set_column(at, "session", pa.array(sessions, pa.int32())), time)

    def gaps(self, day: Day | None = None, symbol: str | None = None, *, time: Time = "ns") -> pa.Table:
        """Gaps of all of them; of a symbol those that no other copy filled, and what all lost where copies change."""
        found = {
            source: part.gaps(day) if symbol is None else part.gaps(day, symbol)
            for source, part in enumerate(self.parts)
            if part in self._with(day) and (symbol is None or self._has(part, symbol))
        }
        if symbol is not None:
            found = self._not_filled(symbol, found)
        tables = [_numbered(rows, source) for source, rows in found.items()]
        return times.form(pa.concat_tables(tables).unify_dictionaries(), time)

    def _not_filled(self, symbol: str, found: dict[int, pa.Table]) -> dict[int, pa.Table]:
        """Gaps of one symbol by source, without those that another copy filled."""
        rows = {source: table.to_pylist() for source, table in found.items()}
        read: list[Piece] = []  # what is read of each copy, from where it is known
        changes = []
        levels = [level for level in schema.LEVELS if self._timeline(symbol, level, None, None)]
        for level in levels or [self._level(symbol, None, None)]:
            pieces = self._pieces(symbol, level, None, None)
            begins, ends = [piece.from_ns for piece in pieces], [piece.to_ns for piece in pieces]
            for i, (piece, following) in enumerate(pairwise(pieces)):
                copies = self._copies(piece.source, piece.copy), self._copies(following.source, following.copy)
                last, begin = seams.find(*copies, symbol, level, piece.to_ns)
                if begin.known_ns is not None:  # it is read from there on, and may itself have lost what came next
                    begins[i + 1] = min(begin.known_ns, begins[i + 1])
                    ends[i] = min(ends[i], last.until_ns + 1)
                elif last.session >= 0 and not seams.same_book(*copies, symbol, level, last, begin):
                    state = coverage.at(copies[0]._coverage(symbol, piece.to_ns, piece.to_ns + 1), piece.to_ns)
                    own = rows.get(piece.source, [])
                    changes.append((piece.source, seams.lost_between(own, state, last, piece.to_ns, begin)))
            spans = zip(pieces, begins, ends, strict=True)
            read += [replace(piece, from_ns=begin_ns, to_ns=end_ns) for piece, begin_ns, end_ns in spans]
        kept = {source: [row for row in own if _in_what_is_read(row, source, read)] for source, own in rows.items()}
        known = [row for own in kept.values() for row in own]
        for source, row in changes:
            if source in kept and not any(seams.touches(one, [(row["opened_ns"], row["closed_ns"])]) for one in known):
                kept[source].append(row | {"symbol": symbol})
        return {source: pa.Table.from_pylist(kept[source], table.schema) for source, table in found.items()}

    def sessions(self, day: Day | None = None, *, time: Time = "ns") -> pa.Table:
        """Logons of all of them."""
        return times.form(self._of_all("sessions", day), time)

    def instruments(self, day: Day | None = None, *, time: Time = "ns") -> pa.Table:
        """Instruments of all of them."""
        return times.form(self._of_all("instruments", day), time)

    def status(self, day: Day | None = None, symbol: str | None = None, *, time: Time = "ns") -> pa.Table:
        """States of all of them."""
        self._check(symbol)
        return times.form(self._of_all("_status", day, symbol), time)

    def _of_all(self, name: str, day: Day | None, *more: Any) -> pa.Table:
        tables = [_numbered(getattr(part, name)(day, *more), self.parts.index(part)) for part in self._with(day)]
        return pa.concat_tables(tables).unify_dictionaries()

    def missing(self, days: list[date] | None = None) -> list[MissingFiles]:
        """Files that are missing in any of them."""
        return [one for part in self.parts for one in part.missing(days)]


def published(captures: Captures) -> Merged:
    """The same captures, of hot pairs what readers saw."""
    return captures if isinstance(captures, Merged) else Merged([captures])


def _in_what_is_read(gap: coverage.Row, source: int, read: list[Piece]) -> bool:
    """Whether a gap lies in a time in which the copy that it is of is read; one of the whole feed is of each copy."""
    of = gap["service"], gap["number"]
    spans = [
        (piece.from_ns, piece.to_ns)
        for piece in read
        if piece.source == source and (piece.copy in (None, of) or None in of)
    ]
    return seams.touches(gap, spans)


def _numbered(rows: Any, source: int) -> Any:
    """`rows` with numbers of sessions that are unique among all captures."""
    at = rows.schema.get_field_index("session")
    if not source or at < 0:
        return rows
    field = rows.schema.field(at)
    return rows.set_column(at, field, pc.add(rows["session"], pa.scalar(_STRIDE * source, field.type)))


def _first_row(found: BookAt, kind: pa.Schema, at: int) -> pa.Table:
    """The row of bbo for a book as it is when its copy begins to be read; none where there is no book."""
    if found.book is None:
        return kind.empty_table()
    scales = found.book.price_precision, found.book.qty_precision
    row: dict[str, Any] = {"recv_ns": at, "session": found.session, "seq": found.seq, "trusted": found.trusted}
    if found.trusted:
        for i, (name, value) in enumerate(zip(("bid", "bid_qty", "ask", "ask_qty"), found.top(), strict=True)):
            row[name] = seams.formed(value, scales[i % 2], kind.field(name).type)
    else:
        row |= {"cause": found.reason, "seq": None}
    return pa.Table.from_pylist([row], kind)
