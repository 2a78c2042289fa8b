from libc.stdint cimport int64_t

cdef class Lag:
    cdef public int64_t limit_ns
    cdef public int64_t offset_ns   # our clock minus the venue's
    cdef public int64_t lag_ns      # of the last message
    cdef public int64_t max_ns      # the highest since the start
    cdef public bint over
    cdef public int64_t times       # how often the limit was passed
    cdef int64_t low_ns, high_ns    # between which offset_ns is, as far as is known
    cdef int early                  # messages in a row that came before they were sent, by the offset as it is known,
    cdef int64_t early_ns           # and receive time minus SendingTime of the one that did so least
    cdef int suspect                # ticks until it is known that nothing had piled up

    cpdef bint measured(self, int64_t recv_ns, int64_t sending_ns)
    cdef bint judge(self, bint over)
    cdef void came_early(self, int64_t apart_ns) noexcept
    cdef void bound(self, int64_t low_ns, int64_t high_ns) noexcept
