"""An event with a wrong value costs a counted gap row, and nothing else of the journal."""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from pathlib import Path

import pytest

import recorder
from kfix_md.errors import CaptureError
from kfix_md.journal import events
from kfix_md.journal import files as journal_files
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.trading_day import DAY_NS, session_date
from recorder import retention
from recorder.catalog import Captures
from recorder.layout import FileName
from recorder.process import Recorder
from tests.recorder import build
from tests.streams import generate

BAD = [
    {"type": "gap_open", "id": 1, "first": "three"},
    {"type": "gap_open", "id": 1, "first": 1 << 70},
    {"type": "released", "first": "a", "last": None},
    {"type": "session", "port": "4001"},
    {"type": "book", "symbol": "\ud800", "state": "LIVE"},
    {"type": "journal_lost", "count": "many"},
    {"type": "rollover", "phase": "began", "seconds": 10**400},
    {"type": "carried", "instruments": {"BTC/USD": [1, 8, 3]}},
    {"type": "carried", "instruments": {"BTC/USD": [1, 1 << 20]}},
    {"type": "carried", "instruments": ["BTC/USD"]},
    {"type": 5},
]
LAST = json.dumps({"type": "disconnected", "reason": "logout", "cause": "disconnect"}, separators=(",", ":")).encode()
UNKNOWN = [{"type": "invented", "x": [1]}, {"type": "stopped", "why": "?"}]
# odd, and no mistake of form: they change nothing that follows
ODD = [
    {"type": "session", "number": 0, "depth": -5},
    {"type": "session", "number": 10**18, "service": "x", "level": "L9"},
    {"type": "started", "recovered": {"torn_bytes": 10**4299, "damaged_bytes": 9 * 10**4299}},
    {"type": "carried", "instruments": {"S" * 60: [1, 8], "ODD": [19, 19], "": [1, 1]}},
    {"type": "released", "first": -(1 << 63), "last": (1 << 63) - 1},
    {"type": "journal_lost", "count": -1, "first": -(1 << 63), "last": (1 << 63) - 1},
]
ODD_FRAMES = [
    b"",
    b"8=FIX.4.4\x019=5\x0135=W\x01",
    b"8=FIX.4.4\x019=5\x0135=X\x0110=0",
    b"8=FIX.4.4\x019=5\x0135=X\x0110=000\x01",
    b"8=FIX.4.4\x019=5\x0135=y\x0134=5\x01146=1\x0155=" + b"S" * 60 + b"\x012349=2\x015010=8\x0110=000\x01",
    b"8=FIX.4.4\x019=5\x0135=h\x01340=\xff\x0110=000\x01",
]


@pytest.mark.parametrize("ns", [0, -(1 << 63), (1 << 63) - 1])
def test_odd_records_with_a_right_checksum_do_not_end_the_recorder(tmp_path, ns):
    frames = generate("spot-l2", messages=60, seed=3).frames
    with JournalWriter(tmp_path / "journal") as journal:
        now = build.write_session(journal, 0, "spot-l2", frames, build.START_NS)
        for number in (0, 65535):
            for event in ODD:
                journal.event(number, ns or now, event)
            for flags in (0, 64, 128):
                for frame in ODD_FRAMES:
                    journal.frame(number, ns or now, frame, flags)
        build.write_session(journal, 0, "spot-l2", frames, now + 10**9)
    made = Recorder(build.settings(tmp_path, flush_rows=50, checkpoint_rows=20))
    made.once()
    assert made.committed == list(JournalReader(tmp_path / "journal"))[-1][0] + 32 + len(LAST) + -len(LAST) % 8
    made.close()
    assert build.record(tmp_path) == 0  # what it saved can be continued from
    cap = recorder.open(tmp_path / "captures")
    ticks = cap.ticks(start="2024-02-29T09:00", end="2024-02-29T12:00")["session"].to_pylist()
    first, last = min(ticks), max(ticks)
    assert first != last and ticks.count(first) == ticks.count(last) > 0


def test_events_that_cannot_be_are_gap_rows_and_recording_continues(tmp_path, caplog):
    frames = generate("spot-l2", messages=60, seed=3).frames
    with JournalWriter(tmp_path / "journal") as journal:
        now = build.write_session(journal, 0, "spot-l2", frames, build.START_NS)
        for i, event in enumerate([*BAD, *UNKNOWN]):
            journal.event(0, now + i + 1, event)
        build.write_session(journal, 1, "spot-l2", frames, now + 10**9)
    made = Recorder(build.settings(tmp_path))
    try:
        made.once()
        assert made.counts["damages"] == len(BAD) == caplog.text.count("cannot be read: ")
        assert made.tail.unknown == {"invented": 1, "stopped.why": 1}
        number = min(journal_files.segments(tmp_path / "journal"))
        with pytest.raises(CaptureError, match="cannot be read: "):  # what it said is in the journal alone
            retention.prove(tmp_path / "journal", made.writer.tree, number, {"position": number << 32})
    finally:
        made.close()
    cap = recorder.open(tmp_path / "captures")
    damaged = [gap for gap in cap.gaps().to_pylist() if gap["cause"] == "JOURNAL_DAMAGE"]
    assert len(damaged) == len(BAD) and all(gap["closed_ns"] for gap in damaged)
    assert any("'three'" in gap["detail"] for gap in damaged)
    ticks = [row for symbol in cap.symbols() for row in cap.ticks(symbol)["session"].to_pylist()]
    assert len(set(ticks)) == 2 and ticks.count(1) == ticks.count(2) > 0
    states = {row["state"] for row in cap.status().to_pylist() if row["kind"] == "feed"}
    assert {"invented", "stopped"} <= states


def test_a_frame_whose_processing_failed_is_not_taken_as_applied(tmp_path):
    frames = generate("spot-l2", messages=40, seed=4).frames[:-1]  # without the Logout
    with JournalWriter(tmp_path / "journal") as journal:
        build.write_session(journal, 0, "spot-l2", frames[:-2], build.START_NS, end=False)
        journal.stage(0, build.START_NS + 10**9, frames[-2])  # and an exception: it is never published
        journal.frame(0, build.START_NS + 2 * 10**9, frames[-1])
        journal.stage(0, build.START_NS + 3 * 10**9, frames[-2])  # still pending when the journal is closed
        journal.event(0, build.START_NS + 3 * 10**9, events.Disconnected("lost", "disconnect", False, True))
    found = [record for record in JournalReader(tmp_path / "journal") if record[1] == FRAME]
    assert [record[5] for record in found] == [*frames, frames[-2]], "nothing that was received is lost"
    assert [record[4] for record in found[-3:]] == [160, 0, 160]  # IGNORED and BAD_BOOK
    rows = build.record(tmp_path)
    assert rows
    seqs = {
        seq
        for symbol in recorder.open(tmp_path / "captures").symbols()
        for seq in recorder.open(tmp_path / "captures").ticks(symbol)["seq"].to_pylist()
    }
    assert len(frames) in seqs and len(frames) - 1 not in seqs
    assert [s["ignored"] for s in recorder.open(tmp_path / "captures").sessions().to_pylist()] == [2]


@pytest.mark.parametrize("wrong", [365, -365])
def test_no_file_is_missing_after_a_clock_that_was_a_year_wrong(tmp_path, wrong):
    """The files of that time are in a date far away; those that are nowhere are still missed."""
    frames = generate("spot-l2", messages=60, seed=4, symbols=1, empties=False).frames
    with JournalWriter(tmp_path / "journal") as journal:
        now = build.write_session(journal, 0, "spot-l2", frames, build.START_NS)
        build.write_session(journal, 0, "spot-l2", frames, now + wrong * DAY_NS)
        later = build.write_session(journal, 0, "spot-l2", frames, now)
        end = build.write_session(journal, 0, "spot-l2", frames, later + DAY_NS, end=False)
    build.record(tmp_path, flush_rows=40)
    with warnings.catch_warnings(action="error"):
        cap = recorder.open(tmp_path / "captures")
    days = cap.dates()
    assert len(days) == 3
    assert [cap.missing([day]) for day in days] == [[], [], []] and cap.missing() == []
    [symbol] = cap.symbols()
    assert cap.book(symbol, end - build.STEP_NS).trusted

    far = [Path(path) for path in (cap.tree.files("ticks", session_date(now + wrong * DAY_NS)))]
    assert len(far) > 2
    far[1].unlink()
    number = FileName.parse(far[1].name).numbers[0]
    found = [one for day in days for one in Captures(cap.tree.root).missing([day])]
    assert {(one.table, one.first, one.last) for one in found} == {("ticks", number, number)}


def test_after_a_clock_that_was_a_year_ahead_every_date_still_begins_with_what_is_known(tmp_path, recwarn):
    frames = generate("spot-l2", messages=40, seed=4).frames[:-1]
    with JournalWriter(tmp_path / "journal") as journal:
        now = build.write_session(journal, 0, "spot-l2", frames, build.START_NS, end=False)
        for days in (365, 0, 1, 2):
            journal.event(0, now + days * DAY_NS, events.Verified())
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    today = session_date(now)
    known = set(cap.instruments(today)["symbol"].to_pylist())
    assert known
    assert not [str(one.message) for one in recwarn if "missing" in str(one.message)]
    for days in (365, 1, 2):
        assert set(cap.instruments(today + timedelta(days=days))["symbol"].to_pylist()) == known
