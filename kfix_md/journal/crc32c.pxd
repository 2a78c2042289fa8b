# CRC32C with the instructions this machine has.
from libc.stdint cimport uint32_t

cdef extern from "c/crc32c.h" nogil:
    ctypedef uint32_t (*crc32c_fn)(uint32_t, const void*, size_t) noexcept nogil
    crc32c_fn crc32c_choose()
    crc32c_fn crc32c_by_name(const char* name)
