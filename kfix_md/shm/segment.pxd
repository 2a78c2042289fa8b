# Read-only view of a segment, and the constants of waiting for its writer.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kfix_md.shm.layout cimport kfix_header, kfix_session, kfix_symbol, kfix_top

cdef enum:
    SPIN_TRIES = 4000               # failed copies before the first sleep: a write takes well under 10 us
    SLEEP_TRIES = 200               # sleeps before giving up
    SLEEP_US = 100
    UNANNOUNCED_NS = 2_000_000      # longest sleep until the writer's heartbeat has found this reader's lock


cdef double[19] TEN
cdef tuple STATES
cdef tuple CAUSES

cdef inline double ten_to(int precision) noexcept nogil:
    """10**precision; 1 for a precision out of range, in a damaged segment."""
    return TEN[precision] if 0 <= precision <= 18 else 1.0


cdef object state_of(int code)
cdef object cause_of(int code)
cdef void put_floats(kfix_top* t, double* bid, double* bid_qty, double* ask, double* ask_qty) noexcept nogil


cdef class Segment:
    cdef char* base
    cdef kfix_header* header
    cdef kfix_header opened         # checked copy of the header; the file may change
    cdef uint64_t size
    cdef int64_t interval
    cdef int fd
    cdef bint has_fd                # False after a rejected argument, when fd is 0
    cdef int announced              # bits: KFIX_WAIT_* locks taken by this reader
    cdef bint of_other_boot         # written before this machine was started: its clock means nothing here
    cdef bint serve_unverified      # the feed lets every reader use UNVERIFIED books
    cdef readonly str path

    cdef bint fresh(self) noexcept nogil
    cdef kfix_symbol* row(self, uint32_t i) except NULL
    cdef int session_row(self, kfix_symbol* entry, kfix_session* to) except -1
    cdef void show_lag(self, kfix_symbol* entry, uint8_t* state, uint8_t* cause) noexcept nogil
    cdef int read(self, const void* block, void* to, size_t n) except -1
    cdef int stuck(self) except -1
    cdef announce(self, int byte)
