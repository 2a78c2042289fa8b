"""Converts tick records of a hundred bytes to columns, and columns to entries as books apply them, in one pass each."""

import numpy as np

from kfix_md._entry import ENTRY_DTYPE, TICK_DTYPE

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint64_t, uintptr_t
from libc.string cimport memset

from kfix_md._entry cimport ACTION_CLEAR, ENTRY_LAST, ID_TEXT, MDEntry, MSG_HAS_CRC, SIDE_TRADE, Tick

cdef enum:
    ROW_LAST = 256      # recorder.schema.Flags
    ROW_TRADE = 512
    LARGEST_CODE = 9    # of aggressor and ord_type: one digit

#: column -> dtype; those that end in _absent are true where the column before them has no value
COLUMNS = {
    "recv_ns": "i8", "event_ms": "i8", "event_frac_ns": "i4", "queue_ns": "i8", "queue_absent": "?",
    "seq": "i8", "entry_no": "i4", "symbol": "i4", "side": "i4", "side_absent": "?",
    "action": "i4", "flags": "i4", "price": "i8", "qty": "i8", "price_scale": "i1", "qty_scale": "i1", "id": "u8",
    "id_kind": "i4", "id_absent": "?", "aggressor": "i4", "aggressor_absent": "?", "ord_type": "i4",
    "ord_type_absent": "?", "crc": "i8", "crc_absent": "?", "decimals": "i2",
}


cdef inline uint64_t _big_endian(uint64_t x) noexcept nogil:
    x = (x & <uint64_t>0x00FF00FF00FF00FF) << 8 | (x >> 8) & <uint64_t>0x00FF00FF00FF00FF
    x = (x & <uint64_t>0x0000FFFF0000FFFF) << 16 | (x >> 16) & <uint64_t>0x0000FFFF0000FFFF
    return x << 32 | x >> 32


def columns(ticks, scales) -> dict:
    """Arrays by name (COLUMNS; "id" is (n, 2): 16 bytes, big endian) of ticks (TICK_DTYPE).

    scales: i1 array (price, quantity decimals) by instrument row.
    """
    if ticks.dtype != TICK_DTYPE or not ticks.flags.c_contiguous:
        raise ValueError("ticks must be a contiguous array of TICK_DTYPE")
    cdef Py_ssize_t i, n = len(ticks)
    cdef const Tick* t = <const Tick*><uintptr_t>ticks.ctypes.data
    cdef const int8_t[:, ::1] digits = np.ascontiguousarray(scales, np.int8).reshape(-1, 2)
    out = {name: np.empty(n, dtype) for name, dtype in COLUMNS.items()}
    out["id"] = np.empty((n, 2), COLUMNS["id"])
    cdef int64_t[::1] recv = out["recv_ns"], event = out["event_ms"], queue = out["queue_ns"], seq = out["seq"]
    cdef int64_t[::1] price = out["price"], qty = out["qty"]
    cdef int32_t[::1] entry_no = out["entry_no"], symbol = out["symbol"], flags = out["flags"]
    cdef int32_t[::1] side = out["side"], action = out["action"], kind = out["id_kind"]
    cdef int32_t[::1] aggressor = out["aggressor"], ord_type = out["ord_type"], frac = out["event_frac_ns"]
    cdef int8_t[::1] price_scale = out["price_scale"], qty_scale = out["qty_scale"]
    cdef int64_t[::1] crc = out["crc"]
    cdef int16_t[::1] decimals = out["decimals"]
    cdef uint64_t[:, ::1] ids = out["id"]
    cdef uint8_t[::1] no_queue = out["queue_absent"].view("u1")
    cdef int64_t event_ns
    cdef uint8_t[::1] no_side = out["side_absent"].view("u1"), no_id = out["id_absent"].view("u1")
    cdef uint8_t[::1] no_crc = out["crc_absent"].view("u1"), no_type = out["ord_type_absent"].view("u1")
    cdef uint8_t[::1] no_aggressor = out["aggressor_absent"].view("u1")
    for i in range(n):
        if not 0 <= t.entry.instrument < digits.shape[0]:
            raise ValueError(f"tick {i} is of instrument {t.entry.instrument}, which has no scales")
        recv[i], queue[i], seq[i] = t.recv_ns, t.entry.queue_ns, t.seq
        event_ns = t.entry.event_ns if t.entry.event_ns else t.sending_ns    # a CLEAR has none of its own
        event[i] = event_ns // 1_000_000
        frac[i] = <int32_t>(event_ns - event[i] * 1_000_000)
        no_queue[i] = t.entry.queue_ns == 0
        entry_no[i], symbol[i] = t.entry_no, t.entry.instrument
        side[i], action[i] = t.entry.side, t.entry.action
        no_side[i] = t.entry.action == ACTION_CLEAR
        flags[i] = (t.flags | (ROW_LAST if t.entry.flags & ENTRY_LAST else 0)
                    | (ROW_TRADE if t.entry.side == SIDE_TRADE else 0))
        price[i], qty[i] = t.entry.price, t.entry.qty
        price_scale[i], qty_scale[i] = digits[t.entry.instrument, 0], digits[t.entry.instrument, 1]
        ids[i, 0], ids[i, 1] = _big_endian(t.entry.id_hi), _big_endian(t.entry.id_lo)
        kind[i] = t.entry.id_kind if t.entry.id_kind < ID_TEXT else ID_TEXT
        no_id[i] = t.entry.id_kind == 0 or t.entry.id_kind >= ID_TEXT
        no_aggressor[i] = not 1 <= t.entry.aggressor <= LARGEST_CODE
        no_type[i] = not 1 <= t.entry.ord_type <= LARGEST_CODE
        aggressor[i] = 0 if no_aggressor[i] else t.entry.aggressor - 1
        ord_type[i] = 0 if no_type[i] else t.entry.ord_type - 1
        crc[i] = t.crc
        decimals[i] = <int16_t>t.entry.decimals
        no_crc[i] = not (t.entry.flags & ENTRY_LAST and t.flags & MSG_HAS_CRC)
        t += 1
    return out


cdef const void* _values(dict given, name, dtype, Py_ssize_t n) except? NULL:
    # of a column that may be absent
    array = given.get(name)
    if array is None:
        return NULL
    if array.dtype != np.dtype(dtype) or len(array) != n or not array.flags.c_contiguous:
        raise ValueError(f"{name} must be a contiguous array of {n} {dtype}")
    return <const void*><uintptr_t>array.ctypes.data


cdef const uint8_t* _bits(valid, Py_ssize_t first, Py_ssize_t n) except? NULL:
    # of a column in which every value is there: NULL
    if valid is None:
        return NULL
    if valid.dtype != np.uint8 or first < 0 or 8 * len(valid) < first + n or not valid.flags.c_contiguous:
        raise ValueError(f"a bitmap must have {first} and {n} bits in contiguous bytes")
    return <const uint8_t*><uintptr_t>valid.ctypes.data


cdef inline bint _there(const uint8_t* bits, Py_ssize_t i) noexcept nogil:
    return bits == NULL or bits[i >> 3] >> (i & 7) & 1


def codes(indices, table, valid=None, Py_ssize_t first=0):
    """Codes (uint8) of a dictionary column: table[indices], 0 where there is none.

    Parameters
    ----------
    indices : array of int32
        Places in the column's dictionary.
    table : array of uint8
        Codes of the texts in the dictionary.
    valid : array of uint8, optional
        Bitmap, lowest bit first: bit first + i is 0 where value i is absent.

    Raises
    ------
    IndexError
        A place that the dictionary does not have.
    """
    cdef const int32_t[::1] places = indices
    cdef const uint8_t[::1] names = table
    cdef Py_ssize_t i, n = places.shape[0], known = names.shape[0], outside = -1
    cdef const uint8_t* bits = _bits(valid, first, n)
    out = np.empty(n, np.uint8)
    cdef uint8_t[::1] found = out
    with nogil:
        for i in range(n):
            if not _there(bits, first + i):
                found[i] = 0
            elif <uint64_t>places[i] < <uint64_t>known:
                found[i] = names[places[i]]
            else:
                outside = i
    if outside >= 0:
        raise IndexError(f"value {outside} is {places[outside]} of a dictionary of {known}")
    return out


def ends(session, seq, book=None):
    """Exclusive ends (int64) of messages: where session (int32), MsgSeqNum (int64) or book (int32, if any) changes."""
    cdef const int32_t[::1] sessions = session, books = session if book is None else book
    cdef const int64_t[::1] numbers = seq
    cdef Py_ssize_t i, k = 0, n = numbers.shape[0]
    if sessions.shape[0] != n or books.shape[0] != n:
        raise ValueError("each row has a session, a MsgSeqNum and a book")
    out = np.empty(n, np.int64)
    cdef int64_t[::1] found = out
    with nogil:
        for i in range(1, n):
            found[k] = i
            k += (numbers[i] != numbers[i - 1]) | (sessions[i] != sessions[i - 1]) | (books[i] != books[i - 1])
        if n:
            found[k] = n
            k += 1
    return out[:k].copy() if 4 * k < n else out[:k]


def entries(dict given, Py_ssize_t n):
    """Rows as ENTRY_DTYPE, what books apply; instrument is 0.

    Parameters
    ----------
    given
        Arrays of n values by name, each of which may be absent (all of it is 0 then): price, qty, event_ns, queue_ns
        (int64); event_ms and event_frac_ns (int64, int32), which event_ns is made of; decimals (int16); side, action,
        id_kind, ord_type, aggressor (uint8); id (uint64, two big endian numbers for each row). For price, qty,
        event_ns, queue_ns, decimals and id there may be a bitmap `NAME_valid`, with the place of its first bit
        `NAME_first`: what is absent is 0.
    """
    out = np.empty(n, ENTRY_DTYPE)
    cdef MDEntry* e = <MDEntry*><uintptr_t>out.ctypes.data
    cdef const int64_t* price = <const int64_t*>_values(given, "price", "i8", n)
    cdef const int64_t* qty = <const int64_t*>_values(given, "qty", "i8", n)
    cdef const int64_t* event = <const int64_t*>_values(given, "event_ns", "i8", n)
    cdef const int64_t* event_ms = <const int64_t*>_values(given, "event_ms", "i8", n)
    cdef const int32_t* event_frac = <const int32_t*>_values(given, "event_frac_ns", "i4", n)
    cdef const int64_t* queue = <const int64_t*>_values(given, "queue_ns", "i8", n)
    cdef const int16_t* decimals = <const int16_t*>_values(given, "decimals", "i2", n)
    cdef const uint8_t* side = <const uint8_t*>_values(given, "side", "u1", n)
    cdef const uint8_t* action = <const uint8_t*>_values(given, "action", "u1", n)
    cdef const uint8_t* kind = <const uint8_t*>_values(given, "id_kind", "u1", n)
    cdef const uint8_t* ord_type = <const uint8_t*>_values(given, "ord_type", "u1", n)
    cdef const uint8_t* aggressor = <const uint8_t*>_values(given, "aggressor", "u1", n)
    cdef const uint64_t* ids = <const uint64_t*>_values(given, "id", "u8", 2 * n)
    cdef const uint8_t* bits[6]
    cdef Py_ssize_t first[6]
    for k, name in enumerate(("price", "qty", "event_ns", "queue_ns", "decimals", "id")):
        first[k] = given.get(name + "_first", 0)
        bits[k] = _bits(given.get(name + "_valid"), first[k], n)
    cdef Py_ssize_t i
    with nogil:
        for i in range(n):
            memset(e, 0, sizeof(MDEntry))
            if price != NULL and _there(bits[0], first[0] + i):
                e.price = price[i]
            if qty != NULL and _there(bits[1], first[1] + i):
                e.qty = qty[i]
            if event != NULL and _there(bits[2], first[2] + i):
                e.event_ns = event[i]
            if event_ms != NULL and event_frac != NULL:
                e.event_ns = event_ms[i] * 1_000_000 + event_frac[i]
            if queue != NULL and _there(bits[3], first[3] + i):
                e.queue_ns = queue[i]
            if decimals != NULL and _there(bits[4], first[4] + i):
                e.decimals = <uint16_t>decimals[i]
            if side != NULL:
                e.side = side[i]
            if action != NULL:
                e.action = action[i]
            if kind != NULL:
                e.id_kind = kind[i]
            if ord_type != NULL:
                e.ord_type = ord_type[i]
            if aggressor != NULL:
                e.aggressor = aggressor[i]
            if ids != NULL and _there(bits[5], first[5] + i):
                e.id_hi, e.id_lo = _big_endian(ids[2 * i]), _big_endian(ids[2 * i + 1])
            e += 1
    return out
