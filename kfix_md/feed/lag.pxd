from libc.stdint cimport int64_t

cdef class Lag:
    cdef public int64_t limit_ns
    cdef public int64_t offset_ns   # our clock minus the venue's
    cdef public int64_t lag_ns      # of the last message
    cdef public int64_t max_ns      # the highest since the start
    cdef public bint over
    cdef public int64_t times       # how often the limit was passed
    cdef int64_t low_ns, high_ns    # between which offset_ns is, as far as is known
    cdef int suspect                # ticks until it is known that nothing had piled up

    cpdef bint measured(self, int64_t recv_ns, int64_t sending_ns)
    cdef bint judge(self, bint over)
    cdef void bound(self, int64_t low_ns, int64_t high_ns) noexcept
