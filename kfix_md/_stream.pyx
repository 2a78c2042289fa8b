"""How reads become frames: one owned receive buffer, parsed in place, and what happens to bytes that are no frame."""

from cpython.bytearray cimport PyByteArray_AsString, PyByteArray_Resize
from cython cimport final
from libc.stdint cimport int64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from kfix_md._frame cimport (
    FRAME_BAD_CHECKSUM, FRAME_BAD_LENGTH, FRAME_GARBAGE, FRAME_MORE, FRAME_OK, PADDING, find_begin, next_frame,
)

cdef enum:
    READ_BYTES = 262144         # least room offered to a read: sixteen TLS records
    MOST_BYTES = 67108864       # and most
    KEPT_BYTES = 4194304        # of an empty buffer
    COPY_BYTES = 1048576
    PIECE_BYTES = 4096          # copied of a frame that begins in one call of on_bytes and ends in the next
    # Frames inside of frames: after a wrong checksum the next one is looked for in the bytes just summed. So many bytes
    # may be summed in vain, and VAIN_SHARE times what was received; beyond, a frame with a wrong sum is skipped whole.
    VAIN_BYTES = 67108864
    VAIN_SHARE = 4
    REPORTED = 64               # garbled frames in a row that the sink is called for; all are counted

_GARBLED = {FRAME_GARBAGE: "garbage", FRAME_BAD_LENGTH: "body_length", FRAME_BAD_CHECKSUM: "checksum"}


cdef inline bint usable(view):
    # its holder may have released it
    try:
        return len(view) >= 0
    except ValueError:
        return False


cdef class FrameSink:
    """What a Stream brings the bytes of one connection to."""

    cdef int on_frame(self, const char* p, int64_t n, int64_t recv_ns) except -1:
        return 0

    cdef int on_skipped(self, const char* p, int64_t n, int64_t recv_ns) except -1:
        # bytes that are part of no sound frame
        return 0

    cdef int on_failure(self, object error, int64_t recv_ns) except -1:
        # an exception out of on_frame: raised on, or, when it is dealt with, the frames after that one are read
        raise error

    cdef int on_pause(self) except -1:
        # no whole frame is left of what was received
        return 0

    def on_garbled(self, what, head, skipped, recv_ns):
        """Called for bytes that are no sound frame: "garbage", "body_length", "checksum" or "begin_string" (with the
        bytes themselves as `head`); of many in a row for the first 64."""


@final
cdef class Stream:
    """The receiving end of one connection. Its sink's `on_frame` gets every sound frame.

    The sink comes with each call, so that the two do not keep each other alive.

    Parameters
    ----------
    max_frame : int
        Bytes; a longer frame is a protocol error.
    """

    def __cinit__(self, int64_t max_frame=67108864):
        self.max_frame = max_frame
        self.patience = VAIN_BYTES

    cpdef int64_t on_bytes(self, FrameSink sink, data, int64_t recv_ns=0) except -1:
        """Take in bytes (any bytes-like, any split) received at recv_ns (ns since the epoch).

        Returns the number of messages completed. Whole frames are read where they are; what is left is copied.
        RuntimeError when it is called by the sink while it gets a frame.
        """
        cdef const unsigned char[::1] view = data
        cdef int64_t total = view.shape[0], at = 0, n, before = self.messages
        if sink is None or self.busy:
            raise RuntimeError("a stream takes no bytes while it brings a frame to its sink")
        cdef int64_t piece = PIECE_BYTES
        while at < total:
            if self.start == self.end and piece == PIECE_BYTES:
                n = self.in_place(sink, <const char*>&view[at], total - at, recv_ns)
                at += n
                if n == 0:
                    piece = COPY_BYTES      # no whole frame, or no frame at all
            n = min(total - at, piece)
            self.room(n)
            memcpy(self.buffer + self.end, <const char*>&view[at], n)
            self.end += n
            at += n
            self.run(sink, recv_ns)
            if piece == PIECE_BYTES and at < total and self.end - self.start <= n:
                at -= self.end - self.start     # begun in this piece: to be read where it is
                self.start = self.end = 0
        return self.messages - before

    cdef int64_t in_place(self, FrameSink sink, const char* p, int64_t total, int64_t recv_ns) except -1:
        # sound frames from p on that have their padding within `total`: the number of bytes they take
        cdef int64_t at = 0, length, resets = self.resets
        self.first, self.last = p, p + total
        cdef bint done = False
        self.busy = True       # the bytes must stay where they are
        while not done:
            try:        # one for all frames of a read
                while total - at > PADDING:
                    if next_frame(p + at, total - at - PADDING, self.max_frame, &length) != FRAME_OK:
                        break
                    self.in_garbage = False
                    self.reported = 0
                    at += length
                    self.messages += 1
                    self.bytes_taken += length
                    sink.on_frame(p + at - length, length, recv_ns)
                    if self.resets != resets:
                        at = total          # the rest is of a connection that is gone
                done = True
            except Exception as error:
                self.busy = False
                sink.on_failure(error, recv_ns)
                self.busy = True
        self.busy = False
        sink.on_pause()
        return at

    cpdef get_buffer(self, int64_t sizehint=-1):
        """Return a writable memoryview of the free end of the receive buffer, to be filled and then reported with
        buffer_updated(); it is valid until then."""
        if self.busy:
            raise RuntimeError("a stream takes no bytes while it brings a frame to its sink")
        self.room(min(max(sizehint, <int64_t>READ_BYTES), <int64_t>MOST_BYTES))
        if self.view is None or self.view_at != self.end or not usable(self.view):
            self.view, self.view_at = memoryview(self.memory)[self.end:self.capacity], self.end
        return self.view

    cpdef int64_t buffer_updated(self, FrameSink sink, int64_t n, int64_t recv_ns) except -1:
        """Take in the `n` bytes just read into get_buffer(); returns the number of messages completed."""
        cdef int64_t before = self.messages
        if sink is None or self.busy:
            raise RuntimeError("a stream takes no bytes while it brings a frame to its sink")
        if n < 0 or n > self.capacity - self.end:
            raise ValueError("more bytes reported than the buffer had room for")
        self.end += n
        self.run(sink, recv_ns)
        return self.messages - before

    cpdef int reset(self, FrameSink sink, int64_t recv_ns=0) except -1:
        """Forget the bytes of an unfinished frame: the next byte is the first of a new connection."""
        if self.end > self.start:
            sink.on_skipped(self.buffer + self.start, self.end - self.start, recv_ns)
        self.start = self.end = 0
        self.in_garbage = False
        self.resets += 1
        return 0

    cdef int room(self, int64_t n) except -1:
        # at least n bytes free after `end`. What is held is moved only where half as much may come before it is moved
        # again, so that a byte is moved three times at most, wherever frames begin.
        cdef int64_t need, held = self.end - self.start
        if self.start == self.end:
            self.start = self.end = 0
            if self.capacity > KEPT_BYTES:      # after a frame of megabytes
                self.memory, self.view, self.buffer, self.capacity = None, None, NULL, 0
        if self.capacity - self.end >= n:
            return 0
        need = held + max(n, held // 2)
        if self.start > 0 and self.capacity >= need:
            memmove(self.buffer, self.buffer + self.start, held)
            self.start = 0
            self.end = held
            return 0
        # PyByteArray_FromStringAndSize without memory releases an object that it has not initialized
        grown = bytearray()
        PyByteArray_Resize(grown, need + PADDING)
        if held:
            memcpy(PyByteArray_AsString(grown), self.buffer + self.start, held)
        self.memory, self.view, self.buffer = grown, None, PyByteArray_AsString(grown)
        memset(self.buffer + need, 0, PADDING)
        self.capacity = need
        self.start = 0
        self.end = held
        return 0

    cdef int64_t run(self, FrameSink sink, int64_t recv_ns) except -1:
        cdef int64_t length, at
        cdef int kind
        self.first, self.last = self.buffer + self.start, self.buffer + self.end
        cdef bint done = False
        self.busy = True       # the bytes must stay where they are
        while not done:
            try:        # one for all frames of a read
                while self.start < self.end:
                    kind = next_frame(self.buffer + self.start, self.end - self.start, self.max_frame, &length)
                    if kind == FRAME_OK:
                        self.in_garbage = False
                        self.reported = 0
                        at = self.start
                        self.start += length
                        self.messages += 1
                        self.bytes_taken += length
                        sink.on_frame(self.buffer + at, length, recv_ns)
                    elif kind == FRAME_MORE:
                        break
                    else:
                        self.bad_frame(sink, kind, length, recv_ns)
                done = True
            except Exception as error:
                self.busy = False
                sink.on_failure(error, recv_ns)
                self.busy = True
        self.busy = False
        sink.on_pause()
        return 0

    cdef int bad_frame(self, FrameSink sink, int kind, int64_t summed, int64_t recv_ns) except -1:
        # nothing in it can be trusted: on to the next "8=FIX". A run of garbage counts once.
        cdef const char* p = self.buffer + self.start
        cdef int64_t skip = find_begin(p, self.end - self.start)
        what = _GARBLED[kind]
        if kind == FRAME_BAD_CHECKSUM:
            self.summed_in_vain += summed
            self.patience -= summed
            if self.patience < 0:
                skip = summed
        self.patience = min(self.patience + VAIN_SHARE * skip, <int64_t>VAIN_BYTES)
        if kind == FRAME_GARBAGE and self.end - self.start >= 6 and memcmp(p, <const char*>b"8=FIX.", 6) == 0:
            what = "begin_string"
            self.bad_begin_string += 1
        elif kind == FRAME_BAD_LENGTH:
            self.bad_length += 1
        elif kind == FRAME_BAD_CHECKSUM:
            self.bad_checksum += 1
        elif self.in_garbage:
            what = None
        else:
            self.garbage += 1
        self.garbage_bytes += skip
        self.in_garbage = True
        self.start += skip
        sink.on_skipped(p, skip, recv_ns)
        self.reported += 1
        if what is not None and self.reported <= REPORTED:
            sink.on_garbled(what, p[:min(skip, COPY_BYTES)] if what == "begin_string" else None, skip, recv_ns)
        return 0

    @property
    def unfinished(self):
        """Bytes received that make no whole frame yet."""
        return self.end - self.start

    @property
    def stats(self):
        """Counters of the stream, as a dict of ints."""
        return {
            "bytes": self.bytes_taken, "messages": self.messages, "garbage_bytes": self.garbage_bytes,
            "garbage": self.garbage, "bad_length": self.bad_length, "bad_checksum": self.bad_checksum,
            "bad_begin_string": self.bad_begin_string, "summed_in_vain": self.summed_in_vain,
        }
