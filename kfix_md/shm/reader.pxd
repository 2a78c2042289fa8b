# Reader of the top of one book in a segment.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from kfix_md.shm.segment cimport Segment
from kfix_md.shm.layout cimport kfix_symbol, kfix_top


cdef class Quote:
    cdef readonly double bid, bid_qty, ask, ask_qty
    cdef readonly int64_t recv_ns
    cdef readonly uint64_t seq
    cdef readonly object state


cdef class TopReader:
    cdef Segment segment
    cdef object feed
    cdef bint has_copies            # the feed may have another copy of this book: see failover.py
    cdef int64_t next_look_ns       # CLOCK_MONOTONIC; not before then is the other copy of a quiet book looked at
    cdef kfix_symbol* entry
    cdef kfix_top* best_of
    cdef uint64_t seen              # version of the top block when this object was last read
    cdef readonly uint64_t retries
    cdef readonly bint allow_unverified    # of attach()
    cdef readonly str symbol, level

    cdef int quote(self, kfix_top* t, bint allow_stale, size_t n=*, bint allow_unverified=*) except -1
    cdef void notice(self, uint64_t version) noexcept
    cdef uint32_t again(self, uint32_t tries) except? 0xffffffff
    cdef int judge(self, int state, int cause, bint allow_unverified) except -1
    cdef int accept(self, int state, int cause, int64_t recv_ns, bint allow_stale, bint allow_unverified) except -1
    cdef int peek(self, kfix_top* t, size_t n) except -1
    cdef bint gone(self, kfix_top* t)
    cdef bint overdue(self, int64_t recv_ns) noexcept nogil
    cdef bint moved(self, bint usable) except -1


cdef enum:
    FLOATS = 0
    INTS = 1
    DECIMALS = 2

cdef int price_form(price) except -1
