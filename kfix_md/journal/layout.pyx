"""Constants, checks and parser of segment headers of the journal, taken from the C structs of segment.h."""

import os
import struct
import time

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from kfix_md.journal.crc32c cimport crc32c_choose, crc32c_fn
from kfix_md.journal.records cimport (
    JSEAL_CLOSED, JSEAL_DATE, JSEAL_FAULT, JSEAL_OPEN, JSEAL_RECOVERED, JSEAL_SIZE, JSEG_HEADER, JSEG_MAGIC, JSEG_TAIL,
    JSEG_VERSION, jseg_crc, jseg_date_crc, jseg_header, jseg_seal_crc,
)

cdef crc32c_fn crc32c_run = crc32c_choose()

cdef enum:
    LAST_DATE = 2932896     # 9999-12-31

MAGIC = <bytes>JSEG_MAGIC
VERSION = JSEG_VERSION
HEADER_BYTES = JSEG_HEADER
TAIL_BYTES = JSEG_TAIL
REASONS = {JSEAL_OPEN: "open", JSEAL_SIZE: "size", JSEAL_DATE: "date", JSEAL_CLOSED: "closed",
           JSEAL_RECOVERED: "recovered", JSEAL_FAULT: "fault"}
SEALED_END_AT = <Py_ssize_t>&(<jseg_header*>NULL).sealed_end


def parse_header(const uint8_t[::1] head not None, uint64_t number):
    """What the header of segment `number` states, and what of it is wrong.

    Parameters
    ----------
    head
        At least HEADER_BYTES bytes.

    Returns
    -------
    tuple
        (size in bytes, session date in days since 1970, why it was sealed, end of the records, ns when it was
        made, process, faults). A date or an end that does not match its checksum is 0. `faults` is a sentence without
        a subject, "" where nothing is wrong.
    """
    cdef jseg_header h
    if head.shape[0] < <Py_ssize_t>sizeof(h):
        raise ValueError(f"a segment header has {sizeof(h)} bytes, not {head.shape[0]}")
    memcpy(&h, &head[0], sizeof(h))
    cdef bint summed = h.version != 1      # layout 1 has no checksums
    cdef list faults = []
    if h.magic[:8] != MAGIC:
        faults.append("is not a journal segment")
    elif h.number != number or (summed and h.crc != jseg_crc(crc32c_run, &h)):
        faults.append("does not match its checksum or its name")
    elif h.version > JSEG_VERSION:
        faults.append(f"is of layout {h.version}, newer than {JSEG_VERSION}")
    if h.date < 0 or h.date > LAST_DATE or (
            h.date and summed and h.date_crc != jseg_date_crc(crc32c_run, number, h.date)):
        faults.append("has a damaged session date")
        h.date = 0
    if h.sealed_end and (h.sealed_end < sizeof(h) or h.sealed_end > 0xFFFFFFFF or (
            summed and h.seal_crc != jseg_seal_crc(crc32c_run, number, h.reason, h.sealed_end))):
        faults.append("has a damaged end")
        h.sealed_end = 0
    return (h.size, h.date, h.reason, h.sealed_end, h.created_ns, h.pid, " and ".join(faults))


def new_header(uint64_t number, uint64_t size, int date):
    """A header as the writer makes it, for a segment of `size` bytes of session date `date` (days since 1970)."""
    cdef jseg_header h
    memset(&h, 0, sizeof(h))
    memcpy(h.magic, JSEG_MAGIC, 8)
    h.version, h.header_bytes, h.number, h.size, h.date = JSEG_VERSION, JSEG_HEADER, number, size, date
    h.created_ns, h.pid = time.time_ns(), os.getpid()
    h.crc = jseg_crc(crc32c_run, &h)
    h.date_crc = jseg_date_crc(crc32c_run, number, date)
    return (<char*>&h)[:sizeof(h)]


def recovered_seal(uint64_t number, uint64_t end):
    """(offset, bytes) to write, in this order, into the header of a segment that its dead writer left open, to seal it
    at `end`."""
    cdef uint32_t crc = jseg_seal_crc(crc32c_run, number, JSEAL_RECOVERED, end)
    return ((<Py_ssize_t>&(<jseg_header*>NULL).seal_crc, struct.pack("<I", crc)),
            (<Py_ssize_t>&(<jseg_header*>NULL).reason, struct.pack("<IQ", JSEAL_RECOVERED, end)))
