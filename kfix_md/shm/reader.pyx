# cython: freethreading_compatible=True
"""Reads the top of a book from a segment: consistent values of one message, with bounded retries and no locks."""

import time

from kfix_md._entry import Cause, State
from kfix_md.errors import FeedDead, NotLive
from kfix_md.shm.segment import NEVER_NS

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint8_t, uint64_t
from posix.unistd cimport usleep

from kfix_md._entry cimport STATE_UNVERIFIED
from kfix_md._state cimport trusted
from kfix_md.shm.layout cimport (
    KFIX_HAS_ASK, KFIX_HAS_BID, KFIX_LINE, KFIX_WAIT_BOOK, KFIX_WAKE_BOOK, kfix_age, kfix_futex_wait, kfix_get,
    kfix_header, kfix_load, kfix_load32, kfix_load_acquire, kfix_monotonic, kfix_monotonic_coarse, kfix_pause,
    kfix_read_begin, kfix_read_end, kfix_session, kfix_wall,
)
from kfix_md.shm.segment cimport (
    SLEEP_TRIES, SLEEP_US, SPIN_TRIES, UNANNOUNCED_NS, cause_of, put_floats, state_of, ten_to,
)

#: a trusted book that received nothing for so long may be of a session that delivers nothing: see TopReader.overdue
cdef int64_t MUTE_NS = 2_000_000_000
cdef int64_t LOOK_NS = 200_000_000      # between two looks at the other copies of such a book

cdef uint8_t BOTH_SIDES = KFIX_HAS_BID | KFIX_HAS_ASK


@cython.final
cdef class Quote:
    """One consistent reading of a top of book; `book.read(quote)` fills the same object again."""

    def __reduce__(self):
        return _quote_of, (self.bid, self.bid_qty, self.ask, self.ask_qty, self.recv_ns, self.seq, self.state)

    def __repr__(self):
        return f"Quote({self.bid_qty}@{self.bid} / {self.ask_qty}@{self.ask}, {getattr(self.state, 'name', None)})"


def _quote_of(double bid, double bid_qty, double ask, double ask_qty, int64_t recv_ns, uint64_t seq, state):
    """A Quote with these values, as it was pickled."""
    cdef Quote made = Quote.__new__(Quote)
    made.bid, made.bid_qty, made.ask, made.ask_qty = bid, bid_qty, ask, ask_qty
    made.recv_ns, made.seq, made.state = recv_ns, seq, state
    return made


cdef class TopReader:
    """Top of one book of a running feed; every reading is consistent, with the values of one message.

    Prices and quantities are the floats nearest to the exact decimals; a missing side has price NaN and quantity 0.
    Reading a price raises NotLive when the book is not trusted and FeedDead when its writer has ended;
    `allow_stale=True` returns the last values instead. `state`, `cause` and the times never raise NotLive.
    An UNVERIFIED book is followed without a fault, but no known checksum rule proves it: it raises NotLive unless
    `allow_unverified=True` is passed here or to `attach`, or the feed is configured with unverified = "serve".
    """

    def __cinit__(self, Segment segment not None, uint32_t row, feed=None, bint allow_unverified=False):
        self.feed, self.allow_unverified = feed, allow_unverified
        self.has_copies = getattr(feed, "has_copies", False)
        self.bind(segment, row)

    def bind(self, Segment segment not None, uint32_t row):
        """Read directory entry `row` of `segment` from now on."""
        cdef kfix_symbol* e = segment.row(row)
        cdef char* base = segment.base
        self.segment = segment
        self.symbol, self.level = e.symbol.decode(errors="replace"), f"L{e.level}"
        self.best_of = <kfix_top*> (base + e.top_offset)
        self.entry = e
        self.seen = 0

    # ---- one consistent reading, and whether it is trusted ----

    cdef int quote(self, kfix_top* t, bint allow_stale, size_t n=KFIX_LINE, bint allow_unverified=False) except -1:
        """Copy the first line (or `n` bytes) of the top block, consistent; unless `allow_stale`, trusted and fresh."""
        cdef uint32_t tries = 0
        cdef uint64_t begun
        while True:
            begun = kfix_read_begin(&self.best_of.version)
            if not begun & 1:
                kfix_get(&t.bid, &self.best_of.bid, n - 8)
                if kfix_read_end(&self.best_of.version, begun):
                    if kfix_load(&self.segment.header.lagging):
                        self.segment.show_lag(self.entry, &t.state, &t.cause)
                    if not (allow_stale or (trusted(t.state) and self.segment.fresh()
                                            and not self.overdue(t.recv_ns))):
                        self.notice(begun)
                        if not self.judge(t.state, t.cause, allow_unverified):
                            continue
                    self.seen = begun
                    return 0
            tries = self.again(tries)

    cdef void notice(self, uint64_t version) noexcept:
        """A reading that is about to be judged: after NotLive too, `wait` sleeps until something else is published.

        Not while a process lags, which begins and ends without a publication of the book.
        """
        if not kfix_load(&self.segment.header.lagging):
            self.seen = version

    cdef uint32_t again(self, uint32_t tries) except? 0xffffffff:
        """After a failed copy: pause, later sleep, finally raise. Returns the number of tries so far."""
        self.retries += 1
        kfix_pause()
        if tries < SPIN_TRIES:
            return tries + 1
        with nogil:
            usleep(SLEEP_US)
        if tries < SPIN_TRIES + SLEEP_TRIES:
            return tries + 1
        segment = self.segment              # another thread may move this book while stuck() releases the GIL
        try:
            segment.stuck()
        except FeedDead as error:
            self.revive(error)
        return 0

    cdef int accept(self, int state, int cause, int64_t recv_ns, bint allow_stale, bint allow_unverified) except -1:
        """1 to accept a copy with this state, 0 to read again; raises FeedDead or NotLive."""
        cdef uint8_t shown = <uint8_t> state, why = <uint8_t> cause
        self.segment.show_lag(self.entry, &shown, &why)
        return (allow_stale or (trusted(shown) and self.segment.fresh() and not self.overdue(recv_ns))
                or self.judge(shown, why, allow_unverified))

    cdef int judge(self, int state, int cause, bint allow_unverified) except -1:
        """Slow path of the check of a reading. Returns 1 to accept it, 0 to read again; raises FeedDead or NotLive."""
        if not self.segment.fresh():
            try:
                self.segment.check()
            except FeedDead as error:
                self.revive(error)
                return 0
        cdef bint usable = trusted(state) or (state == STATE_UNVERIFIED and (
            allow_unverified or self.allow_unverified or self.segment.serve_unverified))
        if self.has_copies and self.moved(usable):
            return 0
        if usable:
            return 1
        raise NotLive(self.symbol, state_of(state), cause_of(cause))

    cdef bint overdue(self, int64_t recv_ns) noexcept nogil:
        """Another copy may have what this one has not received."""
        return self.has_copies and kfix_age(self.segment.header, recv_ns, kfix_monotonic_coarse()) > MUTE_NS

    cdef bint moved(self, bint usable) except -1:
        """Whether the book was moved to a better copy; one that can be read looks for it now and then only."""
        cdef int64_t now
        if usable:
            now = kfix_monotonic_coarse()
            if now < self.next_look_ns:
                return False
            self.next_look_ns = now + LOOK_NS
        return self.feed.move(self, MUTE_NS if usable else None)

    def check(self):
        """Raise FeedDead with the reason when the feed has ended; with reconnect=True move to its new segment."""
        cdef kfix_top t
        if not self.segment.fresh():
            try:
                self.segment.check()
            except FeedDead as error:
                self.revive(error)
        elif self.has_copies:
            self.peek(&t, KFIX_LINE)
            if not trusted(t.state) or self.overdue(t.recv_ns):
                self.moved(trusted(t.state))

    def revive(self, error):
        """Move to the feed's new segment, with reconnect=True and if there is one; else raise `error`."""
        if self.feed is None or not self.feed.revive(self):
            raise error

    # ---- top of book ----

    def top(self, bint allow_stale=False, price=None, *, bint allow_unverified=False):
        """(bid, bid_qty, ask, ask_qty) as of one message.

        Parameters
        ----------
        allow_stale : bool
            Return the last values of a book that is not trusted, or whose feed has ended.
        price : {"float", "int", "decimal"}
            "int": integers in units of 10**-precision (see `precision`); "decimal": exact decimal.Decimal. None for a
            missing price in both.
        allow_unverified : bool
            Accept an UNVERIFIED book.

        Raises
        ------
        NotLive
            The book is not LIVE, EMPTY or, if allowed, UNVERIFIED; the exception has `state` and `cause`.
        FeedDead
            The feed's process has ended or stopped.
        """
        cdef kfix_top t
        cdef double bid, bid_qty, ask, ask_qty
        cdef int form = FLOATS if price is None else price_form(price)
        self.quote(&t, allow_stale, KFIX_LINE, allow_unverified)
        if form != FLOATS:
            exact = (t.bid if t.has & KFIX_HAS_BID else None, t.bid_qty,
                     t.ask if t.has & KFIX_HAS_ASK else None, t.ask_qty)
            return exact if form == INTS else decimals(exact, t.price_precision, t.qty_precision)
        put_floats(&t, &bid, &bid_qty, &ask, &ask_qty)
        return bid, bid_qty, ask, ask_qty

    def read(self, Quote into=None, bint allow_stale=False, *, bint allow_unverified=False):
        """Read into a Quote (a new one without `into`) and return it: the cheapest way to poll. Raises as `top`."""
        cdef kfix_top t
        self.quote(&t, allow_stale, KFIX_LINE, allow_unverified)
        if into is None:
            into = Quote.__new__(Quote)
        put_floats(&t, &into.bid, &into.bid_qty, &into.ask, &into.ask_qty)
        into.recv_ns = kfix_wall(self.segment.header, t.recv_ns)
        into.seq, into.state = t.seq, state_of(t.state)
        return into

    def changed(self):
        """Whether anything was published since this object was last read; True also when the feed has ended."""
        return kfix_load_acquire(&self.best_of.version) != self.seen or not self.segment.fresh()

    def wait(self, timeout=None):
        """Sleep until `changed()`, at most `timeout` seconds; False when nothing was published. Raises FeedDead."""
        cdef uint64_t version
        cdef int64_t slice_ns, end = 0
        cdef Segment segment
        cdef const void* word
        if timeout is not None:
            end = time.monotonic_ns() + int(timeout * 1e9)
        while True:
            segment, word = self.segment, &self.best_of.version
            version = kfix_load_acquire(word)
            if version != self.seen:
                return True
            self.check()
            if segment is not self.segment:         # moved to a new one
                continue
            slice_ns = segment.interval if timeout is None else end - time.monotonic_ns()
            if slice_ns <= 0:
                return False
            segment.announce(KFIX_WAIT_BOOK)
            slice_ns = min(slice_ns, segment.interval)
            if not kfix_load32(&segment.header.wakes) & KFIX_WAKE_BOOK:
                slice_ns = min(slice_ns, <int64_t> UNANNOUNCED_NS)
            with nogil:
                kfix_futex_wait(word, <uint32_t> version, slice_ns)
            PyErr_CheckSignals()

    @property
    def bid(self):
        cdef kfix_top t
        self.quote(&t, False)
        return t.bid / ten_to(t.price_precision) if t.has & KFIX_HAS_BID else NAN

    @property
    def bid_qty(self):
        cdef kfix_top t
        self.quote(&t, False)
        return t.bid_qty / ten_to(t.qty_precision) if t.has & KFIX_HAS_BID else 0.0

    @property
    def ask(self):
        cdef kfix_top t
        self.quote(&t, False)
        return t.ask / ten_to(t.price_precision) if t.has & KFIX_HAS_ASK else NAN

    @property
    def ask_qty(self):
        cdef kfix_top t
        self.quote(&t, False)
        return t.ask_qty / ten_to(t.qty_precision) if t.has & KFIX_HAS_ASK else 0.0

    @property
    def mid(self):
        """Mid price, the mean of bid and ask; NaN when a side is missing. Raises as `top`."""
        cdef kfix_top t
        self.quote(&t, False)
        if t.has & BOTH_SIDES != BOTH_SIDES:
            return NAN
        return (<double> t.bid + <double> t.ask) / (2.0 * ten_to(t.price_precision))

    @property
    def spread(self):
        """Ask less bid; NaN when a side is missing. Raises as `top`."""
        cdef kfix_top t
        self.quote(&t, False)
        if t.has & BOTH_SIDES != BOTH_SIDES:
            return NAN
        return (<double> t.ask - <double> t.bid) / ten_to(t.price_precision)

    @property
    def imbalance(self):
        """(bid_qty - ask_qty) / (bid_qty + ask_qty) at the best prices, -1 to 1; NaN of an empty book. Raises as `top`.
        """
        cdef kfix_top t
        cdef double bid, bid_qty, ask, ask_qty
        self.quote(&t, False)
        put_floats(&t, &bid, &bid_qty, &ask, &ask_qty)
        return (bid_qty - ask_qty) / (bid_qty + ask_qty) if bid_qty + ask_qty else NAN

    cdef int peek(self, kfix_top* t, size_t n) except -1:
        """A consistent copy without a check of its state; `changed()` does not take notice of it."""
        cdef uint64_t seen = self.seen
        self.quote(t, True, n)
        self.seen = seen

    cdef bint gone(self, kfix_top* t):
        """Whether the feed has ended and there is no new one to move to; if not, `t` gets the first line."""
        try:
            self.check()                            # moves to another copy, if there is a better one
            self.peek(t, KFIX_LINE)
        except FeedDead:
            return True
        return False

    @property
    def instance(self):
        """Random number of the feed's segment; it changes when the feed is started again."""
        return self.segment.opened.instance

    @property
    def state(self):
        """State of the book; DOWN when the feed's process has ended."""
        cdef kfix_top t
        return State.DOWN if self.gone(&t) else state_of(t.state)

    @property
    def cause(self):
        """Why the book is not LIVE; RESTART when the feed's process has ended."""
        cdef kfix_top t
        return Cause.RESTART if self.gone(&t) else cause_of(t.cause)

    @property
    def recv_ns(self):
        """Receive time of the last message applied, ns since the epoch; 0 before the first."""
        cdef kfix_top t
        self.peek(&t, KFIX_LINE)
        return kfix_wall(self.segment.header, t.recv_ns)

    @property
    def age_ns(self):
        """Nanoseconds since the last message applied was received (a quiet market ages, and stays LIVE).

        Elapsed time: a step of the wall clock does not change it.
        """
        cdef kfix_top t
        self.peek(&t, KFIX_LINE)
        return kfix_age(self.segment.header, t.recv_ns, kfix_monotonic()) if t.recv_ns else NEVER_NS

    @property
    def event_age_ns(self):
        """Nanoseconds since the venue made the last change of the book, by its own time of it and by its clock."""
        cdef kfix_top t
        cdef kfix_session s
        self.peek(&t, sizeof(t))
        if not t.event_ns:
            return NEVER_NS
        self.segment.session_row(self.entry, &s)
        return kfix_age(self.segment.header, t.event_ns + s.clock_offset_ns, kfix_monotonic())

    @property
    def lag_ns(self):
        """How late the last message of this book's session arrived, ns: receive time minus SendingTime, less what the
        clocks provably differ by; as of the last heartbeat."""
        cdef kfix_session s
        self.segment.session_row(self.entry, &s)
        return s.lag_ns

    @property
    def seq(self):
        """MsgSeqNum (34) of the last message applied."""
        cdef kfix_top t
        self.peek(&t, KFIX_LINE)
        return t.seq

    @property
    def precision(self):
        """(price, quantity) decimals: 2349 and 5010 of the instrument list."""
        cdef kfix_top t
        self.peek(&t, KFIX_LINE)
        return t.price_precision, t.qty_precision

    def info(self):
        """Dict of the other fields of the top block: counts, times, the last gap and its cause."""
        cdef kfix_top t
        cdef kfix_header* header = self.segment.header
        self.peek(&t, sizeof(t))
        return {
            "symbol": self.symbol, "level": self.level, "state": state_of(t.state), "cause": cause_of(t.cause),
            "recv_ns": kfix_wall(header, t.recv_ns), "event_ns": t.event_ns, "seq": t.seq, "updates": t.updates,
            "crc_rule": t.crc_rule, "crc_checked": t.crc_checked, "crc_failed": t.crc_failed,
            "bids": t.n_bids, "asks": t.n_asks, "bid_orders": t.bid_orders, "ask_orders": t.ask_orders,
            "state_ns": kfix_wall(header, t.state_ns), "gaps": t.gaps, "gap_ns": kfix_wall(header, t.gap_ns),
            "gap_state": state_of(t.gap_state),
            "gap_cause": cause_of(t.gap_cause), "price_precision": t.price_precision,
            "qty_precision": t.qty_precision, "generation": t.generation,
        }


cdef tuple decimals(tuple exact, int price_precision, int qty_precision):
    """(bid, bid quantity, ask, ask quantity) as decimal.Decimal, None for a missing price."""
    from kfix_md.display import to_decimal
    digits = (price_precision, qty_precision, price_precision, qty_precision)
    return tuple(to_decimal(value, n) for value, n in zip(exact, digits, strict=True))


cdef int price_form(price) except -1:
    if price is None or price == "float":
        return FLOATS
    if price == "int":
        return INTS
    if price == "decimal":
        return DECIMALS
    raise ValueError(f'price must be "float", "int" or "decimal", not {price!r}')
