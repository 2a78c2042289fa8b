"""Reads journal records in order, across segments, also while the writer is appending."""

import os

from kfix_md.errors import CaptureError, UsageError
from kfix_md.journal import files as journal_files

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kfix_md.journal.crc32c cimport crc32c_by_name, crc32c_choose, crc32c_fn
from kfix_md.journal.records cimport (
    JREC_HEADER, JSEG_HEADER, REC_EVENT, REC_FRAME, REC_GARBAGE, REC_OUT, Record, jload32, jload64, jrec_header,
    jseg_header, padded,
)

cdef crc32c_fn crc32c_run = crc32c_choose()

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
    return [name for name in ("portable", "sse4.2", "avx512") if crc32c_by_name(name.encode()) != NULL]


cdef class JournalReader:
    """Reads records in order, from `position` on, across segments, also while a writer is appending.

    Iterating yields (position, kind, session, recv_ns, flags, bytes) and ends where the journal ends now;
    iterate again for what came since. Raises CaptureError at damage: `resync()` steps over it and returns how
    many bytes; at the torn end of a crashed writer's last segment there is nothing to step to.
    A position whose segment is gone raises CaptureError; 0 is the first record there is.
    """

    def __init__(self, directory, position=0):
        self.directory = os.fspath(directory)
        if not os.path.isdir(self.directory):
            raise UsageError(f"no journal at {self.directory}")
        self.seek(position)

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
        self.view = self.segment = self.damage = None
        self.base, self.size, self.end = NULL, 0, 0

    cdef int _enter(self, number, uint64_t offset) except -1:
        """Map segment `number` (0: the first there is) if it has begun; 1 when it has."""
        cdef const uint8_t[::1] view
        segment = journal_files.open_segment(self.directory, number)
        if segment is None or segment.date == 0:
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
        self.offset += padded(out.length)
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
                # nothing yet, or the segment ends here: sealed when full, or by a recovery before a torn record
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
        """Where records end at the latest: the file may have been cut off before its sealed end."""
        return self.end if self.end and self.end < self.size else self.size

    cdef int _check(self, uint64_t offset, uint32_t length) noexcept:
        cdef const jrec_header* h = <const jrec_header*>(self.base + offset)
        if length < JREC_HEADER or offset + length > self._limit():
            return -1
        if h.position != (self.number << 32 | offset):
            return -1
        return 0 if h.crc == ~crc32c_run(0xFFFFFFFF, &h.kind, length - 8) else -1

    cdef int _advance(self) noexcept:
        """Enter the first segment, or the next one: 1; 0 when it has not begun; -1 when it cannot be read."""
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

        Returns the bytes stepped over (1 for segments that are missing or whose header is damaged, whose size is
        unknown); 0 when there is nothing to step to (yet).
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
        """Position, and how many segments and bytes are not read yet (an upper bound)."""
        ahead = [n for n in journal_files.segments(self.directory) if n > self.number]
        return {"position": self.position, "segments_behind": len(ahead),
                "bytes_behind": journal_files.bytes_after(self.directory, self.number, self.offset)}
