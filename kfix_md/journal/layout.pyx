"""Constants and header parser of journal segments, taken from the C structs of segment.h."""

import struct

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from kfix_md.journal.records cimport (
    JSEAL_CLOSED, JSEAL_DATE, JSEAL_OPEN, JSEAL_RECOVERED, JSEAL_SIZE, JSEG_HEADER, JSEG_MAGIC, JSEG_TAIL, JSEG_VERSION,
    jseg_header,
)

MAGIC = <bytes>JSEG_MAGIC
VERSION = JSEG_VERSION
HEADER_BYTES = JSEG_HEADER
TAIL_BYTES = JSEG_TAIL
REASONS = {JSEAL_OPEN: "open", JSEAL_SIZE: "size", JSEAL_DATE: "date", JSEAL_CLOSED: "closed",
           JSEAL_RECOVERED: "recovered"}
SEALED_END_AT = <Py_ssize_t>&(<jseg_header*>NULL).sealed_end
_REASON_AT = <Py_ssize_t>&(<jseg_header*>NULL).reason


def parse_header(const uint8_t[::1] head not None):
    """Fields of a segment header of at least HEADER_BYTES bytes.

    Returns (magic, version, number, size, session date in days since 1970, reason, sealed end, created ns, pid).
    """
    cdef jseg_header h
    if head.shape[0] < <Py_ssize_t>sizeof(h):
        raise ValueError(f"a segment header has {sizeof(h)} bytes, not {head.shape[0]}")
    memcpy(&h, &head[0], sizeof(h))
    return (h.magic[:8], h.version, h.number, h.size, h.date, h.reason, h.sealed_end, h.created_ns, h.pid)


def recovered_seal(end):
    """(offset, bytes) to write over the header of a segment that its dead writer left open, to seal it at `end`."""
    return _REASON_AT, struct.pack("<IQ", JSEAL_RECOVERED, end)
