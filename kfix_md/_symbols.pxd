from cpython.object cimport PyObject
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from kfix_md._book cimport OrderBook, Room
from kfix_md._list_rows cimport Row
from kfix_md._entry cimport CAUSE_CROSSED, CAUSE_NONE, CAUSE_RULE, CAUSE_STATUS, TopOfBook
from kfix_md.shm.writer cimport SegmentWriter

cdef extern from "c/borrowed.h" nogil:
    PyObject* kfix_list_item(list items, Py_ssize_t i)

cdef enum:
    SYMBOL_BYTES = 40
    REQ_ID_BYTES = 32
    LINE = 64               # bytes of a cache line
    ANY_REQ_ID = 0
    NO_REQ_ID = -1
    FEW_SYMBOLS = 32        # whose books stay in the caches without a prefetch
    BURST = 64              # messages of one read after which touched books are published, at the latest

    EVIDENCE_FRESH = 1      # no 5041 was checked since the snapshot
    EVIDENCE_CROSSED = 4    # its snapshot was crossed and had no 5041: UNVERIFIED until one proves it, or it uncrosses
    EVIDENCE_OPEN = 2       # level and order rule have not been distinguished for this book


cdef struct Slot:               # one symbol of this stream: three cache lines
    char symbol[SYMBOL_BYTES]
    int32_t symbol_n
    int32_t req_n               # length of the 262 that is applied; ANY_REQ_ID, NO_REQ_ID
    int32_t shm_slot            # -1: not published
    int8_t price_precision
    int8_t qty_precision
    uint8_t synced              # the book holds a snapshot and every message since
    uint8_t halted              # the instrument's status does not trade
    uint8_t verifiable          # 5041 can be checked: the subscribed depth covers ten levels
    uint8_t level               # 2, 3, or 0 while it is not known
    uint8_t pending             # to be published at the next pause
    uint8_t silent              # another handler's copy is the published one
    uint8_t unproven            # 5041 fails under every known rule: UNVERIFIED
    uint8_t evidence            # EVIDENCE_ bits: what the next 5041 is to be looked at for
    uint8_t misses              # fresh snapshots in a row after which no rule held
    uint8_t run                 # messages in a row by which one rule has held, while unproven
    TopOfBook top
    const void* ends[6]         # after the best of the book's arrays, see kfix_prefetch_book
    char req_id[REQ_ID_BYTES]


cdef inline int own_cause(const Slot* s) noexcept nogil:
    # why a book that is followed is not LIVE
    if s.halted:
        return CAUSE_STATUS
    if s.evidence & EVIDENCE_CROSSED:
        return CAUSE_CROSSED
    return CAUSE_RULE if s.unproven else CAUSE_NONE


cdef class Symbols:
    cdef public object listener
    cdef SegmentWriter publisher
    cdef int session_number
    cdef int standby_for            # session number of the handler whose slots we share, -1: none
    cdef int rule                   # configured rule of 5041: RULE_ code
    cdef int first_rule             # under RULE_AUTO, what a new L3 book is tried with first
    cdef uint32_t proved[8]         # symbols that have shown each rule
    cdef readonly int level         # 2, 3 or 0 for "auto"
    cdef dict depths                # by row: 264 of its subscription
    cdef bint subscribed_ids
    # rows whose books have changed since they were published, and messages since then (see BURST)
    cdef int32_t pending[BURST]
    cdef int32_t n_pending, burst
    # symbols: slots by row, found through an open-addressing table
    cdef Slot* slots
    cdef int32_t n_slots, slot_capacity
    cdef int32_t* table
    cdef uint32_t mask
    cdef readonly uint64_t probes   # rows looked at to find symbols: about one for each message
    cdef readonly Room room         # memory that the books may still take
    cdef list by_row, names         # books (None: no data yet) and symbols
    cdef int32_t applying           # calls of Handler.apply
    cdef list replaced              # books that these may still use
    cdef int64_t definitions   # changes whenever a symbol or a precision does
    cdef bint gap_open              # messages of the session are missing: no book is LIVE

    cdef int32_t find_slot(self, const char* symbol, int32_t n) noexcept
    cdef int32_t find_symbol(self, symbol) except -2
    cdef int32_t find_text(self, bytes text) except -2
    cdef int32_t row_of(self, symbol) except -1
    cdef int32_t define_row(
        self, int32_t row, symbol, bytes text, int price_precision, int qty_precision) except -1
    cdef bint _usable(self, Row listed) except -1
    cdef int32_t new_slot(self, symbol, bytes text, int price_precision, int qty_precision) except -1
    cdef void enter(self, int32_t row) noexcept
    cdef int mark_row(self, int32_t row, int event, int cause) except -1
    cdef int close_gap(self) except -1
    cdef int make_book(self, int32_t row, int seen) except -1
    cdef int32_t limit_of(self, int32_t row, int level) except -1
    cdef int _more_slots(self, int32_t capacity) except -1
    cdef int _larger_table(self) except -1
    cdef void prefetch_next(self, const char* symbol, const char* first, const char* last) noexcept
    cdef int publish_pending(self) except -1 nogil
    cdef int happen(self, int32_t row, int event, int cause) except -1
    cdef int changed(self, int32_t row) except -1 with gil
    cdef int report(self, method, tuple what) except -1
    cdef void turn(self, Slot* s, OrderBook book, int event) noexcept nogil
    cdef int weigh(self, Slot* s, OrderBook book, uint32_t crc, bint agrees) noexcept nogil
    cdef int doubt(self, Slot* s, OrderBook book, bint fresh) noexcept nogil
    cdef int show_rule(self, Slot* s, OrderBook book) except -1 with gil
    cdef int starting_rule(self, int level) noexcept
    cdef void publish_slot(self, Slot* s, OrderBook book) noexcept nogil
    cdef int own_state(self, Slot* s, OrderBook book) noexcept nogil
