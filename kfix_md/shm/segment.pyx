# cython: freethreading_compatible=True
"""What makes a segment usable to a reader: its checks before mapping, and whether its writer still lives."""

import fcntl
import os
import stat

import numpy as np

from kfix_md._entry import Cause, State
from kfix_md.errors import FeedDead, FeedError

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport ENOSYS
from libc.math cimport NAN
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap
from posix.unistd cimport usleep

from kfix_md._state cimport trusted
from kfix_md.shm.writer cimport (
    KFIX_CLOSED, KFIX_HAS_ASK, KFIX_HAS_BID, KFIX_LAYOUT, KFIX_MAGIC, KFIX_OPEN, KFIX_WAKE_FEED,
    kfix_counter, kfix_futex_wait, kfix_futex_wait_any, kfix_get, kfix_load, kfix_load32, kfix_now, kfix_now_coarse,
    kfix_pause, kfix_read_begin, kfix_read_end, kfix_session, kfix_waiter_announce,
)

cdef enum:
    SPIN = 4000                     # tries before the first sleep: a writer is inside for well under 10 us
    NAPS = 200                      # sleeps of 100 us before giving up
    UNANNOUNCED_NS = 2_000_000      # sleep until the writer's heartbeat has seen that somebody waits

cdef int _i
TEN[0] = 1.0
for _i in range(1, 19):
    TEN[_i] = TEN[_i - 1] * 10.0    # exact: 10**18 < 2**60 has 42 significant bits

STATES = tuple(State)
CAUSES = tuple(Cause)
NEVER_NS = (1 << 63) - 1            # age of a book that never got a message

cdef object state_of(int code):
    return STATES[code] if 0 <= code < len(STATES) else State.STALE


cdef object cause_of(int code):
    return CAUSES[code] if 0 <= code < len(CAUSES) else Cause.NONE


cdef class Segment:
    """A segment mapped read-only. FeedError when the file is none, foreign, damaged or not readable."""

    def __cinit__(self, str path):
        self.fd = -1
        self.path = path

    def __init__(self, str path):
        cdef kfix_header h
        cdef void* base
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(self.fd).st_mode):
                raise FeedError(f"{path} is no file: not a kfix-md feed")
            data = os.pread(self.fd, sizeof(h), 0)
            size = os.fstat(self.fd).st_size
        except PermissionError as error:
            raise FeedError(f"no permission to read {path} (mode {_mode(path)}); the feed's shared memory mode "
                            "and group decide who may") from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise FeedError(f"cannot read {path}: {error.strerror}") from error
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
        if not _tables_fit(&h):
            raise FeedError(f"{path} is damaged: its tables lie outside the file; restart the feed")
        base = mmap(NULL, size, PROT_READ, MAP_SHARED, self.fd, 0)
        if base == MAP_FAILED:
            raise FeedError(f"cannot map {path} ({size:,} bytes of address space)")
        self.base, self.header, self.size = <char*> base, <kfix_header*> base, size
        self.interval = h.heartbeat_interval_ns

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
        if self.fd >= 0:
            os.close(self.fd)

    cdef bint fresh(self) noexcept nogil:
        """The writer is known to live without asking further."""
        cdef int64_t age = kfix_now_coarse() - <int64_t> kfix_load(&self.header.heartbeat_ns)
        return age <= self.interval and kfix_load32(&self.header.closed) == KFIX_OPEN

    cdef kfix_symbol* row(self, uint32_t i) except NULL:
        """Directory entry `i`, its blocks checked to lie inside the file."""
        cdef kfix_symbol* e = <kfix_symbol*> (self.base + self.header.symbols_offset + i * self.header.symbol_bytes)
        cdef uint64_t end = e.region_offset + e.region_bytes
        cdef uint64_t need = 768 + 128 + e.trades_capacity * <uint64_t> 64 + e.depth_capacity * <uint64_t> 48
        if (end > self.size or end < e.region_offset or e.top_offset < e.region_offset
                or need + e.orders_capacity * <uint64_t> 64 > e.region_bytes + 192
                or max(e.top_offset, e.best_offset, e.trades_offset, e.depth_offset, e.orders_offset) >= end):
            raise FeedError(f"{self.path} is damaged: entry {i} of its directory lies outside the file")
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
            if tries > SPIN:
                usleep(100)
                if tries > SPIN + NAPS:
                    self.stuck()

    cdef int stuck(self) except -1:
        """A block stays locked: the writer died or stopped inside, or writes without a pause."""
        self.check(suspect=True)
        raise FeedError(f"{self.path}: a block has been changing for {NAPS // 10} ms without a whole reading")

    def check(self, bint suspect=False):
        """Raise FeedDead, saying why, unless the writer lives; `suspect`: ask further even if its heart just beat."""
        cdef uint32_t closed = kfix_load32(&self.header.closed)
        cdef int64_t age = kfix_now() - <int64_t> kfix_load(&self.header.heartbeat_ns)
        name, pid = self.name, self.header.pid
        if closed == KFIX_CLOSED:
            raise FeedDead(f"feed {name!r} has ended: process {pid} closed it")
        if closed != KFIX_OPEN:
            raise FeedDead(f"feed {name!r} was replaced by a newer one; attach again, or use attach(reconnect=True)")
        if age <= self.interval and not suspect:
            return
        if self.abandoned():
            raise FeedDead(f"feed {name!r} is dead: process {pid} ended without closing it, "
                           f"last heartbeat {age / 1e9:.1f} s ago")
        if age > 3 * self.interval:
            raise FeedDead(f"feed {name!r} has stopped: process {pid} is there, "
                           f"but its last heartbeat was {age / 1e9:.1f} s ago")

    def abandoned(self):
        """No process holds the writer's lock any more."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return True

    def replaced(self):
        """The path names another file now, or none."""
        try:
            return os.stat(self.path).st_ino != os.fstat(self.fd).st_ino
        except OSError:
            return True

    def announce(self, int byte):
        """Let the writer's heartbeat see that this reader sleeps (see _shm_os.h)."""
        if not self.announced & (1 << byte):
            kfix_waiter_announce(self.fd, byte)
            self.announced |= 1 << byte

    def wait_change(self, uint32_t seen, int64_t ns):
        """Sleep until header.change differs from `seen`, at most `ns`; returns header.change."""
        cdef uint32_t* word = &self.header.change
        self.announce(0)
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
        return self.header.name.decode(errors="replace")

    @property
    def n_symbols(self):
        return min(kfix_load32(&self.header.n_symbols), self.header.symbols_capacity)

    def info(self):
        """What the header says: dict of name, software, pid, start_ns, heartbeat_ns, layout, file_bytes, closed."""
        return {
            "name": self.name, "path": self.path, "software": self.header.software.decode(errors="replace"),
            "pid": self.header.pid, "start_ns": self.header.start_ns, "heartbeat_ns": self.header.heartbeat_ns,
            "heartbeat_interval_ns": self.interval, "layout": self.header.layout, "file_bytes": self.size,
            "instance": self.header.instance, "closed": kfix_load32(&self.header.closed),
        }

    def symbols(self):
        """List of (symbol, level 2 or 3) in slot order."""
        out = []
        cdef kfix_symbol* e
        for i in range(self.n_symbols):
            e = self.row(i)
            out.append((e.symbol.decode(errors="replace"), e.level))
        return out

    def counters(self):
        """Dict of the feed's named counts."""
        cdef kfix_counter* row = <kfix_counter*> (self.base + self.header.counters_offset)
        out = {}
        for i in range(self.header.counters_capacity):
            if row[i].name[0] != 0:
                out[row[i].name.decode(errors="replace")] = kfix_load(&row[i].value)
        return out

    def sessions(self):
        """List of dicts, one for each FIX session; row number under "number"."""
        cdef kfix_session s
        cdef uint32_t i
        out = []
        for i in range(self.header.sessions_capacity):
            self.read(self.base + self.header.sessions_offset + i * self.header.session_bytes, &s, sizeof(s))
            if s.service[0] == 0:
                continue
            out.append({
                "number": i, "service": _str(s.service), "state": _str(s.state), "host": _str(s.host), "port": s.port,
                "level": f"L{s.level}", "sender": _str(s.sender), "target": _str(s.target), "since_ns": s.since_ns,
                "last_recv_ns": s.last_recv_ns, "rollover_ns": s.rollover_ns, "messages": s.messages,
                "bytes": s.bytes, "gaps": s.gaps, "reconnects": s.reconnects,
            })
        return out

    def scan(self, out, bint allow_stale):
        """Fill the rows of `out` (see reader.snapshot_dtype) with the tops of its first len(out) symbols."""
        cdef kfix_top t
        cdef Py_ssize_t i
        cdef int64_t now = kfix_now()
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
            self.read(self.base + self.row(i).top_offset, &t, sizeof(t))
            bid[i] = bid_qty[i] = ask[i] = ask_qty[i] = NAN
            if allow_stale or trusted(t.state):
                put_floats(&t, &bid[i], &bid_qty[i], &ask[i], &ask_qty[i])
            recvs[i], gaps[i] = t.recv_ns, t.gap_ns
            ages[i] = now - t.recv_ns if t.recv_ns else NEVER_NS
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
    """Sleep until the header.change of one of at most 16 segments differs from what was `seen` of it, at most `ns`."""
    cdef const void* words[16]
    cdef uint32_t values[16]
    cdef int i, error, n = min(len(segments), 16)
    cdef Segment segment
    for i in range(n):
        segment = segments[i]
        segment.announce(0)
        if not kfix_load32(&segment.header.wakes) & KFIX_WAKE_FEED:
            ns = min(ns, <int64_t> UNANNOUNCED_NS)
        words[i], values[i] = &segment.header.change, seen[i]
    with nogil:
        error = kfix_futex_wait_any(words, values, n, ns)
        if error == ENOSYS:
            usleep(min(ns, <int64_t> UNANNOUNCED_NS) // 1000)
    PyErr_CheckSignals()


cdef str _str(const char* text):
    return text.decode(errors="replace")


def _mode(path):
    try:
        return oct(os.stat(path).st_mode & 0o777)
    except OSError:
        return "unknown"


cdef bint _tables_fit(kfix_header* h):
    return (h.symbol_bytes >= sizeof(kfix_symbol) and h.session_bytes >= sizeof(kfix_session)
            and h.counter_bytes == sizeof(kfix_counter) and h.n_symbols <= h.symbols_capacity
            and h.symbols_capacity <= 1 << 24 and h.sessions_capacity <= 4096 and h.counters_capacity <= 4096
            and h.symbols_offset <= h.file_bytes and h.sessions_offset <= h.file_bytes
            and h.counters_offset + h.counters_capacity * h.counter_bytes <= h.file_bytes
            and h.sessions_offset + h.sessions_capacity * h.session_bytes <= h.file_bytes
            and h.symbols_offset + h.symbols_capacity * <uint64_t> h.symbol_bytes <= h.file_bytes
            and h.heartbeat_interval_ns > 0 and h.name[63] == 0 and h.software[31] == 0)


cdef void put_floats(kfix_top* t, double* bid, double* bid_qty, double* ask, double* ask_qty) noexcept nogil:
    """Nearest doubles of the decimal values; a missing side has price NaN and quantity 0."""
    cdef double p = TEN[t.price_precision if 0 <= t.price_precision <= 18 else 0]
    cdef double q = TEN[t.qty_precision if 0 <= t.qty_precision <= 18 else 0]
    bid[0] = t.bid / p if t.has & KFIX_HAS_BID else NAN
    bid_qty[0] = t.bid_qty / q if t.has & KFIX_HAS_BID else 0.0
    ask[0] = t.ask / p if t.has & KFIX_HAS_ASK else NAN
    ask_qty[0] = t.ask_qty / q if t.has & KFIX_HAS_ASK else 0.0
