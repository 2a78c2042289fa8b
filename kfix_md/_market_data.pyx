"""What one W or X does to the books: decode, apply, verify. The middle of the hot loop, and what a message may lack.

`on_message` takes a frame of which the header has been read; what of it cannot be used costs the symbol concerned its
book until the next snapshot, and nothing else.
"""

from cpython.object cimport PyObject
from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.string cimport memset

from kfix_md._book cimport BOOK_OK, BOOK_TOTAL, RULE_OFF, OrderBook, apply_message, crossed
from kfix_md._book_l3 cimport L3Book, prefetches
from kfix_md._checksum cimport CHECK_FAILED, CHECK_OK, CHECK_RUN
from kfix_md._codec cimport Codec
from kfix_md._decode cimport decode
from kfix_md._entry cimport *
from kfix_md._fields cimport (
    MD_COUNT, MD_MISSING_TAG, MD_MIXED, MD_NOT_NUMERIC, MD_NUMBER, MD_OK, MD_PRECISION, MD_SPLIT, Header, MDMessage,
    Span, next_field,
)
from kfix_md._recorded cimport Recorded
from kfix_md._state cimport *
from kfix_md._symbols cimport (
    ANY_REQ_ID, BURST, EVIDENCE_CROSSED, EVIDENCE_FRESH, FEW_SYMBOLS, NO_REQ_ID, kfix_list_item, Slot, Symbols,
    own_cause,
)
from kfix_md._tick_buffer cimport TickBuffer
from kfix_md.session.sequence cimport Sequence

import logging

from kfix_md._book import LIMITS
from kfix_md.errors import KfixError

cdef extern from "Python.h":
    PyObject* Py_None

cdef extern from "c/scan.h" nogil:
    int kfix_equal(const char* a, const char* b, int64_t n)

cdef enum:
    CURRENT = 1                 # what requests_seen() finds
    OLD = 2


# ---- the steps of a message ----

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


cdef inline uint16_t accept(MarketData self, Header* h, MDMessage* m, int32_t row, int64_t recv_ns,
                            uint16_t flags) except? 65535:
    # a message whose entries are decoded, in the precisions of the symbol's row
    if not wanted(&self.books.slots[row], m):
        self.counters.late += 1
        return flags | MSG_IGNORED
    return take(self, h, m, self.codec.entries, row, recv_ns, flags)


cdef inline int incomplete(Slot* s, Header* h, MDMessage* m) noexcept nogil:
    # What a message that could be decoded lacks. An order is known by its id alone. An update without entries has lost
    # them, unless its 5041 proves the book.
    if m.without_id and s.level == 3:
        return MD_MISSING_TAG
    return MD_COUNT if m.declared == 0 and h.msg_type == c'X' and not m.has_crc else MD_OK


cdef inline uint16_t take(MarketData self, Header* h, MDMessage* m, MDEntry* e, int32_t row, int64_t recv_ns,
                          uint16_t flags) except? 65535:
    # a message of a subscription that is applied, and its m.n entries
    self.row = row
    if lacks_book(self, row):
        self.books.make_book(row, self.codec.level_seen(m.n))
    return take_into(self, <OrderBook>self.books.by_row[row], h, m, e, row, recv_ns, flags)


cdef inline bint lacks_book(MarketData self, int32_t row) noexcept nogil:
    # or has one of a level that the entries so far do not show
    return self.books.slots[row].level == 0 or kfix_list_item(self.books.by_row, row) == Py_None


cdef inline uint16_t take_into(MarketData self, OrderBook book, Header* h, MDMessage* m, MDEntry* e, int32_t row,
                               int64_t recv_ns, uint16_t flags) except? 65535 nogil:
    # the same with the book of the row, which stays until it returns
    cdef Slot* s = &self.books.slots[row]
    cdef uint8_t before
    cdef int error
    self.row = row
    if m.without_id or m.n == 0:
        error = incomplete(s, h, m)
        if error != MD_OK:
            self.row = -1
            return self.lacking(row, h, m, error, recv_ns, flags)
    before = s.top.state
    flags = apply(self, s, book, h, m, e, recv_ns, flags)
    if self.collected is not None:      # before a listener can have another message decoded
        self.collected.keep(e, row, h, m, recv_ns, flags, self.books.session_number)
    if s.top.state != before:
        self.books.changed(row)
    self.row = -1
    self.books.burst += 1
    if self.books.burst >= BURST:
        self.books.publish_pending()
    return flags


cdef inline uint16_t apply(MarketData self, Slot* s, OrderBook book, Header* h, MDMessage* m, MDEntry* e,
                           int64_t recv_ns, uint16_t flags) noexcept nogil:
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
        if self.books.n_slots > FEW_SYMBOLS and s.level == 3 and h.msg_type == c'X' \
                and not prefetches(<L3Book>book, m.n):
            (<L3Book>book).prefetch_ahead(e, e + m.n)
        result = apply_message(book, e, m.n)
        if result == BOOK_OK:
            flags |= verify(self, s, book, m, h.msg_type == c'W')
        else:
            self.overflow(s, book, result)
        if self.books.n_slots > FEW_SYMBOLS:
            note_ends(s, book)
    elif m.has_crc:
        flags |= MSG_HAS_CRC
    if s.synced:
        settle(self, s, book, EVENT_APPLIED)
    if not trusted(s.top.state):
        flags |= MSG_BAD_BOOK
    if self.books.n_pending == BURST:
        self.books.publish_slot(s, book)
    elif s.shm_slot >= 0 and not s.pending:
        s.pending = 1
        self.books.pending[self.books.n_pending] = s - self.books.slots
        self.books.n_pending += 1
    return flags


cdef inline uint16_t verify(MarketData self, Slot* s, OrderBook book, MDMessage* m, bint snapshot) noexcept nogil:
    # 5041 against our book; without that proof a crossed book is not to be trusted either
    cdef uint16_t flags = 0
    cdef bint agrees, is_crossed
    cdef int result = CHECK_OK
    if m.has_crc:
        flags |= MSG_HAS_CRC
        if self.books.rule != RULE_OFF and s.verifiable:
            flags |= MSG_CRC_CHECKED
            self.counters.crc_checked += 1
            s.top.crc_checked += 1
            agrees = (book.both_crc if book.crc_known else book.crc_by(book.rule)) == m.crc
            if not agrees or s.evidence | s.unproven:
                result = self.books.weigh(s, book, m.crc, agrees)
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


cdef inline void fault(Slot* s, int event, int cause) noexcept nogil:
    # the book is void until its next snapshot
    s.synced = 0
    s.top.state = next_state(event, s.top.state)
    s.top.cause = cause


cdef inline void settle(MarketData self, Slot* s, OrderBook book, int event) noexcept nogil:
    cdef int state = next_state(event, s.top.state)
    if state == STATE_SOUND:
        # nearly always: two-sided, traded, no gap
        state = (self.books.own_state(s, book)
                 if s.halted | s.unproven | self.books.gap_open | s.evidence & EVIDENCE_CROSSED or book.sides[0].n == 0
                 else STATE_LIVE)
    s.top.state = state


cdef inline int32_t count_trades(MDEntry* e, int32_t n) noexcept nogil:
    cdef int32_t trades = 0, i
    for i in range(n):
        trades += e[i].side == SIDE_TRADE
    return trades


cdef inline void note_ends(Slot* s, OrderBook book) noexcept nogil:
    # for kfix_prefetch_book
    cdef int side
    for side in range(2):
        s.ends[side] = book.sides[side].price + book.sides[side].n
        s.ends[side + 2] = book.sides[side].qty + book.sides[side].n
        s.ends[side + 4] = book.aux[side] + book.sides[side].n


cdef inline int apply_recorded(MarketData self, Recorded r, Py_ssize_t i, int32_t row,
                               int64_t recv_ns) except -1 nogil:
    # message i of those that were decoded before: applied, verified and published as one that arrives now
    cdef Header h
    cdef MDMessage m
    cdef MDEntry* e = r.entries + r.starts[i]
    memset(&h, 0, sizeof(Header))
    memset(&m, 0, sizeof(MDMessage))
    h.seq = r.seqs[i]
    h.msg_type = c'W' if r.flags[i] & MSG_SNAPSHOT else c'X'
    m.n = m.declared = m.groups = <int32_t>(r.ends[i] - r.starts[i])
    if m.n and e.action == ACTION_CLEAR:    # what the recorder writes before the entries of a snapshot
        e += 1
        m.n = m.declared = m.groups = m.n - 1
    m.has_crc = (r.flags[i] & MSG_HAS_CRC) != 0
    m.crc = r.crcs[i]
    self.counters.market_data += 1
    take_into(self, <OrderBook>kfix_list_item(self.books.by_row, row), &h, &m, e, row, recv_ns, 0)
    return 0


@final
cdef class MarketData:
    """Decoder and books of one stream, to which a Handler brings the frames in their order.

    Parameters
    ----------
    codec : Codec
    books : Symbols
    sequence : Sequence
        Of inbound messages; a frame that turns out to be none gives its number back.
    session : object
        A Session or what takes its place: `malformed` and `garbled` are reported to it.
    collect : bool
        Keep every entry as a Tick.
    following : bool
        There is no session: what is missing cannot be requested.
    """

    def __cinit__(self, Codec codec, Symbols books, Sequence sequence, session, bint collect, bint following):
        self.codec = codec
        self.books = books
        self.sequence = sequence
        self.session = session
        self.collected = TickBuffer() if collect else None
        self.following = following
        self.row = -1
        self.failed = set()
        self.limited = set()
        self.numbers_reported = set()

    cdef uint16_t on_message(self, Header* h, const char* end, int64_t recv_ns, uint16_t flags) except? 65535:
        # 35=W MarketDataSnapshotFullRefresh, 35=X MarketDataIncrementalRefresh: decode, apply, verify, publish
        cdef MDMessage m
        cdef int32_t row
        cdef int error = decode(self.codec, self.books, h, end, &m, &row)
        self.counters.market_data += 1
        if error == MD_SPLIT:
            return self.several_symbols(h, end, &m, recv_ns, flags)
        if error != MD_OK or row < 0:
            return self.reject(h, end, &m, error, row, recv_ns, flags)
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
            row = self.books.find_slot(m.symbol.p, m.symbol.n)
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
            row = self.books.find_slot(symbol.p, symbol.n)
            if row >= 0:
                seen |= CURRENT if wanted(&self.books.slots[row], m) else OLD
        return seen

    cdef uint16_t partly_late(self, Header* h, const char* end, MDMessage* m, int64_t recv_ns,
                              uint16_t flags) except? 65535:
        # Some of its requests are current and some are not. The journal has one verdict for a message, by which the
        # recorder applies it whole or not at all: so the books that it would have changed are subscribed again.
        cdef int32_t row
        self.counters.malformed += 1
        self.complain(h, MD_MIXED, recv_ns)
        while self.codec.next_part(h, end, m):
            row = self.books.find_slot(m.symbol.p, m.symbol.n)
            if row >= 0 and wanted(&self.books.slots[row], m):
                self.missed(row, h, end, m, MD_MIXED, recv_ns)
        return flags | MSG_IGNORED | MSG_BAD_BOOK

    cdef uint16_t part(self, Header* h, const char* end, MDMessage* m, int32_t row, bint current, int64_t recv_ns,
                       uint16_t flags) except? 65535:
        # what a message of several symbols has for one of them
        cdef Slot* s = &self.books.slots[row]
        cdef int error
        if row < 0:
            return self.reject(h, end, m, MD_OK, row, recv_ns, flags)
        if not current or s.req_n == NO_REQ_ID:
            self.counters.late += 1
            return flags | MSG_IGNORED
        error = self.codec.scale(m, s.price_precision, s.qty_precision)
        if error == MD_OK:
            return take(self, h, m, self.codec.entries, row, recv_ns, flags)
        return self.unusable(row, h, end, m, error, recv_ns, flags)

    cdef Py_ssize_t on_recorded(self, Recorded r, const int32_t* rows, Py_ssize_t first, Py_ssize_t end,
                                int64_t now_ns) except -1 nogil:
        # Messages [first, end) of those that were decoded before, each as one that arrives now, up to one without a
        # book. Returns which that is, or `end`; `self.recorded` is the one at work.
        cdef Py_ssize_t i
        cdef int32_t row
        cdef uint8_t level
        for i in range(first, end):
            row = rows[r.instrument[i]]
            if row < 0:
                continue
            level = self.books.slots[row].level
            if level and level != r.levels[i]:
                continue                        # the symbol's other book
            if lacks_book(self, row):
                return i
            self.recorded = i
            apply_recorded(self, r, i, row, now_ns or r.times[i])
        return end

    cdef int make_recorded(self, Recorded r, Py_ssize_t i, int32_t row) except -1:
        # the book of message i
        self.row, self.recorded = row, i
        try:
            self.books.make_book(row, r.levels[i])
        except Exception:
            self.counters.market_data += 1      # it will not be applied
            raise
        self.row = -1
        return 0

    cdef uint16_t lacking(self, int32_t row, Header* h, MDMessage* m, int error, int64_t recv_ns,
                          uint16_t flags) except? 65535 with gil:
        cdef unsigned long owner = self.books.room.leave()
        try:
            return self.unusable(row, h, NULL, m, error, recv_ns, flags)
        finally:
            self.books.room.resume(owner)

    cdef int fail(self, int32_t row, object error, int64_t recv_ns) except -1:
        # the book is void until its next snapshot. An error about room (shared memory, memory, disk) will come again:
        # its cause does not lead to a new subscription
        cdef bint room = isinstance(error, (KfixError, MemoryError, OSError))
        self.row = -1
        self.counters.faults += 1
        self.books.slots[row].top.recv_ns = recv_ns
        report = getattr(self.books.listener, "on_fault", None)
        try:
            self.books.happen(row, EVENT_REJECT if room else EVENT_MALFORMED, CAUSE_ROOM if room else CAUSE_MALFORMED)
            if report is not None:
                report(self.books.names[row], error)
        except Exception:
            report = None
        if report is None and row not in self.failed:
            self.failed.add(row)
            logging.getLogger("kfix_md.handler").exception("%s: message not applied: %r", self.books.names[row], error)
        return 0

    cdef uint16_t reject(self, Header* h, const char* end, MDMessage* m, int error, int32_t row, int64_t recv_ns,
                         uint16_t flags) except? 65535:
        # a message that cannot be decoded whole, or is about no symbol that is known
        cdef const char* p = h.body
        cdef Span symbol
        cdef int32_t other
        if error == MD_NOT_NUMERIC and not self.following and h.seq == self.sequence.expected - 1:
            self.sequence.expected = h.seq
            self.garbled(end - h.sender.p, recv_ns)
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
        elif concerns(&self.books.slots[row], m, error):
            flags = self.unusable(row, h, end, m, error, recv_ns, flags)
        else:
            self.counters.late += 1
            return flags | MSG_IGNORED
        while error == MD_MIXED and next_field(&p, end, 55, &symbol):
            other = self.books.find_slot(symbol.p, symbol.n)
            if other >= 0 and other != row:
                self.missed(other, h, end, m, error, recv_ns)
                flags |= MSG_BAD_BOOK
        return flags

    cdef int garbled(self, int64_t n, int64_t recv_ns) except -1:
        # a frame that is no message: no number is used, so that it comes again by a resend
        self.counters.malformed += 1
        self.session.garbled("field", n, recv_ns)
        return 0

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
        cdef Slot* s = &self.books.slots[row]
        self.counters.repeated_tags += m.repeated_tags
        s.top.seq = h.seq
        s.top.recv_ns = recv_ns
        if error == MD_NUMBER and row not in self.numbers_reported:
            self.numbers_reported.add(row)
            report = getattr(self.books.listener, "on_number", None)
            if report is not None:
                report(self.books.names[row], m.error_tag, self.codec.error_text(h, end, m).decode("latin-1"))
        self.books.happen(row, EVENT_MALFORMED, cause_of(error))
        return 0

    cdef int missed_unnamed(self, Header* h, const char* end, MDMessage* m, int error, int64_t recv_ns) except -1:
        # a message without 55: the book of its 262 has missed it; where that is of no subscription, any book may have
        cdef const char* p = h.body
        cdef int32_t row
        cdef bint found = False
        if self.books.subscribed_ids and (m.req_id.n or next_field(&p, end, 262, &m.req_id)):
            for row in range(self.books.n_slots):
                if self.books.slots[row].req_n > 0 and wanted(&self.books.slots[row], m):
                    found = True
                    self.missed(row, h, end, m, error, recv_ns)
        if not found:
            self.books.void_books(EVENT_MALFORMED, CAUSE_MALFORMED)
        return 0

    cdef int complain(self, Header* h, int error, int64_t recv_ns) except -1:
        if error != MD_PRECISION and error != MD_NUMBER:
            self.session.malformed(h.seq, chr(h.msg_type), error, recv_ns)
        return 0

    cdef void overflow(self, Slot* s, OrderBook book, int result) noexcept with gil:
        # the book has reached a limit: it is emptied, and void until its next snapshot
        cdef int32_t row = s - self.books.slots
        fault(s, EVENT_MALFORMED, CAUSE_NUMBER if result == BOOK_TOTAL else CAUSE_LIMIT)
        book.clear_book()
        if book.work > book.work_limit:
            book.work_limit = book.work     # no debt: its next snapshot may be small
        if result == BOOK_TOTAL:
            return
        self.counters.limits += 1
        report = getattr(self.books.listener, "on_limit", None)
        if report is not None:
            self.books.report(report, (self.books.names[row], LIMITS[result]))
        elif row not in self.limited:
            self.limited.add(row)
            self.books.report(logging.getLogger("kfix_md.handler").warning,
                              ("%s: its book would take %s; it is void until its next snapshot", self.books.names[row],
                               LIMITS[result]))

    cdef void show_trades(self, Slot* s, MDEntry* e, int32_t n, uint64_t seq, int64_t recv_ns) noexcept nogil:
        cdef MDEntry* last = e + n
        while e < last:
            if e.side == SIDE_TRADE:
                self.counters.trades += 1
                if s.shm_slot >= 0 and not s.silent:
                    self.books.publisher.publish_trade(s.shm_slot, e, recv_ns, seq)
            e += 1

    cdef uint16_t weigh_crossing(self, Slot* s, bint is_crossed, uint16_t flags, bint snapshot) noexcept nogil:
        # A crossed book is to be trusted when 5041 proves it. That of a snapshot without 5041 may be the venue's: it is
        # UNVERIFIED until its next 5041 shows it, or until it is crossed no more. Returns the flag to be added.
        if is_crossed:
            self.counters.crossed += 1
            if not flags & MSG_CRC_OK:
                if not (snapshot and not flags & MSG_HAS_CRC or s.evidence & EVIDENCE_CROSSED):
                    fault(s, EVENT_CROSSED, CAUSE_CROSSED)
                    return 0
                s.evidence |= EVIDENCE_CROSSED
                if not self.books.gap_open:
                    s.top.cause = CAUSE_CROSSED
                return MSG_UNVERIFIED
        if s.evidence & EVIDENCE_CROSSED:
            s.evidence &= ~EVIDENCE_CROSSED
            if s.top.cause == CAUSE_CROSSED:
                s.top.cause = CAUSE_NONE
        return 0

    cdef void begin_book(self, Slot* s, OrderBook book) noexcept nogil:
        # what a snapshot does before its entries
        self.counters.snapshots += 1
        book.clear_book()
        s.synced = 1
        s.evidence = s.evidence & ~EVIDENCE_CROSSED | EVIDENCE_FRESH
        book.odd = book.unknown + book.repeated
        if not self.books.gap_open:
            s.top.cause = own_cause(s)
        elif s.top.state != STATE_GAP:
            s.top.cause = CAUSE_LOST
        settle(self, s, book, EVENT_SNAPSHOT)
