# Reader of one book in a segment: levels, orders and trades in addition to the top.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from kfix_md.shm.layout cimport kfix_best, kfix_depth, kfix_level, kfix_order, kfix_trade, kfix_trades
from kfix_md.shm.reader cimport TopReader


cdef class Book(TopReader):
    cdef kfix_best* ten
    cdef kfix_depth* deep
    cdef kfix_level* bids
    cdef kfix_level* asks
    cdef kfix_order* rows
    cdef kfix_trades* ring
    cdef kfix_trade* trade_rows
    cdef uint32_t depth_capacity, orders_capacity, trades_capacity

    cdef object copy_ten(self, uint32_t most, kfix_depth* head)
    cdef object copy_deep(self, uint32_t most, kfix_depth* head)
    cdef int find_order(self, int kind, uint64_t hi, uint64_t lo, kfix_order* found) except -1
    cdef int32_t copy_queue(self, int64_t price, kfix_order** rows, kfix_depth* head) except -1


cdef void* data_of(out) except? NULL
