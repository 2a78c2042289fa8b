"""What is sent of a journal: ranges of bytes of its segments, each with its place and a checksum."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kfix_md.errors import CaptureError
from kfix_md.journal.layout import HEADER_BYTES, SEALED_END_AT
from kfix_md.journal.reader import crc32c

#: kinds of chunks: a segment begins (its header); whole records; a part of a record that is not its last one; a segment
#: is sealed (its header again, now with the end)
BEGIN, RECORDS, PART, SEAL = "begin", "records", "part", "seal"
KINDS = (BEGIN, RECORDS, PART, SEAL)
VERSION = "1"

#: where a header has the reason and the end of a sealed segment, and the checksum of both
REASON_AT, SEAL_CRC_AT = SEALED_END_AT - 4, SEALED_END_AT + 32


class Corrupted(CaptureError):
    """A chunk is not what was sent."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of bytes of one segment.

    Attributes
    ----------
    kind : str
        One of KINDS.
    number, start : int
        Segment, and offset of the first byte in it; of SEAL the end of the segment's records.
    committed : int
        Position up to which whole records have been sent with this chunk: of PART the start of its record.
    data : bytes-like
        The bytes; of BEGIN and SEAL the segment's header.
    after : int
        BEGIN: number of the segment before it, 0 when the journal begins here.
    size, date : int
        BEGIN: bytes of the segment's file, and its session date in days since 1970.
    """

    kind: str
    number: int
    start: int
    committed: int
    data: bytes | bytearray | memoryview
    after: int = 0
    size: int = 0
    date: int = 0

    @property
    def end(self) -> int:
        """Offset after the last byte; of BEGIN and SEAL where records go on."""
        if self.kind == SEAL:
            return self.start
        return self.start + len(self.data)


@dataclass(frozen=True, slots=True)
class Source:
    """Where chunks come from: the journal's identity, and the process that ships it."""

    journal: str
    shipper: str


def encode(chunk: Chunk, source: Source) -> str:
    """Everything about a chunk but its bytes, as one line of text."""
    fields = (
        *(VERSION, source.journal, source.shipper, chunk.kind, chunk.number, chunk.start, chunk.committed),
        *(chunk.after, chunk.size, chunk.date),
    )
    text = " ".join(map(str, fields))
    return f"{text} {_checksum(text, chunk.data):08x}"


def decode(line: str, data: bytes) -> tuple[Chunk, Source]:
    """The chunk and its source. Corrupted when line or data are not what was sent."""
    text, _, checksum = line.rpartition(" ")
    fields = text.split(" ")
    try:
        _version, journal, shipper, kind, *numbers = fields
        number, start, committed, after, size, date = map(int, numbers)
        expected = int(checksum, 16)
    except ValueError:
        raise Corrupted(f"not a chunk of a journal: {line[:200]!r}") from None
    if fields[0] != VERSION:
        raise CaptureError(f"the shipper speaks version {fields[0]}, this mirror {VERSION}: install the same version")
    if _checksum(text, data) != expected or kind not in KINDS:
        raise Corrupted(f"chunk of segment {number} at offset {start}: its bytes do not match their checksum")
    return Chunk(kind, number, start, committed, data, after, size, date), Source(journal, shipper)


def _checksum(text: str, data: bytes | bytearray | memoryview) -> int:
    return crc32c(memoryview(data), crc32c(text.encode()))


def open_header(head: bytes) -> bytes:
    """The header of a segment as it was before it was sealed."""
    return b"".join(
        (head[:REASON_AT], bytes(12), head[SEALED_END_AT + 8 : SEAL_CRC_AT], bytes(4), head[SEAL_CRC_AT + 4 :])
    )


def sealed_end(head: bytes) -> int:
    """Where a header lets the records end; 0 while it is open."""
    (end,) = struct.unpack_from("<Q", head.ljust(HEADER_BYTES, b"\0"), SEALED_END_AT)
    return int(end)
