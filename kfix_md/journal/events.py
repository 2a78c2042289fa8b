"""Defines the session events of the journal as typed records; event_json.py converts them to and from JSON.

A field made by `optional` is not stored while it has its default. Readers of older journals get None (0, "" where a
field cannot be None) for what is missing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

OPTIONAL = "optional"
Int32 = Annotated[int, 32]
Precisions = dict[str, tuple[int, int]]  # of prices and quantities, by symbol


def optional(default: Any = None) -> Any:
    """A field that is not stored while it has its default."""
    return dataclasses.field(default=default, metadata={OPTIONAL: True})


@dataclass(frozen=True, slots=True)
class JournalEvent:
    """Base of all events."""

    type: ClassVar[str] = ""
    layout: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Unknown(JournalEvent):
    """An event of a type that this version does not know."""

    name: str


# ---- the feed process ----


@dataclass(frozen=True, slots=True)
class Started(JournalEvent):
    """A feed process began. `recovered` reports what its dead predecessor left, see JournalWriter."""

    type: ClassVar[str] = "started"
    version: str | None = None
    pid: int | None = None
    feed: str | None = None
    recovered: dict[str, Any] | None = optional()  # noqa: RUF009


@dataclass(frozen=True, slots=True)
class Stopped(JournalEvent):
    """A feed process ended in order."""

    type: ClassVar[str] = "stopped"


@dataclass(frozen=True, slots=True)
class JournalLost(JournalEvent):
    """Records could not be stored: how many, and receive times of the first and the last, ns."""

    type: ClassVar[str] = "journal_lost"
    count: int | None
    first: int | None
    last: int | None


# ---- connection and session ----


@dataclass(frozen=True, slots=True)
class SessionDescribed(JournalEvent):
    """What a feed session number means: written once by each feed process. `depth`: 264 MarketDepth, 0 all."""

    type: ClassVar[str] = "session"
    number: int | None
    service: str | None
    level: str | None
    host: str | None
    port: Int32 | None
    sender: str | None
    target: str | None
    depth: Int32 | None = optional()  # noqa: RUF009


@dataclass(frozen=True, slots=True)
class Carried(JournalEvent):
    """The instruments whose messages the feed session can apply, repeated at the start of a segment.

    With it and the event `session` before it a segment can be decoded alone.
    """

    type: ClassVar[str] = "carried"
    instruments: Precisions


@dataclass(frozen=True, slots=True)
class Connected(JournalEvent):
    """The transport is up."""

    type: ClassVar[str] = "connected"
    details: str | None


@dataclass(frozen=True, slots=True)
class LoggedOn(JournalEvent):
    """The Logon reply was accepted. `next_in`, `next_out`: MsgSeqNum expected and to be sent next."""

    type: ClassVar[str] = "logged_on"
    session_id: str | None
    heartbeat: int | None
    reset: bool | None
    next_in: int | None
    next_out: int | None


@dataclass(frozen=True, slots=True)
class Logout(JournalEvent):
    """35=5 was received; `by` is "us" when it answers ours, else "peer"."""

    type: ClassVar[str] = "logout"
    by: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class Disconnected(JournalEvent):
    """The transport is gone. `logged_on`: whether the session was."""

    type: ClassVar[str] = "disconnected"
    reason: str | None
    cause: str | None
    planned: bool | None
    logged_on: bool | None


@dataclass(frozen=True, slots=True)
class NumberingReset(JournalEvent):
    """MsgSeqNum restarts inside one connection."""

    type: ClassVar[str] = "reset"
    form: str | None
    planned: bool | None


@dataclass(frozen=True, slots=True)
class Rollover(JournalEvent):
    """A phase of the planned reset at 22:00 UTC: armed, date, began, logged_on, verified."""

    type: ClassVar[str] = "rollover"
    phase: str
    form: str | None = optional()
    seconds: float | None = optional()
    seconds_after: float | None = optional()
    at: int | None = optional()
    date: str | None = optional()


@dataclass(frozen=True, slots=True)
class Garbled(JournalEvent):
    """Bytes that are no FIX message."""

    type: ClassVar[str] = "garbled"
    what: str | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Rejected(JournalEvent):
    """35=3: the venue rejected a message of ours. Tags 45, 371, 372, 373, 58."""

    type: ClassVar[str] = "rejected"
    ref_seq: int | None
    ref_tag: str | None
    ref_type: str | None
    reason: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class ClockWarning(JournalEvent):
    """Our clock and 52 SendingTime differ by more than the warning limit; positive: ours is ahead.

    `late`: messages came in time shortly before, so that it is the delivery that is late and no clock that is off.
    """

    type: ClassVar[str] = "clock_warning"
    lag_ms: int | None
    late: bool = optional(False)


@dataclass(frozen=True, slots=True)
class Lagging(JournalEvent):
    """Messages began (`over`) or ceased to arrive later than feed.max_lag_s after their SendingTime."""

    type: ClassVar[str] = "lagging"
    over: bool | None
    lag_ms: int | None


@dataclass(frozen=True, slots=True)
class ClockStepped(JournalEvent):
    """The feed's wall clock was set to another time: receive times jump by `step_ms` here, elapsed times do not."""

    type: ClassVar[str] = "clock_stepped"
    step_ms: int | None


# ---- gaps ----


@dataclass(frozen=True, slots=True)
class GapOpened(JournalEvent):
    """Messages are missing, or one book cannot be trusted. `last` None: not known yet."""

    type: ClassVar[str] = "gap_open"
    id: int | None
    first: int | None
    last: int | None
    cause: str | None
    symbols: tuple[str, ...] = ()
    detail: str | None = optional()


@dataclass(frozen=True, slots=True)
class GapClosed(JournalEvent):
    """A gap is over. `healed`: replay, snapshot, reconnect, unsubscribed."""

    type: ClassVar[str] = "gap_close"
    id: int | None
    healed: str | None
    first: int | None = optional()
    last: int | None = optional()


@dataclass(frozen=True, slots=True)
class Released(JournalEvent):
    """Deferred frames with these MsgSeqNum were applied now."""

    type: ClassVar[str] = "released"
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class Discarded(JournalEvent):
    """Deferred frames with these MsgSeqNum were never applied."""

    type: ClassVar[str] = "discarded"
    first: int | None
    last: int | None


# ---- subscriptions and books ----


@dataclass(frozen=True, slots=True)
class Subscribed(JournalEvent):
    """35=V was sent for a symbol."""

    type: ClassVar[str] = "subscribed"
    symbol: str | None
    md_req_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribed(JournalEvent):
    """A symbol is no longer wanted."""

    type: ClassVar[str] = "unsubscribed"
    symbol: str | None


@dataclass(frozen=True, slots=True)
class Refused(JournalEvent):
    """The venue refused a subscription."""

    type: ClassVar[str] = "refused"
    symbol: str | None
    why: str | None


@dataclass(frozen=True, slots=True)
class BookChanged(JournalEvent):
    """A book changed its state (names of State and Cause) at MsgSeqNum `seq`."""

    type: ClassVar[str] = "book"
    symbol: str | None
    state: str | None
    cause: str | None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Served(JournalEvent):
    """A hot pair publishes a symbol from this feed session now."""

    type: ClassVar[str] = "served"
    symbol: str | None
    session: int | None


@dataclass(frozen=True, slots=True)
class ChecksumRule(JournalEvent):
    """A symbol has shown which rule of 5041 holds; precisions: of its text, where not those of the instrument list."""

    type: ClassVar[str] = "checksum_rule"
    rule: str | None
    symbol: str | None = optional()
    price_precision: int | None = optional()
    qty_precision: int | None = optional()


@dataclass(frozen=True, slots=True)
class Verified(JournalEvent):
    """Every book of the session is verified again."""

    type: ClassVar[str] = "verified"


@dataclass(frozen=True, slots=True)
class TradingStatus(JournalEvent):
    """35=h: the trading session's status in text."""

    type: ClassVar[str] = "trading_status"
    status: str | None


TYPES: dict[str, type[JournalEvent]] = {kind.type: kind for kind in JournalEvent.__subclasses__() if kind.type}
