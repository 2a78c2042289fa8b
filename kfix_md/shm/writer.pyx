# cython: freethreading_compatible=True
"""Writes books into a shared memory segment: creates the file, adds symbols, publishes what changed."""

import contextlib
import os
import re
import secrets
import stat
import time

from kfix_md import __version__
from kfix_md._entry import Cause, State
from kfix_md.errors import FeedError, UsageError, reason_of
from kfix_md.shm.locks import InUse, boot_id, hold, process_start
from kfix_md.shm.names import PREFIX, segment_path
from kfix_md.shm.owners import make_own_directory

from libc.stdint cimport uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strncpy
from libc.errno cimport errno, ENOSPC
from posix.fcntl cimport posix_fallocate
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from kfix_md._entry cimport STATE_UNVERIFIED, BookSide, MDEntry, Order, OrderSlab, TopOfBook
from kfix_md._state cimport trusted
from kfix_md.shm.layout cimport (
    KFIX_CLOSED, KFIX_HAS_ASK, KFIX_HAS_BID, KFIX_LAYOUT, KFIX_LEVELS_CUT, KFIX_LINE, KFIX_MAGIC, KFIX_MAX_ROWS,
    KFIX_ORDERS_CUT, KFIX_REPLACED, KFIX_SERVE_UNVERIFIED, KFIX_WAIT_BOOK, KFIX_WAIT_FEED, KFIX_WAKE_BOOK,
    KFIX_WAKE_FEED, KFIX_WRITER, kfix_best, kfix_counter, kfix_depth, kfix_futex_wake, kfix_header, kfix_level,
    kfix_monotonic, kfix_move_mapping, kfix_order, kfix_populate, kfix_put, kfix_session, kfix_store, kfix_store32,
    kfix_store_release, kfix_symbol, kfix_top, kfix_trade, kfix_trades, kfix_waiter_present, kfix_write_begin,
    kfix_write_end, kfix_writer_lock, kfix_writer_present,
)
from kfix_md.shm.slot cimport (
    SymbolBlocks, change_state, clean, fill_side, grow_orders, put_best, put_best_head, put_depth_head, put_orders,
    put_side, put_top, touched,
)

#: a segment that is being made, see _new_file
_TEMPORARY = re.compile(re.escape("." + PREFIX) + r"(.+)\.\d+\.[0-9a-f]{8}")
SWEPT_AFTER_S = 60
LAYOUT = KFIX_LAYOUT
MAGIC = KFIX_MAGIC

cdef enum:
    PAGE = 4096
    SESSIONS = 64
    COUNTERS = 64
    COUNTERS_AT = 1024
    ORDERS_FIRST = 256              # order rows whose pages are allocated with the symbol
    AHEAD = 1048576                 # bytes of blocks whose pages are allocated when the file is created

assert sizeof(kfix_order) == sizeof(Order)
assert COUNTERS_AT >= sizeof(kfix_header) and COUNTERS_AT + COUNTERS * sizeof(kfix_counter) <= PAGE
# a longer name could not be read back from the header
assert sizeof((<kfix_header*> NULL).name) > 48


cdef class SegmentWriter:
    """The writer of the segment `kfix-md.NAME` in `directory`, or in kfix-md-UID there if others can write to that.

    The file is sparse. Pages of the tables and of the first MiB of blocks are allocated at once, those of a symbol in
    `add_symbol`, those of order rows as they come into use: a full file system is an error there, never a SIGBUS.
    `heartbeat` must be called at least twice every `heartbeat_ns`.

    Parameters
    ----------
    name : str
        Letters, digits, "_", "-" and ".", at most 48.
    directory : path
    mode : int
        Permissions of the file; none to write for others.
    group : int, optional
        Group id of the file; mode 0o640 lets this group read.
    capacity : int
        Number of symbols.
    depth, l3_depth : int
        Levels a side of an L2 and of an L3 book.
    orders : int
        Order rows of an L3 book.
    trades : int
        Length of the ring of last trades of a book.
    heartbeat_ns : int
        Interval after which readers ask whether the writer lives.
    clock_base_ns : int, optional
        Wall clock minus CLOCK_MONOTONIC, by which readers compute ages: times published are CLOCK_MONOTONIC plus this.
        Default: as it is now.
    serve_unverified : bool
        Let every reader use the prices of UNVERIFIED books, not only those with allow_unverified=True.

    Raises
    ------
    UsageError
        A living feed has the name, or an argument is out of range.
    FeedError
        The file system has no space.
    """

    def __cinit__(self, *args, **kwargs):
        self.fd = -1

    def __init__(self, name="default", directory="/dev/shm", mode=0o600, *, group=None, capacity=2000, depth=1000,
                 l3_depth=4096, orders=65536, trades=256, heartbeat_ns=500_000_000, clock_base_ns=None,
                 serve_unverified=False):
        if self.slots != NULL:
            raise UsageError(f"{self.path} has been created already")
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,47}", name):
            raise UsageError(f"feed name {name!r}: letters, digits, '_', '-' and '.' only, at most 48")
        if not (0 < capacity <= 1_000_000 and 10 <= depth <= 1_000_000 and 10 <= l3_depth <= 1_000_000
                and 0 < orders <= KFIX_MAX_ROWS and 0 < trades <= 1 << 24 and heartbeat_ns > 0):
            raise UsageError("capacity, depth (at least 10), orders, trades and heartbeat_ns must be positive")
        self.name, self.capacity = name, capacity
        self.depth, self.l3_depth, self.orders, self.trades = depth, l3_depth, orders, trades
        self.rows, self.counter_rows = {}, {}
        self.slots = <SymbolBlocks*> calloc(capacity, sizeof(SymbolBlocks))
        if self.slots == NULL:
            raise MemoryError
        if mode & 0o022:
            raise UsageError(f"mode {mode:04o}: other users could write prices; 0640 lets a group read")
        self.path = os.fspath(segment_path(make_own_directory(directory, mode, group), name))
        base_ns = time.time_ns() - time.monotonic_ns() if clock_base_ns is None else clock_base_ns
        self._hold_name(directory)
        try:
            _sweep(os.path.dirname(self.path) or ".", name)
            self._create(mode, group, base_ns, heartbeat_ns, serve_unverified)
        except BaseException:
            self._release_name()
            raise

    def _hold_name(self, directory):
        try:
            self.name_lock = hold("feed", directory, self.name)
        except InUse as error:
            raise _running_already(self.name, error.pid) from None
        except OSError as error:
            raise UsageError(f"shared memory directory {directory}: {reason_of(error)}") from error

    def _release_name(self):
        if self.name_lock is not None:
            self.name_lock.close()

    def _create(self, mode, group, base_ns, heartbeat_ns, serve_unverified):
        """Create the file under a temporary name, fill it, then rename it over the old one."""
        cdef uint64_t tables = PAGE + SESSIONS * sizeof(kfix_session) + self.capacity * sizeof(kfix_symbol)
        self.used = _pages(tables)
        self.size = self.used + self.capacity * (self._region_bytes(2) + self._region_bytes(3))
        with self._new_file(mode, group) as self.fd:
            _reserve(self.fd, self.path, 0, self.used)
            self.base = <char*> _map(self.fd, self.size)
            self.header = <kfix_header*> self.base
            self._make_ready()
            self._fill_header(base_ns, heartbeat_ns)
            self.header.flags = KFIX_SERVE_UNVERIFIED if serve_unverified else 0
            kfix_store_release(&self.header.magic, KFIX_MAGIC)
        self.open = True

    @contextlib.contextmanager
    def _new_file(self, mode, group):
        """A file of the segment's size under a temporary name, locked; with the end of the block it gets its own."""
        _retire(self.path, self.name)
        directory, name = os.path.split(self.path)
        fresh = os.path.join(directory, f".{name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"cannot create {fresh}: {reason_of(error)}") from error
        try:
            if kfix_writer_lock(fd, KFIX_WRITER) != 0:
                raise OSError(errno, os.strerror(errno))
            if group is not None:
                os.fchown(fd, -1, group)
            os.fchmod(fd, mode)
            os.ftruncate(fd, self.size)
            yield fd
            os.rename(fresh, self.path)
            self.identity = _identity(os.fstat(fd))
        except OSError as error:
            raise FeedError(f"cannot create the shared memory file {self.path}: {reason_of(error)}") from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(fresh)

    def displaced(self):
        """Whether somebody deleted the file, or put another one in its place."""
        try:
            return _identity(os.stat(self.path, follow_symlinks=False)) != self.identity
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def republish(self):
        """Publish everything again under the name, in a new file that takes the place of a displaced one.

        Readers of the old file get FeedDead; with reconnect=True they move to the new one. It takes as long as a copy
        of all books does.

        Raises
        ------
        FeedError, UsageError
            The new file cannot be made. Readers of the old one go on; call it again later.
        """
        cdef void* base = NULL
        self._must_be_open()
        old = os.fstat(self.fd)
        fresh = -1
        try:
            with self._new_file(stat.S_IMODE(old.st_mode), old.st_gid) as fresh:
                for at, end in self._allocated():
                    _reserve(fresh, self.path, at, end - at)
                base = _map(fresh, self.size)
                for at, end in self._allocated():
                    memcpy(<char*> base + <uint64_t> at, self.base + <uint64_t> at, <uint64_t> end - <uint64_t> at)
                (<kfix_header*> base).instance = secrets.randbits(63) | 1
                (<kfix_header*> base).wakes = 0
        except BaseException:
            if base != NULL:
                munmap(base, self.size)
            if fresh >= 0:
                os.close(fresh)
            raise
        self._leave(KFIX_REPLACED)
        # to the same address: handlers and slots have pointers into it
        if kfix_move_mapping(base, self.base, self.size) != 0:
            os.abort()      # the old mapping may be gone
        os.close(self.fd)
        self.fd, self.wakes = fresh, 0

    def _allocated(self):
        """[(from, to)] of the bytes of the file that have pages."""
        cdef SymbolBlocks* s
        cdef uint64_t end
        found = [(0, self.ready)]
        for i in range(self.n):
            s = &self.slots[i]
            end = s.entry.depth_offset + sizeof(kfix_depth) + 2 * <uint64_t> s.depth_capacity * sizeof(kfix_level)
            end = _lines(end) + s.orders_ready * sizeof(kfix_order)
            if end > self.ready:
                found.append((max(<uint64_t> s.entry.region_offset, self.ready), end))
        return found

    def _leave(self, uint32_t reason):
        """Give the file up for its readers, and wake those that sleep."""
        kfix_store32(&self.header.closed, reason)
        self.wakes = KFIX_WAKE_FEED
        for i in range(self.n):
            kfix_futex_wake(&self.slots[i].top.version)
        self.notify(NULL)

    def _make_ready(self):
        """Allocate and map pages for the tables and the first symbols, which are then added without a page fault.

        Without space for that, each symbol allocates its own pages when it is added.
        """
        cdef uint64_t ahead = min(<uint64_t> AHEAD, self.size - self.used)
        self.ready = self.used + (ahead if posix_fallocate(self.fd, self.used, ahead) == 0 else 0)
        kfix_populate(self.base, self.ready)

    def _fill_header(self, base_ns, heartbeat_ns):
        cdef kfix_header* h = self.header
        h.layout, h.header_bytes, h.file_bytes = KFIX_LAYOUT, sizeof(kfix_header), self.size
        h.instance = secrets.randbits(63) | 1
        h.clock_base_ns, h.heartbeat_ns = base_ns, kfix_monotonic()
        h.start_ns, h.pid, h.pid_start = h.heartbeat_ns + base_ns, os.getpid(), process_start(os.getpid())
        h.heartbeat_interval_ns = heartbeat_ns
        h.counters_offset, h.counter_bytes, h.counters_capacity = COUNTERS_AT, sizeof(kfix_counter), COUNTERS
        h.sessions_offset, h.session_bytes, h.sessions_capacity = PAGE, sizeof(kfix_session), SESSIONS
        h.symbols_offset = PAGE + SESSIONS * sizeof(kfix_session)
        h.symbol_bytes, h.symbols_capacity = sizeof(kfix_symbol), self.capacity
        h.arena_offset = self.used
        _text(h.name, sizeof(h.name), self.name)
        _text(h.software, sizeof(h.software), "kfix-md " + __version__)
        _text(h.boot_id, sizeof(h.boot_id), boot_id())

    def _region_bytes(self, level):
        """Bytes of the file for one symbol: top, best, trades, depth, and on L3 the order rows."""
        cdef uint64_t n = sizeof(kfix_top) + sizeof(kfix_best) + sizeof(kfix_trades) + self.trades * sizeof(kfix_trade)
        n += sizeof(kfix_depth) + 2 * <uint64_t> (self.depth if level == 2 else self.l3_depth) * sizeof(kfix_level)
        n = _lines(n)
        return _pages(n + (self.orders * sizeof(kfix_order) if level == 3 else 0))

    # ---- symbols ----

    def add_symbol(self, symbol, level=2, price_precision=0, qty_precision=0, session=0):
        """Slot of (symbol, level), added when it is new.

        Other precisions than before empty the book and increment its generation.

        Parameters
        ----------
        symbol : str
            At most 47 bytes in UTF-8.
        level : {2, 3, "L2", "L3"}
        price_precision, qty_precision : int
            Decimals of prices and quantities, 0 to 18.
        session : int
            Row of the session table.

        Raises
        ------
        FeedError
            The file system has no space for the symbol.
        UsageError
            The directory of symbols is full, or an argument is out of range.
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
        cdef SymbolBlocks* s = &self.slots[self.n]
        cdef kfix_symbol* e
        cdef uint64_t at = self.used, orders_at, end
        if self.n >= self.capacity:
            raise UsageError(f"the segment has room for {self.capacity} symbols; create it with a larger capacity")
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
        orders_at = _lines(orders_at)
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
            _reserve(self.fd, self.path, max(at, self.ready), end - max(at, self.ready))
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
        cdef SymbolBlocks* s = &self.slots[slot]
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

    cdef _put_heads(self, SymbolBlocks* s):
        put_top(s)
        kfix_write_begin(&s.best.version)
        put_best_head(s)
        kfix_write_end(&s.best.version)
        kfix_write_begin(&s.depth.version)
        put_depth_head(s, NULL)
        kfix_write_end(&s.depth.version)
        self.notify(s)

    # ---- books ----

    cdef void publish(self, int32_t slot, BookSide* bids, BookSide* offers, OrderSlab* orders,
                      TopOfBook* top) noexcept nogil:
        """Publish a book: what its dirty marks name, which are then reset. `orders` is NULL on L2."""
        cdef SymbolBlocks* s
        cdef bint turned, keep, deep
        if slot < 0 or slot >= self.n:
            return
        s = &self.slots[slot]
        turned = s.now.state != top.state or s.now.cause != top.cause
        if turned:
            change_state(s, top.state, top.cause, top.recv_ns)
        keep = not trusted(top.state) and top.state != STATE_UNVERIFIED
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
        self.notify(s)

    cdef void _publish_depth(self, SymbolBlocks* s, BookSide* bids, BookSide* offers, OrderSlab* orders) noexcept nogil:
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
        """Append a trade to the ring of a symbol."""
        cdef SymbolBlocks* s
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
        kfix_put(&row.price, &t.price, sizeof(t) - sizeof(t.stamp))
        kfix_write_end(&row.stamp)
        s.n_trades += 1
        kfix_store_release(&s.trades.head, s.n_trades)
        self.notify(s)

    cdef void notify(self, SymbolBlocks* s) noexcept nogil:
        """Count a publication and wake sleeping readers; the heartbeat finds out whether there are any."""
        self.change += 1
        kfix_store32(&self.header.change, self.change)
        if self.wakes:
            kfix_futex_wake(&self.header.change)
            if s != NULL and self.wakes & KFIX_WAKE_BOOK:
                kfix_futex_wake(&s.top.version)

    def set_state(self, int32_t slot, state, cause=Cause.NONE, now_ns=None):
        """Set the state of one book; its values are kept for readers with allow_stale=True."""
        if not 0 <= slot < self.n:
            raise IndexError(f"no slot {slot}: there are {self.n}")
        change_state(&self.slots[slot], State(state), Cause(cause), self.now_ns() if now_ns is None else now_ns)
        self._put_heads(&self.slots[slot])

    # ---- the feed as a whole ----

    cdef int64_t now(self) noexcept nogil:
        return kfix_monotonic() + self.header.clock_base_ns

    def now_ns(self):
        """The time to publish with: CLOCK_MONOTONIC plus `clock_base_ns`. FeedError when it is closed."""
        self._must_be_open()
        return self.now()

    cdef void beat(self) noexcept nogil:
        cdef uint32_t wakes = 0
        if not self.open:
            return
        kfix_store_release(&self.header.heartbeat_ns, <uint64_t> kfix_monotonic())
        if kfix_waiter_present(self.fd, KFIX_WAIT_BOOK):
            wakes = KFIX_WAKE_FEED | KFIX_WAKE_BOOK
        elif kfix_waiter_present(self.fd, KFIX_WAIT_FEED):
            wakes = KFIX_WAKE_FEED
        if wakes != self.wakes:
            self.wakes = wakes
            kfix_store32(&self.header.wakes, wakes)

    def heartbeat(self):
        """Record that the feed lives; to be called at least twice every `heartbeat_ns`."""
        self.beat()

    def set_lagging(self, int session, bint lagging):
        """Readers trust the books of row `session` of the session table no longer, or again: its messages are late."""
        cdef uint64_t bit
        self._must_be_open()
        if not 0 <= session < SESSIONS:
            raise UsageError(f"session {session}: the table has {SESSIONS} rows")
        bit = <uint64_t> 1 << session
        kfix_store(&self.header.lagging, self.header.lagging | bit if lagging else self.header.lagging & ~bit)
        self.notify(NULL)

    def set_clock_step(self, int64_t step_ns):
        """Let readers know by how much the wall clock was stepped, in sum, since the segment was made."""
        self._must_be_open()
        kfix_store(&self.header.clock_step_ns, <uint64_t> step_ns)

    def set_counter(self, name, value):
        """Set a named count, shown by `feed.counters` and the consoles: at most 64 names of at most 23 bytes."""
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
                    gaps=None, reconnects=None, lag_ns=None, clock_offset_ns=None):
        """Update row `i` (0 to 63) of the session table; fields that are None keep their values."""
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
        s.lag_ns = s.lag_ns if lag_ns is None else lag_ns
        s.clock_offset_ns = s.clock_offset_ns if clock_offset_ns is None else clock_offset_ns
        kfix_write_begin(&row.version)
        kfix_put(&row.service, &s.service, sizeof(s) - sizeof(s.version))
        kfix_write_end(&row.version)

    def _must_be_open(self):
        if not self.open:
            raise FeedError(f"{self.path} is closed")

    def close(self):
        """Mark the segment as closed, wake its readers and free the name. Later publications have no visible effect."""
        if not self.open:
            return
        self.open = False
        self._leave(KFIX_CLOSED)
        if not self.displaced():
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        os.close(self.fd)
        self._release_name()
        self.fd = -1
        self.wakes = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
        if self.fd >= 0:
            close(self.fd)
        free(self.slots)

    def __repr__(self):
        return f"SegmentWriter({self.path!r}, {self.n} symbols{'' if self.open else ', closed'})"


# ---- text, sizes, and the segment of a dead writer ----

cdef _text(char* to, size_t size, text):
    encoded = text.encode()
    if len(encoded) >= <Py_ssize_t> size:
        encoded = encoded[:size - 1].decode(errors="ignore").encode()
    strncpy(to, encoded, size)
    to[size - 1] = 0


cdef uint64_t _lines(uint64_t n):
    return (n + KFIX_LINE - 1) // KFIX_LINE * KFIX_LINE


cdef uint64_t _pages(uint64_t n):
    return (n + PAGE - 1) // PAGE * PAGE


cdef void* _map(int fd, uint64_t size) except NULL:
    cdef void* base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if base == MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    return base


def _reserve(int fd, path, at, n):
    """Allocate pages for n bytes of the file."""
    error = posix_fallocate(fd, at, n)
    if error:
        free_bytes = os.statvfs(fd).f_bavail * os.statvfs(fd).f_frsize
        advice = "; give it more space, another directory, or configure less depth" if error == ENOSPC else ""
        raise FeedError(f"{path} needs {n:,} more bytes of {os.path.dirname(path)}, which has "
                        f"{free_bytes:,} free: {os.strerror(error)}{advice}") from OSError(error, os.strerror(error))


def _sweep(directory, name):
    """Remove the temporary files that killed starts left; those of other names, which may be starting, later."""
    try:
        entries = os.listdir(directory)
    except OSError:             # what keeps us from looking keeps us from making a file too, with its reason
        return
    for entry in entries:
        found = _TEMPORARY.fullmatch(entry)
        if found is None:
            continue
        with contextlib.suppress(OSError):
            path = os.path.join(directory, entry)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                age_s = time.time() - os.fstat(fd).st_mtime
                if not kfix_writer_present(fd, KFIX_WRITER) and (found[1] == name or age_s > SWEPT_AFTER_S):
                    os.unlink(path)
            finally:
                os.close(fd)


def _identity(status):
    return status.st_dev, status.st_ino


def _running_already(name, pid):
    who = f" (process {pid})" if pid else ""
    return UsageError(f"a feed named {name!r} is running already{who}; stop it or choose another name")


def _retire(path, name):
    """Mark the segment of a dead writer, if there is one, as replaced, for its readers.

    UsageError when its writer lives or the path is no regular file.
    """
    cdef kfix_header h
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path} is in the way: {reason_of(error)}; remove it or choose another name") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UsageError(f"{path} is in the way and no regular file; remove it or choose another name")
        data = os.pread(fd, sizeof(h), 0)
        known = len(data) == sizeof(h)
        if known:
            memcpy(&h, <char*> data, sizeof(h))
            known = h.magic == KFIX_MAGIC
        if kfix_writer_present(fd, KFIX_WRITER):
            raise _running_already(name, h.pid if known else 0)
        if known and h.layout <= KFIX_LAYOUT:       # `closed` is where it was in all of them
            os.pwrite(fd, (<uint32_t> KFIX_REPLACED).to_bytes(4, "little"), <size_t> (<char*> &h.closed - <char*> &h))
    finally:
        os.close(fd)
