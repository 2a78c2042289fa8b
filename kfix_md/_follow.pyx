"""Follows a journal: brings its records to the books of a Handler, in the order in which the feed applied them."""

from libc.stdint cimport int64_t, uint16_t, uint64_t

from kfix_md._entry cimport (
    MSG_BAD_BOOK, MSG_CRC_CHECKED, MSG_CRC_OK, MSG_DEFERRED, MSG_IGNORED, MSG_UNVERIFIED,
)
from kfix_md._fields cimport Header
from kfix_md._frame cimport PADDING
from kfix_md._handler cimport Handler
from kfix_md.journal.reader cimport JournalReader
from kfix_md.journal.records cimport REC_FRAME, Record, is_frame, is_market_data, type_at

cdef enum:
    MAX_DEFERRED_BYTES = 268435456      # of one session's open gap

# what a message did to its book, by the feed's own judgement and by ours
cdef uint16_t VERDICT = MSG_CRC_CHECKED | MSG_CRC_OK | MSG_BAD_BOOK | MSG_IGNORED | MSG_UNVERIFIED


cdef class FollowedSession:
    """One session of a feed, its messages applied to a Handler.

    Attributes
    ----------
    messages : int
        W and X applied.
    differ : int
        Those whose verdict (5041 compared and right, applied) is not the one that the feed has recorded.
    not_applied : int
        Those that could not be applied: no frame, or too many that wait in a gap.
    first_difference : tuple or None
        (position, recorded flags, flags here) of the first message that differs.
    """

    cdef readonly Handler handler
    cdef readonly uint64_t messages, differ, not_applied
    cdef readonly int64_t recv_ns           # of the last record
    cdef readonly object first_difference
    cdef list deferred                      # (MsgSeqNum, position, receive time, flags, frame) of an open gap
    cdef int64_t deferred_bytes

    def __cinit__(self, Handler handler not None):
        self.handler = handler
        self.deferred = []

    cdef int add(self, Record* r) except -1:
        """Take one W or X of the journal."""
        self.recv_ns = r.recv_ns
        if r.flags & MSG_IGNORED:
            return 0
        if not is_frame(r.data, r.length):
            self.not_applied += 1
        elif r.flags & MSG_DEFERRED:
            self.hold(r)
        else:
            self.apply(r.data, r.length, r.position, r.recv_ns, r.flags)
        return 0

    cdef int apply(self, const char* frame, Py_ssize_t n, uint64_t position, int64_t recv_ns,
                   uint16_t recorded) except -1:
        cdef int found
        try:
            found = self.handler.process_recorded(frame, n, recv_ns, 0)
        except Exception as error:
            found = MSG_IGNORED | MSG_BAD_BOOK
            if self.handler.data.row < 0:
                raise
            self.handler.data.fail(self.handler.data.row, error, recv_ns)
        self.messages += 1
        # the journal does not have what the feed made of a message that waited in a gap
        if not recorded & MSG_DEFERRED and (found ^ recorded) & VERDICT:
            self.differ += 1
            if self.first_difference is None:
                self.first_difference = position, recorded, found
        return 0

    cdef int hold(self, Record* r) except -1:
        cdef Header h
        if self.deferred_bytes + r.length > MAX_DEFERRED_BYTES:
            self.not_applied += 1
            return 0
        self.handler.codec.read_header(r.data + type_at(r.data, r.length) - 3, r.data + r.length - 7, &h)
        self.deferred.append((h.seq, r.position, r.recv_ns, r.flags, r.data[:r.length]))
        self.deferred_bytes += r.length
        return 0

    def release(self, first, last):
        """Apply the deferred messages with these MsgSeqNum now, in their order."""
        cdef bytes padded
        for _, position, recv_ns, flags, frame in sorted(self._take(first, last), key=lambda held: held[0]):
            padded = frame + b"\0" * PADDING
            self.apply(padded, len(frame), position, recv_ns, flags)
        self.publish()

    def discard(self, first=0, last=None):
        """Forget the deferred messages with these MsgSeqNum (all): they were never applied."""
        self._take(first, last)

    def _take(self, first, last):
        taken = [held for held in self.deferred if held[0] >= first and (last is None or held[0] <= last)]
        self.deferred = [held for held in self.deferred if held[0] < first or (last is not None and held[0] > last)]
        self.deferred_bytes = sum(len(held[4]) for held in self.deferred)
        return taken

    def publish(self):
        """Publish what the messages since the last publication have changed."""
        self.handler.books.publish_pending()


def follow(JournalReader reader not None, list sessions not None, Py_ssize_t max_records):
    """Read on until something needs attention, or `max_records` are read.

    W and X are applied to `sessions[session number]` (FollowedSession; a list, None where there is none).

    Returns
    -------
    what : str
        "nothing" (the end of the journal for now), "record" (an event, another frame, or one of an unknown session),
        "some" (`max_records` are read), "damaged" (see reader.damage).
    record : tuple or None
        As of JournalReader.
    """
    cdef Record r
    cdef int got
    cdef Py_ssize_t _i
    for _i in range(max_records):
        got = reader.next(&r)
        if got <= 0:
            _publish(sessions)
            return ("damaged" if got < 0 else "nothing"), None
        if (r.kind == REC_FRAME and r.session < len(sessions) and sessions[r.session] is not None
                and is_market_data(r.data, r.length)):
            (<FollowedSession> sessions[r.session]).add(&r)
            continue
        _publish(sessions)      # an event may be about what was received before it
        return "record", (r.position, r.kind, r.session, r.recv_ns, r.flags, r.data[:r.length])
    _publish(sessions)
    return "some", None


cdef int _publish(list sessions) except -1:
    for session in sessions:
        if session is not None:
            (<FollowedSession> session).handler.books.publish_pending()
    return 0


def skip_market_data(JournalReader reader not None):
    """The next record that is no W or X, as of JournalReader; None at the end for now, and at damage."""
    cdef Record r
    while reader.next(&r) == 1:
        if r.kind != REC_FRAME or not is_market_data(r.data, r.length):
            return (r.position, r.kind, r.session, r.recv_ns, r.flags, r.data[:r.length])
    return None
