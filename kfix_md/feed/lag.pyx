"""How late messages arrive: receive time minus SendingTime, less what the clocks provably differ by."""

from libc.stdint cimport int64_t

from kfix_md.feed.pacing import SECOND

CONFIRMED = 3  # messages in a row by which our clock is less ahead than was known, before that is believed
SUSPECT_TICKS = 2  # of the loop, after which a feed that was stopped has read what had piled up

cdef int CONFIRMED_TIMES = CONFIRMED
cdef int64_t FAR = <int64_t>1 << 62     # ns: the year 2116


cdef inline int64_t bounded(int64_t sending_ns) noexcept:
    # a time whose differences from ours, and theirs from each other, fit in 64 bits
    return min(max(sending_ns, -FAR // 2), FAR)


cdef class Lag:
    """Lag of one connection, and whether it is past the limit.

    A message cannot arrive before it was sent, so that each gives an upper bound of what our clock is ahead of the
    venue's; the answer to our Logon gives a lower one, as it was sent after the Logon was. Between the bounds the
    clocks are taken to differ by as little as possible: late messages are late, unless a clock must be off. One message
    with a wrong SendingTime must not make all that follow late: a clock is off when several in a row show it.

    Parameters
    ----------
    limit_ns : int
        `over` is True while messages arrive later than this.
    """

    def __init__(self, int64_t limit_ns):
        self.limit_ns = limit_ns
        self.connected()

    def connected(self):
        """A new connection, perhaps to another gateway with another clock."""
        self.low_ns, self.high_ns = -FAR, FAR
        self.offset_ns = self.early = 0

    def answered(self, int64_t asked_ns, int64_t recv_ns, int64_t sending_ns):
        """The answer, sent at `sending_ns`, to what we sent at `asked_ns` came at `recv_ns`."""
        sending_ns = bounded(sending_ns)
        self.bound(asked_ns - sending_ns, recv_ns - sending_ns)

    cpdef bint measured(self, int64_t recv_ns, int64_t sending_ns):
        """A message came; True when `over` has changed."""
        cdef int64_t apart_ns = recv_ns - bounded(sending_ns)
        if apart_ns < self.offset_ns:
            self.came_early(apart_ns)
        else:
            self.early = 0
        self.lag_ns, self.suspect = max(apart_ns - self.offset_ns, 0), 0
        self.max_ns = max(self.max_ns, self.lag_ns)
        return self.judge(self.lag_ns > self.limit_ns)

    def stopped(self, int64_t ns):
        """This process did nothing for `ns`: what it has is as old, until it has read on; True when `over` changed."""
        if ns <= self.limit_ns:
            return False
        self.lag_ns, self.suspect = ns, SUSPECT_TICKS
        return self.judge(True)

    def tick(self):
        """The loop went round; True when `over` has changed: nothing had piled up."""
        if not self.suspect:
            return False
        self.suspect -= 1
        if self.suspect:
            return False
        self.lag_ns = 0
        return self.judge(False)

    cdef bint judge(self, bint over):
        if over == self.over:
            return False
        self.over = over
        self.times += over
        return True

    cdef void came_early(self, int64_t apart_ns) noexcept:
        # a message from the future, by what is known of the clocks
        self.early_ns = max(self.early_ns, apart_ns) if self.early else apart_ns
        self.early += 1
        if self.early >= CONFIRMED_TIMES:
            self.bound(self.low_ns, self.early_ns)
            self.early = 0

    cdef void bound(self, int64_t low_ns, int64_t high_ns) noexcept:
        # our clock is ahead by low_ns to high_ns; where that contradicts what is known, a clock has drifted
        self.low_ns, self.high_ns = max(self.low_ns, low_ns), min(self.high_ns, high_ns)
        if self.low_ns > self.high_ns:
            self.low_ns, self.high_ns = min(low_ns, high_ns), high_ns
        self.offset_ns = max(self.low_ns, min(0, self.high_ns))

    @property
    def text(self):
        """The lag for people."""
        return f"{self.lag_ns / SECOND:.1f} s"
