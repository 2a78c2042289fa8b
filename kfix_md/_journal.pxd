# Append-only capture log: the writer the hot loop calls, and the reader that tails it. Layout: docs/journal.md.
from cython cimport final
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    REC_FRAME = 1           # a raw inbound FIX frame
    REC_EVENT = 2           # utf-8 JSON object with "type"
    REC_OUT = 3             # a frame we sent

cdef struct Record:
    uint64_t position       # segment number << 32 | offset: grows over the whole journal
    uint64_t next           # position of what follows
    int64_t recv_ns
    const char* data        # valid until the reader enters another segment
    uint32_t length
    uint16_t kind
    uint16_t session
    uint16_t flags          # MSG_* as known when the record was committed


@final
cdef class JournalWriter:
    cdef void* io           # jio: the keeper of segments and its thread
    cdef char* base         # of the active segment, NULL before the first record
    cdef uint64_t offset    # end of what is committed
    cdef uint64_t limit
    cdef uint64_t number
    cdef int64_t roll_ns    # a record received from here on belongs to the next session date
    cdef uint32_t pending   # bytes of the record that is put and not yet committed, 0: none
    cdef uint32_t body_n
    cdef uint32_t head      # kind, session << 16
    cdef int64_t recv_ns
    cdef char* side         # records that came while one was pending; written right behind it
    cdef size_t side_n
    cdef size_t side_capacity
    cdef uint64_t lost      # records not stored since the last journal_lost event
    cdef int64_t lost_first_ns
    cdef int64_t lost_last_ns
    cdef readonly uint64_t lost_total
    cdef readonly uint64_t records
    cdef readonly object directory
    cdef readonly dict recovered
    cdef object lock_file

    # Body written, not yet visible. 0; or -1 when it cannot be stored (counted: see stats()).
    cdef int put(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data, uint32_t n) noexcept nogil
    # Make it visible with its flags. Without a pending record: nothing.
    cdef void commit(self, uint16_t flags) noexcept nogil
    # put and commit; behind the pending record when there is one
    cdef int append(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data, uint32_t n,
                    uint16_t flags) noexcept nogil
    cdef int _room(self, uint64_t need, int64_t recv_ns) noexcept nogil
    cdef int _roll(self, uint64_t need, int64_t recv_ns) noexcept nogil
    cdef int _defer(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data,
                    uint32_t n) noexcept nogil
    cdef void _drain(self) noexcept nogil
    cdef void _body(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data,
                    uint32_t n) noexcept nogil
    cdef void _write(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data, uint32_t n,
                     uint16_t flags) noexcept nogil
    cdef void _count_lost(self, int64_t recv_ns) noexcept nogil
    cdef _finish(self)

cdef class JournalReader:
    cdef readonly object directory
    cdef readonly object damage     # text, when the last next() returned -1
    cdef object segment             # journal_files.Segment being read
    cdef public bint hold_at_end    # do not enter another segment: next() returns 0 at the end of this one
    cdef bint skip_hole             # resync() was asked to step over missing segments
    cdef object view                # what keeps base alive
    cdef const char* base
    cdef uint64_t size
    cdef uint64_t end               # records end here for certain (sealed), 0: not known
    cdef uint64_t number
    cdef uint64_t offset

    # 1 a record, 0 nothing yet, -1 damaged (see damage, resync())
    cdef int next(self, Record* out) noexcept
    cdef int _seek_record(self) noexcept
    cdef int _damaged(self, str what) noexcept
    cdef int _enter(self, number, uint64_t offset) except -1
    cdef int _advance(self) noexcept
    cdef _leave(self)
    cdef uint64_t _limit(self) noexcept
    cdef int _check(self, uint64_t offset, uint32_t length) noexcept
