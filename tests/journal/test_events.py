"""Events keep their form on disk, old and newer ones are read, and no value in one stops a reader."""

from __future__ import annotations

import dataclasses
import json
import types
import typing

import pytest

from kfix_md.journal import events
from kfix_md.journal.event_json import EventError, as_dict, decode, encode

VALUES = {int: 7, str: "BTC/USD", bool: True, float: 1.5, tuple: ("BTC/USD", "ETH/USD"), dict: {"torn_bytes": 3}}


def value_of(hint: object) -> object:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not types.NoneType)
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if hint == events.Precisions:
        return {"BTC/USD": (1, 8), "é\\x80": (0, 18)}
    return VALUES[typing.get_origin(hint) or hint]


def example(kind: type[events.JournalEvent]) -> events.JournalEvent:
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{each.name: value_of(hints[each.name]) for each in dataclasses.fields(kind)})


@pytest.mark.parametrize("kind", events.TYPES.values(), ids=events.TYPES)
def test_every_event_reads_back_as_written(kind):
    event = example(kind)
    stored = encode(event)
    assert json.loads(stored)["type"] == kind.type and next(iter(json.loads(stored))) == "type"
    found = decode(stored)
    assert found.event == event and found.raw == as_dict(event) and found.unknown_keys == ()


@pytest.mark.parametrize("kind", events.TYPES.values(), ids=events.TYPES)
def test_an_event_without_its_keys_reads_as_one_of_an_older_version(kind):
    event = decode(json.dumps({"type": kind.type}).encode()).event
    assert type(event) is kind
    assert decode(encode(event)).event == event


def test_the_form_on_disk_is_that_of_earlier_versions():
    forms = {
        b'{"type":"gap_open","id":5,"first":3,"last":null,"cause":"lost","symbols":["BTC/USD"]}': events.GapOpened(
            5, 3, None, "lost", ("BTC/USD",)
        ),
        b'{"type":"gap_close","id":5,"healed":"replay"}': events.GapClosed(5, "replay"),
        b'{"type":"stopped"}': events.Stopped(),
        b'{"type":"rollover","phase":"date","date":"2026-03-11"}': events.Rollover("date", date="2026-03-11"),
        b'{"type":"started","version":"1","pid":2,"feed":"f"}': events.Started("1", 2, "f"),
        b'{"type":"checksum_rule","rule":"order"}': events.ChecksumRule("order"),
        b'{"type":"book","symbol":"BTC/USD","state":"LIVE","cause":"NONE","seq":9}': events.BookChanged(
            "BTC/USD", "LIVE", "NONE", 9
        ),
    }
    for stored, event in forms.items():
        assert encode(event) == stored and decode(stored).event == event


@pytest.mark.parametrize("kind", events.TYPES.values())
def test_an_event_is_stored_as_the_json_of_its_dict(kind):
    full = example(kind)
    none = kind(**{each.name: None for each in dataclasses.fields(kind)})
    for event in (full, none):
        assert encode(event) == json.dumps(as_dict(event), separators=(",", ":")).encode()


def test_texts_and_numbers_of_an_event_are_escaped_as_json_does():
    for symbol in ('"', "\\", "\n", "\u20ac", "\ud800", ""):
        event = events.BookChanged(symbol, "LIVE", "NONE", -(1 << 63))
        assert encode(event) == json.dumps(as_dict(event), separators=(",", ":")).encode()
    assert b'"planned":true' in encode(events.Disconnected("fin", "disconnect", True, False))


def test_unknown_types_and_keys_are_reported():
    found = decode(b'{"type":"from_the_future","x":1}')
    assert found.event == events.Unknown("from_the_future") and found.raw["x"] == 1
    found = decode(b'{"type":"stopped","why":"maintenance","v":9}')
    assert found.event == events.Stopped() and found.unknown_keys == ("why", "v")
    assert decode(b'{"type":"\\ud800"}').event == events.Unknown("\\ud800")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"{}",
        b'{"type":null}',
        b"[" * 100_000,
        b'{"type":"gap_open","id":"five"}',
        b'{"type":"gap_open","first":3.5}',
        b'{"type":"gap_open","first":true}',
        b'{"type":"gap_open","first":9223372036854775808}',
        b'{"type":"gap_open","symbols":"BTC/USD"}',
        b'{"type":"gap_open","symbols":[null]}',
        b'{"type":"session","port":2147483648}',
        b'{"type":"book","symbol":["BTC/USD"]}',
        b'{"type":"book","symbol":"\\ud800"}',
        b'{"type":"started","recovered":5}',
        b'{"type":"disconnected","planned":"yes"}',
        b'{"type":"rollover","phase":"began","seconds":"soon"}',
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(body):
    with pytest.raises(EventError, match="event"):
        decode(body)
