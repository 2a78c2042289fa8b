"""The planned daily reset of the venue (22:00 UTC): its window, its progress and the trading date."""

from kfix_md.session.types import SECOND, SessionConfig


class RolloverWindow:
    """The planned reset: which instant is near, whether we are in its window, and how this one went.

    Pure arithmetic on the times passed in; nothing here reads a clock. `clock_step_ns` is how far the time of day is
    ahead of them; instants are such times, too.
    """

    def __init__(self, config: SessionConfig) -> None:
        self._every = config.rollover_every * SECOND
        self._at = config.rollover_at * SECOND
        self.clock_step_ns = 0
        # a short period (tests, chaos runs) must not make every moment a rollover
        self._lead = min(int(config.rollover_lead * SECOND), self._every // 4)
        self._patience = min(int(config.rollover_patience * SECOND), self._every // 2)
        self.armed_for = 0  # the instant announced as near
        self.began_ns = self.logged_on_ns = self.verified_ns = 0  # how far this one has come (0: not yet)
        self.form = ""
        self._turned_for = 0  # the instant whose new trading date was announced

    @property
    def _offset(self) -> int:
        return (self._at - self.clock_step_ns) % self._every

    def arm(self, now_ns: int) -> bool:
        """True once per window, at its first tick (or at the first sign of the rollover)."""
        if not self.armed(now_ns) or self.armed_for == self.instant(now_ns):
            return False
        self.armed_for = self.instant(now_ns)
        self.began_ns = self.logged_on_ns = self.verified_ns = 0
        self.form = ""
        return True

    def began(self, form: str, now_ns: int) -> bool:
        """The rollover reached us; True the first time in a window."""
        self.arm(now_ns)
        if self.began_ns:
            return False
        self.began_ns, self.form = now_ns, form
        return True

    def logged_on(self, now_ns: int) -> bool:
        """Logged on (or renumbered); True the first time after the rollover began."""
        if not self.began_ns or self.logged_on_ns:
            return False
        self.logged_on_ns = now_ns
        return True

    def verified(self, now_ns: int) -> bool:
        """Every book was verified; True the first time after the rollover began."""
        if not self.began_ns or self.verified_ns:
            return False
        self.verified_ns = now_ns
        return True

    def seconds(self, now_ns: int) -> float:
        """Seconds since the rollover reached us."""
        return (now_ns - self.began_ns) / SECOND

    def turn(self, now_ns: int) -> bool:
        """True once when the instant has passed: a new trading date."""
        last, before = self.last_instant(now_ns), self._turned_for
        self._turned_for = max(last, before)
        return 0 < before < last

    def pending(self, now_ns: int) -> bool:
        """The instant has passed, its window is open, and nothing has happened yet."""
        return self.passed(now_ns) and not self.began_ns

    def timeout(self, now_ns: int) -> int:
        """The next moment (int ns) at which arm() or turn() may change something."""
        window = self.window_start(now_ns)
        return window if window > now_ns else self.next_instant(now_ns + 1)

    def instant(self, now_ns: int) -> int:
        """The instant whose window may hold `now_ns`: the next one, or the last while still patient."""
        last = (now_ns - self._offset) // self._every * self._every + self._offset
        return last if now_ns - last <= self._patience else last + self._every

    def next_instant(self, now_ns: int) -> int:
        """The next rollover at or after `now_ns` (countdowns, journal segments)."""
        return -(-(now_ns - self._offset) // self._every) * self._every + self._offset

    def last_instant(self, now_ns: int) -> int:
        """The last rollover at or before `now_ns`."""
        return (now_ns - self._offset) // self._every * self._every + self._offset

    def armed(self, now_ns: int) -> bool:
        """True inside the window: a close, a reset or a refusal is expected and no alarm."""
        return now_ns >= self.instant(now_ns) - self._lead

    def passed(self, now_ns: int) -> bool:
        """True from the instant itself to the end of the window."""
        return self.armed(now_ns) and now_ns >= self.instant(now_ns)

    def window_start(self, now_ns: int) -> int:
        """When the window of the next or present rollover opens."""
        return self.instant(now_ns) - self._lead
