"""Files that are missing are seen from the names of the others: no book that lacks their rows is trusted."""

from __future__ import annotations

import random
import shutil
import warnings
from datetime import timedelta

import numpy as np
import pytest

import recorder
from kfix_md.errors import CaptureError
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from recorder import compact, layout
from recorder._ticks import book_rows
from recorder.catalog import Captures
from recorder.process import Recorder
from recorder.rebuild import Rebuilder
from recorder.schema import Flags
from recorder.verify import verify
from tests.recorder import build
from tests.streams import generate

SYMBOL = "BTC/USD"
EVENTS = {
    20: [events.BookChanged(SYMBOL, "LIVE", "NONE")],
    150: [events.GapOpened(1, 7, 8, "lost", (SYMBOL,)), events.BookChanged(SYMBOL, "GAP", "LOST")],
    160: [events.GapClosed(1, "replay"), events.BookChanged(SYMBOL, "LIVE", "NONE")],
    200: [events.GapOpened(2, 9, 9, "lost", (SYMBOL,)), events.BookChanged(SYMBOL, "GAP", "LOST")],
    230: [events.GapClosed(2, "replay"), events.BookChanged(SYMBOL, "LIVE", "NONE")],
}


@pytest.fixture(scope="module")
def whole(made_once):
    """Two session dates in many small files, with states of the book."""
    return made_once("two-dates", record_two_dates) / "captures"


def record_two_dates(path):
    with JournalWriter(path / "journal", segment_bytes=1 << 17) as journal:
        for i in range(2):
            start = build.START_NS + i * 86_400 * 10**9
            frames = generate("spot-l2", messages=250, seed=30 + i, symbols=2, empties=False).frames[:-1]
            build.announce(journal, 0, "spot-l2", start)
            journal.event(0, start, {"type": "logged_on", "session_id": f"day {i}"})
            handler = build.Handler(level="L2", session_number=0, journal=journal)
            for n, frame in enumerate(frames):
                now = start + (n + 1) * build.STEP_NS
                for event in EVENTS.get(n, ()):
                    journal.event(0, now, event)
                handler.on_bytes(frame, now)
            journal.event(0, now, events.BookChanged(SYMBOL, "DOWN", "DISCONNECT"))
            journal.event(0, now, events.Disconnected("logout", "disconnect", False, True))
    build.record(path, flush_rows=40, checkpoint_rows=100)


def copied(whole, tmp_path) -> layout.Tree:
    shutil.copytree(whole, tmp_path / "captures")
    return layout.Tree(tmp_path / "captures")


def moments(cap: Captures) -> list[int]:
    times = cap.ticks(SYMBOL)["recv_ns"].to_numpy()
    return sorted(set(times[:: len(times) // 30].tolist()) | {int(times[-1])})


def answers(cap: Captures, at: list[int]) -> list[tuple]:
    found = [cap.book(SYMBOL, moment) for moment in at]
    return [(one.trusted, one.book and book_rows(one.book).tobytes()) for one in found]


def test_files_are_numbered_without_a_hole_through_dates_restarts_and_compaction(whole, tmp_path):
    tree = copied(whole, tmp_path)
    for table in layout.TABLES:
        names = [layout.FileName.parse(p.name) for day in tree.dates(table) for p in tree.files(table, day)]
        assert [one.numbers[0] for one in names] == list(range(len(names))), table
        assert [str(one) for one in names] == [p.name for day in tree.dates(table) for p in tree.files(table, day)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cap = recorder.open(tree.root)
        assert verify(cap).holds and cap.missing() == []
        for day in tree.dates():
            compact.compact_day(tree, day)
            assert recorder.open(tree.root).missing() == []
    [path] = tree.files("ticks", tree.dates()[0])
    parsed = layout.FileName.parse(path.name)
    assert parsed.compacted and parsed.numbers[0] == 0 and parsed.numbers[1] > 5 and str(parsed) == path.name


@pytest.mark.parametrize("table", ["ticks", "status", "gaps", "sessions"])
def test_no_book_that_may_lack_rows_is_trusted(whole, tmp_path, table):
    """Whatever file is missing, what is still trusted is what the whole captures say."""
    complete = recorder.open(whole)
    at = moments(complete)
    right = answers(complete, at)
    assert sum(trusted for trusted, _ in right) > 20
    paths = [p for day in complete.tree.dates(table) for p in complete.tree.files(table, day)]
    wrong = 0
    for path in random.Random(table).sample(paths[1:], min(2, len(paths) - 1)):
        tree = copied(whole, tmp_path / path.name)
        gone = tree.root / path.relative_to(complete.tree.root)
        gone.unlink()
        with pytest.warns(UserWarning, match=rf"1 file of {table} \(number \d+\) is missing after"):
            cap = recorder.open(tree.root)
        found = answers(cap, at)
        for moment, (trusted, book), (was, expected) in zip(at, found, right, strict=True):
            assert not trusted or (was and book == expected), (path, moment)
            wrong += not trusted and was
        proof = verify(cap)
        assert not proof.holds and any(f"of {table}" in fault for fault in proof.faults)
        best = cap.bbo(SYMBOL)
        [missing] = cap.missing()
        assert (missing.table, missing.before, missing.last) == (table, *_neighbour(tree, gone))
        for moment, (trusted, _) in zip(at, found, strict=True):
            i = int(np.searchsorted(np.maximum.accumulate(best["recv_ns"].to_numpy()), moment, "right")) - 1
            assert trusted or not best["trusted"][i].as_py(), (path, moment, cap.book(SYMBOL, moment).reason)
        shutil.rmtree(tree.root)
    assert wrong, "nothing was lost by a missing file"


def _neighbour(tree: layout.Tree, gone) -> tuple:
    number = layout.FileName.parse(gone.name).numbers[0]
    table = gone.parent.parent.name
    files = [p for day in tree.dates(table) for p in tree.files(table, day)]
    return files[number - 1], number


@pytest.mark.parametrize("table", ["status", "instruments", "sessions"])
def test_the_first_file_of_a_table_is_missed(whole, tmp_path, table):
    tree = copied(whole, tmp_path)
    first = tree.files(table, tree.dates(table)[0])[0]
    first.unlink()
    [one] = Captures(tree.root).missing()
    assert (one.table, one.first, one.last, one.before) == (table, 0, 0, None)
    cap = Captures(tree.root)
    assert not verify(cap).holds
    if table != "instruments":  # of a date that has nothing else
        for day in tree.dates("ticks")[1:]:
            for name in layout.TABLES:
                shutil.rmtree(tree.partition(name, day), ignore_errors=True)
        (tree.state / "commit.json").unlink()
        with pytest.warns(UserWarning, match=f"1 file of {table} .number 0. is missing before"):
            recorder.open(tree.root)
    if table == "status":
        at = build.START_NS + 12 * build.STEP_NS
        assert Captures(whole).book(SYMBOL, at).trusted
        assert "files of status are missing" in cap.book(SYMBOL, at).reason
        row = int(np.searchsorted(cap.bbo(SYMBOL)["recv_ns"].to_numpy(), at, "right")) - 1
        assert not cap.bbo(SYMBOL)["trusted"][row].as_py()


def test_oldest_dates_may_be_removed_and_what_the_next_begins_with_may_not(whole, tmp_path):
    tree = copied(whole, tmp_path)
    for table in layout.TABLES:
        shutil.rmtree(tree.partition(table, tree.dates("ticks")[0] if table == "ticks" else tree.dates(table)[0]))
    assert Captures(tree.root).missing() == []
    first = tree.files("status", tree.dates()[0])[0]
    first.unlink()
    assert [one.table for one in Captures(tree.root).missing()] == ["status"]


def test_what_the_last_flushes_wrote_is_missed_too(whole, tmp_path):
    tree = copied(whole, tmp_path)
    paths = tree.files("ticks", tree.dates()[-1])
    for path in paths[-2:]:
        path.unlink()
    cap = Captures(tree.root)
    [one] = cap.missing()
    assert (one.before, one.after, one.last - one.first) == (paths[-3], None, 1)
    end = int(cap.ticks(SYMBOL)["recv_ns"][-1].as_py())
    assert "FILE_MISSING" in cap.book(SYMBOL, end + build.STEP_NS).reason
    shutil.rmtree(tree.state)  # copied without it: nothing shows what came after
    assert Captures(tree.root).missing() == []


def test_a_whole_date_in_between_is_missed(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        now = build.START_NS
        for i in range(3):
            frames = generate("spot-l2", messages=40, seed=i).frames
            build.write_session(journal, 0, "spot-l2", frames, now + i * 86_400 * 10**9)
    build.record(tmp_path, flush_rows=50)
    tree = layout.Tree(tmp_path / "captures")
    first, second, _ = tree.dates()
    for table in ("ticks", "status"):
        shutil.rmtree(tree.partition(table, second))
    found = Captures(tree.root).missing()
    assert [one.table for one in found] == ["ticks", "status"]
    assert layout.date_of(found[0].before) == first and layout.date_of(found[0].after) == second + timedelta(1)
    assert not Captures(tree.root).book(SYMBOL, build.START_NS + 86_400 * 10**9 + 30 * build.STEP_NS).trusted


def test_a_date_that_lacks_a_file_is_not_compacted(whole, tmp_path):
    tree = copied(whole, tmp_path)
    day = tree.dates()[0]
    gone = tree.files("status", day)[1]
    content = gone.read_bytes()
    gone.unlink()
    before = tree.files("ticks", day)
    with pytest.raises(CaptureError, match=r"1 file of status .number 1. is missing .*; restore it before"):
        compact.compact_day(tree, day)
    assert tree.files("ticks", day) == before
    gone.write_bytes(content)
    compact.compact_day(tree, day)
    assert Captures(tree.root).missing() == [] and verify(Captures(tree.root)).holds


def test_a_part_of_a_compacted_date_is_missed(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "_FILE_ROWS", 100)
    tree = copied(whole, tmp_path)
    day = tree.dates()[0]
    compact.compact_day(tree, day, row_group=64)
    parts = tree.files("ticks", day)
    assert len(parts) > 1 and Captures(tree.root).missing() == []
    parts[-1].unlink()
    assert [one.table for one in Captures(tree.root).missing()] == ["ticks"]
    assert not verify(Captures(tree.root)).holds


def test_files_that_are_being_renamed_into_the_tree_are_not_missing(tmp_path, monkeypatch):
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=60)
    one = Recorder(build.settings(tmp_path, flush_rows=60))
    looked, real = [], one.writer._enter

    def enter():
        if one.writer.state.get("entering"):
            looked.append(Captures(tmp_path / "captures").missing())
        real()
        looked.append(Captures(tmp_path / "captures").missing())

    monkeypatch.setattr(one.writer, "_enter", enter)
    one.once()
    one.close()
    assert len(looked) > 6 and not any(looked)


def test_captures_without_numbers_go_on_with_numbers(whole, tmp_path):
    tree = copied(whole, tmp_path)
    for table in layout.TABLES:
        for day in tree.dates(table):
            for path in tree.files(table, day):
                name = layout.FileName.parse(path.name)
                path.rename(path.with_name(layout.file_name(name.start, name.end)))
    commit = tree.state / "commit.json"
    commit.write_text(commit.read_text().replace('"files"', '"before"'))
    cap = recorder.open(tree.root)
    assert cap.missing() == [] and verify(cap).holds
    for day in tree.dates():
        compact.compact_day(tree, day)
    assert recorder.open(tree.root).missing() == [] and verify(recorder.open(tree.root)).holds


def test_a_book_without_the_last_checksum_of_its_messages_is_not_trusted(whole, tmp_path, monkeypatch):
    """Captures without numbers show a missing file by 5041 alone."""
    cap = Captures(whole)
    at = [moment for moment in moments(cap) if cap.book(SYMBOL, moment).trusted]
    real = Rebuilder._rows

    def fewer(self, *args):
        rows = real(self, *args)
        flags = rows["flags"].to_numpy()
        last = rows["seq"].to_numpy() == rows["seq"][-1].as_py() if rows.num_rows else flags < 0
        keep = last | ((flags & Flags.SNAPSHOT) != 0)
        return rows.filter(keep)

    monkeypatch.setattr(Rebuilder, "_rows", fewer)
    monkeypatch.setattr(Rebuilder, "_checkpoint", lambda *args: None)
    seen = [cap.book(SYMBOL, moment) for moment in at]
    assert sum("does not have the last checksum (5041)" in one.reason for one in seen) > len(at) // 2


def test_nothing_is_trusted_after_the_last_record(whole):
    cap = recorder.open(whole)
    end = cap._files.recorded_until()
    assert end == max(cap.ticks()["recv_ns"].to_pylist())
    assert f"not recorded yet: the captures end at {end}" in cap._beyond(end + 1) and not cap._beyond(end)
    assert not cap.book(SYMBOL, end + 1).trusted
