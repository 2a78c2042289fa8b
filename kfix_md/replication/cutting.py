"""Cuts a journal that is being written into chunks, in order, of whole records where they fit."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from kfix_md.errors import CaptureError, Unreadable
from kfix_md.journal import files
from kfix_md.journal.layout import HEADER_BYTES
from kfix_md.journal.reader import JournalReader
from kfix_md.replication.chunks import BEGIN, PART, RECORDS, SEAL, Chunk, open_header

log = logging.getLogger("kfix.ship")


class Cutter:
    """Reads a journal from the start of a segment on.

    Damage is sent as it is: the replica is to have the bytes of the source, and its readers find them damaged in the
    same way.

    Attributes
    ----------
    damages : int
        Places of the journal that could not be read as records.
    """

    def __init__(self, journal: Path) -> None:
        self.journal, self.damages = journal, 0
        self._reader = JournalReader(journal)
        self._reader.hold_at_end = True
        self.seek(0)

    def seek(self, position: int) -> None:
        """Go to the start of the segment that has `position`; of 0 or where it is gone, to the first there is."""
        self._number, self._begun, self._sealed = self._present(position >> 32), False, False
        self._rest: memoryview | None = None
        self._rest_at = 0

    def resume(self, last: Chunk) -> None:
        """Go on after a chunk that was sent before."""
        if last.number not in files.segments(self.journal):
            self.seek(last.committed)
            return
        self.seek(last.number << 32)
        self._begun, self._sealed = True, last.kind == SEAL
        self._reader.seek(last.committed)

    def _present(self, number: int) -> int:
        numbers = sorted(files.segments(self.journal))
        return next((each for each in numbers if each >= number), 0)

    @property
    def position(self) -> int:
        """Of the next byte to be cut."""
        return self._rest_at if self._rest is not None else self._reader.position

    def behind(self) -> int:
        """Bytes of the journal that are not cut yet; the room of an open segment counts where nothing is."""
        return files.after(self.journal, self._number, self.position & 0xFFFFFFFF)[1]

    def next(self, most: int) -> Chunk | None:
        """The next chunk, of at most `most` bytes; None when there is none yet.

        Raises
        ------
        Unreadable
            The disk does not give what is there.
        """
        if self._rest is not None:
            return self._part(self._rest, most)
        if self._sealed and not self._follow():
            return None
        if not self._begun:
            return self._begin()
        start = self._reader.position
        try:
            data = self._reader.take(most)
        except Unreadable:
            raise
        except CaptureError as error:
            return self._damaged(str(error), most)
        if data:
            return self._records(start, data, most)
        return self._seal() if self._reader.at_end else None

    def _begin(self) -> Chunk | None:
        self._number = self._number or self._present(0)
        found = files.look(self.journal, self._number, self._beginning) if self._number else None
        if found is not None:
            self._reader.seek(self._number << 32)
            self._begun = True
        return found

    def begin_again(self, last: Chunk) -> Chunk | None:
        """The beginning of the segment of `last` once more, with nothing new in it: its sender is the shipper now."""
        found = files.look(self.journal, last.number, self._beginning)
        return found and dataclasses.replace(found, committed=last.committed)

    def _beginning(self, path: Path) -> Chunk | None:
        """Of a segment file; None of a spare."""
        head = files.info(path)
        if not head.date:
            return None
        before = [number for number in files.segments(self.journal) if number < head.number]
        return Chunk(
            BEGIN,
            head.number,
            0,
            head.number << 32 | HEADER_BYTES,
            open_header(files.header(path)),
            after=max(before, default=0),
            size=head.size or path.stat().st_size,
            date=head.date,
        )

    def _records(self, start: int, data: bytes | bytearray, most: int) -> Chunk:
        if len(data) > most:  # one record, or damage
            self._rest, self._rest_at = memoryview(data), start
            self._record_at = start
            return self._part(self._rest, most)
        return Chunk(RECORDS, start >> 32, start & 0xFFFFFFFF, start + len(data), data)

    def _part(self, rest: memoryview, most: int) -> Chunk:
        start, data = self._rest_at, rest[:most]
        if len(rest) <= most:
            self._rest = None
            return Chunk(RECORDS, start >> 32, start & 0xFFFFFFFF, start + len(data), data)
        self._rest, self._rest_at = rest[most:], start + most
        return Chunk(PART, start >> 32, start & 0xFFFFFFFF, self._record_at, data)

    def _damaged(self, text: str, most: int) -> Chunk | None:
        start = self._reader.position
        if not self._reader.resync():
            return None  # the torn end of a source that died: what comes of it is decided when it starts again
        self.damages += 1
        log.error("%s: replicated as it is", text)
        end = self._reader.position
        segment = files.open_segment(self.journal, start >> 32)
        if end <= start or end >> 32 != start >> 32 or segment is None:
            return self.next(most)
        data = segment.read(start & 0xFFFFFFFF, end - start).ljust(end - start, b"\0")
        return self._records(start, data, most)

    def _seal(self) -> Chunk | None:
        found = files.look(self.journal, self._number, self._sealing)
        self._sealed = found is not None
        return found

    def _sealing(self, path: Path) -> Chunk:
        end = files.info(path).sealed_end or self._reader.position & 0xFFFFFFFF  # a damaged header has no end
        return Chunk(SEAL, self._number, end, self._number << 32 | end, files.header(path))

    def _follow(self) -> bool:
        """Go to the next segment; False while none has begun."""
        number = files.following(self.journal, self._number)
        head = files.look(self.journal, number, files.info) if number else None
        if head is None or not head.date:
            return False
        self.seek(number << 32)
        return True
