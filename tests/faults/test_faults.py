"""A short run of faults of the machine in every test run (the long one is `make faults`), and the judge's own rules."""

from __future__ import annotations

import json
import time

import pytest

from kfix_md.journal.writer import JournalWriter
from tests.faults.run import Plan, Run, audit
from tests.preload import needs_compiler

pytest.importorskip("trustme")
pytest.importorskip("click")


@pytest.mark.slow
@needs_compiler
def test_books_are_right_and_nothing_is_lost_whatever_the_machine_does(tmp_path):
    report = Run(Plan(seconds=4, every=0.2, readers=1, seed=5), tmp_path).play()
    assert report["wrong"] == [], json.dumps(report, indent=2)
    assert report["compared"] == 8 and report["frames"] > 100
    assert sum(report["injected"].values()) >= 1 and report["polls"]["alive"] > 10


def frame(number: int, *more: bytes) -> bytes:
    return b"\x01".join([b"8=FIX.4.4", b"35=X", b"34=%d" % number, *more, b""])


@pytest.mark.parametrize(
    ("between", "complaints"),
    [
        ([], 1),
        ([{"type": "connected"}], 0),
        ([{"type": "journal_lost", "count": 1, "first": 1, "last": 2}], 0),
        ([{"type": "started"}], 0),
        ([{"type": "book"}], 1),
    ],
)
def test_a_frame_that_is_missing_without_a_word_is_noticed(tmp_path, between, complaints):
    with JournalWriter(tmp_path, segment_bytes=1 << 16) as journal:
        now_ns = time.time_ns()
        for session, body in ((0, frame(7)), (0, frame(8)), (1, frame(70)), (0, frame(2, b"43=Y"))):
            journal.frame(session, now_ns, body)
        for event in between:
            journal.event(0, now_ns, event)
        journal.frame(0, now_ns, frame(10))
    wrong: list[str] = []
    frames, lost = audit(tmp_path, wrong)
    assert frames == 5 and len(wrong) == complaints
    assert lost == (1 if between and between[0]["type"] == "journal_lost" else 0)
