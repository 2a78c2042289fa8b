# The record layout of a journal segment, shared by its writer and its readers. Described in docs/journal.md.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef enum:
    REC_FRAME = 1           # a raw inbound FIX frame
    REC_EVENT = 2           # UTF-8 JSON object with "type", see events.py
    REC_OUT = 3             # a frame we sent
    REC_GARBAGE = 4         # inbound bytes that are no sound frame

cdef struct Record:
    uint64_t position       # segment number << 32 | offset: grows over the whole journal
    uint64_t next           # position of the record after this one
    int64_t recv_ns
    const char* data        # valid until the reader's next call
    uint32_t length
    uint16_t kind
    uint16_t session
    uint16_t flags          # MSG_* as known when the record was committed

cdef extern from "journal/segment.h" nogil:
    enum:
        JSEG_HEADER
        JREC_HEADER
        JSEG_TAIL
        JSEG_VERSION
        JSEAL_OPEN
        JSEAL_SIZE
        JSEAL_DATE
        JSEAL_CLOSED
        JSEAL_RECOVERED
        JSEAL_FAULT
    const char* JSEG_MAGIC
    ctypedef struct jseg_header:
        char magic[8]
        uint32_t version
        uint32_t header_bytes
        uint64_t number
        uint64_t size
        int32_t date
        uint32_t reason
        uint64_t sealed_end
        int64_t created_ns
        int64_t pid
        uint32_t crc
        uint32_t date_crc
        uint32_t seal_crc
    ctypedef struct jrec_header:
        uint32_t length
        uint32_t crc
        uint16_t kind
        uint16_t session
        uint16_t flags
        uint16_t spare
        int64_t recv_ns
        uint64_t position
    uint32_t jload32(const void* p)
    uint64_t jload64(const void* p)
    ctypedef uint32_t (*jcrc_fn)(uint32_t, const void*, size_t) noexcept nogil
    uint32_t jseg_crc(jcrc_fn run, const jseg_header* h)
    uint32_t jseg_date_crc(jcrc_fn run, uint64_t number, int32_t date)
    uint32_t jseg_seal_crc(jcrc_fn run, uint64_t number, uint32_t reason, uint64_t sealed_end)


cdef inline uint64_t padded(uint64_t n) noexcept nogil:
    return (JREC_HEADER + n + 7) & ~<uint64_t>7


cdef enum:
    FRAME_END = 9           # bytes at least, of a frame from the value of 35 on: one byte, SOH, 10=...|


cdef inline Py_ssize_t type_at(const char* p, Py_ssize_t n) noexcept nogil:
    """Offset of the value of 35 in `8=FIX.4.4|9=..|35=`, -1 where there is none, or no room for it and tag 10."""
    cdef Py_ssize_t i = 12
    while i < n and i < 24 and p[i] != 1:
        i += 1
    if i + 4 + FRAME_END <= n and p[i + 1] == c'3' and p[i + 2] == c'5' and p[i + 3] == c'=':
        return i + 4
    return -1


cdef inline bint is_frame(const char* p, Py_ssize_t n) noexcept nogil:
    # Whether a record's bytes have the outline of a frame, 35 as its third field and `|10=ccc|` at its end: no search
    # for a SOH leaves them then. A record has a checksum of its own; what is in it was written by the feed, or not.
    return (type_at(p, n) > 0 and n >= 24 and p[n - 1] == 1
            and memcmp(p + n - 8, <const char*>b"\x0110=", 4) == 0)


cdef inline bint is_market_data(const char* p, Py_ssize_t n) noexcept nogil:
    # 35=W or 35=X
    cdef Py_ssize_t at = type_at(p, n)
    return at > 0 and (p[at] == c'X' or p[at] == c'W') and p[at + 1] == 1
