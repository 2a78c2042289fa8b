"""Whatever is killed, damaged or full: every journaled message is in Parquet exactly once, or reported as lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import recorder
from kfix_md.errors import CaptureError
from kfix_md.journal import files as journal_files
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from recorder import cli, layout
from recorder.process import Recorder
from recorder.schema import Flags
from recorder.verify import verify
from tests.recorder import build, test_tools
from tests.streams import generate

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("KFIX_CRASH_SECONDS", "12"))


def test_feed_recorder_and_compaction_killed_at_random_points():
    """About twenty kills a second; see tests/recorder/crashes.py for what must hold afterwards."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.recorder.crashes", str(SECONDS)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60 + 4 * SECONDS,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert (
        reported["worlds"]
        and reported["kills"] > 3 * SECONDS
        and min(reported[k] for k in ("feed", "recorder", "compaction"))
    )


@pytest.mark.parametrize("stop", range(12))
def test_killed_between_any_two_steps_of_a_flush(tmp_path, monkeypatch, stop):
    """Each step of a commit in turn is the last one that happens."""
    build.journal_of(tmp_path / "journal", ("derivatives-l2",), messages=80)
    whole = tmp_path / "whole"
    one = Recorder(build.Settings(tmp_path / "journal", whole))
    one.once()
    one.close()

    left = [stop]
    real_rename, real_write = Path.rename, layout.write_atomically

    def rename(self, target):
        left[0] -= 1
        if left[0] < 0:
            raise build.Killed
        return real_rename(self, target)

    one = Recorder(build.settings(tmp_path, flush_rows=100))
    monkeypatch.setattr(Path, "rename", rename)
    try:
        one.once()
    except build.Killed:
        pass
    else:
        assert stop > 10
    monkeypatch.undo()
    assert layout.write_atomically is real_write
    one.close()
    build.record(tmp_path)
    assert recorder.open(tmp_path / "captures").ticks().equals(recorder.open(whole).ticks())
    for name in ("sessions", "instruments", "status"):
        for cap in (tmp_path / "captures", whole):
            table = getattr(recorder.open(cap), name)()
            assert len({json.dumps(r, default=str) for r in table.to_pylist()}) == table.num_rows


def test_damage_in_the_journal_becomes_a_gap(tmp_path):
    stream = generate("spot-l2", messages=200, seed=8)
    with JournalWriter(tmp_path / "journal") as journal:
        build.write_session(journal, 0, "spot-l2", stream.frames, build.START_NS)
    [path] = journal_files.segments(tmp_path / "journal").values()
    position = [r[0] for r in JournalReader(tmp_path / "journal")][100] & 0xFFFFFFFF
    with open(path, "r+b") as file:
        file.seek(position + 50)
        file.write(b"\xff\xff")
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    [gap] = [g for g in cap.gaps().to_pylist() if g["cause"] == "JOURNAL_DAMAGE"]
    assert gap["lost"] > 0 and f"offset {position}" in gap["detail"]
    assert cap.ticks().num_rows > 500


def test_records_that_found_no_room_become_a_gap(tmp_path):
    t0 = build.START_NS
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", t0)
        journal.event(0, t0, {"type": "logged_on", "session_id": "one"})
        journal.event(0, t0 + 9, {"type": "journal_lost", "count": 17, "first": t0 + 3, "last": t0 + 8})
    build.record(tmp_path)
    [gap] = recorder.open(tmp_path / "captures").gaps().to_pylist()
    assert (gap["cause"], gap["lost"], gap["opened_ns"], gap["closed_ns"]) == ("JOURNAL_LOST", 17, t0 + 3, t0 + 8)


@pytest.mark.parametrize("cause", ["JOURNAL_DAMAGE", "JOURNAL_LOST"])
def test_books_behind_a_loss_are_unproven_until_their_next_snapshot(tmp_path, cause):
    """The feed's books went on and were right; what is rebuilt from rows is not, and is nowhere called right."""
    frames = generate("spot-l2", messages=300, seed=8, symbols=3, empties=False).frames
    t0, cut = build.START_NS, range(150, 170)
    second = t0 + 10**9
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", t0)
        for name, start in (("one", t0), ("two", second)):
            journal.event(0, start, {"type": "logged_on", "session_id": name})
            lost = set(cut) if start == t0 and cause == "JOURNAL_LOST" else set()
            live = build.Handler(level="L2")
            for i, frame in enumerate(frames):
                live.on_bytes(frame, start + i)
                if i in lost:
                    continue
                if lost and i == cut[-1] + 1:
                    journal.event(
                        0,
                        start + i,
                        {"type": "journal_lost", "count": len(cut), "first": start + cut[0], "last": start + cut[-1]},
                    )
                crc = Flags.HAS_CRC | Flags.CRC_CHECKED | Flags.CRC_OK if b"5041=" in frame else 0
                journal.frame(0, start + i, frame, crc | (Flags.SNAPSHOT if b"35=W" in frame else 0))
            assert live.stats["crc_checked"] and not live.stats["crc_failed"]
    [path] = journal_files.segments(tmp_path / "journal").values()
    if cause == "JOURNAL_DAMAGE":
        found = [r[0] & 0xFFFFFFFF for r in JournalReader(tmp_path / "journal") if r[1] == FRAME]
        with open(path, "r+b") as file:
            file.seek(found[cut[0]])
            file.write(bytes(found[cut[-1] + 1] - found[cut[0]]))
    one = Recorder(build.settings(tmp_path, flush_rows=100, checkpoint_rows=20))
    for _ in range(4):
        one.step()
    one.close()
    build.record(tmp_path, flush_rows=100, checkpoint_rows=20)
    cap = recorder.open(tmp_path / "captures")
    proof = verify(cap)
    reported = proof.summary()
    assert proof.holds and reported["unproven"] > 50 and reported["ok"] == reported["checked"] > 300
    [gap] = [g for g in cap.gaps().to_pylist() if g["cause"] == cause]
    before, behind = t0 + cut[0] - 5, t0 + 290
    assert cap.book("BTC/USD", before).trusted and cap.book("BTC/USD", second + 290).trusted
    assert cap.book("BTC/USD", behind).reason.startswith(f"messages are missing since {gap['opened_ns']} ({cause})")
    books = cap._table("checkpoints", None, None)["recv_ns"].to_numpy()
    assert not ((books > gap["opened_ns"]) & (books < second)).any() and (books > second).any()
    for start in (None, before, behind):
        quotes = cap.bbo("BTC/USD", start)
        time, trusted = quotes["recv_ns"].to_numpy(), quotes["trusted"].to_numpy()
        lost = (time >= gap["opened_ns"]) & (time < second)
        assert lost.any() and not trusted[lost].any() and trusted[~lost].all() and (time > second).any()


def test_a_killed_feed_is_a_gap_until_its_books_are_back(tmp_path):
    t0 = build.START_NS
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", t0)
        journal.event(0, t0 + 1, {"type": "logged_on", "session_id": "one"})
        journal.event(0, t0 + 2, {"type": "book", "symbol": "BTC/USD", "state": "LIVE", "cause": "NONE"})
        journal.frame(0, t0 + 5, generate("spot-l2", messages=1).frames[3], 128)  # ignored
        journal.event(0, t0 + 100, {"type": "started"})
        journal.event(0, t0 + 110, {"type": "logged_on", "session_id": "two"})
        build.record(tmp_path)
        cap = recorder.open(tmp_path / "captures")
        [gap] = cap.gaps().to_pylist()
        assert (gap["cause"], gap["closed_ns"], gap["healed"], gap["opened_ns"]) == ("RESTART", None, None, t0 + 5)
        journal.event(0, t0 + 120, {"type": "book", "symbol": "BTC/USD", "state": "LIVE", "cause": "NONE"})
    build.record(tmp_path)
    [gap] = cap.gaps().to_pylist()
    assert (gap["closed_ns"], gap["healed"]) == (t0 + 120, "reconnect")
    assert cap.sessions()["session_id"].to_pylist() == ["one", "two"]
    assert cap.sessions()["ended_ns"].to_pylist() == [t0 + 5, None]


def test_a_clock_set_back_loses_nothing(tmp_path):
    t0, hour = build.START_NS, 3_600_000_000_000
    frames = generate("spot-l2", messages=40, seed=9).frames
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", t0)
        journal.event(0, t0, {"type": "logged_on", "session_id": "one"})
        for i, frame in enumerate(frames):
            journal.frame(0, t0 + (13 * hour if i < 20 else 11 * hour) + i, frame)  # over 22:00 and back
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    assert [str(d) for d in cap.dates()] == ["2024-02-29", "2024-03-01"]
    assert cap.ticks().num_rows == len(set(build.keys(cap.ticks())))
    assert set(cap.ticks()["seq"].to_pylist()) >= set(range(4, 45))


def test_what_a_crash_tore_is_told_in_its_gap(tmp_path):
    t0 = build.START_NS
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", t0)
        journal.event(0, t0 + 1, {"type": "logged_on", "session_id": "one"})
        journal.event(0, t0 + 2, {"type": "started", "recovered": {"torn_bytes": 40, "damaged_bytes": 2}})
    build.record(tmp_path)
    [gap] = recorder.open(tmp_path / "captures").gaps().to_pylist()
    assert gap["cause"] == "RESTART" and "42 bytes of the journal" in gap["detail"]


def wound(path: Path, how: str) -> None:
    """Damage a segment file, so that it is not readable."""
    if how == "cut":
        os.truncate(path, 50)
    elif how == "empty":
        os.truncate(path, 0)
    else:
        with open(path, "r+b") as file:
            file.write({"zero": bytes(4096), "garbage": b"garbage!" * 16}[how])


@pytest.mark.parametrize("how", ["zero", "garbage", "cut", "empty", "missing"])
@pytest.mark.parametrize("which", [0, 2, -1])
def test_a_segment_that_cannot_be_read_is_stepped_over_and_told(tmp_path, how, which):
    stream = generate("spot-l2", messages=1200, seed=8)
    with JournalWriter(tmp_path / "journal", segment_bytes=1 << 16) as journal:
        build.write_session(journal, 0, "spot-l2", stream.frames, build.START_NS)
    paths = list(journal_files.segments(tmp_path / "journal").values())
    each = [
        sum(r[0] >> 32 == n and b"\x01268=" in r[5] for r in JournalReader(tmp_path / "journal"))
        for n in journal_files.segments(tmp_path / "journal")
    ]
    paths[which].unlink() if how == "missing" else wound(paths[which], how)
    with JournalWriter(tmp_path / "journal", segment_bytes=1 << 16) as journal:  # the next feed is not delayed
        journal.event(0, build.START_NS + 10**12, {"type": "started"})
        assert journal.position >> 32 > max(journal_files.segments(tmp_path / "journal")) - 2
    build.record(tmp_path, flush_rows=100)
    cap = recorder.open(tmp_path / "captures")
    reported = [g["cause"] for g in cap.gaps().to_pylist()]
    first_gone = how == "missing" and which == 0  # then the journal begins after it
    last_gone = how == "missing" and which == -1  # then the next writer takes its number
    assert ("JOURNAL_DAMAGE" in reported) == (not first_gone and not last_gone)
    assert verify(cap).holds  # segments begin with the instruments: what is left of the first one alone is lost
    seen = sum(s["messages"] + s["ignored"] for s in cap.sessions().to_pylist())
    if how == "garbage":  # of the header alone: the records know their positions
        assert seen == sum(each)
    elif how == "zero":
        assert which == 0 or sum(each) - each[which] < seen < sum(each)
    else:
        assert which == 0 or seen == sum(each) - each[which]


def test_a_segment_cut_off_behind_its_header_is_read_to_its_end(tmp_path):
    with JournalWriter(tmp_path / "journal", segment_bytes=1 << 16) as journal:
        build.write_session(journal, 0, "spot-l2", generate("spot-l2", messages=1200, seed=8).frames, build.START_NS)
    paths = journal_files.segments(tmp_path / "journal")
    records = [r[0] for r in JournalReader(tmp_path / "journal")]
    second = min(paths) + 1
    os.truncate(paths[second], 20_000)
    reader, found = JournalReader(tmp_path / "journal"), []
    while True:
        try:
            record = reader.read()
        except CaptureError as error:
            assert "damaged at offset" in str(error) and reader.resync() > 20_000
            continue
        if record is None:
            break
        found.append(record[0])
    assert set(records) - set(found) == {p for p in records if p >> 32 == second and p not in found}
    assert any(p >> 32 == second for p in found) and found[-1] == records[-1]


_NO_ROOM = """
import resource, signal, sys, time
from kfix_md import Handler
from kfix_md.journal.writer import JournalWriter
from tests.recorder.build import START_NS, announce
from tests.streams import generate
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
forever = resource.RLIM_INFINITY
stream = generate("spot-l2", messages=1500, symbols=4, seed=2, empties=False)
journal = JournalWriter(sys.argv[1], segment_bytes=1 << 16)
announce(journal, 0, "spot-l2", START_NS)
journal.event(0, START_NS, {"type": "logged_on", "session_id": "one"})
handler = Handler(level="L2", journal=journal)
alarms = set()
for i, frame in enumerate(stream.frames):
    if i == 300:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, forever))  # no segment more
    if i == 1200:
        resource.setrlimit(resource.RLIMIT_FSIZE, (forever, forever))
        while journal.stats()["alarm"].startswith("journal cannot grow"):
            time.sleep(0.01)
    handler.on_bytes(frame, START_NS + 1000 * i)
    alarms.add(journal.stats()["alarm"])
reported = handler.stats
assert reported["crc_checked"] == reported["crc_ok"] == stream.checksums > 1000, reported  # the books went on
assert any(a.startswith("journal cannot grow: File too large") for a in alarms), alarms
lost = journal.stats()["lost"]
journal.close()
print(lost)
"""


def test_a_feed_without_room_goes_on_and_what_was_not_stored_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _NO_ROOM, str(tmp_path / "journal")],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    lost = int(done.stdout)
    assert lost > 100
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    [gap] = [g for g in cap.gaps().to_pylist() if g["cause"] == "JOURNAL_LOST"]
    assert gap["lost"] == lost and gap["closed_ns"] > gap["opened_ns"]
    proof = verify(cap)
    assert proof.holds and proof.summary()["unproven"] > 0
    stored = sum(r[1] == FRAME for r in JournalReader(tmp_path / "journal"))
    assert stored + lost == len(generate("spot-l2", messages=1500, symbols=4, seed=2, empties=False).frames)


def test_two_recorders_and_two_compactions_are_told_apart_in_one_line(tmp_path):
    build.two_days(tmp_path)
    (tmp_path / "feed.toml").write_text(test_tools.CONFIG)
    one = Recorder(build.settings(tmp_path))
    one.once()
    with pytest.raises(CaptureError, match=f"already have a recorder, process {os.getpid()}"):
        test_tools.run(cli.record, tmp_path / "feed.toml", "--once")
    held = one.writer.tree.lock("compact", who="compaction")
    with pytest.raises(CaptureError, match=f"already have a compaction, process {os.getpid()}"):
        test_tools.run(cli.compact, tmp_path / "captures", "--date", str(one.writer.tree.dates()[0]))
    held.close()
    one.close()
    test_tools.run(cli.record, tmp_path / "feed.toml", "--once")
