from libc.stdint cimport int64_t

cdef class Sequence:
    cdef public int64_t expected   # next inbound MsgSeqNum; -1: whatever comes first
    cdef public int64_t outgoing   # next MsgSeqNum we send
