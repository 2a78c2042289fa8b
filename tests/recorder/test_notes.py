"""Notes of what live files hold: few files are opened, and no answer ever depends on them."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
from datetime import date
from zlib import crc32

import numpy as np
import pyarrow as pa
import pytest

import recorder
from benchmarks.busy_day import BusyDay
from kfix_md import trading_day
from kfix_md.journal.writer import JournalWriter
from recorder import compact, files, layout, notes, schema, tail
from recorder._ticks import book_rows
from recorder.process import Recorder
from tests.recorder import build

DAY = date(2026, 3, 1)
START, END = trading_day.session_bounds(DAY)
EVERY = 20  # files with a symbol between two of its checkpoints


def busy(level: str) -> BusyDay:
    return BusyDay(level, 12, 15, START, END - START - 1)


@pytest.fixture(scope="module")
def recorded(made_once):
    """The same journal in many live files and in one."""
    return made_once("notes", record_both)


def record_both(path):
    with JournalWriter(path / "journal", segment_bytes=1 << 24) as journal:
        for number, level in enumerate(("L2", "L3")):
            journal.event(number, START, {"type": "session", "number": number, "service": level, "level": level})
            journal.event(number, START, {"type": "logged_on", "session_id": level})
        for pair in zip(busy("L2").frames(2000), busy("L3").frames(2000), strict=True):
            for number, (now, frame) in enumerate(pair):
                journal.frame(number, now, frame)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail, "_FILES", EVERY)
        build.record(path, flush_rows=12)
    one = Recorder(build.Settings(path / "journal", path / "whole"))
    one.once()
    one.close()


def copied(recorded, tmp_path) -> str:
    """The many files as they are, times of change too."""
    return shutil.copytree(recorded / "captures", tmp_path / "captures", copy_function=shutil.copy2)


def rank(level: str, at: int) -> str:
    return busy(level).symbols[at]


ASKED = [(level, rank(level, at)) for level in ("L2", "L3") for at in (0, 4, -1)]
BUSY_AND_QUIET = [ASKED[0], ASKED[-1]]


def same_answers(cap, whole, asked=BUSY_AND_QUIET) -> None:
    """Ticks, books and best prices of busy and quiet symbols are those of the captures in one file."""
    for level, symbol in asked:
        assert cap.ticks(symbol).to_pydict() == whole.ticks(symbol).to_pydict()
        a, b = sorted(random.Random(symbol).sample(range(START, END), 2))
        assert cap.bbo(symbol, a, b).equals(whole.bbo(symbol, a, b))
        for at in random.Random(level).sample(range(START, END), 4):
            got, expected = cap.book(symbol, at, level=level), whole.book(symbol, at, level=level)
            assert (got.seq, got.recv_ns, got.trusted) == (expected.seq, expected.recv_ns, True)
            assert (book_rows(got.book) == book_rows(expected.book)).all()


def opens(monkeypatch) -> list:
    """Paths of the files opened from now on, none of them known from before."""
    found, real = [], files.open_file
    monkeypatch.setattr(files, "_footers", {})
    monkeypatch.setattr(files, "open_file", lambda path, *more: found.append(path) or real(path, *more))
    return found


def test_a_question_opens_the_files_that_hold_its_symbol(recorded, monkeypatch):
    tree = layout.Tree(recorded / "captures")
    every = tree.files("ticks", DAY)
    assert len(every) > 250 and len(tree.files("checkpoints", DAY)) > 50
    for level, symbol in ASKED:
        holding = [f for f in every if files.table("ticks", [f], ["seq"], symbols=[symbol]).num_rows]
        with monkeypatch.context() as patch:
            opened = opens(patch)
            recorder.open(tree.root).ticks(symbol)
            assert [f for f in opened if "ticks" in f.parts] == holding
            assert len([f for f in opened if not {"ticks", "sessions"} & set(f.parts)]) <= 2
        for at in random.Random(symbol).sample(range(START, END), 10):
            with monkeypatch.context() as patch:
                opened = opens(patch)
                recorder.open(tree.root).book(symbol, at, level=level)
                assert len(opened) <= EVERY + 12, (
                    symbol,
                    at,
                    opened,
                )  # the small tables, a checkpoint
    assert len(holding) < len(every) / 4, "the last one is a quiet symbol"
    same_answers(recorder.open(tree.root), recorder.open(recorded / "whole"), ASKED)


def lines_of(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line]


def flipped(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for at in rng.sample(range(len(out)), 40):
        out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def lying(data: bytes, rng: random.Random) -> bytes:
    """Sound lines of files of other content: none describes its present file."""
    out = b""
    for line in lines_of(data):
        entry = json.loads(line[9:]) | {"held": "0", "first_ns": 0, "last_ns": 1}
        entry[rng.choice(["size", "changed_ns"])] += 1
        body = json.dumps(entry).encode()
        out += b"%08x %s\n" % (crc32(body), body)
    return out


DAMAGE = {
    "removed": None,
    "empty": lambda data, rng: b"",
    "garbage": lambda data, rng: rng.randbytes(len(data)),
    "flipped bits": flipped,
    "torn": lambda data, rng: data[: len(data) // 3] + b"\0" * 500,
    "lines lost": lambda data, rng: b"\n".join(line for line in lines_of(data) if rng.random() < 0.8) + b"\n",
    "first line lost": lambda data, rng: b"\n".join(lines_of(data)[1:]) + b"\n",
    "stale": lying,
    "another version": lambda data, rng: b"".join(
        b"%08x %s\n" % (crc32(body), body) for body in (b"[]", b"{}", b"7", b'{"of": 1, "numbered": 0, "new": 3}')
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_notes_that_are_missing_damaged_or_stale_change_no_answer(recorded, tmp_path, how):
    root = copied(recorded, tmp_path)
    rng = random.Random(how)
    places = sorted((tmp_path / "captures/state/notes").iterdir())
    assert [p.name for p in places] == [f"checkpoints-{DAY}", f"ticks-{DAY}"]
    for place in places:
        if DAMAGE[how] is None:
            place.unlink()
        else:
            place.write_bytes(DAMAGE[how](place.read_bytes(), rng))
    same_answers(recorder.open(root), recorder.open(recorded / "whole"))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("torn", [False, True])
def test_killed_between_a_file_and_its_note(recorded, tmp_path, monkeypatch, torn):
    """Every few files the recorder dies with the file in the tree and no note of it, or half of one."""
    (tmp_path / "journal").symlink_to(recorded / "journal")
    monkeypatch.setattr(tail, "_FILES", EVERY)
    real, turn, killed = notes.NoteWriter.add, itertools.count(1), 0

    def add(self, table, day, path, rows):
        if next(turn) % 120:
            return real(self, table, day, path, rows)
        if torn:
            place = notes._place(self.tree, table, day)
            real(self, table, day, path, rows)
            os.truncate(place, place.stat().st_size - 30)
        raise Killed

    monkeypatch.setattr(notes.NoteWriter, "add", add)
    while True:
        one = Recorder(build.settings(tmp_path, flush_rows=12))
        try:
            one.once()
            break
        except Killed:
            killed += 1
        finally:
            one.close()
    tree = layout.Tree(tmp_path / "captures")
    every = tree.files("ticks", DAY)
    found = files.Files(tree)
    found.of("ticks")
    noted = sum(found._notes.of(f) is not None for f in every)
    assert killed > 2 and len(every) - 2 * killed <= noted < len(every)
    same_answers(recorder.open(tree.root), recorder.open(recorded / "whole"))


def test_open_captures_read_on_in_notes_that_grow_and_are_replaced(tmp_path):
    tree = layout.Tree(tmp_path / "captures")
    tree.create()
    for name in ("x", "y"):
        tree.partition("ticks", DAY).mkdir(exist_ok=True)
        (tree.partition("ticks", DAY) / f"{name}.parquet").write_bytes(b"1")
    x, y = (tree.partition("ticks", DAY) / f"{name}.parquet" for name in ("x", "y"))
    reader, writer = notes.Notes(tree), notes.NoteWriter(tree)

    def rows(*symbols):
        if not symbols:
            return schema.SCHEMAS["ticks"].empty_table()
        return pa.table({"recv_ns": np.arange(len(symbols)) + START, "symbol": pa.array(symbols).dictionary_encode()})

    def seen(path):
        reader.refresh("ticks", DAY)
        return [s for s in "ABC" if reader.may_hold(path, [s], None, None)]

    assert seen(x) == ["A", "B", "C"]  # no word of it
    writer.add("ticks", DAY, x, rows("A", "B", "A"))
    assert seen(x) == ["A", "B"] and seen(y) == ["A", "B", "C"]
    writer.add("ticks", DAY, y, rows("C", "B"))
    assert seen(x) == ["A", "B"] and seen(y) == ["B", "C"]
    assert not reader.may_hold(x, ["A"], START + 3, None) and not reader.may_hold(x, ["A"], None, START)
    assert reader.may_hold(x, ["A"], START + 2, START + 3)
    notes.forget(tree, "ticks", DAY)  # by compaction, while both go on
    writer.add("ticks", DAY, x, rows("C"))
    assert seen(x) == ["C"]
    writer.add("ticks", DAY, y, rows())
    assert seen(y) == []
    notes.NoteWriter(tree).add("ticks", DAY, y, rows("B", "A"))  # a later recorder
    assert seen(y) == ["A", "B"] and seen(x) == ["C"]
    y.write_bytes(b"22")
    assert seen(y) == ["A", "B", "C"]


def test_a_full_disk_leaves_no_note_and_no_error(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=100)
    monkeypatch.setattr(notes.NoteWriter, "_body", full)
    assert build.record(tmp_path) and recorder.open(tmp_path / "captures").ticks().num_rows
    assert not any(p.stat().st_size for p in (tmp_path / "captures/state/notes").iterdir())


def test_notes_go_with_the_live_files(recorded, tmp_path):
    root = copied(recorded, tmp_path)
    places = tmp_path / "captures/state/notes"
    left = {p.name: p.read_bytes() for p in places.iterdir()}
    compact.compact_day(layout.Tree(root), DAY)
    assert left and not list(places.iterdir())
    for name, data in left.items():  # as if compaction had been killed before that
        (places / name).write_bytes(data)
    same_answers(recorder.open(root), recorder.open(recorded / "whole"))
    (tmp_path / "journal").symlink_to(recorded / "journal")
    build.record(tmp_path)
    assert not list(places.iterdir())


def test_every_gap_of_a_date_of_many_is_told(tmp_path):
    """Tables without a receive time are not searched by it."""
    with JournalWriter(tmp_path / "journal", segment_bytes=1 << 20) as journal:
        journal.event(0, START, {"type": "session", "number": 0, "service": "L2", "level": "L2"})
        journal.event(0, START, {"type": "logged_on", "session_id": "one"})
        one = Recorder(build.settings(tmp_path))
        for i in range(2 * files._FEW):
            journal.event(0, START + i, {"type": "gap_open", "id": i, "cause": "lost", "first": i, "last": i})
            one.once()
        one.close()
    tree = layout.Tree(tmp_path / "captures")
    assert len(tree.files("gaps", DAY)) == 2 * files._FEW
    assert len(files.Files(tree).of("gaps", START + 5, START + 6)) == 2 * files._FEW


@pytest.mark.parametrize("noted", [True, False])
def test_no_row_is_missing_after_the_clock_was_set_back(tmp_path, noted):
    """Files are found by the times in each: after a step of the clock their order is not that of time."""
    frames = list(busy("L2").frames(1000))
    back = 6 * 3_600_000_000_000
    with JournalWriter(tmp_path / "journal", segment_bytes=1 << 24) as journal:
        journal.event(0, START, {"type": "session", "number": 0, "service": "L2", "level": "L2"})
        journal.event(0, START, {"type": "logged_on", "session_id": "one"})
        for i, (now, frame) in enumerate(frames):
            journal.frame(0, now - back if i >= len(frames) // 2 else now, frame)
    build.record(tmp_path, flush_rows=12)
    if not noted:
        shutil.rmtree(tmp_path / "captures" / "state" / "notes")
    cap, symbol = recorder.open(tmp_path / "captures"), rank("L2", 0)
    assert len(cap.tree.files("ticks", DAY)) > 2 * files._FEW
    everything = cap.ticks(symbol)
    times = everything["recv_ns"].to_numpy()
    assert (np.diff(times) < 0).any()
    chosen = random.Random(7)
    for _ in range(40):
        a, b = sorted(chosen.choices(times.tolist(), k=2))
        rows = cap.ticks(symbol, a, b)["seq"] if b > a else pa.chunked_array([], pa.int64())
        assert rows.to_pylist() == everything["seq"].to_numpy()[(times >= a) & (times < b)].tolist()
