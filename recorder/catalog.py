"""What researchers hold: hides files, sessions and integer prices behind symbols and times."""

import os
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from kfix_md import trading_day
from kfix_md._book import Book
from kfix_md.errors import CaptureError, NoSuchSymbol, UsageError
from recorder import files, rebuild, schema, shape
from recorder.layout import Tree, to_date, to_ns
from recorder.loss import Losses
from recorder.rebuild import BookAt, Rebuilder

Moment = int | str | datetime | date | None
Price = Literal["int", "float", "decimal"]


class Captures:
    """A captures directory, open for reading. Times are ns since 1970 UTC, ISO text (UTC) or datetimes.

    Tables are pyarrow Tables: `.to_pandas()`, `polars.from_arrow(...)` are one call away. Errors: UsageError for
    words that cannot be, NoSuchSymbol, CaptureError for a damaged file (its name in the message).
    """

    def __init__(self, root: str | os.PathLike):
        self.tree = Tree(root)
        self.tree.check()
        self._files = files.Files(self.tree)
        self._rebuild = Rebuilder(self._files)
        self._day_levels: dict[date, tuple[int, set[tuple[str, str | None]]]] = {}

    def __repr__(self) -> str:
        days = self.dates()
        span = f", {days[0]} to {days[-1]}" if days else ""
        return f"<captures {self.tree.root}: {len(days)} session dates{span}>"

    # ---- what is there ----

    def dates(self) -> list[date]:
        """Session dates (days that end at 22:00 UTC) with ticks."""
        return self.tree.dates("ticks")

    def symbols(self, day: "date | str | None" = None) -> list[str]:
        """Symbols with ticks on a session date, or ever."""
        start, end = self._span(day)
        found: set[str] = set()
        for batch in self._batches("ticks", start, end, ["symbol"]):
            found.update(pc.unique(batch["symbol"]).dictionary_decode().to_pylist())
        return sorted(found)

    def _span(self, day: "date | str | None") -> tuple[int | None, int | None]:
        return (None, None) if day is None else trading_day.session_bounds(to_date(day))

    # ---- ticks ----

    def ticks(
        self,
        symbol: "str | list[str] | None" = None,
        start: Moment = None,
        end: Moment = None,
        *,
        level: str | None = None,
        price: Price = "int",
        columns: list[str] | None = None,
        ids: Literal["binary", "text"] = "binary",
    ) -> pa.Table:
        """Rows received in [start, end), in arrival order of each symbol; see docs/parquet.md for the columns.

        price: "int" (exact, with price_scale and qty_scale), "decimal" (exact) or "float". ids="text": order ids as
        the venue writes them.
        """
        self._known(symbol, to_ns(start) if end is None else to_ns(end))

        def read() -> pa.Table:
            found = list(self._ticks(symbol, start, end, level, columns, ids, price))
            whole = pa.Table.from_batches(found).unify_dictionaries() if found else shape.empty(columns, ids)
            return shape.prices(whole, price, columns)

        return files.attempt(read)

    def tick_batches(
        self,
        symbol: "str | list[str] | None" = None,
        start: Moment = None,
        end: Moment = None,
        *,
        level: str | None = None,
        price: Price = "int",
        columns: list[str] | None = None,
        ids: Literal["binary", "text"] = "binary",
    ) -> Iterator[pa.RecordBatch]:
        """As `ticks`, a record batch at a time: for days larger than memory. Decimals have each batch's own scale.

        CaptureError when compaction replaces the files meanwhile: begin again.
        """
        self._known(symbol, to_ns(start) if end is None else to_ns(end))
        found = self._ticks(symbol, start, end, level, columns, ids, price)
        shape.prices(shape.empty(columns, ids), price, columns)  # words that cannot be are said now

        def give() -> Iterator[pa.RecordBatch]:
            try:
                for batch in found:
                    yield shape.prices(batch, price, columns)
            except files.Vanished as gone:
                raise CaptureError(f"{gone} was compacted while it was read: read again from the start") from None

        return give()

    def scan(
        self,
        symbol: "str | list[str] | None" = None,
        start: Moment = None,
        end: Moment = None,
        *,
        level: str | None = None,
        price: Literal["int", "float"] = "int",
        columns: list[str] | None = None,
        ids: Literal["binary", "text"] = "binary",
    ) -> pa.RecordBatchReader:
        """As `tick_batches`, for tools that take Arrow streams lazily: duckdb.sql("FROM reader"), polars.from_arrow,
        pyarrow.dataset.write_dataset, reader.read_pandas()."""
        if price not in ("int", "float"):
            raise UsageError(f'price is {price!r}: scan has "int" and "float"; ticks and tick_batches have decimals')
        found = self.tick_batches(symbol, start, end, level=level, price=price, columns=columns, ids=ids)
        kind = shape.prices(shape.empty(columns, ids), price, columns).schema.remove_metadata()
        return pa.RecordBatchReader.from_batches(kind, (batch.replace_schema_metadata() for batch in found))

    def _ticks(
        self,
        symbol: Any,
        start: Moment,
        end: Moment,
        level: str | None,
        columns: list[str] | None,
        ids: str,
        price: Price,
    ) -> Iterator[pa.RecordBatch]:
        first, last = to_ns(start), to_ns(end)
        wanted = shape.wanted(columns, price != "int", ids)
        names = [symbol] if isinstance(symbol, str) else symbol
        found = files.batches(
            "ticks",
            self._files.of("ticks", first, last, names),
            wanted,
            self._where(level),
            symbols=names,
            start=first,
            end=last,
        )
        batches = (batch for batch in found if batch.num_rows)
        return (shape.text_ids(batch) for batch in batches) if ids == "text" else batches

    @staticmethod
    def _where(level: str | None) -> pc.Expression | None:
        if level is not None and level not in schema.LEVELS:
            raise UsageError(f'level is {level!r}: use "L2" or "L3"')
        return None if level is None else pc.field("level") == level

    def _known(self, symbol: "str | list[str] | None", at: int | None = None) -> None:
        """NoSuchSymbol unless the instruments tell of it: those of the date of `at` (the last), else those of any."""
        for name in [] if symbol is None else [symbol] if isinstance(symbol, str) else symbol:
            if name in self._listed(at):
                continue
            listed = self._levels_of(self.tree.dates("instruments"))
            if listed and name not in listed:
                import difflib

                near = ", ".join(difflib.get_close_matches(name, listed, 3, 0.4))
                raise NoSuchSymbol(f"no {name} in {self.tree.root}" + (f"; near: {near}" if near else ""))

    def _listed(self, at: int | None) -> dict[str, set[str]]:
        """Levels by symbol, as known on the session date of `at`: every date tells all anew (see docs/parquet.md)."""
        days = self.tree.dates("instruments")
        return self._levels_of([d for d in days if at is None or d <= trading_day.session_date(at)][-1:] or days[:1])

    def _levels_of(self, days: list[date]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for day in days:
            stamp = len(self.tree.files("instruments", day))
            known = self._day_levels.get(day)
            if known is None or known[0] != stamp:
                rows = self._table("instruments", *trading_day.session_bounds(day), ["symbol", "level"])
                pairs = zip(rows["symbol"].to_pylist(), rows["level"].to_pylist(), strict=True)
                known = self._day_levels[day] = (stamp, set(pairs))
            for symbol, level in known[1]:
                found.setdefault(symbol, set()).update([level] if level else [])
        return found

    def _level(self, symbol: str, at: int | None = None) -> str | None:
        """L2 where it was recorded, else the level that was."""
        levels = self._listed(at).get(symbol) or self._levels_of(self.tree.dates("instruments")).get(symbol, set())
        return min(levels, default=None)

    def _batches(
        self,
        name: str,
        start: int | None,
        end: int | None,
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
    ) -> Iterator[pa.RecordBatch]:
        return files.batches(name, self._files.of(name, start, end), columns, where)

    def _table(
        self,
        name: str,
        start: int | None,
        end: int | None,
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
        symbols: list[str] | None = None,
    ) -> pa.Table:
        return files.attempt(
            lambda: files.table(
                name, self._files.of(name, start, end, symbols), columns, where, symbols=symbols, start=start, end=end
            )
        )

    # ---- what is missing, and what was said ----

    def gaps(self, day: "date | str | None" = None, symbol: str | None = None) -> pa.Table:
        """Gaps opened on a session date (all): one row each, as it stands now; see docs/parquet.md."""
        start, end = self._span(day)
        rows = shape.latest(self._table("gaps", start, end), "gap")
        if symbol is not None:
            rows = rows.filter(pc.or_kleene(pc.is_null(rows["symbol"]), pc.equal(rows["symbol"], symbol)))
            number = self._sessions_of(symbol, None if start is None else start - trading_day.DAY_NS, end)
            alike = pc.is_in(rows["session"], pa.array(number, pa.int32()))
            rows = rows.filter(pc.or_kleene(alike, pc.is_null(rows["session"])))
        return rows

    def _sessions_of(self, symbol: str, start: int | None, end: int | None) -> list[int]:
        found = self._table("ticks", start, end, ["session"], symbols=[symbol])
        return pc.unique(found["session"]).to_pylist()

    def sessions(self, day: "date | str | None" = None) -> pa.Table:
        """Logons begun on a session date (all): one row each, as it stands now."""
        start, end = self._span(day)
        return shape.latest(self._table("sessions", start, end), "session")

    def instruments(self, day: "date | str | None" = None) -> pa.Table:
        """Instruments as they stood when a session date began, and what became known on it (all there ever was)."""
        start, end = self._span(day)
        return self._table("instruments", start, None if end is None else end - 1)

    def status(self, day: "date | str | None" = None, symbol: str | None = None) -> pa.Table:
        """States of books, instruments, trading sessions and the feed."""
        start, end = self._span(day)
        return self._table("status", start, end, symbols=None if symbol is None else [symbol])

    # ---- books ----

    def book(self, symbol: str, at: Moment, depth: int = 10, *, level: str | None = None) -> BookAt:
        """The book of a symbol behind the last message received at or before `at`.

        level: "L2" (the default where it was recorded) or "L3".
        `.trusted` and `.reason` say whether it is proven there: never across a gap that was not healed.
        """
        moment = to_ns(at)
        if moment is None:
            raise UsageError("book needs a time: at=ns, ISO text or datetime")
        self._known(symbol, moment)
        level = level or self._level(symbol, moment)
        book, told = files.attempt(lambda: self._rebuild.book(symbol, level, moment))
        reason = self._doubt(symbol, moment, book, told)
        return BookAt(
            symbol,
            told["level"],
            moment,
            told["recv_ns"],
            told["session"],
            told["seq"],
            not reason,
            reason,
            book,
            depth,
        )

    def _doubt(self, symbol: str, at: int, book: Book | None, told: dict) -> str:
        if book is None:
            what = "no snapshot" if told["seen"] else "nothing"
            return f"{what} was received before this time"
        start = trading_day.session_bounds(trading_day.session_date(at))[0] - 2 * trading_day.DAY_NS
        rows = shape.latest(self._table("gaps", start, at + 1), "gap")
        lost = Losses(rows).between(told["base_ns"], at, told["session"])
        if lost:
            return lost
        for row in rows.to_pylist():
            if row["session"] not in (None, told["session"]) or row["symbol"] not in (None, symbol):
                continue
            if row["opened_ns"] <= at and (row["closed_ns"] is None or row["closed_ns"] > at):
                return f"inside a gap ({row['cause']}), open since {row['opened_ns']}" + (
                    f", healed by {row['healed']} at {row['closed_ns']}" if row["closed_ns"] else ""
                )
        for row in shape.latest(self._table("sessions", start, at + 1), "session").to_pylist():
            if row["session"] == told["session"] and row["ended_ns"] is not None and row["ended_ns"] <= at:
                return f"its session had ended at {row['ended_ns']} ({row['reason']})"
        return rebuild.doubt(told["flags"])

    def latest_book(self, symbol: str, level: int, session: int, end: int | None = None) -> Book | None:
        """The live book object behind everything recorded of a session (up to `end`, ns); None when messages of it are
        missing."""
        start, last = trading_day.session_bounds((self.tree.dates("ticks") or [trading_day.session_date(0)])[-1])
        start, end = (start, last) if end is None else (end, end)
        book, told = files.attempt(lambda: self._rebuild.book(symbol, f"L{level}", end, session))
        return None if self._losses(start, end).between(told["base_ns"], end, session) else book

    def _losses(self, start: int | None, end: int | None) -> Losses:
        """Losses that may matter to books between two times: a checkpoint may be as old as two dates."""
        return Losses(self._table("gaps", None if start is None else start - 2 * trading_day.DAY_NS, end))

    # ---- derived ----

    def bars(
        self,
        symbol: str,
        every: "str | int" = "1s",
        start: Moment = None,
        end: Moment = None,
        *,
        price: Price = "float",
    ) -> pa.Table:
        """Trades in bars of `every` ("1s", "5m", "1h", ns): time_ns (start), open, high, low, close, volume,
        buy_volume, trades. Bars without a trade are not there. L3 services carry no trades."""
        from recorder import derive

        first, last = to_ns(start), to_ns(end)
        self._known(symbol, first if last is None else last)
        is_trade = pc.field("side") == "trade"
        rows = self._table("ticks", first, last, derive.TRADE_COLUMNS, is_trade, symbols=[symbol])
        return derive.bars(rows, derive.duration(every), price)

    def bbo(
        self, symbol: str, start: Moment = None, end: Moment = None, *, level: str | None = None, price: Price = "float"
    ) -> pa.Table:
        """Best bid and offer at every message that changed one: recv_ns, seq, bid, bid_qty, ask, ask_qty, trusted.

        Starts with the book as it was at `start`. A missing side is null.
        """
        from recorder import derive

        moment = to_ns(start) if end is None else to_ns(end)
        self._known(symbol, moment)
        level = level or self._level(symbol, moment)
        return files.attempt(lambda: derive.bbo(self, symbol, to_ns(start), to_ns(end), level, price))

    def replay(
        self, day: "date | str", speed: float | None = None, *, symbols: list[str] | None = None, handler: Any = None
    ):
        """Messages of a session date in the order they were applied; see recorder.replay.Message.

        speed: None as fast as they are taken, 1.0 as received, 10.0 ten times faster. With `handler` (a
        kfix_md.Handler) each message goes through it before it is given: the same decoder and books as live.
        """
        from recorder.replay import replay

        return replay(self, to_date(day), speed, symbols, handler)

    def rows(self, day: "date | str | None" = None) -> int:
        """Rows of ticks on a session date (ever), from the files' footers."""
        start, end = self._span(day)
        return sum(
            files.open_file(f).metadata.num_rows
            for f in self._files.of("ticks", start, None if day is None else end - 1)
        )
