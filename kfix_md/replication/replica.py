"""Stores chunks as a journal: every byte at the place that it has in the source, visible when its record is whole."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import os
from collections import Counter
from pathlib import Path
from typing import TextIO

from kfix_md.errors import CaptureError, UsageError, reason_of
from kfix_md.journal import files, layout
from kfix_md.journal.holds import identity
from kfix_md.journal.layout import HEADER_BYTES, SEALED_END_AT, TAIL_BYTES
from kfix_md.journal.reader import JournalReader
from kfix_md.replication.chunks import BEGIN, PART, REASON_AT, SEAL, SEAL_CRC_AT, Chunk, sealed_end

log = logging.getLogger("kfix.mirror")
_ZEROS = bytes(8)  # after what was written: no record is there yet
_SCANNED = 1 << 20
_LARGEST = 1 << 32


class Missing(CaptureError):
    """A chunk does not follow what the replica has: something before it is missing."""


class NotSynced(OSError):
    """The disk did not take what was written: a second attempt may succeed without having written anything."""


class Replica:
    """A journal that a mirror writes.

    Readers of it see what readers of a living journal see: whole records in order. The bytes of a chunk are written
    but for the length of its first record, which is stored last, as the writer of a journal does with every record.

    A segment is on disk before the next one begins, so that a restart looks at the newest one only, and begins where
    its sound records end.

    Attributes
    ----------
    position : int
        Where the committed records end; 0 while there is none.
    synced : int
        Position up to which everything is on disk.
    counts : Counter
        "duplicates": chunks that were there already; "holes": places at which segments are missing; "kept": segments of
        which the replica has more than the source, which lost it; "deleted": open segments that somebody deleted.
    bytes : int
        Bytes of records stored.

    Raises
    ------
    CaptureError
        Another mirror writes it.
    UsageError
        It is no replica, or its disk cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            files.make_directory(directory)
            self._lock = files.take_lock(
                directory / "mirror.lock", f"replica {directory} is in use by process {{pid}}: one mirror a directory"
            )
        except OSError as error:
            raise UsageError(f"replica {directory} cannot be written: {reason_of(error)}") from error
        self._alive: TextIO | None = None
        self._fd = -1
        self.counts: Counter[str] = Counter()
        self.bytes = self._size = 0
        try:
            self._recover()
        except BaseException:
            self._lock.close()
            raise

    # ---- start and end ---------------------------------------------------------------------------

    def _recover(self) -> None:
        self.number = self.position = self.received = self.synced = 0
        self.sealed = True
        self._word = b""  # length of the record at `position`, which is not visible yet
        for part in self.directory.glob("*.part"):
            part.unlink()
        present = [head for head in files.heads(self.directory).values() if head.date]
        if present and not (self.directory / "id").exists():
            raise UsageError(f"{self.directory} has a journal that no mirror has written: name another directory")
        if not present:
            return
        self._look_for_holes([head.number for head in present])
        newest = present[-1]
        self.number, self.sealed = newest.number, bool(newest.sealed_end)
        offset = newest.sealed_end or self._end_of(newest)
        self.position = self.received = self.number << 32 | offset
        if not self.sealed:
            self._open(newest.path)
            os.pwrite(self._fd, _ZEROS, offset)  # what a power failure left half written is no record
        self.sync()

    def _look_for_holes(self, numbers: list[int]) -> None:
        for before, number in itertools.pairwise(numbers):
            if number != before + 1:
                self.counts["holes"] += 1
                log.error(
                    "replica: segments %d to %d are missing: copy them from the source, or mirror into a new directory",
                    before + 1,
                    number - 1,
                )

    def was_deleted(self) -> bool:
        """Whether the segment that is being written is in the directory no more."""
        gone = self._fd >= 0 and not os.fstat(self._fd).st_nlink
        return gone and files.find(self.directory, self.number) is None  # a sealed one may have been compressed

    def begin_again(self) -> None:
        """Go on after what is still there; the source has the open segment whole."""
        self.counts["deleted"] += 1
        log.error("replica: segment %d was deleted while it was written; it is received again", self.number)
        os.close(self._fd)
        self._fd = -1
        self._recover()

    def _end_of(self, head: files.Info) -> int:
        """Where the sound records of an open segment end."""
        reader = JournalReader(self.directory, head.number << 32)
        reader.hold_at_end = True
        with contextlib.suppress(CaptureError):
            while reader.take(_SCANNED):
                pass
        return max(reader.position & 0xFFFFFFFF, HEADER_BYTES)

    def check(self, journal: str) -> None:
        """UsageError when this is a replica of another journal; an empty one becomes one of this."""
        mine = identity(self.directory, journal)
        if mine != journal:
            raise UsageError(
                f"replica {self.directory} is of journal {mine}, the feed ships journal {journal} now: "
                "give the mirror another directory, or move the old one away"
            )

    def live(self, alive: bool) -> None:
        """Hold the lock of a living writer, or give it up: readers take a journal without one for ended."""
        if alive and self._alive is None:
            try:
                self._alive = files.lock(self.directory)
            except CaptureError as error:
                raise UsageError(f"{error}; a replica has no other writer than its mirror") from None
        elif not alive and self._alive is not None:
            self._alive.close()
            self._alive = None

    def close(self) -> None:
        """Put everything on disk and give the directory up."""
        self.sync()
        self.live(False)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._lock.close()

    def _open(self, path: Path) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size

    # ---- chunks ----------------------------------------------------------------------------------

    def store(self, chunk: Chunk) -> bool:
        """Store a chunk; False when it was there already.

        Raises
        ------
        Missing
            Something before it is missing.
        NotSynced
            The disk; what follows `synced` has to be stored again, after `unsynced`.
        OSError
            The disk; it can be stored again.
        """
        if chunk.kind == BEGIN:
            stored = self._begin(chunk)
        elif chunk.number < self.number or (chunk.number == self.number and self.sealed):
            stored = False
        elif chunk.number > self.number or (chunk.number << 32 | chunk.start) > self.received:
            raise Missing(
                f"segment {chunk.number} from offset {chunk.start} on follows nothing: the replica ends at "
                f"{self.received:#x}"
            )
        elif chunk.kind == SEAL:
            stored = self._seal(chunk)
        else:
            stored = self._write(chunk)
        self.counts["duplicates"] += not stored
        return stored

    def _begin(self, chunk: Chunk) -> bool:
        if chunk.number <= self.number:
            return False
        if chunk.after > self.number or (chunk.after == self.number and not self.sealed):
            raise Missing(f"segment {chunk.number} follows {chunk.after}: the replica ends at {self.received:#x}")
        if self.number and not (self.sealed and chunk.number == self.number + 1):
            self._leave_hole(chunk.number)  # the source has nothing in between
        if not HEADER_BYTES + TAIL_BYTES <= chunk.size <= _LARGEST:
            raise CaptureError(f"segment {chunk.number} is said to have {chunk.size} bytes")
        date = (datetime.date(1970, 1, 1) + datetime.timedelta(days=chunk.date)).isoformat()
        path = self.directory / f"{date}.{chunk.number:010d}.kfj"
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            file.write(chunk.data)
            file.truncate(chunk.size)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        files.sync(self.directory)
        self._open(path)
        self.number, self.sealed, self._word = chunk.number, False, b""
        self.position = self.received = self.synced = chunk.number << 32 | HEADER_BYTES
        return True

    def _leave_hole(self, number: int) -> None:
        """The source no longer has what follows ours: readers find segments missing, and go on after them."""
        self.counts["holes"] += 1
        log.error(
            "replica: the source has nothing before segment %d any more; what came after %d is missing here",
            number,
            self.position,
        )
        if not self.sealed:
            self._seal_at(self.position & 0xFFFFFFFF, None)

    def _write(self, chunk: Chunk) -> bool:
        seen = (self.received & 0xFFFFFFFF) - chunk.start
        data = memoryview(chunk.data)[seen:]
        if not data:
            return False
        at = chunk.start + seen
        if at + len(data) + len(_ZEROS) > self._size:
            raise CaptureError(f"segment {chunk.number} has no room for bytes up to {at + len(data)}")
        if self.received == self.position:
            self._write_at(at + 4, [data[4:], _ZEROS])
            self._word = bytes(data[:4])
        else:
            self._write_at(at, [data, _ZEROS])
        received = self.received + len(data)
        if chunk.kind != PART:
            os.pwrite(self._fd, self._word, self.position & 0xFFFFFFFF)
            self.position, self._word = received, b""
        self.received = received  # last: a chunk whose writing fails anywhere above is stored again, whole
        self.bytes += len(data)
        return True

    def _write_at(self, at: int, pieces: list[bytes | memoryview]) -> None:
        wanted = sum(map(len, pieces))
        done = os.pwritev(self._fd, pieces, at)
        if done != wanted:  # the disk is full, or a signal came
            rest = b"".join(pieces)
            while done < wanted:
                done += os.pwrite(self._fd, rest[done:], at + done)

    def _seal(self, chunk: Chunk) -> bool:
        head = bytes(chunk.data)
        ours = self.position & 0xFFFFFFFF
        if ours < chunk.start:
            raise Missing(f"segment {chunk.number} ends at {chunk.start}: the replica has records up to {ours}")
        if ours > chunk.start:
            self.counts["kept"] += 1
            log.warning(
                "replica: the source lost %d bytes at the end of segment %d, which are kept here",
                ours - chunk.start,
                self.number,
            )
            self._seal_at(ours, None)
        else:
            self._seal_at(ours, head)
        return True

    def _seal_at(self, end: int, head: bytes | None) -> None:
        """Seal the open segment with the source's header, or without one at an end of our own."""
        if head is not None and sealed_end(head):
            pieces = [(REASON_AT, head[REASON_AT:SEALED_END_AT]), (SEAL_CRC_AT, head[SEAL_CRC_AT : SEAL_CRC_AT + 4])]
            pieces.append((SEALED_END_AT, head[SEALED_END_AT : SEALED_END_AT + 8]))
        elif head is None:
            pieces = list(layout.recovered_seal(self.number, end))
        else:
            pieces = []  # the source's own is lost
        self._fdatasync()
        for offset, piece in pieces:
            os.pwrite(self._fd, piece, offset)
        self._fdatasync()
        self.sealed, self.received = True, self.position
        self.synced = self.position

    def _fdatasync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise NotSynced(error.errno, error.strerror) from None

    # ---- disk ------------------------------------------------------------------------------------

    def sync(self) -> int:
        """Put what is committed on disk; the position up to which it is."""
        fd, position = self.to_sync()
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        return self.note_synced(position)

    def to_sync(self) -> tuple[int, int]:
        """A descriptor to sync and to close, in any thread, and the position for `note_synced` afterwards."""
        return (os.dup(self._fd) if self._fd >= 0 else os.open(self.directory, os.O_RDONLY)), self.position

    def note_synced(self, position: int) -> int:
        """What is committed up to `position` is on disk."""
        self.synced = max(self.synced, position)
        return self.synced

    def unsynced(self) -> None:
        """The disk did not take it: what was written since the last sync has to be stored again."""
        self.position = self.received = self.synced
        self._word = b""
