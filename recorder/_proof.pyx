"""Applies arrays of recorded messages to live books and compares each book with its checksum, or notes best prices."""

import numpy as np

from kfix_md._entry import ENTRY_DTYPE

from libc.stdint cimport int64_t, uint8_t, uint32_t, uintptr_t

from kfix_md._book cimport Book, RULE_LEVEL, RULE_LEVEL_SENT, RULE_ORDER, RULE_ORDER_SENT, crossed
from kfix_md._entry cimport BookSide, MDEntry

cdef enum:
    N_RULES = 4
    CROSSED = 1 << N_RULES

#: the rules of 5041 by configuration name; bit i of `check` is of the i-th
RULES = ("level", "order", "level-sent", "order-sent")
IS_CROSSED = CROSSED

cdef int[N_RULES] CODES = [RULE_LEVEL, RULE_ORDER, RULE_LEVEL_SENT, RULE_ORDER_SENT]


def check(Book book, entries, ends, crcs, has_crc, int first, int others):
    """Apply messages and compare each 5041 with the book.

    Parameters
    ----------
    book
        The book before the first message; afterwards that after the last.
    entries : ndarray of ENTRY_DTYPE
        Entries of all messages; those of message i are entries[ends[i-1]:ends[i]].
    ends, crcs, has_crc
        By message: exclusive end of its entries, 5041, and whether it has one.
    first, others
        Bits of the rules to try at every message, and of those to try where none of the first gives the CRC.

    Returns
    -------
    ndarray of uint8
        By message: bits of the rules (see RULES) that were tried and give the CRC, IS_CROSSED where the best bid is not
        below the best offer.
    """
    cdef const MDEntry* e = _entries(entries)
    cdef const int64_t[::1] stops = np.ascontiguousarray(ends, np.int64)
    cdef const uint32_t[::1] wanted = np.ascontiguousarray(crcs, np.uint32)
    cdef const uint8_t[::1] given = np.ascontiguousarray(has_crc, np.uint8)
    cdef Py_ssize_t i, n = stops.shape[0]
    cdef int64_t start = 0
    out = np.zeros(n, np.uint8)
    cdef uint8_t[::1] found = out
    _bounds(entries, stops)
    for i in range(n):
        book.apply_entries(<MDEntry*>&e[start], stops[i] - start)
        start = stops[i]
        if given[i]:
            found[i] = _matching(book, wanted[i], first)
            if found[i] == 0:
                found[i] = _matching(book, wanted[i], others)
        if crossed(book):
            found[i] |= CROSSED
    return out


cdef uint8_t _matching(Book book, uint32_t crc, int rules):
    cdef int i, found = 0
    for i in range(N_RULES):
        if rules >> i & 1 and book.crc_by(CODES[i]) == crc:
            found |= 1 << i
    return found


def tops(Book book, entries, ends):
    """Apply messages and note the best of both sides after each; arguments as of `check`.

    Returns
    -------
    tuple of four ndarray of int64
        Bid, bid quantity, offer and offer quantity by message; quantity 0 where a side is empty.
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
