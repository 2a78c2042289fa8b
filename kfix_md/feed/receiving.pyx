"""What happens at each read, compiled: from the socket's bytes to the handler, and what there is to do afterwards.

A message that comes alone finds cold caches: what the interpreter needs for a few lines of Python costs more there than
decoding and publishing do. So a read that leaves nothing to do runs none.
"""

cimport cython
from libc.stdint cimport int64_t

from kfix_md._handler cimport Handler
from kfix_md.feed.lag cimport Lag
from kfix_md.shm.layout cimport kfix_monotonic

import time


@cython.boundscheck(True)
cpdef bint is_due(list waiting, int64_t now_ns) except -1:
    """Whether the time (int ns) of the first of some requests has come, which are tuples that begin with it."""
    if not waiting:
        return False
    cdef int64_t due_ns = (<tuple?>waiting[0])[0]
    return due_ns <= now_ns


cdef class Reads:
    """The reading side of a connection's protocol; the rest of it is in Python.

    Parameters
    ----------
    service : Receiving
    connector
        Its `clock` gives the time of a read; its `measure` is called once with the seconds that the next read takes.

    Attributes
    ----------
    answered : bool
        Bytes came from the venue.
    over : bool
        Nothing that still arrives counts.
    """

    cdef readonly object service, connector
    cdef public bint answered, over
    cdef object clock
    cdef bint own_clock         # the system's, which needs no Python
    cdef int64_t base_ns

    def __init__(self, service, connector):
        self.service, self.connector, self.clock = service, connector, connector.clock
        self.own_clock, self.base_ns = self.clock.monotonic is time.monotonic_ns, self.clock.base_ns

    cpdef int64_t now_ns(self) except? -1:
        """Time of the feed, int ns."""
        return kfix_monotonic() + self.base_ns if self.own_clock else self.clock.now_ns()

    def buffer_updated(self, Py_ssize_t nbytes):
        """Bytes were read into what `get_buffer` returned."""
        cdef int64_t recv_ns
        if self.over:
            return
        self.answered = True
        try:
            recv_ns = self.now_ns()
            has_output = self.service.received(nbytes, recv_ns)
            measure = self.connector.measure
            if measure is not None:
                self.connector.measure = None
                measure((self.now_ns() - recv_ns) / 1e9)
            if has_output:
                self.flush()
        except Exception:
            self.failed()


cdef class Receiving:
    """The part of a service that each read goes through; the rest of it is in Python, and sets these attributes."""

    cdef public object handler, session, subs
    cdef public Lag lag
    cdef public int64_t now_ns
    cdef public int64_t _doubt_ns   # since when not all books are verified; 0: all are
    cdef public object _resync      # the cause for which all books need new snapshots once no gap is open; None: none
    cdef public bint _gap_ended     # a gap of the session is over: are all books followed?
    cdef object link, gaps
    cdef list outbox, requests

    def _bind(self):
        """Called once `session`, `handler` and `subs` are made: what is looked at after a read."""
        self.link, self.gaps, self.outbox = self.session.link, self.session.gaps, self.session.outbox
        self.requests = self.subs.requests

    def received(self, int64_t n, int64_t now_ns):
        """`n` bytes were read into `handler.get_buffer()`; True when there is output, or the connection has to end."""
        cdef int64_t messages, sending_ns = 0
        cdef Handler handler
        self.now_ns = now_ns
        if type(self.handler) is Handler:
            handler = <Handler>self.handler
            messages = handler.take(n, now_ns)
            if handler.last_recv_ns == now_ns:
                sending_ns = handler.last_sending_ns
        else:   # such as one of a benchmark, which only finds the frames
            messages = self.handler.buffer_updated(n, now_ns)
        if messages:
            self.link.last_recv_ns = now_ns
            if sending_ns and self.lag.measured(now_ns, sending_ns):
                self._lag_changed()
        if self._gap_ended or self._doubt_ns or self._resync is not None or is_due(self.requests, now_ns) \
                or self.gaps.unsettled:
            self._after(now_ns)
        return len(self.outbox) > 0 or self.link.close_reason is not None
