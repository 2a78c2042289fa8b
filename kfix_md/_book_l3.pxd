# The book by order: slab, hash and queues in addition to the levels of OrderBook.
from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kfix_md._book cimport OrderBook, LevelAux
from kfix_md._entry cimport BookSide, MDEntry, Order, OrderSlab


cdef enum:
    # Order.crc_len: the length of its text in six bits; the other two and Order.spare keep the decimals that the venue
    # wrote, five bits for the price and five for the quantity
    LENGTH = 63
    MANY_ORDERS = 131072    # from here on a book prefetches its rows


cdef extern from "c/levels.h" nogil:
    void kfix_prefetch(const void* p, size_t bytes)


cdef inline int price_decimals(const Order* o) noexcept nogil:
    return o.spare & 31


cdef inline int qty_decimals(const Order* o) noexcept nogil:
    return o.spare >> 5 | (o.crc_len >> 6) << 3


cdef inline uint16_t decimals_of(const Order* o) noexcept nogil:
    # as in MDEntry
    return price_decimals(o) | qty_decimals(o) << 8


@final
cdef class L3Book(OrderBook):
    cdef OrderSlab slab
    cdef object order_memory        # the rows as an array, whose memory has table and changed rows too
    cdef int32_t free_row           # head of the list of free slab rows, linked by `next`
    cdef uint32_t* table            # open addressing, linear probing: see ROW_BITS
    cdef uint32_t mask              # table size - 1
    cdef int32_t dirty_capacity
    cdef bint timeless              # an order had no 5273: queues need not be in its order
    cdef int32_t order_row(self, uint64_t hi, uint64_t lo, uint8_t kind) noexcept nogil
    cdef void unlink(self, uint32_t hole) noexcept nogil
    cdef int reserve_orders(self, int64_t capacity) noexcept with gil
    cdef int more_orders(self, int64_t capacity) noexcept
    cdef void touch(self, int32_t row) noexcept nogil
    cdef void prefetch_ahead(self, MDEntry* e, MDEntry* end) noexcept nogil
    cdef int open_orders(self, MDEntry* e, MDEntry* end) noexcept nogil
    cdef int apply_all(self, MDEntry* e, MDEntry* end) noexcept nogil
    cdef void free_order(self, int32_t row) noexcept nogil
    cdef int add(self, MDEntry* e, uint32_t at, int32_t i) noexcept nogil
    cdef void recompute(self, LevelAux* aux, Order* o, uint32_t old, int32_t old_n) noexcept nogil
    cdef void remove(self, int32_t row, uint32_t at) noexcept nogil
    cdef int replace(self, int32_t row, MDEntry* e, uint32_t at) noexcept nogil
    cdef int change(self, int32_t row, MDEntry* e) noexcept nogil
    cdef uint32_t order_crc(self, Order* o, int rule, uint8_t* length) noexcept nogil
    cdef uint32_t level_sent_crc(self, int side, int32_t i, uint8_t* length) noexcept nogil


cdef inline bint prefetches(L3Book book, Py_ssize_t entries) noexcept nogil:
    # whether a book prefetches what the entries of a message touch, also when it is the only one
    return entries > 1 and book.slab.capacity >= MANY_ORDERS


cdef inline void prefetch_queues(L3Book book) noexcept nogil:
    # what a message touches of an L3 book in addition to kfix_prefetch_book: counts and ends of the best queues, and
    # the row that a new order gets
    cdef int side
    cdef BookSide* s
    for side in range(2):
        s = &book.sides[side]
        kfix_prefetch(s.orders + s.n - 1, 1)
        kfix_prefetch(s.head + s.n - 1, 1)
        kfix_prefetch(book.tail[side] + s.n - 1, 1)
    kfix_prefetch(&book.slab.rows[max(book.free_row, 0)], 1)
