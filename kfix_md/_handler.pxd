from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kfix_md._book cimport Book
from kfix_md._codec cimport Codec, Header, MDMessage, Span
from kfix_md._entry cimport Tick, TopOfBook
from kfix_md._journal cimport JournalWriter
from kfix_md._sequence cimport Sequence
from kfix_md._shm cimport SegmentWriter
from kfix_md._stream cimport Stream

cdef enum:
    SYMBOL_BYTES = 40
    REQ_ID_BYTES = 40
    ANY_REQ_ID = 0
    NO_REQ_ID = -1


cdef struct Slot:               # one symbol of this stream
    char symbol[SYMBOL_BYTES]
    char req_id[REQ_ID_BYTES]
    int32_t symbol_n
    int32_t req_n               # length of the 262 that is applied; ANY_REQ_ID, NO_REQ_ID
    int32_t shm_slot            # -1: not published
    int32_t price_precision
    int32_t qty_precision
    uint8_t synced              # the book holds a snapshot and every message since
    uint8_t halted              # the instrument's status does not trade
    uint8_t verifiable          # 5041 can be checked: the subscribed depth covers ten levels
    uint8_t level               # 2, 3, or 0 while it is not known
    uint8_t pending             # to be published at the next pause
    uint8_t silent              # another handler's copy is the published one
    TopOfBook top
    const void* ends[6]         # behind the best of the book's arrays, see kfix_ask_for


cdef struct Counters:
    uint64_t market_data, entries, snapshots, trades
    uint64_t crc_checked, crc_ok, crc_failed
    uint64_t malformed, late, unknown_symbol, ignored, crossed, repeated_tags


@final
cdef class Handler(Stream):
    cdef readonly Codec codec
    cdef readonly Sequence sequence
    cdef public object session, listener
    cdef JournalWriter journal
    cdef SegmentWriter publisher
    cdef int standby_for            # session number of the handler whose slots we share, -1: none
    cdef public bint fast           # W and X in order need no word of the session
    cdef public int64_t last_recv_ns
    cdef public int64_t last_sending_ns     # 52 of the last message, for the clock offset
    cdef public int64_t sending_time_limit_ns
    cdef readonly int session_number
    cdef int rule, level
    cdef bint collect, subscribed_ids
    cdef bint following         # no session: nobody can be asked for what is missing
    cdef Counters counters
    # rows whose books have changed since they were published, and messages since then (see BURST)
    cdef int32_t pending[32]
    cdef int32_t n_pending, burst
    # symbols: slots by row, found through an open-addressing table
    cdef Slot* slots
    cdef int32_t n_slots, slot_capacity
    cdef int32_t* table
    cdef uint32_t mask
    cdef list books, names
    cdef uint32_t known_comp_ids    # Header.comp_ids that are those
    cdef bytes sender, target       # expected inbound 49 and 56; None: any
    # collected ticks
    cdef object tick_array
    cdef Tick* tick_rows
    cdef int64_t n_ticks, tick_capacity

    cdef bint in_order(self, Header* h, int64_t recv_ns) noexcept
    cdef int controlled(self, Header* h, const char* p, int64_t n, int64_t recv_ns) except -1
    cdef int garbled(self, const char* p, int64_t n, int64_t recv_ns) except -1
    cdef int decode(self, Header* h, const char* end, MDMessage* m, int32_t* row) noexcept
    cdef int complain(self, Header* h, int error, int64_t recv_ns) except -1
    cdef uint16_t market_data(self, Header* h, const char* end, int64_t recv_ns, uint16_t flags) except? 65535
    cdef uint16_t apply(self, Slot* s, Book book, Header* h, MDMessage* m, int64_t recv_ns, uint16_t flags) noexcept
    cdef uint16_t verify(self, Slot* s, Book book, MDMessage* m) noexcept
    cdef int check_crc(self, Book book, uint32_t crc) noexcept
    cdef int collect_ticks(self, int32_t row, Header* h, MDMessage* m, int64_t recv_ns, uint16_t flags) except -1
    cdef int32_t find_slot(self, const char* symbol, int32_t n) noexcept
    cdef int set_state(self, int32_t row, int state, int cause) except -1
    cdef void publish_slot(self, Slot* s, Book book) noexcept
    cdef int settled(self, Slot* s, Book book) noexcept
    cdef int process_recorded(self, const char* frame, Py_ssize_t n, int64_t recv_ns, uint16_t flags) except? -1
