"""Applies arrays of recorded messages to live books: compares each with its checksum, or notes levels or an order."""

import numpy as np

from kfix_md._entry import ENTRY_DTYPE

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t

from kfix_md._book cimport (
    BOOK_OK, RULE_AUTO, RULE_CODE, RULE_LEVEL, RULE_LEVEL_SENT, RULE_ORDER, RULE_ORDER_SENT, OrderBook, apply_message,
    crossed, price_shift, qty_shift,
)
from kfix_md._book_l3 cimport L3Book
from kfix_md._checksum cimport find_rule
from kfix_md._entry cimport SIDE_TRADE, BookSide, MDEntry, Order

cdef enum:
    SEARCHED = 64       # messages in a row without a rule after which only each of so many is tried by all of them

_NAMES = {RULE_LEVEL: "level", RULE_ORDER: "order", RULE_LEVEL_SENT: "level-sent", RULE_ORDER_SENT: "order-sent"}


def rule_of(int code) -> tuple:
    """A code of `check` as (name of the rule, decimals of price beyond the book's precision, those of quantity)."""
    return _NAMES[code & RULE_CODE], price_shift(code), qty_shift(code)


def apply(OrderBook book, entries, ends):
    """Apply messages to a book, each with what its depth (`book.limit`) does to it; arguments as of `check`."""
    cdef const MDEntry* e = _entries(entries)
    cdef const int64_t[::1] stops = np.ascontiguousarray(ends, np.int64)
    cdef Py_ssize_t i
    cdef int64_t start = 0
    _bounds(entries, stops)
    for i in range(stops.shape[0]):
        if apply_message(book, <MDEntry*>&e[start], stops[i] - start) != BOOK_OK:
            raise OverflowError("more levels, orders or quantity than a book may hold")
        start = stops[i]


def check(OrderBook book, entries, ends, crcs, has_crc):
    """Apply messages and find the rule by which the book agrees with each 5041.

    The rule that gave the last checksum is tried first, then all others, then printed numbers at precisions near those
    of the book.

    Parameters
    ----------
    book
        The book before the first message; afterwards that after the last.
    entries : ndarray of ENTRY_DTYPE
        Entries of all messages; those of message i are entries[ends[i-1]:ends[i]].
    ends, crcs, has_crc
        By message: exclusive end of its entries, 5041, and whether it has one.

    Returns
    -------
    rules : ndarray of int32
        By message, a code for `rule_of`; 0 where no rule gives the CRC and where there is none.
    crossed : ndarray of bool
        Where the best bid is not below the best offer.
    """
    cdef const MDEntry* e = _entries(entries)
    cdef const int64_t[::1] stops = np.ascontiguousarray(ends, np.int64)
    cdef const uint32_t[::1] wanted = np.ascontiguousarray(crcs, np.uint32)
    cdef const uint8_t[::1] given = np.ascontiguousarray(has_crc, np.uint8)
    cdef Py_ssize_t i, n = stops.shape[0], misses = 0
    cdef int64_t start = 0
    rules, crosses = np.zeros(n, np.int32), np.zeros(n, np.uint8)
    cdef int32_t[::1] found = rules
    cdef uint8_t[::1] cross = crosses
    _bounds(entries, stops)
    for i in range(n):
        apply_message(book, <MDEntry*>&e[start], stops[i] - start)
        start = stops[i]
        cross[i] = crossed(book)
        if not given[i]:
            continue
        if book.crc_by(book.rule) == wanted[i]:
            found[i] = book.rule
        elif misses < SEARCHED or misses % SEARCHED == 0:
            found[i] = find_rule(book, wanted[i], RULE_AUTO, book.rule)
        misses = 0 if found[i] else misses + 1
        if found[i] and found[i] != book.rule:
            book.set_rule(found[i])
    return rules, crosses.view(bool)


def depths(OrderBook book, entries, ends, until, int levels):
    """Apply messages and note the best levels of both sides at some points between them.

    Parameters
    ----------
    book, entries, ends
        As of `check`.
    until : array of int
        By sample, how many of the messages come before it; it does not fall.
    levels
        Levels of a side to note.

    Returns
    -------
    ndarray of int64, shape (4, levels, samples)
        Prices and quantities of bids, then of offers, best first; quantity 0 where there is no level.
    """
    cdef const MDEntry* e = _entries(entries)
    cdef const int64_t[::1] stops = np.ascontiguousarray(ends, np.int64)
    cdef const int64_t[::1] wanted = np.ascontiguousarray(until, np.int64)
    cdef Py_ssize_t i, k = 0, n = stops.shape[0], samples = wanted.shape[0]
    cdef int64_t start = 0
    out = np.zeros((4, levels, samples), np.int64)
    cdef int64_t[:, :, ::1] noted = out
    _bounds(entries, stops)
    _grows(wanted, n, "until")
    for i in range(n + 1):
        while k < samples and wanted[k] == i:
            _note(book, noted, k, levels)
            k += 1
        if i < n:
            if apply_message(book, <MDEntry*>&e[start], stops[i] - start) != BOOK_OK:
                raise OverflowError("more levels, orders or quantity than a book may hold")
            start = stops[i]
    return out


def life(L3Book book not None, entries, ends, order):
    """Apply messages and note one order after each.

    Parameters
    ----------
    book, entries, ends
        As of `check`.
    order : tuple
        (kind, id_hi, id_lo) of its id.

    Returns
    -------
    ndarray of int64, shape (7, messages)
        Side (-1: the book does not hold it; all but the last are 0 then), price, quantity, queue time (ns), orders
        ahead, quantity ahead; action of the last entry of the message with this id, -1 without one.

    Raises
    ------
    OverflowError
        The book would take more than one may hold.
    """
    cdef const MDEntry* e = _entries(entries)
    cdef const int64_t[::1] stops = np.ascontiguousarray(ends, np.int64)
    cdef uint64_t hi = order[1], lo = order[2]
    cdef uint8_t kind = order[0]
    cdef Py_ssize_t i, j, n = stops.shape[0]
    cdef int64_t start = 0
    cdef int32_t row
    cdef Order* o
    out = np.zeros((7, n), np.int64)
    cdef int64_t[:, ::1] noted = out
    _bounds(entries, stops)
    for i in range(n):
        noted[6, i] = -1
        for j in range(start, stops[i]):
            if e[j].id_lo == lo and e[j].id_hi == hi and e[j].id_kind == kind and e[j].side != SIDE_TRADE:
                noted[6, i] = e[j].action
        if apply_message(book, <MDEntry*>&e[start], stops[i] - start) != BOOK_OK:
            raise OverflowError("more levels, orders or quantity than a book may hold")
        start = stops[i]
        row = book.order_row(hi, lo, kind)
        noted[0, i] = -1
        if row < 0:
            continue
        o = &book.slab.rows[row]
        noted[0, i], noted[1, i], noted[2, i], noted[3, i] = o.side, o.price, o.qty, o.queue_ns
        row = o.prev
        while row >= 0:
            o = &book.slab.rows[row]
            noted[4, i] += 1
            noted[5, i] += o.qty
            row = o.prev
    return out


cdef void _note(OrderBook book, int64_t[:, :, ::1] noted, Py_ssize_t k, int levels) noexcept:
    cdef int side, i
    cdef BookSide* s
    for side in range(2):
        s = &book.sides[side]
        for i in range(min(levels, s.n)):
            noted[2 * side, i, k] = s.price[s.n - 1 - i]
            noted[2 * side + 1, i, k] = s.qty[s.n - 1 - i]


cdef const MDEntry* _entries(entries) except? NULL:
    if entries.dtype != ENTRY_DTYPE or not entries.flags.c_contiguous:
        raise ValueError("entries must be a contiguous array of ENTRY_DTYPE")
    return <const MDEntry*><uintptr_t>entries.ctypes.data


cdef int _bounds(entries, const int64_t[::1] stops) except -1:
    return _grows(stops, len(entries), "ends")


cdef int _grows(const int64_t[::1] places, Py_ssize_t limit, name) except -1:
    cdef int64_t before = 0
    cdef Py_ssize_t i
    for i in range(places.shape[0]):
        if places[i] < before or places[i] > limit:
            raise ValueError(f"{name} must not fall and not pass {limit}")
        before = places[i]
    return 0
