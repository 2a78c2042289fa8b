# cython: freethreading_compatible=True
"""How a reader takes whole, fresh values out of shared memory it may only look at: bounded retries, no locks."""

import time

from kfix_md._entry import Cause, State
from kfix_md.errors import FeedDead, NotLive

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport NAN
from posix.unistd cimport usleep

from kfix_md._state cimport trusted
from kfix_md.shm.segment cimport TEN, cause_of, put_floats, state_of
from kfix_md.shm.writer cimport (
    KFIX_HAS_ASK, KFIX_HAS_BID, KFIX_WAKE_BOOK, kfix_futex_wait, kfix_get, kfix_load32, kfix_load_acquire,
    kfix_now, kfix_pause, kfix_read_begin, kfix_read_end,
)

cdef enum:
    LINE = 64
    SPIN = 4000                     # tries before the first sleep: a writer is inside for well under 10 us
    NAPS = 200                      # sleeps of 100 us before giving up
    UNANNOUNCED_NS = 2_000_000      # sleep until the writer's heartbeat has seen that somebody waits

NEVER_NS = (1 << 63) - 1            # age of a book that never got a message


@cython.final
cdef class Quote:
    """One consistent reading of a top of book, to be filled again and again by `book.read(quote)`."""

    def __repr__(self):
        return f"Quote({self.bid_qty}@{self.bid} / {self.ask_qty}@{self.ask}, {getattr(self.state, 'name', None)})"


cdef class TopReader:
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
        self.segment = segment
        self.symbol, self.level = e.symbol.decode(), f"L{e.level}"
        self.best_of = <kfix_top*> (base + e.top_offset)
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

    def check(self):
        """Raise FeedDead, saying why, when the feed is gone (or, reconnecting, move to the new one)."""
        if not self.segment.fresh():
            try:
                self.segment.check()
            except FeedDead as error:
                self.revive(error)

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
        if price is not None and wants_int(price):
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
            self.check()
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

    cdef bint gone(self, kfix_top* t):
        """The feed has ended and there is no new one to move to; else `t` is its first line."""
        try:
            self.check()
            self.peek(t, LINE)
        except FeedDead:
            return True
        return False

    @property
    def instance(self):
        """Random number of the feed's segment: another one after it was started again."""
        return self.segment.header.instance

    @property
    def state(self):
        """State of the book; DOWN when the feed's process is gone."""
        cdef kfix_top t
        return State.DOWN if self.gone(&t) else state_of(t.state)

    @property
    def cause(self):
        """Why the book is not LIVE; RESTART when the feed's process is gone."""
        cdef kfix_top t
        return Cause.RESTART if self.gone(&t) else cause_of(t.cause)

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


cdef bint wants_int(price) except -1:
    if price is None or price == "float":
        return False
    if price == "int":
        return True
    raise ValueError(f'price must be "float" or "int", not {price!r}')
