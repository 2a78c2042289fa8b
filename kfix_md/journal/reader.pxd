from libc.stdint cimport uint32_t, uint64_t

from kfix_md.journal.records cimport Record


cdef class JournalReader:
    cdef readonly object directory
    cdef readonly object damage     # text, when the last next() returned -1
    cdef object segment             # journal_files.SegmentFile being read
    cdef public bint hold_at_end    # do not enter another segment: next() returns 0 at the end of this one
    cdef bint skip_hole             # resync() is to step over missing segments
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
