# The record layout of a journal segment, shared by its writer and its readers. Described in docs/journal.md.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

cdef enum:
    REC_FRAME = 1           # a raw inbound FIX frame
    REC_EVENT = 2           # utf-8 JSON object with "type"
    REC_OUT = 3             # a frame we sent

cdef struct Record:
    uint64_t position       # segment number << 32 | offset: grows over the whole journal
    uint64_t next           # position of what follows
    int64_t recv_ns
    const char* data        # valid until the reader enters another segment
    uint32_t length
    uint16_t kind
    uint16_t session
    uint16_t flags          # MSG_* as known when the record was committed

cdef extern from "c/crc32c.h" nogil:
    ctypedef uint32_t (*crc32c_fn)(uint32_t, const void*, size_t) noexcept nogil
    crc32c_fn crc32c_choose()
    crc32c_fn crc32c_by_name(const char* name)

cdef extern from "journal/segment.h" nogil:
    enum:
        JSEG_HEADER
        JREC_HEADER
        JSEG_TAIL
    ctypedef struct jseg_header:
        int32_t date
        uint64_t number
        uint64_t size
        uint64_t sealed_end
    ctypedef struct jrec_header:
        uint32_t length
        uint32_t crc
        uint16_t kind
        uint16_t session
        uint16_t flags
        uint16_t spare
        int64_t recv_ns
        uint64_t position
    ctypedef struct jseg:
        char* base
        uint64_t size
        uint32_t number
    ctypedef struct jio:
        int error
        int sync_error
        int running
        uint64_t written
        uint64_t made
        uint64_t made_inline
        uint64_t syncs
        uint64_t sync_failed
        int64_t synced_ns
        uint64_t synced
        int64_t sync_max_ns
        int64_t exposed_max_ns
    int64_t jclock()
    uint32_t jload32(const void* p)
    uint64_t jload64(const void* p)
    void jprefetch(const void* p)
    void jstore32(void* p, uint32_t v)
    void jstore64(void* p, uint64_t v)
    jio* jio_open(int dirfd, uint64_t segment_bytes, uint32_t next_number, int sync_ms)
    void jio_close(jio* io)
    jseg* jio_take(jio* io, uint64_t need)
    void jio_switch(jio* io, jseg* s, uint64_t used, int32_t date, uint32_t reason)


cdef inline uint64_t padded(uint64_t n) noexcept nogil:
    return (JREC_HEADER + n + 7) & ~<uint64_t>7
