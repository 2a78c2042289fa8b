"""Pacing of requests: a token bucket, growing pauses after failures, and the state of one subscription."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum

from kfix_md._entry import Cause

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SubscriptionSpec:
    """What to subscribe on one service, from its section of the configuration."""

    patterns: tuple[str, ...]
    level: str = "L2"
    depth: int = 1000
    trades: bool = True
    spot: bool = True
    securities: tuple[str, ...] = ("ALL",)  # security types whose instrument lists are requested; ALL: one list

    @property
    def book_depth(self) -> int:
        """Levels of each side that the venue sends, 0 for all: 264=0 on L2 means 1,000."""
        return 1000 if self.depth == 0 and self.level == "L2" else self.depth


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast requests may go out, and how pauses grow after failures."""

    burst: int = 100
    per_second: float = 1000.0
    answer_ns: int = 10 * SECOND  # a request is repeated after this time without an answer, then after twice as long...
    first_retry_ns: int = SECOND // 2
    longest_retry_ns: int = 300 * SECOND
    calm_ns: int = 60 * SECOND  # a book that was good for so long has its failures forgotten
    quarantine_after: int = 4  # failures in a row

    def patience(self, rng: random.Random, failures: int) -> int:
        """Nanoseconds to wait after `failures` failures in a row: 0 for the first, then doubling."""
        if failures <= 1:
            return 0
        delay = min(self.first_retry_ns << min(failures - 2, 20), self.longest_retry_ns)
        return int(delay * rng.uniform(0.75, 1.25))

    def answer_within(self, failures: int) -> int:
        """Nanoseconds to wait for an answer after `failures` failures in a row.

        It doubles, because repeating requests quickly would slow down a loaded venue even more.
        """
        return max(self.answer_ns, min(self.answer_ns << min(failures, 20), self.longest_retry_ns))


class Phase(Enum):
    """Stage of one subscription."""

    WAITING = "waiting"  # a request is due at `due_ns`
    REQUESTED = "requested"  # sent, no snapshot yet
    ACTIVE = "active"
    HALTED = "halted"  # subscribed, in maintenance
    LEFT_OUT = "left out"  # something of ours failed for this symbol
    ENDED = "ended"  # no longer selected


@dataclass(slots=True)
class Subscription:
    """State of one symbol's subscription."""

    symbol: str
    phase: Phase = Phase.WAITING
    md_req_id: str = ""  # open at the venue in this connection
    due_ns: int = 0
    requested_ns: int = 0
    live_ns: int = 0
    failures: int = 0
    cause: Cause = Cause.NONE
    defined: bool = False  # the handler knows the symbol, so that its book can be marked

    def quarantined(self, pace: Pace) -> bool:
        """True after so many failures in a row that attempts are rare."""
        return self.failures >= pace.quarantine_after


@dataclass(slots=True)
class Bucket:
    """Token bucket: of requests, or of rows that are read."""

    burst: float
    per_second: float
    tokens: float = 0.0
    at_ns: int = 0

    def held(self, now_ns: int) -> int:
        """How many tokens there are."""
        passed = max(0, now_ns - self.at_ns) / SECOND
        self.tokens = min(self.burst, self.tokens + passed * self.per_second)
        self.at_ns = now_ns
        return int(self.tokens)

    def take(self, now_ns: int, tokens: int = 1) -> bool:
        """Take so many tokens if there are."""
        if self.held(now_ns) < tokens:
            return False
        self.tokens -= tokens
        return True

    def full_in(self, now_ns: int) -> int:
        """Nanoseconds until it is full."""
        self.held(now_ns)
        return int((self.burst - self.tokens) / self.per_second * SECOND)


@dataclass(slots=True)
class RequestCounters:
    """What happened since the start."""

    subscribed: int = 0
    rejected: int = 0
    unanswered: int = 0
    faults: dict[str, int] = field(default_factory=dict)
