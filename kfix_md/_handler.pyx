"""The hot loop: how one read becomes frames, entries, books and a publication without Python in between.

Stream finds frames in the receive buffer, `Handler.on_frame` takes one through sequence, journal and MarketData
(decode, apply, verify), Symbols publishes. All but an in-order W or X goes to the session, in Python.
"""

from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.string cimport memcmp

from kfix_md._book cimport RULE_AUTO, settled
from kfix_md._codec cimport Codec
from kfix_md._entry cimport MSG_BAD_BOOK, MSG_DEFERRED, MSG_IGNORED, MSG_POSSDUP
from kfix_md._fields cimport MD_OK, Header, Span
from kfix_md._frame cimport PADDING, padded_frame
from kfix_md._market_data cimport MarketData
from kfix_md._recorded cimport Recorded
from kfix_md._stream cimport FrameSink, Stream
from kfix_md._symbols cimport FEW_SYMBOLS, Symbols
from kfix_md.journal.records cimport REC_FRAME, REC_GARBAGE
from kfix_md.journal.writer cimport JournalWriter
from kfix_md.session.sequence cimport Sequence
from kfix_md.shm.writer cimport SegmentWriter

import numpy as np

from kfix_md._book import RULES
from kfix_md._entry import TICK_DTYPE, Cause
from kfix_md._frame import fields, other_version
from kfix_md.errors import ProtocolError
from kfix_md.follower import Follower
from kfix_md.journal.event_json import encode
from kfix_md.journal.events import Carried, Released

cdef extern from "c/scan.h" nogil:
    int kfix_equal(const char* a, const char* b, int64_t n)

cdef enum:
    DELIVER = 1                 # what session.receive() may answer (see kfix_md.session.fix)
    DEFER = 2
    IGNORE = 4
    CONTROL_BYTES = 2097152     # of a message that is read in Python; a longer one is garbled
    FEW_MESSAGES = 64           # that take less time than to get the GIL back may take
    GARBAGE_BYTES = 1048576     # of one connection that are journaled,
    GARBAGE_PIECE = 65536       # in records of no more than this

_LEVELS = {"auto": 0, "L2": 2, "L3": 3}
_FACE = (
    "on_bytes", "deliver", "apply", "unfinished", "reset_stream", "define", "subscribe", "unsubscribe", "mark",
    "symbols", "precisions", "book", "book_state", "checksum", "checksum_of", "ticks", "stats", "protocol_errors",
)


cdef inline bint same(Span span, bytes text) noexcept:
    # `text` is followed by PADDING
    return text is None or (span.n == len(text) - PADDING and kfix_equal(span.p, <const char*>text, span.n))


cdef inline bint in_order(Handler self, Header* h, int64_t recv_ns) noexcept:
    # a W or X that the session need not see
    if h.msg_type != c'X' and h.msg_type != c'W':
        return False
    if not self.direct or h.poss_dup or h.poss_resend or h.seq < 0 or h.seq != self.sequence.expected:
        return False
    cdef int64_t off = recv_ns + self.clock_step_ns - h.sending_ns
    if self.sending_time_limit_ns > 0 and (
            h.sending_ns <= 0 or off > self.sending_time_limit_ns or off < -self.sending_time_limit_ns):
        return False
    if h.comp_ids == 0 or h.comp_ids != self.known_comp_ids:
        # the codec compares with what it saw last: once is enough to look at that ourselves
        if not (same(h.sender, self.sender) and same(h.target, self.target)):
            return False
        self.known_comp_ids = h.comp_ids
    return True


@final
cdef class Handler(FrameSink):
    """Decoder and books of one inbound FIX stream.

    Parameters
    ----------
    checksum: rule of 5041: "auto" (each symbol shows which one holds), "level" or "order" (printed at the instrument's
        precisions), "level-sent" or "order-sent" (with the decimals sent), "off".
    level: "L2", "L3" or "auto" (L3 when entries have a 5273 or an order id, or several have one
        price).
    session: the session state machine (kfix_md.session.Session); None: a Follower, which applies whatever comes,
        counts gaps, and trusts no book across one until its next snapshot.
    journal, publisher: JournalWriter and SegmentWriter, or None.
    listener: object with on_book(symbol, state, cause, seq, recv_ns) for every change of a book's state. It may have
        on_checksum_rule(rule, symbol, precisions) for a symbol that has shown its rule (precisions: those of the text
        where they are not the instrument's, else None), on_fault(symbol, error) for an error of ours in a message, and
        on_limit(symbol, text) for a book that would take more levels, orders, work or memory than one may.
    collect: keep every entry as a Tick, to be taken with ticks().
    max_frame: bytes; a longer frame is a protocol error.
    standby_for: session number under which handlers share their slots; nothing is published before serve().
    """

    def __cinit__(self, *, checksum="auto", level="auto", session=None, int session_number=0,
                  JournalWriter journal=None, SegmentWriter publisher=None, listener=None, bint collect=False,
                  int64_t max_frame=1 << 26, bint allow_fast=True, int standby_for=-1):
        if checksum not in RULES:
            raise ValueError(f"checksum must be one of {', '.join(RULES)}, not {checksum!r}")
        if level not in _LEVELS:
            raise ValueError(f"level must be auto, L2 or L3, not {level!r}")
        self.codec = Codec(allow_fast=allow_fast, keep_ids=collect)
        self.stream = Stream(max_frame)
        self.books = Symbols(rule=RULES[checksum], level=_LEVELS[level], session_number=session_number,
                             standby_for=standby_for, publisher=publisher, listener=listener)
        self.sequence = getattr(session, "sequence", None) or Sequence(-1)
        self.direct = session is None
        self.sending_time_limit_ns = 0 if session is None else 120 * 1000000000
        self.data = MarketData(self.codec, self.books, self.sequence, session or Follower(self), collect,
                               session is None)
        self.journal = journal
        self.carried_text = b""
        if journal is not None:
            journal.carry(session_number, self)
        self.garbage_room = GARBAGE_BYTES

    def on_garbled(self, what, head, skipped, recv_ns):
        """Report to the session; a sound frame of another FIX version is its business, not garbage."""
        foreign = other_version(head) if head is not None else None
        if foreign:
            self.data.session.receive(foreign, fields(foreign), recv_ns)
        else:
            self.data.session.garbled(what, skipped, recv_ns)

    cdef int on_skipped(self, const char* p, int64_t n, int64_t recv_ns) except -1:
        # Bytes of no sound frame are journaled as well, so that what the venue sent can be looked at. Bounded: a peer
        # that sends nothing else must not fill the disk.
        cdef int64_t at = 0, piece, kept = min(n, self.garbage_room) if self.journal is not None else 0
        self.garbage_room -= kept
        self.garbage_not_kept += n - kept
        while at < kept:
            piece = min(kept - at, GARBAGE_PIECE)
            self.journal.append(REC_GARBAGE, self.books.session_number, recv_ns, p + at, piece, MSG_IGNORED)
            at += piece
        return 0

    # ---- bytes ----

    def on_bytes(self, data, int64_t recv_ns=0):
        """Take in bytes (any bytes-like, any split) received at recv_ns (ns since the epoch).

        Returns the number of messages completed.
        """
        settled(self.books.room)
        return self.stream.on_bytes(self, data, recv_ns)

    def get_buffer(self, int64_t sizehint=-1):
        """Return a writable memoryview of the free end of the receive buffer, to be filled and then reported with
        buffer_updated(); it is valid until then."""
        return self.stream.get_buffer(sizehint)

    def buffer_updated(self, int64_t n, int64_t recv_ns):
        """Take in the `n` bytes just read into get_buffer(); returns the number of messages completed."""
        return self.take(n, recv_ns)

    cdef int64_t take(self, int64_t n, int64_t recv_ns) except -1:
        settled(self.books.room)
        return self.stream.buffer_updated(self, n, recv_ns)

    def reset_stream(self):
        """Forget the bytes of an unfinished frame: the next byte is the first of a new connection."""
        self.stream.reset(self, self.last_recv_ns)
        self.garbage_room = GARBAGE_BYTES

    @property
    def unfinished(self):
        """Bytes received that make no whole frame yet."""
        return self.stream.unfinished

    # ---- one frame ----

    cdef int on_frame(self, const char* p, int64_t n, int64_t recv_ns) except -1:
        cdef const char* body = p + 12
        cdef const char* end = p + n - 7
        cdef Header h
        cdef uint16_t flags
        while body[0] != 1:
            body += 1
        if memcmp(body, <const char*>b"\x0135=", 4) != 0:  # 35 is the third field, or this is no message
            return self.garbled(p, n, recv_ns)
        if self.codec.read_header(body + 1, end, &h) != MD_OK:
            return self.controlled(&h, p, n, recv_ns)
        self.last_recv_ns = recv_ns
        self.last_sending_ns = h.sending_ns
        if not in_order(self, &h, recv_ns):
            return self.controlled(&h, p, n, recv_ns)
        self.sequence.expected = h.seq + 1
        if self.books.n_slots > FEW_SYMBOLS:
            # after its 55=, where the next header is as long as this one
            self.books.prefetch_next(h.body + n + 3, self.stream.first, self.stream.last)
        if self.journal is not None:
            self.journal.put(REC_FRAME, self.books.session_number, recv_ns, p, n)
        flags = self.data.on_message(&h, end, recv_ns, 0)
        if self.journal is not None:
            self.journal.commit(flags)
        return 0

    cdef int controlled(self, Header* h, const char* p, int64_t n, int64_t recv_ns) except -1:
        # the session decides, and sees what was received before
        cdef int verdict
        self.books.publish_pending()
        cdef uint16_t flags = MSG_POSSDUP if h.poss_dup else 0
        if n > CONTROL_BYTES and h.msg_type != c'W' and h.msg_type != c'X':
            self.too_long += 1
            return self.garbled(p, n, recv_ns)
        frame = p[:n]
        try:
            parsed = fields(frame)
        except ProtocolError:
            return self.garbled(p, n, recv_ns)
        verdict = self.data.session.receive(frame, parsed, recv_ns)
        if self.journal is not None:
            self.journal.put(REC_FRAME, self.books.session_number, recv_ns, p, n)
        if verdict & DELIVER:
            flags |= self.data.on_message(h, p + n - 7, recv_ns, flags)
        elif verdict & DEFER:
            flags |= MSG_DEFERRED
        elif verdict & IGNORE:
            flags |= MSG_IGNORED
            self.ignored += 1
        if self.journal is not None:
            self.journal.commit(flags)
        self.release(recv_ns)
        return 0

    cdef int garbled(self, const char* p, int64_t n, int64_t recv_ns) except -1:
        # a frame that is no message is journaled all the same
        self.data.garbled(n, recv_ns)
        if self.journal is not None:
            self.journal.put(REC_FRAME, self.books.session_number, recv_ns, p, n)
            self.journal.commit(MSG_IGNORED)
        return 0

    cdef int on_pause(self) except -1:
        return self.books.publish_pending()

    def release(self, int64_t recv_ns):
        """Apply what the session kept back until a gap was closed, in order."""
        while released := self.data.session.take_released(recv_ns):  # its empty answer ends the gap
            for frame, received_ns in released:
                self._apply_released(frame, received_ns)
            if self.journal is not None:
                first, last = self._seq_of(released[0][0]), self._seq_of(released[len(released) - 1][0])
                self.journal.event(self.books.session_number, recv_ns, Released(first, last))

    def _apply_released(self, frame, int64_t recv_ns):
        try:
            self.deliver(frame, recv_ns, MSG_DEFERRED)
        except Exception as error:
            if self.data.row < 0:
                raise
            self.data.fail(self.data.row, error, recv_ns)

    def _seq_of(self, frame):
        return next((int(value) for tag, value in fields(frame) if tag == 34 and value.isdigit()), None)

    def deliver(self, frame, int64_t recv_ns=0, int flags=0):
        """Apply one W or X frame (bytes-like) now, whatever its MsgSeqNum; returns its MSG_* flags.

        Raises ProtocolError when it is not one sound frame.
        """
        cdef bytes padded = padded_frame(frame)
        settled(self.books.room)
        flags = self.process_recorded(<const char*>padded, len(padded) - PADDING, recv_ns, flags)
        self.books.publish_pending()
        return flags

    def apply(self, Recorded messages not None, rows, Py_ssize_t first=0, Py_ssize_t end=-1, int64_t now_ns=0):
        """Apply messages that were decoded before, whatever their MsgSeqNum: books, 5041 and publication as live.

        Messages of another level than the book of their symbol has are left out. Other threads run meanwhile; those
        that want to use these books wait until the call has ended, or calls the listener.

        Parameters
        ----------
        messages : Recorded
        rows : array of int32
            Row of each instrument of `messages`, as `define` returned it; -1 where its messages are not for this
            handler.
        first, end : int
            Messages [first, end); -1 for all from `first` on.
        now_ns : int
            Receive time of them all; 0 for the recorded ones.

        Raises
        ------
        ValueError
            Messages or rows that do not exist.
        """
        cdef const int32_t[::1] table = rows
        cdef Py_ssize_t i, before
        end = messages.n if end < 0 else end
        if not 0 <= first <= end <= messages.n:
            raise ValueError(f"there are no messages {first} to {end}: there are {messages.n}")
        if table.shape[0] < messages.instruments:
            raise ValueError(f"rows of {messages.instruments} instruments are needed")
        for i in range(messages.instruments):
            if table[i] >= self.books.n_slots:
                raise ValueError(f"there is no row {table[i]}: there are {self.books.n_slots}")
        before = self.data.recorded             # of the call in which a listener makes this one
        self.books.applying += 1
        try:
            while first < end:
                first = self.apply_some(messages, &table[0], first, end, now_ns)
            self.books.publish_pending()
        finally:
            self.data.recorded = before
            self.books.applying -= 1
            if self.books.applying == 0:
                self.books.replaced.clear()

    cdef Py_ssize_t apply_some(self, Recorded messages, const int32_t* rows, Py_ssize_t first, Py_ssize_t end,
                               int64_t now_ns) except -1:
        # Those that need no Python, and what the one after them needs. Returns how far it came
        cdef Py_ssize_t at = first
        cdef int32_t row
        try:
            at = self.without_gil(messages, rows, first, end, now_ns)
            if at < end:
                self.data.make_recorded(messages, at, rows[messages.instrument[at]])
            return at
        except Exception as error:
            at = self.data.recorded
            row = rows[messages.instrument[at]]
            self.data.fail(row, error, now_ns or messages.times[at])
            return at + 1

    cdef Py_ssize_t without_gil(self, Recorded messages, const int32_t* rows, Py_ssize_t first, Py_ssize_t end,
                                int64_t now_ns) except -1:
        if end - first < FEW_MESSAGES:
            settled(self.books.room)
            return self.data.on_recorded(messages, rows, first, end, now_ns)
        self.books.room.enter()
        try:
            with nogil:
                return self.data.on_recorded(messages, rows, first, end, now_ns)
        finally:
            self.books.room.leave()

    cdef int process_recorded(self, const char* frame, Py_ssize_t n, int64_t recv_ns, uint16_t flags) except? -1:
        # one whole, sound frame followed by PADDING readable bytes; any type but W and X is left alone.
        # y is read, so that a recording can be followed without a session
        cdef const char* body = frame + 12
        cdef Header h
        while body[0] != 1:
            body += 1
        self.codec.read_header(body + 1, frame + n - 7, &h)
        if h.msg_type == c'W' or h.msg_type == c'X':
            if h.poss_dup:
                flags |= MSG_POSSDUP
            return self.data.on_message(&h, frame + n - 7, recv_ns, flags)
        if h.msg_type == c'y':
            self.read_instruments(fields(frame[:n]))
        return flags

    cdef int on_failure(self, object error, int64_t recv_ns) except -1:
        # an exception of ours while a frame was worked on: it costs the symbol of the frame and nothing else
        if self.data.row < 0:
            raise error
        if self.journal is not None:
            self.journal.commit(MSG_IGNORED | MSG_BAD_BOOK)
        return self.data.fail(self.data.row, error, recv_ns)

    def ticks(self):
        """Take the entries collected since the last call, as an array of TICK_DTYPE (collect=True).

        `instrument` is the row in `symbols`; a snapshot's entries follow one with action CLEAR, entry_no 0. The texts
        of their ids of kind TABLE are in `codec.id_table` until the next call.
        """
        if self.data.collected is None:
            return np.empty(0, TICK_DTYPE)
        if self.data.collected.n:
            self.codec.take_ids()
        return self.data.collected.take(True)

    # ---- instruments and counterparty ----

    def read_instruments(self, parsed):
        """Define every instrument of a 35=y, given as fields()."""
        self.data.counters.malformed += self.books.define_listed(parsed)

    def expect_comp_ids(self, sender, target):
        """49 and 56 (bytes) that inbound messages must carry to be applied without the session."""
        self.known_comp_ids = 0
        self.sender = sender + b"\0" * PADDING if sender is not None else None
        self.target = target + b"\0" * PADDING if target is not None else None

    def record_to(self, JournalWriter journal not None, int64_t recv_ns):
        """Record every frame from now on in a journal that could not be opened before."""
        self.journal = journal
        journal.carry(self.books.session_number, self)
        if self.books.n_slots:
            journal.event(self.books.session_number, recv_ns, self._instruments())

    def carried(self) -> bytes:
        """The instruments that can be applied, as the event that begins a segment of the journal; b"" for none."""
        if self.books.definitions != self.carried_of:
            self.carried_text, self.carried_of = encode(self._instruments()), self.books.definitions
        return self.carried_text

    def _instruments(self):
        cdef int32_t row
        return Carried({self.books.names[row]: (self.books.slots[row].price_precision,
                                                self.books.slots[row].qty_precision)
                        for row in range(self.books.n_slots)})

    # ---- the books, see Symbols ----

    def define(self, symbol, int price_precision, int qty_precision):
        """Make an instrument of 35=y known; returns its row. See Symbols.define."""
        return self.books.define(symbol, price_precision, qty_precision)

    def subscribe(self, symbol, md_req_id, int depth=0, bint halted=False):
        """Apply only entries with this 262 to the symbol's book from now on. See Symbols.subscribe."""
        self.books.subscribe(symbol, md_req_id, depth, halted)

    def unsubscribe(self, symbol, cause=Cause.UNSUBSCRIBED):
        """Apply nothing more to the symbol's book: what still comes is late."""
        self.books.unsubscribe(symbol, cause)

    def mark(self, symbol, state, cause=Cause.NONE):
        """Set the state of one book (of all with symbol None) from outside. See Symbols.mark."""
        self.books.mark(symbol, state, cause)

    def book(self, symbol):
        """The L2Book or L3Book of a symbol, None before its first snapshot."""
        return self.books.book(symbol)

    def book_state(self, symbol):
        """(State, Cause, MsgSeqNum of the last message, its receive time in ns, CRCs checked, CRCs failed)."""
        return self.books.book_state(symbol)

    def checksum_of(self, symbol):
        """(rule, precisions, state) of a symbol's 5041. See Symbols.checksum_of."""
        return self.books.checksum_of(symbol)

    def precisions(self, symbol):
        """(2349 price precision, 5010 quantity precision) of a symbol."""
        return self.books.precisions(symbol)

    def __getitem__(self, symbol):
        from kfix_md.view import BookView

        self.books.row_of(symbol)
        return BookView(self, symbol)

    @property
    def symbols(self):
        """Symbols by row."""
        return self.books.symbols

    def _ipython_key_completions_(self):
        return list(self.symbols)

    # ---- what Python sees ----

    def __dir__(self):
        # what a user needs; the feed uses more, see _handler.pyi
        return list(_FACE)

    @property
    def session(self):
        """Session of the stream, or the Follower that takes its place."""
        return self.data.session

    @property
    def fast(self):
        """Whether W and X in order are applied without asking the session, which sets it: it is logged on, and no
        message is missing. Set to True, books that were kept in GAP are whole again; while it is False none is LIVE."""
        return self.direct

    @fast.setter
    def fast(self, bint on):
        self.direct = on
        self.books.gap_open = not on
        if on:
            self.books.close_gap()

    @property
    def checksum(self):
        """The configured rule of 5041; under "auto" the one that most symbols have shown, "auto" before the first. What
        each symbol has shown: checksum_of()."""
        cdef int rule = self.books.rule
        if rule == RULE_AUTO and self.books.proved[self.books.first_rule]:
            rule = self.books.first_rule
        return next(name for name, code in RULES.items() if code == rule)

    @property
    def stats(self):
        """Counters since the handler was made, as a dict of ints."""
        return self.stream.stats | dict(self.data.counters) | getattr(self.data.session, "counts", {}) | {
            "ignored": self.ignored, "too_long": self.too_long, "garbage_not_kept": self.garbage_not_kept,
            "fast_messages": self.codec.fast_messages, "general_messages": self.codec.general_messages,
        }

    @property
    def protocol_errors(self):
        """Everything the peer may not send, together."""
        cdef Stream stream = self.stream
        return (stream.garbage + stream.bad_length + stream.bad_checksum + stream.bad_begin_string
                + self.data.counters.malformed + self.data.counters.unknown_symbol + self.stats.get("too_low", 0))
