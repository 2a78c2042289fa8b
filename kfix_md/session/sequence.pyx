"""The two MsgSeqNum counters of a session, shared between the hot loop and the session."""


cdef class Sequence:
    """The two counters of a FIX session, shared by the hot loop (which advances `expected`) and the session.

    `expected` is the next inbound MsgSeqNum (-1 before the first message of a stream that has no Logon),
    `outgoing` the next one we send.
    """

    def __cinit__(self, int64_t expected=1, int64_t outgoing=1):
        self.expected = expected
        self.outgoing = outgoing

    def verdict(self, int64_t seq):
        """Return 0 when `seq` is the expected number, else how far it is above (> 0) or below it (< 0)."""
        return 0 if self.expected < 0 else seq - self.expected

    def next_outgoing(self):
        """Take and return the next outgoing MsgSeqNum."""
        self.outgoing += 1
        return self.outgoing - 1

    def reset(self):
        """Both directions start at 1 again (141=Y)."""
        self.expected = 1
        self.outgoing = 1

    def __repr__(self):
        return f"Sequence(expected={self.expected}, outgoing={self.outgoing})"
