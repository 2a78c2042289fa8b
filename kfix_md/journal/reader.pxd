from libc.stdint cimport uint32_t, uint64_t

from kfix_md.journal.records cimport Record


cdef class JournalReader:
    cdef readonly object directory
    cdef readonly object damage     # text, when the last next() returned -1
    cdef readonly bint unreadable   # that damage is none: the machine did not give the bytes, and may the next time
    cdef object segment             # journal_files.SegmentFile being read
    cdef public bint hold_at_end    # do not enter another segment: next() returns 0 at the end of this one
    cdef bint skip_hole             # resync() is to step over missing segments
    cdef bint bad_header            # of the segment just entered: to be reported first
    cdef object fault               # why bytes could not be read
    cdef char* window               # bytes [begin, begin + loaded) of the segment, and JSEG_TAIL zeros
    cdef uint64_t room
    cdef uint64_t begin
    cdef uint64_t loaded
    cdef uint64_t limit             # no byte of the segment lies beyond
    cdef uint64_t end               # records end here for certain (sealed), 0: not known
    cdef uint64_t number
    cdef uint64_t offset
    cdef uint64_t looked_at         # position where a later segment was looked for last, and when
    cdef double looked

    # 1 a record, whose data are valid until the next call; 0 nothing yet; -1 damaged (see damage, resync())
    cdef int next(self, Record* out) noexcept
    cdef const char* _at(self, uint64_t offset) noexcept
    cdef bint _has(self, uint64_t offset, uint64_t need, uint64_t more) noexcept
    cdef uint64_t _load(self, uint64_t offset, uint64_t n) noexcept
    cdef int _seek_record(self) noexcept
    cdef bint _changed(self) noexcept
    cdef void _failed(self, error) noexcept
    cdef bint _enter_again(self) noexcept
    cdef bint _left_open(self) noexcept
    cdef uint64_t _last_end(self) noexcept
    cdef int _damaged(self, str what) noexcept
    cdef uint32_t _length(self, uint64_t offset) noexcept
    cdef bint _sound(self, uint64_t offset) noexcept
    cdef uint64_t _next_sound(self, uint64_t offset) noexcept
    cdef uint64_t _padded_here(self) noexcept
    cdef int _enter(self, number, uint64_t offset) except -1
    cdef int _advance(self) noexcept
    cdef _leave(self)
