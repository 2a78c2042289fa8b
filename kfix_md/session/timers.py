"""What time alone brings: heartbeats, the test of a silent peer, and the end of waiting."""

from kfix_md.session import fix
from kfix_md.session.link import Link
from kfix_md.session.recovery import GapRecovery
from kfix_md.session.types import LOGGED_ON, SECOND, SessionState


class Timers:
    """Compares the times of a session with the clock passed in.

    Silence: a TestRequest after 1.2 heartbeat intervals without a byte, the end after 2.4 (FIX 4.4, volume 2,
    leaves both to the implementation).
    """

    def __init__(self, link: Link, gaps: GapRecovery) -> None:
        self._link, self._gaps = link, gaps
        self.heartbeat_s = link.config.heartbeat
        self._now_ns = 0  # of the last tick
        self._tested_ns = 0  # a TestRequest was sent then and nothing was received since
        self._last_test_ns = self._test_due_ns = 0

    def connected(self, now_ns: int) -> None:
        """A new connection: silence is counted from now."""
        self.heartbeat_s = self._link.config.heartbeat
        self._link.last_recv_ns, self._tested_ns = now_ns, 0
        self._last_test_ns = self._test_due_ns = 0

    def received(self, recv_ns: int) -> None:
        """The peer sent something."""
        self._link.last_recv_ns = max(self._link.last_recv_ns, recv_ns)
        self._tested_ns = 0

    def something_lost(self, now_ns: int) -> None:
        """A message was garbled: a TestRequest, whose answer shows what is missing, at most one per second."""
        if self._link.state != SessionState.ON:
            return
        due_ns = self._last_test_ns + SECOND
        if now_ns >= due_ns:
            self._test(now_ns)
        else:
            self._test_due_ns = due_ns

    def tick(self, now_ns: int) -> None:
        """Do what is due."""
        link = self._link
        self._now_ns = now_ns
        # a clock set back must not look like silence
        link.last_recv_ns = min(link.last_recv_ns, now_ns)
        link.last_sent_ns = min(link.last_sent_ns, now_ns)
        link.state_since_ns = min(link.state_since_ns, now_ns)
        self._check_state(now_ns)
        if link.state in LOGGED_ON:
            self._check_silence(now_ns)
        if link.state in LOGGED_ON:
            self._gaps.check(now_ns)
        if link.state in LOGGED_ON and now_ns - link.last_sent_ns >= self._beat_ns():
            link.transmit("0", fix.heartbeat(), now_ns)

    def _check_state(self, now_ns: int) -> None:
        link, timeout = self._link, self._state_timeout_ns()
        if not timeout or now_ns - link.state_since_ns < timeout:
            return
        if link.state == SessionState.LOGON_SENT:
            link.close("logon_timeout", "no Logon reply in time", now_ns)
        elif link.state == SessionState.LOGGED_OUT:
            text = f"logged out by the venue: {link.peer_text or 'no text'}"
            link.close("logout_received", text, now_ns, link.peer_retry)
        else:
            link.close("logout", "our Logout was not answered in time", now_ns, "never")

    def _state_timeout_ns(self) -> int:
        """How long the present state may last; 0: as long as it likes."""
        config, state = self._link.config, self._link.state
        if state == SessionState.LOGON_SENT:
            return int(config.logon_timeout * SECOND)
        if state == SessionState.LOGOUT_SENT:
            return int(config.logout_timeout * SECOND)
        if state == SessionState.LOGGED_OUT:
            return int(config.peer_close_timeout * SECOND)
        return 0

    def _beat_ns(self) -> int:
        return int(self.heartbeat_s * 0.8 * SECOND)

    def _silence_ns(self, now_ns: int) -> tuple[int, int]:
        """When to send a TestRequest and when to give up; much sooner after the rollover instant."""
        patience = float(self.heartbeat_s)
        if self._link.rollover.pending(now_ns):
            patience = min(patience, self._link.config.rollover_silence)
        return int(1.2 * patience * SECOND), int(2.4 * patience * SECOND)

    def _check_silence(self, now_ns: int) -> None:
        test_ns, drop_ns = self._silence_ns(now_ns)
        silent = now_ns - self._link.last_recv_ns
        if self._tested_ns and self._link.last_recv_ns >= self._tested_ns:
            self._tested_ns = 0
        due = self._test_due_ns and now_ns >= self._test_due_ns
        if due or (silent >= test_ns and not self._tested_ns):
            self._test(now_ns)
        elif silent >= drop_ns and now_ns - self._tested_ns >= (drop_ns - test_ns) // 2:
            self._link.close("silent", f"nothing received for {silent / SECOND:.1f} s", now_ns)

    def _test(self, now_ns: int) -> None:
        self._tested_ns = self._last_test_ns = now_ns
        self._test_due_ns = 0
        self._link.count("test_requests")
        self._link.transmit("1", fix.test_request(f"TEST{now_ns}"), now_ns)

    @property
    def next_timeout(self) -> int:
        """When tick() has something to do next (int ns)."""
        link = self._link
        now_ns = max(self._now_ns, link.state_since_ns, link.last_sent_ns)
        times = [link.rollover.timeout(now_ns)]
        if self._state_timeout_ns():
            times.append(link.state_since_ns + self._state_timeout_ns())
        if link.state in LOGGED_ON:
            test_ns, drop_ns = self._silence_ns(now_ns)
            times.append(link.last_recv_ns + (drop_ns if self._tested_ns else test_ns))
            times.append(link.last_sent_ns + self._beat_ns())
            times += [self._gaps.deadline(), self._test_due_ns]
        return min(time for time in times if time)
