"""Reads a session date in the order in which its messages were applied, a block of messages at a time."""

from bisect import bisect_left
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from kfix_md import trading_day
from kfix_md._recorded import Recorded
from recorder import _columns, derive, files, rebuild, schema
from recorder.schema import Flags

if TYPE_CHECKING:
    from kfix_md._handler import Handler
    from recorder.catalog import Captures

T = TypeVar("T")
#: all that a message is made of
COLUMNS = [*derive.BOOK_COLUMNS, "symbol", "entry_no", "aggressor", "ord_type"]
#: what books are made of, with exchange times as they are stored; of L2, where orders have neither ids nor places, less
BOOKS = [*schema.stored("ticks", derive.BOOK_COLUMNS), "symbol", "aggressor", "ord_type"]
_ROWS = 1 << 18  # of a block, about: what is in memory at a time is some blocks
_FIRST_ROWS = 1 << 14  # of the first, which somebody waits for; each block after it has four times as many
_FIRST_PIECES = 8  # row groups that are opened for the first block, one for each symbol; as many times more later
_KEPT_ROWS = 24 << 20  # of row groups that stay open, with some ten bytes a row; what is beyond is read again
_DECODED = 10  # times as many bytes a row that was decoded has
_BATCH_ROWS = 1 << 10, 1 << 14  # decoded of a row group at a time, at least and at most: so many of each are kept
_WINDOWS = 8  # of blocks whose rows of a row group are decoded at a time, about: each time costs as much as 1000 rows


class Instrument(NamedTuple):
    """What messages of one kind have in common: a book of a symbol, its scales and the depth (264) of its session."""

    symbol: str
    level: str
    price_scale: int
    qty_scale: int
    depth: int


@dataclass
class Block:
    """Messages of a session date, in the order of application; arrays are by message.

    Attributes
    ----------
    rows
        Their ticks in the order of the files: those of message i are rows[starts[i]:ends[i]].
    entries
        The same as ENTRY_DTYPE.
    time
        When each was applied: its receive time, or that of a later one which it was applied after. It does not fall.
    instruments, instrument
        Each message's is instruments[instrument[i]].
    """

    rows: pa.Table
    entries: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    time: np.ndarray
    recv_ns: np.ndarray
    session: np.ndarray
    seq: np.ndarray
    flags: np.ndarray
    instrument: np.ndarray
    instruments: list[Instrument]

    def __len__(self) -> int:
        return len(self.time)

    @cached_property
    def messages(self) -> Recorded:
        """What Handler.apply takes."""
        levels = np.array([rebuild.number_of(one.level) for one in self.instruments] or [0], np.uint8)
        crc = schema.stored_values(self.rows["crc"], np.int64)
        return Recorded(
            self.entries,
            starts=self.starts,
            ends=self.ends,
            seqs=self.seq,
            times=self.recv_ns,
            instrument=self.instrument,
            flags=self.flags,
            crcs=crc[self.ends - 1],
            levels=levels[self.instrument],
        )

    @cached_property
    def parts(self) -> list[tuple[int, int]]:
        """Ranges of messages in which each book has one instrument: one range, but where a precision changes."""
        books = {one[:2]: number for number, one in enumerate(self.instruments)}
        if len(books) == len(self.instruments):
            return [(0, len(self))]
        book = np.array([books[one[:2]] for one in self.instruments])[self.instrument]
        order = np.argsort(book, kind="stable")
        changed = (np.diff(self.instrument[order]) != 0) & (np.diff(book[order]) == 0)
        edges = sorted({0, len(self), *order[1:][changed].tolist()})
        return list(pairwise(edges))


class Applier:
    """Brings the messages of blocks to the books of a Handler."""

    def __init__(self, handler: "Handler") -> None:
        self.handler = handler
        self._known: dict[str, Instrument] = {}

    def rows(self, block: Block, first: int, end: int) -> np.ndarray:
        """Rows for Handler.apply of [first, end), one of `block.parts`: its instruments are made known.

        Returns
        -------
        ndarray of int32
            By instrument; -1 where it is a book of another level.
        """
        rows = np.full(len(block.instruments), -1, np.int32)
        for number in np.unique(block.instrument[first:end]).tolist():
            rows[number] = self.define(block.instruments[number])
        return rows

    def define(self, one: Instrument) -> int:
        """Row of an instrument that is made known; -1 when the handler keeps another book of its symbol."""
        if self.handler.books.level not in (0, rebuild.number_of(one.level)):
            return -1
        known = self._known.get(one.symbol)
        if known is not None and known.level != one.level:
            return -1
        row = self.handler.define(one.symbol, one.price_scale, one.qty_scale)
        if known is None or known.depth != one.depth:
            self.handler.books.set_depth(one.symbol, one.depth)
        self._known[one.symbol] = one
        return row


def blocks(
    captures: "Captures",
    day: date,
    symbols: list[str] | None,
    start: int | None = None,
    columns: list[str] = BOOKS,
) -> Iterator[Block]:
    """The messages of a session date received from `start` on, made by two threads: one decodes rows, one orders them.

    Each is one block ahead at most, and both end with the iterator. `columns` is BOOKS, or COLUMNS where more than
    books is made of the rows.
    """
    begin, end = trading_day.session_bounds(day)
    begin = begin if start is None else max(begin, start)
    rows = captures._table("sessions", None, end, ["session", "depth"])
    depths = dict(zip(rows["session"].to_pylist(), rows["depth"].to_pylist(), strict=True))
    reader = captures._reader(begin, end, symbols, columns)
    tables = ((reader.rows(a, b), b == end) for a, b in windows(reader.pieces, begin, end))
    return _ahead(_ordered(_ahead(tables), depths))


def _ahead(found: Generator[T]) -> Generator[T]:
    """The same, where a thread makes the next one while the last is used."""
    with closing(found), ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, found, None)
        while (one := coming.result()) is not None:
            coming = pool.submit(next, found, None)
            yield one


def _ordered(tables: Generator[tuple[pa.Table, bool]], depths: dict[int, int | None]) -> Generator[Block]:
    """Blocks of tables that follow one another, each with whether it is the last."""
    carried: pa.Table | None = None
    reached = 0  # ns: no block is applied before the one before it
    with closing(tables):
        for found, last in tables:
            parts = [found] if carried is None else [carried, found]
            rows = pa.concat_tables(parts, promote_options="default")
            if rows.num_rows:
                block, carried = in_order(rows, depths, last)
                if len(block):
                    block.time = np.maximum(block.time, reached)
                    reached = int(block.time[-1])
                yield block


def windows(found: list[files.Piece], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans of receive time of [begin, end) with about as many rows as a block may have.

    The rows of a row group are taken to be spread evenly over its time: nothing is read for this. The first blocks
    reach into a few row groups, however many symbols a day has.
    """
    first = np.array([max(one.span[0], begin) for one in found] or [begin], float)
    last = np.array([min(one.span[1], end) for one in found] or [end], float)
    rows = np.array([one.rows for one in found] or [0], float)
    begins = sorted(max(one.span[0], begin) for one in found)

    def before(moment: float) -> float:
        return float((rows * np.clip((moment - first + 1) / (last - first + 1), 0, 1)).sum())

    at, size, few = begin, _FIRST_ROWS, _FIRST_PIECES
    while at < end:
        wanted = before(at) + min(size, _ROWS)
        low, high = at + 1, _opening(begins, at, few, end) if size < _ROWS else end
        while low < high:
            middle = (low + high) // 2
            if before(middle) >= wanted:
                high = middle
            else:
                low = middle + 1
        yield at, low
        at, size, few = low, 4 * size, 4 * few


def _opening(begins: list[int], at: int, few: int, end: int) -> int:
    """Until when at most `few` row groups begin from `at` on; `end` where more begin at once, as in a day's middle."""
    place = bisect_left(begins, at) + few
    return begins[place] if place < len(begins) and at < begins[place] < end else end


class RowReader:
    """Reads the row groups of some time from their beginning to their end, as windows of time are asked for in order.

    Those that reach into later windows stay open, up to _KEPT_ROWS of them.
    """

    def __init__(self, found: files.Files, begin: int, end: int, symbols: list[str] | None, columns: list[str]) -> None:
        self._files, self._span, self._symbols, self._columns = found, (begin, end), symbols, columns
        self.pieces = files.attempt(self._list)

    def _list(self) -> list[files.Piece]:
        self._sources: dict[files.Piece, _Source] = {}
        self._open_rows = 0
        paths = self._files.of("ticks", *self._span, self._symbols)
        return files.pieces(self._files, paths, self._symbols)

    def rows(self, start: int, end: int) -> pa.Table:
        """Rows received in [start, end), in the order of the files; also while compaction replaces them.

        A row that a clock which was set back made earlier than one before it comes with that one.
        """

        def read() -> pa.Table:
            try:
                return self._rows(start, end)
            except files.Vanished:
                self.pieces = files.attempt(self._list)
                raise

        return files.attempt(read)

    def _rows(self, start: int, end: int) -> pa.Table:
        parts: list[pa.RecordBatch] = []
        for piece in self.pieces:
            if piece.span[0] < end and piece.span[1] >= start:
                source = self._sources.get(piece) or self._begun(piece, start)
                self._open_rows -= source.open_rows
                parts += source.before(end, _expected(piece, start, end))
                if self._open_rows + source.open_rows > _KEPT_ROWS:
                    source.close()
                self._open_rows += source.open_rows
        if not parts:
            return files.table("ticks", [], self._columns)
        return joined(parts)

    def _begun(self, piece: files.Piece, start: int) -> "_Source":
        columns = self._columns
        if columns == BOOKS and files.levels(piece.path, piece.group) == {"L2"}:
            columns = [name for name in columns if name not in schema.OF_ORDERS]
        source = self._sources[piece] = _Source(piece, columns, self._symbols)
        if piece.span[0] < start:
            source.before(start, _BATCH_ROWS[1])
        self._open_rows += source.open_rows
        return source


def _expected(piece: files.Piece, start: int, end: int) -> int:
    """How many rows of a row group to decode at a time: those of some windows like this one, about."""
    first, last = piece.span
    share = (min(end, last + 1) - max(start, first)) / (last + 1 - first)
    return max(_BATCH_ROWS[0], min(int(_WINDOWS * piece.rows * share), _BATCH_ROWS[1]))


def joined(parts: list[pa.RecordBatch]) -> pa.Table:
    """Rows of several row groups, of which those of L2 may be without the columns of orders."""
    tables = [pa.Table.from_batches(list(some)) for _, some in groupby(parts, lambda part: part.schema)]
    whole = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")
    return whole.unify_dictionaries()


class _Source:
    """A row group that is read once from its beginning to its end, a part at a time.

    Attributes
    ----------
    open_rows
        Rows of the row group while it is open: what it takes in memory grows with them.
    """

    def __init__(self, piece: files.Piece, columns: list[str], symbols: list[str] | None) -> None:
        self._piece, self._columns, self._symbols = piece, columns, symbols
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._held: pa.RecordBatch | None = None  # decoded, not given yet
        self._given, self._reach = 0, -(1 << 63)  # rows, and their highest time
        self._at_once = 0
        self.open_rows = 0
        self._over = False

    def before(self, end: int, rows: int) -> list[pa.RecordBatch]:
        """The next rows before the first one that was received at `end` or later, decoded about `rows` at a time."""
        if self._over:
            return []
        if self._batches is None or rows >= 4 * self._at_once:
            self._open(rows)
        found = []
        while (batch := self._next()) is not None:
            time = np.maximum(np.maximum.accumulate(batch["recv_ns"].to_numpy()), self._reach)
            n = int(np.searchsorted(time, end))
            if n:
                found.append(batch.slice(0, n))
                self._given, self._reach = self._given + n, int(time[n - 1])
            if n < batch.num_rows:
                self._held = batch.slice(n)
                return found
        self.close()
        self._over = True
        return found

    def _open(self, rows: int) -> None:
        """Begin again where it was left."""
        self.close()
        self._at_once, self.open_rows = rows, self._piece.rows
        if files.by_symbol(self._piece):
            self._at_once, self.open_rows = 1 << 62, _DECODED * self._piece.rows
            self._batches = iter([_by_time(list(self._read(_BATCH_ROWS[1])))])
        else:
            self._batches = self._read(rows)
        skipped = 0
        while skipped < self._given and (batch := self._next()) is not None:
            if skipped + batch.num_rows > self._given:
                self._held = batch.slice(self._given - skipped)
            skipped += batch.num_rows

    def _read(self, rows: int) -> Iterator[pa.RecordBatch]:
        return files.piece_batches("ticks", self._piece, self._columns, self._symbols, rows)

    def _next(self) -> pa.RecordBatch | None:
        held, self._held = self._held, None
        return held if held is not None or self._batches is None else next(self._batches, None)

    def close(self) -> None:
        """Keep nothing but the place."""
        self._batches = self._held = None
        self.open_rows = 0


def _by_time(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of some symbols, one after the other, as they were received: none before one of its symbol before it."""
    [whole] = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches() or batches[:1]
    codes, time = whole["symbol"].indices.to_numpy(), whole["recv_ns"].to_numpy()
    edges = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    reached = np.concatenate([np.maximum.accumulate(time[a:b]) for a, b in pairwise(edges)])
    return whole.take(pa.array(np.argsort(reached, kind="stable")))


def in_order(rows: pa.Table, depths: dict[int, int | None], last: bool) -> tuple[Block, pa.Table | None]:
    """The messages of some rows in the order of application.

    By MsgSeqNum inside a session, by receive time between sessions.

    Parameters
    ----------
    rows
        COLUMNS, the rows of each message together.
    depths
        264 by session.
    last
        No more messages come.

    Returns
    -------
    block
        Messages to apply now.
    later : pyarrow.Table or None
        Rows of messages that waited in a gap that is still open at the end: those before them may come.
    """
    names = rows["symbol"].unify_dictionaries().combine_chunks()
    codes = names.indices.to_numpy(zero_copy_only=False)
    session, seq = rows["session"].to_numpy(), rows["seq"].to_numpy()
    ends = _columns.ends(session, seq, codes)
    starts = np.append(0, ends[:-1])[: len(ends)]
    session, seq, recv_ns = session[starts], seq[starts], rows["recv_ns"].to_numpy()[starts]
    flags = rows["flags"].to_numpy()[ends - 1]
    instrument, instruments = _instruments(rows, names.dictionary.to_pylist(), codes[starts], starts, session, depths)
    at: np.ndarray | slice = slice(None)  # of one book nearly always: nothing is copied
    time, later = recv_ns, None
    if not _is_ordered(session, seq, recv_ns, flags, last):
        order, time, waits = _order(session, seq, recv_ns, flags, last)
        if waits.any():
            spans = zip(starts[order[waits]].tolist(), ends[order[waits]].tolist(), strict=True)
            later = rows.take(pa.array(np.concatenate([np.arange(a, b) for a, b in spans])))
            order, time = order[~waits], time[~waits]
        at = order
    return Block(
        rows=rows,
        entries=schema.entries(rows),
        starts=starts[at],
        ends=ends[at],
        time=time,
        recv_ns=recv_ns[at],
        session=session[at],
        seq=seq[at],
        flags=flags[at],
        instrument=instrument[at],
        instruments=instruments,
    ), later


def _is_ordered(session: np.ndarray, seq: np.ndarray, recv_ns: np.ndarray, flags: np.ndarray, last: bool) -> bool:
    """Whether messages are in the order of application already, and none waits: `_order` would change nothing."""
    changes = session[1:] != session[:-1]
    rises = (recv_ns[1:] >= recv_ns[:-1]) & np.where(changes, session[1:] > session[:-1], seq[1:] >= seq[:-1])
    waits = (flags[np.append(changes, True)] & Flags.DEFERRED).any() and not last
    return bool(rises.all() and not waits)


def _order(
    session: np.ndarray, seq: np.ndarray, recv_ns: np.ndarray, flags: np.ndarray, last: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order of messages, their times of application in this order, and which wait for others before them."""
    numbers = np.unique(session).tolist() if (session != session[:1]).any() else session[:1].tolist()
    orders, times, waiting = [], [], []
    for number in numbers:
        own = np.flatnonzero(session == number) if len(numbers) > 1 else np.arange(len(session))
        own = own[np.argsort(seq[own], kind="stable")]
        waits = np.zeros(len(own), bool)
        on_time = np.flatnonzero((flags[own] & Flags.DEFERRED) == 0)
        if not last:
            waits[on_time[-1] + 1 if len(on_time) else 0 :] = True
        orders.append(own)
        times.append(np.maximum.accumulate(recv_ns[own]))
        waiting.append(waits)
    order, time, waits = (np.concatenate(parts) for parts in (orders, times, waiting))
    if len(numbers) > 1:
        merged = np.argsort(time, kind="stable")
        order, time, waits = order[merged], time[merged], waits[merged]
    return order, time, waits


def _instruments(
    rows: pa.Table,
    names: list[str],
    codes: np.ndarray,
    starts: np.ndarray,
    session: np.ndarray,
    depths: dict[int, int | None],
) -> tuple[np.ndarray, list[Instrument]]:
    """Number of the instrument of each message in the order of the files, and the instruments."""
    columns = [rows[name].to_numpy()[starts] for name in ("price_scale", "qty_scale")]
    columns += [schema._indices(rows["level"], schema.LEVELS)[starts], codes, session]
    change = np.zeros(max(0, len(starts) - 1), bool)
    for values in columns:
        change |= values[1:] != values[:-1]
    begins = np.concatenate([[0], np.flatnonzero(change) + 1]) if len(starts) else np.zeros(0, np.int64)
    known: dict[Instrument, int] = {}
    found = []
    for price, qty, level, code, number in zip(*(values[begins].tolist() for values in columns), strict=True):
        one = Instrument(names[code], schema.LEVELS[level], price, qty, depths.get(number) or 0)
        found.append(known.setdefault(one, len(known)))
    lengths = np.diff(np.concatenate([begins, [len(starts)]]))
    return np.repeat(np.array(found, np.int32), lengths), list(known)
