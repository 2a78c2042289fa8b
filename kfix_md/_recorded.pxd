from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from kfix_md._entry cimport MDEntry


cdef class Recorded:
    cdef object owners              # of the arrays that the pointers lead into
    cdef readonly Py_ssize_t n      # messages
    cdef readonly Py_ssize_t instruments
    cdef MDEntry* entries
    cdef const int64_t* starts      # by message, as all that follow
    cdef const int64_t* ends
    cdef const int64_t* seqs
    cdef const int64_t* times
    cdef const int32_t* instrument
    cdef const int32_t* flags
    cdef const uint32_t* crcs
    cdef const uint8_t* levels
