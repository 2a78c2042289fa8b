"""What time alone brings: heartbeats, the test of a silent peer, and the end of waiting."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from kfix_md.session import fix
from kfix_md.session.recovery import Recovery
from kfix_md.session.types import SECOND, SessionState

LOGON_SENT, ON = SessionState.LOGON_SENT, SessionState.ON
LOGOUT_SENT, LOGGED_OUT = SessionState.LOGOUT_SENT, SessionState.LOGGED_OUT


class Liveness(Recovery):
    """The timers of a Session; the times they are compared with are kept by the Session's inputs."""

    if TYPE_CHECKING:
        heartbeat_s: int
        stats: Counter[str]
        _handler: Any

        def _save(self, now_ns: int) -> None: ...

    last_recv_ns = 0  # of a bound handler the fast path counts as well, at each tick
    last_sent_ns = 0
    _leave_text = ""  # 58 of the peer's Logout
    _now_ns = 0  # of the last tick
    _since_ns = 0  # when the present state began
    _probe_ns = 0  # TestRequest sent and nothing heard since

    def tick(self, now_ns: int) -> None:
        """Everything that time alone brings; call it at `next_timeout` or a few times a second."""
        self._now_ns = now_ns
        if self._handler is not None:  # what came by the fast path counts as heard
            self.last_recv_ns = max(self.last_recv_ns, self._handler.last_recv_ns)
        self.last_recv_ns = min(self.last_recv_ns, now_ns)  # a clock set back must not look like silence
        self.last_sent_ns = min(self.last_sent_ns, now_ns)
        self._since_ns = min(self._since_ns, now_ns)
        self.rollover_tick(now_ns)
        age = now_ns - self._since_ns
        if self.state == LOGON_SENT and age >= self.config.logon_timeout * SECOND:
            self.close("logon_timeout", "no Logon reply in time", now_ns)
        elif self.state == LOGGED_OUT and age >= self.config.logout_timeout * SECOND:
            self.close("logout_received", f"logged out by the venue: {self._leave_text or 'no text'}", now_ns)
        elif self.state == LOGOUT_SENT and age >= self.config.logout_timeout * SECOND:
            self.close("logout", "our Logout was not answered in time", now_ns, "never")
        if self.state in (ON, LOGOUT_SENT):
            self._check_silence(now_ns)
        if self.state in (ON, LOGOUT_SENT):
            self.check_gap(now_ns)
        if self.state in (ON, LOGOUT_SENT) and now_ns - self.last_sent_ns >= self._beat_ns():
            self.transmit("0", fix.heartbeat(), now_ns)
        self._save(now_ns)

    def _beat_ns(self) -> int:
        return int(self.heartbeat_s * 0.8 * SECOND)

    def _silence_ns(self, now_ns: int) -> tuple[int, int]:
        """When to send a TestRequest and when to give up; much sooner after the rollover instant."""
        patience = self.heartbeat_s
        if self.rollover_pending(now_ns):
            patience = min(patience, self.config.rollover_silence)
        return int(1.2 * patience * SECOND), int(2.4 * patience * SECOND)

    def _check_silence(self, now_ns: int) -> None:
        probe, drop = self._silence_ns(now_ns)
        silent = now_ns - self.last_recv_ns
        if self._probe_ns and self.last_recv_ns >= self._probe_ns:
            self._probe_ns = 0
        if silent >= probe and not self._probe_ns:
            self._probe_ns = now_ns
            self.count("test_requests")
            self.transmit("1", fix.test_request(f"TEST{now_ns}"), now_ns)
        elif silent >= drop and now_ns - self._probe_ns >= (drop - probe) // 2:
            self.close("silent", f"nothing received for {silent / SECOND:.1f} s", now_ns)

    @property
    def next_timeout(self) -> int:
        """When tick() has something to do next (int ns)."""
        now_ns = max(self._now_ns, self._since_ns, self.last_sent_ns)
        config, times = self.config, [self.rollover_timeout(now_ns)]
        if self.state == LOGON_SENT:
            times.append(self._since_ns + int(config.logon_timeout * SECOND))
        elif self.state in (LOGGED_OUT, LOGOUT_SENT):
            times.append(self._since_ns + int(config.logout_timeout * SECOND))
        if self.state in (ON, LOGOUT_SENT):
            probe, drop = self._silence_ns(now_ns)
            times.append(self.last_recv_ns + (drop if self._probe_ns else probe))
            times.append(self.last_sent_ns + self._beat_ns())
            times.append(self.gap_deadline())
        return min(time for time in times if time)
