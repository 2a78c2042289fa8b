"""Append-only capture log: hides how bytes become records that survive the death of their writer."""

import json
import os
import time

from kfix_md import journal_files
from kfix_md.errors import CaptureError, UsageError

from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from libc.stdio cimport snprintf

cdef extern from "_crc32c.h" nogil:
    ctypedef uint32_t (*crc32c_fn)(uint32_t, const void*, size_t) noexcept nogil
    crc32c_fn crc32c_choose()
    crc32c_fn crc32c_by_name(const char* name)

cdef extern from "journal_segment.h" nogil:
    enum:
        JSEG_HEADER
        JREC_HEADER
        JSEG_TAIL
    ctypedef struct jseg_header:
        int32_t date
        uint64_t number
        uint64_t size
        uint64_t sealed_end
    ctypedef struct jrec_header:
        uint32_t length
        uint32_t crc
        uint16_t kind
        uint16_t session
        uint16_t flags
        uint16_t spare
        int64_t recv_ns
        uint64_t position
    ctypedef struct jseg:
        char* base
        uint64_t size
        uint32_t number
    ctypedef struct jio:
        int error
        int sync_error
        int running
        uint64_t written
        uint64_t made
        uint64_t made_inline
        uint64_t syncs
        uint64_t sync_failed
        int64_t synced_ns
        uint64_t synced
        int64_t sync_max_ns
        int64_t exposed_max_ns
    int64_t jclock()
    uint32_t jload32(const void* p)
    uint64_t jload64(const void* p)
    void jahead(const void* p)
    void jstore32(void* p, uint32_t v)
    void jstore64(void* p, uint64_t v)
    jio* jio_open(int dirfd, uint64_t segment_bytes, uint32_t next_number, int sync_ms)
    void jio_close(jio* io)
    jseg* jio_take(jio* io, uint64_t need)
    void jio_switch(jio* io, jseg* s, uint64_t used, int32_t date, uint32_t reason)

cdef enum:
    SEAL_SIZE = 1
    SEAL_DATE = 2
    SEAL_CLOSED = 3

cdef crc32c_fn crc32c_run = crc32c_choose()
cdef int64_t DAY_NS = 86_400_000_000_000
cdef int64_t ROLL_NS = 7_200_000_000_000        # 22:00 UTC is two hours before midnight
cdef uint32_t MAX_BODY = 1 << 30

FRAME, EVENT, OUT = REC_FRAME, REC_EVENT, REC_OUT

# a record of the side buffer: this, then the body
cdef struct Deferred:
    int64_t recv_ns
    uint32_t n
    uint16_t kind
    uint16_t session


def crc32c(data, uint32_t value=0, way=None) -> int:
    """CRC32C of a bytes-like, continuing `value`; `way` is one of crc32c_ways(), None the one that the journal uses."""
    cdef const uint8_t[::1] view = data
    cdef const void* p = &view[0] if view.shape[0] else NULL
    cdef crc32c_fn run = crc32c_run if way is None else crc32c_by_name(way.encode())
    if run == NULL:
        raise ValueError(f"way must be one of {', '.join(crc32c_ways())}, not {way!r}")
    return ~run(~value, p, view.shape[0])


def crc32c_ways():
    """Names of the ways in which this machine can compute CRC32C."""
    return [name for name in ("portable", "sse4.2", "avx512") if crc32c_by_name(name.encode()) != NULL]


cdef inline uint64_t _padded(uint64_t n) noexcept nogil:
    return (JREC_HEADER + n + 7) & ~<uint64_t>7


@final
cdef class JournalWriter:
    """Appends records to `directory`. One writer a directory (flock), one thread a writer.

    put() and commit() make no system call: a helper thread keeps the next segment reserved, mapped and
    faulted in, and puts what was written on disk every `sync_ms`. Segments end at `segment_bytes` and with
    the session date (22:00 UTC, by the receive times of the records). When the disk gives no segment,
    records are counted as lost, `stats()["alarm"]` says why, and a journal_lost event is written as soon as
    there is room again.

    `recovered` tells what a dead writer left: None, or {"segment", "end", "records", "torn_bytes" behind the last
    sound record, "damaged_bytes" in front of it}. Raises CaptureError when another process writes here,
    UsageError when the directory cannot be used.
    """

    def __init__(self, directory, *, segment_bytes=64 << 20, sync_ms=100, first_number=None):
        segment_bytes = int(segment_bytes)
        if not 1 << 16 <= segment_bytes <= 1 << 31:
            raise UsageError(f"journal segment_bytes is {segment_bytes}: use 65536 to 2147483648")
        self.directory = os.fspath(directory)
        self.lock_file = journal_files.lock(self.directory)
        try:
            self.recovered, number = _recover(self.directory)
            number = number or first_number or journal_files.first_number(time.time())
            self._start((segment_bytes + 4095) & ~4095, number, sync_ms)
        except BaseException:
            self.lock_file.close()
            raise

    def _start(self, uint64_t segment_bytes, uint32_t number, int sync_ms):
        cdef int fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        cdef jio* io = jio_open(fd, segment_bytes, number, sync_ms)
        if io == NULL:
            os.close(fd)
            raise MemoryError
        if io.error or not io.running:
            error = io.error
            jio_close(io)
            raise UsageError(f"journal {self.directory} cannot hold a segment of {segment_bytes} bytes: "
                             f"{os.strerror(error) if error else 'no thread'}; free space or set segment_bytes")
        self.io = io

    def __dealloc__(self):
        if self.io != NULL:
            self._finish()
        free(self.side)

    cdef int put(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data,
                 uint32_t n) noexcept nogil:
        cdef uint64_t need = _padded(n)
        if self.pending:
            self.commit(0)
        if n > MAX_BODY or self.offset + need > self.limit or recv_ns >= self.roll_ns or self.lost:
            if n > MAX_BODY or self._room(need, recv_ns) < 0:
                self._count_lost(recv_ns)
                return -1
        self._body(kind, session, recv_ns, data, n)
        jahead(self.base + self.offset + need)
        return 0

    cdef inline void _body(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data,
                           uint32_t n) noexcept nogil:
        # room is known to be there
        if n:
            memcpy(self.base + self.offset + JREC_HEADER, data, n)
        self.head, self.recv_ns, self.body_n = kind | <uint32_t>session << 16, recv_ns, n
        self.pending = <uint32_t>_padded(n)

    cdef void commit(self, uint16_t flags) noexcept nogil:
        cdef char* at
        cdef uint64_t words[3]
        if self.pending == 0:
            return
        at = self.base + self.offset
        # kind, session, flags; recv_ns; position: whole words, as the CRC is about to load them
        words[0] = self.head | <uint64_t>flags << 32
        words[1] = <uint64_t>self.recv_ns
        words[2] = self.number << 32 | self.offset
        memcpy(at + 8, words, 24)
        jstore32(at + 4, ~crc32c_run(0xFFFFFFFF, at + 8, JREC_HEADER - 8 + self.body_n))
        jstore32(at, JREC_HEADER + self.body_n)
        self.offset += self.pending
        self.pending = 0
        self.records += 1
        jstore64(&(<jio*>self.io).written, self.offset)
        if self.side_n:
            self._drain()

    cdef int append(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data, uint32_t n,
                    uint16_t flags) noexcept nogil:
        if self.pending:
            return self._defer(kind, session, recv_ns, data, n)
        if self.put(kind, session, recv_ns, data, n) < 0:
            return -1
        self.commit(flags)
        return 0

    cdef int _room(self, uint64_t need, int64_t recv_ns) noexcept nogil:
        # after a loss, room for the journal_lost event too, which goes first
        cdef uint64_t notice = JREC_HEADER + 128 if self.lost else 0
        cdef char text[128]
        cdef int n
        if self.offset + need + notice > self.limit or recv_ns >= self.roll_ns:
            if self._roll(need + notice, recv_ns) < 0 and self.offset + need + notice > self.limit:
                return -1
        if self.lost:
            n = snprintf(text, sizeof(text), b'{"type":"journal_lost","count":%llu,"first":%lld,"last":%lld}',
                         <unsigned long long>self.lost, <long long>self.lost_first_ns, <long long>self.lost_last_ns)
            self.lost = 0
            self._write(REC_EVENT, 0, recv_ns, text, n, 0)
        return 0

    cdef void _write(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data, uint32_t n,
                     uint16_t flags) noexcept nogil:
        self._body(kind, session, recv_ns, data, n)
        self.commit(flags)

    cdef int _roll(self, uint64_t need, int64_t recv_ns) noexcept nogil:
        cdef jseg* s = jio_take(<jio*>self.io, need)
        cdef int32_t date
        cdef uint32_t reason = SEAL_SIZE
        if s == NULL:
            return -1
        date = <int32_t>((recv_ns + ROLL_NS) // DAY_NS) if recv_ns > 0 else 1
        if self.base != NULL:
            # a clock set back does not reopen an earlier date
            date = max(date, (<jseg_header*>self.base).date)
            reason = SEAL_DATE if recv_ns >= self.roll_ns else SEAL_SIZE
        jio_switch(<jio*>self.io, s, self.offset, date, reason)
        self.base, self.limit, self.number = s.base, s.size - JSEG_TAIL, s.number
        self.offset = JSEG_HEADER
        self.roll_ns = (date + 1) * DAY_NS - ROLL_NS
        return 0

    cdef void _count_lost(self, int64_t recv_ns) noexcept nogil:
        if self.lost == 0:
            self.lost_first_ns = recv_ns
        self.lost_last_ns = recv_ns
        self.lost += 1
        self.lost_total += 1

    cdef int _defer(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data,
                    uint32_t n) noexcept nogil:
        cdef Deferred head
        cdef size_t need = self.side_n + sizeof(Deferred) + n
        cdef char* grown
        if need > self.side_capacity:
            grown = <char*>realloc(self.side, 2 * need)
            if grown == NULL:
                self._count_lost(recv_ns)
                return -1
            self.side, self.side_capacity = grown, 2 * need
        head.recv_ns, head.n, head.kind, head.session = recv_ns, n, kind, session
        memcpy(self.side + self.side_n, &head, sizeof(Deferred))
        if n:
            memcpy(self.side + self.side_n + sizeof(Deferred), data, n)
        self.side_n = need
        return 0

    cdef void _drain(self) noexcept nogil:
        cdef size_t i = 0
        cdef size_t n = self.side_n
        cdef Deferred head
        self.side_n = 0         # nothing is pending now: append() below writes at once
        while i < n:
            memcpy(&head, self.side + i, sizeof(Deferred))
            i += sizeof(Deferred)
            self.append(head.kind, head.session, head.recv_ns, self.side + i, head.n, 0)
            i += head.n

    # ---- Python ----

    def event(self, uint16_t session, int64_t recv_ns, dict event) -> bool:
        """Append one session event, an object with "type"; behind the frame being processed, if any."""
        return self._append(REC_EVENT, session, recv_ns, json.dumps(event, separators=(",", ":")).encode(), 0)

    def frame(self, uint16_t session, int64_t recv_ns, data, uint16_t flags=0) -> bool:
        """Append one inbound frame (bytes-like). False when it could not be stored."""
        return self._append(REC_FRAME, session, recv_ns, data, flags)

    def out(self, uint16_t session, int64_t recv_ns, data) -> bool:
        """Append one frame we sent."""
        return self._append(REC_OUT, session, recv_ns, data, 0)

    def _append(self, uint16_t kind, uint16_t session, int64_t recv_ns, data, uint16_t flags):
        cdef const uint8_t[::1] view = data
        cdef const char* body = NULL
        if self.io == NULL:
            raise CaptureError(f"journal {self.directory} is closed")
        if view.shape[0]:
            body = <const char*>&view[0]
        return self.append(kind, session, recv_ns, body, view.shape[0], flags) == 0

    def stage(self, uint16_t session, int64_t recv_ns, const uint8_t[::1] frame) -> bool:
        """Put a frame that `publish` makes visible: in between it is processed, and its flags become known."""
        return self.put(REC_FRAME, session, recv_ns, <const char*>&frame[0], frame.shape[0]) == 0

    def publish(self, uint16_t flags):
        """Commit the staged frame with its flags."""
        self.commit(flags)

    @property
    def position(self) -> int:
        """Where the next record goes, comparable with a reader's position."""
        return self.number << 32 | self.offset

    def stats(self) -> dict:
        """records, lost, position behind the last record; segments made, and made late; syncs, failed ones, when the
        last began (everything written before is on disk), the position it reached, the longest one, and the longest a
        record may have waited to be on disk (what a power loss costs); alarm text."""
        cdef jio* io = <jio*>self.io
        if io == NULL:
            raise CaptureError(f"journal {self.directory} is closed")
        alarm = ""
        if io.error:
            alarm = f"journal cannot grow: {os.strerror(io.error)}"
        elif io.sync_error:
            alarm = f"journal cannot be synced: {os.strerror(io.sync_error)}"
        elif self.lost:
            alarm = "journal is losing records"
        return {"records": self.records, "lost": self.lost_total, "position": self.position,
                "segments": io.made, "made_late": io.made_inline, "syncs": io.syncs, "sync_failed": io.sync_failed,
                "synced_ns": io.synced_ns, "synced": io.synced, "sync_max_ns": io.sync_max_ns,
                "exposed_max_ns": io.exposed_max_ns, "alarm": alarm}

    cdef _finish(self):
        self.commit(0)
        if self.base != NULL:
            jio_switch(<jio*>self.io, NULL, self.offset, 0, SEAL_CLOSED)
        jio_close(<jio*>self.io)
        self.io, self.base = NULL, NULL
        self.limit = 0

    def close(self):
        """Seal and sync the last segment, give the directory up. Harmless twice."""
        if self.io != NULL:
            self._finish()
            self.lock_file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def _recover(directory):
    """Seal what a dead writer left open at its last sound record, remove its spare; (what was found, next number)."""
    report, last = None, 0
    for number, head in journal_files.heads(directory).items():
        if head.date == 0:
            head.path.unlink()
            continue
        last = number
        if head.sealed_end == 0 and head.date > 0:
            report = _find_end(directory, head.path, number)
            journal_files.seal(head.path, report["end"])
    return report, last + 1 if last else 0


def _find_end(directory, path, number):
    reader = JournalReader(directory, number << 32)
    records = damaged = 0
    while True:
        try:
            record = reader.read()
        except CaptureError:
            skipped = reader.resync()
            if not skipped:
                break
            damaged += skipped
            continue
        if record is None or record[0] >> 32 != number:
            break
        records += 1
    end = reader.position & 0xFFFFFFFF
    rest = bytes(journal_files.Segment(path).buffer[end:]).rstrip(b"\0")
    return {"segment": path.name, "end": end, "records": records, "torn_bytes": len(rest), "damaged_bytes": damaged}


cdef class JournalReader:
    """Reads records in order, from `position` on, across segments and behind a living writer.

    Iterating yields (position, kind, session, recv_ns, flags, bytes) and ends where the journal ends now;
    iterate again for what came since. Raises CaptureError at damage: `resync()` steps over it and tells how much
    was stepped over; at the torn end of a crashed writer's last segment there is nothing to step to.
    A position whose segment is gone raises CaptureError; 0 is the first record there is.
    """

    def __init__(self, directory, position=0):
        self.directory = os.fspath(directory)
        if not os.path.isdir(self.directory):
            raise UsageError(f"no journal at {self.directory}")
        self.seek(position)

    def seek(self, position):
        """Continue at `position`, as told by `position` of a reader or of a record."""
        number, offset = int(position) >> 32, int(position) & 0xFFFFFFFF
        present = journal_files.segments(self.directory)
        if number and present and number < min(present):
            raise CaptureError(f"journal {self.directory} begins at {min(present) << 32:#x}, "
                               f"position {position:#x} is gone")
        self._leave()
        self.number = number
        self.offset = max(offset, <uint64_t>JSEG_HEADER)

    cdef _leave(self):
        self.view = self.segment = self.damage = None
        self.base, self.size, self.end = NULL, 0, 0

    cdef int _enter(self, number, uint64_t offset) except -1:
        """Map segment `number` (0: the first there is) if it has begun; 1 when it has."""
        cdef const uint8_t[::1] view
        path = journal_files.find(self.directory, number)
        if path is None:
            return 0
        try:
            segment = journal_files.Segment(path)
        except FileNotFoundError:
            return 0            # renamed between the two steps: there at the next call
        if segment.date == 0:
            return 0
        view = segment.buffer
        self.segment, self.view = segment, segment.buffer
        self.base, self.size, self.end = <const char*>&view[0], view.shape[0], segment.sealed_end
        self.number, self.offset = segment.number, offset
        return 1

    cdef int next(self, Record* out) noexcept:
        cdef const jrec_header* h
        cdef int found = self._seek_record()
        if found != 1:
            return found
        h = <const jrec_header*>(self.base + self.offset)
        out.position = self.number << 32 | self.offset
        out.recv_ns, out.kind, out.session, out.flags = h.recv_ns, h.kind, h.session, h.flags
        out.length = h.length - JREC_HEADER
        out.data = self.base + self.offset + JREC_HEADER
        self.offset += _padded(out.length)
        out.next = self.number << 32 | self.offset
        return 1

    cdef int _seek_record(self) noexcept:
        """Bring base and offset to a sound record: 1; 0 nothing yet; -1 damage."""
        cdef uint32_t length
        cdef int moved
        while True:
            if self.base == NULL or (self.end and self.offset >= self.end):
                if self.hold_at_end and self.base != NULL:
                    return 0
                moved = self._advance()
                if moved != 1:
                    return moved
                continue
            length = jload32(self.base + self.offset) if self.offset + JREC_HEADER <= self.size else 0
            if length and self._check(self.offset, length) == 0:
                return 1
            if self.end == 0:
                # nothing yet, or the segment ends here: sealed when full, or by a recovery in front of a torn record
                self.end = jload64(&(<const jseg_header*>self.base).sealed_end)
                if self.end:
                    continue
            if length:
                return self._damaged("record does not match its checksum")
            return self._damaged("no record where one should be") if self.end else 0

    cdef int _damaged(self, str what) noexcept:
        self.damage = (f"journal {self.segment.path} is damaged at offset {self.offset} "
                       f"(position {self.number << 32 | self.offset:#x}): {what}")
        return -1

    cdef uint64_t _limit(self) noexcept:
        """Where records end at the latest: the file may have been cut off in front of its sealed end."""
        return self.end if self.end and self.end < self.size else self.size

    cdef int _check(self, uint64_t offset, uint32_t length) noexcept:
        cdef const jrec_header* h = <const jrec_header*>(self.base + offset)
        if length < JREC_HEADER or offset + length > self._limit():
            return -1
        if h.position != (self.number << 32 | offset):
            return -1
        return 0 if h.crc == ~crc32c_run(0xFFFFFFFF, &h.kind, length - 8) else -1

    cdef int _advance(self) noexcept:
        """Enter the first segment, or the one behind this: 1; 0 when it has not begun; -1 when it cannot be read."""
        try:
            if self.base == NULL:
                return self._enter(self.number, self.offset)
            number = journal_files.following(self.directory, self.number)
            if number > self.number + 1 and not self.skip_hole:
                self.damage = f"journal {self.directory}: segment {self.number + 1} is missing"
                return -1
            while number:
                try:
                    entered = self._enter(number, JSEG_HEADER)
                    self.skip_hole = self.skip_hole and not entered
                    return entered
                except CaptureError:
                    if not self.skip_hole:
                        raise
                number = journal_files.following(self.directory, number)
            return 0
        except (CaptureError, OSError) as error:
            self.damage = str(error)
            return -1

    def resync(self) -> int:
        """After damage: move to the next sound record of this segment, or to its end when it is sealed.

        Returns the bytes stepped over (1 for segments that are missing or whose header is damaged, whose size nobody
        knows); 0 when there is nothing to step to (yet).
        """
        cdef uint64_t offset = (self.offset + 7) & ~<uint64_t>7
        cdef uint64_t start = self.offset
        cdef uint64_t end
        if self.base == NULL:       # it began at a segment that cannot be read: at the next one, when there is one
            first = self.number or min(journal_files.segments(self.directory), default=0)
            number = journal_files.following(self.directory, first) if self.damage else 0
            if number:
                self.number, self.offset, self.damage = number, JSEG_HEADER, None
            return 1 if number else 0
        if self.end and self.offset >= self.end:
            self.skip_hole, self.damage = True, None
            return 1
        end = self._limit()
        offset += 8
        while offset + JREC_HEADER <= end:
            # only a record knows its own position
            if ((<const jrec_header*>(self.base + offset)).position == (self.number << 32 | offset)
                    and self._check(offset, jload32(self.base + offset)) == 0):
                break
            offset += 8
        else:
            if not self.end:
                return 0
            offset = self.end
        self.offset, self.damage = offset, None
        return offset - start

    def __iter__(self):
        return self

    def __next__(self):
        record = self.read()
        if record is None:
            raise StopIteration
        return record

    def read(self):
        """One record as a tuple, or None when there is none yet."""
        cdef Record r
        cdef int got = self.next(&r)
        if got == 0:
            return None
        if got < 0:
            raise CaptureError(self.damage)
        return (r.position, r.kind, r.session, r.recv_ns, r.flags, r.data[:r.length])

    @property
    def position(self) -> int:
        """Of the next record to be read; what `seek` and the constructor take."""
        return self.number << 32 | self.offset

    @property
    def at_end(self) -> bool:
        """Whether everything in the segment being read, which is sealed, has been read."""
        return self.base != NULL and self.end != 0 and self.offset >= self.end

    def enter_next(self) -> bool:
        """With `hold_at_end`, at the end of a segment: go to the start of the next one if it has begun."""
        following = journal_files.following(self.directory, self.number) if self.at_end else 0
        if following != self.number + 1:
            return False
        return self._enter(following, JSEG_HEADER) == 1

    @property
    def tail(self) -> dict:
        """How far behind the writer this reader is: segments and bytes not yet read (an upper bound)."""
        ahead = [n for n in journal_files.segments(self.directory) if n > self.number]
        return {"position": self.position, "segments_behind": len(ahead),
                "bytes_behind": journal_files.bytes_after(self.directory, self.number, self.offset)}


def _bench_append(JournalWriter writer, Py_ssize_t n, Py_ssize_t length, int64_t rate):
    """Nanoseconds of each of `n` appends of `length` bytes, `rate` a second (benchmarks/journal_append.py)."""
    import numpy as np
    cdef int64_t[::1] spans = np.zeros(n, np.int64)
    cdef bytes body = os.urandom(length)
    cdef const char* data = body
    cdef int64_t gap = 1_000_000_000 // rate if rate else 0
    cdef int64_t due = jclock()
    cdef int64_t now
    cdef Py_ssize_t i
    with nogil:
        for i in range(n):
            due += gap
            now = jclock()
            while now < due and gap:
                now = jclock()
            writer.put(REC_FRAME, 0, now, data, <uint32_t>length)
            writer.commit(0)
            spans[i] = jclock() - now
    return spans.base


def _bench_read(JournalReader reader):
    """Read everything there is; number of records."""
    cdef Record r
    cdef Py_ssize_t n = 0
    while reader.next(&r) == 1:
        n += 1
    return n
