"""The book by order: how an order is found by its id, and its place in the queue of its level kept.

A slab of 64-byte orders, an open-addressing hash from id to slab row, and a queue per level ordered by 5273.
"""

from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from kfix_md._book cimport (
    BOOK_FULL, BOOK_OK, BOOK_ROOM, BOOK_TOTAL, BOOK_WORK, MAX_ORDERS, RULE_ORDER, RULE_SENT, LevelAux, OrderBook,
    Place, address, held, locate, mark_dirty, mark_level, price_shift, qty_shift, released, settled,
)
from kfix_md._entry cimport (
    ACTION_CLEAR, ACTION_DELETE, ACTION_NEW, ACTION_UPDATE, SIDE_TRADE, BookSide, MDEntry, Order, OrderSlab,
)

import numpy as np

cdef extern from "c/crc.h" nogil:
    uint64_t kfix_clmul(uint32_t a, uint32_t b)
    uint32_t kfix_reduce(uint64_t product)
    uint32_t kfix_crc_power(uint32_t n)
    uint32_t kfix_crc_level(int64_t price, int64_t qty, uint8_t* length)
    uint32_t kfix_crc_shifted(int64_t price, int64_t qty, int price_shift, int qty_shift, uint8_t* length)
    uint32_t kfix_crc_multiply(uint32_t a, uint32_t b)
    uint32_t kfix_crc_replace_before(uint32_t whole, uint32_t old, int32_t old_n, uint32_t fresh, int32_t fresh_n,
                                     uint32_t after, uint32_t after_n)
    uint32_t kfix_crc_replace_after(uint32_t whole, uint32_t old, int32_t old_n, uint32_t fresh, int32_t fresh_n,
                                    uint32_t before, uint32_t after_n)

cdef extern from "c/keyed_hash.h" nogil:
    uint64_t kfix_keyed_hash(uint64_t a, uint64_t b)

cdef enum:
    DIRTY_ROWS = 1024           # changed rows that are published one by one; beyond, all of them are
    SMALL = 4096                # rows of a book up to which its table is small
    FIRST_ORDERS = 64           # rows of a new book: a small one takes a few pages, of which each costs a TLB entry
    LINE = 64                   # bytes of a cache line

    # A table entry in 32 bits, so that those of many books stay in the caches: row in the lower 21, five bits of the
    # hash, and in the upper six how many places it is from its home, plus one; 0: empty.
    ROW_BITS = 21
    ROW_MASK = MAX_ORDERS - 1
    STEP_BITS = 26
    FAR = 63                    # or more: its row has the id

_ORDER_DTYPE = np.dtype([
    ("price", "i8"), ("qty", "i8"), ("id_hi", "u8"), ("id_lo", "u8"), ("queue_ns", "i8"), ("event_ns", "i8"),
    ("prev", "i4"), ("next", "i4"), ("crc", "u4"), ("crc_len", "u1"), ("side", "u1"), ("id_kind", "u1"),
    ("spare", "u1"),
])
assert _ORDER_DTYPE.itemsize == sizeof(Order)


cdef extern from *:
    bint add_overflows "__builtin_add_overflow"(int64_t a, int64_t b, int64_t* total) nogil


cdef inline void forget_text(Order* o) noexcept nogil:
    # the cached CRC is not of the order as it is
    o.crc_len &= ~LENGTH


cdef inline void keep_decimals(Order* o, uint16_t decimals) noexcept nogil:
    # and forget the text
    cdef int of_price = min(decimals & 0xFF, 31), of_qty = min(decimals >> 8, 31)
    o.spare = of_price | (of_qty & 7) << 5
    o.crc_len = (of_qty >> 3) << 6


cdef inline bint by_order(int rule) noexcept nogil:
    return rule & 3 == RULE_ORDER


cdef inline bint same_text(int a, int b) noexcept nogil:
    # whether the orders of two rules have the same texts
    return (a & RULE_SENT) == (b & RULE_SENT) and a >> 8 == b >> 8


cdef inline uint32_t hash_id(uint64_t hi, uint64_t lo) noexcept nogil:
    return <uint32_t>(kfix_keyed_hash(hi, lo) >> 33)


cdef inline uint32_t hash_part(uint32_t hashed) noexcept nogil:
    # bits of the hash that no place in a table depends on, where an entry has them
    return hashed >> STEP_BITS << ROW_BITS


cdef inline uint32_t steps_of(uint32_t places) noexcept nogil:
    # what an entry has that is so many places from its home
    return min(places + 1, <uint32_t>FAR) << STEP_BITS


cdef inline int32_t find(L3Book book, uint64_t hi, uint64_t lo, uint8_t kind, uint32_t* place) noexcept nogil:
    # Row of an order, -1: none. `place`: its position in the table, present or future. Home and a part of the hash are
    # in the table, so that hardly any other order's row, which may have left the caches, is looked at.
    cdef uint32_t hashed = hash_id(hi, lo), at = hashed & book.mask, wanted = steps_of(0) | hash_part(hashed)
    cdef uint32_t entry = book.table[at]
    cdef int32_t row = -1
    cdef Order* o
    while entry:
        if (entry ^ wanted) >> ROW_BITS == 0:
            o = &book.slab.rows[entry & ROW_MASK]
            if o.id_lo == lo and o.id_hi == hi and o.id_kind == kind:
                row = entry & ROW_MASK
                break
        at = (at + 1) & book.mask
        entry = book.table[at]
        if wanted >> STEP_BITS < FAR:
            wanted += 1 << STEP_BITS
        book.work += 1
    place[0] = at
    return row


cdef inline void enter(L3Book book, Order* o, int32_t row, uint32_t at) noexcept nogil:
    # an order into the table, at the place that find() gave
    cdef uint32_t hashed = hash_id(o.id_hi, o.id_lo)
    book.table[at] = steps_of((at - hashed) & book.mask) | hash_part(hashed) | row


cdef inline uint32_t places_from_home(L3Book book, uint32_t at) noexcept nogil:
    # of the entry there
    cdef uint32_t entry = book.table[at]
    cdef Order* o
    if entry >> STEP_BITS < FAR:
        return (entry >> STEP_BITS) - 1
    o = &book.slab.rows[entry & ROW_MASK]
    return (at - hash_id(o.id_hi, o.id_lo)) & book.mask


cdef inline uint32_t text_crc(L3Book book, Order* o, int32_t* length) noexcept nogil:
    # raw CRC of one order's text by the book's own rule, kept with the order
    cdef uint8_t n = 0
    if book.rule == RULE_ORDER:
        o.crc = kfix_crc_level(o.price, o.qty, &n)
    else:
        o.crc = book.order_crc(o, book.rule, &n)
    o.crc_len |= n
    length[0] = n
    return o.crc


@final
cdef class L3Book(OrderBook):
    """A book by order: levels as in L2Book (quantities are totals), and the queue of each level."""

    def __cinit__(self, *args, **kwargs):
        self.level = 3
        self.rule = RULE_ORDER
        self.length_mask = 0xFFFFFFFF
        self.free_row = -1
        if self.reserve_levels(0, self.sides[0].capacity) or self.reserve_levels(1, self.sides[1].capacity):
            raise MemoryError("no memory for the levels of a book")
        if self.reserve_orders(FIRST_ORDERS) != BOOK_OK:
            raise MemoryError("no memory for the orders of a book")

    cdef OrderSlab* slab_or_null(self) noexcept nogil:
        return &self.slab

    cdef int reserve_orders(self, int64_t capacity) noexcept with gil:
        # as reserve_levels
        cdef unsigned long before = held(self.room)
        cdef int result = self.more_orders(capacity)
        released(self.room, before)
        return result

    cdef int more_orders(self, int64_t capacity) noexcept:
        # rows, table and list of changed rows are one piece of memory, which grows as a whole
        if capacity > MAX_ORDERS:
            return BOOK_FULL
        cdef int32_t row, changed = min(capacity, <int64_t>DIRTY_ROWS)
        cdef uint32_t at
        cdef int64_t size = self.mask + 1, rows_end = capacity * <int64_t>sizeof(Order)
        cdef int64_t table_end
        # Half of a small table is free, so that nearly every order is at its home; a fifth of a large one, which would
        # else leave the caches, and be most of what is not orders.
        while 4 * size < 5 * capacity or (capacity < SMALL and size < 2 * capacity):
            size *= 2
        table_end = rows_end + size * <int64_t>sizeof(uint32_t)
        if self.take_room(table_end - self.slab.capacity * <int64_t>sizeof(Order)
                          - (self.mask + 1) * <int64_t>sizeof(uint32_t)) != BOOK_OK:
            return BOOK_ROOM
        try:
            memory = np.zeros(table_end + changed * sizeof(int32_t) + LINE, "u1")
            memory = memory[-<Py_ssize_t>address(memory) & (LINE - 1):]
            rows = memory[:rows_end].view(_ORDER_DTYPE)
        except MemoryError:
            return BOOK_FULL
        if self.slab.used:
            rows[: self.slab.used] = self.order_memory[: self.slab.used]
        self.order_memory = rows
        self.slab.rows = <Order*>address(rows)
        self.slab.capacity = capacity
        self.slab.dirty = <int32_t*>(<char*>self.slab.rows + table_end)
        self.slab.n_dirty = -1
        self.dirty_capacity = changed
        self.table = <uint32_t*>(<char*>self.slab.rows + rows_end)
        self.mask = size - 1
        for row in range(self.slab.used):
            if self.slab.rows[row].qty > 0:
                at = hash_id(self.slab.rows[row].id_hi, self.slab.rows[row].id_lo) & self.mask
                while self.table[at]:
                    at = (at + 1) & self.mask
                enter(self, &self.slab.rows[row], row, at)
        return BOOK_OK

    cdef void unlink(self, uint32_t hole) noexcept nogil:
        # linear probing without tombstones: what follows moves back over the hole
        cdef uint32_t at = (hole + 1) & self.mask, places, gap
        while self.table[at]:
            places, gap = places_from_home(self, at), (at - hole) & self.mask
            if places >= gap:
                self.table[hole] = self.table[at] & ((1 << STEP_BITS) - 1) | steps_of(places - gap)
                hole = at
            at = (at + 1) & self.mask
        self.table[hole] = 0

    cdef void touch(self, int32_t row) noexcept nogil:
        if self.slab.n_dirty < 0:
            return
        if self.slab.n_dirty == self.dirty_capacity:
            self.slab.n_dirty = -1
            return
        self.slab.dirty[self.slab.n_dirty] = row
        self.slab.n_dirty += 1

    cdef int add(self, MDEntry* e, uint32_t at, int32_t i) noexcept nogil:
        # `at`: its place in the table; `i`: that of its price among the levels
        cdef BookSide* s = &self.sides[e.side]
        cdef int32_t row, after, before
        cdef Order* rows
        cdef Order* o
        cdef LevelAux* aux
        cdef int64_t total = e.qty
        cdef int32_t first, steps = 0
        cdef int result
        if i < s.n and s.price[i] == e.price and add_overflows(s.qty[i], e.qty, &total):
            return BOOK_TOTAL
        if self.free_row < 0 and self.slab.used == self.slab.capacity:
            if self.slab.capacity == MAX_ORDERS:
                return BOOK_FULL
            result = self.reserve_orders(min(self.slab.capacity * 2, MAX_ORDERS))
            if result != BOOK_OK:
                return result
            find(self, e.id_hi, e.id_lo, e.id_kind, &at)
        if i == s.n or s.price[i] != e.price:
            result = self.insert_level(e.side, i, e.price, 0, 0)
            if result != BOOK_OK:
                return result
            s.orders[i] = 0
            s.head[i] = -1
            self.tail[e.side][i] = -1
        rows = self.slab.rows
        row = self.free_row
        if row >= 0:
            self.free_row = rows[row].next
        else:
            row = self.slab.used
            self.slab.used += 1
        o = &rows[row]
        o.price = e.price
        o.qty = e.qty
        o.id_hi = e.id_hi
        o.id_lo = e.id_lo
        o.id_kind = e.id_kind
        o.side = e.side
        o.queue_ns = e.queue_ns
        o.event_ns = e.event_ns
        keep_decimals(o, e.decimals)
        # queued by 5273; an order without one, or with an equal one, goes after those that came before it. Its place is
        # looked for from both ends, where all have a time.
        aux = &self.aux[e.side][i]
        after = self.tail[e.side][i]
        if e.queue_ns > 0 and after >= 0 and rows[after].queue_ns > e.queue_ns:
            first = s.head[i]
            while True:
                steps += 1
                if rows[first].queue_ns > e.queue_ns and not self.timeless:
                    after = rows[first].prev
                    break
                after = rows[after].prev
                if after < 0 or rows[after].queue_ns <= e.queue_ns:
                    break
                first = rows[first].next
            self.work += steps
        self.timeless |= e.queue_ns <= 0
        before = rows[after].next if after >= 0 else s.head[i]
        o.prev = after
        o.next = before
        if after >= 0:
            rows[after].next = row
            self.touch(after)
        else:
            s.head[i] = row
        if before >= 0:
            rows[before].prev = row
            self.touch(before)
        else:
            self.tail[e.side][i] = row
        if aux.length:
            self.recompute(aux, o, 0, 0)
        s.qty[i] = total
        s.orders[i] += 1
        self.slab.n_orders += 1
        enter(self, o, row, at)
        self.touch(row)
        mark_level(self, e.side, i, i + 1, s.n - i - 1, s.n - i - 1)
        return BOOK_OK

    cdef void recompute(self, LevelAux* aux, Order* o, uint32_t old, int32_t old_n) noexcept nogil:
        # the CRC of a level, which was valid, where the text of one order changed: it was (old, old_n), nothing for a
        # new order, and is that of `o` now, nothing when its length still is old_n. Both neighbours are walked at
        # once, so that only the shorter way to an end of the queue is gone.
        cdef Order* rows = self.slab.rows
        cdef int32_t ahead = o.prev, behind = o.next
        cdef uint32_t before = 0, before_n = 0, after = 0, after_n = 0, fresh = 0
        cdef int32_t fresh_n = 0, steps = 0
        cdef uint64_t product = 0
        cdef Order* q
        if not by_order(self.rule) or (old_n == 0 and o.crc_len & LENGTH > 0):
            aux.length = 0
            return
        if o.crc_len & LENGTH == 0:
            fresh = text_crc(self, o, &fresh_n)
        while ahead >= 0 and behind >= 0:
            q = &rows[ahead]
            product ^= kfix_clmul(q.crc, kfix_crc_power(before_n))
            before_n += q.crc_len & LENGTH
            ahead = q.prev
            q = &rows[behind]
            after = kfix_crc_multiply(after, kfix_crc_power(q.crc_len & LENGTH)) ^ q.crc
            after_n += q.crc_len & LENGTH
            behind = q.next
            steps += 1
        self.work += steps
        if behind < 0:
            aux.crc = kfix_crc_replace_before(aux.crc, old, old_n, fresh, fresh_n, after, after_n)
        else:
            before = kfix_reduce(product)
            after_n = aux.length - before_n - old_n
            aux.crc = kfix_crc_replace_after(aux.crc, old, old_n, fresh, fresh_n, before, after_n)
        aux.length += fresh_n - old_n

    cdef void remove(self, int32_t row, uint32_t at) noexcept nogil:
        cdef Order* rows = self.slab.rows
        cdef Order* o = &rows[row]
        cdef BookSide* s = &self.sides[o.side]
        cdef int32_t i = locate(s, o.side, o.price)
        self.unlink(at)
        if o.prev >= 0:
            rows[o.prev].next = o.next
            self.touch(o.prev)
        else:
            s.head[i] = o.next
        if o.next >= 0:
            rows[o.next].prev = o.prev
            self.touch(o.next)
        else:
            self.tail[o.side][i] = o.prev
        s.qty[i] -= o.qty
        s.orders[i] -= 1
        if s.orders[i] == 0:
            self.remove_level(o.side, i)
        else:
            if self.aux[o.side][i].length:
                self.recompute(&self.aux[o.side][i], o, o.crc, o.crc_len & LENGTH)
            mark_level(self, o.side, i, i + 1, s.n - i - 1, s.n - i - 1)
        self.free_order(row)

    cdef int change(self, int32_t row, MDEntry* e) noexcept nogil:
        # same price and place in the queue: only the quantity is new
        cdef Order* o = &self.slab.rows[row]
        cdef BookSide* s = &self.sides[o.side]
        cdef int32_t i = locate(s, o.side, o.price)
        cdef int64_t total
        if add_overflows(s.qty[i] - o.qty, e.qty, &total):
            return BOOK_TOTAL
        s.qty[i] = total
        cdef uint32_t old = o.crc
        cdef int32_t old_n = o.crc_len & LENGTH
        o.qty = e.qty
        o.event_ns = e.event_ns
        keep_decimals(o, e.decimals)
        if self.aux[o.side][i].length:
            self.recompute(&self.aux[o.side][i], o, old, old_n)
        self.touch(row)
        mark_level(self, o.side, i, i + 1, s.n - i - 1, s.n - i - 1)
        return BOOK_OK

    cdef int open_book(self, MDEntry* entries, Py_ssize_t n) noexcept nogil:
        cdef int result
        if n > self.slab.capacity:
            result = self.reserve_orders(min(n + n // 4, MAX_ORDERS) if n <= MAX_ORDERS else n)
            if result != BOOK_OK:
                return result
        if self.open_levels(entries, n):
            return self.open_orders(entries, entries + n)
        return self.apply_unsorted(entries, n)

    cdef int apply_places(self, MDEntry* entries, Py_ssize_t n, const Place* places, int32_t found) noexcept nogil:
        # the levels first, without orders; then the entries in their own order, as an id may come twice
        cdef BookSide* s
        cdef MDEntry* e
        cdef int32_t i, k
        cdef int side, result = BOOK_OK
        for i in range(found):
            e = &entries[places[i].at]
            s = &self.sides[e.side]
            if e.action < ACTION_DELETE and e.qty > 0 and (s.n == 0 or s.price[s.n - 1] != e.price):
                result = self.insert_level(e.side, s.n, e.price, 0, 0)
                if result != BOOK_OK:
                    break
                s.orders[s.n - 1] = 0
                s.head[s.n - 1] = -1
                self.tail[e.side][s.n - 1] = -1
        if result == BOOK_OK:
            result = self.apply_all(entries, entries + n)
        for side in range(2):       # those that have lost their orders again, or never got any
            s = &self.sides[side]
            k = 0
            for i in range(s.n):
                if s.orders[i] > 0:
                    if k < i:
                        s.price[k], s.qty[k], s.orders[k], s.head[k] = s.price[i], s.qty[i], s.orders[i], s.head[i]
                        self.aux[side][k], self.tail[side][k] = self.aux[side][i], self.tail[side][i]
                    k += 1
            if k < s.n:
                mark_dirty(self, side, 0, s.n, 0)
                s.n = k
        return result

    cdef int apply_each(self, MDEntry* e, MDEntry* end) noexcept nogil:
        if prefetches(self, end - e):
            self.prefetch_ahead(e, end)
        return self.apply_all(e, end)

    cdef int open_orders(self, MDEntry* e, MDEntry* end) noexcept nogil:
        # of a snapshot whose levels have been laid down in the order of its entries
        cdef int32_t level[2]
        cdef BookSide* s
        cdef int32_t i
        cdef uint32_t at
        cdef int result
        level[0], level[1] = self.sides[0].n, self.sides[1].n
        while e < end:
            s = &self.sides[e.side]
            i = level[e.side]
            if i == s.n or s.price[i] != e.price:
                i -= 1
            level[e.side] = i
            if find(self, e.id_hi, e.id_lo, e.id_kind, &at) >= 0:
                return self.apply_all(e, end)       # an id that was there before: levels may go
            result = self.add(e, at, i)
            if result == BOOK_OK and self.work > self.work_limit:
                result = BOOK_WORK
            if result != BOOK_OK:
                return result
            e += 1
        return BOOK_OK

    cdef int apply_all(self, MDEntry* e, MDEntry* end) noexcept nogil:
        cdef int32_t row
        cdef uint32_t at
        cdef int result = BOOK_OK
        while e < end:
            if self.work > self.work_limit:
                return BOOK_WORK
            if e.action == ACTION_CLEAR:
                self.clear_book()
            elif e.side != SIDE_TRADE:
                row = find(self, e.id_hi, e.id_lo, e.id_kind, &at)
                if e.action >= ACTION_DELETE or e.qty <= 0:
                    if row >= 0:
                        self.remove(row, at)
                    else:
                        self.unknown += 1
                elif row < 0:
                    self.unknown += e.action == ACTION_UPDATE
                    result = self.add(e, at, locate(&self.sides[e.side], e.side, e.price))
                else:
                    result = self.replace(row, e, at)
                if result != BOOK_OK:
                    return result
            e += 1
        return BOOK_OK

    cdef int replace(self, int32_t row, MDEntry* e, uint32_t at) noexcept nogil:
        # an order that is there already: a new quantity, or another place
        cdef Order* o = &self.slab.rows[row]
        self.repeated += e.action != ACTION_UPDATE
        if o.price == e.price and o.side == e.side and (e.queue_ns == 0 or o.queue_ns == e.queue_ns):
            return self.change(row, e)
        self.remove(row, at)
        find(self, e.id_hi, e.id_lo, e.id_kind, &at)
        return self.add(e, at, locate(&self.sides[e.side], e.side, e.price))

    cdef void prefetch_ahead(self, MDEntry* first, MDEntry* end) noexcept nogil:
        # The orders of a large book, or of one among many, have left the caches: what the entries of a message will
        # touch is prefetched for all of them at once, first the table, then the rows, then their neighbours.
        cdef MDEntry* e = first
        cdef BookSide* s
        cdef Order* o
        cdef uint32_t entry
        cdef int32_t i
        while e < end:
            kfix_prefetch(&self.table[hash_id(e.id_hi, e.id_lo) & self.mask], 1)
            e += 1
        e = first
        while e < end:
            entry = self.table[hash_id(e.id_hi, e.id_lo) & self.mask]
            if entry:
                kfix_prefetch(&self.slab.rows[entry & ROW_MASK], 1)
            if e.action == ACTION_NEW and e.side < SIDE_TRADE:
                s = &self.sides[e.side]
                i = locate(s, e.side, e.price)
                if i < s.n:
                    kfix_prefetch(&self.slab.rows[self.tail[e.side][i]], 1)
            e += 1
        e = first
        while e < end:
            entry = self.table[hash_id(e.id_hi, e.id_lo) & self.mask]
            if entry:
                o = &self.slab.rows[entry & ROW_MASK]
                kfix_prefetch(&self.slab.rows[o.prev], 1)
                kfix_prefetch(&self.slab.rows[o.next], 1)
            e += 1

    cdef void remove_worst(self, int side, int32_t n) noexcept nogil:
        # the orders of the n worst levels go, then the levels
        cdef int32_t i, row, following
        cdef uint32_t at
        cdef Order* o
        for i in range(n):
            row = self.sides[side].head[i]
            while row >= 0:
                o = &self.slab.rows[row]
                following = o.next
                find(self, o.id_hi, o.id_lo, o.id_kind, &at)
                self.unlink(at)
                self.free_order(row)
                row = following
        self.drop_levels(side, n)

    cdef void free_order(self, int32_t row) noexcept nogil:
        self.slab.rows[row].qty = 0
        self.slab.rows[row].next = self.free_row
        self.free_row = row
        self.slab.n_orders -= 1
        self.touch(row)

    cdef void set_rule(self, int rule) noexcept nogil:
        cdef int32_t row
        if not same_text(rule, self.rule):
            self.work += self.slab.used
            for row in range(self.slab.used):
                forget_text(&self.slab.rows[row])
        OrderBook.set_rule(self, rule)

    cdef uint32_t order_crc(self, Order* o, int rule, uint8_t* length) noexcept nogil:
        # raw CRC of one order's text by the rule; nothing is kept
        if rule & RULE_SENT:
            return kfix_crc_shifted(o.price, o.qty, price_decimals(o) - self.price_precision,
                                    qty_decimals(o) - self.qty_precision, length)
        if rule >> 8:
            return kfix_crc_shifted(o.price, o.qty, price_shift(rule), qty_shift(rule), length)
        return kfix_crc_level(o.price, o.qty, length)

    cdef uint32_t level_sent_crc(self, int side, int32_t i, uint8_t* length) noexcept nogil:
        # of price and total with the most decimals that an order of the level was written with
        cdef BookSide* s = &self.sides[side]
        cdef int32_t row = s.head[i]
        cdef int of_price = 0, of_qty = 0
        while row >= 0:
            of_price = max(of_price, price_decimals(&self.slab.rows[row]))
            of_qty = max(of_qty, qty_decimals(&self.slab.rows[row]))
            row = self.slab.rows[row].next
            self.work += 1
        return kfix_crc_shifted(s.price[i], s.qty[i], of_price - self.price_precision, of_qty - self.qty_precision,
                                length)

    cdef void clear_book(self) noexcept nogil:
        OrderBook.clear_book(self)
        cdef int32_t row
        cdef uint32_t at
        cdef Order* o
        cdef bint few = self.slab.used <= <int32_t>(self.mask >> 5)
        if not few:
            memset(self.table, 0, (self.mask + 1) * sizeof(uint32_t))
        for row in range(self.slab.used):
            o = &self.slab.rows[row]
            if few and o.qty > 0:
                # a large table is not written whole; between an order and its home others may be gone already
                at = hash_id(o.id_hi, o.id_lo) & self.mask
                while self.table[at] == 0 or self.table[at] & ROW_MASK != <uint32_t>row:
                    at = (at + 1) & self.mask
                self.table[at] = 0
            o.qty = 0
        self.slab.used = 0
        self.slab.n_orders = 0
        self.slab.n_dirty = -1
        self.free_row = -1
        self.timeless = False

    cdef uint32_t level_crc(self, int side, int32_t i, uint32_t* length, int rule) noexcept nogil:
        cdef LevelAux* aux = &self.aux[side][i]
        cdef int32_t row = self.tail[side][i], n = 0, steps = 0
        cdef uint32_t follows = 0, crc
        cdef uint64_t product = 0
        cdef bint cached = same_text(rule, self.rule)
        cdef uint8_t text_n = 0
        cdef Order* o
        if not by_order(rule):
            if not rule & RULE_SENT:
                return OrderBook.level_crc(self, side, i, length, rule)
            crc = self.level_sent_crc(side, i, &text_n)
            follows = text_n
            row = -1
        while row >= 0:
            o = &self.slab.rows[row]
            if not cached:
                crc = self.order_crc(o, rule, &text_n)
                n = text_n
            elif o.crc_len & LENGTH == 0:
                crc = text_crc(self, o, &n)
            else:
                crc = o.crc
                n = o.crc_len & LENGTH
            product ^= kfix_clmul(crc, kfix_crc_power(follows))
            follows += n
            row = o.prev
            steps += 1
        self.work += steps
        if by_order(rule):
            crc = kfix_reduce(product)
        if rule == self.rule:
            aux.crc = crc
            aux.length = follows
        length[0] = follows
        return crc

    # ---- what Python sees ----

    @property
    def order_counts(self):
        """(bid orders, offer orders)."""
        cdef unsigned long before = held(self.room)
        try:
            return tuple(sum(self.sides[side].orders[i] for i in range(self.sides[side].n)) for side in range(2))
        finally:
            released(self.room, before)

    cdef int32_t order_row(self, uint64_t hi, uint64_t lo, uint8_t kind) noexcept nogil:
        # row of an order in the slab, -1 when the book does not hold it
        cdef uint32_t at
        return find(self, hi, lo, kind, &at)

    def _row(self, hi, lo, kind):
        settled(self.room)
        cdef int32_t row = self.order_row(hi, lo, kind)
        if row < 0:
            raise KeyError("no such order in the book")
        return row

    def queue(self, side, price):
        """Return the orders of one level in queue order, as an array with price, qty, id_hi, id_lo, id_kind,
        queue_ns and event_ns (ints in the book's precision, ns since the epoch).

        `side` is 0 (bid) or 1 (offer), `price` the integer price; an absent level gives an empty array.
        """
        cdef unsigned long before = held(self.room)
        try:
            return self._queue(1 if side else 0, price)
        finally:
            released(self.room, before)

    def _queue(self, int side, int64_t price):
        cdef BookSide* s = &self.sides[side]
        cdef int32_t i = locate(s, side, price)
        rows = []
        cdef int32_t row = -1
        if i < s.n and s.price[i] == price:
            row = s.head[i]
        while row >= 0:
            rows.append(row)
            row = self.slab.rows[row].next
        fields = ["price", "qty", "id_hi", "id_lo", "id_kind", "queue_ns", "event_ns"]
        return self.order_memory[rows][fields].copy()

    def position(self, id_hi, id_lo, id_kind):
        """Queue position of an order: (orders ahead, quantity ahead). KeyError when the book does not hold it."""
        cdef int32_t row = self.slab.rows[<int32_t>self._row(id_hi, id_lo, id_kind)].prev
        cdef int64_t ahead = 0, qty = 0
        while row >= 0:
            ahead += 1
            qty += self.slab.rows[row].qty
            row = self.slab.rows[row].prev
        return ahead, qty
