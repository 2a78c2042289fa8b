from cython cimport final
from libc.stdint cimport int64_t, uint32_t, uint64_t

from kfix_md._fields cimport FieldReader, Header, MDMessage


@final
cdef class Codec(FieldReader):
    cdef char _sender_literal[80]   # "49=<sender>|52=YYYYMMDD-" as last seen
    cdef char _target_literal[80]   # "56=<target>|" as last seen, and "55="
    cdef int _sender_n, _target_n
    cdef int64_t _day_ns            # the day of that date
    cdef uint32_t _learned          # how often literals were learned
    cdef readonly uint64_t fast_messages, general_messages
    cdef bint allow_fast
    cdef int read_header(self, const char* p, const char* end, Header* h) noexcept
    cdef int begin(self, Header* h, const char* end, MDMessage* m) noexcept
    cdef int finish(self, Header* h, const char* end, MDMessage* m, int price_precision, int qty_precision) noexcept
    cdef int stage(self, Header* h, const char* end, MDMessage* m) noexcept
