"""Compares SendingTime (52) with our clock: measured always, judged against a limit when there is one."""

from collections.abc import Callable

from kfix_md.journal.events import ClockWarning
from kfix_md.session.link import Link
from kfix_md.session.message import Message
from kfix_md.session.types import SECOND, SessionState

_WARN_EVERY_NS = 60 * SECOND
#: messages in time within this show that the clocks agree: one that is late was delivered late
_AGREED_NS = 600 * SECOND


class SendingClock:
    """The peer's SendingTime against our receive times."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.step_ns = 0  # what is added to receive times: 0, or the sum of the wall clock's steps up to one of them
        self.on_step: Callable[[int], None] = lambda step_ns: None  # another one is added from now on
        self.logon_ns = 0, 0, 0  # when our last Logon was sent, when its answer came, and the SendingTime of that
        self.lag_ns = 0  # our receive time minus SendingTime, of the last message measured
        self._warned_ns = 0
        self._in_time_ns = 0  # when the last message within the warning limit was received, 0: none

    def _lag(self, recv_ns: int, sending_ns: int) -> int:
        """Receive time minus SendingTime, by the clock that agrees with the peer's.

        After a step of ours, that is the clock as it was before or as it is now: a clock that was set wrong ends no
        session, nor does one that was put right.
        """
        lag, step_ns = recv_ns + self.step_ns - sending_ns, self._link.clock_step_ns
        if step_ns != self.step_ns and abs(lag) > self._link.config.sending_time_warning * SECOND:
            other = recv_ns + step_ns - sending_ns
            if abs(other) < abs(lag):
                lag, self.step_ns = other, step_ns
                self.on_step(step_ns)
        return lag

    def is_off(self, m: Message, sending_ns: int) -> bool:
        """Measure one message; True when its SendingTime is past the limit."""
        config, lag = self._link.config, self._lag(m.recv_ns, sending_ns)
        if m.type == "A" and self._link.state == SessionState.LOGON_SENT:
            self.logon_ns = self._link.state_since_ns, m.recv_ns, sending_ns
        if not m.possdup:
            self.lag_ns = lag
            if abs(lag) <= config.sending_time_warning * SECOND:
                self._in_time_ns = m.recv_ns
            elif m.recv_ns - self._warned_ns > _WARN_EVERY_NS:
                self._warned_ns = m.recv_ns
                agreed = 0 <= m.recv_ns - self._in_time_ns < _AGREED_NS
                self._link.event(m.recv_ns, ClockWarning(lag // 1_000_000, late=lag > 0 and agreed))
        limit = config.sending_time_limit
        return limit is not None and abs(lag) > limit * SECOND
