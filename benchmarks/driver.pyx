"""Loops over the core without Python inside, for timing: decoding a stream, and books message by message."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from kfix_md._book cimport RULE_LEVEL, RULE_ORDER, OrderBook
from kfix_md._codec cimport Codec
from kfix_md._fields cimport MD_OK, Header, MDMessage
from kfix_md._entry cimport MDEntry
from kfix_md._frame cimport FRAME_OK, next_frame
from kfix_md.journal.reader cimport JournalReader
from kfix_md.journal.records cimport REC_FRAME, Record
from kfix_md.journal.writer cimport JournalWriter

import numpy as np

from kfix_md._entry import ENTRY_DTYPE

cdef enum:
    SYMBOL_BYTES = 40

cdef struct Known:
    char symbol[SYMBOL_BYTES]
    int32_t n, price_precision, qty_precision


cdef class Decoder:
    """Frame, checksum, header, entries and precision of every W and X of a clean stream; nothing is kept."""

    cdef Codec codec
    cdef Known* known
    cdef int32_t n_known, last
    cdef readonly uint64_t messages, entries, errors, digest

    def __init__(self, dict precisions, bint fast=True):
        self.codec = Codec(allow_fast=fast)
        self.known = <Known*>calloc(max(len(precisions), 1), sizeof(Known))
        if self.known == NULL:
            raise MemoryError
        for symbol, (price_precision, qty_precision) in precisions.items():
            text = symbol.encode()
            memcpy(self.known[self.n_known].symbol, <const char*>text, len(text))
            self.known[self.n_known].n = len(text)
            self.known[self.n_known].price_precision = price_precision
            self.known[self.n_known].qty_precision = qty_precision
            self.n_known += 1

    def __dealloc__(self):
        free(self.known)

    cdef Known* find(self, const char* p, int32_t n) noexcept:
        cdef int32_t i
        cdef Known* k = &self.known[self.last]
        if k.n == n and memcmp(k.symbol, p, n) == 0:
            return k
        for i in range(self.n_known):
            k = &self.known[i]
            if k.n == n and memcmp(k.symbol, p, n) == 0:
                self.last = i
                return k
        return NULL

    def run(self, bytes padded):
        """Decode all of a stream that has at least 64 zero bytes after its last frame."""
        cdef const char* p = padded
        cdef int64_t left = len(padded) - 64
        cdef int64_t length
        while left > 0 and next_frame(p, left, 1 << 26, &length) == FRAME_OK:
            self.frame(p, length)
            p += length
            left -= length
        assert left == 0, "the stream is not clean"

    cdef void frame(self, const char* p, int64_t length) noexcept:
        cdef Header h
        cdef MDMessage m
        cdef const char* body = p + 12
        cdef const char* end = p + length - 7
        cdef Known* k
        cdef int32_t i
        self.messages += 1
        while body[0] != 1:
            body += 1
        if self.codec.read_header(body + 1, end, &h) != MD_OK:
            self.errors += 1
            return
        if h.msg_type != c'X' and h.msg_type != c'W':
            return
        if self.codec.begin(&h, end, &m) != MD_OK:
            self.errors += 1
            return
        k = self.find(m.symbol.p, m.symbol.n)
        if k == NULL or self.codec.finish(&h, end, &m, k.price_precision, k.qty_precision) != MD_OK:
            self.errors += 1
            return
        self.entries += m.n
        for i in range(m.n):
            self.digest += self.codec.entries[i].price ^ self.codec.entries[i].qty ^ self.codec.entries[i].event_ns


cdef class Updates:
    """Entries (ENTRY_DTYPE) to be applied message by message; `ends[m]` is one past message m's last entry.

    What is looked at and kept here beforehand is not timed with the messages.
    """

    cdef object entries, ends
    cdef MDEntry* first
    cdef int64_t* stop
    cdef int64_t messages

    def __init__(self, entries, ends):
        assert entries.dtype == ENTRY_DTYPE and entries.flags.c_contiguous and ends.dtype == np.int64
        self.entries, self.ends, self.messages = entries, ends, len(ends)
        self.first = <MDEntry*><uintptr_t>entries.ctypes.data
        self.stop = <int64_t*><uintptr_t>ends.ctypes.data

    def run(self, OrderBook book, bint with_crc):
        """Apply all to a book. Returns the sum of the CRCs after each message by the book's own rule, or, without
        CRC, of a best price."""
        cdef int64_t m, at = 0
        cdef int rule = RULE_ORDER if book.level == 3 else RULE_LEVEL
        cdef uint64_t total = 0
        for m in range(self.messages):
            book.apply_entries(self.first + at, self.stop[m] - at)
            at = self.stop[m]
            if with_crc:
                total += book.crc_by(rule)
            elif book.sides[0].n:
                total += <uint64_t>book.sides[0].price[book.sides[0].n - 1]
        return total


cdef extern from "shm/platform.h" nogil:
    int64_t kfix_monotonic()


def journal_append(JournalWriter writer, bytes body, Py_ssize_t n, int64_t rate):
    """Nanoseconds of each of `n` appends of `body`, `rate` a second (0: as fast as possible), int64."""
    cdef int64_t[::1] spans = np.zeros(n, np.int64)
    cdef const char* data = body
    cdef uint32_t length = <uint32_t>len(body)
    cdef int64_t gap = 1_000_000_000 // rate if rate else 0
    cdef int64_t due = kfix_monotonic()
    cdef int64_t now
    cdef Py_ssize_t i
    with nogil:
        for i in range(n):
            due += gap
            now = kfix_monotonic()
            while now < due and gap:
                now = kfix_monotonic()
            writer.put(REC_FRAME, 0, now, data, length)
            writer.commit(0)
            spans[i] = kfix_monotonic() - now
    return spans.base


def journal_read(JournalReader reader) -> int:
    """Read every record of a journal; returns how many there were."""
    cdef Record r
    cdef Py_ssize_t n = 0
    while reader.next(&r) == 1:
        n += 1
    return n
