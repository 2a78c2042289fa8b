# cython: freethreading_compatible=True
"""How books lie in shared memory, and the one writer of a segment: touched ranges only, never a truncated file."""

import contextlib
import fcntl
import os
import re
import secrets
import stat
import time

from kfix_md import __version__
from kfix_md._entry import Cause, State
from kfix_md.errors import FeedError, UsageError
from kfix_md.shm.names import PREFIX

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strncpy
from libc.errno cimport errno, ENOSPC
from posix.fcntl cimport posix_fallocate
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

from kfix_md._entry cimport FAR_BITS, BookSide, MDEntry, Order, OrderSlab, TopOfBook
from kfix_md._state cimport trusted

LAYOUT = KFIX_LAYOUT
MAGIC = KFIX_MAGIC

cdef enum:
    PAGE = 4096
    SESSIONS = 64
    COUNTERS = 64
    COUNTERS_AT = 1024
    ORDERS_FIRST = 256              # order rows with pages behind them from the start
    AHEAD = 1048576                 # bytes for the first symbols that have pages before there are symbols
    WAIT_FEED_BYTE = 0              # see _shm_os.h: locked by readers that sleep
    WAIT_BOOK_BYTE = 1

assert sizeof(kfix_order) == sizeof(Order)


# ---- the hot calls: no Python, no system call as long as nobody sleeps and no order block grows ----

cdef inline kfix_side arrays(BookSide* side) noexcept nogil:
    cdef kfix_side levels
    levels.price, levels.qty, levels.orders, levels.head = side.price, side.qty, side.orders, side.head
    return levels


cdef inline void put_best(kfix_level* to, BookSide* side, int32_t was) noexcept nogil:
    """The ten best of one side, best first; `was` is the number of levels at the last publication."""
    cdef int32_t n = side.n, lo = side.dirty_lo, hi = side.dirty_hi
    cdef kfix_side levels = arrays(side)
    if n != was or side.dirty_far:
        lo, hi = 0, n
    lo = max(lo, n - 10, 0)
    hi = min(hi, n)
    if lo < hi:
        kfix_put_levels_back(&to[n - hi], &levels, lo, hi)


cdef void put_far(kfix_level* to, uint64_t far, kfix_side* levels, int32_t lo, int32_t hi, int32_t n) noexcept nogil:
    """Levels that were touched one by one, with those around them; not those of [lo, hi), which are there."""
    cdef int32_t at
    while far:
        at = kfix_lowest_bit(far) << FAR_BITS
        far &= far - 1
        while at < n:
            if at < lo or at + (1 << FAR_BITS) > hi:
                kfix_put_levels(&to[at], levels, at, min(at + (1 << FAR_BITS), n))
            at += 64 << FAR_BITS


cdef inline void put_side(kfix_level* to, BookSide* side, int32_t was, int32_t capacity) noexcept nogil:
    """All levels of one side, best last; of a side longer than the block its best ones, all of them each time."""
    cdef int32_t n = side.n, cut = max(n - capacity, 0), lo = side.dirty_lo, hi = min(side.dirty_hi, n)
    cdef kfix_side levels = arrays(side)
    if cut > 0 or was > capacity:
        lo, hi = cut, n
    lo = max(lo, 0)
    if lo < hi:
        kfix_put_levels(&to[lo - cut], &levels, lo, hi)
    if side.dirty_far and not (cut > 0 or was > capacity):
        put_far(to, side.dirty_far, &levels, lo, hi, n)


cdef inline bint touched(BookSide* side, int32_t was) noexcept nogil:
    return side.n != was or side.dirty_lo < side.dirty_hi or side.dirty_far != 0


cdef inline void clean(BookSide* side) noexcept nogil:
    side.dirty_lo = 0x7fffffff
    side.dirty_hi = 0
    side.dirty_far = 0


cdef void put_orders(Slot* s, OrderSlab* slab) noexcept nogil:
    cdef int32_t i, row
    cdef int32_t limit = min(slab.used, <int32_t> s.orders_ready)
    if slab.n_dirty < 0:
        memcpy(s.orders, slab.rows, limit * sizeof(Order))
    else:
        for i in range(slab.n_dirty):
            row = slab.dirty[i]
            if 0 <= row < limit:
                memcpy(&s.orders[row], &slab.rows[row], sizeof(Order))
    slab.n_dirty = 0


cdef void grow_orders(Slot* s, int fd, char* base, int32_t used) noexcept nogil:
    """Back more order rows with pages (doubling), before they are written: a full tmpfs must not be a SIGBUS."""
    cdef uint32_t had = s.orders_ready, want = s.orders_ready
    cdef int64_t at = <char*> &s.orders[had] - base
    while want < <uint32_t> used and want < s.orders_capacity:
        want = min(2 * want, s.orders_capacity)
    if want > had and posix_fallocate(fd, at, (want - had) * sizeof(kfix_order)) == 0:
        s.orders_ready = want
        kfix_populate(&s.orders[had], (min(<uint32_t> used, want) - had) * sizeof(kfix_order))


cdef inline void turn(Slot* s, uint8_t state, uint8_t cause, int64_t now_ns) noexcept nogil:
    """Another state: remember when, and what the last loss of trust was."""
    if trusted(s.now.state) and not trusted(state):
        s.now.gap_ns = now_ns
        s.now.gap_state = state
        s.now.gap_cause = cause
        s.now.gaps += 1
    if s.now.state != state:
        s.now.state_ns = now_ns
    s.now.state = state
    s.now.cause = cause


cdef inline void put_top(Slot* s) noexcept nogil:
    kfix_write_begin(&s.top.version)
    kfix_put(&s.top.bid, &s.now.bid, sizeof(kfix_top) - 8)
    kfix_write_end(&s.top.version)


cdef inline void put_best_head(Slot* s) noexcept nogil:
    cdef kfix_best head
    head.n_bids, head.n_asks = min(s.now.n_bids, KFIX_BEST), min(s.now.n_asks, KFIX_BEST)
    head.state, head.cause = s.now.state, s.now.cause
    head.price_precision, head.qty_precision = s.now.price_precision, s.now.qty_precision
    head.seq, head.recv_ns = s.now.seq, s.now.recv_ns
    memset(<char*> &head.state + 4, 0, 4)
    kfix_put(&s.best.n_bids, &head.n_bids, 32)


cdef inline void put_depth_head(Slot* s, OrderSlab* slab) noexcept nogil:
    cdef kfix_depth head
    head.n_bids = min(s.now.n_bids, s.depth_capacity)
    head.n_asks = min(s.now.n_asks, s.depth_capacity)
    head.state, head.cause = s.now.state, s.now.cause
    head.price_precision, head.qty_precision = s.now.price_precision, s.now.qty_precision
    head.flags = s.depth_flags
    head.seq, head.recv_ns = s.now.seq, s.now.recv_ns
    head.orders_used = s.depth.orders_used
    head.n_orders = s.depth.n_orders
    if slab != NULL:
        head.orders_used = min(<uint32_t> slab.used, s.orders_ready)
        head.n_orders = slab.n_orders
    head.orders_ready = s.orders_ready
    memset(<char*> &head.n_orders + 4, 0, 4)
    kfix_put(&s.depth.n_bids, &head.n_bids, 48)


cdef inline void fill_side(int64_t* price, int64_t* qty, uint32_t* orders, uint8_t* has, uint8_t bit, bint keep,
                           BookSide* side) noexcept nogil:
    """Best of one side into the top block; a side emptied while not trusted keeps its last values (`keep`)."""
    cdef int32_t i = side.n - 1
    if i >= 0:
        price[0] = side.price[i]
        qty[0] = side.qty[i]
        orders[0] = side.orders[i]
        has[0] |= bit
    elif not keep:
        price[0] = 0
        qty[0] = 0
        orders[0] = 0
        has[0] &= ~bit


cdef class SegmentWriter:
    """The one writer of `DIRECTORY/kfix-md.NAME`.

    `capacity` symbols, `depth` levels a side for L2 and `l3_depth` for L3, `orders` rows for each L3 symbol and a ring
    of `trades` for each symbol. The file is sparse: the first MiB of blocks has pages from the start, then `add_symbol`
    takes the pages of a symbol (72 KiB for L2 of 1000 levels); order rows get theirs as they are used, so a full file
    system is an error there and never a SIGBUS.
    `mode` are the permissions (0o640 with `group=gid` lets a group read). `heartbeat` must be called at least twice
    every `heartbeat_ns`. UsageError: the name is taken by a living feed, or the words are wrong; FeedError: no space.
    """

    def __cinit__(self, *args, **kwargs):
        self.fd = -1

    def __init__(self, name="default", directory="/dev/shm", mode=0o600, *, group=None, capacity=2000, depth=1000,
                 l3_depth=4096, orders=65536, trades=256, heartbeat_ns=500_000_000, now_ns=None):
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,47}", name):
            raise UsageError(f"feed name {name!r}: letters, digits, '_', '-' and '.' only, at most 48")
        if not (0 < capacity <= 1_000_000 and 10 <= depth <= 1_000_000 and 10 <= l3_depth <= 1_000_000
                and 0 < orders <= 1 << 28 and 0 < trades <= 1 << 24 and heartbeat_ns > 0):
            raise UsageError("capacity, depth (at least 10), orders, trades and heartbeat_ns must be positive")
        self.name, self.capacity = name, capacity
        self.depth, self.l3_depth, self.orders, self.trades = depth, l3_depth, orders, trades
        self.rows, self.counter_rows = {}, {}
        self.slots = <Slot*> calloc(capacity, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError
        self.path = os.path.join(os.fspath(directory), PREFIX + name)
        start = time.time_ns() if now_ns is None else now_ns
        with _directory_lock(directory):
            old = _retire(self.path, name)
            try:
                self._create(directory, mode, group, start, heartbeat_ns)
            finally:
                if old is not None:
                    os.close(old)

    def _create(self, directory, mode, group, start, heartbeat_ns):
        """Make the file under a name of its own, fill it, then rename it over the old one."""
        cdef uint64_t tables = PAGE + SESSIONS * sizeof(kfix_session) + self.capacity * sizeof(kfix_symbol)
        self.used = _pages(tables)
        self.size = self.used + self.capacity * (self._region_bytes(2) + self._region_bytes(3))
        fresh = os.path.join(os.fspath(directory), f".{PREFIX}{self.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self.fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"cannot make {fresh}: {error.strerror}") from error
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if group is not None:
                os.fchown(self.fd, -1, group)
            os.fchmod(self.fd, mode)
            os.ftruncate(self.fd, self.size)
            self._reserve(0, self.used)
            self._map()
            self._make_ready()
            self._fill_header(start, heartbeat_ns)
            os.rename(fresh, self.path)
        except OSError as error:
            raise FeedError(f"cannot make the shared memory file {self.path}: {error.strerror}") from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
        self.inode = os.fstat(self.fd).st_ino
        self.open = True

    def _map(self):
        cdef void* base = mmap(NULL, self.size, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if base == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.base = <char*> base
        self.header = <kfix_header*> base

    def _make_ready(self):
        """Pages for the tables and the first symbols, so that those open without system call or fault.

        Where there is no space for it, a symbol asks for its own when it is added.
        """
        cdef uint64_t ahead = min(<uint64_t> AHEAD, self.size - self.used)
        self.ready = self.used + (ahead if posix_fallocate(self.fd, self.used, ahead) == 0 else 0)
        kfix_populate(self.base, self.ready)

    def _fill_header(self, start, heartbeat_ns):
        cdef kfix_header* h = self.header
        h.layout, h.header_bytes, h.file_bytes = KFIX_LAYOUT, sizeof(kfix_header), self.size
        h.instance = secrets.randbits(63) | 1
        h.start_ns, h.pid, h.pid_start = start, os.getpid(), process_start(os.getpid())
        h.heartbeat_interval_ns, h.heartbeat_ns = heartbeat_ns, start
        h.counters_offset, h.counter_bytes, h.counters_capacity = COUNTERS_AT, sizeof(kfix_counter), COUNTERS
        h.sessions_offset, h.session_bytes, h.sessions_capacity = PAGE, sizeof(kfix_session), SESSIONS
        h.symbols_offset = PAGE + SESSIONS * sizeof(kfix_session)
        h.symbol_bytes, h.symbols_capacity = sizeof(kfix_symbol), self.capacity
        h.arena_offset = self.used
        _text(h.name, sizeof(h.name), self.name)
        _text(h.software, sizeof(h.software), "kfix-md " + __version__)
        kfix_store_release(&h.magic, KFIX_MAGIC)

    def _region_bytes(self, level):
        """File bytes of one symbol: top, best, trades, depth, and on L3 the order rows."""
        cdef uint64_t n = sizeof(kfix_top) + sizeof(kfix_best) + sizeof(kfix_trades) + self.trades * sizeof(kfix_trade)
        n += sizeof(kfix_depth) + 2 * <uint64_t> (self.depth if level == 2 else self.l3_depth) * sizeof(kfix_level)
        n = (n + 63) // 64 * 64
        return _pages(n + (self.orders * sizeof(kfix_order) if level == 3 else 0))

    def _reserve(self, at, n):
        error = posix_fallocate(self.fd, at, n)
        if error:
            free_bytes = os.statvfs(self.fd).f_bavail * os.statvfs(self.fd).f_frsize
            advice = "; give it more space, another directory, or ask for less depth" if error == ENOSPC else ""
            raise FeedError(f"{self.path} needs {n:,} more bytes of {os.path.dirname(self.path)}, which has "
                            f"{free_bytes:,} free: {os.strerror(error)}{advice}")

    # ---- symbols ----

    def add_symbol(self, symbol, level=2, price_precision=0, qty_precision=0, session=0):
        """Give (symbol, level) its slot and return it; `level` is 2, 3, "L2" or "L3".

        Known already: the same slot; with other precisions its book is emptied under a new generation.
        FeedError when the file system has no space for it, UsageError when the directory is full.
        """
        cdef kfix_symbol entry
        level = {"L2": 2, "L3": 3}.get(level, level)
        encoded = symbol.encode()
        if level not in (2, 3) or not encoded or len(encoded) >= <Py_ssize_t> sizeof(entry.symbol):
            raise UsageError(f"symbol {symbol!r} level {level!r}: at most 47 bytes of text, and L2 or L3")
        if not (0 <= price_precision <= 18 and 0 <= qty_precision <= 18 and 0 <= session < 256):
            raise UsageError(f"{symbol}: precisions {price_precision}, {qty_precision} must be 0 to 18")
        self._must_be_open()
        slot = self.rows.get((symbol, level))
        if slot is None:
            slot = self._new_symbol(encoded, level)
            self.rows[symbol, level] = slot
            self._define(slot, price_precision, qty_precision, session)
            kfix_store32(&self.header.n_symbols, self.n)
        else:
            self._define(slot, price_precision, qty_precision, session)
        return slot

    def _new_symbol(self, encoded, level):
        cdef Slot* s = &self.slots[self.n]
        cdef kfix_symbol* e
        cdef uint64_t at = self.used, orders_at, end
        if self.n >= self.capacity:
            raise UsageError(f"the segment has room for {self.capacity} symbols; make it with a larger capacity")
        e = <kfix_symbol*> (self.base + self.header.symbols_offset + self.n * sizeof(kfix_symbol))
        s.entry = e
        s.depth_capacity = self.depth if level == 2 else self.l3_depth
        s.trades_capacity = self.trades
        e.level, e.depth_capacity, e.trades_capacity = level, s.depth_capacity, self.trades
        e.region_offset, e.region_bytes = at, self._region_bytes(level)
        e.top_offset = at
        e.best_offset = e.top_offset + sizeof(kfix_top)
        e.trades_offset = e.best_offset + sizeof(kfix_best)
        e.depth_offset = e.trades_offset + sizeof(kfix_trades) + self.trades * sizeof(kfix_trade)
        orders_at = e.depth_offset + sizeof(kfix_depth) + 2 * <uint64_t> s.depth_capacity * sizeof(kfix_level)
        orders_at = (orders_at + 63) // 64 * 64
        if level == 3:
            e.orders_offset, e.orders_capacity = orders_at, self.orders
            s.orders_capacity = self.orders
            s.orders_ready = ORDERS_FIRST
            if self.ready > orders_at:
                s.orders_ready = max(s.orders_ready, (self.ready - orders_at) // sizeof(kfix_order))
            s.orders_ready = min(s.orders_ready, self.orders)
            s.orders = <kfix_order*> (self.base + orders_at)
        else:
            e.orders_offset, e.orders_capacity = 0, 0
        end = orders_at + s.orders_ready * sizeof(kfix_order)
        if end > self.ready:
            self._reserve(max(at, self.ready), end - max(at, self.ready))
        s.top, s.best = <kfix_top*> (self.base + at), <kfix_best*> (self.base + e.best_offset)
        s.trades, s.depth = <kfix_trades*> (self.base + e.trades_offset), <kfix_depth*> (self.base + e.depth_offset)
        s.ring = <kfix_trade*> (self.base + e.trades_offset + sizeof(kfix_trades))
        s.bids = <kfix_level*> (self.base + e.depth_offset + sizeof(kfix_depth))
        s.asks = s.bids + s.depth_capacity
        _text(e.symbol, sizeof(e.symbol), encoded.decode())
        s.now.price_precision = -1
        self.used += e.region_bytes
        self.n += 1
        return self.n - 1

    def _define(self, int32_t slot, price_precision, qty_precision, session):
        cdef Slot* s = &self.slots[slot]
        cdef kfix_symbol* e = s.entry
        if (s.now.price_precision, s.now.qty_precision, e.session) == (price_precision, qty_precision, session):
            return
        kfix_write_begin(&e.version)
        e.price_precision, e.qty_precision, e.session = price_precision, qty_precision, session
        e.generation += 1
        kfix_write_end(&e.version)
        if (s.now.price_precision, s.now.qty_precision) != (price_precision, qty_precision):
            s.now.price_precision, s.now.qty_precision = price_precision, qty_precision
            s.now.generation = <uint16_t> e.generation
            s.now.bid = s.now.bid_qty = s.now.ask = s.now.ask_qty = 0
            s.now.has = 0
            s.now.n_bids = s.now.n_asks = 0
            s.now.bid_orders = s.now.ask_orders = 0
            s.n_bids = s.n_asks = 0
            self._put_heads(s)

    cdef _put_heads(self, Slot* s):
        put_top(s)
        kfix_write_begin(&s.best.version)
        put_best_head(s)
        kfix_write_end(&s.best.version)
        kfix_write_begin(&s.depth.version)
        put_depth_head(s, NULL)
        kfix_write_end(&s.depth.version)
        self.tell(s)

    # ---- books ----

    cdef void publish(self, int32_t slot, BookSide* bids, BookSide* offers, OrderSlab* orders,
                      TopOfBook* top) noexcept nogil:
        """The book as it is now: its touched levels and rows, whose dirty marks are reset. `orders` NULL on L2."""
        cdef Slot* s
        cdef bint turned, keep, deep
        if slot < 0 or slot >= self.n:
            return
        s = &self.slots[slot]
        turned = s.now.state != top.state or s.now.cause != top.cause
        if turned:
            turn(s, top.state, top.cause, top.recv_ns)
        keep = not trusted(top.state)
        fill_side(&s.now.bid, &s.now.bid_qty, &s.now.bid_orders, &s.now.has, KFIX_HAS_BID, keep, bids)
        fill_side(&s.now.ask, &s.now.ask_qty, &s.now.ask_orders, &s.now.has, KFIX_HAS_ASK, keep, offers)
        s.now.recv_ns, s.now.event_ns, s.now.seq, s.now.updates = top.recv_ns, top.event_ns, top.seq, top.updates
        s.now.crc_rule, s.now.crc_checked, s.now.crc_failed = top.crc_rule, top.crc_checked, top.crc_failed
        s.now.n_bids, s.now.n_asks = bids.n, offers.n
        put_top(s)
        deep = touched(bids, s.n_bids) or touched(offers, s.n_asks)
        if deep or turned or (orders != NULL and orders.n_dirty != 0):
            kfix_write_begin(&s.best.version)
            put_best_head(s)
            put_best(s.best.bids, bids, s.n_bids)
            put_best(s.best.asks, offers, s.n_asks)
            kfix_write_end(&s.best.version)
            self._publish_depth(s, bids, offers, orders)
        self.tell(s)

    cdef void _publish_depth(self, Slot* s, BookSide* bids, BookSide* offers, OrderSlab* orders) noexcept nogil:
        cdef int32_t capacity = s.depth_capacity
        if s.orders == NULL:
            orders = NULL
        if orders != NULL and orders.used > <int32_t> s.orders_ready:
            grow_orders(s, self.fd, self.base, orders.used)
        s.depth_flags = KFIX_LEVELS_CUT if bids.n > capacity or offers.n > capacity else 0
        if orders != NULL and orders.used > <int32_t> s.orders_ready:
            s.depth_flags |= KFIX_ORDERS_CUT
        kfix_write_begin(&s.depth.version)
        put_depth_head(s, orders)
        put_side(s.bids, bids, s.n_bids, capacity)
        put_side(s.asks, offers, s.n_asks, capacity)
        if orders != NULL:
            put_orders(s, orders)
        kfix_write_end(&s.depth.version)
        s.n_bids, s.n_asks = bids.n, offers.n
        clean(bids)
        clean(offers)

    cdef void publish_trade(self, int32_t slot, MDEntry* trade, int64_t recv_ns, uint64_t seq) noexcept nogil:
        """Append a trade to the symbol's ring."""
        cdef Slot* s
        cdef kfix_trade t
        cdef kfix_trade* row
        if slot < 0 or slot >= self.n:
            return
        s = &self.slots[slot]
        row = &s.ring[s.n_trades % s.trades_capacity]
        memset(&t, 0, sizeof(t))
        t.price, t.qty, t.recv_ns, t.event_ns, t.seq = trade.price, trade.qty, recv_ns, trade.event_ns, seq
        t.aggressor, t.ord_type = trade.aggressor, trade.ord_type
        t.price_precision, t.qty_precision = s.now.price_precision, s.now.qty_precision
        row.stamp = 2 * s.n_trades
        kfix_write_begin(&row.stamp)
        kfix_put(&row.price, &t.price, sizeof(t) - 8)
        kfix_write_end(&row.stamp)
        s.n_trades += 1
        kfix_store_release(&s.trades.head, s.n_trades)
        self.tell(s)

    cdef void tell(self, Slot* s) noexcept nogil:
        """Something is new: count it, and wake who sleeps (the heartbeat finds out whether anybody does)."""
        self.change += 1
        kfix_store32(&self.header.change, self.change)
        if self.wakes:
            kfix_futex_wake(&self.header.change)
            if s != NULL and self.wakes & KFIX_WAKE_BOOK:
                kfix_futex_wake(&s.top.version)

    def set_state(self, int32_t slot, state, cause=Cause.NONE, now_ns=None):
        """Another state for one book, its values kept (for readers with allow_stale=True)."""
        if not 0 <= slot < self.n:
            raise IndexError(f"no slot {slot}: there are {self.n}")
        turn(&self.slots[slot], State(state), Cause(cause), time.time_ns() if now_ns is None else now_ns)
        self._put_heads(&self.slots[slot])

    # ---- the feed as a whole ----

    cdef void beat(self, int64_t now_ns) noexcept nogil:
        cdef uint32_t wakes = 0
        if not self.open:
            return
        kfix_store_release(&self.header.heartbeat_ns, <uint64_t> now_ns)
        if kfix_waiter_present(self.fd, WAIT_BOOK_BYTE):
            wakes = KFIX_WAKE_FEED | KFIX_WAKE_BOOK
        elif kfix_waiter_present(self.fd, WAIT_FEED_BYTE):
            wakes = KFIX_WAKE_FEED
        if wakes != self.wakes:
            self.wakes = wakes
            kfix_store32(&self.header.wakes, wakes)

    def heartbeat(self, now_ns=None):
        """Say that the feed lives; at least twice every `heartbeat_ns`."""
        self.beat(time.time_ns() if now_ns is None else now_ns)

    def set_counter(self, name, value):
        """A named count (at most 64 names of at most 23 bytes) that `feed.counters` and the console show."""
        cdef kfix_counter* row
        self._must_be_open()
        i = self.counter_rows.get(name)
        if i is None:
            i = len(self.counter_rows)
            if i >= COUNTERS or len(name.encode()) >= <Py_ssize_t> sizeof(row.name):
                raise UsageError(f"counter {name!r}: at most 23 bytes, and {COUNTERS} counters")
            row = <kfix_counter*> (self.base + COUNTERS_AT) + <int> i
            _text(row.name, sizeof(row.name), name)
            self.counter_rows[name] = i
        row = <kfix_counter*> (self.base + COUNTERS_AT) + <int> i
        kfix_store(&row.value, value)

    def set_session(self, int i, *, service=None, state=None, host=None, port=None, level=None, sender=None,
                    target=None, since_ns=None, last_recv_ns=None, rollover_ns=None, messages=None, bytes=None,
                    gaps=None, reconnects=None):
        """Row `i` (0 to 63) of the session table; what is not given stays as it is."""
        cdef kfix_session* row
        cdef kfix_session s
        self._must_be_open()
        if not 0 <= i < SESSIONS:
            raise UsageError(f"session {i}: the table has {SESSIONS} rows")
        row = <kfix_session*> (self.base + PAGE) + i
        memcpy(&s, row, sizeof(s))
        if service is not None:
            _text(s.service, sizeof(s.service), service)
        if state is not None:
            _text(s.state, sizeof(s.state), state)
        if host is not None:
            _text(s.host, sizeof(s.host), host)
        if sender is not None:
            _text(s.sender, sizeof(s.sender), sender)
        if target is not None:
            _text(s.target, sizeof(s.target), target)
        s.port = s.port if port is None else port
        s.level = s.level if level is None else {"L2": 2, "L3": 3}.get(level, level)
        s.since_ns = s.since_ns if since_ns is None else since_ns
        s.last_recv_ns = s.last_recv_ns if last_recv_ns is None else last_recv_ns
        s.rollover_ns = s.rollover_ns if rollover_ns is None else rollover_ns
        s.messages = s.messages if messages is None else messages
        s.bytes = s.bytes if bytes is None else bytes
        s.gaps = s.gaps if gaps is None else gaps
        s.reconnects = s.reconnects if reconnects is None else reconnects
        kfix_write_begin(&row.version)
        kfix_put(&row.service, &s.service, sizeof(s) - 8)
        kfix_write_end(&row.version)

    def _must_be_open(self):
        if not self.open:
            raise FeedError(f"{self.path} is closed")

    def close(self):
        """End in order: readers are told, the name is free. Publishing afterwards does nothing visible."""
        if not self.open:
            return
        self.open = False
        kfix_store32(&self.header.closed, KFIX_CLOSED)
        self.wakes = KFIX_WAKE_FEED
        for i in range(self.n):
            kfix_futex_wake(&self.slots[i].top.version)
        self.tell(NULL)
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self.inode:
                os.unlink(self.path)
        os.close(self.fd)
        self.fd = -1
        self.wakes = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
        free(self.slots)

    def __repr__(self):
        return f"SegmentWriter({self.path!r}, {self.n} symbols{'' if self.open else ', closed'})"


# ---- names, locks, processes ----

cdef _text(char* to, size_t size, text):
    encoded = text.encode()
    if len(encoded) >= <Py_ssize_t> size:
        encoded = encoded[:size - 1].decode(errors="ignore").encode()
    strncpy(to, encoded, size)
    to[size - 1] = 0


def _pages(n):
    return (n + PAGE - 1) // PAGE * PAGE


def process_start(pid):
    """Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat), 0 when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


@contextlib.contextmanager
def _directory_lock(directory):
    """One feed starts at a time in a directory; nobody holds this for longer than a start takes."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"shared memory directory {os.fspath(directory)}: {error.strerror}") from error
    try:
        if not _try_lock(fd, fcntl.LOCK_EX, 5.0):
            raise UsageError(f"another process holds a lock on {os.fspath(directory)}; is a feed just starting?")
        yield
    finally:
        os.close(fd)


def _try_lock(fd, how, seconds):
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)


def _retire(path, name):
    """Tell readers of a dead writer's segment that it is replaced; UsageError when its writer lives.

    Returns the descriptor (locked, None when there was no file), to be closed after the rename.
    """
    cdef kfix_header h
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} is in the way: {error.strerror}; remove it or choose another name") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UsageError(f"{path} is in the way and no file; remove it or choose another name")
        data = os.pread(fd, sizeof(h), 0)
        known = len(data) == sizeof(h)
        if known:
            memcpy(&h, <char*> data, sizeof(h))
            known = h.magic == KFIX_MAGIC
        # readers that probe hold a shared lock for a moment
        if not _try_lock(fd, fcntl.LOCK_EX, 0.1):
            who = f" (process {h.pid})" if known else ""
            raise UsageError(f"a feed named {name!r} is running already{who}; stop it or choose another name")
        if known and h.layout == KFIX_LAYOUT:
            os.pwrite(fd, (<uint32_t> KFIX_REPLACED).to_bytes(4, "little"), <size_t> (<char*> &h.closed - <char*> &h))
    except BaseException:
        os.close(fd)
        raise
    return fd
