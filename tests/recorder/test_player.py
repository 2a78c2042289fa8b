"""What a replay shows, at every message and where it begins in the middle of a day, is what the captures say."""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest import mock

import pytest

import kfix_md
import recorder
from kfix_md import FeedDead, State, UsageError
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from kfix_md.shm.writer import SegmentWriter
from recorder import coverage, files, player
from recorder.player import DayPlayer, Mark, Pace
from tests.recorder import build
from tests.recorder.test_coverage import MS, SYMBOL, captured, written

#: (index of the frame that follows, state, cause): what happens to the book of `day`
STATES = [
    (5, "LIVE", "NONE"),
    (60, "GAP", "LOST"),
    (90, "LIVE", "NONE"),
    (120, "HALTED", "STATUS"),
    (150, "LIVE", "NONE"),
    (180, "STALE", "NONE"),
    (200, "LIVE", "NONE"),
    (300, "DOWN", "DISCONNECT"),
]


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """Captures of a session of one symbol, and the receive times of its frames."""
    path = tmp_path_factory.mktemp("played")
    with JournalWriter(path / "journal") as journal:
        moments: dict[int, list[events.JournalEvent]] = {
            at: [events.BookChanged(SYMBOL, state, cause, at)] for at, state, cause in STATES
        }
        times = written(journal, moments)
    build.record(path, checkpoint_rows=60, flush_rows=100)
    return recorder.open(path / "captures"), times


@pytest.fixture
def playing(day, tmp_path):
    cap, _ = day
    with SegmentWriter("test", tmp_path) as writer:
        yield DayPlayer(cap, cap.dates()[0], writer)


def test_books_have_the_states_that_readers_saw(day, playing, monkeypatch):
    """After every message, against the coverage of its time."""
    cap, times = day
    monkeypatch.setattr(player, "CHUNK", 1)
    states, seen = cap.coverage(symbol=SYMBOL), {}
    monkeypatch.setattr(
        DayPlayer, "_reached", lambda self, at_ns: seen.setdefault(at_ns, self.handlers["L2"].book_state(SYMBOL))
    )
    playing.play()
    assert list(seen) == times[3:]  # before: logon and list
    compared = set()
    for at_ns, (state, *_) in seen.items():
        row = coverage.at(states, at_ns)
        if row is not None:
            found = "LIVE" if state is State.EMPTY else state.name  # the generated session has empty books
            assert found == row["state"], at_ns
            compared.add(found)
    assert compared == {state for _, state, _ in STATES}
    assert playing.handlers["L2"].stats["crc_failed"] == 0


@pytest.mark.parametrize("index", [30, 75, 130, 200, 299, 350])
def test_a_replay_that_begins_in_the_middle_has_the_book_of_then(day, playing, index):
    cap, times = day
    at_ns = times[index] + 1
    playing.marks = player.marks_of(cap, playing.day)
    playing._seek(at_ns)
    wanted, view = cap.book(SYMBOL, at_ns), playing.handlers["L2"][SYMBOL]
    state = coverage.at(cap.coverage(symbol=SYMBOL), at_ns)
    assert state is not None
    assert (view.state.name, view.state in (State.LIVE, State.EMPTY)) == (state["state"], wanted.trusted)
    bids, asks = view.depth(10, allow_stale=True)
    assert bids["price"].tolist() == wanted.bids["price"].tolist() and len(bids)
    assert asks["qty"].tolist() == wanted.asks["qty"].tolist()
    assert playing.handlers["L2"].book_state(SYMBOL)[2] == wanted.seq
    playing._play_from(at_ns)
    assert playing.at_ns == times[-1]


def test_nothing_is_read_before_the_books_are_there(day, tmp_path, monkeypatch):
    """Not a row of ticks: a day of any size is attached to at once."""
    cap, _ = day
    read = []
    monkeypatch.setattr(files, "_read", lambda table, *a, real=files._read: (read.append(table), real(table, *a))[1])
    monkeypatch.setattr(files, "piece_batches", lambda *a: read.append("piece"))
    with SegmentWriter("test", tmp_path) as writer:
        DayPlayer(cap, cap.dates()[0], writer)
        assert [(symbol, level) for symbol, level, *_ in player.books_of(cap, cap.dates()[0])] == [(SYMBOL, "L2")]
    assert read and not {"ticks", "piece"} & set(read)


def test_a_loss_of_rows_voids_the_books_of_its_session(tmp_path):
    """The feed's own books were right, those made of what was recorded are not."""
    with JournalWriter(tmp_path / "journal") as journal:
        lost: dict[int, list[events.JournalEvent]] = {
            200: [events.JournalLost(3, build.START_NS + 150 * MS, build.START_NS + 180 * MS)]
        }
        times = written(journal, {5: [events.BookChanged(SYMBOL, "LIVE", "NONE", 5)], **lost})
    cap = captured(tmp_path)
    found = [mark for mark in player.marks_of(cap, cap.dates()[0]) if mark.cause.name == "LOST"]
    assert found and all(mark.symbol is None and mark.state is State.SYNCING for mark in found)
    assert all(times[140] < mark.at_ns < times[210] for mark in found)


def test_the_heart_beats_while_something_is_read(tmp_path):
    with SegmentWriter("test", tmp_path, heartbeat_ns=100_000_000) as writer, player.beating(writer):
        feed = kfix_md.attach("test", directory=tmp_path)
        before = feed.info["heartbeat_ns"]
        deadline = time.monotonic() + 10
        while feed.info["heartbeat_ns"] == before:  # this thread does nothing for it
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_pace():
    pace = Pace(2.0)
    assert pace.reached(100.0, 10**9) == 10**9 and pace.wait(100.0, 3 * 10**9) == 1.0
    assert pace.reached(101.0, 0) == 3 * 10**9
    pace.restart(200.0, 5 * 10**9)
    assert pace.wait(199.0, 5 * 10**9) == 1.0 and pace.wait(201.0, 5 * 10**9) == 0.0
    pace.speed = None
    assert pace.wait(0.0, 1 << 60) == 0.0 and pace.reached(0.0, 0) > 1 << 61


@pytest.fixture
def directory(monkeypatch, tmp_path):
    monkeypatch.setenv("KFIX_SHM_DIR", str(tmp_path))


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_script_pauses_seeks_and_changes_the_speed(day, directory):
    cap, times = day
    with kfix_md.attach(replay=cap.tree.root, at=times[30], speed=0.01) as feed:  # 10 ms of the script are 0.1 ms of it
        book = feed[SYMBOL]
        until(lambda: book.state is State.LIVE)
        assert book.top()[0] > 0
        feed.pause()
        before = feed.recorded_ns
        assert feed.paused and before >= times[30]
        feed.seek(times[100])
        until(lambda: feed.recorded_ns == times[100])
        time.sleep(0.2)
        assert feed.recorded_ns == times[100] and feed.alive, "it rests where it was put"
        feed.seek(times[70])
        until(lambda: feed.recorded_ns == times[70])
        assert book.state is State.GAP
        with pytest.raises(UsageError, match="not on the session date"):
            feed.seek("2024-02-27T00:00")
        with pytest.raises(UsageError, match="float"):
            feed.seek(1.5)
        with pytest.raises(UsageError, match="speed"):
            feed.speed = 0.0
        feed.speed = None
        assert feed.speed is None and feed.recorded_ns == times[70]
        feed.resume()
        until(lambda: not feed.alive)
        assert feed.recorded_ns == times[-1]
        with pytest.raises(FeedDead, match="the replay has ended"):
            feed.pause()


def test_ctrl_c_neither_ends_a_replay_nor_mixes_up_its_answers(day, directory, monkeypatch):
    cap, times = day
    with kfix_md.attach(replay=cap.tree.root, at=times[30], speed=0.01) as feed:
        player = feed._player
        assert os.getpgid(player.process.pid) != os.getpgid(0), "the terminal sends it to a group"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(player, "_reply", mock.Mock(side_effect=KeyboardInterrupt))
            feed.seek("2024-02-27T00:00")
        feed.pause()  # its answer is not that of the seek, an error
        with pytest.raises(UsageError, match="not on the session date"):
            feed.seek("2024-02-27T00:00")


def test_the_date_of_a_moment_need_not_be_given(day, directory):
    cap, times = day
    with kfix_md.attach(replay=cap.tree.root, at="2024-02-29T10:00:00.100Z") as feed:
        assert feed.date == cap.dates()[0]
    for at, text in (("2024-03-05", "no ticks of 2024-03-05"), ("soon", "not a time"), (times[0] + 1e9, "float")):
        with pytest.raises(UsageError, match=text):
            kfix_md.attach(replay=cap.tree.root, at=at)


def test_marks_come_in_order_and_only_those_that_lasted(day):
    cap, _ = day
    marks = player.marks_of(cap, cap.dates()[0])
    assert [mark.state.name for mark in marks] == [state for _, state, _ in STATES]
    assert marks == sorted(marks, key=lambda mark: mark.at_ns) and isinstance(marks[0], Mark)


def test_the_replaying_process_does_without_pandas(day, directory):
    cap, times = day
    with kfix_md.attach(replay=cap.tree.root, at=times[30], speed=0.01) as feed:
        until(lambda: feed[SYMBOL].state is State.LIVE)  # rows were read
        libraries = Path(f"/proc/{feed._player.process.pid}/maps").read_text()
    assert "pyarrow" in libraries and "pandas" not in libraries
