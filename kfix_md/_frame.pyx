"""Finds frames in a stream of bytes and checks tags 8, 9 and 10; splits a frame into its fields."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

import os
import re

from kfix_md.errors import ProtocolError

cdef extern from * nogil:
    """
    #define _GNU_SOURCE 1
    #include <string.h>
    void *memmem(const void *, size_t, const void *, size_t);
    """
    void* memmem(const void*, size_t, const void*, size_t)

cdef extern from "Python.h":
    bint PyGC_Disable()
    bint PyGC_Enable()

cdef extern from "c/scan.h" nogil:
    uint8_t kfix_sum(const char* p, int64_t n)
    const char* kfix_scan_init(const char* name)
    uint32_t kfix_load4(const char* p)
    uint64_t kfix_load8(const char* p)

cdef extern from "c/data_fields.h" nogil:
    ctypedef struct kfix_data:
        pass
    kfix_data kfix_no_data()
    const char* kfix_value_end(kfix_data* data, uint32_t tag, const char* field, const char* value, const char* soh,
                               const char* last)

cdef enum:
    SOH = 1
    MIN_BODY = 5            # no frame is shorter than a 35
    LENGTH_DIGITS = 9
    TRAILER = 7             # bytes of "10=ccc|"


def _choose_simd():
    wanted = os.environ.get("KFIX_SIMD")
    cdef const char* chosen
    if wanted is None:
        chosen = kfix_scan_init(NULL)
    else:
        name = wanted.encode()
        chosen = kfix_scan_init(name)
        if chosen == NULL:
            raise ImportError(f"KFIX_SIMD={wanted}: this machine offers no such instruction set "
                              "(scalar, avx2 or avx512)")
    return (<bytes>chosen).decode()


#: instruction set of the byte sum: "avx512", "avx2" or "scalar" (environment variable KFIX_SIMD forces one)
SIMD = _choose_simd()


cdef inline bint three_digits(const char* p, unsigned int* number) noexcept nogil:
    # "ddd|" at p
    cdef uint32_t t = kfix_load4(p) ^ 0x01303030
    number[0] = (t & 15) * 100 + (t >> 8 & 15) * 10 + (t >> 16 & 15)
    return (t | (t + 0x060606)) & <uint32_t>0xFFF0F0F0 == 0


cdef int next_frame(const char* p, int64_t n, int64_t max_frame, int64_t* length) noexcept nogil:
    # `length` becomes the frame's; after FRAME_BAD_CHECKSUM it is the number of bytes that were summed
    cdef int64_t body = 0, i, total
    cdef uint64_t end
    cdef unsigned int c
    length[0] = 1
    if n < 12:
        i = 0
        while i < n and i < 9 and p[i] == (<const char*>b"8=FIX.4.4")[i]:
            i += 1
        if i == n or (i == 9 and p[9] == SOH and (n < 11 or p[10] == c'9')):
            return FRAME_MORE
        return FRAME_GARBAGE
    if memcmp(p, <const char*>b"8=FIX.4.4\x019=", 12) != 0:
        return FRAME_GARBAGE
    if n > 15 and three_digits(p + 12, &c):     # nearly every length
        body = c
        i = 15
    else:
        i = 12
        while i < n:
            c = <unsigned int>(<uint8_t>p[i]) - 48
            if c > 9:
                break
            body = body * 10 + c
            i += 1
            if i > 12 + LENGTH_DIGITS:
                return FRAME_BAD_LENGTH
        if i == n:
            return FRAME_MORE
    if p[i] != SOH or i == 12 or body < MIN_BODY or body + i + 8 > max_frame:
        return FRAME_BAD_LENGTH
    total = i + 1 + body + TRAILER
    if total > n:
        return FRAME_MORE
    end = kfix_load8(p + total - TRAILER - 1)
    # "|10=...|", before the sum: a length may be of megabytes, and lead anywhere
    if end & <uint64_t>0xFF000000FFFFFFFF != <uint64_t>0x010000003D303101:
        return FRAME_BAD_LENGTH
    length[0] = total
    return FRAME_OK if end == trailer(kfix_sum(p, total - TRAILER)) else FRAME_BAD_CHECKSUM


cdef bytes padded_frame(frame):
    # a copy of one frame, checked as those of a stream are, with PADDING bytes after it
    cdef bytes padded = bytes(memoryview(frame)) + b"\0" * PADDING
    cdef int64_t n = len(padded) - PADDING, length
    if next_frame(padded, n, n, &length) != FRAME_OK or length != n:
        raise ProtocolError("not one sound FIX frame")
    return padded


cdef inline uint64_t trailer(uint64_t c) noexcept nogil:
    # "|10=ccc|" of a sum below 256, as its eight bytes are loaded
    cdef uint64_t hundreds = c * 41 >> 12, tens = c * 205 >> 11
    return (<uint64_t>0x013030303D303101 + (hundreds << 32) + (tens - 10 * hundreds << 40) + (c - 10 * tens << 48))


cdef int64_t find_begin(const char* p, int64_t n) noexcept nogil:
    # offset of the next "8=FIX" after p[0], or of what may become one at the end of the bytes
    cdef const char* hit
    cdef int64_t tail
    if n <= 1:
        return n
    hit = <const char*>memmem(p + 1, n - 1, <const char*>b"8=FIX", 5)
    if hit != NULL:
        return hit - p
    tail = n - 4 if n > 5 else 1
    while tail < n and memcmp(p + tail, <const char*>b"8=FIX", n - tail) != 0:
        tail += 1
    return tail


cdef class CollectionPaused:
    """No automatic garbage collection inside a `with`: it would walk thousands of rows again and again while they grow,
    although they have no cycles."""

    cdef bint collecting

    def __enter__(self):
        self.collecting = PyGC_Disable()

    def __exit__(self, *exc):
        if self.collecting:
            PyGC_Enable()


def fields(frame):
    """Return all fields of one frame as a list of (tag: int, value: bytes), in the order of the frame.

    A data field (such as 96, 355) is read by the length that the field before it states, so that its value may contain
    SOH. Raises ProtocolError when something in the frame is not `tag=value` with a numeric tag.
    """
    cdef bytes data = bytes(frame)
    cdef const char* p = data
    cdef const char* end = p + len(data)
    if p < end and (end - 1)[0] == SOH:
        end -= 1
    with CollectionPaused():
        return split(p, end)


cdef list split(const char* p, const char* end):
    cdef const char* after
    cdef uint32_t tag
    cdef int digits
    cdef kfix_data announced = kfix_no_data()
    cdef list out = []
    while True:
        after = <const char*>memchr(p, SOH, end - p)
        if after == NULL:
            after = end
        tag = 0
        digits = 0
        while digits < 9 and <uint8_t>(p[digits] - c'0') < 10:      # a byte string ends with a zero byte
            tag = tag * 10 + (p[digits] - c'0')
            digits += 1
        if digits == 0 or p[digits] != c'=':
            raise ProtocolError(f"not a FIX field: {p[:min(after - p, 40)]!r}")
        after = kfix_value_end(&announced, tag, p, p + digits + 1, after, end)
        out.append((tag, p[digits + 1:after - p]))
        if after == end:
            return out
        p = after + 1


def checksum(data):
    """Return the byte sum modulo 256 of `data` (bytes-like): what tag 10 states of the bytes before it."""
    cdef const unsigned char[::1] view = data
    return kfix_sum(<const char*>&view[0], view.shape[0]) if view.shape[0] else 0


OTHER_VERSION = re.compile(rb"8=FIX[.\w]{2,8}\x019=(\d{1,6})\x01")


def other_version(data):
    """Return the sound frame of another FIX version that `data` begins with, or None: the peer speaks it."""
    whole = OTHER_VERSION.match(data)
    if whole is None or not 0 < int(whole[1]) < len(data):
        return None
    end = whole.end() + int(whole[1])
    trailer = b"10=%03d\x01" % (sum(data[:end]) % 256)
    return data[:end] + trailer if data[end:end + 7] == trailer else None
