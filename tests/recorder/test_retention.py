"""A journal segment goes when its Parquet is proven, and not before."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfix_md import disk
from kfix_md.errors import CaptureError, UsageError
from kfix_md.journal import files as journal_files
from kfix_md.journal.reader import JournalReader
from kfix_md.journal.writer import JournalWriter
from recorder import compact, process, retention
from recorder.process import Recorder
from tests.recorder import build

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("KFIX_CRASH_SECONDS", "12"))


def test_segments_are_retired_only_when_their_parquet_is_proven(tmp_path, caplog):
    build.two_days(tmp_path)
    one = Recorder(build.settings(tmp_path, flush_rows=500, retention="zstd"))
    journal, tree = tmp_path / "journal", one.writer.tree
    assert retention.retire(journal, tree, one.committed_safe(), "zstd") == []  # nothing is committed
    one.once()
    before = [r[1:] for r in JournalReader(journal)]
    damaged = tree.files("ticks", tree.dates()[0])[0]
    aside = damaged.read_bytes()
    damaged.unlink()
    kept: Counter[int] = Counter()
    others = retention.retire(journal, tree, one.committed_safe(), "zstd", kept)
    errors = [record.message for record in caplog.records if "not the same" in record.message]
    assert len(errors) == len(kept) > 0 and others, "the others are retired all the same"
    assert retention.retire(journal, tree, one.committed_safe(), "zstd", kept) == []
    assert len([record for record in caplog.records if "not the same" in record.message]) == len(errors)
    damaged.write_bytes(aside)
    done = others + retention.retire(journal, tree, one.committed_safe(), "zstd")
    assert len(done) == len(journal_files.segments(journal)) - 1
    assert [r[1:] for r in JournalReader(journal)] == before
    compact.compact_day(tree, tree.dates()[0])  # proven just the same when rows lie elsewhere
    assert len(retention.retire(journal, tree, one.committed_safe(), "delete")) == len(done)
    assert len(journal_files.segments(journal)) == 1
    one.close()
    with JournalWriter(journal) as more:
        more.event(0, build.START_NS, {"type": "started"})
    assert build.record(tmp_path) == 0  # continues after what is gone


def test_a_row_that_differs_keeps_its_segment(tmp_path):
    build.two_days(tmp_path)
    one = Recorder(build.settings(tmp_path, flush_rows=500))
    one.once()
    path = one.writer.tree.files("ticks", one.writer.tree.dates()[0])[0]
    table = pq.read_table(path)
    prices = table["price"].to_pylist()
    prices[0] += 1
    at = table.schema.get_field_index("price")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(prices, table.schema.field(at).type)), path)
    kept: Counter[int] = Counter()
    retention.retire(tmp_path / "journal", one.writer.tree, one.committed_safe(), "zstd", kept)
    one.close()
    assert len(kept) == 1


def test_a_recorder_that_was_there_first_retires_the_first_segment_too(tmp_path):
    (tmp_path / "journal").mkdir()
    one = Recorder(build.settings(tmp_path, flush_rows=500))
    assert one.step() == "nothing"
    build.two_days(tmp_path)
    one.once()
    present = sorted(journal_files.segments(tmp_path / "journal"))
    retention.retire(tmp_path / "journal", one.writer.tree, one.committed_safe(), "delete")
    assert len(present) > 2 and sorted(journal_files.segments(tmp_path / "journal")) == present[-1:]
    one.close()


def sizes(journal: Path) -> dict[int, int]:
    return {n: path.stat().st_blocks * 512 for n, path in journal_files.segments(journal).items()}


def test_a_limit_in_bytes_deletes_the_oldest_proven_segments(tmp_path):
    build.two_days(tmp_path)
    one = Recorder(build.settings(tmp_path, flush_rows=500))
    journal, tree = tmp_path / "journal", one.writer.tree
    before = sizes(journal)
    assert retention.limit(journal, tree, one.committed_safe(), 1, 0) == []  # nothing is recorded
    one.once()
    numbers = sorted(before)
    unproven = Counter({numbers[0]: retention.TRIES})
    assert retention.limit(journal, tree, one.committed_safe(), 1, 0, unproven) == [], "no hole after what is kept"
    limit = sum(before.values()) - before[numbers[0]] - 1  # the first alone is not enough
    assert len(retention.limit(journal, tree, one.committed_safe(), limit, 0)) == 2
    assert sorted(sizes(journal)) == numbers[2:]
    assert retention.limit(journal, tree, one.committed_safe(), limit, 0) == []
    retention.limit(journal, tree, one.committed_safe(), 1, 0)
    assert sorted(sizes(journal)) == numbers[-1:]
    one.close()


def test_a_limit_in_days_deletes_dates_that_are_older(tmp_path):
    build.two_days(tmp_path)
    one = Recorder(build.settings(tmp_path, flush_rows=500))
    journal, tree = tmp_path / "journal", one.writer.tree
    one.once()
    dates = [head.date for head in journal_files.heads(journal).values() if head.date]
    assert retention.limit(journal, tree, one.committed_safe(), 0, 2, today=dates[0] + 2) == []
    gone = retention.limit(journal, tree, one.committed_safe(), 0, 2, today=dates[0] + 3)
    assert len(gone) == dates.count(dates[0]) > 0 and len(dates) > len(gone)
    one.close()


def test_the_recorder_keeps_to_limits_and_warns_of_a_full_disk(tmp_path, monkeypatch, caplog):
    build.two_days(tmp_path)
    one = Recorder(build.settings(tmp_path, flush_rows=500, max_bytes=1, compact=False))
    one.once()
    room = disk.Room(free=10, size=100, days_left=1.5)
    monkeypatch.setattr(process, "rooms", lambda stores: {"journal": room})
    one.housekeeping()
    assert len(journal_files.segments(tmp_path / "journal")) == 1
    assert one.counts["segments_retired"] > 1
    assert "disk of the journal: 0.0 GiB free, full in 36 hours at the present rate" in caplog.text
    caplog.clear()
    one.housekeeping()
    assert not caplog.text  # once, and not measured every minute
    one.close()


def test_the_newest_segment_stays_beside_a_dead_writers_spare(tmp_path):
    """Else the next writer would not know where numbers go on."""
    build.two_days(tmp_path)
    journal = tmp_path / "journal"
    newest = max(journal_files.segments(journal))
    (journal / f"spare.{newest + 1:010d}.kfj").write_bytes(bytes(1 << 16))
    one = Recorder(build.settings(tmp_path))
    one.once()
    retention.retire(journal, one.writer.tree, (newest + 1) << 32, "delete")
    one.close()
    assert sorted(journal_files.segments(journal)) == [newest, newest + 1]
    with JournalWriter(journal) as writer:  # the spare's number is not given out again
        assert writer.frame(0, build.START_NS, b"x") and writer.position >> 32 == newest + 2
    assert [record[5] for record in JournalReader(journal, newest + 1 << 32)] == [b"x"]


def test_a_segment_retired_under_a_starting_writer_is_no_fault(tmp_path, monkeypatch):
    build.two_days(tmp_path)
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
    build.two_days(tmp_path)
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
