# cython: freethreading_compatible=True
"""Maps a segment read-only, checks it, and finds out whether its writer lives."""

import os
import stat

import numpy as np

from kfix_md._entry import Cause, State
from kfix_md.errors import FeedDead, FeedError, reason_of
from kfix_md.shm.locks import boot_id
from kfix_md.shm.owners import open_trusted

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport ENOSYS
from libc.math cimport NAN
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap
from posix.unistd cimport close, usleep

from kfix_md._entry cimport CAUSE_LAGGING, STATE_STALE, STATE_UNVERIFIED
from kfix_md._state cimport trusted
from kfix_md.shm.layout cimport (
    KFIX_CLOSED, KFIX_HAS_ASK, KFIX_HAS_BID, KFIX_LAYOUT, KFIX_MAGIC, KFIX_MAX_ROWS, KFIX_MAX_WORDS, KFIX_OPEN,
    KFIX_SERVE_UNVERIFIED, KFIX_WAIT_FEED, KFIX_WAKE_FEED, KFIX_WRITER, kfix_best, kfix_counter, kfix_depth,
    kfix_age, kfix_futex_wait, kfix_futex_wait_any, kfix_get, kfix_is_beating, kfix_is_lagging, kfix_level,
    kfix_load, kfix_load32,
    kfix_monotonic, kfix_monotonic_coarse, kfix_order, kfix_pause, kfix_read_begin, kfix_read_end, kfix_session,
    kfix_silence, kfix_trade, kfix_trades, kfix_waiter_announce, kfix_wall, kfix_writer_present,
)

cdef extern from "string.h" nogil:
    size_t strnlen(const char* text, size_t most)

cdef int _i
TEN[0] = 1.0
for _i in range(1, 19):
    TEN[_i] = TEN[_i - 1] * 10.0    # exact: 10**18 < 2**60 has 42 significant bits

STATES = tuple(State)
CAUSES = tuple(Cause)
#: age of a book that has not had a message
NEVER_NS = (1 << 63) - 1

cdef object state_of(int code):
    return STATES[code] if 0 <= code < len(STATES) else State.STALE


cdef object cause_of(int code):
    return CAUSES[code] if 0 <= code < len(CAUSES) else Cause.NONE


cdef class Segment:
    """A segment mapped read-only.

    FeedError when the file is no segment, damaged, not readable, of another layout, or may be somebody else's.
    """

    def __cinit__(self, str path not None):
        cdef kfix_header h
        cdef void* base
        cdef const char* bad
        self.path = path
        try:
            self.fd = open_trusted(path)
            self.has_fd = True
            if not stat.S_ISREG(os.fstat(self.fd).st_mode):
                raise FeedError(f"{path} is no regular file: not a kfix-md feed")
            data = os.pread(self.fd, sizeof(h), 0)
            size = os.fstat(self.fd).st_size
        except PermissionError as error:
            raise FeedError(f"no permission to read {path} (mode {_mode(path)}); the feed's shared memory mode "
                            "and group decide who may") from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise FeedError(f"cannot read {path}: {reason_of(error)}") from error
        if len(data) < 16:
            raise FeedError(f"{path} is not a kfix-md feed: only {len(data)} bytes")
        memcpy(&h, <char*> data, min(len(data), <Py_ssize_t> sizeof(h)))
        if h.magic != KFIX_MAGIC:
            raise FeedError(f"{path} is not a kfix-md feed: no magic number at its start")
        if h.layout != KFIX_LAYOUT:
            raise FeedError(f"{path} has shared memory layout {h.layout}, this kfix-md reads layout {KFIX_LAYOUT}; "
                            "run feed and reader from the same version")
        if len(data) < <Py_ssize_t> sizeof(h) or h.file_bytes != size:
            raise FeedError(f"{path} is truncated: {size:,} bytes of "
                            f"{h.file_bytes if len(data) >= 24 else 0:,}; restart the feed")
        bad = _bad_header(&h, size)
        if bad != NULL:
            raise FeedError(f"{path} is damaged: {bad.decode()} in its header; restart the feed")
        base = mmap(NULL, size, PROT_READ, MAP_SHARED, self.fd, 0)
        if base == MAP_FAILED:
            raise FeedError(f"cannot map {path}: {size:,} bytes of address space; raise `ulimit -v`")
        self.base, self.header, self.size = <char*> base, <kfix_header*> base, size
        self.opened = h
        self.serve_unverified = (h.flags & KFIX_SERVE_UNVERIFIED) != 0
        self.interval = h.heartbeat_interval_ns
        here, there = boot_id(), _field(h.boot_id, sizeof(h.boot_id))
        self.of_other_boot = bool(here and there and here != there)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
        if self.has_fd:
            close(self.fd)

    cdef bint fresh(self) noexcept nogil:
        """The heartbeat is recent and the segment is open."""
        return kfix_is_beating(self.header, kfix_monotonic_coarse(), self.interval) and not self.of_other_boot

    cdef int session_row(self, kfix_symbol* entry, kfix_session* to) except -1:
        """Copy the row of the session that a book belongs to."""
        cdef uint32_t i = entry.session
        if i >= self.opened.sessions_capacity:
            raise FeedError(f"{self.path} is damaged: session of an entry of its directory; restart the feed")
        self.read(self.base + self.opened.sessions_offset + i * <uint64_t> self.opened.session_bytes, to,
                  sizeof(kfix_session))
        return 0

    cdef void show_lag(self, kfix_symbol* entry, uint8_t* state, uint8_t* cause) noexcept nogil:
        """A book that would be usable, but whose messages arrive too late, is STALE because of LAGGING."""
        if kfix_load(&self.header.lagging) and kfix_is_lagging(self.header, entry.session):
            if trusted(state[0]) or state[0] == STATE_UNVERIFIED:
                state[0], cause[0] = STATE_STALE, CAUSE_LAGGING

    cdef kfix_symbol* row(self, uint32_t i) except NULL:
        """Directory entry `i`; FeedError unless its blocks lie inside its region, and that inside the file."""
        cdef kfix_symbol* e
        cdef const char* bad
        if i >= kfix_load32(&self.header.n_symbols) or i >= self.opened.symbols_capacity:
            raise IndexError(f"{self.path} has no entry {i} in its directory")
        e = <kfix_symbol*> (self.base + self.opened.symbols_offset + i * <uint64_t> self.opened.symbol_bytes)
        bad = _bad_entry(e, self.size)
        if bad != NULL:
            raise FeedError(f"{self.path} is damaged: {bad.decode()} of entry {i} of its directory; restart the feed")
        return e

    cdef int read(self, const void* block, void* to, size_t n) except -1:
        """Copy a seqlocked block that starts with its version; returns the failed tries."""
        cdef uint64_t begun
        cdef uint32_t tries = 0
        while True:
            begun = kfix_read_begin(<const uint64_t*> block)
            if not begun & 1:
                kfix_get(to, block, n)
                if kfix_read_end(<const uint64_t*> block, begun):
                    (<uint64_t*> to)[0] = begun
                    return tries
            tries += 1
            kfix_pause()
            if tries > SPIN_TRIES:
                usleep(SLEEP_US)
                if tries > SPIN_TRIES + SLEEP_TRIES:
                    self.stuck()

    cdef int stuck(self) except -1:
        """Raise: the writer died or stopped inside a write, or publishes without a pause."""
        self.check(suspect=True)
        raise FeedError(f"{self.path}: a block has been changing for {SLEEP_TRIES * SLEEP_US // 1000} ms "
                        "without a consistent copy")

    def check(self, bint suspect=False):
        """Raise FeedDead with the reason unless the writer lives; `suspect`: despite a recent heartbeat."""
        cdef uint32_t closed = kfix_load32(&self.header.closed)
        cdef int64_t age = kfix_silence(self.header, kfix_monotonic())
        name, pid = self.name, self.opened.pid
        if closed == KFIX_CLOSED:
            raise FeedDead(f"feed {name!r} has ended: process {pid} closed it")
        if closed != KFIX_OPEN:
            raise FeedDead(f"feed {name!r} was replaced by a newer one; attach again, or use attach(reconnect=True)")
        if self.of_other_boot:
            raise FeedDead(f"feed {name!r} is dead: it ran before this machine was started")
        if -self.interval <= age <= self.interval and not suspect:
            return
        if self.abandoned():
            if age < 0:
                raise FeedDead(f"feed {name!r} is dead: process {pid} ended without closing it")
            raise FeedDead(f"feed {name!r} is dead: process {pid} ended without closing it, "
                           f"last heartbeat {age / 1e9:.1f} s ago")
        if age > 3 * self.interval:
            raise FeedDead(f"feed {name!r} has stopped: process {pid} exists, "
                           f"but its last heartbeat was {age / 1e9:.1f} s ago")
        if age < -self.interval:
            raise FeedDead(f"feed {name!r} has a heartbeat of {-age / 1e9:.1f} s in the future: process {pid} runs in "
                           "another time namespace; run feed and reader in the same one")

    def abandoned(self):
        """No process holds the writer's lock."""
        return not kfix_writer_present(self.fd, KFIX_WRITER)

    def replaced(self):
        """The path names another file, or none."""
        try:
            return os.stat(self.path).st_ino != os.fstat(self.fd).st_ino
        except OSError:
            return True

    cdef announce(self, int byte):
        """Take the record lock (KFIX_WAIT_FEED, KFIX_WAIT_BOOK) by which the heartbeat finds sleeping readers."""
        if not self.announced & (1 << byte):
            kfix_waiter_announce(self.fd, byte)
            self.announced |= 1 << byte

    def wait_change(self, uint32_t seen, int64_t ns):
        """Sleep until header.change differs from `seen`, at most `ns`; returns header.change."""
        cdef uint32_t* word = &self.header.change
        self.announce(KFIX_WAIT_FEED)
        if not kfix_load32(&self.header.wakes) & KFIX_WAKE_FEED:
            ns = min(ns, <int64_t> UNANNOUNCED_NS)
        if kfix_load32(word) == seen:
            with nogil:
                kfix_futex_wait(word, seen, ns)
            PyErr_CheckSignals()
        return kfix_load32(word)

    @property
    def change(self):
        return kfix_load32(&self.header.change)

    @property
    def name(self):
        return self.opened.name.decode(errors="replace")

    @property
    def n_symbols(self):
        return min(kfix_load32(&self.header.n_symbols), self.opened.symbols_capacity)

    def info(self):
        """Fields of the header: name, software, pid, start_ns, heartbeat_ns (CLOCK_MONOTONIC), layout, file_bytes..."""
        return {
            "name": self.name, "path": self.path, "software": self.opened.software.decode(errors="replace"),
            "pid": self.opened.pid, "start_ns": kfix_wall(self.header, self.opened.start_ns),
            "heartbeat_ns": self.header.heartbeat_ns, "clock_base_ns": self.opened.clock_base_ns,
            "clock_step_ns": <int64_t> kfix_load(&self.header.clock_step_ns),
            "heartbeat_interval_ns": self.interval, "layout": self.opened.layout, "file_bytes": self.size,
            "instance": self.opened.instance, "serve_unverified": self.serve_unverified,
            "closed": kfix_load32(&self.header.closed),
        }

    def symbols(self):
        """List of (symbol, level 2 or 3) in slot order."""
        out = []
        cdef kfix_symbol* e
        for i in range(self.n_symbols):
            e = self.row(i)
            out.append((_field(e.symbol, sizeof(e.symbol)), e.level))
        return out

    def counters(self):
        """Dict of the feed's named counts."""
        cdef kfix_counter* row = <kfix_counter*> (self.base + self.opened.counters_offset)
        out = {}
        for i in range(self.opened.counters_capacity):
            if row[i].name[0] != 0:
                out[_field(row[i].name, sizeof(row[i].name))] = kfix_load(&row[i].value)
        return out

    def sessions(self):
        """List of dicts, one for each FIX session; row number under "number"."""
        cdef kfix_session s
        cdef uint32_t i
        out = []
        for i in range(self.opened.sessions_capacity):
            self.read(self.base + self.opened.sessions_offset + i * <uint64_t> self.opened.session_bytes, &s, sizeof(s))
            if s.service[0] == 0:
                continue
            out.append({
                "number": i, "service": _field(s.service, sizeof(s.service)),
                "state": _field(s.state, sizeof(s.state)), "host": _field(s.host, sizeof(s.host)), "port": s.port,
                "level": f"L{s.level}", "sender": _field(s.sender, sizeof(s.sender)),
                "target": _field(s.target, sizeof(s.target)), "since_ns": kfix_wall(self.header, s.since_ns),
                "last_recv_ns": kfix_wall(self.header, s.last_recv_ns),
                "rollover_ns": kfix_wall(self.header, s.rollover_ns), "messages": s.messages,
                "bytes": s.bytes, "gaps": s.gaps, "reconnects": s.reconnects, "lag_ns": s.lag_ns,
                "clock_offset_ns": s.clock_offset_ns, "lagging": bool(kfix_is_lagging(self.header, i)),
            })
        return out

    def scan(self, out, bint allow_stale, bint allow_unverified=False):
        """Fill the rows of `out` (see reader.snapshot_dtype) with the tops of its first len(out) symbols."""
        cdef kfix_top t
        cdef kfix_symbol* entry
        cdef Py_ssize_t i
        cdef int64_t now = kfix_monotonic()
        allow_unverified = allow_unverified or self.serve_unverified
        cdef double[::1] bid, bid_qty, ask, ask_qty
        cdef uint64_t[:, ::1] counts
        cdef uint8_t[:, ::1] codes
        n = len(out)
        bid, bid_qty, ask, ask_qty = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
        recv, gap, age = np.empty(n, "i8"), np.empty(n, "i8"), np.empty(n, "i8")
        count_columns, code_columns = np.empty((7, n), "u8"), np.empty((6, n), "u1")
        counts, codes = count_columns, code_columns
        cdef int64_t[::1] recvs = recv, gaps = gap, ages = age
        for i in range(n):
            entry = self.row(i)
            self.read(self.base + entry.top_offset, &t, sizeof(t))
            self.show_lag(entry, &t.state, &t.cause)
            bid[i] = bid_qty[i] = ask[i] = ask_qty[i] = NAN
            if allow_stale or trusted(t.state) or (allow_unverified and t.state == STATE_UNVERIFIED):
                put_floats(&t, &bid[i], &bid_qty[i], &ask[i], &ask_qty[i])
            recvs[i], gaps[i] = kfix_wall(self.header, t.recv_ns), kfix_wall(self.header, t.gap_ns)
            ages[i] = kfix_age(self.header, t.recv_ns, now) if t.recv_ns else NEVER_NS
            codes[0, i], codes[1, i], codes[2, i], codes[3, i] = t.state, t.cause, t.gap_state, t.gap_cause
            codes[4, i], codes[5, i] = t.price_precision, t.qty_precision
            counts[0, i], counts[1, i], counts[2, i] = t.seq, t.updates, t.crc_checked
            counts[3, i], counts[4, i], counts[5, i], counts[6, i] = t.crc_failed, t.gaps, t.n_bids, t.n_asks
        columns = {
            "bid": bid, "bid_qty": bid_qty, "ask": ask, "ask_qty": ask_qty, "recv_ns": recv, "age_ns": age,
            "gap_ns": gap,
        }
        code_names = "state", "cause", "gap_state", "gap_cause", "price_precision", "qty_precision"
        columns |= zip(code_names, code_columns, strict=True)
        columns |= zip(("seq", "updates", "crc_checked", "crc_failed", "gaps", "bids", "asks"), count_columns,
                       strict=True)
        for name, column in columns.items():
            out[name] = column


def wait_any(list segments, list seen, int64_t ns):
    """Sleep until the header.change of one of at most 16 segments differs from its value in `seen`, at most `ns`."""
    cdef const void* words[KFIX_MAX_WORDS]
    cdef uint32_t values[KFIX_MAX_WORDS]
    cdef int i, error, n = min(len(segments), KFIX_MAX_WORDS)
    cdef Segment segment
    if len(seen) != len(segments):
        raise ValueError(f"{len(segments)} segments and {len(seen)} values")
    for i in range(n):
        segment = segments[i]
        if segment is None:
            raise TypeError("wait_any needs segments")
        segment.announce(KFIX_WAIT_FEED)
        if not kfix_load32(&segment.header.wakes) & KFIX_WAKE_FEED:
            ns = min(ns, <int64_t> UNANNOUNCED_NS)
        words[i], values[i] = &segment.header.change, seen[i]
    with nogil:
        error = kfix_futex_wait_any(words, values, n, ns)
        if error == ENOSYS:
            usleep(min(ns, <int64_t> UNANNOUNCED_NS) // 1000)
    PyErr_CheckSignals()


cdef str _field(const char* text, size_t size):
    """Text of a field of `size` bytes that need not end with a zero byte."""
    return text[:strnlen(text, size)].decode(errors="replace")


def _mode(path):
    try:
        return oct(os.stat(path).st_mode & 0o777)
    except OSError:
        return "unknown"


cdef bint _fits(uint64_t at, uint64_t rows, uint64_t row_bytes, uint64_t begin, uint64_t end) noexcept nogil:
    """Whether `rows` rows at `at` are aligned and inside [begin, end)."""
    return at % 8 == 0 and begin <= at <= end and rows <= (end - at) // row_bytes


cdef const char* _bad_header(kfix_header* h, uint64_t size) noexcept nogil:
    """Name of a field of the header that cannot be used, NULL when there is none."""
    if h.header_bytes < sizeof(kfix_header):
        return "header_bytes"
    if h.counter_bytes != sizeof(kfix_counter):
        return "counter_bytes"
    if h.session_bytes < sizeof(kfix_session) or h.session_bytes % 8:
        return "session_bytes"
    if h.symbol_bytes < sizeof(kfix_symbol) or h.symbol_bytes % 8:
        return "symbol_bytes"
    if not _fits(h.counters_offset, h.counters_capacity, h.counter_bytes, h.header_bytes, size):
        return "counters_offset"
    if not _fits(h.sessions_offset, h.sessions_capacity, h.session_bytes, h.header_bytes, size):
        return "sessions_offset"
    if not _fits(h.symbols_offset, h.symbols_capacity, h.symbol_bytes, h.header_bytes, size):
        return "symbols_offset"
    if h.n_symbols > h.symbols_capacity:
        return "n_symbols"
    if not 0 < h.heartbeat_interval_ns <= <int64_t> 1_000_000_000_000_000:
        return "heartbeat_interval_ns"
    if h.name[sizeof(h.name) - 1] != 0:
        return "name"
    if h.software[sizeof(h.software) - 1] != 0:
        return "software"
    if h.boot_id[sizeof(h.boot_id) - 1] != 0:
        return "boot_id"
    return NULL


cdef const char* _bad_entry(kfix_symbol* e, uint64_t size) noexcept nogil:
    """Name of a field of a directory entry that cannot be used, NULL when there is none."""
    cdef uint64_t begin = e.region_offset, end = begin + e.region_bytes
    if begin > size or e.region_bytes > size - begin:
        return "region_offset"
    if not _fits(e.top_offset, 1, sizeof(kfix_top), begin, end):
        return "top_offset"
    if not _fits(e.best_offset, 1, sizeof(kfix_best), begin, end):
        return "best_offset"
    if (not _fits(e.trades_offset, 1, sizeof(kfix_trades), begin, end)
            or not _fits(e.trades_offset + sizeof(kfix_trades), e.trades_capacity, sizeof(kfix_trade), begin, end)):
        return "trades_offset"
    if not 0 < e.trades_capacity <= KFIX_MAX_ROWS:
        return "trades_capacity"
    if e.depth_capacity > KFIX_MAX_ROWS:
        return "depth_capacity"
    if e.orders_capacity > KFIX_MAX_ROWS:
        return "orders_capacity"
    if (not _fits(e.depth_offset, 1, sizeof(kfix_depth), begin, end)
            or not _fits(e.depth_offset + sizeof(kfix_depth), 2 * <uint64_t> e.depth_capacity, sizeof(kfix_level),
                         begin, end)):
        return "depth_offset"
    if e.orders_offset != 0 and not _fits(e.orders_offset, e.orders_capacity, sizeof(kfix_order), begin, end):
        return "orders_offset"
    if e.symbol[sizeof(e.symbol) - 1] != 0:
        return "symbol"
    if e.level != 2 and e.level != 3:
        return "level"
    return NULL


cdef void put_floats(kfix_top* t, double* bid, double* bid_qty, double* ask, double* ask_qty) noexcept nogil:
    """Nearest doubles of the decimal values; a missing side has price NaN and quantity 0."""
    cdef double p = ten_to(t.price_precision), q = ten_to(t.qty_precision)
    bid[0] = t.bid / p if t.has & KFIX_HAS_BID else NAN
    bid_qty[0] = t.bid_qty / q if t.has & KFIX_HAS_BID else 0.0
    ask[0] = t.ask / p if t.has & KFIX_HAS_ASK else NAN
    ask_qty[0] = t.ask_qty / q if t.has & KFIX_HAS_ASK else 0.0
