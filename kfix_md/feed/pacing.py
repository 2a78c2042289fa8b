"""How fast requests may go out, how patience grows, and the record of one symbol's way to a live book."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum

from kfix_md._entry import Cause

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SubscriptionSpec:
    """What one service is to deliver, from its section of the configuration."""

    patterns: tuple[str, ...]
    level: str = "L2"
    depth: int = 1000
    trades: bool = True
    spot: bool = True


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast requests may go out, and how patience grows."""

    burst: int = 100
    per_second: float = 1000.0
    answer_ns: int = 10 * SECOND  # a request without an answer for so long is made again, then twice as long...
    first_retry_ns: int = SECOND // 2
    longest_retry_ns: int = 300 * SECOND
    calm_ns: int = 60 * SECOND  # a book that was good for so long starts with a clean record
    quarantine_after: int = 4  # failures in a row

    def patience(self, rng: random.Random, failures: int) -> int:
        """Nanoseconds to wait after so many failures in a row: nothing for the first, then doubling."""
        if failures <= 1:
            return 0
        delay = min(self.first_retry_ns << min(failures - 2, 20), self.longest_retry_ns)
        return int(delay * rng.uniform(0.75, 1.25))

    def answer_within(self, failures: int) -> int:
        """Nanoseconds to wait for an answer after so many failures in a row.

        A venue that is slow under load would be made slower by the same questions again and again.
        """
        return max(self.answer_ns, min(self.answer_ns << min(failures, 20), self.longest_retry_ns))


class Phase(Enum):
    """Where one symbol stands."""

    WAITING = "waiting"  # a request is due at `due_ns`
    REQUESTED = "requested"  # sent, no snapshot yet
    ACTIVE = "active"
    HALTED = "halted"  # subscribed, in maintenance


@dataclass(slots=True)
class Subscription:
    """One symbol's way to a live book."""

    symbol: str
    phase: Phase = Phase.WAITING
    md_req_id: str = ""  # open at the venue in this connection
    due_ns: int = 0
    asked_ns: int = 0
    live_ns: int = 0
    failures: int = 0
    cause: Cause = Cause.NONE

    def quarantined(self, pace: Pace) -> bool:
        """It failed so often in a row that it is tried rarely."""
        return self.failures >= pace.quarantine_after


@dataclass(slots=True)
class Bucket:
    """Token bucket of requests."""

    burst: float
    per_second: float
    tokens: float = 0.0
    at_ns: int = 0

    def take(self, now_ns: int) -> bool:
        passed = max(0, now_ns - self.at_ns) / SECOND
        self.tokens = min(self.burst, self.tokens + passed * self.per_second)
        self.at_ns = now_ns
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    subscribed: int = 0
    rejected: int = 0
    unanswered: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    list_errors: int = 0
