"""Recorded ticks through the live books: hides how a whole array of messages is applied, checked and sampled."""

import numpy as np

from kfix_md._entry import ENTRY_DTYPE

from libc.stdint cimport int64_t, uint8_t, uint32_t, uintptr_t

from kfix_md._book cimport Book, RULE_LEVEL, RULE_ORDER, crossed
from kfix_md._entry cimport BookSide, MDEntry

cdef enum:
    BY_LEVEL = 1
    BY_ORDER = 2
    DIFFER = 4
    CROSSED = 8

LEVEL, ORDER, RULES_DIFFER, IS_CROSSED = BY_LEVEL, BY_ORDER, DIFFER, CROSSED


def check(Book book, entries, ends, crcs, has_crc):
    """Apply messages and compare each 5041 with the book.

    entries: ENTRY_DTYPE; message i is entries[ends[i-1]:ends[i]]; crcs (u4) and has_crc (bool) by message.
    Returns u1 by message: LEVEL and ORDER where that rule gives the CRC, RULES_DIFFER where the two rules give
    different ones, IS_CROSSED where best bid >= best offer; 0 elsewhere and where there is no CRC.
    """
    cdef const MDEntry* e = _entries(entries)
    cdef const int64_t[::1] stops = np.ascontiguousarray(ends, np.int64)
    cdef const uint32_t[::1] wanted = np.ascontiguousarray(crcs, np.uint32)
    cdef const uint8_t[::1] given = np.ascontiguousarray(has_crc, np.uint8)
    cdef Py_ssize_t i, n = stops.shape[0]
    cdef int64_t start = 0
    cdef uint32_t by_level, by_order
    out = np.zeros(n, np.uint8)
    cdef uint8_t[::1] found = out
    _bounds(entries, stops)
    for i in range(n):
        book.apply_entries(<MDEntry*>&e[start], stops[i] - start)
        start = stops[i]
        if given[i]:
            by_level = book.crc_by(RULE_LEVEL)
            by_order = book.crc_by(RULE_ORDER) if book.level == 3 else by_level
            found[i] = ((BY_LEVEL if by_level == wanted[i] else 0) | (BY_ORDER if by_order == wanted[i] else 0)
                        | (DIFFER if by_level != by_order else 0))
        if crossed(book):
            found[i] |= CROSSED
    return out


def tops(Book book, entries, ends):
    """Apply messages and note the best of both sides behind each.

    Returns (bid, bid quantity, offer, offer quantity) as i8 arrays by message; quantity 0 where a side is empty.
    """
    cdef const MDEntry* e = _entries(entries)
    cdef const int64_t[::1] stops = np.ascontiguousarray(ends, np.int64)
    cdef Py_ssize_t i, n = stops.shape[0]
    cdef int64_t start = 0
    cdef int side
    cdef BookSide* s
    out = np.zeros((4, n), np.int64)
    cdef int64_t[:, ::1] best = out
    _bounds(entries, stops)
    for i in range(n):
        book.apply_entries(<MDEntry*>&e[start], stops[i] - start)
        start = stops[i]
        for side in range(2):
            s = &book.sides[side]
            if s.n:
                best[2 * side, i] = s.price[s.n - 1]
                best[2 * side + 1, i] = s.qty[s.n - 1]
    return tuple(out)


cdef const MDEntry* _entries(entries) except? NULL:
    if entries.dtype != ENTRY_DTYPE or not entries.flags.c_contiguous:
        raise ValueError("entries must be a contiguous array of ENTRY_DTYPE")
    return <const MDEntry*><uintptr_t>entries.ctypes.data


cdef int _bounds(entries, const int64_t[::1] stops) except -1:
    cdef int64_t before = 0
    cdef Py_ssize_t i
    for i in range(stops.shape[0]):
        if stops[i] < before or stops[i] > <Py_ssize_t>len(entries):
            raise ValueError("ends must grow and stay inside entries")
        before = stops[i]
    return 0
