"""Reads a captures directory by symbol and time: ticks, books, bars, gaps, sessions, instruments and replay."""

import os
from collections.abc import Iterator
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pyarrow.compute import Expression

from kfix_md import display, trading_day
from kfix_md._book import OrderBook
from kfix_md.errors import UsageError
from recorder import blocks, coverage, derive, files, loss, orders, replay, sampled, shape, times, trust
from recorder.compute import pc
from recorder.coverage import Copies
from recorder.layout import TABLES, Tree
from recorder.listing import RecordedListing, Symbols, check_one, names_of
from recorder.loss import Losses
from recorder.missing import MissingFiles
from recorder.moments import Day, Moment, span, to_date, to_ns
from recorder.plot import Plots
from recorder.rebuild import BookAt, Rebuilder
from recorder.replay import MessageBatch, RecordedMessage
from recorder.times import Time

if TYPE_CHECKING:
    from kfix_md._handler import Handler
Price = Literal["int", "float", "decimal"]
Ids = Literal["binary", "text"]
_FOREVER = (1 << 63) - 1


class Captures:
    """A captures directory, open for reading; also while it is being written.

    Times are ints of ns since 1970 UTC, ISO text, datetimes, or times of pandas, numpy or pyarrow; UTC where they have
    no zone. Session dates end at 22:00 UTC.

    Tables are pyarrow Tables: `.to_pandas()` and `polars.from_arrow(...)` convert them.

    Raises
    ------
    UsageError
        By every method, for an argument that is not valid, and when `root` is no captures directory.
    NoSuchSymbol
        By every method that takes a symbol, when it was never recorded.
    CaptureError
        By every method, when a file is damaged; the message names it.
    """

    def __init__(self, root: str | os.PathLike[str] | Tree) -> None:
        self.tree = root if isinstance(root, Tree) else Tree(root)
        self.tree.check()
        self._files = files.Files(self.tree)
        self._rebuild = Rebuilder(self._files)
        self._listing = RecordedListing(self._files)
        self._levels: dict[str | None, str | None] = {}  # by service
        self._sessions_read: tuple[list[Any], pa.Table] | None = None  # names of files, and their rows
        #: `cap.plot.book(symbol, start, end)`, `.bbo`, ...; an attribute, for TAB does not look into a property
        self.plot = Plots(self)

    def __repr__(self) -> str:
        days = self.dates()
        span = f", {days[0]} to {days[-1]}" if days else ""
        return f"<captures {self.tree.root}: {len(days)} session dates{span}>"

    def _repr_html_(self) -> str:
        return display.table(repr(self)[1:-1], *shape.by_date(self))

    def __reduce__(self) -> tuple[type["Captures"], tuple[str | Tree]]:
        """Pickled captures are opened again where they are loaded."""
        return Captures, (self.tree.again(),)

    # ---- contents ----

    def dates(self) -> list[date]:
        """Session dates (days that end at 22:00 UTC) with ticks, in order."""
        return self.tree.dates("ticks")

    def symbols(self, day: Day | None = None) -> list[str]:
        """Symbols with ticks on a session date, or on any."""
        start, end = self._span(day)

        def read() -> set[str]:
            batches = self._batches("ticks", start, end, ["symbol"])
            return {name for batch in batches for name in pc.unique(batch["symbol"]).dictionary_decode().to_pylist()}

        return sorted(files.attempt(read))

    def rows(self, day: Day | None = None) -> int:
        """Number of rows of ticks on a session date (or all), from the footers of the files."""
        start, end = self._span(day)

        def read() -> int:
            paths = self._files.of("ticks", start, None if end is None else end - 1)
            return sum(files.open_file(path).metadata.num_rows for path in paths)

        return files.attempt(read)

    def _span(self, day: Day | None) -> tuple[int | None, int | None]:
        """Limits of a session date; UsageError when nothing was recorded on it."""
        if day is None:
            return None, None
        date = to_date(day)
        if not any(date in self.tree.dates(table) for table in TABLES):
            raise UsageError(f"{self.tree.root} has no session date {date}; {self._listing.dates_text()}")
        return trading_day.session_bounds(date)

    # ---- ticks ----

    def ticks(
        self,
        symbol: Symbols = None,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        level: str | None = None,
        price: Price = "int",
        columns: list[str] | None = None,
        ids: Ids = "binary",
        time: Time = "ns",
    ) -> pa.Table:
        """Rows received in [start, end), in arrival order of each symbol.

        Parameters
        ----------
        symbol
            One symbol, a list, or None for all.
        start, end
            Receive times; None for no limit.
        level
            "L2", "L3" or "both"; None for L2 of a symbol where it was recorded, else L3, and for both without a symbol.
        price
            Form of price and qty: "int" (exact, with price_scale and qty_scale), "decimal" (exact) or "float".
        columns
            Columns to return; None for all, see docs/parquet.md.
        ids
            Form of order_id: "binary" (16 bytes) or "text" as the venue writes it.
        time
            "ns": ints of ns since 1970. "datetime": timestamps in UTC, named recv_time for recv_ns and so on;
            `to_pandas()` makes the time that orders the rows the index. All tables take it.
        """
        self._check(symbol, to_ns(start) if end is None else to_ns(end))

        def read() -> pa.Table:
            found = list(self._ticks(symbol, start, end, level, columns, ids, price))
            if not found or len(names_of(symbol)) > 1:
                self._require(symbol, to_ns(start), to_ns(end))
            whole = pa.Table.from_batches(found).unify_dictionaries() if found else shape.empty(columns, ids)
            return times.form(shape.prices(whole, price, columns), time)

        times.check(time)
        return files.attempt(read)

    def tick_batches(
        self,
        symbol: Symbols = None,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        level: str | None = None,
        price: Price = "int",
        columns: list[str] | None = None,
        ids: Ids = "binary",
        time: Time = "ns",
    ) -> Iterator[pa.RecordBatch]:
        """As `ticks`, a record batch at a time: for days larger than memory. Decimals have each batch's own scale.

        Raises
        ------
        CaptureError
            When compaction replaces the files meanwhile: read again from the start.
        """
        self._check(symbol, to_ns(start) if end is None else to_ns(end))
        found = self._ticks(symbol, start, end, level, columns, ids, price)
        times.form(shape.prices(shape.empty(columns, ids), price, columns), time)  # finds arguments that are not valid

        def converted() -> Iterator[pa.RecordBatch]:
            n = 0
            for batch in found:
                n += batch.num_rows
                yield times.form(shape.prices(batch, price, columns), time)
            if not n or len(names_of(symbol)) > 1:
                self._require(symbol, to_ns(start), to_ns(end))

        return converted()

    def scan(
        self,
        symbol: Symbols = None,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        level: str | None = None,
        price: Literal["int", "float"] = "int",
        columns: list[str] | None = None,
        ids: Ids = "binary",
        time: Time = "ns",
    ) -> pa.RecordBatchReader:
        """As `tick_batches`, for tools that take Arrow streams lazily.

        Such as duckdb.sql("FROM reader"), polars.from_arrow, pyarrow.dataset.write_dataset and reader.read_pandas().
        """
        if price not in ("int", "float"):
            raise UsageError(f'price is {price!r}: scan has "int" and "float"; ticks and tick_batches have decimals')
        found = self.tick_batches(symbol, start, end, level=level, price=price, columns=columns, ids=ids, time=time)
        empty = shape.prices(shape.empty(columns, ids), price, columns).replace_schema_metadata()
        kind = times.form(empty, time).schema
        return pa.RecordBatchReader.from_batches(
            kind, (batch.replace_schema_metadata(kind.metadata) for batch in found)
        )

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
        first, last = span(start, end)
        names = None if symbol is None else names_of(symbol)
        needed = shape.wanted(columns, price != "int", ids)
        paths = self._files.of("ticks", first, last, names)
        where = self._listing.where(level, names, first if last is None else last)
        found = files.batches("ticks", paths, needed, where, symbols=names, start=first, end=last)
        batches = (batch for batch in found if batch.num_rows)
        return (shape.text_ids(batch) for batch in batches) if ids == "text" else batches

    def _batches(
        self, name: str, start: int | None, end: int | None, columns: list[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        return files.batches(name, self._files.of(name, start, end), columns)

    def _table(
        self,
        name: str,
        start: int | None,
        end: int | None,
        columns: list[str] | None = None,
        where: Expression | None = None,
        symbols: list[str] | None = None,
    ) -> pa.Table:
        limits: dict[str, Any] = {"symbols": symbols, "start": start, "end": end}
        return files.attempt(
            lambda: files.table(name, self._files.of(name, start, end, symbols), columns, where, **limits)
        )

    # ---- gaps, sessions, instruments, states ----

    def gaps(self, day: Day | None = None, symbol: str | None = None, *, time: Time = "ns") -> pa.Table:
        """Gaps opened on a session date (or all), one row each in their latest state; see docs/parquet.md.

        With a symbol, a gap of its whole session ends where the book of this symbol was trusted again.
        """
        start, end = self._span(day)
        self._listing.check(symbol, start)
        rows = shape.latest(self._table("gaps", start, end), "gap")
        if symbol is not None:
            self._listing.require(symbol, start, end)
            rows = rows.filter(pc.or_kleene(pc.is_null(rows["symbol"]), pc.equal(rows["symbol"], symbol)))
            numbers = self._sessions_of(symbol, None if start is None else start - trading_day.DAY_NS, end)
            of_symbol = pc.is_in(rows["session"], pa.array(numbers, pa.int32()))
            rows = rows.filter(pc.or_kleene(of_symbol, pc.is_null(rows["session"])))
            rows = self._ended_for(symbol, rows, end)
        return times.form(rows, time)

    def _ended_for(self, symbol: str, gaps: pa.Table, end: int | None) -> pa.Table:
        """`gaps`, those of whole sessions with the end they had for one symbol."""
        if not gaps.num_rows:
            return gaps
        opened, closed = gaps["opened_ns"].to_pylist(), gaps["closed_ns"].to_pylist()
        found = coverage.dark(self._coverage(symbol, min(opened), end))
        of_service: dict[str, list[dict[str, Any]]] = {}
        for row in found:
            of_service.setdefault(row["service"], []).append(row)
        ends = [
            coverage.ends(of_service.get(service, []), opened_ns, closed_ns) if one is None else closed_ns
            for one, service, opened_ns, closed_ns in zip(
                gaps["symbol"].to_pylist(), gaps["service"].to_pylist(), opened, closed, strict=True
            )
        ]
        at = gaps.schema.get_field_index("closed_ns")
        return gaps.set_column(at, gaps.schema.field(at), pa.array(ends, pa.int64()))

    def coverage(self, day: Day | None = None, symbol: str | None = None, *, time: Time = "ns") -> pa.Table:
        """When each book was in which state, as readers of the feed saw it.

        Parameters
        ----------
        day
            A session date; a state that it began with has its `from_ns` there. All when None.
        symbol
            All when None. One that was not recorded then has one untrusted row with cause NOT_RECORDED.

        Returns
        -------
        pyarrow.Table
            symbol, level, service, session, from_ns, to_ns (null: it lasts), state, cause, trusted, feed and number (of
            the copy of a hot pair that was published then).
        """
        span = self._span(day)
        self._listing.check(symbol, span[0])
        found = self._coverage(symbol, *span)
        if symbol is not None and not found.num_rows and not self._files.recorded(symbol, *span):
            found = coverage.not_recorded(symbol, *span)
        return times.form(found, time)

    def _coverage(
        self, symbol: str | None, start: int | None, end: int | None, *, copies: Copies = "published"
    ) -> pa.Table:
        """`coverage` of [start, end): a session date begins with the states of all books (not in older captures)."""
        symbols = None if symbol is None else [symbol]
        status = self._table("status", _date_begin(start), end, coverage.COLUMNS, symbols=symbols)
        if start is not None and not status.num_rows:
            since = _date_begin(start - 2 * trading_day.DAY_NS)
            status = self._table("status", since, end, coverage.COLUMNS, symbols=symbols)
        if unknown := set(pc.unique(status["service"]).to_pylist()) - self._levels.keys():
            since = None if start is None else start - 2 * trading_day.DAY_NS
            found = self._table("sessions", since, end, ["service", "level"]).to_pylist()
            self._levels |= {row["service"]: row["level"] for row in found if row["service"] in unknown}
        levels = {service: level for service, level in self._levels.items() if service and level}
        absent = self._files.missing(["status"], start, end)
        return coverage.intervals(status, levels, start, end, absent, copies)

    def pairs(self, last_dates: int | None = None) -> set[str]:
        """Services of hot pairs: those with sessions of two places in the configuration at one time.

        Parameters
        ----------
        last_dates
            How many of the last session dates are looked at; all when None.
        """
        days = self.tree.dates("sessions")
        rows = self._session_rows(days if last_dates is None else days[-last_dates:]).to_pylist()
        found: set[str] = set()
        reach: dict[tuple[str, int], int] = {}
        for row in sorted((r for r in rows if r["number"] is not None), key=lambda r: r["started_ns"]):
            for (service, number), until in reach.items():
                if service == row["service"] and number != row["number"] and until > row["started_ns"]:
                    found.add(service)
            key = row["service"], row["number"]
            reach[key] = max(reach.get(key, 0), _FOREVER if row["ended_ns"] is None else row["ended_ns"])
        return found

    def _session_rows(self, days: list[date]) -> pa.Table:
        """Sessions of some dates in their latest state; those of a date are read again when it has other files."""
        names = [(day, tuple(self.tree.names("sessions", day))) for day in days]
        if self._sessions_read is None or self._sessions_read[0] != names:
            columns = ["session", "service", "number", "started_ns", "ended_ns"]
            paths = [self.tree.file("sessions", day, name) for day, found in names for name in found]
            rows = files.attempt(lambda: files.table("sessions", paths, columns))
            self._sessions_read = names, shape.latest(rows, "session")
        return self._sessions_read[1]

    def _sessions_of(self, symbol: str, start: int | None, end: int | None) -> list[int]:
        found = self._table("ticks", start, end, ["session"], symbols=[symbol])
        numbers: list[int] = pc.unique(found["session"]).to_pylist()
        return numbers

    def sessions(self, day: Day | None = None, *, time: Time = "ns") -> pa.Table:
        """Logons begun on a session date (or all), one row each in their latest state."""
        start, end = self._span(day)
        return times.form(shape.latest(self._table("sessions", start, end), "session"), time)

    def instruments(self, day: Day | None = None, *, time: Time = "ns") -> pa.Table:
        """Instruments as known when a session date began and changes during it (or all rows)."""
        start, end = self._span(day)
        return times.form(self._table("instruments", start, None if end is None else end - 1), time)

    def status(self, day: Day | None = None, symbol: str | None = None, *, time: Time = "ns") -> pa.Table:
        """States of books, instruments, trading sessions and the feed, on a session date or all."""
        self._check(symbol, self._span(day)[0])
        return times.form(self._status(day, symbol), time)

    def _status(self, day: Day | None, symbol: str | None) -> pa.Table:
        return self._table("status", *self._span(day), symbols=None if symbol is None else [symbol])

    # ---- books ----

    def book(self, symbol: str, at: Moment, depth: int = 10, *, level: str | None = None) -> BookAt:
        """The book of a symbol after the last message received at or before a time.

        Parameters
        ----------
        at
            Receive time.
        depth
            Levels of `bids` and `asks` in the result.
        level
            "L2" or "L3"; None for L2 where it was recorded, else L3.

        Returns
        -------
        BookAt
            `trusted` is False, with a `reason`, wherever the book is not proven, such as inside a gap.
        """
        moment = to_ns(at)
        if moment is None:  # a caller without type checks
            raise UsageError("book needs a time: at=ns, ISO text or datetime")
        self._listing.check(symbol, moment)
        level = self._listing.level(symbol, moment, level)
        book, found = files.attempt(lambda: self._rebuild.book(symbol, level, moment))
        if book is None:
            reason = f"{'no snapshot' if found.seen else 'nothing'} was received before this time"
        else:
            start = trading_day.session_bounds(trading_day.session_date(moment))[0] - 2 * trading_day.DAY_NS
            gaps, sessions = (self._table(name, start, moment + 1) for name in ("gaps", "sessions"))
            states = self._coverage(symbol, moment, moment + 1)
            losses = self._losses(moment, moment + 1)
            reason = trust.why_not(symbol, moment, found, losses, gaps, sessions, states) or self._beyond(moment)
        return BookAt(
            symbol, found.level, moment, found.recv_ns, found.session, found.seq, not reason, reason, book, depth
        )

    def latest_book(self, symbol: str, level: int, session: int, end: int | None = None) -> OrderBook | None:
        """The book after everything recorded of one session up to `end` ns (or ever).

        Parameters
        ----------
        level
            2 or 3.

        Returns
        -------
        Book or None
            A live book object; None when there is no snapshot of it or messages of it are missing.
        """
        start, last = trading_day.session_bounds((self.tree.dates("ticks") or [trading_day.session_date(0)])[-1])
        start, end = (start, last) if end is None else (end, end)
        book, found = files.attempt(lambda: self._rebuild.book(symbol, f"L{level}", end, session))
        return None if self._losses(start, end).between(found.base_ns, end, session) else book

    def _losses(self, start: int | None, end: int | None) -> Losses:
        """Losses that may concern books between two times: a checkpoint may be two dates old."""
        since = None if start is None else start - 2 * trading_day.DAY_NS
        return Losses(self._table("gaps", since, end), self._files.missing(loss.WATCHED, since, end))

    def _beyond(self, moment: int) -> str:
        """Why nothing is known of a time after the last record; empty before it."""
        until = self._files.recorded_until()
        return f"it is not recorded yet: the captures end at {until}" if moment > until else ""

    def _check(self, symbol: Symbols, at: int | None = None) -> None:
        """NoSuchSymbol unless every symbol was listed, see RecordedListing.check."""
        self._listing.check(symbol, at)

    def _require(self, symbol: Symbols, start: int | None, end: int | None) -> None:
        """NoSuchSymbol unless every symbol was recorded then, see RecordedListing.require."""
        self._listing.require(symbol, start, end)

    def _reader(self, begin: int, end: int, symbols: list[str] | None, columns: list[str]) -> Any:
        """What blocks of messages are made of, see recorder.blocks."""
        return blocks.RowReader(self._files, begin, end, symbols, columns)

    def missing(self, days: list[date] | None = None) -> list[MissingFiles]:
        """Files that were recorded and are no longer there, as their names show; empty when captures are complete.

        Parameters
        ----------
        days
            Session dates to look at, in order, and those next to them; all when None.
        """
        if days is not None and not days:
            return []
        return self._files.complete.missing(days=(days[0], days[-1]) if days else None)

    # ---- derived ----

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
        """Trades in bars of equal length; bars without a trade are left out. L3 services carry no trades.

        Parameters
        ----------
        every
            Length of a bar: "250ms", "1s", "5m", "1h", or ns.

        Returns
        -------
        pyarrow.Table
            time_ns (start of the bar), open, high, low, close, volume, buy_volume, trades.
        """
        check_one(symbol)
        first, last = span(start, end)
        self._listing.check(symbol, first if last is None else last)
        is_trade = pc.field("side") == "trade"
        rows = self._table("ticks", first, last, derive.TRADE_COLUMNS, is_trade, symbols=[symbol])
        if not rows.num_rows:
            self._listing.require(symbol, first, last)
        return times.form(derive.bars(rows, derive.duration(every), price), time)

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
        """Best bid and offer after every message that changed one.

        Returns
        -------
        pyarrow.Table
            recv_ns, session, seq, bid, bid_qty, ask, ask_qty, trusted, cause. A missing side is null. Where trust ends
            there is a row without prices and seq, with the book's state and its cause in `cause`, so that no join or
            forward fill carries a price into an outage; where it begins again without a message there is a row with the
            prices of the last one.
        """
        moment = to_ns(start) if end is None else to_ns(end)
        self._listing.check(symbol, moment)
        level = self._listing.level(symbol, moment, level)
        first, last = span(start, end)
        best = files.attempt(lambda: derive.bbo(self, symbol, first, last, level, price))
        if not best.num_rows:
            self._listing.require(symbol, to_ns(start), to_ns(end))
        return times.form(best, time)

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
        """The best levels of books at every step of time, or after every message.

        Parameters
        ----------
        symbol
            One symbol or a list; of several, the rows of each come together.
        start, end
            Times of the first sample and of the end, which is not sampled; None for all that was recorded.
        every
            Time between samples, at its whole multiples since 1970: "10ms", "1s", or ns; "event" for one after each
            message.
        levels
            Levels of a side, 1 to 1,000.
        level
            "L2" or "L3"; None for L2 where it was recorded, else L3.
        price
            Form of prices and quantities: "float", "int" (exact, with price_scale and qty_scale) or "decimal" (exact).

        Returns
        -------
        pyarrow.Table
            time_ns, symbol, session, recv_ns and seq (of the last message before), bid_px_0, bid_qty_0, ...,
            ask_px_0, ask_qty_0, ..., trusted, cause. Levels that are not there are null, and all of them while readers
            of the feed did not trust the book; `cause` is why a sample is not trusted.
        """
        times.check(time)
        tables = []
        for name in names_of(symbol):
            wanted = self._sampling(name, start, end, every, levels, level, price)
            tables += files.attempt(partial(sampled.tables, self, wanted))
        if not tables:
            return pa.table({})
        return times.form(pa.concat_tables(tables, promote_options="permissive").unify_dictionaries(), time)

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
        """As `depth`, a record batch at a time: for days larger than memory. Decimals have each batch's own scale.

        Raises
        ------
        CaptureError
            When compaction replaces the files meanwhile: read again from the start.
        """
        times.check(time)
        wanted = [self._sampling(name, start, end, every, levels, level, price) for name in names_of(symbol)]

        def found() -> Iterator[pa.RecordBatch]:
            for one in wanted:
                yield from (times.form(batch, time) for batch in sampled.batches(self, one))

        return found()

    # ---- orders ----

    def order(
        self,
        order_id: str,
        symbol: str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        price: Price = "float",
    ) -> pa.Table:
        """The life of one order of an L3 book: a row for each of its changes, and for each of the queue ahead of it.

        Parameters
        ----------
        order_id
            278 as the venue writes it.
        start, end
            Receive times to look for it in; None for all that was recorded.
        price
            Form of numbers: "float", "int" (exact, with price_scale and qty_scale) or "decimal" (exact).

        Returns
        -------
        pyarrow.Table
            time_ns, session, seq, event, side, price, qty, orders_ahead, qty_ahead (before it at its price), trusted,
            cause. `event` is added, snapshot (first seen, or seen again, in one), reduced (less at the same place: by a
            fill or by its owner, which L3 does not tell apart), changed, queue (only what is ahead of it changed),
            deleted (cancelled or filled), left (the subscribed depth), gone (not in a later snapshot), or untrusted: a
            row without numbers where trust ends while it rests, with why in `cause`.

        Raises
        ------
        UsageError
            It is not in the recorded books of the symbol.
        """
        self._listing.check(symbol)
        first, last = span(start, end)
        return files.attempt(lambda: orders.life(self, order_id, symbol, first, last, price))

    def orders(
        self, symbol: str, start: Moment | None = None, end: Moment | None = None, *, price: Price = "float"
    ) -> pa.Table:
        """The orders of an L3 book that were added, changed or deleted in a time, one row each, by first appearance.

        Returns
        -------
        pyarrow.Table
            order_id (text), side, session, first_ns and last_ns (receive times; last: of its end, or of the last row of
            the symbol), resting_ns (from 5273, else first_ns), rows, price_first, price_last, qty_first, qty_last
            (before its end), qty_reduced (sum of reductions at an unchanged price: fills, and what its owner took
            away), ended: deleted, left, gone (not in a later snapshot) or resting.

        Raises
        ------
        UsageError
            The symbol has no orders in this time.
        """
        self._listing.check(symbol)
        first, last = span(start, end)
        return files.attempt(lambda: orders.lives(self, symbol, first, last, price))

    def _sampling(
        self,
        symbol: str,
        start: Moment | None,
        end: Moment | None,
        every: str | int | timedelta,
        levels: int,
        level: str | None,
        price: str,
    ) -> sampled.Wanted:
        first, last = span(start, end)
        moment = first if last is None else last
        self._listing.check(symbol, moment)
        self._listing.require(symbol, first, last)
        level = self._listing.level(symbol, moment, level)
        return sampled.Wanted(symbol, level, first, last, sampled.step_of(every), levels, price)

    def replay(
        self,
        day: Day,
        speed: float | None = None,
        *,
        symbols: Symbols = None,
        handler: "Handler | None" = None,
    ) -> Iterator[RecordedMessage]:
        """Messages of a session date in the order they were applied.

        Parameters
        ----------
        speed
            None as fast as they are taken, 1.0 as received, 10.0 ten times faster.
        symbols
            One symbol, a list, or None for all.
        handler
            Given, each message goes through it before it is returned: the same books as live, and 5041 is checked.
            Messages of another level than the handler's book of their symbol are left out of it.
        """
        self._check(symbols)
        self._span(day)
        if speed is not None and not speed > 0:
            raise UsageError(f"speed {speed!r}: a factor above 0, or None for as fast as possible")
        return replay.replay(self, to_date(day), speed, None if symbols is None else names_of(symbols), handler)

    def replay_batches(
        self,
        day: Day,
        *,
        symbols: Symbols = None,
        handler: "Handler | None" = None,
        every: str | int | timedelta | None = None,
    ) -> Iterator[MessageBatch]:
        """As `replay`, many messages at a time: as fast as back-tests need it.

        Parameters
        ----------
        every
            Length of a step: "10ms", "1s", or ns. After each step, also one without messages, there is a batch with
            what was received in it, and the handler's books are those of its end. None: batches of many messages.
        """
        self._check(symbols)
        self._span(day)
        step = None if every is None else derive.duration(every)
        return replay.batches(self, to_date(day), None if symbols is None else names_of(symbols), handler, step)


def _date_begin(moment: int | None) -> int | None:
    """Start of the session date of a time."""
    return None if moment is None else trading_day.session_bounds(trading_day.session_date(moment))[0]
