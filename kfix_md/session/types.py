"""States, settings and records of a session, and the calls it makes to its application."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol

from kfix_md.errors import UsageError
from kfix_md.journal.events import JournalEvent
from kfix_md.session.fix import decode_secret
from kfix_md.session.sequence import Sequence
from kfix_md.trading_day import DAY_S, ROLLOVER_S

SECOND = 1_000_000_000
Fields = list[tuple[int, bytes]]

#: when to connect again: at once, about every 2 s, exponential, after a long pause (identity), never (we logged out)
Retry = Literal["now", "rollover", "backoff", "long", "never"]
#: what ended a gap: the missing messages, new snapshots, or a new connection
Healed = Literal["replay", "snapshot", "reconnect"]


class LocalError(UsageError):
    """Our own side used the session wrongly (the peer's mistakes never raise: they end in close_reason)."""


class SessionState(IntEnum):
    """Where the session is in its life."""

    OFF = 0  # no connection
    LOGON_SENT = 1
    ON = 2
    LOGOUT_SENT = 3  # we sent a Logout: market data is ignored from here on
    LOGGED_OUT = 4  # the peer sent a Logout and we answered: it closes, or we do after peer_close_timeout
    CLOSED = 5  # close_reason is set; whatever still comes is ignored


#: states in which we answer the peer
LOGGED_ON = (SessionState.ON, SessionState.LOGOUT_SENT)
#: states of a connection that delivers nothing more
LEAVING = (SessionState.LOGOUT_SENT, SessionState.LOGGED_OUT, SessionState.CLOSED)


@dataclass(frozen=True, slots=True)
class Close:
    """Why the connection is to be closed, and when to try again."""

    kind: str  # logon_timeout, refused, protocol, too_low, silent, gap_timeout, overflow, logout, ...
    text: str
    retry: Retry = "backoff"

    def __str__(self) -> str:
        return self.text


class SequenceNumbers(NamedTuple):
    """Both MsgSeqNum counters as they are kept on disk; `saved_ns` is int ns since the epoch."""

    expected: int
    outgoing: int
    saved_ns: int


class Request(NamedTuple):
    """An application message we sent: its MsgType and its request id (262, 320 or 335)."""

    msg_type: str
    id: str


class HotLoop(Protocol):
    """What a session needs of the handler."""

    sequence: Sequence
    fast: bool
    last_recv_ns: int
    sending_time_limit_ns: int
    clock_step_ns: int

    def expect_comp_ids(self, sender: bytes, target: bytes) -> None: ...


class ReleasedFrame(NamedTuple):
    """A W or X kept back by a gap whose turn has come."""

    frame: bytes
    recv_ns: int


@dataclass(slots=True)
class SessionConfig:
    """Settings of one FIX session; times in seconds. UsageError when a value makes no sense."""

    sender: str
    target: str
    heartbeat: int = 60
    reset_on_logon: bool = True  # 141=Y, the default for market data; False continues the stored numbers
    next_expected: bool = False  # send 789 in our Logon
    logon_timeout: float = 12.0
    logout_timeout: float = 0.7  # for the reply to our Logout: a close that we begin ends within a second
    peer_close_timeout: float = 2.0  # for the peer to close after its Logout
    gap_timeout: float = 10.0  # without progress: request once more; again: reconnect with 141=Y
    sending_time_limit: float | None = 120.0  # None: SendingTime is measured, never judged
    sending_time_warning: float = 1.0
    max_gap_messages: int = 100_000
    max_gap_bytes: int = 256 << 20
    max_rejects_per_s: int = 10  # a gateway ends a session that makes too many errors
    rollover_at: int = ROLLOVER_S  # seconds of the UTC day; never local time
    rollover_every: int = DAY_S
    rollover_lead: float = 60.0  # armed this long before
    rollover_patience: float = 600.0  # and expected until this long after
    rollover_silence: float = 10.0  # a mute connection after the rollover is tested, then dropped, this fast
    api_key: str = ""
    api_secret: str = ""
    logon_fields: dict[int, str] = field(default_factory=dict)  # more fields of our Logon, by tag

    def __post_init__(self) -> None:
        for name in ("sender", "target"):
            value = getattr(self, name)
            if not value or not value.isprintable() or "=" in value:
                raise UsageError(f"{name} CompID {value!r} is empty or not printable: copy Kraken's")
        if not 1 <= self.heartbeat <= 3600:
            raise UsageError(f"heartbeat {self.heartbeat} is not between 1 and 3600 seconds")
        if bool(self.api_key) != bool(self.api_secret):
            raise UsageError("api_key and api_secret go together: give both or neither")
        decode_secret(self.api_secret)
        if min(self.max_gap_messages, self.max_gap_bytes) < 1 or self.gap_timeout <= 0:
            raise UsageError("max_gap_messages, max_gap_bytes and gap_timeout must be above 0")
        for tag, value in self.logon_fields.items():
            check_logon_field(tag, value)


#: tags that a Logon may not take from the configuration: header, trailer, and what the session writes
_OWN_LOGON_TAGS = frozenset(
    {8, 9, 10, 34, 35, 43, 49, 50, 52, 56, 57, 89, 90, 91, 93, 97, 115, 122, 128, 369}
    | {95, 96, 98, 108, 141, 553, 554, 789, 5025}
)


def check_logon_field(tag: int, value: str) -> None:
    """UsageError when a field may not be added to our Logon."""
    if tag < 1:
        raise UsageError(f"logon_fields: {tag} is not a tag number")
    if tag in _OWN_LOGON_TAGS:
        raise UsageError(f"logon_fields: tag {tag} is written by the session; remove it")
    if not value or not value.isascii() or not value.isprintable():
        raise UsageError(f"logon_fields: the value of tag {tag} is empty or not printable ASCII")


class Application:
    """What a session calls; override what you need. All run inside receive() or tick()."""

    def on_ready(self) -> None:
        """Logged on with no gap open: request the instrument list and subscribe."""

    def on_leaving(self, planned: bool) -> None:
        """The connection delivers nothing more: every book is void from now on, whenever the socket closes.

        Called at most once per connection, as soon as a Logout was sent or received or the session closes for any
        reason; never for a connection that is lost before. `planned`: it belongs to the rollover.
        """

    def on_message(self, msg_type: str, fields: Fields, recv_ns: int) -> None:
        """An application-level message (y, Y, j, 3, h) in its turn."""

    def on_lost(self, first: int, last: int, cause: str) -> None:
        """MsgSeqNum first..last will never come: every live book is suspect, subscribe again."""

    def on_reset(self, cause: str) -> None:
        """The peer began a new numbering in this connection: books and subscriptions are void."""

    def on_gap(self, first: int, last: int, cause: str) -> None:
        """A gap is open: no book of this session is to be trusted until on_gap_closed or on_lost."""

    def on_gap_closed(self) -> None:
        """Every missing message was replayed and applied: the books are whole again."""

    def on_requests_lost(self, requests: list[Request]) -> None:
        """The peer never received these requests; send fresh ones where still wanted."""

    def on_event(self, now_ns: int, event: JournalEvent) -> None:
        """Something to be journaled; see docs/session.md for the list."""
