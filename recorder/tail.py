"""Reads a journal from a saved position on and converts each record to rows, once and in order."""

import contextlib
from collections import Counter
from typing import Any

import pyarrow as pa

from kfix_md._codec import fields
from kfix_md.errors import CaptureError, ProtocolError, Unreadable
from kfix_md.instruments import Instrument, merge_rows, parse_list
from kfix_md.journal import events
from kfix_md.journal.event_json import Decoded, EventError, decode
from kfix_md.journal.reader import EVENT, FRAME, JournalReader
from recorder import schema
from recorder._ticks import SessionTicks, book_rows, message_type, route
from recorder.ledger import Ledger

_FILES = 64  # flushes with rows of a symbol between two of its checkpoints: reading a few rows of each takes time too
Record = tuple[int, int, int, int, int, bytes]  # as JournalReader yields them
_CHUNK = 16_384  # records between two checks whether a checkpoint is due
_L2_DEPTH = 1000  # levels a side that 264=0 means on L2
_LEVELS = {"L2": 2, "L3": 3}
#: events that end a session, or change what its ticks are called
_ENDS = (
    events.LoggedOn,
    events.Disconnected,
    events.NumberingReset,
    events.Started,
    events.Stopped,
    events.SessionDescribed,
)


class Tail:
    """Reads a journal from a saved state on: `read` until it returns, then `take` the rows and save `state()`.

    A session's ticks are cut into batches wherever what describes them changes (a new logon, an instrument's
    precision), so that every batch has one session number and one table of instruments.

    Parameters
    ----------
    journal
        Directory of the journal.
    state
        What `state()` returned in an earlier process; it is copied.
    checkpoint_rows
        Rows of a symbol between two of its checkpoints; None: no checkpoints are made.
    checkpoint_ns
        Receive time between two checkpoints of a symbol.

    Attributes
    ----------
    unknown : Counter[str]
        Events of types, and keys of events ("type.key"), that this version does not know: kept in status, ignored
        otherwise.
    undecoded : Counter[int]
        Messages by feed session that the feed applied and that cannot be decoded here, because the instrument list
        before them is missing or damaged; gaps with cause UNDECODED.
    begins_inside : bool
        What was read first was no beginning of a feed: segments before it are missing.
    """

    def __init__(
        self,
        journal: str,
        state: dict[str, Any] | None = None,
        *,
        checkpoint_rows: int | None = 20_000,
        checkpoint_ns: int = 300_000_000_000,
    ):
        state = state or {}
        self.ledger = Ledger(state.get("ledger"))
        self.decoders: list[SessionTicks | None] = []
        self.checkpoint_rows, self.checkpoint_ns = checkpoint_rows, checkpoint_ns
        self.batches: list[pa.RecordBatch] = []
        self.books: list[pa.Table] = []  # checkpoints
        self.rows = 0
        self.damages: list[str] = []
        self.unknown: Counter[str] = Counter()
        self.undecoded: Counter[int] = Counter()
        self.begins_inside = False
        self._nothing_read = not state.get("position")
        self.reader = JournalReader(journal, state.get("position", 0))
        self._counted: dict[int, tuple[int, int, int]] = {}
        for number, saved in state.get("decoders", {}).items():
            self._restore(int(number), saved)
        self._read_deferred(state.get("decoders", {}))

    # ---- state ----

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to continue after what `take` returned, as JSON."""
        decoders = {}
        for number, decoder in enumerate(self.decoders):
            if decoder is not None:
                decoders[str(number)] = {
                    "level": decoder.level,
                    "instruments": decoder.instruments,
                    "held": [one[1] for one in decoder.deferred],
                }
        return {"position": self.reader.position, "decoders": decoders, "ledger": self.ledger.saved()}

    def _restore(self, number: int, saved: dict[str, Any]) -> None:
        decoder = self._decoder(number)
        decoder.level = saved["level"]
        for symbol, price_precision, qty_precision in saved["instruments"]:
            decoder.define(symbol, price_precision, qty_precision)

    def _read_deferred(self, saved: dict[str, Any]) -> None:
        """Frames of an open gap are read again from the journal; those it has lost (a power loss) are a gap."""
        for number, decoder_state in saved.items():
            for position in decoder_state["held"]:
                record = self._record_at(position)
                if record is None:
                    text = f"journal {self.reader.directory}: the message at {position:#x}, deferred in a gap, is gone"
                    self.damages.append(text)
                    self.ledger.damage(position, 1, text)
                    continue
                decoder = self._decoder(int(number))
                decoder.hold(record[0], record[3], record[4], record[5])

    def _record_at(self, position: int) -> Record | None:
        try:
            record: Record | None = JournalReader(self.reader.directory, position).read()
        except Unreadable:
            raise
        except CaptureError:
            return None
        return record if record is not None and record[0] == position else None

    def _decoder(self, number: int) -> SessionTicks:
        while len(self.decoders) <= number:
            self.decoders.append(None)
        found = self.decoders[number]
        if found is None:
            found = self.decoders[number] = SessionTicks(self.ledger.session(number).level, books=True)
            found.limit = self._limit(number)
        return found

    # ---- reading ----

    def read(self, max_rows: int, max_records: int = 200_000) -> str:
        """Read on until there is a reason to stop.

        Returns
        -------
        str
            "full" when max_rows wait to be taken, "some" when there is more, "nothing" at the end for now, "segment"
            at the end of a sealed one when the reader stops there, "torn" where a dead writer's last record is not
            whole.

        Raises
        ------
        Unreadable
            The machine does not give the next bytes now: nothing is known of them. The next call goes on there.
        """
        records = 0
        while self.rows_waiting() < max_rows:
            what, record = route(self.reader, self.decoders, max_rows - self.rows_waiting(), _CHUNK)
            records += _CHUNK if what == "full" else 1
            if what == "full":
                self._checkpoint()
            if what == "nothing":
                return "segment" if self.reader.hold_at_end and self.reader.at_end else what
            if what == "damaged":
                text, position = str(self.reader.damage), self.reader.position
                if self.reader.unreadable:
                    raise Unreadable(text)
                skipped = self.reader.resync(read_all=True)
                if not skipped:
                    return "torn"
                self.damages.append(text)
                self._forget()
                self.ledger.damage(position, skipped, text)
            elif record is not None:
                self._control(record)
            if records >= max_records:
                return "some"
        return "full"

    def rows_waiting(self) -> int:
        """Rows decoded and not yet taken."""
        # a backlog may be events and nothing else
        return self.rows + len(self.ledger) + sum(len(d) for d in self.decoders if d is not None)

    def _control(self, record: Record) -> None:
        position, kind, number, recv_ns, flags, body = record
        if kind == EVENT:
            self._event(number, recv_ns, position, body)
        elif kind == FRAME:
            self._frame(number, recv_ns, position, flags, body)

    def _event(self, number: int, recv_ns: int, position: int, body: bytes) -> None:
        try:
            found = decode(body)
        except EventError as error:
            self.damages.append(f"journal {self.reader.directory}: the event at {position:#x} cannot be read: {error}")
            self._forget()
            self.ledger.damage(position, len(body), str(error))
            return
        self._count_unknown(found)
        event = found.event
        self.begins_inside |= self._nothing_read and isinstance(event, events.Carried)
        self._nothing_read &= isinstance(event, events.SessionDescribed)
        if isinstance(event, events.JournalLost):
            self._forget()
        elif isinstance(event, events.Released):
            self._decoder(number).release(event.first or 0, event.last)
        elif isinstance(event, events.Discarded):
            self._decoder(number).discard(event.first or 0, event.last)
        elif isinstance(event, events.Carried):
            self._carried(number, recv_ns, event.instruments)
        elif isinstance(event, _ENDS):
            everything = isinstance(event, events.Started | events.Stopped)
            for each in range(len(self.decoders)) if everything else [number]:
                self._cut(each)
                self._over(each, event)
        self.ledger.event(number, recv_ns, position, found)
        if isinstance(event, events.SessionDescribed) and event.level:
            self._decoder(number).level = _LEVELS.get(event.level, 0)
            self._decoder(number).limit = self._limit(number)

    def _limit(self, number: int) -> int:
        """The most levels a side of the books of a feed session: its 264, where 0 means 1000 on L2; 0: all."""
        known = self.ledger.session(number)
        return max(known.depth or 0, 0) or (_L2_DEPTH if known.depth == 0 and known.level == "L2" else 0)

    def _count_unknown(self, found: Decoded) -> None:
        if isinstance(found.event, events.Unknown):
            self.unknown[found.event.name] += 1
        for key in found.unknown_keys:
            self.unknown[f"{found.event.type}.{key}"] += 1

    def _forget(self) -> None:
        """Messages are missing from here on: no book is a checkpoint before its next snapshot."""
        for number, decoder in enumerate(self.decoders):
            if decoder is not None:
                self._cut(number)  # the ledger knows the last message's time then
                decoder.forget_books()

    def _over(self, number: int, event: events.JournalEvent) -> None:
        """Books and deferred frames end with their session; a reset keeps the connection and its deferred frames."""
        decoder = self.decoders[number] if number < len(self.decoders) else None
        if decoder is not None and not isinstance(event, events.SessionDescribed):
            decoder.forget_books()
            if isinstance(event, events.Disconnected | events.Started | events.Stopped):
                decoder.discard()

    def _frame(self, number: int, recv_ns: int, position: int, flags: int, frame: bytes) -> None:
        msg_type = message_type(frame)
        decoder = self._decoder(number)
        if msg_type in ("W", "X"):
            # the first of a session without an event: from now on `route` knows it
            return decoder.add_record(position, recv_ns, flags, frame)
        if msg_type not in ("y", "h"):
            return None
        try:
            parsed = fields(frame)
        except ProtocolError:
            return None  # the feed could not parse it either
        if msg_type == "h":
            return self.ledger.trading_status(number, recv_ns, {t: v.decode("latin-1") for t, v in parsed})
        rows = parse_list(parsed).rows
        known = {row.symbol: one for row in rows if (one := self.ledger.instrument(number, row.symbol)) is not None}
        self._listed(number, recv_ns, list(merge_rows(rows, known)[0].values()))
        return None

    def _listed(self, number: int, recv_ns: int, listed: list[Instrument]) -> None:
        """Define instruments; one of which no book can be kept is not recorded, nor is it applied by the feed."""
        decoder = self._decoder(number)
        if not all(decoder.knows(i.symbol, i.price_precision, i.qty_precision) for i in listed):
            self._cut(number)
        for one in listed:
            with contextlib.suppress(ProtocolError):
                decoder.define(one.symbol, one.price_precision, one.qty_precision)
        self.ledger.instruments(number, recv_ns, listed, self._level(decoder))

    def _carried(self, number: int, recv_ns: int, instruments: dict[str, tuple[int, int]]) -> None:
        """What the feed knows at the start of a segment: news only where the list itself could not be read."""
        decoder = self._decoder(number)
        missing = {symbol: pair for symbol, pair in instruments.items() if not decoder.knows(symbol, *pair)}
        found = [self.ledger.carried(number, symbol, *pair) for symbol, pair in missing.items()]
        if found:
            self._listed(number, recv_ns, found)

    @staticmethod
    def _level(decoder: SessionTicks) -> str | None:
        return f"L{decoder.level}" if decoder.level else None

    def _cut(self, number: int) -> None:
        """Make a batch of the ticks a decoder has collected, under the names that are valid until now."""
        decoder = self.decoders[number] if number < len(self.decoders) else None
        if decoder is None:
            return
        before = self._counted.get(number, (0, 0, 0))
        now = (decoder.messages, decoder.rows_total, decoder.ignored + decoder.malformed)
        self._counted[number] = now
        messages, rows, ignored = (a - b for a, b in zip(now, before, strict=True))
        self.ledger.counted(number, messages, rows, ignored, decoder.last_seq, decoder.last_recv_ns)
        undecoded, position, first_ns, last_ns = decoder.take_undecoded()
        if undecoded:
            self.undecoded[number] += undecoded
            self.ledger.undecoded(number, undecoded, position, first_ns, last_ns)
        ticks = decoder.take()
        if len(ticks):
            session = self.ledger.ordinal(number, int(ticks["recv_ns"][0]))
            described = decoder.instruments, session, decoder.level or 2, decoder.texts
            feed, service = self.ledger.feed, self.ledger.session(number).service
            self.batches.append(schema.tick_columns(ticks, *described, feed=feed, service=service))
            self.rows += len(ticks)

    # ---- output ----

    def take(self) -> dict[str, pa.Table]:
        """Rows of all tables since the last call."""
        for number in range(len(self.decoders)):
            self._cut(number)
        tables = {"ticks": pa.Table.from_batches(self.batches, schema.SCHEMAS["ticks"])} if self.batches else {}
        self.batches, self.rows = [], 0
        for name, rows in self.ledger.take().items():
            tables[name] = pa.Table.from_pylist(rows, schema.SCHEMAS[name])
        return tables

    def checkpoints(self) -> tuple[pa.Table | None, list[tuple[int, int]]]:
        """Whole books that were due since the last call, and (feed session, row) of those that are not known
        whole here."""
        known = [d for d in self.decoders if d is not None]
        for decoder in known:
            decoder.flushed()
        sizes = sum(d.size(row) for d in known for row in range(len(d.instruments)))
        missing = self._checkpoint(self.checkpoint_ns, 4 * sizes)
        for number, row in missing:
            self.decoders[number].checkpointed(row, self._total())  # type: ignore[union-attr]
        tables, self.books = self.books, []
        return (pa.concat_tables(tables, promote_options="default") if tables else None), missing

    def _total(self) -> int:
        return sum(d.rows_total for d in self.decoders if d is not None)

    def _checkpoint(self, span_ns: int | None = None, enough: int = 0) -> list[tuple[int, int]]:
        """Keep the books that are due as they are now; returns (feed session, row) of those that are not known. Books
        that had few rows are due by time too, but not before as many rows of others are there as make it worth it."""
        missing: list[tuple[int, int]] = []
        total = self._total()
        if self.checkpoint_rows is None:
            return missing
        for number, decoder in enumerate(self.decoders):
            session = self.ledger.session(number).session if decoder is not None else None
            if decoder is None or session is None:
                continue
            for row in decoder.due(self.checkpoint_rows, span_ns, total, enough, _FILES):
                book = decoder.book(row)
                if book is None:
                    missing.append((number, row))
                    continue
                decoder.checkpointed(row, total)
                recv_ns, seq = decoder.last(row)
                symbol, price_scale, qty_scale = decoder.instrument(row)
                self.books.append(
                    schema.checkpoint_table(
                        *(book_rows(book), recv_ns, session, seq, symbol, book.level, (price_scale, qty_scale)),
                        feed=self.ledger.feed,
                        service=self.ledger.session(number).service,
                    )
                )
        return missing
