"""Whatever is killed, damaged or swapped at whatever moment: every journaled message is in Parquet exactly once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

import recorder
from kfix_md import journal_files
from kfix_md._journal import FRAME, JournalReader, JournalWriter
from kfix_md.errors import CaptureError, UsageError
from recorder import cli, compact, layout, retention, schema
from recorder.process import Recorder
from recorder.schema import Flags
from recorder.verify import verify
from tests.recorder import build, test_tools
from tests.streams import generate

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("KFIX_CRASH_SECONDS", "12"))


def test_feed_recorder_and_compaction_killed_at_random_points():
    """About twenty kills a second; see tests/recorder/crashes.py for what must hold afterwards."""
    done = subprocess.run([sys.executable, "-m", "tests.recorder.crashes", str(SECONDS)], check=False,
                          capture_output=True, text=True, cwd=ROOT, timeout=60 + 4 * SECONDS)  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["worlds"] and told["kills"] > 3 * SECONDS and min(told[k] for k in ("feed", "recorder", "compaction"))


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
            raise Killed
        return real_rename(self, target)

    one = Recorder(build.settings(tmp_path, flush_rows=100))
    monkeypatch.setattr(Path, "rename", rename)
    try:
        one.once()
    except Killed:
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
    """The feed's books went on and were right; what is rebuilt from rows is not, and nothing says it is."""
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
                    journal.event(0, start + i, {"type": "journal_lost", "count": len(cut), "first": start + cut[0],
                                                 "last": start + cut[-1]})  # fmt: skip
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
    told = proof.summary()
    assert proof.holds and told["unproven"] > 50 and told["ok"] == told["checked"] > 300
    [gap] = [g for g in cap.gaps().to_pylist() if g["cause"] == cause]
    before, behind = t0 + cut[0] - 5, t0 + 290
    assert cap.book("BTC/USD", before).trusted and cap.book("BTC/USD", second + 290).trusted
    assert cap.book("BTC/USD", behind).reason.startswith(f"messages are missing since {gap['opened_ns']} ({cause})")
    books = cap._table("checkpoints", None, None)["recv_ns"].to_numpy()
    assert not ((books > gap["opened_ns"]) & (books < second)).any() and (books > second).any()


def test_a_killed_feed_is_a_gap_until_its_books_are_back(tmp_path):
    t0 = build.START_NS
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", t0)
        journal.event(0, t0 + 1, {"type": "logged_on", "session_id": "one"})
        journal.event(0, t0 + 2, {"type": "book", "symbol": "BTC/USD", "state": "LIVE", "cause": "NONE"})
        journal.frame(0, t0 + 5, generate("spot-l2", messages=1).frames[3])
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


def two_days(tmp_path) -> None:
    day = 86_400_000_000_000
    with JournalWriter(tmp_path / "journal", segment_bytes=1 << 17) as journal:
        for i in range(2):
            for number, service in enumerate(("spot-l2", "spot-l3")):
                frames = generate(service, messages=150, seed=20 + i).frames
                build.write_session(journal, number, service, frames, build.START_NS + i * day + number * 10**9)


def same(a: pa.Table, b: pa.Table) -> bool:
    """Equal values, whatever the dictionaries behind them."""
    return a.cast(schema.plain(a.schema)).equals(b.cast(schema.plain(b.schema)))


def test_compaction_keeps_every_row_and_is_clustered(tmp_path):
    two_days(tmp_path)
    build.record(tmp_path, flush_rows=300)
    cap = recorder.open(tmp_path / "captures")
    first, second = cap.dates()
    before = {s: cap.ticks(s) for s in cap.symbols()}
    gaps, proof = cap.gaps(), verify(cap).summary()
    assert compact.candidates(cap.tree, None) == [first]
    told = compact.compact_day(cap.tree, first, row_group=256)
    assert told["files_before"] > told["files_after"]
    cap = recorder.open(tmp_path / "captures")
    assert compact.candidates(cap.tree, None) == []
    [path] = cap.tree.files("ticks", first)
    meta = compact.pq.ParquetFile(path).metadata
    at = meta.schema.names.index("symbol")
    spans = [(meta.row_group(i).column(at).statistics.min, meta.row_group(i).column(at).statistics.max)
             for i in range(meta.num_row_groups)]  # fmt: skip
    assert spans == sorted(spans) and any(a == b for a, b in spans)
    for symbol, rows in before.items():
        assert same(cap.ticks(symbol), rows)
    assert cap.gaps().equals(gaps) and verify(cap).summary() == proof
    assert len(cap.tree.files("ticks", second)) > 1
    assert not list(cap.tree.work.iterdir())


@pytest.mark.parametrize("bucket", [50, 400, 1500])  # a symbol a bucket, window by window; several in one
def test_compaction_in_buckets_on_disk_gives_the_same(tmp_path, monkeypatch, bucket):
    two_days(tmp_path)
    build.record(tmp_path, flush_rows=300)
    monkeypatch.setattr(compact, "_BUCKET_ROWS", bucket)
    monkeypatch.setattr(compact, "_WINDOW_ROWS", 100)
    cap = recorder.open(tmp_path / "captures")
    before = {s: cap.ticks(s) for s in cap.symbols()}
    compact.compact_day(cap.tree, cap.dates()[0], row_group=128)
    assert all(same(recorder.open(cap.tree.root).ticks(s), rows) for s, rows in before.items())
    assert verify(recorder.open(cap.tree.root)).holds


def test_compaction_that_would_lose_a_row_changes_nothing(tmp_path, monkeypatch):
    two_days(tmp_path)
    build.record(tmp_path, flush_rows=300)
    cap = recorder.open(tmp_path / "captures")
    day = cap.dates()[0]
    before = cap.tree.files("ticks", day)
    real = compact._by_symbol
    monkeypatch.setattr(compact, "_by_symbol", lambda rows: real(rows).slice(1) if rows.num_rows > 500 else real(rows))
    with pytest.raises(CaptureError, match="nothing was changed"):
        compact.compact_day(cap.tree, day)
    assert cap.tree.files("ticks", day) == before
    monkeypatch.undo()
    held = cap.tree.lock("compact")
    with pytest.raises(CaptureError, match="already have a compaction"):
        compact.compact_day(cap.tree, day)
    held.close()


def test_a_late_file_stays_through_the_swap(tmp_path, monkeypatch):
    two_days(tmp_path)
    build.record(tmp_path, flush_rows=300)
    cap = recorder.open(tmp_path / "captures")
    day = cap.dates()[0]
    last = cap.tree.files("ticks", day)[-1]
    late = layout.file_name(1 << 61, (1 << 61) + 1)
    real = compact._compare

    def compare(table, before, after):
        if table == "ticks":
            (last.parent / late).write_bytes(last.read_bytes())
        real(table, before, after)

    monkeypatch.setattr(compact, "_compare", compare)
    compact.compact_day(cap.tree, day)
    assert late in {p.name for p in cap.tree.files("ticks", day)}


def test_segments_are_retired_only_when_their_parquet_is_proven(tmp_path):
    two_days(tmp_path)
    one = Recorder(build.settings(tmp_path, flush_rows=500, retention="zstd"))
    journal, tree = tmp_path / "journal", one.writer.tree
    assert retention.retire(journal, tree, one.committed_safe(), "zstd") == []  # nothing is committed
    one.once()
    before = [r[1:] for r in JournalReader(journal)]
    damaged = tree.files("ticks", tree.dates()[0])[0]
    aside = damaged.read_bytes()
    damaged.unlink()
    with pytest.raises(CaptureError, match="not the same"):
        retention.retire(journal, tree, one.committed_safe(), "delete")
    damaged.write_bytes(aside)
    done = retention.retire(journal, tree, one.committed_safe(), "zstd")
    assert len(done) == len(journal_files.segments(journal)) - 1
    assert [r[1:] for r in JournalReader(journal)] == before
    compact.compact_day(tree, tree.dates()[0])  # proven just the same when rows lie elsewhere
    assert len(retention.retire(journal, tree, one.committed_safe(), "delete")) == len(done)
    assert len(journal_files.segments(journal)) == 1
    one.close()
    with JournalWriter(journal) as more:
        more.event(0, build.START_NS, {"type": "started"})
    assert build.record(tmp_path) == 0  # goes on behind what is gone


def test_a_recorder_that_was_there_first_retires_the_first_segment_too(tmp_path):
    (tmp_path / "journal").mkdir()
    one = Recorder(build.settings(tmp_path, flush_rows=500))
    assert one.step() == "nothing"
    two_days(tmp_path)
    one.once()
    present = sorted(journal_files.segments(tmp_path / "journal"))
    retention.retire(tmp_path / "journal", one.writer.tree, one.committed_safe(), "delete")
    assert len(present) > 2 and sorted(journal_files.segments(tmp_path / "journal")) == present[-1:]
    one.close()


def test_the_newest_segment_stays_beside_a_dead_writers_spare(tmp_path):
    """Else the next writer would not know where numbers go on."""
    two_days(tmp_path)
    journal = tmp_path / "journal"
    newest = max(journal_files.segments(journal))
    (journal / f"spare.{newest + 1:010d}.kfj").write_bytes(bytes(1 << 16))
    one = Recorder(build.settings(tmp_path))
    one.once()
    retention.retire(journal, one.writer.tree, (newest + 1) << 32, "delete")
    one.close()
    assert sorted(journal_files.segments(journal)) == [newest, newest + 1]
    with JournalWriter(journal) as writer:
        assert writer.frame(0, build.START_NS, b"x") and writer.position >> 32 == newest + 1


def test_a_segment_retired_under_a_starting_writer_is_no_fault(tmp_path, monkeypatch):
    two_days(tmp_path)
    found = journal_files.segments(tmp_path / "journal")
    real = journal_files.info

    def info(path):  # compressed between listing and reading
        if path == found[min(found)] and path.exists():
            journal_files.compress.__globals__["info"] = real
            journal_files.compress(path)
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(journal_files, "info", info)
    heads = journal_files.heads(tmp_path / "journal")
    assert heads.keys() == found.keys() and heads[min(found)].compressed
    found[min(found)].with_name(found[min(found)].name + ".zst").unlink()
    assert min(journal_files.heads(tmp_path / "journal")) == min(found) + 1


def test_a_position_the_journal_no_longer_has_is_said(tmp_path):
    two_days(tmp_path)
    one = Recorder(build.settings(tmp_path))
    one.flush()
    one.tail.read(100)
    one.flush()
    one.close()
    found = journal_files.segments(tmp_path / "journal")
    found[min(found)].unlink()
    with pytest.raises(CaptureError, match="is gone"):
        Recorder(build.settings(tmp_path))
    with pytest.raises(UsageError, match="retention"):
        Recorder(build.settings(tmp_path, retention="burn"))


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


def test_a_running_recorder_compacts_dates_that_are_over(tmp_path):
    two_days(tmp_path)
    one = Recorder(build.settings(tmp_path, flush_rows=300))
    one.once()
    first = one.writer.tree.dates()[0]
    deadline = time.monotonic() + 60
    while not all(layout.is_compacted(f.name) for f in one.writer.tree.files("ticks", first)):
        one.housekeeping()
        time.sleep(0.05)
        assert time.monotonic() < deadline
    one.close()
    assert verify(recorder.open(tmp_path / "captures")).holds


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 1000])  # three renames a table
def test_compaction_where_directories_cannot_be_exchanged(tmp_path, monkeypatch, stop):
    """Two renames instead of one step: killed before, between or behind them, everything is there again afterwards."""
    two_days(tmp_path)
    build.record(tmp_path, flush_rows=300)
    tree = layout.Tree(tmp_path / "captures")
    before, left, real = recorder.open(tree.root).ticks("BTC/USD"), [stop], os.rename

    def rename(a, b):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        real(a, b)

    monkeypatch.setattr(layout.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(layout.os, "rename", rename)
    try:
        compact.compact_day(tree, tree.dates()[0])
        assert stop == 1000
    except Killed:
        assert stop < 1000
    monkeypatch.undo()
    build.record(tmp_path)
    assert same(recorder.open(tree.root).ticks("BTC/USD"), before)
    assert not list(tree.work.iterdir())


def test_a_full_disk_is_one_line_and_gives_back_what_was_taken(tmp_path, monkeypatch):
    two_days(tmp_path)
    (tmp_path / "feed.toml").write_text(test_tools.CONFIG)

    def write_table(self, *args, **options):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")  # as pyarrow says it

    real = compact.pq.ParquetWriter.write_table
    monkeypatch.setattr(compact.pq.ParquetWriter, "write_table", write_table)
    with pytest.raises(CaptureError, match="cannot be written: No space left on device; nothing is lost"):
        test_tools.run(cli.record, tmp_path / "feed.toml", "--once")
    tree = layout.Tree(tmp_path / "captures")
    assert not list(tree.work.iterdir()) and not tree.dates()
    monkeypatch.setattr(compact.pq.ParquetWriter, "write_table", real)
    test_tools.run(cli.record, tmp_path / "feed.toml", "--once")
    rows = recorder.open(tree.root).ticks()
    monkeypatch.setattr(compact.pq.ParquetWriter, "write_table", write_table)
    with pytest.raises(CaptureError, match="No space left on device"):
        test_tools.run(cli.compact, tree.root, "--date", str(tree.dates()[0]))
    assert not list(tree.work.iterdir()) and recorder.open(tree.root).ticks().equals(rows)


def test_a_starting_recorder_leaves_a_compaction_at_work_alone(tmp_path):
    two_days(tmp_path)
    build.record(tmp_path)
    tree = recorder.open(tmp_path / "captures").tree
    (tree.work / "compact-ticks-2024-02-29").mkdir()
    held = tree.lock("compact")
    build.record(tmp_path)
    assert [p.name for p in tree.work.iterdir()] == ["compact-ticks-2024-02-29"]
    held.close()
    build.record(tmp_path)
    assert not list(tree.work.iterdir())


def wound(path: Path, how: str) -> None:
    """Damage a segment file, which must stay readable for nobody."""
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
    each = [sum(r[0] >> 32 == n and b"\x01268=" in r[5] for r in JournalReader(tmp_path / "journal"))
            for n in journal_files.segments(tmp_path / "journal")]  # fmt: skip
    paths[which].unlink() if how == "missing" else wound(paths[which], how)
    with JournalWriter(tmp_path / "journal", segment_bytes=1 << 16) as journal:  # the next feed is not held up
        journal.event(0, build.START_NS + 10**12, {"type": "started"})
        assert journal.position >> 32 > max(journal_files.segments(tmp_path / "journal")) - 2
    build.record(tmp_path, flush_rows=100)
    cap = recorder.open(tmp_path / "captures")
    told = [g["cause"] for g in cap.gaps().to_pylist()]
    first_gone = how == "missing" and which == 0  # then the journal begins behind it
    last_gone = how == "missing" and which == -1  # then the next writer takes its number
    assert ("JOURNAL_DAMAGE" in told) == (not first_gone and not last_gone)
    assert verify(cap).holds
    seen = sum(s["messages"] + s["ignored"] for s in cap.sessions().to_pylist())
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
