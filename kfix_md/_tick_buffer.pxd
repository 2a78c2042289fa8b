from libc.stdint cimport int32_t, int64_t, uint16_t

from kfix_md._entry cimport MDEntry, Tick
from kfix_md._fields cimport Header, MDMessage


cdef class TickBuffer:
    cdef object array           # TICK_DTYPE, owner of `rows`
    cdef Tick* rows
    cdef Py_ssize_t n, capacity
    cdef int keep(self, const MDEntry* entries, int32_t row, const Header* h, const MDMessage* m, int64_t recv_ns,
                  uint16_t flags, uint16_t session) except -1 nogil
    cdef int grow(self, Py_ssize_t more) except -1 with gil
    cdef object take(self, bint reuse)
