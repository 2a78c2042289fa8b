"""Order books: how levels and orders are kept so that the best is cheap to reach, and what 5041 is computed from.

A side is a set of flat parallel arrays sorted so that the best level is the last element: most changes
happen near the best, so a short scan finds the level and an insertion moves little.
"""

from cpython.pythread cimport PyThread_get_thread_ident
from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcpy, memmove, memset
from posix.unistd cimport usleep

from kfix_md._entry cimport (
    ACTION_CLEAR, ACTION_DELETE, ACTION_NEW, ACTION_UPDATE, SIDE_BID, SIDE_TRADE, BookSide, MDEntry, OrderSlab,
)

import numpy as np

from kfix_md._entry import ENTRY_DTYPE

cdef extern from "c/crc.h" nogil:
    int KFIX_HAVE_CLMUL
    int kfix_use_clmul
    uint32_t kfix_crc_level(int64_t price, int64_t qty, uint8_t* length)
    uint32_t kfix_crc_shifted(int64_t price, int64_t qty, int price_shift, int qty_shift, uint8_t* length)
    uint32_t kfix_crc_stale(const LevelAux* level, int n, uint32_t mask)
    uint32_t kfix_crc_join(const LevelAux* level, int n, uint32_t mask, int32_t* length)
    uint32_t kfix_crc_both(uint32_t head, uint32_t head_n, uint32_t tail, uint32_t tail_n)
    int kfix_lowest "__builtin_ctz" (uint32_t bits)

cdef extern from "c/levels.h" nogil:
    int KFIX_GUARD, KFIX_SLACK
    void kfix_guard(int64_t* p, int offers)
    void kfix_open_gap(void* at, int32_t moved, size_t size)
    void kfix_close_gap(void* at, int32_t moved, size_t size)


def crc_uses_clmul():
    """Return whether 5041 is computed with the CPU's carry-less multiplication (KFIX_SIMD=scalar forbids it)."""
    return bool(kfix_use_clmul)


_DEPTH_FIELDS = [("price", "f8"), ("qty", "f8"), ("orders", "u4")]
_DEPTH_INT_FIELDS = [("price", "i8"), ("qty", "i8"), ("orders", "u4")]
#: what depth() returns, best level first; orders is 0 on L2, where it is not known
DEPTH_DTYPE = np.dtype(_DEPTH_FIELDS, align=True)
DEPTH_INT_DTYPE = np.dtype(_DEPTH_INT_FIELDS, align=True)

assert sizeof(LevelAux) == sizeof(int64_t)

cdef enum:
    LEVEL_BYTES = 40            # of memory, with its place in all arrays of a side
    WAIT_US = 20                # between looks at whether a book is free
    SORTED = 16                 # entries of a snapshot in another order from which on sorting pays

#: configuration's names of the checksum rules
RULES = {
    "off": RULE_OFF, "level": RULE_LEVEL, "order": RULE_ORDER, "auto": RULE_AUTO,
    "level-sent": RULE_LEVEL_SENT, "order-sent": RULE_ORDER_SENT,
}


cdef int by_place(const void* a, const void* b) noexcept nogil:
    cdef const Place* p = <const Place*>a
    cdef const Place* q = <const Place*>b
    if p.side != q.side:
        return -1 if p.side < q.side else 1
    if p.key != q.key:
        return -1 if p.key < q.key else 1
    return -1 if p.at < q.at else 1


cdef int sort_places(const MDEntry* entries, Py_ssize_t n, Place* places) noexcept nogil:
    # the bids and offers of a message, each side's from the worst price on; those of one price stay in their order.
    # How many there are, or -1 when one clears the book, so that the order of all of them counts.
    cdef int32_t i, found = 0
    for i in range(n):
        if entries[i].action == ACTION_CLEAR:
            return -1
        if entries[i].side < SIDE_TRADE:
            places[found].side = entries[i].side
            places[found].key = entries[i].price if entries[i].side == SIDE_BID else ~entries[i].price
            places[found].at = i
            found += 1
    qsort(places, found, sizeof(Place), by_place)
    return found


@final
cdef class Room:
    """What the books of one stream share: the memory that they may take together, and who may use them.

    One thread at a time may use the books without the GIL, between enter() and leave(); every other use begins with
    settled(), or is between held() and released(). All of these need the GIL. A thread that applies messages all the
    time lets those go first that wait.

    Parameters
    ----------
    left : int
        Bytes.
    """

    def __cinit__(self, int64_t left):
        self.left = left

    cdef int enter(self) except -1:
        while self.waiting:
            with nogil:
                usleep(WAIT_US)
        return self.resume(PyThread_get_thread_ident())

    cdef unsigned long leave(self) noexcept:
        # who resumes
        cdef unsigned long owner = self.owner
        self.owner = 0
        return owner

    cdef int resume(self, unsigned long owner) except -1:
        # after Python of somebody else has run, who may have used the books
        self.wait()
        self.owner = owner
        return 0

    cdef int wait(self) except -1:
        # not for its own thread: a finalizer may run where memory is taken
        cdef unsigned long own = PyThread_get_thread_ident()
        self.waiting += 1
        while self.owner and self.owner != own:
            with nogil:
                usleep(WAIT_US)
        self.waiting -= 1
        return 0

    cdef unsigned long hold(self) except? 0:
        # the owner before: this thread, or 0 for none
        cdef unsigned long before
        self.wait()
        before = self.owner
        self.owner = PyThread_get_thread_ident()
        return before

    cdef void release(self, unsigned long owner) noexcept:
        self.owner = owner


cdef inline void join_side(OrderBook book, int side) noexcept nogil:
    # the texts of the ten best levels as one, by the book's own rule
    cdef BookSide* s = &book.sides[side]
    cdef SideCrc* known = &book.side_crc[side]
    cdef int32_t n = s.n, first = max(n - CRC_DEPTH, 0), i
    cdef uint32_t stale
    if known.length <= ONE_TOUCHED and n > 0:
        i = max(n - 1 - (ONE_TOUCHED - known.length), 0)
        if book.rule == RULE_LEVEL or book.aux[side][i].length & book.length_mask == 0:
            renew_level(book, side, i)
    else:
        stale = kfix_crc_stale(book.aux[side] + first, n - first, book.length_mask)
        while stale:
            renew_level(book, side, first + kfix_lowest(stale))
            stale &= stale - 1
    known.crc = kfix_crc_join(book.aux[side] + first, n - first, book.length_mask, &known.length)


cdef inline void renew_level(OrderBook book, int side, int32_t i) noexcept nogil:
    # the CRC of one level by the book's own rule; by the level rule at once, without a virtual call
    cdef LevelAux* aux = &book.aux[side][i]
    cdef uint32_t length
    cdef uint8_t n
    if book.rule != RULE_LEVEL:
        book.level_crc(side, i, &length, book.rule)
        return
    aux.crc = kfix_crc_level(book.sides[side].price[i], book.sides[side].qty[i], &n)
    aux.length = (aux.length & ~book.length_mask) | n


#: what an OrderBook may not become, by the result of apply_message
LIMITS = {
    BOOK_FULL: f"more than {MAX_LEVELS} levels a side or {MAX_ORDERS} orders",
    BOOK_TOTAL: "the quantities of a level's orders together do not fit 64 bits",
    BOOK_WORK: f"more than {WORK_ENTRY} steps of work an entry, and {WORK_BANK} at once",
    BOOK_ROOM: "more memory than the books of one session may take",
}


cdef inline int sent_shift(uint32_t decimals, int precision) noexcept nogil:
    # how many decimals more than the precision (or fewer) the venue wrote
    return <int>(decimals & 0xFF) - precision


cdef void join_by(OrderBook book, int side, int rule, SideCrc* out) noexcept nogil:
    # the same by another rule: nothing is kept
    cdef int32_t n = book.sides[side].n, first = max(n - CRC_DEPTH, 0), i
    cdef LevelAux level[CRC_DEPTH]
    for i in range(first, n):
        level[i - first].crc = book.level_crc(side, i, &level[i - first].length, rule)
    book.work += CRC_DEPTH
    out.crc = kfix_crc_join(level, n - first, 0xFFFFFFFF, &out.length)


cdef class OrderBook:
    """What L2Book and L3Book share: two sides of levels in the instrument's integer precision.

    Parameters
    ----------
    price_precision, qty_precision : int
        2349 and 5010, digits after the point.
    levels : int
        Levels a side that memory is taken for at first (it grows).
    limit : int
        264 MarketDepth: the most levels a side after a message, 0 for no limit.
    """

    def __cinit__(self, int price_precision=0, int qty_precision=0, *, int levels=16, int limit=0):
        self.price_precision = price_precision
        self.qty_precision = qty_precision
        self.rule = RULE_LEVEL
        self.length_mask = LENGTH_L2
        self.limit = limit or NO_LIMIT
        self.work_limit = NO_WORK_LIMIT
        self.memory = [None, None]
        cdef int side
        for side in range(2):
            self.sides[side].dirty_lo = 0x7FFFFFFF
            self.side_crc[side].length = ALL_TOUCHED
            if self.reserve_levels(side, max(levels, 16)) != BOOK_OK:
                raise MemoryError("no memory for the levels of a book")

    def __dealloc__(self):
        if self.room is not None:
            self.room.left += self.taken

    cdef int take_room(self, int64_t bytes) noexcept nogil:
        if self.room is None:
            return BOOK_OK
        if bytes > self.room.left:
            return BOOK_ROOM
        self.room.left -= bytes
        self.taken += bytes
        return BOOK_OK

    cdef int reserve_levels(self, int side, int32_t capacity) noexcept with gil:
        # in the middle of a message, of which no other thread may see a part: numpy gives the GIL up
        cdef unsigned long before = held(self.room)
        cdef int result = self.more_levels(side, capacity)
        released(self.room, before)
        return result

    cdef int more_levels(self, int side, int32_t capacity) noexcept:
        if capacity > MAX_LEVELS:
            return BOOK_FULL
        if self.take_room((capacity - self.sides[side].capacity) * LEVEL_BYTES) != BOOK_OK:
            return BOOK_ROOM
        cdef BookSide* s = &self.sides[side]
        # one array for all of a side: made for every book and again when it grows, so that it should cost little
        cdef int64_t rows = capacity + KFIX_SLACK
        cdef int64_t half = (rows + 1) // 2     # words for an int32 a level: count, and on L3 head and tail
        cdef int64_t* words
        cdef LevelAux* aux
        cdef uint32_t* orders
        cdef int32_t* head
        try:
            memory = np.empty(KFIX_GUARD + 3 * rows + (3 if self.level == 3 else 1) * half, "i8")
            words = <int64_t*>address(memory) + KFIX_GUARD
        except MemoryError:
            return BOOK_FULL
        kfix_guard(words, side)
        aux = <LevelAux*>(words + 2 * rows)
        orders = <uint32_t*>(words + 3 * rows)
        head = <int32_t*>(orders + 2 * half)
        memset(orders, 0, rows * sizeof(uint32_t))
        if s.n:
            memcpy(words, s.price, s.n * sizeof(int64_t))
            memcpy(words + rows, s.qty, s.n * sizeof(int64_t))
            memcpy(aux, self.aux[side], s.n * sizeof(LevelAux))
            memcpy(orders, s.orders, s.n * sizeof(uint32_t))
            if self.level == 3:
                memcpy(head, s.head, s.n * sizeof(int32_t))
                memcpy(head + 2 * half, self.tail[side], s.n * sizeof(int32_t))
        s.price = words
        s.qty = words + rows
        self.aux[side] = aux
        s.orders = orders
        if self.level == 3:
            s.head = head
            self.tail[side] = head + 2 * half
        s.capacity = capacity
        self.memory[side] = memory
        return BOOK_OK

    cdef int insert_level(self, int side, int32_t i, int64_t price, int64_t qty, uint32_t decimals) noexcept nogil:
        cdef BookSide* s = &self.sides[side]
        cdef int32_t moved = s.n - i
        cdef int result
        if s.n == s.capacity:
            result = self.reserve_levels(side, min(s.capacity * 2, max(s.n + 1, MAX_LEVELS)))
            if result != BOOK_OK:
                return result
        self.work += moved >> MOVED
        kfix_open_gap(s.price + i, moved, sizeof(int64_t))
        kfix_open_gap(s.qty + i, moved, sizeof(int64_t))
        kfix_open_gap(self.aux[side] + i, moved, sizeof(LevelAux))
        if s.head != NULL:
            kfix_open_gap(s.orders + i, moved, sizeof(uint32_t))
            kfix_open_gap(s.head + i, moved, sizeof(int32_t))
            kfix_open_gap(self.tail[side] + i, moved, sizeof(int32_t))
        s.price[i] = price
        s.qty[i] = qty
        self.aux[side][i].length = decimals << 8
        s.n += 1
        mark_level(self, side, i, s.n, moved, moved)
        return BOOK_OK

    cdef void remove_level(self, int side, int32_t i) noexcept nogil:
        cdef BookSide* s = &self.sides[side]
        cdef int32_t moved = s.n - i - 1
        self.work += moved >> MOVED
        kfix_close_gap(s.price + i, moved, sizeof(int64_t))
        kfix_close_gap(s.qty + i, moved, sizeof(int64_t))
        kfix_close_gap(self.aux[side] + i, moved, sizeof(LevelAux))
        if s.head != NULL:
            kfix_close_gap(s.orders + i, moved, sizeof(uint32_t))
            kfix_close_gap(s.head + i, moved, sizeof(int32_t))
            kfix_close_gap(self.tail[side] + i, moved, sizeof(int32_t))
        # the range is marked while the level still counts, so that a removal at the best is seen; the tenth is new
        mark_level(self, side, i, s.n, moved, CRC_DEPTH - 1)
        s.n -= 1

    cdef void trim(self) noexcept nogil:
        cdef int side
        for side in range(2):
            if self.sides[side].n > self.limit:
                self.remove_worst(side, self.sides[side].n - self.limit)

    cdef void remove_worst(self, int side, int32_t n) noexcept nogil:
        self.drop_levels(side, n)

    cdef void drop_levels(self, int side, int32_t n) noexcept nogil:
        # the n worst at once
        cdef BookSide* s = &self.sides[side]
        cdef int32_t left = s.n - n
        memmove(s.price, s.price + n, left * sizeof(int64_t))
        memmove(s.qty, s.qty + n, left * sizeof(int64_t))
        memmove(self.aux[side], self.aux[side] + n, left * sizeof(LevelAux))
        if s.head != NULL:
            memmove(s.orders, s.orders + n, left * sizeof(uint32_t))
            memmove(s.head, s.head + n, left * sizeof(int32_t))
            memmove(self.tail[side], self.tail[side] + n, left * sizeof(int32_t))
        mark_dirty(self, side, 0, s.n, left)
        s.n = left

    cdef int apply_entries(self, MDEntry* entries, Py_ssize_t n) noexcept nogil:
        # A snapshot is laid down at once where it can be; otherwise its entries are sorted. A CLEAR first, which the
        # recorder writes, makes it one too.
        cdef MDEntry* e = entries
        cdef MDEntry* end = entries + n
        if n > 0 and e.action == ACTION_CLEAR:
            self.clear_book()
            e += 1
        if n > 0 and self.sides[0].n == 0 and self.sides[1].n == 0:
            return self.open_book(e, end - e)
        return self.apply_each(e, end)

    cdef int open_book(self, MDEntry* entries, Py_ssize_t n) noexcept nogil:
        return BOOK_OK

    cdef int apply_each(self, MDEntry* e, MDEntry* end) noexcept nogil:
        return BOOK_OK

    cdef int apply_unsorted(self, MDEntry* entries, Py_ssize_t n) noexcept nogil:
        # The entries of a snapshot in another order than from the best on, one by one without moving many levels.
        cdef Place* places = <Place*>malloc(n * sizeof(Place)) if n > SORTED else NULL
        cdef int32_t found
        cdef int result
        if places == NULL:
            return self.apply_each(entries, entries + n)
        found = sort_places(entries, n, places)
        result = self.apply_each(entries, entries + n) if found < 0 else self.apply_places(entries, n, places, found)
        free(places)
        return result

    cdef int apply_places(self, MDEntry* entries, Py_ssize_t n, const Place* places, int32_t found) noexcept nogil:
        # from the worst price of each side on: what is put in is the best then. L2: what is done at one price does not
        # depend on another.
        cdef int32_t i
        cdef int result
        for i in range(found):
            result = self.apply_each(&entries[places[i].at], &entries[places[i].at] + 1)
            if result != BOOK_OK:
                return result
        return BOOK_OK

    cdef int open_levels(self, MDEntry* entries, Py_ssize_t n) noexcept nogil:
        # A snapshot has each side from the best on: its levels are laid down at once, where one by one every
        # level would move all those before it. Returns 1, or 0 when the entries stand in another order. On L3
        # the levels are left empty for the orders, which follow.
        cdef MDEntry* e = entries
        cdef MDEntry* end = entries + n
        cdef BookSide* s
        cdef int32_t* at
        cdef int32_t counts[2]
        cdef int64_t worst[2]
        cdef int side
        counts[0] = counts[1] = 0
        worst[0] = worst[1] = 0
        while e < end:
            if e.side >= SIDE_TRADE or e.action != ACTION_NEW or e.qty <= 0:
                return 0
            side = e.side & 1       # the compiler sees that there are two
            if counts[side] == 0 or (e.price < worst[side] if side == SIDE_BID else e.price > worst[side]):
                counts[side] += 1
                worst[side] = e.price
            elif self.level == 2 or e.price != worst[side]:
                return 0
            e += 1
        for side in range(2):
            s = &self.sides[side]
            if counts[side] > s.capacity:   # with room for what comes after the snapshot
                if self.reserve_levels(side, counts[side] + counts[side] // 4 + 16) != BOOK_OK:
                    return 0
        for side in range(2):
            self.sides[side].n = counts[side]
            if counts[side]:
                mark_dirty(self, side, 0, counts[side], 0)
        e = entries
        while self.level == 2 and e < end:
            side = e.side & 1
            counts[side] -= 1
            self.sides[side].price[counts[side]] = e.price
            self.sides[side].qty[counts[side]] = e.qty
            self.aux[side][counts[side]].length = <uint32_t>e.decimals << 8
            e += 1
        while e < end:
            side = e.side & 1
            s = &self.sides[side]
            at = &counts[side]
            if at[0] == s.n or s.price[at[0]] != e.price:
                at[0] -= 1
                s.price[at[0]] = e.price
                s.qty[at[0]] = 0
                s.orders[at[0]] = 0
                self.aux[side][at[0]].length = 0
                s.head[at[0]] = -1
                self.tail[side][at[0]] = -1
            e += 1
        return 1

    cdef OrderSlab* slab_or_null(self) noexcept nogil:
        return NULL

    cdef void clear_book(self) noexcept nogil:
        cdef int side
        for side in range(2):
            self.sides[side].dirty_lo = 0
            self.sides[side].dirty_hi = self.sides[side].capacity
            self.sides[side].n = 0
            self.side_crc[side].length = ALL_TOUCHED
        self.crc_known = False

    cdef void set_rule(self, int rule) noexcept nogil:
        # cached CRCs are of the texts of one rule, see rule_text
        cdef int side
        cdef int32_t i
        if rule == self.rule:
            return
        self.work += self.sides[0].n + self.sides[1].n >> MOVED
        self.rule = rule
        self.crc_known = False
        for side in range(2):
            self.side_crc[side].length = ALL_TOUCHED
            for i in range(self.sides[side].n):
                self.aux[side][i].length &= ~self.length_mask

    cdef uint32_t level_crc(self, int side, int32_t i, uint32_t* length, int rule) noexcept nogil:
        # raw CRC of one level by a level rule; cached while `rule` is the book's own
        cdef LevelAux* aux = &self.aux[side][i]
        cdef BookSide* s = &self.sides[side]
        cdef uint8_t n = 0
        cdef uint32_t crc
        if rule & RULE_SENT:
            crc = kfix_crc_shifted(s.price[i], s.qty[i], sent_shift(aux.length >> 8, self.price_precision),
                                   sent_shift(aux.length >> 16, self.qty_precision), &n)
        elif rule >> 8:
            crc = kfix_crc_shifted(s.price[i], s.qty[i], price_shift(rule), qty_shift(rule), &n)
        else:
            crc = kfix_crc_level(s.price[i], s.qty[i], &n)
        if rule == self.rule:
            aux.crc = crc
            aux.length = (aux.length & ~self.length_mask) | n
        length[0] = n
        return crc

    cdef uint32_t crc_by(self, int rule) noexcept nogil:
        # 5041 covers the offers, then the bids
        cdef SideCrc other[2]
        cdef SideCrc* known = self.side_crc
        cdef int side
        if rule == self.rule:
            if self.crc_known:
                return self.both_crc
            for side in range(2):
                if known[side].length < 0:
                    join_side(self, side)
        else:
            known = other
            for side in range(2):
                join_by(self, side, rule, &other[side])
        cdef uint32_t crc = kfix_crc_both(known[1].crc, known[1].length, known[0].crc, known[0].length)
        if rule == self.rule:
            self.both_crc = crc
            self.crc_known = True
        return crc

    # ---- what Python sees ----

    def apply(self, entries):
        """Apply entries (array of ENTRY_DTYPE, C-contiguous) in the order given, as those of one message.

        A CLEAR entry empties the book. Raises ValueError when a side is none of 269's 0, 1, 2, OverflowError when
        the book may not grow further.
        """
        entries = np.ascontiguousarray(entries, dtype=ENTRY_DTYPE)
        if len(entries) and entries["side"].max() > SIDE_TRADE:
            raise ValueError("an entry's side must be 0 (bid), 1 (offer) or 2 (trade)")
        settled(self.room)
        cdef int result = apply_message(self, <MDEntry*>address(entries), len(entries)) if len(entries) else BOOK_OK
        if result != BOOK_OK:
            raise OverflowError(LIMITS[result])

    def clear(self):
        """Empty both sides."""
        settled(self.room)
        self.clear_book()

    def crc(self, rule="level", price_precision=None, qty_precision=None):
        """Return the CRC32 that 5041 would carry for this book.

        Parameters
        ----------
        rule : str
            "level" or "order" (printed at the precisions), "level-sent" or "order-sent" (with the decimals sent).
        price_precision, qty_precision : int, optional
            Other precisions to print at.
        """
        settled(self.room)
        return self.crc_by(rule_text(
            RULES[rule], 0 if price_precision is None else price_precision - self.price_precision,
            0 if qty_precision is None else qty_precision - self.qty_precision))

    @property
    def counts(self):
        """(bid levels, offer levels)."""
        settled(self.room)
        return self.sides[0].n, self.sides[1].n

    @property
    def order_counts(self):
        """(bid orders, offer orders), or None on L2."""
        return None

    def top(self):
        """(bid, bid quantity, ask, ask quantity) as exact ints in the book's precision; None for a missing side."""
        out = []
        cdef BookSide* s
        cdef unsigned long before = held(self.room)
        try:
            for side in range(2):
                s = &self.sides[side]
                out += [s.price[s.n - 1], s.qty[s.n - 1]] if s.n else [None, None]
        finally:
            released(self.room, before)
        return tuple(out)

    def depth(self, n=10, price="float"):
        """Return (bids, asks), each a structured array of at most n levels (None: all), best first.

        Fields: price, qty (float64; int64 in the book's precision with price="int"), orders (uint32).
        """
        if price not in ("float", "int"):
            raise ValueError(f"price must be 'float' or 'int', not {price!r}")
        cdef unsigned long before = held(self.room)
        try:
            return self._levels(0, n, price), self._levels(1, n, price)
        finally:
            released(self.room, before)

    def _levels(self, int side, n, price):
        cdef int32_t total = self.sides[side].n
        cdef int32_t count = total if n is None else min(total, max(int(n), 0))
        cdef Py_ssize_t rows = self.sides[side].capacity + KFIX_SLACK
        words = self.memory[side][KFIX_GUARD:]
        arrays = [words[at + total - count:at + total][::-1] for at in (0, rows)]
        arrays.append(words[3 * rows:].view("u4")[total - count:total][::-1])
        # padding is zero: equal books have equal bytes
        out = np.zeros(count, DEPTH_DTYPE if price == "float" else DEPTH_INT_DTYPE)
        if price == "float":
            out["price"] = arrays[0] / 10.0 ** self.price_precision
            out["qty"] = arrays[1] / 10.0 ** self.qty_precision
        else:
            out["price"], out["qty"] = arrays[0], arrays[1]
        out["orders"] = arrays[2]
        return out


@final
cdef class L2Book(OrderBook):
    """A book by price level."""

    def __cinit__(self, *args, **kwargs):
        self.level = 2

    cdef int open_book(self, MDEntry* entries, Py_ssize_t n) noexcept nogil:
        return BOOK_OK if self.open_levels(entries, n) else self.apply_unsorted(entries, n)

    cdef int apply_each(self, MDEntry* e, MDEntry* end) noexcept nogil:
        cdef BookSide* s
        cdef int32_t i
        cdef int side, result
        while e < end:
            if self.work > self.work_limit:
                return BOOK_WORK
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
                        self.aux[side][i].length = <uint32_t>e.decimals << 8
                        mark_level(self, side, i, i + 1, s.n - i - 1, s.n - i - 1)
                elif e.action >= ACTION_DELETE or e.qty == 0:
                    self.unknown += 1
                else:
                    self.unknown += e.action == ACTION_UPDATE
                    result = self.insert_level(side, i, e.price, e.qty, e.decimals)
                    if result != BOOK_OK:
                        return result
            e += 1
        return BOOK_OK
