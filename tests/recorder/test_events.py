"""An event with a wrong value costs a counted gap row, and nothing else of the journal."""

from __future__ import annotations

from datetime import timedelta

import recorder
from kfix_md.journal import events
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.trading_day import DAY_NS, session_date
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
    {"type": 5},
]
UNKNOWN = [{"type": "invented", "x": [1]}, {"type": "stopped", "why": "?"}]


def test_events_that_cannot_be_are_gap_rows_and_recording_continues(tmp_path):
    frames = generate("spot-l2", messages=60, seed=3).frames
    with JournalWriter(tmp_path / "journal") as journal:
        now = build.write_session(journal, 0, "spot-l2", frames, build.START_NS)
        for i, event in enumerate([*BAD, *UNKNOWN]):
            journal.event(0, now + i + 1, event)
        build.write_session(journal, 1, "spot-l2", frames, now + 10**9)
    made = Recorder(build.settings(tmp_path))
    try:
        made.once()
        assert made.tail.bad_events == len(BAD)
        assert made.tail.unknown == {"invented": 1, "stopped.why": 1}
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


def test_after_a_clock_that_was_a_year_ahead_every_date_still_begins_with_what_is_known(tmp_path):
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
    for days in (365, 1, 2):
        assert set(cap.instruments(today + timedelta(days=days))["symbol"].to_pylist()) == known
