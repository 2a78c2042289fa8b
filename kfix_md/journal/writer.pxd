# The append-only writer that the hot loop calls.
from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


@final
cdef class JournalWriter:
    cdef void* io           # jio: the open segments and their thread
    cdef char* base         # of the active segment, NULL before the first record
    cdef uint64_t offset    # end of what is committed
    cdef uint64_t limit
    cdef uint64_t number
    cdef uint64_t first_ns  # a record received before, or span_ns after, belongs to another session date
    cdef uint64_t span_ns
    cdef uint32_t pending   # bytes of the record that is put and not yet committed, 0: none
    cdef uint32_t body_n
    cdef uint32_t head      # kind, session << 16
    cdef int64_t recv_ns
    cdef public int64_t clock_step_ns   # added to the times passed in: how far the wall clock is ahead of them
    cdef char* side         # records that came while one was pending; written just after it
    cdef size_t side_n
    cdef size_t side_capacity
    cdef uint64_t lost      # records not stored since the last journal_lost event
    cdef int64_t lost_first_ns
    cdef int64_t lost_last_ns
    cdef readonly uint64_t lost_total
    cdef readonly uint64_t records
    cdef readonly uint64_t unsynced     # bytes that were not on disk when the journal was closed
    cdef dict described     # by feed session: its `session` event,
    cdef dict sources       # and what gives its `carried` event: both are repeated in each segment
    cdef list repeated      # those of the segment being begun: (feed session, event)
    cdef readonly object directory
    cdef readonly dict recovered
    cdef object lock_file

    # Body written, not yet visible. 0; or -1 when it cannot be stored (counted: see stats()). A record that is still
    # pending is committed as ignored: its processing ended in an exception.
    cdef int put(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data, uint32_t n) noexcept nogil
    # Make it visible with its flags. Without a pending record: nothing.
    cdef void commit(self, uint16_t flags) noexcept nogil
    # put and commit; after the pending record when there is one
    cdef int append(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data, uint32_t n,
                    uint16_t flags) noexcept nogil
    cdef bint _other_date(self, int64_t recv_ns) noexcept nogil
    cdef bint _must_roll(self, int64_t recv_ns) noexcept nogil
    cdef void _accept(self, int32_t date) noexcept nogil
    cdef int _room(self, uint64_t need, int64_t recv_ns) noexcept nogil
    cdef int _roll(self, uint64_t need, int64_t recv_ns) noexcept nogil
    cdef uint64_t _gather(self, uint64_t room) noexcept
    cdef void _repeat(self, int64_t recv_ns) noexcept
    cdef int _defer(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data,
                    uint32_t n) noexcept nogil
    cdef void _drain(self) noexcept nogil
    cdef void _body(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data,
                    uint32_t n) noexcept nogil
    cdef void _write(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data, uint32_t n,
                     uint16_t flags) noexcept nogil
    cdef void _count_lost(self, int64_t recv_ns) noexcept nogil
    cdef _finish(self)
