from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t

from kfix_md._book cimport OrderBook
from kfix_md._codec cimport Codec
from kfix_md._entry cimport MDEntry
from kfix_md._fields cimport Header, MDMessage
from kfix_md._recorded cimport Recorded
from kfix_md._symbols cimport Slot, Symbols
from kfix_md._tick_buffer cimport TickBuffer
from kfix_md.session.sequence cimport Sequence

cdef struct Counters:
    uint64_t market_data, entries, snapshots, trades
    uint64_t crc_checked, crc_ok, crc_failed, unverified
    uint64_t malformed, faults, late, unknown_symbol, crossed, repeated_tags
    uint64_t bad_times              # 273 and 5060 that are no times: the entry has that of its message
    uint64_t limits                 # books that reached a limit of levels, orders, work or memory
    uint64_t left_out               # groups that are no part of a book and were not kept


@final
cdef class MarketData:
    cdef Codec codec
    cdef Symbols books
    cdef Sequence sequence
    cdef object session
    cdef TickBuffer collected       # every entry, None: not wanted
    cdef bint following             # no session: what is missing cannot be requested
    cdef Counters counters
    cdef int32_t row                # whose message is being applied, -1: none
    cdef Py_ssize_t recorded        # number of it, among those of on_recorded
    cdef set failed                 # rows whose first error has been logged
    cdef set limited                # rows whose first limit has been logged
    cdef set numbers_reported       # rows whose number that does not fit was reported

    cdef uint16_t on_message(self, Header* h, const char* end, int64_t recv_ns, uint16_t flags) except? 65535
    cdef Py_ssize_t on_recorded(self, Recorded r, const int32_t* rows, Py_ssize_t first, Py_ssize_t end,
                                int64_t now_ns) except -1 nogil
    cdef int make_recorded(self, Recorded r, Py_ssize_t i, int32_t row) except -1
    cdef uint16_t lacking(self, int32_t row, Header* h, MDMessage* m, int error, int64_t recv_ns,
                          uint16_t flags) except? 65535 with gil
    cdef int garbled(self, int64_t n, int64_t recv_ns) except -1
    cdef int fail(self, int32_t row, object error, int64_t recv_ns) except -1
    cdef int complain(self, Header* h, int error, int64_t recv_ns) except -1
    cdef int missed_unnamed(self, Header* h, const char* end, MDMessage* m, int error, int64_t recv_ns) except -1
    cdef int requests_seen(self, Header* h, const char* end, MDMessage* m) noexcept
    cdef uint16_t partly_late(self, Header* h, const char* end, MDMessage* m, int64_t recv_ns,
                              uint16_t flags) except? 65535
    cdef uint16_t part(self, Header* h, const char* end, MDMessage* m, int32_t row, bint current, int64_t recv_ns,
                       uint16_t flags) except? 65535
    cdef uint16_t several_symbols(self, Header* h, const char* end, MDMessage* m, int64_t recv_ns,
                                  uint16_t flags) except? 65535
    cdef int missed(self, int32_t row, Header* h, const char* end, MDMessage* m, int error, int64_t recv_ns) except -1
    cdef uint16_t unusable(self, int32_t row, Header* h, const char* end, MDMessage* m, int error, int64_t recv_ns,
                           uint16_t flags) except? 65535
    cdef uint16_t reject(self, Header* h, const char* end, MDMessage* m, int error, int32_t row, int64_t recv_ns,
                         uint16_t flags) except? 65535
    cdef void overflow(self, Slot* s, OrderBook book, int result) noexcept with gil
    cdef void show_trades(self, Slot* s, MDEntry* e, int32_t n, uint64_t seq, int64_t recv_ns) noexcept nogil
    cdef uint16_t weigh_crossing(self, Slot* s, bint is_crossed, uint16_t flags, bint snapshot) noexcept nogil
    cdef void begin_book(self, Slot* s, OrderBook book) noexcept nogil
