# cython: freethreading_compatible=True
"""Reads levels, queued orders and trades of a book from a segment."""

from collections import namedtuple
from decimal import Decimal

import numpy as np

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from kfix_md.shm.layout cimport (
    KFIX_BEST, KFIX_LEVELS_CUT, KFIX_ORDERS_CUT, kfix_best, kfix_depth, kfix_get, kfix_get_many, kfix_level, kfix_load,
    kfix_load32, kfix_load_acquire, kfix_order, kfix_read_begin, kfix_read_end, kfix_symbol, kfix_trade, kfix_trades,
    kfix_wall,
)
from kfix_md.shm.reader cimport FLOATS, INTS, price_form
from kfix_md.shm.segment cimport ten_to, Segment

#: levels of `depth()`: price and quantity as floats, orders 0 on L2 where the number is unknown
LEVEL_DTYPE = np.dtype([("price", "f8"), ("qty", "f8"), ("orders", "u4")], align=True)
#: levels of `depth(price="int")`: units of 10**-price_precision and 10**-qty_precision
LEVEL_INT_DTYPE = np.dtype([("price", "i8"), ("qty", "i8"), ("orders", "u4")], align=True)
#: `trades()`: aggressor 1 buy, 2 sell; ord_type 1 market, 2 limit; 0 unknown; index counts all trades of the symbol
TRADE_DTYPE = np.dtype([
    ("index", "u8"), ("price", "f8"), ("qty", "f8"), ("recv_ns", "i8"), ("event_ns", "i8"), ("seq", "u8"),
    ("aggressor", "u1"), ("ord_type", "u1"),
], align=True)
#: `orders()`: the queue of one level, first in the queue first; the id as 128 bits and its kind (see IdKind)
ORDER_DTYPE = np.dtype([
    ("qty", "f8"), ("queue_ns", "i8"), ("event_ns", "i8"), ("id_hi", "u8"), ("id_lo", "u8"), ("id_kind", "u1"),
], align=True)

QueuePosition = namedtuple("QueuePosition", "side price qty ahead qty_ahead orders level_qty")
QueuePosition.__doc__ = """Position of an order in its queue: `ahead` orders with `qty_ahead` in total are before it."""

cdef struct Level:                  # kfix_level with floats
    double price
    double qty
    uint32_t orders
    int32_t head

assert LEVEL_DTYPE.itemsize == LEVEL_INT_DTYPE.itemsize == sizeof(Level) == sizeof(kfix_level)


cdef class Book(TopReader):
    """One book of a running feed: its top (see TopReader), levels, trades, and on L3 the orders."""

    def bind(self, Segment segment not None, uint32_t row):
        """Read directory entry `row` of `segment` from now on."""
        cdef kfix_symbol* e = segment.row(row)
        cdef char* base = segment.base
        TopReader.bind(self, segment, row)
        self.depth_capacity, self.orders_capacity = e.depth_capacity, e.orders_capacity
        self.trades_capacity = e.trades_capacity
        self.ten, self.deep = <kfix_best*> (base + e.best_offset), <kfix_depth*> (base + e.depth_offset)
        self.bids = <kfix_level*> (base + e.depth_offset + sizeof(kfix_depth))
        self.asks = self.bids + e.depth_capacity
        self.rows = <kfix_order*> (base + e.orders_offset) if e.orders_offset else NULL
        self.ring = <kfix_trades*> (base + e.trades_offset)
        self.trade_rows = <kfix_trade*> (base + e.trades_offset + sizeof(kfix_trades))

    def __reduce__(self):
        from kfix_md.shm.attach import book_of
        return book_of, (self.segment.path if self.feed is None else self.feed, self.symbol, self.level)

    # ---- in a terminal and a notebook ----

    def __repr__(self):
        return f"<{self._shown('live_text')}>"

    def _repr_html_(self):
        return self._shown("live_html")

    def _shown(self, how):
        """What kfix_md.display makes of this book; `changed()` does not take notice of it."""
        from kfix_md import display
        cdef uint64_t seen = self.seen
        try:
            return getattr(display, how)(self)
        finally:
            self.seen = seen

    # ---- levels ----

    @property
    def bids(self):
        """The ten best bids, best first, as `depth` gives them; take both sides of one message with `depth`."""
        return self.depth()[0]

    @property
    def asks(self):
        """The ten best asks, best first, as `depth` gives them; take both sides of one message with `depth`."""
        return self.depth()[1]

    def depth(self, n=10, price="float", bint allow_stale=False, *, bint allow_unverified=False):
        """(bids, asks): the best levels of each side as of one message, best first.

        Parameters
        ----------
        n : int or None
            Levels a side; None: all.
        price : {"float", "int", "decimal"}
            "int": integers in units of 10**-precision; "decimal": exact decimal.Decimal.
        allow_stale : bool
            Return the last levels of a book that is not trusted.
        allow_unverified : bool
            Accept an UNVERIFIED book.

        Returns
        -------
        tuple of two structured arrays
            LEVEL_DTYPE, LEVEL_INT_DTYPE with price="int", objects with "decimal": price, qty, orders (0 on L2).

        Raises
        ------
        NotLive, FeedDead
            As `top`.
        """
        cdef int form = price_form(price)
        cdef uint64_t version
        cdef kfix_depth head
        cdef uint32_t most = self.depth_capacity if n is None else max(0, min(int(n), self.depth_capacity))
        while True:
            version = kfix_load_acquire(&self.best_of.version)
            out = self.copy_ten(most, &head) if most <= KFIX_BEST else self.copy_deep(most, &head)
            self.notice(version)
            if self.accept(head.state, head.cause, head.recv_ns, allow_stale, allow_unverified):
                break
        self.seen = version
        if form == FLOATS:
            to_floats(<kfix_level*> data_of(out), head.n_bids + head.n_asks, &head)
            out = out.view(LEVEL_DTYPE)
        elif form != INTS:
            from kfix_md.display import decimal_levels
            out = decimal_levels(out, (head.price_precision, head.qty_precision))
        if most <= KFIX_BEST:
            return out[:head.n_bids], out[head.n_bids:]
        # best last in the block: two reversed views
        return (out[head.n_bids - 1::-1] if head.n_bids else out[:0],
                out[:head.n_bids - 1:-1] if head.n_bids else out[::-1])

    cdef object copy_ten(self, uint32_t most, kfix_depth* head):
        """Up to ten levels a side from kfix_best, best first, bids before asks."""
        cdef kfix_best ten
        cdef uint32_t tries = 0
        cdef uint64_t begun
        cdef kfix_level* to
        while True:
            begun = kfix_read_begin(&self.ten.version)
            if not begun & 1:
                kfix_get(&ten, self.ten, sizeof(kfix_best))
                if kfix_read_end(&self.ten.version, begun):
                    break
            tries = self.again(tries)
        head.n_bids, head.n_asks = min(ten.n_bids, most), min(ten.n_asks, most)
        head.state, head.cause, head.recv_ns = ten.state, ten.cause, ten.recv_ns
        head.price_precision, head.qty_precision = ten.price_precision, ten.qty_precision
        out = np.empty(head.n_bids + head.n_asks, LEVEL_INT_DTYPE)
        to = <kfix_level*> data_of(out)
        memcpy(to, ten.bids, head.n_bids * sizeof(kfix_level))
        memcpy(to + head.n_bids, ten.asks, head.n_asks * sizeof(kfix_level))
        return out

    cdef object copy_deep(self, uint32_t most, kfix_depth* head):
        """Up to `most` levels a side from kfix_depth, best last, bids before asks."""
        cdef uint32_t tries = 0, b, a, room = 0
        cdef uint64_t begun
        cdef kfix_level* to = NULL
        out = None
        while True:
            begun = kfix_read_begin(&self.deep.version)
            if not begun & 1:
                kfix_get(head, self.deep, sizeof(kfix_depth))
                b, a = min(head.n_bids, self.depth_capacity), min(head.n_asks, self.depth_capacity)
                head.n_bids, head.n_asks = min(b, most), min(a, most)
                if out is None or room != head.n_bids + head.n_asks:
                    room = head.n_bids + head.n_asks
                    out = np.empty(room, LEVEL_INT_DTYPE)
                    to = <kfix_level*> data_of(out)
                kfix_get_many(to, self.bids + (b - head.n_bids), head.n_bids * sizeof(kfix_level))
                kfix_get_many(to + head.n_bids, self.asks + (a - head.n_asks), head.n_asks * sizeof(kfix_level))
                if kfix_read_end(&self.deep.version, begun):
                    return out
            tries = self.again(tries)

    # ---- orders (L3) ----

    def orders(self, price, bint allow_stale=False, *, bint allow_unverified=False):
        """Orders queued at one price as of one message, first in the queue first: an array of ORDER_DTYPE.

        `price` is a float, Decimal or decimal text. Empty when there is no such level; ValueError for an L2 book.
        """
        cdef kfix_depth head
        cdef kfix_order* rows = NULL
        cdef int64_t units = self._units(price)
        cdef int32_t n
        try:
            while True:
                n = self.copy_queue(units, &rows, &head)
                if self.accept(head.state, head.cause, head.recv_ns, allow_stale, allow_unverified):
                    break
            return order_array(rows, n, head.qty_precision)
        finally:
            free(rows)

    def queue_position(self, order_id, bint allow_stale=False, *, bint allow_unverified=False):
        """QueuePosition of an order in its level; None when the order is not in the book.

        `order_id` is the text of 278. ValueError for an L2 book and for ids too long to be kept in shared memory.
        """
        cdef kfix_order* rows = NULL
        cdef kfix_depth head
        cdef kfix_order found
        cdef int32_t n, at
        from kfix_md._ids import id_key
        kind, hi, lo = id_key(order_id)
        self._units(0)
        for _ in range(8):                          # the order may move between the search and the copy of its queue
            if self.find_order(kind, hi, lo, &found) == 0:
                return None
            try:
                n = self.copy_queue(found.price, &rows, &head)
                if not self.accept(head.state, head.cause, head.recv_ns, allow_stale, allow_unverified):
                    continue
                at = -1
                for i in range(n):
                    if rows[i].id_hi == <uint64_t> hi and rows[i].id_lo == <uint64_t> lo and rows[i].id_kind == kind:
                        at = i
                if at >= 0:
                    return queue_position(rows, n, at, &head)
            finally:
                free(rows)
                rows = NULL
        return None

    def _units(self, price):
        """A price in the instrument's units; ValueError when it has more decimals, or for an L2 book."""
        if self.rows == NULL:
            raise ValueError(f"{self.symbol} is an L2 book: orders are known on L3 only")
        try:
            exact = Decimal(repr(float(price)) if isinstance(price, float) else str(price)).scaleb(self.precision[0])
            units = int(exact)
        except (ArithmeticError, ValueError):
            raise ValueError(f"price {price!r} is not a finite decimal number") from None
        if exact != units:
            raise ValueError(f"{price} has more decimals than the {self.precision[0]} of {self.symbol}")
        if not -(1 << 63) <= units < 1 << 63:
            raise ValueError(f"{price} does not fit 64 bits with the {self.precision[0]} decimals of {self.symbol}")
        return units

    cdef int find_order(self, int kind, uint64_t hi, uint64_t lo, kfix_order* found) except -1:
        """Search an order's row without a consistent copy; the caller checks it under one. 1 found, 0 not found."""
        cdef uint32_t i, used
        cdef uint64_t version
        for _ in range(64):
            version = kfix_load_acquire(&self.deep.version)
            used = min(self.deep.orders_used, self.deep.orders_ready, self.orders_capacity)
            for i in range(used):
                if kfix_load(&self.rows[i].id_lo) == lo and kfix_load(&self.rows[i].id_hi) == hi:
                    kfix_get(found, &self.rows[i], sizeof(kfix_order))
                    if found.id_lo == lo and found.id_hi == hi and found.id_kind == kind and found.qty > 0:
                        return 1
            if kfix_read_end(&self.deep.version, version):
                return 0
        return 0

    cdef int32_t copy_queue(self, int64_t price, kfix_order** rows, kfix_depth* head) except -1:
        """Copy the orders of the level at `price`, in queue order, to `rows` (to be freed); returns their number."""
        cdef uint32_t tries = 0, used, room = 0
        cdef uint64_t begun
        cdef kfix_level level
        cdef int32_t row, n
        while True:
            begun = kfix_read_begin(&self.deep.version)
            if not begun & 1:
                kfix_get(head, self.deep, sizeof(kfix_depth))
                used = min(head.orders_used, head.orders_ready, self.orders_capacity)
                n = 0
                if (find_level(self.bids, min(head.n_bids, self.depth_capacity), price, True, &level)
                        or find_level(self.asks, min(head.n_asks, self.depth_capacity), price, False, &level)):
                    if level.orders > room:
                        room = min(level.orders, self.orders_capacity)
                        free(rows[0])
                        rows[0] = <kfix_order*> malloc(room * sizeof(kfix_order))
                        if rows[0] == NULL:
                            raise MemoryError
                    row = level.head
                    while 0 <= row < <int32_t> used and n < <int32_t> room:
                        kfix_get(&rows[0][n], &self.rows[row], sizeof(kfix_order))
                        row = rows[0][n].next
                        n += 1
                if kfix_read_end(&self.deep.version, begun):
                    return n
            tries = self.again(tries)

    # ---- trades ----

    def trades(self, n=None):
        """The last `n` trades (all in the ring, without `n`), oldest first: an array of TRADE_DTYPE."""
        head = kfix_load_acquire(&self.ring.head)
        most = self.trades_capacity if n is None else max(0, min(n, self.trades_capacity))
        return self._trades_from(max(0, head - most))[0]

    def trade_reader(self, bint from_start=False):
        """A TradeReader with its own position: `read()` returns new trades, `lost` counts those it missed."""
        head = kfix_load_acquire(&self.ring.head)
        return TradeReader(self, max(0, head - self.trades_capacity) if from_start else head)

    def _trades_from(self, uint64_t first):
        """(trades from number `first` on, next number, how many of them were overwritten before they were read)."""
        cdef uint64_t head = kfix_load_acquire(&self.ring.head), i, begun, lost = 0
        cdef kfix_trade t
        cdef kfix_trade* row
        if head - first > self.trades_capacity:
            lost = head - first - self.trades_capacity
            first += lost
        rows = []
        for i in range(first, head):
            row = &self.trade_rows[i % self.trades_capacity]
            begun = kfix_read_begin(&row.stamp)
            kfix_get(&t, row, sizeof(t))
            if begun != 2 * i + 2 or not kfix_read_end(&row.stamp, begun):
                lost += 1
                continue
            rows.append((i, t.price / ten_to(t.price_precision), t.qty / ten_to(t.qty_precision),
                         kfix_wall(self.segment.header, t.recv_ns), t.event_ns, t.seq, t.aggressor, t.ord_type))
        out = np.zeros(len(rows), TRADE_DTYPE)      # padding too, as in order_array
        out[:] = rows
        return out, head, lost

    @property
    def truncated(self):
        """(levels, orders): whether the book has more of them than its blocks have room for."""
        cdef uint32_t flags = kfix_load32(&self.deep.flags)
        return bool(flags & KFIX_LEVELS_CUT), bool(flags & KFIX_ORDERS_CUT)


class TradeReader:
    """New trades of one book at each `read()`; `lost` counts those overwritten before they were read."""

    def __init__(self, book, first):
        self.book, self.next, self.lost = book, first, 0
        self._instance = book.instance
        self._last_ns, self._at_last = 0, 0         # event time of the last trade returned, and how many had it

    def read(self):
        """Array of TRADE_DTYPE with the trades since the last call, oldest first. Raises FeedDead.

        After a move to another segment (a new feed, another copy of the book), whose trades have other numbers, it goes
        on with the trades after the last one, by the venue's time of them; `lost` does not count what only the old
        one may have had.
        """
        self.book.check()
        if moved := self.book.instance != self._instance:
            self._instance, self.next = self.book.instance, 0
        trades, self.next, lost = self.book._trades_from(self.next)
        if moved:
            trades = self._after_last(trades)
        else:
            self.lost += lost
        self._note(trades["event_ns"])
        return trades

    def _after_last(self, trades):
        """Those that were not returned before; several may have one time."""
        at = trades["event_ns"]
        same = np.flatnonzero(at == self._last_ns)[self._at_last:]
        return trades[np.union1d(np.flatnonzero(at > self._last_ns), same)]

    def _note(self, at):
        if len(at):
            before = self._at_last if at[-1] == self._last_ns else 0
            self._last_ns, self._at_last = at[-1], before + np.count_nonzero(at == at[-1])


cdef bint find_level(kfix_level* levels, uint32_t n, int64_t price, bint ascending, kfix_level* found) noexcept nogil:
    """The level at `price` in a side sorted best last (bids ascending, asks descending)."""
    cdef uint32_t lo = 0, hi = n, mid
    cdef int64_t there
    while lo < hi:
        mid = (lo + hi) // 2
        there = <int64_t> kfix_load(&levels[mid].price)
        if there == price:
            kfix_get(found, &levels[mid], sizeof(kfix_level))
            return found.price == price
        if (there < price) == ascending:
            lo = mid + 1
        else:
            hi = mid
    return False


cdef order_array(const kfix_order* rows, int32_t n, int qp):
    out = np.zeros(n, ORDER_DTYPE)      # padding too: equal queues have equal bytes
    cdef double q = ten_to(qp)
    for name, column in (
        ("qty", [rows[i].qty / q for i in range(n)]), ("queue_ns", [rows[i].queue_ns for i in range(n)]),
        ("event_ns", [rows[i].event_ns for i in range(n)]), ("id_hi", [rows[i].id_hi for i in range(n)]),
        ("id_lo", [rows[i].id_lo for i in range(n)]), ("id_kind", [rows[i].id_kind for i in range(n)]),
    ):
        out[name] = column
    return out


cdef queue_position(const kfix_order* rows, int32_t n, int32_t at, const kfix_depth* head):
    cdef int64_t ahead = 0, total = 0
    cdef double q = ten_to(head.qty_precision)
    for i in range(n):
        total += rows[i].qty
        if i < at:
            ahead += rows[i].qty
    return QueuePosition("ask" if rows[at].side else "bid", rows[at].price / ten_to(head.price_precision),
                         rows[at].qty / q, at, ahead / q, n, total / q)


cdef void* data_of(out) except? NULL:
    """Address of the data of a contiguous array; the caller keeps the array."""
    cdef Py_buffer view
    PyObject_GetBuffer(out, &view, PyBUF_WRITABLE)
    cdef void* data = view.buf
    PyBuffer_Release(&view)
    return data


cdef void to_floats(kfix_level* levels, uint32_t n, const kfix_depth* head) noexcept nogil:
    """Integers to the nearest doubles, in place."""
    cdef double p = ten_to(head.price_precision), q = ten_to(head.qty_precision)
    cdef Level* to = <Level*> levels
    cdef uint32_t i
    for i in range(n):
        to[i].price, to[i].qty = levels[i].price / p, levels[i].qty / q
