# How 5041 is judged where one comparison is not enough, see _checksum.pyx
from libc.stdint cimport uint32_t

from kfix_md._book cimport OrderBook

cdef enum:
    MISSES = 3          # fresh snapshots in a row without a rule that holds: UNVERIFIED
    RUN = 8             # messages in a row by one rule that end it

    CHECK_FAILED = 0    # the book is wrong
    CHECK_OK = 1
    CHECK_RUN = 2       # a rule holds, for fewer than RUN messages
    CHECK_UNKNOWN = 3   # no rule holds, and nothing else is wrong

cdef int find_rule(OrderBook book, uint32_t crc, int configured, int first) noexcept nogil
cdef bint told_apart(OrderBook book, uint32_t crc) noexcept nogil
