from libc.stdint cimport int64_t

cdef enum:
    PADDING = 64            # readers may load that far past a frame

    # framing: what the buffer begins with
    FRAME_OK = 0
    FRAME_MORE = 1          # not yet complete
    FRAME_GARBAGE = 2       # bytes that start no frame
    FRAME_BAD_LENGTH = 3    # tag 9 not numeric, absurd, or not leading to a tag 10
    FRAME_BAD_CHECKSUM = 4  # tag 10 is not the sum of the bytes


cdef int next_frame(const char* p, int64_t n, int64_t max_frame, int64_t* length) noexcept nogil
cdef int64_t find_begin(const char* p, int64_t n) noexcept nogil
cdef bytes padded_frame(frame)
