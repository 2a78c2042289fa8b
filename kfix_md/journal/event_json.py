"""Converts journal events to and from the JSON that is stored.

An event is an object with "type" first and the record's fields after it, in the order in which events.py declares
them. A record whose `layout` is not 1 carries it as "v".
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

from kfix_md.errors import CaptureError
from kfix_md.journal.events import OPTIONAL, TYPES, JournalEvent, Precisions, Unknown


class EventError(CaptureError):
    """An event of the journal that is not a JSON object with a type, or has a value of the wrong type."""


class _Field(typing.NamedTuple):
    name: str
    check: Callable[[Any], Any]  # converts a JSON value; TypeError when it cannot be
    absent: Any  # value when an older journal does not have it
    default: Any
    optional: bool


_known: dict[type[JournalEvent], tuple[_Field, ...]] = {}
_dumps = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps makes an encoder at each call


def _fields(kind: type[JournalEvent]) -> tuple[_Field, ...]:
    if kind not in _known:
        _known[kind] = _inspect(kind)
    return _known[kind]


def _inspect(kind: type[JournalEvent]) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for each in dataclasses.fields(kind):
        hint = hints[each.name]
        default = None if each.default is dataclasses.MISSING else each.default
        absent = default if each.default is not dataclasses.MISSING else _absent(hint)
        found.append(_Field(each.name, _check(hint), absent, default, bool(each.metadata.get(OPTIONAL))))
    return tuple(found)


def _absent(hint: Any) -> Any:
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return None if types.NoneType in choices else {int: 0, str: "", Precisions: {}}[hint]


def _check(hint: Any) -> Callable[[Any], Any]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [_check(each) for each in typing.get_args(hint) if each is not types.NoneType]
        return lambda value: None if value is None else inner[0](value)
    if origin is Annotated:
        return functools.partial(_integer, bits=typing.get_args(hint)[1])
    if origin is tuple:
        return _texts
    if hint == Precisions:
        return _precisions
    if origin is dict:
        return functools.partial(_instance, dict)
    return _CHECKS[hint]


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
    return float(value)  # OverflowError: an integer beyond all floats


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    value.encode()  # UnicodeEncodeError: half of a surrogate pair
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(map(_text, value))


def _precisions(value: Any) -> dict[str, tuple[int, int]]:
    return {_text(symbol): _pair(pair) for symbol, pair in _instance(dict, value).items()}


def _pair(value: Any) -> tuple[int, int]:
    price, qty = _instance(list, value)  # ValueError: not two
    return _integer(price, 8), _integer(qty, 8)


_CHECKS: dict[Any, Callable[[Any], Any]] = {
    int: _integer,
    float: _number,
    str: _text,
    bool: functools.partial(_instance, bool),
}


def as_dict(event: JournalEvent) -> dict[str, Any]:
    """The JSON object of an event."""
    out: dict[str, Any] = {"type": event.name if isinstance(event, Unknown) else event.type}
    if event.layout != 1:
        out["v"] = event.layout
    for each in _fields(type(event)) if not isinstance(event, Unknown) else ():
        value = getattr(event, each.name)
        if not each.optional or value != each.default:
            out[each.name] = _plain(value)
    return out


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def encode(event: JournalEvent | dict[str, Any]) -> bytes:
    """An event as it is stored; a dict is stored as it is."""
    if isinstance(event, dict | Unknown):
        return _dumps(event if isinstance(event, dict) else as_dict(event)).encode()
    kind = type(event)
    parts = [_head(kind.type, kind.layout)]
    for name, _, _, default, optional in _fields(kind):
        value = getattr(event, name)
        if not optional or value != default:
            parts.append(f',"{name}":{_json(value)}')
    parts.append("}")
    return "".join(parts).encode()


@functools.cache
def _head(name: str, layout: int) -> str:
    return f'{{"type":{_dumps(name)}' + (f',"v":{layout}' if layout != 1 else "")


def _json(value: Any) -> str:
    """A value as JSON: thousands of events at a reconnect hold texts and integers, for which no encoder is made."""
    if type(value) is str:
        return json.encoder.encode_basestring_ascii(value)
    if type(value) is int:
        return str(value)
    return "null" if value is None else _dumps(_plain(value))


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

    event: JournalEvent
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


def _value(kind: type[JournalEvent], each: _Field, raw: dict[str, Any]) -> Any:
    if each.name not in raw:
        return each.absent
    try:
        return each.check(raw[each.name])
    except (TypeError, ValueError, OverflowError):  # UnicodeEncodeError is a ValueError
        raise EventError(f"event {kind.type!r}: {each.name} is {str(raw[each.name])[:80]!r}") from None


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
