from cython cimport final
from libc.stdint cimport int64_t, uint64_t

cdef class FrameSink:
    cdef int on_frame(self, const char* p, int64_t n, int64_t recv_ns) except -1
    cdef int on_skipped(self, const char* p, int64_t n, int64_t recv_ns) except -1
    cdef int on_failure(self, object error, int64_t recv_ns) except -1
    cdef int on_pause(self) except -1


@final
cdef class Stream:
    cdef int64_t max_frame
    cdef uint64_t messages, bytes_taken
    cdef uint64_t garbage_bytes, garbage, bad_length, bad_checksum, bad_begin_string
    cdef uint64_t summed_in_vain    # bytes of frames whose sum was wrong
    cdef int64_t patience           # bytes that may still be summed in vain, see VAIN_BYTES
    cdef int64_t reported           # garbled frames since the last sound one that the sink was called for
    # [start, end) holds what is not yet consumed
    cdef object memory              # bytearray of `buffer`; a view of it that a caller kept keeps it alive
    cdef object view                # what get_buffer() returned last, for the bytes from `view_at` on; None: nothing
    cdef int64_t view_at
    cdef char* buffer
    cdef int64_t capacity, start, end
    cdef bint in_garbage
    cdef bint busy                  # frames are being brought to the sink
    cdef int64_t resets
    # the bytes that frames are being found in
    cdef const char* first
    cdef const char* last

    cpdef int64_t on_bytes(self, FrameSink sink, data, int64_t recv_ns=*) except -1
    cpdef get_buffer(self, int64_t sizehint=*)
    cpdef int64_t buffer_updated(self, FrameSink sink, int64_t n, int64_t recv_ns) except -1
    cpdef int reset(self, FrameSink sink, int64_t recv_ns=*) except -1
    cdef int room(self, int64_t n) except -1
    cdef int64_t in_place(self, FrameSink sink, const char* p, int64_t total, int64_t recv_ns) except -1
    cdef int64_t run(self, FrameSink sink, int64_t recv_ns) except -1
    cdef int bad_frame(self, FrameSink sink, int kind, int64_t summed, int64_t recv_ns) except -1
