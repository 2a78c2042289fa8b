# Read-only view of a segment.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from kfix_md.shm.writer cimport kfix_header, kfix_symbol, kfix_top


cdef double[19] TEN
cdef tuple STATES
cdef tuple CAUSES

cdef object state_of(int code)
cdef object cause_of(int code)
cdef void put_floats(kfix_top* t, double* bid, double* bid_qty, double* ask, double* ask_qty) noexcept nogil


cdef class Segment:
    cdef char* base
    cdef kfix_header* header
    cdef uint64_t size
    cdef int64_t interval
    cdef int fd
    cdef int announced              # bits: bytes of the file this reader holds a waiter's lock on
    cdef readonly str path

    cdef bint fresh(self) noexcept nogil
    cdef kfix_symbol* row(self, uint32_t i) except NULL
    cdef int read(self, const void* block, void* to, size_t n) except -1
    cdef int stuck(self) except -1
