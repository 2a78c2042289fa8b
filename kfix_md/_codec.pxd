from cython cimport final
from libc.stdint cimport uint32_t, uint64_t

from kfix_md._fields cimport FieldReader, Header, MDMessage


@final
cdef class Codec(FieldReader):
    cdef char _sender_literal[64]   # "49=<sender>|52=" as last seen
    cdef char _target_literal[64]   # "56=<target>|" as last seen
    cdef int _sender_n, _target_n
    cdef uint32_t _learned          # how often literals were learned
    cdef readonly uint64_t fast_messages, general_messages
    cdef bint allow_fast
    cdef void learn_header(self, Header* h) noexcept
    cdef int read_header(self, const char* p, const char* end, Header* h) noexcept
    cdef int header_fast(self, const char* p, const char* end, Header* h) noexcept
    cdef int begin(self, Header* h, const char* end, MDMessage* m) noexcept
    cdef int finish(self, Header* h, const char* end, MDMessage* m, int price_precision, int qty_precision) noexcept
    cdef int stage(self, Header* h, const char* end, MDMessage* m) noexcept
    cdef int begin_fast(self, Header* h, const char* end, MDMessage* m) noexcept
    cdef int entries_fast(self, Header* h, const char* end, MDMessage* m, int price_precision,
                          int qty_precision) noexcept
