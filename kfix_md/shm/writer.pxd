# The writer of a segment: its hot calls, for handlers.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from kfix_md._entry cimport BookSide, MDEntry, OrderSlab, TopOfBook
from kfix_md.shm.layout cimport kfix_header
from kfix_md.shm.slot cimport SymbolBlocks


cdef class SegmentWriter:
    cdef SymbolBlocks* slots
    cdef char* base
    cdef kfix_header* header
    cdef uint64_t size
    cdef uint64_t used              # bytes of the file given away so far
    cdef uint64_t ready             # bytes of the file that have had pages from the start
    cdef uint32_t change
    cdef uint32_t wakes
    cdef int32_t n
    cdef int32_t capacity
    cdef int fd
    cdef bint open
    cdef readonly str path, name
    cdef uint32_t depth, l3_depth, orders, trades
    cdef dict rows, counter_rows
    cdef object identity            # (device, inode) of the file
    cdef object name_lock

    cdef void publish(self, int32_t slot, BookSide* bids, BookSide* offers, OrderSlab* orders,
                      TopOfBook* top) noexcept nogil
    cdef void publish_trade(self, int32_t slot, MDEntry* trade, int64_t recv_ns, uint64_t seq) noexcept nogil
    cdef int64_t now(self) noexcept nogil
    cdef void beat(self) noexcept nogil
    cdef void notify(self, SymbolBlocks* s) noexcept nogil
    cdef void _publish_depth(self, SymbolBlocks* s, BookSide* bids, BookSide* offers, OrderSlab* orders) noexcept nogil
    cdef _put_heads(self, SymbolBlocks* s)
