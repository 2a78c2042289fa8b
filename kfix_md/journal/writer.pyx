# distutils: sources = kfix_md/journal/segment.c
"""Appends records to the journal so that they survive the death of the process that wrote them."""

import os
import time

from kfix_md import trading_day
from kfix_md.errors import CaptureError, Unreadable, UsageError
from kfix_md.journal import files as journal_files
from kfix_md.journal.event_json import encode
from kfix_md.journal.reader import JournalReader, crc32c

from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from kfix_md._entry cimport MSG_BAD_BOOK, MSG_IGNORED
from kfix_md.journal.crc32c cimport crc32c_choose, crc32c_fn
from kfix_md.journal.records cimport (
    JREC_HEADER, JSEG_HEADER, JSEG_TAIL, REC_EVENT, REC_FRAME, REC_OUT, jseg_header, padded,
)
from kfix_md.journal.segment cimport (
    JSEAL_CLOSED, JSEAL_DATE, JSEAL_FAULT, JSEAL_SIZE, jio, jio_close, jio_open, jio_switch, jio_take, jprefetch, jseg,
    jstore32, jstore64,
)

cdef enum:
    # of a record whose processing ended without commit(), by an exception: received, and not applied
    ABANDONED = MSG_IGNORED | MSG_BAD_BOOK

cdef crc32c_fn crc32c_run = crc32c_choose()
cdef int64_t DAY_NS = trading_day.DAY_NS
cdef int64_t ROLL_NS = trading_day.SHIFT_NS
cdef uint32_t MAX_BODY = 1 << 30
cdef bytes DESCRIBED = b'{"type":"session",'

cdef enum:
    REPEATED_SHARE = 4      # of a segment, at most, is what it begins with
    FIRST_DATE = 1          # session dates in days since 1970: 0 means a spare,
    LAST_DATE = 106750      # and the next one ends after what int64 ns can state

# a record of the side buffer: this, then the body
cdef struct Deferred:
    int64_t recv_ns
    uint32_t n
    uint16_t kind
    uint16_t session


cdef inline int32_t date_of(int64_t recv_ns) noexcept nogil:
    # the session date of a receive time
    return <int32_t>min(max(recv_ns // DAY_NS + (recv_ns % DAY_NS + ROLL_NS) // DAY_NS, FIRST_DATE), LAST_DATE)


@final
cdef class JournalWriter:
    """Appends records to `directory`. One writer a directory (flock), one thread a writer.

    put() and commit() make no system call: a helper thread keeps the next segment reserved, mapped and
    faulted in, and puts what was written on disk every `sync_ms`. Segments end at `segment_bytes` and with
    the session date (22:00 UTC, by the receive times of the records; a time of up to a day before it still belongs to
    the open one). When the disk gives no segment,
    records are counted as lost, `stats()["alarm"]` gives the reason, and a journal_lost event is written as soon as
    there is room again. Each segment begins with who the feed sessions are and which instruments they know (`carry`),
    so that it can be decoded without those before it.

    `recovered` reports what a dead writer left: None, or {"segment", "end", "records", "torn_bytes" after the last
    sound record, "damaged_bytes" before it}. Raises CaptureError when another process writes here, Unreadable when the
    disk does not show what that one left, UsageError when the directory cannot be used.
    """

    def __init__(self, directory, *, segment_bytes=64 << 20, sync_ms=100, first_number=None):
        segment_bytes = int(segment_bytes)
        if not 1 << 16 <= segment_bytes <= 1 << 31:
            raise UsageError(f"journal segment_bytes is {segment_bytes}: use 65536 to 2147483648")
        self.directory = os.fspath(directory)
        self.described, self.sources, self.repeated = {}, {}, []
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
        cdef jio* io = jio_open(fd, segment_bytes, number, sync_ms, crc32c_run)
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
        cdef uint64_t need = padded(n)
        recv_ns += self.clock_step_ns
        if self.pending:
            self.commit(ABANDONED)
        if n > MAX_BODY or self.offset + need > self.limit or self._must_roll(recv_ns) or self.lost:
            if n > MAX_BODY or self._room(need, recv_ns) < 0:
                self._count_lost(recv_ns)
                return -1
        self._body(kind, session, recv_ns, data, n)
        jprefetch(self.base + self.offset + need)
        return 0

    cdef inline bint _other_date(self, int64_t recv_ns) noexcept nogil:
        return <uint64_t>recv_ns - self.first_ns >= self.span_ns

    cdef inline bint _must_roll(self, int64_t recv_ns) noexcept nogil:
        # of another date, or the open segment cannot be synced; not after the end, when there is no room either
        return self._other_date(recv_ns) or (<jio*>self.io).leave

    cdef inline void _body(self, uint16_t kind, uint16_t session, int64_t recv_ns, const char* data,
                           uint32_t n) noexcept nogil:
        # room is known to be there
        if n:
            memcpy(self.base + self.offset + JREC_HEADER, data, n)
        self.head, self.recv_ns, self.body_n = kind | <uint32_t>session << 16, recv_ns, n
        self.pending = <uint32_t>padded(n)

    cdef void commit(self, uint16_t flags) noexcept nogil:
        cdef char* at
        cdef uint64_t quads[3]
        if self.pending == 0:
            return
        at = self.base + self.offset
        # kind, session, flags; recv_ns; position: in units of 8 bytes, as the CRC is about to load them
        quads[0] = self.head | <uint64_t>flags << 32
        quads[1] = <uint64_t>self.recv_ns
        quads[2] = self.number << 32 | self.offset
        memcpy(at + 8, quads, 24)
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
        if self.offset + need + notice > self.limit or self._must_roll(recv_ns):
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
        cdef jseg* s
        cdef int32_t date
        cdef uint32_t reason = JSEAL_SIZE
        cdef uint64_t repeated = 0
        if self.io == NULL:     # closed: what a connection still brings is counted as lost
            return -1
        with gil:
            repeated = self._gather((<jio*>self.io).segment_bytes // REPEATED_SHARE)
        s = jio_take(<jio*>self.io, need + repeated)
        if s == NULL:
            return -1
        date = date_of(recv_ns)
        if self.base != NULL:
            if (<jio*>self.io).leave:
                reason = JSEAL_FAULT
            if self._other_date(recv_ns):
                reason = JSEAL_DATE
            else:   # a clock that was set back a little does not reopen the date before
                date = (<jseg_header*>self.base).date
        jio_switch(<jio*>self.io, s, self.offset, date, reason)
        self.base, self.limit, self.number = s.base, s.size - JSEG_TAIL, s.number
        self.offset = JSEG_HEADER
        self._accept(date)
        if repeated:
            with gil:
                self._repeat(recv_ns)
        return 0

    cdef uint64_t _gather(self, uint64_t room) noexcept:
        # what the next segment begins with, its size; nothing when that is more than `room`
        cdef uint64_t size = 0
        cdef list found = []
        try:
            for session, event in self.described.items():
                found.append((session, event))
            for session, source in self.sources.items():
                event = source.carried()
                if event:
                    found.append((session, event))
            for _, event in found:
                size += padded(len(event))
        except Exception:
            found, size = [], 0
        self.repeated = found if size <= room else []
        return size if size <= room else 0

    cdef void _repeat(self, int64_t recv_ns) noexcept:
        cdef const char* body
        for session, event in self.repeated:
            body = <bytes>event
            self._write(REC_EVENT, session, recv_ns, body, len(<bytes>event), 0)
        self.repeated = []

    cdef void _accept(self, int32_t date) noexcept nogil:
        # receive times of the open segment: its session date and the one before. A clock that was far ahead and is
        # right again begins a segment of the right date.
        cdef uint64_t end_ns = <uint64_t>((date + 1) * DAY_NS - ROLL_NS) if date < LAST_DATE else <uint64_t>1 << 63
        self.first_ns = <uint64_t>((date - 1) * DAY_NS - ROLL_NS) if date > FIRST_DATE else <uint64_t>1 << 63
        self.span_ns = end_ns - self.first_ns

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

    def event(self, uint16_t session, int64_t recv_ns, event) -> bool:
        """Append one session event (see events.py; a dict is stored as it is), after the frame being processed."""
        text = encode(event)
        stored = self._append(REC_EVENT, session, recv_ns, text, 0)
        if text.startswith(DESCRIBED):
            self.described[session] = text
        return stored

    def carry(self, uint16_t session, source):
        """Begin each segment with `source.carried()`: an event as it is stored, b"" for none (see events.Carried)."""
        self.sources[session] = source

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
        """records, lost, position after the last record; segments made, and made late; syncs, failed ones, when the
        last began (everything written before is on disk), the position it reached, the longest one, and the longest a
        record may have waited to be on disk (what a power loss costs); segments written again because they could not be
        synced, bytes of these that were gone, and records and bytes that a power failure would cost now because of
        that; alarm text."""
        cdef jio* io = <jio*>self.io
        if io == NULL:
            raise CaptureError(f"journal {self.directory} is closed")
        alarm = ""
        if io.error:
            alarm = f"journal cannot grow: {os.strerror(io.error)}"
        elif io.sync_error:
            alarm = f"journal cannot be synced: {os.strerror(io.sync_error)}; it is written again in another file"
        elif self.lost:
            alarm = "journal is losing records"
        return {"records": self.records, "lost": self.lost_total, "position": self.position,
                "segments": io.made, "made_late": io.made_inline, "syncs": io.syncs, "sync_failed": io.sync_failed,
                "synced_ns": io.synced_ns, "synced": io.synced, "sync_max_ns": io.sync_max_ns,
                "exposed_max_ns": io.exposed_max_ns, "rescued": io.rescued, "rescue_lost": io.rescue_lost,
                "risk_records": io.risk_records, "risk_bytes": io.risk_bytes, "alarm": alarm}

    cdef _finish(self):
        self.commit(ABANDONED)
        if self.base != NULL:
            jio_switch(<jio*>self.io, NULL, self.offset, 0, JSEAL_CLOSED)
        self.unsynced = jio_close(<jio*>self.io)
        self.io, self.base = NULL, NULL
        self.limit = 0

    def relieve(self, int64_t recv_ns):
        """Go on in the next segment if the open one could not be synced; `put` does so too, when a record comes."""
        if self.io != NULL and (<jio*>self.io).leave and not self.pending and self.base != NULL:
            self._roll(0, recv_ns + self.clock_step_ns)

    def close(self):
        """Seal and sync the last segment, give the directory up. Harmless twice. `unsynced` has how many bytes the disk
        did not take."""
        if self.io != NULL:
            self._finish()
            self.lock_file.close()
            self.sources.clear()    # they refer to this writer

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def _recover(directory):
    """Seal what a dead writer left open at its last sound record; (what was found, next number).

    Its spare is sealed too: after a power loss records of it may be gone that a reader has seen, so that its number
    must not be given out again.
    """
    report, last, date = None, 0, 0
    journal_files.settle_rescues(directory, crc32c)
    for number, head in journal_files.heads(directory).items():
        last = number
        if journal_files.never_begun(head):
            head = journal_files.begin(head, date or int(date_of(time.time_ns())))
        date = head.date
        if head.sealed_end == 0 and not head.compressed:
            found = _find_end(directory, head.path, number)
            journal_files.seal(head, found["end"])
            report = found if report is None or found["records"] or found["torn_bytes"] else report
    return report, last + 1 if last else 0


def _find_end(directory, path, number):
    reader = JournalReader(directory, number << 32)
    reader.hold_at_end = True
    records = damaged = 0
    while True:
        try:
            found = reader.read() is not None
        except Unreadable:  # where it ends is not known, and must not be set
            raise
        except CaptureError:
            found = False
        records += found
        if not found:   # also where nothing is: a disk may have kept later pages and not this one
            skipped = 0 if reader.at_end else reader.resync(read_all=True)
            if not skipped:
                break
            damaged += skipped
    end = reader.position & 0xFFFFFFFF
    with open(path, "rb") as file:
        file.seek(end)
        rest = file.read().rstrip(b"\0")
    return {"segment": path.name, "end": end, "records": records, "torn_bytes": len(rest), "damaged_bytes": damaged}
