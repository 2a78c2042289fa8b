"""No bytes end in an exception: spoiled messages become entries or counted errors, as in the oracle."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfix_md import Handler
from tests.core.mutate import damaged, edited, join, runs, split
from tests.oracle import Follower, scan
from tests.streams import SERVICES, generate

COUNT = 8_500  # of each kind and service: 102,000 in all
COMPARED = 2_000
STATES = {"INIT", "SYNCING", "LIVE", "EMPTY", "GAP", "CRC_FAIL", "STALE", "DOWN", "UNVERIFIED"}

KINDS = {
    "body": lambda rng, whole: edited(rng, whole, header=False),
    "header": lambda rng, whole: edited(rng, whole, header=True),
    "bytes": damaged,
}


def fed(data: bytes, **options) -> Handler:
    """A handler that took all of these bytes."""
    handler = Handler(collect=True, **options)
    handler.on_bytes(data, 1)
    return handler


def accounted(handler: Handler, data: bytes, leftover: int) -> None:
    """Every byte is part of a message, or counted as garbage, or may still become a message."""
    stats = handler.stats
    assert stats["bytes"] + stats["garbage_bytes"] + leftover == len(data)
    assert stats["crc_ok"] + stats["crc_failed"] == stats["crc_checked"]
    assert handler.protocol_errors >= 0
    for symbol in handler.symbols:
        assert handler[symbol].state.name in STATES
        handler[symbol].top(allow_stale=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("service", SERVICES)
def test_spoiled_messages_end_in_entries_or_counted_errors(service, kind):
    total: Counter[str] = Counter()
    for run in runs(service, 7, COUNT, KINDS[kind]):
        data = b"".join(run)
        handler = fed(data)
        found, leftover = scan(data)
        assert handler.stats["messages"] == len(found)
        accounted(handler, data, leftover)
        total.update(handler.stats)
        total["errors"] += handler.protocol_errors
    assert total["errors"] > COUNT / 4
    assert total["entries"] > COUNT / 4
    assert total["crc_ok"] > COUNT / 200


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("service", SERVICES)
def test_edited_messages_are_judged_as_the_oracle_judges_them(service, fast):
    judged = 0
    for run in runs(service, 8, COMPARED, KINDS["body"]):
        handler, seen = Handler(collect=True, allow_fast=fast), Follower()
        for whole in run:
            seen.frame(whole)
            if seen.unclear:
                break
            handler.on_bytes(whole, 1)
            judged += 1
            states = {symbol: handler[symbol].state.name for symbol in seen.states}
            assert states == seen.states, whole
            assert handler.stats["entries"] == len(seen.entries), whole
            assert (handler.stats["crc_checked"], handler.stats["crc_ok"]) == (seen.checked, seen.ok), whole
    assert judged > COMPARED / 4


@pytest.mark.parametrize("service", SERVICES)
def test_damage_is_skipped_to_the_next_sound_message(service):
    for run in runs(service, 9, COMPARED, KINDS["bytes"]):
        data = b"".join(run)
        handler, seen = fed(data), Follower()
        for whole in scan(data)[0]:
            seen.frame(whole)
        assert {symbol: handler[symbol].state.name for symbol in seen.states} == seen.states
        assert handler.stats["entries"] == len(seen.entries)
        assert (handler.stats["gaps"], handler.stats["lost"]) == (seen.gaps, seen.lost)


@pytest.mark.parametrize("service", ["spot-l2", "derivatives-l3"])
def test_damage_gives_the_same_in_any_split(service):
    rng = random.Random(service)
    for run in runs(service, 10, 240, KINDS["bytes"]):
        data = b"".join(run)
        whole, parts, at = fed(data), Handler(collect=True), 0
        while at < len(data):
            size = rng.choice((1, 2, 3, 17, 300))
            parts.on_bytes(data[at : at + size], 1)
            at += size
        assert parts.ticks().tobytes() == whole.ticks().tobytes()
        assert parts.stats["messages"] == whole.stats["messages"]
        accounted(parts, data, scan(data)[1])


SOUND_FRAMES = generate("spot-l2", symbols=1, messages=3, depth=3).frames
SOUND = b"".join(SOUND_FRAMES)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(
                [
                    SOUND,
                    SOUND[:200],
                    b"8=FIX.4.4\x019=",
                    b"8=FIX.4.4\x019=5\x0135=0\x0110=163\x01",
                    b"8=FIX",
                    b"8=FIX.4.4\x019=999999999\x01",
                    b"8=FIX.4.2\x019=5\x01",
                    b"\x01",
                    b"10=000\x01",
                ]
            ),
            st.integers(0, len(SOUND)).map(lambda at: SOUND[at:]),
        ),
        max_size=8,
    )
)
def test_any_bytes_at_all(parts):
    handler = Handler(collect=True)
    for part in parts:
        handler.on_bytes(part, 1)
    data = b"".join(parts)
    found, leftover = scan(data)
    assert handler.stats["messages"] == len(found)
    accounted(handler, data, leftover)


def test_an_endless_message_is_bounded():
    handler = Handler(max_frame=1000)
    handler.on_bytes(b"8=FIX.4.4\x019=2000\x0135=X\x01" + b"58=x\x01" * 1000)
    assert handler.stats["bad_length"] == 1
    assert handler.on_bytes(SOUND) > 0


@pytest.mark.parametrize("count", [2**31, 2**32 + 1, 2**58 + 1, 2**59, 2**59 + 1, 10**18 - 1])
def test_a_count_of_entries_that_overflows(count):
    """268 times the size of an entry must not wrap to something that memory can be had for."""
    listed, *rest = [whole for whole in SOUND_FRAMES if b"\x0135=A" not in whole]
    snapshot = next(whole for whole in rest if b"\x0135=W" in whole)
    wrong = join([[tag, b"%d" % count if tag == b"268" else value] for tag, value in split(snapshot)])
    handler = fed(listed + wrong + snapshot)
    assert handler.stats["malformed"] == 1
    assert handler.stats["entries"] == 0  # the second snapshot repeats a number
    assert fed(listed + snapshot).stats["entries"] == 6
