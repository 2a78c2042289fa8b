"""Order books: how levels and orders are kept so that the best is cheap to reach, and what 5041 is computed from.

A side is a set of flat parallel arrays sorted so that the best level is the last element: most changes
happen near the best, so a short scan finds the level and an insertion moves little. L3 adds a slab of
orders, a hash from order id to slab row, and a queue per level ordered by 5273.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memmove, memset

from kfix_md._entry cimport (
    ACTION_CLEAR, ACTION_DELETE, ACTION_UPDATE, SIDE_BID, SIDE_TRADE, BookSide, MDEntry, Order,
    OrderSlab,
)

import os

import numpy as np

from kfix_md._entry import ENTRY_DTYPE

cdef extern from "_crc.h" nogil:
    int KFIX_HAVE_CLMUL
    int kfix_use_clmul
    void kfix_crc_init(int allow_clmul)
    uint64_t kfix_clmul(uint32_t a, uint32_t b)
    uint32_t kfix_reduce(uint64_t product)
    uint32_t kfix_crc_power(uint32_t n)
    uint32_t kfix_crc_level(int64_t price, int64_t qty, uint8_t* length)
    uint32_t kfix_crc_multiply(uint32_t a, uint32_t b)
    uint32_t kfix_crc_replace_before(uint32_t whole, uint32_t old, int32_t old_n, uint32_t fresh, int32_t fresh_n,
                                     uint32_t after, uint32_t after_n)
    uint32_t kfix_crc_replace_after(uint32_t whole, uint32_t old, int32_t old_n, uint32_t fresh, int32_t fresh_n,
                                    uint32_t before, uint32_t after_n)

kfix_crc_init(os.environ.get("KFIX_SIMD") != "scalar")


def crc_uses_clmul():
    """Return whether 5041 is computed with the CPU's carry-less multiplication (KFIX_SIMD=scalar forbids it)."""
    return bool(kfix_use_clmul)


_DEPTH_FIELDS = [("price", "f8"), ("qty", "f8"), ("orders", "u4")]
_DEPTH_INT_FIELDS = [("price", "i8"), ("qty", "i8"), ("orders", "u4")]
#: what depth() returns, best level first; orders is 0 on L2, where it is not known
DEPTH_DTYPE = np.dtype(_DEPTH_FIELDS, align=True)
DEPTH_INT_DTYPE = np.dtype(_DEPTH_INT_FIELDS, align=True)
_ORDER_DTYPE = np.dtype([
    ("price", "i8"), ("qty", "i8"), ("id_hi", "u8"), ("id_lo", "u8"), ("queue_ns", "i8"), ("event_ns", "i8"),
    ("prev", "i4"), ("next", "i4"), ("crc", "u4"), ("crc_len", "u1"), ("side", "u1"), ("id_kind", "u1"),
    ("spare", "u1"),
])
_AUX_DTYPE = np.dtype([("crc", "u4"), ("length", "u4"), ("tail", "i4"), ("spare", "u4")])
assert _ORDER_DTYPE.itemsize == sizeof(Order)
assert _AUX_DTYPE.itemsize == sizeof(LevelAux)

RULES = {"off": RULE_OFF, "level": RULE_LEVEL, "order": RULE_ORDER, "auto": RULE_AUTO}


cdef inline void* address(object array) except NULL:
    return <void*><uintptr_t>array.ctypes.data


cdef inline int32_t locate(BookSide* side, int which, int64_t price) noexcept nogil:
    # index of the first element, counted from the worst, that is not worse than price
    cdef int64_t* p = side.price
    cdef int32_t i = side.n
    cdef int32_t low = 0, mid
    cdef int32_t near = side.n - 8 if side.n > 8 else 0
    if which == SIDE_BID:
        while i > near and p[i - 1] >= price:
            i -= 1
        if i > near or near == 0:
            return i
        while low < i:
            mid = (low + i) >> 1
            if p[mid] >= price:
                i = mid
            else:
                low = mid + 1
        return i
    while i > near and p[i - 1] <= price:
        i -= 1
    if i > near or near == 0:
        return i
    while low < i:
        mid = (low + i) >> 1
        if p[mid] <= price:
            i = mid
        else:
            low = mid + 1
    return i


cdef inline int64_t wrapping(int64_t a, int64_t b) noexcept nogil:
    # totals of absurd quantities wrap instead of being undefined; the CRC then tells
    return <int64_t>(<uint64_t>a + <uint64_t>b)


cdef inline void mark_dirty(Book book, int side, int32_t low, int32_t high) noexcept:
    # elements [low, high) of the side differ from what was published
    cdef BookSide* s = &book.sides[side]
    if s.dirty_lo >= s.dirty_hi:
        s.dirty_lo = low
        s.dirty_hi = high
    else:
        s.dirty_lo = min(s.dirty_lo, low)
        s.dirty_hi = max(s.dirty_hi, high)
    if high > s.n - CRC_DEPTH:
        book.side_crc[side].length = -1


cdef class Book:
    """What L2Book and L3Book share: two sides of levels in the instrument's integer precision.

    Parameters: `price_precision` (2349) and `qty_precision` (5010), digits after the point;
    `levels`, the number of levels a side that memory is taken for at first (it grows).
    """

    def __cinit__(self, int price_precision=0, int qty_precision=0, *, int levels=64):
        self.price_precision = price_precision
        self.qty_precision = qty_precision
        self.rule = RULE_LEVEL
        self._arrays = [None] * 12
        cdef int side
        for side in range(2):
            self.side_crc[side].length = -1
            if self.reserve_levels(side, max(levels, 16)) != BOOK_OK:
                raise MemoryError("no memory for the levels of a book")

    cdef int reserve_levels(self, int side, int32_t capacity) noexcept:
        if capacity > MAX_LEVELS:
            return BOOK_FULL
        cdef BookSide* s = &self.sides[side]
        try:
            arrays = [
                np.zeros(capacity, "i8"), np.zeros(capacity, "i8"), np.zeros(capacity, "u4"),
                np.zeros(capacity, "i4"), np.zeros(capacity, _AUX_DTYPE),
            ]
            for i, new in enumerate(arrays):
                old = self._arrays[5 * side + i]
                if old is not None:
                    new[: s.n] = old[: s.n]
                self._arrays[5 * side + i] = new
            s.price = <int64_t*>address(arrays[0])
            s.qty = <int64_t*>address(arrays[1])
            s.orders = <uint32_t*>address(arrays[2])
            s.head = <int32_t*>address(arrays[3]) if self.level == 3 else NULL
            self.aux[side] = <LevelAux*>address(arrays[4])
            s.capacity = capacity
        except MemoryError:
            return BOOK_FULL
        return BOOK_OK

    cdef int insert_level(self, int side, int32_t i, int64_t price, int64_t qty) noexcept:
        cdef BookSide* s = &self.sides[side]
        if s.n == s.capacity and self.reserve_levels(side, s.capacity * 2) != BOOK_OK:
            return BOOK_FULL
        cdef int32_t moved = s.n - i
        cdef LevelAux* aux = self.aux[side]
        if moved > 0:
            memmove(s.price + i + 1, s.price + i, moved * sizeof(int64_t))
            memmove(s.qty + i + 1, s.qty + i, moved * sizeof(int64_t))
            memmove(aux + i + 1, aux + i, moved * sizeof(LevelAux))
            if s.head != NULL:
                memmove(s.orders + i + 1, s.orders + i, moved * sizeof(uint32_t))
                memmove(s.head + i + 1, s.head + i, moved * sizeof(int32_t))
        s.price[i] = price
        s.qty[i] = qty
        aux[i].length = 0
        s.n += 1
        mark_dirty(self, side, i, s.n)
        return BOOK_OK

    cdef void remove_level(self, int side, int32_t i) noexcept:
        cdef BookSide* s = &self.sides[side]
        cdef int32_t moved = s.n - i - 1
        cdef LevelAux* aux = self.aux[side]
        if moved > 0:
            memmove(s.price + i, s.price + i + 1, moved * sizeof(int64_t))
            memmove(s.qty + i, s.qty + i + 1, moved * sizeof(int64_t))
            memmove(aux + i, aux + i + 1, moved * sizeof(LevelAux))
            if s.head != NULL:
                memmove(s.orders + i, s.orders + i + 1, moved * sizeof(uint32_t))
                memmove(s.head + i, s.head + i + 1, moved * sizeof(int32_t))
        # the range is marked while the level still counts, so that a removal at the best is seen
        mark_dirty(self, side, i, s.n)
        s.n -= 1

    cdef int apply_entries(self, MDEntry* entries, Py_ssize_t n) noexcept:
        return BOOK_OK

    cdef OrderSlab* slab_or_null(self) noexcept:
        return NULL

    cdef void clear_book(self) noexcept:
        cdef int side
        for side in range(2):
            self.sides[side].dirty_lo = 0
            self.sides[side].dirty_hi = self.sides[side].capacity
            self.sides[side].n = 0
            self.side_crc[side].length = -1

    cdef void set_rule(self, int rule) noexcept:
        # cached CRCs are of the texts of one rule
        cdef int side
        cdef int32_t i
        if rule == self.rule:
            return
        self.rule = rule
        for side in range(2):
            self.side_crc[side].length = -1
            for i in range(self.sides[side].n):
                self.aux[side][i].length = 0

    cdef uint32_t level_crc(self, int side, int32_t i, uint32_t* length, int rule) noexcept:
        # raw CRC of one level by the level rule; cached while `rule` is the book's own
        cdef LevelAux* aux = &self.aux[side][i]
        cdef uint8_t n = 0
        cdef uint32_t crc
        crc = kfix_crc_level(self.sides[side].price[i], self.sides[side].qty[i], &n)
        if rule == self.rule:
            aux.crc = crc
            aux.length = n
        length[0] = n
        return crc

    cdef uint32_t crc_by(self, int rule) noexcept:
        # the texts are joined from the last to the first: each is moved by the length of what follows it
        cdef int side
        cdef int32_t i, first
        cdef uint32_t length, follows, crc = 0, total = 0
        cdef uint64_t product
        cdef SideCrc sides[2]
        for side in range(2):
            sides[side] = self.side_crc[side]
            if rule == self.rule and sides[side].length >= 0:
                continue
            product = 0
            follows = 0
            first = max(self.sides[side].n - CRC_DEPTH, 0)
            for i in range(first, self.sides[side].n):
                if rule == self.rule and self.aux[side][i].length > 0:
                    crc = self.aux[side][i].crc
                    length = self.aux[side][i].length
                else:
                    crc = self.level_crc(side, i, &length, rule)
                product ^= kfix_clmul(crc, kfix_crc_power(follows))
                follows += length
            sides[side].crc = kfix_reduce(product)
            sides[side].length = follows
            if rule == self.rule:
                self.side_crc[side] = sides[side]
        # 5041 covers the offers, then the bids
        total = sides[0].length + sides[1].length
        product = kfix_clmul(sides[1].crc, kfix_crc_power(sides[0].length))
        product ^= kfix_clmul(<uint32_t>0xFFFFFFFF, kfix_crc_power(total))
        return kfix_reduce(product) ^ sides[0].crc ^ <uint32_t>0xFFFFFFFF

    # ---- what Python sees ----

    def apply(self, entries):
        """Apply entries (array of ENTRY_DTYPE, C-contiguous) in the order given.

        A CLEAR entry empties the book. Raises OverflowError when the book may not grow further.
        """
        entries = np.ascontiguousarray(entries, dtype=ENTRY_DTYPE)
        if len(entries) and self.apply_entries(<MDEntry*>address(entries), len(entries)) != BOOK_OK:
            raise OverflowError("more levels or orders than a book may hold")

    def clear(self):
        """Empty both sides."""
        self.clear_book()

    def crc(self, rule="level"):
        """Return the CRC32 that 5041 would carry for this book, by rule "level" or "order"."""
        return self.crc_by(RULES[rule])

    @property
    def counts(self):
        """(bid levels, offer levels)."""
        return self.sides[0].n, self.sides[1].n

    @property
    def order_counts(self):
        """(bid orders, offer orders), or None on L2."""
        return None

    def top(self):
        """(bid, bid quantity, ask, ask quantity) as exact ints in the book's precision; None for a missing side."""
        out = []
        cdef BookSide* s
        for side in range(2):
            s = &self.sides[side]
            out += [s.price[s.n - 1], s.qty[s.n - 1]] if s.n else [None, None]
        return tuple(out)

    def depth(self, n=10, price="float"):
        """Return (bids, asks), each a structured array of at most n levels (None: all), best first.

        Fields: price, qty (float64; int64 in the book's precision with price="int"), orders (uint32).
        """
        return self._levels(0, n, price), self._levels(1, n, price)

    def _levels(self, int side, n, price):
        if price not in ("float", "int"):
            raise ValueError(f"price must be 'float' or 'int', not {price!r}")
        cdef int32_t total = self.sides[side].n
        cdef int32_t count = total if n is None else min(total, max(int(n), 0))
        arrays = [self._arrays[5 * side + k][total - count:total][::-1] for k in range(3)]
        out = np.empty(count, DEPTH_DTYPE if price == "float" else DEPTH_INT_DTYPE)
        if price == "float":
            out["price"] = arrays[0] / 10.0 ** self.price_precision
            out["qty"] = arrays[1] / 10.0 ** self.qty_precision
        else:
            out["price"], out["qty"] = arrays[0], arrays[1]
        out["orders"] = arrays[2]
        return out


cdef class L2Book(Book):
    """A book by price level."""

    def __cinit__(self, *args, **kwargs):
        self.level = 2

    cdef int apply_entries(self, MDEntry* entries, Py_ssize_t n) noexcept:
        cdef MDEntry* e = entries
        cdef MDEntry* end = entries + n
        cdef BookSide* s
        cdef int32_t i
        cdef int side
        while e < end:
            side = e.side
            if e.action == ACTION_CLEAR:
                self.clear_book()
            elif side != SIDE_TRADE:
                s = &self.sides[side]
                i = locate(s, side, e.price)
                if i < s.n and s.price[i] == e.price:
                    if e.action >= ACTION_DELETE or e.qty == 0:
                        self.remove_level(side, i)
                    else:
                        self.repeated += e.action != ACTION_UPDATE
                        s.qty[i] = e.qty
                        self.aux[side][i].length = 0
                        mark_dirty(self, side, i, i + 1)
                elif e.action >= ACTION_DELETE or e.qty == 0:
                    self.unknown += 1
                else:
                    self.unknown += e.action == ACTION_UPDATE
                    if self.insert_level(side, i, e.price, e.qty) != BOOK_OK:
                        return BOOK_FULL
            e += 1
        return BOOK_OK


cdef inline uint32_t hash_id(uint64_t hi, uint64_t lo) noexcept nogil:
    return <uint32_t>(((hi ^ (lo * <uint64_t>0x9E3779B97F4A7C15)) * <uint64_t>0xD6E8FEB86659FD93) >> 32)


cdef class L3Book(Book):
    """A book by order: levels as in L2Book (quantities are totals), and the queue of each level."""

    def __cinit__(self, *args, **kwargs):
        self.level = 3
        self.rule = RULE_ORDER
        self.free_row = -1
        cdef int side
        for side in range(2):
            self.sides[side].head = <int32_t*>address(self._arrays[5 * side + 3])
        if self.reserve_orders(256) != BOOK_OK:
            raise MemoryError("no memory for the orders of a book")

    cdef OrderSlab* slab_or_null(self) noexcept:
        return &self.slab

    cdef int reserve_orders(self, int32_t capacity) noexcept:
        # rows, the table of twice their number, and the list of changed rows grow together
        if capacity > MAX_ORDERS:
            return BOOK_FULL
        cdef int32_t row
        try:
            rows = np.zeros(capacity, _ORDER_DTYPE)
            table = np.full(2 * capacity, -1, "i4")
            dirty = np.zeros(256, "i4")
        except MemoryError:
            return BOOK_FULL
        if self.slab.used:
            rows[: self.slab.used] = self._arrays[10][0][: self.slab.used]
        self._arrays[10] = (rows, table, dirty)
        self.slab.rows = <Order*>address(rows)
        self.slab.capacity = capacity
        self.slab.dirty = <int32_t*>address(dirty)
        self.slab.n_dirty = -1
        self.dirty_capacity = 256
        self.table = <int32_t*>address(table)
        self.mask = 2 * capacity - 1
        for row in range(self.slab.used):
            if self.slab.rows[row].qty > 0:
                self.link(row)
        return BOOK_OK

    cdef void link(self, int32_t row) noexcept:
        cdef uint32_t at = hash_id(self.slab.rows[row].id_hi, self.slab.rows[row].id_lo) & self.mask
        while self.table[at] >= 0:
            at = (at + 1) & self.mask
        self.table[at] = row

    cdef int32_t find(self, uint64_t hi, uint64_t lo, uint8_t kind) noexcept:
        cdef uint32_t at = hash_id(hi, lo) & self.mask
        cdef int32_t row = self.table[at]
        cdef Order* o
        while row >= 0:
            o = &self.slab.rows[row]
            if o.id_lo == lo and o.id_hi == hi and o.id_kind == kind:
                return row
            at = (at + 1) & self.mask
            row = self.table[at]
        return -1

    cdef void unlink(self, int32_t row) noexcept:
        # linear probing without tombstones: what follows moves back over the hole
        cdef Order* o = &self.slab.rows[row]
        cdef uint32_t hole = hash_id(o.id_hi, o.id_lo) & self.mask
        cdef uint32_t at, home
        while self.table[hole] != row:
            hole = (hole + 1) & self.mask
        at = hole
        while True:
            at = (at + 1) & self.mask
            if self.table[at] < 0:
                break
            o = &self.slab.rows[self.table[at]]
            home = hash_id(o.id_hi, o.id_lo) & self.mask
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.table[hole] = self.table[at]
                hole = at
        self.table[hole] = -1

    cdef void touch(self, int32_t row) noexcept:
        if self.slab.n_dirty < 0:
            return
        if self.slab.n_dirty == self.dirty_capacity:
            self.slab.n_dirty = -1
            return
        self.slab.dirty[self.slab.n_dirty] = row
        self.slab.n_dirty += 1

    cdef int add(self, MDEntry* e) noexcept:
        cdef BookSide* s = &self.sides[e.side]
        cdef int32_t i = locate(s, e.side, e.price)
        cdef int32_t row, after, before
        cdef Order* rows
        cdef Order* o
        cdef LevelAux* aux
        if self.free_row < 0 and self.slab.used == self.slab.capacity:
            if self.reserve_orders(self.slab.capacity * 2) != BOOK_OK:
                return BOOK_FULL
        if i == s.n or s.price[i] != e.price:
            if self.insert_level(e.side, i, e.price, 0) != BOOK_OK:
                return BOOK_FULL
            s.orders[i] = 0
            s.head[i] = -1
            self.aux[e.side][i].tail = -1
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
        o.crc_len = 0
        # queued by 5273; an order without one, or with an equal one, goes behind those that came before it
        aux = &self.aux[e.side][i]
        after = aux.tail
        if e.queue_ns > 0:
            while after >= 0 and rows[after].queue_ns > e.queue_ns:
                after = rows[after].prev
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
            aux.tail = row
        self.recompute(aux, o, 0, 0)
        s.qty[i] = wrapping(s.qty[i], e.qty)
        s.orders[i] += 1
        self.slab.n_orders += 1
        self.link(row)
        self.touch(row)
        mark_dirty(self, e.side, i, i + 1)
        return BOOK_OK

    cdef void recompute(self, LevelAux* aux, Order* o, uint32_t old, int32_t old_n) noexcept:
        # the cached CRC of a level in which the text of one order changed: it was (old, old_n), nothing for a new
        # order, and is that of `o` now, nothing when o.crc_len still is old_n. Both neighbours are walked at once,
        # so that only the shorter way to an end of the queue is gone.
        cdef Order* rows = self.slab.rows
        cdef int32_t ahead = o.prev, behind = o.next
        cdef uint32_t before = 0, before_n = 0, after = 0, after_n = 0, fresh = 0
        cdef int32_t fresh_n = 0
        cdef uint64_t product = 0
        cdef Order* q
        if aux.length == 0:
            return
        if self.rule != RULE_ORDER or (old_n == 0 and o.crc_len > 0):
            aux.length = 0
            return
        if o.crc_len == 0:
            fresh = kfix_crc_level(o.price, o.qty, &o.crc_len)
            o.crc = fresh
            fresh_n = o.crc_len
        while ahead >= 0 and behind >= 0:
            q = &rows[ahead]
            product ^= kfix_clmul(q.crc, kfix_crc_power(before_n))
            before_n += q.crc_len
            ahead = q.prev
            q = &rows[behind]
            after = kfix_crc_multiply(after, kfix_crc_power(q.crc_len)) ^ q.crc
            after_n += q.crc_len
            behind = q.next
        if behind < 0:
            aux.crc = kfix_crc_replace_before(aux.crc, old, old_n, fresh, fresh_n, after, after_n)
        else:
            before = kfix_reduce(product)
            after_n = aux.length - before_n - old_n
            aux.crc = kfix_crc_replace_after(aux.crc, old, old_n, fresh, fresh_n, before, after_n)
        aux.length += fresh_n - old_n

    cdef void remove(self, int32_t row) noexcept:
        cdef Order* rows = self.slab.rows
        cdef Order* o = &rows[row]
        cdef BookSide* s = &self.sides[o.side]
        cdef int32_t i = locate(s, o.side, o.price)
        self.unlink(row)
        if o.prev >= 0:
            rows[o.prev].next = o.next
            self.touch(o.prev)
        else:
            s.head[i] = o.next
        if o.next >= 0:
            rows[o.next].prev = o.prev
            self.touch(o.next)
        else:
            self.aux[o.side][i].tail = o.prev
        s.qty[i] = wrapping(s.qty[i], -o.qty)
        s.orders[i] -= 1
        if s.orders[i] == 0:
            self.remove_level(o.side, i)
        else:
            self.recompute(&self.aux[o.side][i], o, o.crc, o.crc_len)
            mark_dirty(self, o.side, i, i + 1)
        o.qty = 0
        o.next = self.free_row
        self.free_row = row
        self.slab.n_orders -= 1
        self.touch(row)

    cdef void change(self, int32_t row, MDEntry* e) noexcept:
        # same price and place in the queue: only the quantity is new
        cdef Order* o = &self.slab.rows[row]
        cdef BookSide* s = &self.sides[o.side]
        cdef int32_t i = locate(s, o.side, o.price)
        s.qty[i] = wrapping(s.qty[i], e.qty - o.qty)
        cdef uint32_t old = o.crc
        cdef int32_t old_n = o.crc_len
        o.qty = e.qty
        o.event_ns = e.event_ns
        o.crc_len = 0
        self.recompute(&self.aux[o.side][i], o, old, old_n)
        self.touch(row)
        mark_dirty(self, o.side, i, i + 1)

    cdef int apply_entries(self, MDEntry* entries, Py_ssize_t n) noexcept:
        cdef MDEntry* e = entries
        cdef MDEntry* end = entries + n
        cdef Order* o
        cdef int32_t row
        while e < end:
            if e.action == ACTION_CLEAR:
                self.clear_book()
            elif e.side != SIDE_TRADE:
                row = self.find(e.id_hi, e.id_lo, e.id_kind)
                if e.action >= ACTION_DELETE or e.qty <= 0:
                    if row >= 0:
                        self.remove(row)
                    else:
                        self.unknown += 1
                elif row < 0:
                    self.unknown += e.action == ACTION_UPDATE
                    if self.add(e) != BOOK_OK:
                        return BOOK_FULL
                else:
                    self.repeated += e.action != ACTION_UPDATE
                    o = &self.slab.rows[row]
                    if o.price == e.price and o.side == e.side and (
                        e.queue_ns == 0 or o.queue_ns == e.queue_ns
                    ):
                        self.change(row, e)
                    else:
                        self.remove(row)
                        if self.add(e) != BOOK_OK:
                            return BOOK_FULL
            e += 1
        return BOOK_OK

    cdef void clear_book(self) noexcept:
        Book.clear_book(self)
        memset(self.table, 0xFF, (self.mask + 1) * sizeof(int32_t))
        cdef int32_t row
        for row in range(self.slab.used):
            self.slab.rows[row].qty = 0
        self.slab.used = 0
        self.slab.n_orders = 0
        self.slab.n_dirty = -1
        self.free_row = -1

    cdef uint32_t level_crc(self, int side, int32_t i, uint32_t* length, int rule) noexcept:
        if rule != RULE_ORDER:
            return Book.level_crc(self, side, i, length, rule)
        cdef LevelAux* aux = &self.aux[side][i]
        cdef int32_t row = aux.tail
        cdef uint32_t follows = 0, crc
        cdef uint64_t product = 0
        cdef Order* o
        while row >= 0:
            o = &self.slab.rows[row]
            if o.crc_len == 0:
                o.crc = kfix_crc_level(o.price, o.qty, &o.crc_len)
            product ^= kfix_clmul(o.crc, kfix_crc_power(follows))
            follows += o.crc_len
            row = o.prev
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
        return tuple(int(self._arrays[5 * side + 2][: self.sides[side].n].sum()) for side in range(2))

    def _row(self, hi, lo, kind):
        row = self.find(hi, lo, kind)
        if row < 0:
            raise KeyError("no such order in the book")
        return row

    def queue(self, side, price):
        """Return the orders of one level in queue order, as an array with price, qty, id_hi, id_lo, id_kind,
        queue_ns and event_ns (ints in the book's precision, ns since the epoch).

        `side` is 0 (bid) or 1 (offer), `price` the integer price; an absent level gives an empty array.
        """
        cdef BookSide* s = &self.sides[1 if side else 0]
        cdef int32_t i = locate(s, 1 if side else 0, price)
        rows = []
        cdef int32_t row = -1
        if i < s.n and s.price[i] == price:
            row = s.head[i]
        while row >= 0:
            rows.append(row)
            row = self.slab.rows[row].next
        fields = ["price", "qty", "id_hi", "id_lo", "id_kind", "queue_ns", "event_ns"]
        return self._arrays[10][0][rows][fields].copy()

    def position(self, id_hi, id_lo, id_kind):
        """Queue position of an order: (orders ahead, quantity ahead). KeyError when the book does not hold it."""
        cdef int32_t row = self.slab.rows[<int32_t>self._row(id_hi, id_lo, id_kind)].prev
        cdef int64_t ahead = 0, qty = 0
        while row >= 0:
            ahead += 1
            qty += self.slab.rows[row].qty
            row = self.slab.rows[row].prev
        return ahead, qty
