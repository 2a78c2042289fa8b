"""Well-formed input costs bounded work and memory, however it was made: counts of work, never times."""

from __future__ import annotations

import pytest

from kfix_md import Handler
from tests.core.test_surprises import frame, listed
from tests.fuzz.targets import framed

MEGABYTE = 1 << 20
SOUND = framed(b"35=0|34=1|49=K|52=20240301-12:00:00.000|56=ME|")


def nested(size: int, *, sums: bool) -> bytes:
    """Headers that each claim all that follows, up to the same tag 10 (with `sums`) or to nothing."""
    tail = b"\x0110=000\x01" if sums else b"\x01" * 8
    parts, left = [], size - len(tail)
    while left > 64:
        head = b"8=FIX.4.4\x019=%07d\x01" % (left - 20 + len(tail) - 7)
        parts.append(head)
        left -= len(head)
    parts.append(b"x" * left)
    return b"".join(parts) + tail


@pytest.mark.parametrize("reads", [1 << 30, 262_144])
def test_frames_inside_of_frames_are_summed_a_bounded_number_of_times(reads):
    data = nested(4 * MEGABYTE, sums=True)
    handler = Handler()
    for at in range(0, len(data), reads):
        handler.on_bytes(data[at : at + reads], 1)
    handler.on_bytes(SOUND, 1)
    stats = handler.stats
    assert stats["bad_checksum"] > 1
    assert stats["summed_in_vain"] <= 64 * MEGABYTE + 5 * len(data)
    assert stats["messages"] == 1, "the frame after them is found"
    assert stats["garbage_bytes"] == len(data)


def test_a_length_that_leads_to_no_tag_10_is_not_summed():
    data = nested(4 * MEGABYTE, sums=False)
    handler = Handler()
    handler.on_bytes(data + SOUND, 1)
    assert handler.stats["bad_length"] > 100_000
    assert handler.stats["summed_in_vain"] == 0
    assert handler.stats["messages"] == 1


def test_many_garbled_frames_in_a_row_are_counted_and_the_first_reported():
    class Session:
        sequence = None

        def __init__(self) -> None:
            self.reports: list[str] = []

        def garbled(self, kind: str, *_: object) -> None:
            self.reports.append(kind)

    session = Session()
    handler = Handler(session=session)
    handler.on_bytes(b"8=FIX.4.4\x019=x\x01" * 1_000, 1)
    assert handler.stats["bad_length"] == 1_000
    assert session.reports == ["body_length"] * 64


def test_the_receive_buffer_is_given_back_after_a_large_frame():
    handler = Handler()
    handler.on_bytes(b"8=FIX.4.4\x019=8000000\x01" + bytes(7_900_000), 1)
    assert len(handler.get_buffer()) >= 262_144
    handler.on_bytes(bytes(200_000) + frame("0", 1, "") + listed("BTC/USD"), 1)
    assert handler.unfinished == 0
    assert len(handler.get_buffer()) < 5_000_000
