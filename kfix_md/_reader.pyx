# cython: freethreading_compatible=True
"""How a reader takes whole, fresh values out of shared memory it may only look at: bounded retries, no locks."""

import time
from collections import namedtuple

import numpy as np

from kfix_md._entry import Cause, State
from kfix_md.errors import FeedDead, FeedError, NotLive

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport NAN
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.unistd cimport usleep

from kfix_md._segment cimport TEN, cause_of, put_floats, state_of, trusted
from kfix_md._shm cimport (
    KFIX_HAS_ASK, KFIX_HAS_BID, KFIX_LEVELS_CUT, KFIX_ORDERS_CUT, KFIX_WAKE_BOOK, kfix_futex_wait, kfix_get,
    kfix_load, kfix_load32, kfix_load_acquire, kfix_now, kfix_pause, kfix_read_begin, kfix_read_end,
)

cdef enum:
    LINE = 64
    TRADES_HEAD = 64
    SPIN = 4000                     # tries before the first sleep: a writer is inside for well under 10 us
    NAPS = 200                      # sleeps of 100 us before giving up
    UNANNOUNCED_NS = 2_000_000      # sleep until the writer's heartbeat has seen that somebody waits

NEVER_NS = (1 << 63) - 1            # age of a book that never got a message

#: levels of `depth()`: price and quantity as floats, orders 0 on L2 where the venue does not tell
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
QueuePosition.__doc__ = """Where an order stands: `ahead` orders with `qty_ahead` in total are filled before it."""

cdef struct Level:
    double price
    double qty
    uint32_t orders

cdef struct LevelInt:
    int64_t price
    int64_t qty
    uint32_t orders

assert LEVEL_DTYPE.itemsize == sizeof(Level) == sizeof(LevelInt) == LEVEL_INT_DTYPE.itemsize


@cython.final
cdef class Quote:
    """One consistent reading of a top of book, to be filled again and again by `book.read(quote)`."""

    def __repr__(self):
        return f"Quote({self.bid_qty}@{self.bid} / {self.ask_qty}@{self.ask}, {getattr(self.state, 'name', None)})"


cdef class Book:
    """One symbol of a running feed; every reading is whole and of one message.

    Prices and quantities are floats, the nearest to the exact decimals; a missing side has price NaN and quantity 0.
    Reading a price raises NotLive when the book is not to be trusted and FeedDead when its writer is gone;
    `allow_stale=True` gives the last values instead. `state`, `cause` and the times never raise NotLive.
    """

    def __init__(self, Segment segment, uint32_t row, feed=None):
        self.feed = feed
        self.bind(segment, row)

    def bind(self, Segment segment, uint32_t row):
        """Look at directory entry `row` of `segment` from now on."""
        cdef kfix_symbol* e = segment.row(row)
        cdef char* base = segment.base
        self.segment, self.entry = segment, e
        self.symbol, self.level = e.symbol.decode(), f"L{e.level}"
        self.depth_capacity, self.orders_capacity = e.depth_capacity, e.orders_capacity
        self.trades_capacity = e.trades_capacity
        self.best_of, self.ten = <kfix_top*> (base + e.top_offset), <kfix_best*> (base + e.best_offset)
        self.deep = <kfix_depth*> (base + e.depth_offset)
        self.bids = <kfix_level*> (base + e.depth_offset + sizeof(kfix_depth))
        self.asks = self.bids + e.depth_capacity
        self.rows = <kfix_order*> (base + e.orders_offset) if e.orders_offset else NULL
        self.ring = <kfix_trades*> (base + e.trades_offset)
        self.trade_rows = <kfix_trade*> (base + e.trades_offset + TRADES_HEAD)
        self.seen = 0

    # ---- one whole reading, and whether to believe it ----

    cdef int quote(self, kfix_top* t, bint allow_stale, size_t n=LINE) except -1:
        """The first line (or `n` bytes) of the top block, whole and, unless `allow_stale`, trusted and fresh."""
        cdef uint32_t tries = 0
        cdef uint64_t begun
        while True:
            begun = kfix_read_begin(&self.best_of.version)
            if not begun & 1:
                kfix_get(&t.bid, &self.best_of.bid, n - 8)
                if kfix_read_end(&self.best_of.version, begun):
                    if allow_stale or (trusted(t.state) and self.segment.fresh()) or self.judge(t.state, t.cause):
                        self.seen = begun
                        return 0
                    continue
            tries = self.again(tries)

    cdef uint32_t again(self, uint32_t tries) except? 0xffffffff:
        """A try failed: pause, later sleep, in the end say why. Returns the number of tries so far."""
        self.retries += 1
        kfix_pause()
        if tries < SPIN:
            return tries + 1
        with nogil:
            usleep(100)
        if tries < SPIN + NAPS:
            return tries + 1
        try:
            self.segment.stuck()
        except FeedDead as error:
            self.revive(error)
        return 0

    cdef int judge(self, int state, int cause) except -1:
        """What was read is not to be taken as it is. 1: yes it is; 0: read again; or raises what is wrong."""
        if not self.segment.fresh():
            try:
                self.segment.check()
            except FeedDead as error:
                self.revive(error)
                return 0
        if not trusted(state):
            raise NotLive(self.symbol, state_of(state), cause_of(cause))
        return 1

    def revive(self, error):
        """Move to the feed's new segment, when it was attached with reconnect=True and there is one; else raise."""
        if self.feed is None or not self.feed.revive(self):
            raise error

    # ---- top of book ----

    def top(self, bint allow_stale=False, price=None):
        """(bid, bid_qty, ask, ask_qty) of one moment.

        Floats; price="int" gives integers in units of 10**-precision (see `precision`), None for a missing price.
        """
        cdef kfix_top t
        cdef double bid, bid_qty, ask, ask_qty
        self.quote(&t, allow_stale)
        if price is not None and _exact(price):
            return (t.bid if t.has & KFIX_HAS_BID else None, t.bid_qty,
                    t.ask if t.has & KFIX_HAS_ASK else None, t.ask_qty)
        put_floats(&t, &bid, &bid_qty, &ask, &ask_qty)
        return bid, bid_qty, ask, ask_qty

    def read(self, Quote into=None, bint allow_stale=False):
        """One reading into a held Quote (a new one without `into`), which is returned: the cheapest way to poll."""
        cdef kfix_top t
        self.quote(&t, allow_stale)
        if into is None:
            into = Quote.__new__(Quote)
        put_floats(&t, &into.bid, &into.bid_qty, &into.ask, &into.ask_qty)
        into.recv_ns, into.seq, into.state = t.recv_ns, t.seq, state_of(t.state)
        return into

    def changed(self):
        """Anything new since this object was last read; True also when the feed is gone, so that reading says so."""
        return kfix_load_acquire(&self.best_of.version) != self.seen or not self.segment.fresh()

    def wait(self, timeout=None):
        """Sleep until `changed()`, at most `timeout` seconds; False when nothing came. FeedDead as soon as it is."""
        cdef uint64_t version
        cdef int64_t slice_ns, end = 0
        if timeout is not None:
            end = time.monotonic_ns() + int(timeout * 1e9)
        while True:
            version = kfix_load_acquire(&self.best_of.version)
            if version != self.seen:
                return True
            if not self.segment.fresh():
                try:
                    self.segment.check()
                except FeedDead as error:
                    self.revive(error)
                    continue
            slice_ns = self.segment.interval if timeout is None else end - time.monotonic_ns()
            if slice_ns <= 0:
                return False
            self.segment.announce(1)
            slice_ns = min(slice_ns, self.segment.interval)
            if not kfix_load32(&self.segment.header.wakes) & KFIX_WAKE_BOOK:
                slice_ns = min(slice_ns, <int64_t> UNANNOUNCED_NS)
            with nogil:
                kfix_futex_wait(&self.best_of.version, <uint32_t> version, slice_ns)
            PyErr_CheckSignals()

    @property
    def bid(self):
        cdef kfix_top t
        self.quote(&t, False)
        return t.bid / TEN[t.price_precision] if t.has & KFIX_HAS_BID else NAN

    @property
    def bid_qty(self):
        cdef kfix_top t
        self.quote(&t, False)
        return t.bid_qty / TEN[t.qty_precision] if t.has & KFIX_HAS_BID else 0.0

    @property
    def ask(self):
        cdef kfix_top t
        self.quote(&t, False)
        return t.ask / TEN[t.price_precision] if t.has & KFIX_HAS_ASK else NAN

    @property
    def ask_qty(self):
        cdef kfix_top t
        self.quote(&t, False)
        return t.ask_qty / TEN[t.qty_precision] if t.has & KFIX_HAS_ASK else 0.0

    cdef int peek(self, kfix_top* t, size_t n) except -1:
        """A whole reading without judging it and without counting as one."""
        cdef uint64_t seen = self.seen
        self.quote(t, True, n)
        self.seen = seen

    cdef bint gone(self):
        """The feed has ended, and there is no new one to move to."""
        if self.segment.fresh():
            return False
        try:
            self.segment.check()
        except FeedDead as error:
            try:
                self.revive(error)
            except FeedDead:
                return True
        return False

    @property
    def state(self):
        """State of the book; DOWN when the feed's process is gone."""
        cdef kfix_top t
        if self.gone():
            return State.DOWN
        self.peek(&t, LINE)
        return state_of(t.state)

    @property
    def cause(self):
        """Why the book is not LIVE; RESTART when the feed's process is gone."""
        cdef kfix_top t
        if self.gone():
            return Cause.RESTART
        self.peek(&t, LINE)
        return cause_of(t.cause)

    @property
    def recv_ns(self):
        """Receive time of the last message applied, ns since the epoch; 0: none yet."""
        cdef kfix_top t
        self.peek(&t, LINE)
        return t.recv_ns

    @property
    def age_ns(self):
        """Nanoseconds since the last message applied was received (a quiet market ages, and stays LIVE)."""
        cdef kfix_top t
        self.peek(&t, LINE)
        return kfix_now() - t.recv_ns if t.recv_ns else NEVER_NS

    @property
    def seq(self):
        """MsgSeqNum (34) of the last message applied."""
        cdef kfix_top t
        self.peek(&t, LINE)
        return t.seq

    @property
    def precision(self):
        """(price, quantity) decimals: 2349 and 5010 of the instrument list."""
        cdef kfix_top t
        self.peek(&t, LINE)
        return t.price_precision, t.qty_precision

    def info(self):
        """Dict of all that the top block says beside the prices: counts, times, the last gap and its cause."""
        cdef kfix_top t
        self.peek(&t, sizeof(t))
        return {
            "symbol": self.symbol, "level": self.level, "state": state_of(t.state), "cause": cause_of(t.cause),
            "recv_ns": t.recv_ns, "event_ns": t.event_ns, "seq": t.seq, "updates": t.updates,
            "crc_rule": t.crc_rule, "crc_checked": t.crc_checked, "crc_failed": t.crc_failed,
            "bids": t.n_bids, "asks": t.n_asks, "bid_orders": t.bid_orders, "ask_orders": t.ask_orders,
            "state_ns": t.state_ns, "gaps": t.gaps, "gap_ns": t.gap_ns, "gap_state": state_of(t.gap_state),
            "gap_cause": cause_of(t.gap_cause), "price_precision": t.price_precision,
            "qty_precision": t.qty_precision, "generation": t.generation,
        }

    # ---- depth ----

    def depth(self, n=None, price="float", bint allow_stale=False):
        """(bids, asks): the `n` best levels of each side (all without `n`), best first, of one moment.

        Structured arrays of LEVEL_DTYPE, or LEVEL_INT_DTYPE with price="int"; orders is 0 on L2.
        """
        cdef bint exact = _exact(price)
        cdef uint64_t version
        cdef kfix_depth head
        cdef uint32_t most = self.depth_capacity if n is None else max(0, min(int(n), self.depth_capacity))
        cdef kfix_level* levels = <kfix_level*> malloc(2 * (most + 1) * sizeof(kfix_level))
        if levels == NULL:
            raise MemoryError
        try:
            while True:
                version = kfix_load_acquire(&self.best_of.version)
                if most <= 10:
                    self.copy_ten(levels, most, &head)
                else:
                    self.copy_deep(levels, most, &head)
                if allow_stale or (trusted(head.state) and self.segment.fresh()) or self.judge(head.state, head.cause):
                    break
            self.seen = version
            return (level_array(levels, head.n_bids, &head, exact),
                    level_array(levels + most, head.n_asks, &head, exact))
        finally:
            free(levels)

    cdef int copy_ten(self, kfix_level* to, uint32_t most, kfix_depth* head) except -1:
        """Up to ten levels a side out of their own block, best first: bids at 0, asks at `most`."""
        cdef kfix_best ten
        cdef uint32_t tries = 0
        cdef uint64_t begun
        while True:
            begun = kfix_read_begin(&self.ten.version)
            if not begun & 1:
                kfix_get(&ten, self.ten, sizeof(kfix_best))
                if kfix_read_end(&self.ten.version, begun):
                    break
            tries = self.again(tries)
        head.n_bids, head.n_asks = min(ten.n_bids, most), min(ten.n_asks, most)
        head.state, head.cause = ten.state, ten.cause
        head.price_precision, head.qty_precision = ten.price_precision, ten.qty_precision
        memcpy(to, ten.bids, head.n_bids * sizeof(kfix_level))
        memcpy(to + most, ten.asks, head.n_asks * sizeof(kfix_level))
        return 0

    cdef int copy_deep(self, kfix_level* to, uint32_t most, kfix_depth* head) except -1:
        """Up to `most` levels a side out of the full book, best last: bids at 0, asks at `most`."""
        cdef uint32_t tries = 0, b, a
        cdef uint64_t begun
        while True:
            begun = kfix_read_begin(&self.deep.version)
            if not begun & 1:
                kfix_get(head, self.deep, sizeof(kfix_depth))
                b, a = min(head.n_bids, self.depth_capacity), min(head.n_asks, self.depth_capacity)
                head.n_bids, head.n_asks = min(b, most), min(a, most)
                kfix_get(to, self.bids + (b - head.n_bids), head.n_bids * sizeof(kfix_level))
                kfix_get(to + most, self.asks + (a - head.n_asks), head.n_asks * sizeof(kfix_level))
                if kfix_read_end(&self.deep.version, begun):
                    break
            tries = self.again(tries)
        reverse(to, head.n_bids)
        reverse(to + most, head.n_asks)
        return 0

    @property
    def truncated(self):
        """The book has deeper levels, or more orders, than its blocks hold: (levels, orders), two booleans."""
        cdef uint32_t flags = kfix_load32(&self.deep.flags)
        return bool(flags & KFIX_LEVELS_CUT), bool(flags & KFIX_ORDERS_CUT)


cdef void reverse(kfix_level* levels, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef kfix_level kept
    for i in range(n // 2):
        kept = levels[i]
        levels[i] = levels[n - 1 - i]
        levels[n - 1 - i] = kept


cdef bint _exact(price) except -1:
    if price is None or price == "float":
        return False
    if price == "int":
        return True
    raise ValueError(f'price must be "float" or "int", not {price!r}')


cdef void* data_of(out) except? NULL:
    """Where the data of a fresh contiguous array is; the caller keeps the array."""
    cdef Py_buffer view
    PyObject_GetBuffer(out, &view, PyBUF_WRITABLE)
    cdef void* data = view.buf
    PyBuffer_Release(&view)
    return data


cdef level_array(const kfix_level* levels, uint32_t n, const kfix_depth* head, bint exact):
    cdef double p = TEN[head.price_precision if 0 <= head.price_precision <= 18 else 0]
    cdef double q = TEN[head.qty_precision if 0 <= head.qty_precision <= 18 else 0]
    out = np.empty(n, LEVEL_INT_DTYPE if exact else LEVEL_DTYPE)
    cdef Level* to = <Level*> data_of(out)
    cdef LevelInt* exact_to = <LevelInt*> to
    cdef uint32_t i
    if exact:
        for i in range(n):
            exact_to[i].price, exact_to[i].qty = levels[i].price, levels[i].qty
            exact_to[i].orders = levels[i].orders
    else:
        for i in range(n):
            to[i].price, to[i].qty = levels[i].price / p, levels[i].qty / q
            to[i].orders = levels[i].orders
    return out
