# The open segments of a journal writer and the thread that keeps them (segment.c, linked into writer alone).
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from kfix_md.journal.records cimport jcrc_fn

cdef extern from "journal/segment.h" nogil:
    enum:
        JSEAL_SIZE
        JSEAL_DATE
        JSEAL_CLOSED
        JSEAL_FAULT
    ctypedef struct jseg:
        char* base
        uint64_t size
        uint32_t number
    ctypedef struct jio:
        int error
        int sync_error
        int running
        uint64_t segment_bytes
        uint64_t written
        int leave
        uint64_t rescued
        uint64_t rescue_lost
        uint64_t risk_records
        uint64_t risk_bytes
        uint64_t made
        uint64_t made_inline
        uint64_t syncs
        uint64_t sync_failed
        int64_t synced_ns
        uint64_t synced
        int64_t sync_max_ns
        int64_t exposed_max_ns
    void jprefetch(const void* p)
    void jstore32(void* p, uint32_t v)
    void jstore64(void* p, uint64_t v)
    jio* jio_open(int dirfd, uint64_t segment_bytes, uint32_t next_number, int sync_ms, jcrc_fn crc)
    uint64_t jio_close(jio* io)
    jseg* jio_take(jio* io, uint64_t need)
    void jio_switch(jio* io, jseg* s, uint64_t used, int32_t date, uint32_t reason)
