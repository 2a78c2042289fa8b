# Journal records -> ticks: one decoder for each feed session, and the router between them.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t

from kfix_md._book cimport OrderBook
from kfix_md._codec cimport Codec
from kfix_md._fields cimport Header, MDMessage
from kfix_md._symbols cimport Symbols
from kfix_md._tick_buffer cimport TickBuffer
from kfix_md.journal.records cimport Record


cdef class SessionTicks:
    cdef Codec codec
    cdef public int level           # 2, 3; 0 until an entry shows it
    cdef public int limit           # most levels a side of the books (264), 0: all
    cdef bint books_wanted
    cdef Symbols symbols            # rows and precisions; its books stay empty
    cdef list books                 # by row: OrderBook with everything decoded, or None
    cdef object row_array           # _ROW_DTYPE, owner of `info`
    cdef void* info
    cdef TickBuffer buffer
    cdef readonly list deferred     # frames of an open gap: (MsgSeqNum, position, recv_ns, flags, frame)
    cdef readonly Py_ssize_t deferred_bytes
    cdef readonly int64_t messages, ignored, malformed, rows_total, last_seq, last_recv_ns
    # messages that the feed applied and that could not be decoded, since take_undecoded()
    cdef int64_t undecoded, undecoded_first_ns, undecoded_last_ns
    cdef uint64_t undecoded_at      # position of the first
    cdef uint64_t position          # of the record being added
    cdef int known(self, int32_t row) except -1
    cdef int add(self, Record* r) except -1
    cdef int read(self, const char* frame, Py_ssize_t n, int64_t recv_ns, uint16_t flags) except -1
    cdef int read_parts(self, Header* h, const char* end, MDMessage* m, int64_t recv_ns, uint16_t flags) except -1
    cdef int not_decoded(self, int32_t row, int64_t recv_ns, uint16_t flags) except -1
    cdef int take_entries(self, int32_t row, Header* h, MDMessage* m, int64_t recv_ns, uint16_t flags) except -1
    cdef void count(self, int32_t row, Header* h, MDMessage* m, int64_t recv_ns, uint16_t flags) noexcept
    cdef int follow(self, int32_t row, int32_t n, uint16_t flags) except -1
