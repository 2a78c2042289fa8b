"""A compacted date has the rows it had, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

import recorder
from kfix_md.errors import CaptureError
from recorder import cli, compact, files, layout, schema
from recorder.process import Recorder
from recorder.verify import verify
from tests.recorder import build, test_tools

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("KFIX_CRASH_SECONDS", "12"))


def same(a: pa.Table, b: pa.Table) -> bool:
    """Equal values, whatever their dictionaries are."""
    return a.cast(schema.plain(a.schema)).equals(b.cast(schema.plain(b.schema)))


def test_compaction_keeps_every_row_and_is_clustered(tmp_path):
    build.two_days(tmp_path)
    build.record(tmp_path, flush_rows=300)
    cap = recorder.open(tmp_path / "captures")
    first, second = cap.dates()
    before = {s: cap.ticks(s) for s in cap.symbols()}
    gaps, proof = cap.gaps(), verify(cap).summary()
    assert compact.candidates(cap.tree, None) == [first]
    expected, reported = compact.rows_to_read(cap.tree, first), []
    totals = compact.compact_day(cap.tree, first, row_group=256, progress=reported.append)
    assert sum(reported) == expected == 2 * totals["rows"]
    assert totals["files_before"] > totals["files_after"]
    cap = recorder.open(tmp_path / "captures")
    assert compact.candidates(cap.tree, None) == []
    [path] = cap.tree.files("ticks", first)
    meta = compact.pq.ParquetFile(path).metadata
    at = meta.schema.names.index("symbol")
    spans = [
        (meta.row_group(i).column(at).statistics.min, meta.row_group(i).column(at).statistics.max)
        for i in range(meta.num_row_groups)
    ]
    assert spans == sorted(spans) and any(a == b for a, b in spans)
    for symbol, rows in before.items():
        assert same(cap.ticks(symbol), rows)
    assert cap.gaps().equals(gaps) and verify(cap).summary() == proof
    assert len(cap.tree.files("ticks", second)) > 1
    assert all(path.name.startswith("replaced-") for path in cap.tree.work.iterdir())


@pytest.mark.parametrize("bucket", [50, 400, 1500])  # a symbol a bucket, window by window; several in one
def test_compaction_in_buckets_on_disk_gives_the_same(tmp_path, monkeypatch, bucket):
    build.two_days(tmp_path)
    build.record(tmp_path, flush_rows=300)
    monkeypatch.setattr(compact, "_BUCKET_ROWS", bucket)
    monkeypatch.setattr(compact, "_WINDOW_ROWS", 100)
    cap = recorder.open(tmp_path / "captures")
    before = {s: cap.ticks(s) for s in cap.symbols()}
    compact.compact_day(cap.tree, cap.dates()[0], row_group=128)
    assert all(same(recorder.open(cap.tree.root).ticks(s), rows) for s, rows in before.items())
    assert verify(recorder.open(cap.tree.root)).holds


def test_compaction_that_would_lose_a_row_changes_nothing(tmp_path, monkeypatch):
    build.two_days(tmp_path)
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
    taken = cap.tree.lock("compact")
    with pytest.raises(CaptureError, match="already have a compaction"):
        compact.compact_day(cap.tree, day)
    taken.close()


def test_a_late_file_stays_through_the_swap(tmp_path, monkeypatch):
    build.two_days(tmp_path)
    build.record(tmp_path, flush_rows=300)
    cap = recorder.open(tmp_path / "captures")
    day = cap.dates()[0]
    last = cap.tree.files("ticks", day)[-1]
    late = layout.file_name(1 << 61, (1 << 61) + 1)
    real = compact._compare

    def compare(table, before, after, progress):
        if table == "ticks":
            (last.parent / late).write_bytes(last.read_bytes())
        real(table, before, after, progress)

    monkeypatch.setattr(compact, "_compare", compare)
    compact.compact_day(cap.tree, day)
    assert late in {p.name for p in cap.tree.files("ticks", day)}


def test_a_running_recorder_compacts_dates_that_are_over(tmp_path):
    build.two_days(tmp_path)
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


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 1000])  # three renames a table
def test_compaction_where_directories_cannot_be_exchanged(tmp_path, monkeypatch, stop):
    """Two renames instead of one step: killed before, between or after them, everything is there again afterwards."""
    build.two_days(tmp_path)
    build.record(tmp_path, flush_rows=300)
    tree = layout.Tree(tmp_path / "captures")
    before, left, real = recorder.open(tree.root).ticks("BTC/USD"), [stop], os.rename

    def rename(a, b):
        left[0] -= 1
        if left[0] < 0:
            raise build.Killed
        real(a, b)

    monkeypatch.setattr(layout.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(layout.os, "rename", rename)
    try:
        compact.compact_day(tree, tree.dates()[0])
        assert stop == 1000
    except build.Killed:
        assert stop < 1000
    monkeypatch.undo()
    build.record(tmp_path)
    assert same(recorder.open(tree.root).ticks("BTC/USD"), before)
    assert all(path.name.startswith("replaced-") for path in tree.work.iterdir())


def test_a_full_disk_is_one_line_and_gives_back_what_was_taken(tmp_path, monkeypatch):
    build.two_days(tmp_path)
    (tmp_path / "feed.toml").write_text(test_tools.CONFIG)

    def write_table(self, *args, **options):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")  # the text of pyarrow

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
    build.two_days(tmp_path)
    build.record(tmp_path)
    tree = recorder.open(tmp_path / "captures").tree
    (tree.work / "compact-ticks-2024-02-29").mkdir()
    taken = tree.lock("compact")
    build.record(tmp_path)
    assert [p.name for p in tree.work.iterdir()] == ["compact-ticks-2024-02-29"]
    taken.close()
    build.record(tmp_path)
    assert not list(tree.work.iterdir())


def test_a_starting_recorder_accepts_that_a_compaction_removes_its_directories_meanwhile(tmp_path, monkeypatch):
    build.two_days(tmp_path)
    build.record(tmp_path)
    tree = recorder.open(tmp_path / "captures").tree
    taken = tree.lock("compact")
    found = Path.iterdir

    def iterdir(path):
        yield from found(path)
        if path == tree.work:
            yield path / "buckets-ticks-2024-02-29"  # removed since it was listed

    monkeypatch.setattr(Path, "iterdir", iterdir)
    tree.clear_work()
    taken.close()


def test_a_directory_that_is_being_listed_keeps_its_files_for_a_while(tmp_path, monkeypatch):
    build.two_days(tmp_path)
    build.record(tmp_path, flush_rows=100)
    tree = layout.Tree(tmp_path / "captures")
    day = tree.dates()[0]
    before = sorted(tree.names("ticks", day))
    listing = os.open(tree.partition("ticks", day), os.O_RDONLY)  # as a reader that has just begun
    try:
        compact.compact_day(tree, day)
        assert sorted(os.listdir(listing)) == before
        later = time.time_ns() + int((layout.KEEP_S + 1) * 1e9)
        monkeypatch.setattr(layout.time, "time_ns", lambda: later)
        tree.clear_work()
        assert not list(tree.work.iterdir())
    finally:
        os.close(listing)


_READS = {
    "rows": lambda cap, day: cap.rows(day),
    "symbols": lambda cap, day: cap.symbols(day),
    "ticks": lambda cap, day: cap.ticks().num_rows,
    "batches": lambda cap, day: sum(batch.num_rows for batch in cap.tick_batches()),
    "replay": lambda cap, day: sum(1 for _ in cap.replay(day)),
}


@pytest.mark.parametrize("read", _READS)
def test_a_reader_whose_files_are_compacted_gets_the_answer_or_an_error_of_ours(tmp_path, monkeypatch, read):
    build.two_days(tmp_path)
    build.record(tmp_path, flush_rows=100)
    cap = recorder.open(tmp_path / "captures")
    day = cap.dates()[0]
    expected = _READS[read](cap, day)
    real, compacted = files.Files.of, []

    def listed(self, table, *args):
        found = real(self, table, *args)
        if table == "ticks" and not compacted:
            compacted.append(True)
            compact.compact_day(self.tree, day)
        return found

    monkeypatch.setattr(files.Files, "of", listed)
    if read == "batches":
        with pytest.raises(CaptureError, match="was compacted while it was read: read again from the start"):
            _READS[read](cap, day)
    assert _READS[read](cap, day) == expected and compacted
