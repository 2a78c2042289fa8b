# cython: freethreading_compatible=True
"""Books filled by hand, and writers and readers without pauses, for tests and benchmarks of shared memory."""

from kfix_md._entry import Cause, State
from kfix_md.errors import FeedError

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memmove, memset

from kfix_md._entry cimport BookSide, MDEntry, Order, OrderSlab, TopOfBook
from kfix_md.shm.deep cimport Book, data_of
from kfix_md.shm.layout cimport kfix_age, kfix_depth, kfix_level, kfix_load, kfix_pause, kfix_top
from kfix_md.shm.writer cimport SegmentWriter

cdef extern from "shm/platform.h" nogil:
    int CLOCK_MONOTONIC
    int64_t kfix_clock(int id)


cdef class ManualBook:
    """One slot of a SegmentWriter driven from Python, with the dirty marks a real book would leave."""

    cdef SegmentWriter writer
    cdef int32_t slot
    cdef BookSide sides[2]              # bids, asks
    cdef OrderSlab slab
    cdef TopOfBook top
    cdef bint by_order

    def __cinit__(self, SegmentWriter writer, int32_t slot, int32_t capacity=16, int32_t orders=0):
        self.writer, self.slot, self.by_order = writer, slot, orders > 0
        for i in range(2):
            grow(&self.sides[i], capacity)
            self.sides[i].dirty_lo = 0x7fffffff
        if orders:
            self.slab.rows = <Order*> calloc(orders, sizeof(Order))
            self.slab.dirty = <int32_t*> calloc(4 * orders, sizeof(int32_t))
            self.slab.capacity = orders

    def __dealloc__(self):
        for i in range(2):
            free(self.sides[i].price)
            free(self.sides[i].qty)
            free(self.sides[i].orders)
            free(self.sides[i].head)
        free(self.slab.rows)
        free(self.slab.dirty)

    def set(self, str side, int32_t i, int64_t price, int64_t qty, uint32_t orders=0, int32_t head=-1):
        """Change level `i` (0 is the worst) in place."""
        cdef BookSide* s = self._side(side)
        self._check(s, i, s.n)
        s.price[i], s.qty[i], s.orders[i], s.head[i] = price, qty, orders, head
        s.dirty_lo, s.dirty_hi = min(s.dirty_lo, i), max(s.dirty_hi, i + 1)

    def insert(self, str side, int32_t i, int64_t price, int64_t qty, uint32_t orders=0, int32_t head=-1):
        """A new level at `i`; what was there moves towards the best."""
        cdef BookSide* s = self._side(side)
        self._check(s, i, s.n + 1)
        if s.n == s.capacity:
            grow(s, 2 * s.capacity)
        memmove(&s.price[i + 1], &s.price[i], (s.n - i) * sizeof(int64_t))
        memmove(&s.qty[i + 1], &s.qty[i], (s.n - i) * sizeof(int64_t))
        memmove(&s.orders[i + 1], &s.orders[i], (s.n - i) * sizeof(uint32_t))
        memmove(&s.head[i + 1], &s.head[i], (s.n - i) * sizeof(int32_t))
        s.n += 1
        self.set(side, i, price, qty, orders, head)
        s.dirty_hi = s.n

    def delete(self, str side, int32_t i):
        """Level `i` goes; what was above it moves down."""
        cdef BookSide* s = self._side(side)
        self._check(s, i, s.n)
        s.n -= 1
        memmove(&s.price[i], &s.price[i + 1], (s.n - i) * sizeof(int64_t))
        memmove(&s.qty[i], &s.qty[i + 1], (s.n - i) * sizeof(int64_t))
        memmove(&s.orders[i], &s.orders[i + 1], (s.n - i) * sizeof(uint32_t))
        memmove(&s.head[i], &s.head[i + 1], (s.n - i) * sizeof(int32_t))
        s.dirty_lo, s.dirty_hi = min(s.dirty_lo, i), s.n

    def fill(self, bids, asks):
        """The whole book: (price, qty) integers, best first."""
        for side, levels in (("bid", bids), ("ask", asks)):
            self._side(side).n = 0
            for price, qty, *more in reversed(list(levels)):
                self.insert(side, self._side(side).n, price, qty, *more)

    def order(self, int32_t row, str side, int64_t price, int64_t qty, uint64_t id_hi=0, uint64_t id_lo=0,
              int id_kind=1, int64_t queue_ns=0, int32_t prev=-1, int32_t next=-1):
        """Row `row` of the order slab; qty 0 frees it."""
        cdef Order* o
        if not 0 <= row < self.slab.capacity:
            raise IndexError(row)
        o = &self.slab.rows[row]
        self.slab.n_orders += (qty > 0) - (o.qty > 0)
        memset(o, 0, sizeof(Order))
        o.price, o.qty, o.id_hi, o.id_lo, o.id_kind, o.queue_ns = price, qty, id_hi, id_lo, id_kind, queue_ns
        o.prev, o.next, o.side = prev, next, side == "ask"
        self.slab.used = max(self.slab.used, row + 1)
        if self.slab.n_dirty >= 0 and self.slab.n_dirty < 4 * self.slab.capacity:
            self.slab.dirty[self.slab.n_dirty] = row
            self.slab.n_dirty += 1
        else:
            self.slab.n_dirty = -1

    def publish(self, state=State.LIVE, cause=Cause.NONE, recv_ns=None, seq=None, crc_checked=None, crc_failed=None):
        """What a handler does after each message."""
        self.top.state, self.top.cause = State(state), Cause(cause)
        self.top.recv_ns = self.writer.now() if recv_ns is None else recv_ns
        self.top.seq = self.top.seq + 1 if seq is None else seq
        self.top.updates += 1
        self.top.crc_checked = self.top.crc_checked if crc_checked is None else crc_checked
        self.top.crc_failed = self.top.crc_failed if crc_failed is None else crc_failed
        self.writer.publish(self.slot, &self.sides[0], &self.sides[1], &self.slab if self.by_order else NULL, &self.top)

    def trade(self, int64_t price, int64_t qty, int aggressor=0, int ord_type=0, int64_t event_ns=0,
              int64_t recv_ns=0, uint64_t seq=0):
        """One trade into the ring."""
        cdef MDEntry t
        memset(&t, 0, sizeof(t))
        t.price, t.qty, t.aggressor, t.ord_type, t.event_ns = price, qty, aggressor, ord_type, event_ns
        self.writer.publish_trade(self.slot, &t, recv_ns, seq)

    cdef BookSide* _side(self, side) except NULL:
        if side not in ("bid", "ask"):
            raise ValueError(f"side must be bid or ask, not {side!r}")
        return &self.sides[side == "ask"]

    cdef int _check(self, BookSide* s, int32_t i, int32_t n) except -1:
        if not 0 <= i < n:
            raise IndexError(i)
        return 0

    def storm(self, double seconds, double rate=0, int32_t levels=1, bint stamp=False):
        """Publish for `seconds`, `rate` times a second (0: flat out), from C without the GIL; returns the number.

        Every publication changes the best `levels` of both sides, all fields from one counter k, so that a reading
        proves itself whole: bid = k, bid_qty = k + 1, ask = k + 2, ask_qty = k + 3 (deeper levels: see `check_levels`).
        recv_ns is k, too, or with `stamp` the time of publication.
        """
        cdef int64_t k = self.top.updates, first = k, now, start, end, step = <int64_t> (1e9 / rate) if rate > 0 else 0
        if levels > self.sides[0].n or levels > self.sides[1].n:
            raise ValueError("fill the book first")
        with nogil:
            start = kfix_clock(CLOCK_MONOTONIC)
            end = start + <int64_t> (seconds * 1e9)
            now = start
            while now < end:
                k += 1
                self._mark(k, levels)
                self.top.state, self.top.recv_ns, self.top.seq, self.top.updates = 2, k, k, k
                if stamp:
                    self.top.recv_ns = self.writer.now()
                self.writer.publish(self.slot, &self.sides[0], &self.sides[1], NULL, &self.top)
                if step:
                    while now < start + (k - first) * step:
                        kfix_pause()
                        now = kfix_clock(CLOCK_MONOTONIC)
                if k & 1023 == 0:
                    now = kfix_clock(CLOCK_MONOTONIC)
                    self.writer.beat()
        return k - first

    cdef void _mark(self, int64_t k, int32_t levels) noexcept nogil:
        cdef int32_t i, b = self.sides[0].n - 1, a = self.sides[1].n - 1
        for i in range(levels):
            self.sides[0].price[b - i], self.sides[0].qty[b - i] = k - 4 * i, k - 4 * i + 1
            self.sides[1].price[a - i], self.sides[1].qty[a - i] = k + 4 * i + 2, k + 4 * i + 3
        self.sides[0].dirty_lo, self.sides[0].dirty_hi = b + 1 - levels, b + 1
        self.sides[1].dirty_lo, self.sides[1].dirty_hi = a + 1 - levels, a + 1


cdef int grow(BookSide* s, int32_t capacity) except -1:
    s.price = <int64_t*> realloc(s.price, capacity * sizeof(int64_t))
    s.qty = <int64_t*> realloc(s.qty, capacity * sizeof(int64_t))
    s.orders = <uint32_t*> realloc(s.orders, capacity * sizeof(uint32_t))
    s.head = <int32_t*> realloc(s.head, capacity * sizeof(int32_t))
    if s.price == NULL or s.qty == NULL or s.orders == NULL or s.head == NULL:
        raise MemoryError
    s.capacity = capacity
    return 0


def torn_tops(Book book, int64_t reads, bint naive=False):
    """Read the self-checking top of `storm` `reads` times from C: (torn, retries, distinct). Naive: no seqlock."""
    cdef kfix_top t
    cdef int64_t torn = 0, distinct = 0, last = -1, _i
    cdef uint64_t before = book.retries
    for _i in range(reads):
        if naive:
            naive_copy(&t, book.best_of)
        else:
            book.quote(&t, True)
        torn += not (t.bid_qty == t.bid + 1 and t.ask == t.bid + 2 and t.ask_qty == t.bid + 3
                     and t.recv_ns == t.bid and <int64_t> t.seq == t.bid)
        distinct += t.bid != last
        last = t.bid
    return torn, book.retries - before, distinct


cdef void naive_copy(kfix_top* to, kfix_top* source) noexcept nogil:
    to.bid, to.bid_qty = <int64_t> kfix_load(&source.bid), <int64_t> kfix_load(&source.bid_qty)
    to.ask, to.ask_qty = <int64_t> kfix_load(&source.ask), <int64_t> kfix_load(&source.ask_qty)
    to.recv_ns, to.seq = <int64_t> kfix_load(&source.recv_ns), kfix_load(&source.seq)


def torn_levels(Book book, int64_t reads, int32_t levels, bint deep=False):
    """Copy ten levels a side (`deep`: the whole book) `reads` times from C: (torn, whole copies).

    `levels` is how many the storm changes. A copy that finds no quiet moment in its bounded tries is not counted.
    """
    cdef kfix_depth head
    cdef int64_t torn = 0, whole = 0, _i
    for _i in range(reads):
        try:
            copy = book.copy_deep(book.depth_capacity, &head) if deep else book.copy_ten(10, &head)
        except FeedError:
            continue
        whole += 1
        torn += torn_copy(<kfix_level*> data_of(copy), &head, levels, deep)
    return torn, whole


cdef bint torn_copy(kfix_level* rows, kfix_depth* head, int32_t levels, bint deep) noexcept nogil:
    # best first in the block of ten, best last in the whole book
    cdef int32_t i, b, a
    cdef int64_t k = rows[head.n_bids - 1 if deep else 0].price
    for i in range(levels):
        b = head.n_bids - 1 - i if deep else i
        a = head.n_bids + (head.n_asks - 1 - i if deep else i)
        if (rows[b].price != k - 4 * i or rows[b].qty != k - 4 * i + 1
                or rows[a].price != k + 4 * i + 2 or rows[a].qty != k + 4 * i + 3):
            return True
    return False


def check_levels(bids, asks):
    """Levels of a storm (integers, best first) belong to one publication."""
    k = int(bids["price"][0])
    steps = range(len(bids))
    return (bids["price"].tolist() == [k - 4 * i for i in steps]
            and bids["qty"].tolist() == [k - 4 * i + 1 for i in steps]
            and asks["price"].tolist() == [k + 4 * i + 2 for i in steps]
            and asks["qty"].tolist() == [k + 4 * i + 3 for i in steps])


def spin_latency(Book book, int64_t most, double seconds):
    """Nanoseconds from publication (`storm(stamp=True)`) to a C loop that does nothing but look: a list of at most
    `most`, within `seconds`."""
    cdef kfix_top t
    cdef uint64_t seen = kfix_load(&book.best_of.version)
    cdef int64_t end = kfix_clock(CLOCK_MONOTONIC) + <int64_t> (seconds * 1e9), i = 0
    out = []
    while i < most and kfix_clock(CLOCK_MONOTONIC) < end:
        if kfix_load(&book.best_of.version) == seen:
            kfix_pause()
            continue
        book.quote(&t, True)
        out.append(kfix_age(book.segment.header, t.recv_ns, kfix_clock(CLOCK_MONOTONIC)))
        seen = book.seen
        i += 1
    return out
