"""Reads journal records in order, across segments, also while the writer is appending."""

import os
import time

from kfix_md.errors import CaptureError, Unreadable, UsageError
from kfix_md.journal import files as journal_files

from cpython.bytearray cimport PyByteArray_AsString, PyByteArray_Resize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from kfix_md.journal.crc32c cimport crc32c_by_name, crc32c_choose, crc32c_fn
from kfix_md.journal.records cimport (
    JREC_HEADER, JSEG_HEADER, JSEG_TAIL, REC_EVENT, REC_FRAME, REC_GARBAGE, REC_OUT, Record, jload32, jrec_header,
    padded,
)

cdef crc32c_fn crc32c_run = crc32c_choose()

cdef enum:
    AHEAD = 1 << 18         # bytes read at once
cdef double LOOK_AGAIN_S = 0.2

FRAME, EVENT, OUT, GARBAGE = REC_FRAME, REC_EVENT, REC_OUT, REC_GARBAGE


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
    return [name for name in ("portable", "sse4.2", "avx512", "armv8") if crc32c_by_name(name.encode()) != NULL]


cdef class JournalReader:
    """Reads records in order, from `position` on, across segments, also while a writer is appending.

    Iterating yields (position, kind, session, recv_ns, flags, bytes) and ends where the journal ends now;
    iterate again for what came since. Raises CaptureError at damage: `resync()` steps over it and returns how
    many bytes; at the torn end of a crashed writer's last segment there is nothing to step to.
    A damaged header of a segment is damage too, and its records are read all the same: they know their position.
    A position whose segment is gone raises CaptureError; 0 is the first record there is.

    Segments are read by copying, never mapped: a file that is cut off is damage, not SIGBUS. What a disk does not give
    is Unreadable, a CaptureError that may pass: reading again tries again, resync() steps over it.
    """

    def __init__(self, directory, position=0):
        self.directory = os.fspath(directory)
        if not os.path.isdir(self.directory):
            raise UsageError(f"no journal at {self.directory}")
        self.seek(position)

    def __dealloc__(self):
        free(self.window)

    def seek(self, position):
        """Continue at `position`, as given by `position` of a reader or of a record."""
        number, offset = int(position) >> 32, int(position) & 0xFFFFFFFF
        present = journal_files.segments(self.directory)
        if number and present and number < min(present):
            raise CaptureError(f"journal {self.directory} begins at {min(present) << 32:#x}, "
                               f"position {position:#x} is gone")
        self._leave()
        self.number = number
        self.offset = max(offset, <uint64_t>JSEG_HEADER)

    cdef _leave(self):
        self.segment = self.damage = None
        self.bad_header = False
        self.limit = self.end = self.loaded = 0

    cdef int _enter(self, number, uint64_t offset) except -1:
        """Open segment `number` (0: the first there is) if it has begun; 1 when it has."""
        segment = journal_files.open_segment(self.directory, number)
        if segment is None or segment.date == 0:
            return 0
        self.segment = segment
        self.limit, self.end, self.loaded = segment.limit, segment.sealed_end, 0
        self.number, self.offset = segment.number, offset
        self.bad_header = segment.fault != "" and offset <= JSEG_HEADER
        return 1

    cdef int next(self, Record* out) noexcept:
        cdef const jrec_header* h
        self.unreadable = False
        cdef int found = self._seek_record()
        if found != 1:
            return found
        h = <const jrec_header*>self._at(self.offset)
        out.position = self.number << 32 | self.offset
        out.recv_ns, out.kind, out.session, out.flags = h.recv_ns, h.kind, h.session, h.flags
        out.length = h.length - JREC_HEADER
        out.data = <const char*>h + JREC_HEADER
        self.offset += padded(out.length)
        out.next = self.number << 32 | self.offset
        return 1

    # ---- bytes of the segment ----

    cdef inline const char* _at(self, uint64_t offset) noexcept:
        return self.window + (offset - self.begin)

    cdef bint _has(self, uint64_t offset, uint64_t need, uint64_t more) noexcept:
        """Whether bytes [offset, offset + need) are in the window; reads them, and `more`, when they are not."""
        if offset >= self.begin and offset + need <= self.begin + self.loaded:
            return True
        if offset + need > self.limit:
            return False
        return self._load(offset, max(need, more)) >= need

    cdef uint64_t _load(self, uint64_t offset, uint64_t n) noexcept:
        """Read the window again, from `offset` on; how many bytes there are. 0: `fault` has the reason if any."""
        cdef const uint8_t[::1] view
        cdef char* grown
        self.begin, self.loaded = offset, 0
        try:
            data = self.segment.read(offset, n)
        except (CaptureError, MemoryError) as error:
            self._failed(error)
            return 0
        n = len(data)
        if n == 0:
            return 0
        if n + JSEG_TAIL > self.room:
            grown = <char*>realloc(self.window, n + JSEG_TAIL)
            if grown == NULL:
                self._failed(MemoryError(f"no memory for {n} bytes"))
                return 0
            self.window, self.room = grown, n + JSEG_TAIL
        view = data
        memcpy(self.window, &view[0], n)
        memset(self.window + n, 0, JSEG_TAIL)
        self.loaded = n
        return n

    cdef void _failed(self, error) noexcept:
        """Keep why bytes could not be had, and whether they may be later."""
        self.fault = str(error) or "no memory"
        self.unreadable |= isinstance(error, (OSError, MemoryError))

    # ---- records ----

    cdef int _seek_record(self) noexcept:
        """Bring the offset to a sound record, all of it in the window: 1; 0 nothing yet; -1 damage."""
        cdef uint32_t length
        cdef int moved
        while True:
            if self.bad_header and self.segment.unread and self._enter_again() and not self.bad_header:
                continue
            if self.bad_header:
                self.unreadable = self.segment.unread
                self.damage = f"journal {self.segment.path}: its header {self.segment.fault}; its records are read"
                return -1
            if self.segment is None or (self.end and self.offset >= self.end):
                if self.hold_at_end and self.segment is not None:
                    return 0
                moved = self._advance()
                if moved != 1:
                    return moved
                continue
            if self._sound(self.offset):
                return 1
            # the window may be older than the record, or the name belong to another file by now
            self.fault, self.unreadable = None, False
            self._load(self.offset, AHEAD)
            if self._sound(self.offset):
                return 1
            if self._changed():
                continue
            length = self._length(self.offset)
            if self.fault is not None:
                return self._damaged(self.fault)
            if length:
                return self._damaged("record does not match its checksum")
            return self._damaged("no record where one should be") if self.end else 0

    cdef bint _changed(self) noexcept:
        """Whether something is known now that was not known before: the end of the segment, or another file."""
        if self.end == 0:
            # sealed when full, or by a recovery before a torn record
            try:
                self.end = self.segment.end_now()
            except CaptureError as error:
                self._failed(error)
                return False
            if self.end == 0 and self._left_open():
                self.end = self._last_end()
                if self.unreadable:         # there may be more
                    self.end = 0
                    return False
            if self.end:
                return True
        return self.segment.replaced() and self._enter_again()

    cdef bint _enter_again(self) noexcept:
        """Open the segment again; whether that was possible."""
        try:
            return self._enter(self.number, self.offset) == 1
        except (CaptureError, OSError):
            return False

    cdef bint _left_open(self) noexcept:
        """Whether records go on in a later segment although this one has no end: that is lost, or was never set."""
        if self.segment.compressed:
            return True
        now = time.monotonic()
        if (self.number << 32 | self.offset) == self.looked_at and now - self.looked < LOOK_AGAIN_S:
            return False
        self.looked_at, self.looked = self.number << 32 | self.offset, now
        try:
            # its end is set before anything is written into the next one
            return journal_files.begun_after(self.directory, self.number) and self.segment.end_now() == 0
        except (CaptureError, OSError):
            return False

    cdef uint64_t _last_end(self) noexcept:
        """Where the last sound record from here on ends; not before what looks like a torn one here."""
        cdef uint64_t end = self.offset
        cdef uint64_t found
        if self._length(self.offset):
            end += 8
        while True:
            found = self._next_sound(end)
            if found == 0:
                return end
            end = found + padded(self._length(found) - JREC_HEADER)

    cdef int _damaged(self, str what) noexcept:
        self.damage = (f"journal {self.segment.path} is damaged at offset {self.offset} "
                       f"(position {self.number << 32 | self.offset:#x}): {what}")
        return -1

    cdef uint32_t _length(self, uint64_t offset) noexcept:
        """Of the record at `offset`, 0 where there is none."""
        return jload32(self._at(offset)) if self._has(offset, JREC_HEADER, AHEAD) else 0

    cdef bint _sound(self, uint64_t offset) noexcept:
        """Whether a record that matches its checksum is at `offset`; all of it is in the window then."""
        cdef const jrec_header* h
        cdef uint64_t limit = min(self.end, self.limit) if self.end else self.limit
        cdef uint32_t length = self._length(offset)
        if length < JREC_HEADER or offset + length > limit:
            return False
        if (<const jrec_header*>self._at(offset)).position != (self.number << 32 | offset):
            return False
        if not self._has(offset, length, AHEAD):
            return False
        h = <const jrec_header*>self._at(offset)
        return h.length == length and h.crc == ~crc32c_run(0xFFFFFFFF, &h.kind, length - 8)

    cdef uint64_t _next_sound(self, uint64_t offset) noexcept:
        """Offset of the first sound record from `offset` on, 0 where there is none."""
        cdef uint64_t limit = min(self.end, self.limit) if self.end else self.limit
        offset = (offset + 7) & ~<uint64_t>7
        while offset + JREC_HEADER <= limit:
            if not self._has(offset, JREC_HEADER, AHEAD):
                if self.segment.compressed:
                    return 0
                offset = (offset & ~<uint64_t>4095) + 4096      # a block that the disk does not give
                continue
            # only a record knows its own position
            if (<const jrec_header*>self._at(offset)).position == (self.number << 32 | offset) and self._sound(offset):
                return offset
            offset += 8
        return 0

    cdef int _advance(self) noexcept:
        """Enter the first segment, or the next one: 1; 0 when it has not begun; -1 when it cannot be read."""
        try:
            if self.segment is None:
                if self._enter(self.number, self.offset):
                    return 1
                if self.number == 0 or not journal_files.begun_after(self.directory, self.number):
                    return 0
                self.damage = f"journal {self.directory}: segment {self.number} is missing"
                return -1
            number = journal_files.following(self.directory, self.number)
            if number > self.number + 1 and not self.skip_hole:
                self.damage = f"journal {self.directory}: segment {self.number + 1} is missing"
                return -1
            while number:
                try:
                    entered = self._enter(number, JSEG_HEADER)
                    self.skip_hole = self.skip_hole and not entered
                    return entered
                except (CaptureError, OSError):
                    if not self.skip_hole:
                        raise
                number = journal_files.following(self.directory, number)
            return 0
        except (CaptureError, OSError) as error:
            self.damage, self.unreadable = str(error), isinstance(error, OSError)
            return -1

    def resync(self, read_all=False) -> int:
        """After damage: move to the next sound record of this segment, or to its end when it is sealed.

        Blocks that the disk does not give are stepped over too; with `read_all` they are Unreadable, and nothing moves.
        Returns the bytes stepped over (1 for segments that are missing or cannot be opened, whose size is unknown);
        0 when there is nothing to step to (yet).
        """
        cdef uint64_t start = self.offset
        cdef uint64_t found
        if self.segment is None:    # it began at a segment that cannot be read: at the next one, when there is one
            first = self.number or min(journal_files.segments(self.directory), default=0)
            number = journal_files.following(self.directory, first) if self.damage else 0
            if number:
                self.number, self.offset, self.damage = number, JSEG_HEADER, None
            return 1 if number else 0
        if self.bad_header:
            self.bad_header, self.damage = False, None
            return JSEG_HEADER
        if self.end and self.offset >= self.end:
            self.skip_hole, self.damage = True, None
            return 1
        self.unreadable = False
        found = self._next_sound(self.offset + 8) or self.end
        if self.unreadable and read_all:
            raise Unreadable(f"journal {self.segment.path}: {self.fault}")
        if found == 0:
            return 0
        self.offset, self.damage = found, None
        return found - start

    def take(self, uint64_t most):
        """The bytes of the whole records from `position` on as a bytearray: headers, bodies and padding, as they are in
        the segment; empty when there is none yet. At most `most` bytes, or one record that is larger. All are of one
        segment, and match their checksums. Raises as `read` does."""
        cdef uint64_t total = 0
        cdef uint64_t n
        cdef bytearray out
        self.unreadable = False
        cdef int found = self._seek_record()
        if found < 0:
            raise Unreadable(self.damage) if self.unreadable else CaptureError(self.damage)
        if found == 0:
            return bytearray()
        n = self._padded_here()
        most = max(most, n)
        out = bytearray()
        PyByteArray_Resize(out, most)       # see Stream.room
        while total + n <= most:
            memcpy(PyByteArray_AsString(out) + total, self._at(self.offset), n)
            total += n
            self.offset += n
            if not self._sound(self.offset):
                break
            n = self._padded_here()
        PyByteArray_Resize(out, total)
        return out

    cdef inline uint64_t _padded_here(self) noexcept:
        """Bytes of the record at the offset, which is in the window; beyond that are JSEG_TAIL zeros."""
        return padded(self._length(self.offset) - JREC_HEADER)

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
            raise Unreadable(self.damage) if self.unreadable else CaptureError(self.damage)
        return (r.position, r.kind, r.session, r.recv_ns, r.flags, r.data[:r.length])

    @property
    def position(self) -> int:
        """Of the next record to be read; what `seek` and the constructor take."""
        return self.number << 32 | self.offset

    @property
    def at_end(self) -> bool:
        """Whether everything in the segment being read, which is sealed, has been read."""
        return self.segment is not None and self.end != 0 and self.offset >= self.end

    def enter_next(self) -> bool:
        """With `hold_at_end`, at the end of a segment: go to the start of the next one if it has begun."""
        following = journal_files.following(self.directory, self.number) if self.at_end else 0
        if following != self.number + 1:
            return False
        return self._enter(following, JSEG_HEADER) == 1

    @property
    def tail(self) -> dict:
        """Position, and how many segments and bytes are not read yet (an upper bound)."""
        segments_left, bytes_left = journal_files.after(self.directory, self.number, self.offset)
        return {"position": self.position, "segments_behind": segments_left, "bytes_behind": bytes_left}
