"""The hot loop: how one read becomes frames, entries, books and a publication without Python in between.

Stream finds frames in the receive buffer, `on_frame` takes one through sequence, journal and `market_data`
(decode, apply, verify, publish). Whatever is not an in-order W or X goes to the session, in Python.
"""

from cpython.object cimport PyObject
from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.string cimport memcmp

from kfix_md._book cimport (
    BOOK_OK, BOOK_TOTAL, RULE_AUTO, RULE_OFF, Book, apply_message, crossed,
)
from kfix_md._checksum cimport CHECK_FAILED, CHECK_RUN, CHECK_OK
from kfix_md._codec cimport Codec
from kfix_md._fields cimport (
    MD_COUNT, MD_MISSING_TAG, MD_MIXED, MD_NOT_NUMERIC, MD_NUMBER, MD_OK, MD_PRECISION, MD_SPLIT, Header, MDMessage,
    Span, next_field,
)
from kfix_md._entry cimport *
from kfix_md.journal.records cimport REC_FRAME, REC_GARBAGE
from kfix_md.journal.writer cimport JournalWriter
from kfix_md.session.sequence cimport Sequence
from kfix_md.shm.writer cimport SegmentWriter
from kfix_md._state cimport *
from kfix_md._stream cimport PADDING, Stream
from kfix_md._symbols cimport (
    ANY_REQ_ID, NO_REQ_ID, BURST, EVIDENCE_CROSSED, EVIDENCE_FRESH, Slot, Symbols, own_cause,
)

import logging

import numpy as np

from kfix_md._book import RULES
from kfix_md._frame import fields, other_version
from kfix_md._entry import TICK_DTYPE
from kfix_md.errors import KfixError, ProtocolError
from kfix_md.follower import Follower
from kfix_md.journal.events import Released

cdef extern from "c/scan.h" nogil:
    int kfix_equal(const char* a, const char* b, int64_t n)

cdef extern from "Python.h":
    PyObject* PyList_GET_ITEM(list items, Py_ssize_t i)     # borrowed

cdef extern from "c/levels.h" nogil:
    void kfix_prefetch_book(const void* book, const void** ends, int n)

cdef enum:
    FEW_SYMBOLS = 32            # whose books stay in the caches without a prefetch
    CURRENT = 1                 # what requests_seen() finds
    OLD = 2
    DELIVER = 1                 # what session.receive() may answer (see kfix_md.session.fix)
    DEFER = 2
    IGNORE = 4
    GARBAGE_BYTES = 1048576     # of one connection that are journaled,
    GARBAGE_PIECE = 65536       # in records of no more than this

_LEVELS = {"auto": 0, "L2": 2, "L3": 3}
_FACE = (
    "on_bytes", "deliver", "unfinished", "reset_stream", "define", "subscribe", "unsubscribe", "mark", "symbols",
    "precisions", "book", "book_state", "checksum", "checksum_of", "ticks", "stats", "protocol_errors",
)


cdef inline bint same(Span span, bytes text) noexcept:
    # `text` is followed by PADDING
    return text is None or (span.n == len(text) - PADDING and kfix_equal(span.p, <const char*>text, span.n))


# ---- the hot loop: on_frame, and the steps of market_data ----

cdef inline bint in_order(Handler self, Header* h, int64_t recv_ns) noexcept:
    # a W or X that the session need not see
    if h.msg_type != c'X' and h.msg_type != c'W':
        return False
    if not self.direct or h.poss_dup or h.poss_resend or h.seq < 0 or h.seq != self.sequence.expected:
        return False
    cdef int64_t off = recv_ns - h.sending_ns
    if self.sending_time_limit_ns > 0 and (
            h.sending_ns <= 0 or off > self.sending_time_limit_ns or off < -self.sending_time_limit_ns):
        return False
    if h.comp_ids == 0 or h.comp_ids != self.known_comp_ids:
        # the codec compares with what it saw last: once is enough to look at that ourselves
        if not (same(h.sender, self.sender) and same(h.target, self.target)):
            return False
        self.known_comp_ids = h.comp_ids
    return True


cdef inline int decode(Handler self, Header* h, const char* end, MDMessage* m, int32_t* row) noexcept:
    # entries in the codec, in the precisions of the symbol's row (-1: unknown), or what is wrong
    cdef int error = self.codec.begin(h, end, m)
    cdef const char* p = h.body
    cdef Slot* s
    if error != MD_OK and m.symbol.n == 0:
        next_field(&p, end, 55, &m.symbol)     # decoding stopped before 55
    row[0] = self.find_slot(m.symbol.p, m.symbol.n) if m.symbol.n else -1
    if error != MD_OK or row[0] < 0:
        return error if m.staged else self.codec.stage(h, end, m)
    s = &self.slots[row[0]]
    if self.n_slots > FEW_SYMBOLS:
        kfix_prefetch_book(PyList_GET_ITEM(self.books, row[0]), s.ends, 6)
    return self.codec.finish(h, end, m, s.price_precision, s.qty_precision)


cdef inline int cause_of(int error) noexcept:
    # the cause of a book whose message cannot be decoded
    if error == MD_PRECISION:
        return CAUSE_PRECISION
    return CAUSE_NUMBER if error == MD_NUMBER else CAUSE_MALFORMED


cdef inline bint wanted(Slot* s, MDMessage* m) noexcept:
    # of the subscription that is applied
    return s.req_n == ANY_REQ_ID or m.req_id.n == s.req_n and kfix_equal(m.req_id.p, s.req_id, s.req_n)


cdef inline bint concerns(Slot* s, MDMessage* m, int error) noexcept:
    # a message at fault is taken for one of the applied subscription where its 262 does not prove the contrary
    return m.req_id.n == 0 or error == MD_MIXED or wanted(s, m)


cdef inline uint16_t accept(Handler self, Header* h, MDMessage* m, int32_t row, int64_t recv_ns,
                            uint16_t flags) except? 65535:
    # a message whose entries are decoded, in the precisions of the symbol's row
    if not wanted(&self.slots[row], m):
        self.counters.late += 1
        return flags | MSG_IGNORED
    return take(self, h, m, row, recv_ns, flags)


cdef inline int incomplete(Slot* s, Header* h, MDMessage* m) noexcept:
    # What a message that could be decoded lacks. An order is known by its id alone. An update without entries has lost
    # them, unless its 5041 proves the book.
    if m.without_id and s.level == 3:
        return MD_MISSING_TAG
    return MD_COUNT if m.declared == 0 and h.msg_type == c'X' and not m.has_crc else MD_OK


cdef inline uint16_t take(Handler self, Header* h, MDMessage* m, int32_t row, int64_t recv_ns,
                          uint16_t flags) except? 65535:
    # a message of a subscription that is applied
    cdef Slot* s = &self.slots[row]
    cdef uint8_t before
    cdef int error
    self.row = row
    if s.level == 0 or self.books[row] is None:
        self.make_book(row, self.codec.level_seen(m.n))
        s = &self.slots[row]
    if m.without_id or m.n == 0:
        error = incomplete(s, h, m)
        if error != MD_OK:
            self.row = -1
            return self.unusable(row, h, NULL, m, error, recv_ns, flags)
    before = s.top.state
    flags = apply(self, s, <Book>self.books[row], h, m, recv_ns, flags)
    if s.top.state != before:
        self.changed(row)
    if self.collected is not None:
        self.collected.keep(self.codec.entries, row, h, m, recv_ns, flags, self.session_number)
    self.row = -1
    self.burst += 1
    if self.burst >= BURST:
        self.on_pause()
    return flags


cdef inline uint16_t apply(Handler self, Slot* s, Book book, Header* h, MDMessage* m, int64_t recv_ns,
                           uint16_t flags) noexcept:
    cdef MDEntry* e = self.codec.entries
    cdef int32_t trades = count_trades(e, m.n)
    cdef int result
    self.counters.entries += m.n
    if m.staged:        # by the general path, which alone takes these
        self.counters.repeated_tags += m.repeated_tags
        self.counters.bad_times += m.bad_times
        self.counters.left_out += m.left_out
    s.top.seq = h.seq
    s.top.recv_ns = recv_ns
    s.top.updates += 1
    if m.n:
        s.top.event_ns = e[m.n - 1].event_ns
    if trades:
        self.show_trades(s, e, m.n, h.seq, recv_ns)
    if h.msg_type == c'W':
        flags |= MSG_SNAPSHOT
        self.begin_book(s, book)
    if s.synced and (trades < m.n or m.declared == 0) or h.msg_type == c'W':
        result = apply_message(book, e, m.n)
        if result == BOOK_OK:
            flags |= verify(self, s, book, m, h.msg_type == c'W')
        else:
            fault(s, EVENT_MALFORMED, CAUSE_NUMBER if result == BOOK_TOTAL else CAUSE_OVERFLOW)
        if self.n_slots > FEW_SYMBOLS:
            note_ends(s, book)
    elif m.has_crc:
        flags |= MSG_HAS_CRC
    if s.synced:
        settle(self, s, book, EVENT_APPLIED)
    if not trusted(s.top.state):
        flags |= MSG_BAD_BOOK
    if self.n_pending == BURST:
        self.publish_slot(s, book)
    elif s.shm_slot >= 0 and not s.pending:
        s.pending = 1
        self.pending[self.n_pending] = s - self.slots
        self.n_pending += 1
    return flags


cdef inline uint16_t verify(Handler self, Slot* s, Book book, MDMessage* m, bint snapshot) noexcept:
    # 5041 against our book; without that proof a crossed book is not to be trusted either
    cdef uint16_t flags = 0
    cdef bint agrees, is_crossed
    cdef int result = CHECK_OK
    if m.has_crc:
        flags |= MSG_HAS_CRC
        if self.rule != RULE_OFF and s.verifiable:
            flags |= MSG_CRC_CHECKED
            self.counters.crc_checked += 1
            s.top.crc_checked += 1
            agrees = (book.both_crc if book.crc_known else book.crc_by(book.rule)) == m.crc
            if not agrees or s.evidence | s.unproven:
                result = self.weigh(s, book, m.crc, agrees)
            if result == CHECK_FAILED:
                self.counters.crc_failed += 1
                s.top.crc_failed += 1
                fault(s, EVENT_CRC_FAILED, CAUSE_CRC)
                return flags
            if result == CHECK_OK or result == CHECK_RUN:
                flags |= MSG_CRC_OK
                self.counters.crc_ok += 1
            if s.unproven:
                flags |= MSG_UNVERIFIED
                self.counters.unverified += 1
    is_crossed = crossed(book)
    if is_crossed or s.evidence & EVIDENCE_CROSSED:
        flags |= self.weigh_crossing(s, is_crossed, flags, snapshot)
    return flags


cdef inline void fault(Slot* s, int event, int cause) noexcept:
    # the book is void until its next snapshot
    s.synced = 0
    s.top.state = next_state(event, s.top.state)
    s.top.cause = cause


cdef inline void settle(Handler self, Slot* s, Book book, int event) noexcept:
    cdef int state = next_state(event, s.top.state)
    if state == STATE_SOUND:
        # nearly always: two-sided, traded, no gap
        state = (self.own_state(s, book)
                 if s.halted | s.unproven | self.gap_open | s.evidence & EVIDENCE_CROSSED or book.sides[0].n == 0
                 else STATE_LIVE)
    s.top.state = state


cdef inline int32_t count_trades(MDEntry* e, int32_t n) noexcept:
    cdef int32_t trades = 0, i
    for i in range(n):
        trades += e[i].side == SIDE_TRADE
    return trades


cdef inline void note_ends(Slot* s, Book book) noexcept:
    # for kfix_prefetch_book
    cdef int side
    for side in range(2):
        s.ends[side] = book.sides[side].price + book.sides[side].n
        s.ends[side + 2] = book.sides[side].qty + book.sides[side].n
        s.ends[side + 4] = book.aux[side] + book.sides[side].n


@final
cdef class Handler(Symbols):
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
        where they are not the instrument's, else None) and on_fault(symbol, error) for an error of ours in a message.
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
        self.numbers_reported = set()
        self.sequence = Sequence(-1)
        self.session = session
        self.listener = listener
        self.journal = journal
        self.publisher = publisher
        self.standby_for = standby_for
        self.session_number = session_number
        self.rule = RULES[checksum]
        self.level = _LEVELS[level]
        self.collected = TickBuffer() if collect else None
        self.max_frame = max_frame
        self.sending_time_limit_ns = 120 * 1000000000
        self.garbage_room = GARBAGE_BYTES
        self.row = -1
        self.failed = set()
        if session is None:
            self.following = True
            self.direct = True
            self.sending_time_limit_ns = 0
            self.session = Follower(self)
        elif getattr(session, "sequence", None) is not None:
            self.sequence = session.sequence

    def on_garbled(self, what, head, skipped, recv_ns):
        """Report to the session; a sound frame of another FIX version is its business, not garbage."""
        foreign = other_version(head) if head is not None else None
        if foreign:
            self.session.receive(foreign, fields(foreign), recv_ns)
        else:
            self.session.garbled(what, skipped, recv_ns)

    cdef int on_skipped(self, const char* p, int64_t n, int64_t recv_ns) except -1:
        # Bytes of no sound frame are journaled as well, so that what the venue sent can be looked at. Bounded: a peer
        # that sends nothing else must not fill the disk.
        cdef int64_t at = 0, piece, kept = min(n, self.garbage_room) if self.journal is not None else 0
        self.garbage_room -= kept
        self.counters.garbage_not_kept += n - kept
        while at < kept:
            piece = min(kept - at, GARBAGE_PIECE)
            self.journal.append(REC_GARBAGE, self.session_number, recv_ns, p + at, piece, MSG_IGNORED)
            at += piece
        return 0

    def reset_stream(self):
        """Forget the bytes of an unfinished frame: the next byte is the first of a new connection."""
        if self.end > self.start:
            self.on_skipped(self.buffer + self.start, self.end - self.start, self.last_recv_ns)
        self.garbage_room = GARBAGE_BYTES
        Stream.reset_stream(self)

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
        if self.n_slots > FEW_SYMBOLS:
            self.prefetch_next(h.body + n + 3)  # after its 55=, where the next header is as long as this one
        if self.journal is not None:
            self.journal.put(REC_FRAME, self.session_number, recv_ns, p, n)
        flags = self.market_data(&h, end, recv_ns, 0)
        if self.journal is not None:
            self.journal.commit(flags)
        return 0

    cdef int controlled(self, Header* h, const char* p, int64_t n, int64_t recv_ns) except -1:
        # the session decides, and sees what was received before
        cdef int verdict
        self.on_pause()
        cdef uint16_t flags = MSG_POSSDUP if h.poss_dup else 0
        frame = p[:n]
        try:
            parsed = fields(frame)
        except ProtocolError:
            return self.garbled(p, n, recv_ns)
        verdict = self.session.receive(frame, parsed, recv_ns)
        if self.journal is not None:
            self.journal.put(REC_FRAME, self.session_number, recv_ns, p, n)
        if verdict & DELIVER:
            flags |= self.market_data(h, p + n - 7, recv_ns, flags)
        elif verdict & DEFER:
            flags |= MSG_DEFERRED
        elif verdict & IGNORE:
            flags |= MSG_IGNORED
            self.counters.ignored += 1
        if self.journal is not None:
            self.journal.commit(flags)
        self.release(recv_ns)
        return 0

    cdef int garbled(self, const char* p, int64_t n, int64_t recv_ns) except -1:
        # a frame that is no message: no number is used, so that it comes again by a resend. Journaled all the same
        # (p NULL: it is already)
        self.counters.malformed += 1
        self.session.garbled("field", n, recv_ns)
        if self.journal is not None and p != NULL:
            self.journal.put(REC_FRAME, self.session_number, recv_ns, p, n)
            self.journal.commit(MSG_IGNORED)
        return 0

    def release(self, int64_t recv_ns):
        """Apply what the session kept back until a gap was closed, in order."""
        while released := self.session.take_released(recv_ns):  # its empty answer ends the gap
            for frame, received_ns in released:
                self._apply_released(frame, received_ns)
            if self.journal is not None:
                first, last = self._seq_of(released[0][0]), self._seq_of(released[len(released) - 1][0])
                self.journal.event(self.session_number, recv_ns, Released(first, last))

    def _apply_released(self, frame, int64_t recv_ns):
        try:
            self.deliver(frame, recv_ns, MSG_DEFERRED)
        except Exception as error:
            if self.row < 0:
                raise
            self.fail(self.row, error, recv_ns)

    def _seq_of(self, frame):
        return next((int(value) for tag, value in fields(frame) if tag == 34 and value.isdigit()), None)

    def deliver(self, frame, int64_t recv_ns=0, int flags=0):
        """Apply one W or X frame now, whatever its MsgSeqNum; returns its MSG_* flags."""
        cdef bytes padded = bytes(frame) + b"\0" * PADDING
        flags = self.process_recorded(<const char*>padded, len(padded) - PADDING, recv_ns, flags)
        self.on_pause()
        return flags

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
            return self.market_data(&h, frame + n - 7, recv_ns, flags)
        if h.msg_type == c'y':
            self.read_instruments(fields(frame[:n]))
        return flags

    # ---- market data ----

    cdef uint16_t market_data(self, Header* h, const char* end, int64_t recv_ns, uint16_t flags) except? 65535:
        # 35=W MarketDataSnapshotFullRefresh, 35=X MarketDataIncrementalRefresh: decode, apply, verify, publish
        cdef MDMessage m
        cdef int32_t row
        cdef int error = decode(self, h, end, &m, &row)
        self.counters.market_data += 1
        if error == MD_SPLIT:
            return self.several_symbols(h, end, &m, recv_ns, flags)
        if error != MD_OK or row < 0:
            return self.refused(h, end, &m, error, row, recv_ns, flags)
        return accept(self, h, &m, row, recv_ns, flags)

    cdef uint16_t several_symbols(self, Header* h, const char* end, MDMessage* m, int64_t recv_ns,
                                  uint16_t flags) except? 65535:
        # each entry of the message names its symbol: to every book its own entries, as a message without 5041
        cdef int32_t row
        cdef uint16_t verdict, all_of = MSG_IGNORED, any_of = flags
        cdef int seen = self.requests_seen(h, end, m)
        cdef bint current = seen & CURRENT
        if m.own_ids and seen == CURRENT | OLD:
            return self.partly_late(h, end, m, recv_ns, flags)
        while self.codec.next_part(h, end, m):
            row = self.find_slot(m.symbol.p, m.symbol.n)
            try:
                verdict = self.part(h, end, m, row, current, recv_ns, flags)
            except Exception as failure:    # costs the symbol, not those that follow
                if row < 0:
                    raise
                self.fail(row, failure, recv_ns)
                verdict = flags | MSG_IGNORED | MSG_BAD_BOOK
            all_of &= verdict
            any_of |= verdict & ~MSG_IGNORED
        return any_of | all_of      # ignored is what no book has taken

    cdef int requests_seen(self, Header* h, const char* end, MDMessage* m) noexcept:
        # Of a message of several symbols: CURRENT when a 262 in it is that of its symbol's subscription, OLD when one
        # is not. Where it has one 262 for all, no entry is late when it is current for any of them.
        cdef Span symbol
        cdef int32_t row, i = 0
        cdef int seen = 0
        while self.codec.parked_value(h, end, i, 55, &symbol):
            if m.own_ids:
                self.codec.parked_value(h, end, i, 262, &m.req_id)
            i += 1
            row = self.find_slot(symbol.p, symbol.n)
            if row >= 0:
                seen |= CURRENT if wanted(&self.slots[row], m) else OLD
        return seen

    cdef uint16_t partly_late(self, Header* h, const char* end, MDMessage* m, int64_t recv_ns,
                              uint16_t flags) except? 65535:
        # Some of its requests are current and some are not. The journal has one verdict for a message, by which the
        # recorder applies it whole or not at all: so the books that it would have changed are subscribed again.
        cdef int32_t row
        self.counters.malformed += 1
        self.complain(h, MD_MIXED, recv_ns)
        while self.codec.next_part(h, end, m):
            row = self.find_slot(m.symbol.p, m.symbol.n)
            if row >= 0 and wanted(&self.slots[row], m):
                self.missed(row, h, end, m, MD_MIXED, recv_ns)
        return flags | MSG_IGNORED | MSG_BAD_BOOK

    cdef uint16_t part(self, Header* h, const char* end, MDMessage* m, int32_t row, bint current, int64_t recv_ns,
                       uint16_t flags) except? 65535:
        # what a message of several symbols has for one of them
        cdef Slot* s = &self.slots[row]
        cdef int error
        if row < 0:
            return self.refused(h, end, m, MD_OK, row, recv_ns, flags)
        if not current or s.req_n == NO_REQ_ID:
            self.counters.late += 1
            return flags | MSG_IGNORED
        error = self.codec.scale(m, s.price_precision, s.qty_precision)
        if error == MD_OK:
            return take(self, h, m, row, recv_ns, flags)
        return self.unusable(row, h, end, m, error, recv_ns, flags)

    cdef int on_failure(self, object error, int64_t recv_ns) except -1:
        # an exception of ours while a frame was worked on: it costs the symbol of the frame and nothing else
        cdef int32_t row = self.row
        if row < 0:
            raise error
        if self.journal is not None:
            self.journal.commit(MSG_IGNORED | MSG_BAD_BOOK)
        return self.fail(row, error, recv_ns)

    cdef int fail(self, int32_t row, object error, int64_t recv_ns) except -1:
        # the book is void until its next snapshot. An error about room (shared memory, memory, disk) will come again:
        # its cause does not lead to a new subscription
        cdef bint room = isinstance(error, (KfixError, MemoryError, OSError))
        self.row = -1
        self.counters.faults += 1
        self.slots[row].top.recv_ns = recv_ns
        report = getattr(self.listener, "on_fault", None)
        try:
            self.happen(row, EVENT_REJECT if room else EVENT_MALFORMED, CAUSE_ROOM if room else CAUSE_MALFORMED)
            if report is not None:
                report(self.names[row], error)
        except Exception:
            report = None
        if report is None and row not in self.failed:
            self.failed.add(row)
            logging.getLogger("kfix_md.handler").exception("%s: message not applied: %r", self.names[row], error)
        return 0

    cdef uint16_t refused(self, Header* h, const char* end, MDMessage* m, int error, int32_t row, int64_t recv_ns,
                          uint16_t flags) except? 65535:
        # a message that cannot be decoded whole, or is about no symbol that is known
        cdef const char* p = h.body
        cdef Span symbol
        cdef int32_t other
        if error == MD_NOT_NUMERIC and not self.following and h.seq == self.sequence.expected - 1:
            self.sequence.expected = h.seq
            self.garbled(NULL, end - h.sender.p, recv_ns)
            return flags | MSG_IGNORED
        if row < 0:
            if error != MD_OK:
                self.counters.malformed += 1
                self.complain(h, error, recv_ns)
            if m.symbol.n == 0:
                self.missed_unnamed(h, end, m, error, recv_ns)
            else:
                self.counters.unknown_symbol += 1
            flags |= MSG_IGNORED
        elif concerns(&self.slots[row], m, error):
            flags = self.unusable(row, h, end, m, error, recv_ns, flags)
        else:
            self.counters.late += 1
            return flags | MSG_IGNORED
        while error == MD_MIXED and next_field(&p, end, 55, &symbol):
            other = self.find_slot(symbol.p, symbol.n)
            if other >= 0 and other != row:
                self.missed(other, h, end, m, error, recv_ns)
                flags |= MSG_BAD_BOOK
        return flags

    cdef uint16_t unusable(self, int32_t row, Header* h, const char* end, MDMessage* m, int error, int64_t recv_ns,
                           uint16_t flags) except? 65535:
        # a message of a symbol's subscription, none of which can be applied
        self.counters.malformed += 1
        self.complain(h, error, recv_ns)
        self.missed(row, h, end, m, error, recv_ns)
        return flags | MSG_IGNORED | MSG_BAD_BOOK

    cdef int missed(self, int32_t row, Header* h, const char* end, MDMessage* m, int error,
                    int64_t recv_ns) except -1:
        # the book of a symbol misses the entries of a message
        cdef Slot* s = &self.slots[row]
        self.counters.repeated_tags += m.repeated_tags
        s.top.seq = h.seq
        s.top.recv_ns = recv_ns
        if error == MD_NUMBER and row not in self.numbers_reported:
            self.numbers_reported.add(row)
            report = getattr(self.listener, "on_number", None)
            if report is not None:
                report(self.names[row], m.error_tag, self.codec.error_text(h, end, m).decode("latin-1"))
        self.happen(row, EVENT_MALFORMED, cause_of(error))
        return 0

    cdef int missed_unnamed(self, Header* h, const char* end, MDMessage* m, int error, int64_t recv_ns) except -1:
        # a message without 55: the book of its 262 has missed it; where that is of no subscription, any book may have
        cdef const char* p = h.body
        cdef int32_t row
        cdef bint found = False
        if self.subscribed_ids and (m.req_id.n or next_field(&p, end, 262, &m.req_id)):
            for row in range(self.n_slots):
                if self.slots[row].req_n > 0 and wanted(&self.slots[row], m):
                    found = True
                    self.missed(row, h, end, m, error, recv_ns)
        if not found:
            self.void_books(EVENT_MALFORMED, CAUSE_MALFORMED)
        return 0

    cdef int complain(self, Header* h, int error, int64_t recv_ns) except -1:
        if error != MD_PRECISION and error != MD_NUMBER:
            self.session.malformed(h.seq, chr(h.msg_type), error, recv_ns)
        return 0

    cdef void show_trades(self, Slot* s, MDEntry* e, int32_t n, uint64_t seq, int64_t recv_ns) noexcept:
        cdef MDEntry* last = e + n
        while e < last:
            if e.side == SIDE_TRADE:
                self.counters.trades += 1
                if s.shm_slot >= 0 and not s.silent:
                    self.publisher.publish_trade(s.shm_slot, e, recv_ns, seq)
            e += 1

    cdef uint16_t weigh_crossing(self, Slot* s, bint is_crossed, uint16_t flags, bint snapshot) noexcept:
        # A crossed book is to be trusted when 5041 proves it. That of a snapshot without 5041 may be the venue's: it is
        # UNVERIFIED until its next 5041 shows it, or until it is crossed no more. Returns the flag to be added.
        if is_crossed:
            self.counters.crossed += 1
            if not flags & MSG_CRC_OK:
                if not (snapshot and not flags & MSG_HAS_CRC or s.evidence & EVIDENCE_CROSSED):
                    fault(s, EVENT_CROSSED, CAUSE_CROSSED)
                    return 0
                s.evidence |= EVIDENCE_CROSSED
                if not self.gap_open:
                    s.top.cause = CAUSE_CROSSED
                return MSG_UNVERIFIED
        if s.evidence & EVIDENCE_CROSSED:
            s.evidence &= ~EVIDENCE_CROSSED
            if s.top.cause == CAUSE_CROSSED:
                s.top.cause = CAUSE_NONE
        return 0

    cdef void begin_book(self, Slot* s, Book book) noexcept:
        # what a snapshot does before its entries
        self.counters.snapshots += 1
        book.clear_book()
        s.synced = 1
        s.evidence = s.evidence & ~EVIDENCE_CROSSED | EVIDENCE_FRESH
        book.odd = book.unknown + book.repeated
        if not self.gap_open:
            s.top.cause = own_cause(s)
        elif s.top.state != STATE_GAP:
            s.top.cause = CAUSE_LOST
        settle(self, s, book, EVENT_SNAPSHOT)

    def ticks(self):
        """Take the entries collected since the last call, as an array of TICK_DTYPE (collect=True).

        `instrument` is the row in `symbols`; a snapshot's entries follow one with action CLEAR, entry_no 0. The texts
        of their ids of kind TABLE are in `codec.id_table` until the next call.
        """
        if self.collected is None:
            return np.empty(0, TICK_DTYPE)
        if self.collected.n:
            self.codec.take_ids()
        return self.collected.take(True)

    # ---- instruments and counterparty ----

    def read_instruments(self, parsed):
        """Define every instrument of a 35=y, given as fields()."""
        self.counters.malformed += self.define_listed(parsed)

    def expect_comp_ids(self, sender, target):
        """49 and 56 (bytes) that inbound messages must carry to be applied without the session."""
        self.known_comp_ids = 0
        self.sender = sender + b"\0" * PADDING if sender is not None else None
        self.target = target + b"\0" * PADDING if target is not None else None

    # ---- what Python sees ----

    def __dir__(self):
        # what a user needs; the feed uses more, see _handler.pyi
        return list(_FACE)

    @property
    def fast(self):
        """Whether W and X in order are applied without asking the session, which sets it: it is logged on, and no
        message is missing. Set to True, books that were kept in GAP are whole again; while it is False none is LIVE."""
        return self.direct

    @fast.setter
    def fast(self, bint on):
        self.direct = on
        self.gap_open = not on
        if on:
            self.close_gap()

    @property
    def checksum(self):
        """The configured rule of 5041; under "auto" the one that most symbols have shown, "auto" before the first. What
        each symbol has shown: checksum_of()."""
        cdef int rule = self.rule
        if rule == RULE_AUTO and self.proved[self.first_rule]:
            rule = self.first_rule
        return next(name for name, code in RULES.items() if code == rule)

    @property
    def stats(self):
        """Counters since the handler was made, as a dict of ints."""
        stats = Stream.stats.__get__(self) | dict(self.counters) | getattr(self.session, "counts", {})
        stats["fast_messages"] = self.codec.fast_messages
        stats["general_messages"] = self.codec.general_messages
        return stats

    @property
    def protocol_errors(self):
        """Everything the peer may not send, together."""
        return (self.garbage + self.bad_length + self.bad_checksum + self.bad_begin_string + self.counters.malformed
                + self.counters.unknown_symbol + self.stats.get("too_low", 0))
