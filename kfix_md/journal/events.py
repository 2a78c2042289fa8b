"""Defines the session events of the journal as typed records, and their form on disk.

On disk an event is a JSON object with "type" first and the record's fields after it, in the order they are declared
here. A field made by `optional` is left out while it has its default. A record whose `layout` is not 1 carries it as
"v". Readers accept what they do not know: see `decode`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from kfix_md.errors import CaptureError

__all__ = ["Decoded", "Event", "EventError", "as_dict", "decode", "encode"]

_OPTIONAL = "optional"
Int32 = Annotated[int, 32]


class EventError(CaptureError):
    """An event of the journal that is not a JSON object with a type, or has a value of the wrong type."""


def optional(default: Any = None) -> Any:
    """A field that is not written while it has its default."""
    return dataclasses.field(default=default, metadata={_OPTIONAL: True})


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""

    type: ClassVar[str] = ""
    layout: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Unknown(Event):
    """An event of a type that this version does not know."""

    name: str


# ---- the feed process ----


@dataclass(frozen=True, slots=True)
class Started(Event):
    """A feed process began. `recovered` reports what its dead predecessor left, see JournalWriter."""

    type: ClassVar[str] = "started"
    version: str | None = None
    pid: int | None = None
    feed: str | None = None
    recovered: dict[str, Any] | None = optional()  # noqa: RUF009


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """A feed process ended in order."""

    type: ClassVar[str] = "stopped"


@dataclass(frozen=True, slots=True)
class JournalLost(Event):
    """Records could not be stored: how many, and receive times of the first and the last, ns."""

    type: ClassVar[str] = "journal_lost"
    count: int | None
    first: int | None
    last: int | None


# ---- connection and session ----


@dataclass(frozen=True, slots=True)
class SessionDescribed(Event):
    """What a feed session number means: written once by each feed process."""

    type: ClassVar[str] = "session"
    number: int | None
    service: str | None
    level: str | None
    host: str | None
    port: Int32 | None
    sender: str | None
    target: str | None


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """The transport is up."""

    type: ClassVar[str] = "connected"
    details: str | None


@dataclass(frozen=True, slots=True)
class LoggedOn(Event):
    """The Logon reply was accepted. `next_in`, `next_out`: MsgSeqNum expected and to be sent next."""

    type: ClassVar[str] = "logged_on"
    session_id: str | None
    heartbeat: int | None
    reset: bool | None
    next_in: int | None
    next_out: int | None


@dataclass(frozen=True, slots=True)
class Logout(Event):
    """35=5 was received; `by` is "us" when it answers ours, else "peer"."""

    type: ClassVar[str] = "logout"
    by: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class Disconnected(Event):
    """The transport is gone. `logged_on`: whether the session was."""

    type: ClassVar[str] = "disconnected"
    reason: str | None
    cause: str | None
    planned: bool | None
    logged_on: bool | None


@dataclass(frozen=True, slots=True)
class NumberingReset(Event):
    """MsgSeqNum begins anew inside one connection."""

    type: ClassVar[str] = "reset"
    form: str | None
    planned: bool | None


@dataclass(frozen=True, slots=True)
class Rollover(Event):
    """A phase of the planned reset at 22:00 UTC: armed, date, began, logged_on, verified."""

    type: ClassVar[str] = "rollover"
    phase: str
    form: str | None = optional()
    seconds: float | None = optional()
    seconds_after: float | None = optional()
    at: int | None = optional()
    date: str | None = optional()


@dataclass(frozen=True, slots=True)
class Garbled(Event):
    """Bytes that are no FIX message."""

    type: ClassVar[str] = "garbled"
    what: str | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Rejected(Event):
    """35=3: the venue rejected a message of ours. Tags 45, 371, 372, 373, 58."""

    type: ClassVar[str] = "rejected"
    ref_seq: int | None
    ref_tag: str | None
    ref_type: str | None
    reason: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class ClockWarning(Event):
    """Our clock and 52 SendingTime differ by more than the warning limit; positive: ours is ahead."""

    type: ClassVar[str] = "clock_warning"
    lag_ms: int | None


# ---- gaps ----


@dataclass(frozen=True, slots=True)
class GapOpened(Event):
    """Messages are missing, or one book cannot be trusted. `last` None: not known yet."""

    type: ClassVar[str] = "gap_open"
    id: int | None
    first: int | None
    last: int | None
    cause: str | None
    symbols: tuple[str, ...] = ()
    detail: str | None = optional()


@dataclass(frozen=True, slots=True)
class GapClosed(Event):
    """A gap is over. `healed`: replay, snapshot, reconnect."""

    type: ClassVar[str] = "gap_close"
    id: int | None
    healed: str | None
    first: int | None = optional()
    last: int | None = optional()


@dataclass(frozen=True, slots=True)
class Released(Event):
    """Deferred frames with these MsgSeqNum were applied now."""

    type: ClassVar[str] = "released"
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class Discarded(Event):
    """Deferred frames with these MsgSeqNum were never applied."""

    type: ClassVar[str] = "discarded"
    first: int | None
    last: int | None


# ---- subscriptions and books ----


@dataclass(frozen=True, slots=True)
class Subscribed(Event):
    """35=V was sent for a symbol."""

    type: ClassVar[str] = "subscribed"
    symbol: str | None
    md_req_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribed(Event):
    """A symbol is no longer wanted."""

    type: ClassVar[str] = "unsubscribed"
    symbol: str | None


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """The venue refused a subscription."""

    type: ClassVar[str] = "refused"
    symbol: str | None
    why: str | None


@dataclass(frozen=True, slots=True)
class Book(Event):
    """A book changed its state (names of State and Cause) at MsgSeqNum `seq`."""

    type: ClassVar[str] = "book"
    symbol: str | None
    state: str | None
    cause: str | None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Served(Event):
    """A hot pair publishes a symbol from this feed session now."""

    type: ClassVar[str] = "served"
    symbol: str | None
    session: int | None


@dataclass(frozen=True, slots=True)
class ChecksumRule(Event):
    """The stream has shown which rule of 5041 holds."""

    type: ClassVar[str] = "checksum_rule"
    rule: str | None
    symbol: str | None = optional()


@dataclass(frozen=True, slots=True)
class Verified(Event):
    """Every book of the session is verified again."""

    type: ClassVar[str] = "verified"


@dataclass(frozen=True, slots=True)
class TradingStatus(Event):
    """35=h: the trading session's status in text."""

    type: ClassVar[str] = "trading_status"
    status: str | None


TYPES: dict[str, type[Event]] = {kind.type: kind for kind in Event.__subclasses__() if kind.type}


# ---- form on disk ----


class _Field(typing.NamedTuple):
    name: str
    check: Callable[[Any], Any]  # converts a JSON value; TypeError when it cannot be
    absent: Any  # value when an older journal does not have it
    default: Any
    optional: bool


@functools.cache
def _fields(kind: type[Event]) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for each in dataclasses.fields(kind):
        hint = hints[each.name]
        default = None if each.default is dataclasses.MISSING else each.default
        absent = default if each.default is not dataclasses.MISSING else _absent(hint)
        found.append(_Field(each.name, _check(hint), absent, default, bool(each.metadata.get(_OPTIONAL))))
    return tuple(found)


def _absent(hint: Any) -> Any:
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return None if types.NoneType in choices else {int: 0, str: ""}[hint]


def _check(hint: Any) -> Callable[[Any], Any]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [_check(each) for each in typing.get_args(hint) if each is not types.NoneType]
        return lambda value: None if value is None else inner[0](value)
    if origin is Annotated:
        return functools.partial(_integer, bits=typing.get_args(hint)[1])
    if origin is tuple:
        return _texts
    if origin is dict:
        return functools.partial(_instance, dict)
    return {int: _integer, float: _number, str: _text, bool: functools.partial(_instance, bool)}[hint]


def _instance(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _integer(value: Any, bits: int = 64) -> int:
    if type(value) is not int or not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    value.encode()  # UnicodeEncodeError: half of a surrogate pair
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(map(_text, value))


def as_dict(event: Event) -> dict[str, Any]:
    """The JSON object of an event."""
    out: dict[str, Any] = {"type": event.name if isinstance(event, Unknown) else event.type}
    if event.layout != 1:
        out["v"] = event.layout
    for each in _fields(type(event)) if not isinstance(event, Unknown) else ():
        value = getattr(event, each.name)
        if not each.optional or value != each.default:
            out[each.name] = list(value) if isinstance(value, tuple) else value
    return out


def encode(event: Event | dict[str, Any]) -> bytes:
    """An event as it is stored; a dict is stored as it is."""
    return json.dumps(event if isinstance(event, dict) else as_dict(event), separators=(",", ":")).encode()


class Decoded(typing.NamedTuple):
    """An event read from the journal.

    Attributes
    ----------
    event
        The typed record; `Unknown` when the type is not known here.
    raw
        The JSON object as it was stored.
    unknown_keys
        Keys that the record of this type does not have, or a layout newer than the known one ("v").
    """

    event: Event
    raw: dict[str, Any]
    unknown_keys: tuple[str, ...]


def decode(body: bytes) -> Decoded:
    """The event stored in `body`.

    Keys that are missing, as in older journals, become None (0, "" where the field cannot be None). Unknown types and
    keys are reported, never an error.

    Raises
    ------
    EventError
        `body` is not a JSON object with a type, or a value is of the wrong type or out of range.
    """
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EventError(f"an event that is not JSON ({error})") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise EventError("an event that is not a JSON object with a type")
    kind = TYPES.get(raw["type"])
    if kind is None:
        return Decoded(Unknown(_printable(raw["type"])), raw, ())
    known = _fields(kind)
    values = {each.name: _value(kind, each, raw) for each in known}
    names = values.keys() | {"type"} | ({"v"} if raw.get("v", 1) in range(1, kind.layout + 1) else set())
    return Decoded(kind(**values), raw, tuple(key for key in raw if key not in names))


def _value(kind: type[Event], each: _Field, raw: dict[str, Any]) -> Any:
    if each.name not in raw:
        return each.absent
    try:
        return each.check(raw[each.name])
    except (TypeError, UnicodeEncodeError):
        raise EventError(f"event {kind.type!r}: {each.name} is {str(raw[each.name])[:80]!r}") from None


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
