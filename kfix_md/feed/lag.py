"""How late messages arrive: receive time minus SendingTime, less what the clocks provably differ by."""

from __future__ import annotations

from kfix_md.feed.pacing import SECOND

SUSPECT_TICKS = 2  # of the loop, after which a feed that was stopped has read what had piled up


class Lag:
    """Lag of one connection, and whether it is past the limit.

    A message cannot arrive before it was sent, so that each gives an upper bound of what our clock is ahead of the
    venue's; the answer to our Logon gives a lower one, as it was sent after the Logon was. Between the bounds the
    clocks are taken to differ by as little as possible: late messages are late, unless a clock must be off.

    Parameters
    ----------
    limit_ns : int
        `over` is True while messages arrive later than this.
    """

    def __init__(self, limit_ns: int) -> None:
        self.limit_ns = limit_ns
        self.offset_ns = 0  # our clock minus the venue's
        self.lag_ns = 0  # of the last message
        self.max_ns = 0  # the highest since the start
        self.over = False
        self.times = 0  # how often the limit was passed
        self._low_ns = self._high_ns = 0
        self._suspect = 0
        self.connected()

    def connected(self) -> None:
        """A new connection, perhaps to another gateway with another clock."""
        self._low_ns, self._high_ns = -(1 << 62), 1 << 62
        self.offset_ns = 0

    def answered(self, asked_ns: int, recv_ns: int, sending_ns: int) -> None:
        """The answer, sent at `sending_ns`, to what we sent at `asked_ns` came at `recv_ns`."""
        self._bound(asked_ns - sending_ns, recv_ns - sending_ns)

    def measured(self, recv_ns: int, sending_ns: int) -> bool:
        """A message came; True when `over` has changed."""
        lag_ns = recv_ns - sending_ns - self.offset_ns
        if lag_ns < 0:
            self._bound(self._low_ns, recv_ns - sending_ns)
            lag_ns = recv_ns - sending_ns - self.offset_ns
        self.lag_ns, self._suspect = lag_ns, 0
        self.max_ns = max(self.max_ns, lag_ns)
        return self._judge(lag_ns > self.limit_ns)

    def stopped(self, ns: int) -> bool:
        """This process did nothing for `ns`: what it has is as old, until it has read on; True when `over` changed."""
        if ns <= self.limit_ns:
            return False
        self.lag_ns, self._suspect = ns, SUSPECT_TICKS
        return self._judge(True)

    def tick(self) -> bool:
        """The loop went round; True when `over` has changed: nothing had piled up."""
        if not self._suspect:
            return False
        self._suspect -= 1
        if self._suspect:
            return False
        self.lag_ns = 0
        return self._judge(False)

    def _judge(self, over: bool) -> bool:
        if over == self.over:
            return False
        self.over = over
        self.times += over
        return True

    def _bound(self, low_ns: int, high_ns: int) -> None:
        """Our clock is ahead by low_ns to high_ns; where that contradicts what is known, a clock has drifted."""
        self._low_ns, self._high_ns = max(self._low_ns, low_ns), min(self._high_ns, high_ns)
        if self._low_ns > self._high_ns:
            self._low_ns, self._high_ns = min(low_ns, high_ns), high_ns
        self.offset_ns = max(self._low_ns, min(0, self._high_ns))

    @property
    def text(self) -> str:
        """The lag for people."""
        return f"{self.lag_ns / SECOND:.1f} s"
