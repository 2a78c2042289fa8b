"""What the benchmarks print is what was timed: rounds, medians, ratios and goals; their streams are sound."""

from __future__ import annotations

import sys

import pytest

from benchmarks import build, parquet_depth, race, replay
from benchmarks.__main__ import columns, line, row_lines
from benchmarks.decode import byte_split, entries_of, frames_of, simplefix_runner
from benchmarks.race import Race, Row, compare
from benchmarks.workload import Workload
from kfix_md._codec import Codec
from tests.streams import generate

SMALL = generate("derivatives-l3", symbols=1, messages=60, depth=8, empties=False)


def test_rounds_are_interleaved_and_the_first_is_dropped(monkeypatch):
    order, clock = [], iter([100, 1000] + [10, 30] * 3)
    monkeypatch.setattr(race, "timed", lambda runner, prepare, most: (runner(), next(clock))[1])
    turns = Race("group", 10)
    turns.add("a", lambda: order.append("a"))
    turns.add("b", lambda: order.append("b"))
    assert turns.run(3) == {"a": 1.0, "b": 3.0}
    assert order == ["a", "b"] * 4


def test_what_is_prepared_is_not_timed_and_is_handed_over():
    seen = []
    turns = Race("group", 1)
    turns.add("a", seen.append, prepare=lambda: "book")
    assert turns.run(2)["a"] > 0
    assert len(seen) >= 3
    assert set(seen) == {"book"}


def test_a_turn_is_filled_with_calls_and_their_mean_is_told(monkeypatch):
    clock = iter([0, 2_000_000, 5_000_000, 9_000_000])
    monkeypatch.setattr(race.time, "thread_time_ns", lambda: next(clock))
    assert race.timed(lambda: None, None) == 3_000_000
    monkeypatch.setattr(race.time, "thread_time_ns", lambda: 7)
    calls = []
    assert race.timed(lambda: calls.append(1), None) == 0
    assert len(calls) == race.TURN_CALLS


@pytest.mark.parametrize(("ours", "met"), [(50.0, True), (51.0, False)])
def test_goals(ours, met):
    rows = [Row("g", "ours", ours), Row("g", "theirs", 100.0), Row("g", "gone", None)]
    compare(rows, "ours", "theirs", 0.5, at_most=True)
    compare(rows, "ours", "gone", 0.5, at_most=True)
    assert (rows[0].ratio, rows[0].met) == (ours / 100, met)
    compare(rows, "ours", "theirs", 2, at_most=False)
    assert rows[1].met is met
    assert ("met" if met else "missed") in line(rows[0])
    assert columns(rows[2])[1] == "-"
    assert row_lines(rows[0], None, markdown=True)[1] == "**g**"


def test_rivals_are_given_the_same_entries():
    frames = frames_of(SMALL.data, 30)
    wanted = sum(frame.count(b"\x01279=") for frame in frames)
    assert len(frames) == 30
    assert byte_split(frames) == wanted
    pairs = [part.split(b"=", 1) for part in frames[0].split(b"\x01")[:-1]]
    assert len(entries_of(pairs)) == frames[0].count(b"\x01279=")
    assert simplefix_runner(frames)() == wanted


def test_rivals_convert_what_the_decoder_converts():
    codec = Codec()
    for frame in frames_of(SMALL.data, 30):
        ours = codec.decode_frame(frame, 9, 9)
        theirs = entries_of(part.split(b"=", 1) for part in frame.split(b"\x01")[:-1])
        assert len(ours) == len(theirs)
        for entry, (action, side, name, _, _, event_ns, queue_ns) in zip(ours, theirs, strict=True):
            assert (min(entry["action"], 2), entry["side"]) == (action, side)
            assert int(entry["id_hi"]) << 64 | int(entry["id_lo"]) == name
            assert (entry["event_ns"], entry["queue_ns"]) == (event_ns, queue_ns)


def test_a_workload_knows_its_stream():
    work = Workload("small", SMALL.data)
    opening, updates = work.halves()
    assert opening + updates == SMALL.data
    assert b"\x0135=W\x01" in opening
    assert b"\x0135=W\x01" not in updates
    assert (work.level, work.messages) == ("L3", len(SMALL.frames))
    assert work.precisions.keys() == SMALL.markets.keys()


def test_a_replay_has_a_row_for_each_rival_with_a_figure_or_why_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(parquet_depth, "MESSAGES", 200)
    monkeypatch.setattr(sys, "argv", ["replay", "--rows", "1", "--rounds", "1"])
    monkeypatch.setitem(sys.modules, "databento_dbn", None)
    replay.main()
    rows = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines() if "5041" in line)
    rows = {name.split(":")[0].split(",")[0].strip(): last for name, last in rows.items()}
    assert list(rows) == ["kfix-md", "DBN", "hftbacktest", "nautilus_trader"]
    assert rows["DBN"] == "absent: databento_dbn is not installed"
    assert all(last.startswith("absent: ") or float(last) > 0 for last in rows.values())


def test_rivals_of_a_replay_read_its_first_session(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_depth, "MESSAGES", 200)
    cap, symbol = parquet_depth.busy_symbol(tmp_path, "L2", 2000)
    session = replay.first_session(cap, "L2")
    message = next(m for m in cap.replay(cap.dates()[0]) if m.symbol == symbol)
    assert session.opening.tolist() == message.entries()[1:].tolist()
    first = [m for m in cap.replay(cap.dates()[0]) if m.session == message.session]
    assert 1 < len(session) <= len(first) and session.ends[-1] == len(session.updates)


def test_the_driver_uses_what_the_core_has(tmp_path):
    """It is compiled when a benchmark starts, long after a name in the core has changed."""
    build.run([*build.compiling(build.translated(tmp_path)), "-fsyntax-only"])  # RuntimeError with its errors
