from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from kfix_md._codec cimport Codec
from kfix_md._fields cimport Header
from kfix_md._market_data cimport MarketData
from kfix_md._recorded cimport Recorded
from kfix_md._stream cimport FrameSink, Stream
from kfix_md._symbols cimport Symbols
from kfix_md.journal.writer cimport JournalWriter
from kfix_md.session.sequence cimport Sequence


@final
cdef class Handler(FrameSink):
    cdef Stream stream
    cdef readonly Symbols books
    cdef MarketData data
    cdef readonly Codec codec
    cdef readonly Sequence sequence
    cdef JournalWriter journal
    cdef bytes carried_text         # what carried() gives,
    cdef int64_t carried_of         # as of these books.definitions
    cdef bint direct                # W and X in order are applied without asking the session
    cdef public int64_t last_recv_ns
    cdef public int64_t last_sending_ns     # 52 of the last message, for the clock offset
    cdef public int64_t sending_time_limit_ns
    cdef public int64_t clock_step_ns       # added to receive times where they are compared with 52
    cdef int64_t garbage_room       # bytes that are no frame and may still be journaled, of this connection
    cdef uint64_t garbage_not_kept  # such bytes beyond that
    cdef uint64_t ignored
    cdef uint64_t too_long          # messages that were not read for their length
    cdef uint32_t known_comp_ids    # Header.comp_ids that are those
    cdef bytes sender, target       # expected inbound 49 and 56; None: any

    cdef Py_ssize_t apply_some(self, Recorded messages, const int32_t* rows, Py_ssize_t first, Py_ssize_t end,
                               int64_t now_ns) except -1
    cdef Py_ssize_t without_gil(self, Recorded messages, const int32_t* rows, Py_ssize_t first, Py_ssize_t end,
                                int64_t now_ns) except -1
    cdef int64_t take(self, int64_t n, int64_t recv_ns) except -1
    cdef int controlled(self, Header* h, const char* p, int64_t n, int64_t recv_ns) except -1
    cdef int garbled(self, const char* p, int64_t n, int64_t recv_ns) except -1
    cdef int process_recorded(self, const char* frame, Py_ssize_t n, int64_t recv_ns, uint16_t flags) except? -1
