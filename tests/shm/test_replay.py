"""attach(replay=...): yesterday through the same API, to the same books."""

from __future__ import annotations

import os
import time
from datetime import date

import pytest

import kfix_md
from kfix_md import FeedDead, State, UsageError
from tests.oracle.follow import Follower
from tests.recorder import build


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """Captures of one day with a spot L2 and a derivatives L3 session."""
    path = tmp_path_factory.mktemp("replayed")
    streams = build.journal_of(path / "journal", ("spot-l2", "derivatives-l3"), messages=120)
    build.record(path)
    return path / "captures", streams


@pytest.fixture(autouse=True)
def directory(monkeypatch, tmp_path):
    monkeypatch.setenv("KFIX_SHM_DIR", str(tmp_path))
    return tmp_path


def ended(feed, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while feed.alive:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_day_ends_in_the_books_the_stream_ends_in(day, directory):
    captures, streams = day
    feed = kfix_md.attach(replay=captures, speed=None)
    ended(feed)
    assert feed.date == date(2024, 2, 29)
    checked = 0
    for service, level in (("spot-l2", "L2"), ("derivatives-l3", "L3")):
        for symbol, book in Follower().feed(streams[service][0].data).books.items():
            bids, asks = feed[symbol, level].depth(1000, allow_stale=True)
            for side, levels in (("0", bids), ("1", asks)):
                assert levels["price"].tolist() == [float(price) for price in book.best(side, 1000)]
            checked += len(bids)
    assert checked > 20
    info = feed[symbol, "L3"].info()
    assert info["crc_checked"] > 0 and info["crc_failed"] == 0
    assert feed.recorded_ns > build.START_NS
    with pytest.raises(FeedDead, match="ended"):
        feed[symbol].top()
    feed.close()
    assert not list(directory.iterdir())


def test_speed_paces_it_and_ages_are_as_live(day):
    captures, streams = day
    feed = kfix_md.attach(replay=str(captures), date="2024-02-29", speed=0.5)  # a quarter of a second becomes a half
    (symbol, *_) = streams["spot-l2"][0].markets
    book = feed[symbol]
    assert book.wait(10) and feed.wait(10)
    deadline = time.monotonic() + 10
    while book.state is not State.LIVE:
        assert time.monotonic() < deadline
    assert 0 <= book.age_ns < 5e9
    assert book.top()[0] > 0
    first = feed.recorded_ns
    while feed.recorded_ns == first:
        assert time.monotonic() < deadline
    feed.close()


def test_what_is_not_recorded_is_said_plainly(day, tmp_path):
    captures, _ = day
    with pytest.raises(UsageError, match="no ticks of 2024-03-05; it has 2024-02-29"):
        kfix_md.attach(replay=captures, date="2024-03-05")
    with pytest.raises(kfix_md.KfixError):
        kfix_md.attach(replay=tmp_path / "nothing")
    with pytest.raises(UsageError, match="speed"):
        kfix_md.attach(replay=captures, speed=-1)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("kfix-replay")]


def test_a_replay_that_was_killed_with_its_script_leaves_nothing_for_long(day, directory):
    captures, _ = day
    killed = kfix_md.attach(replay=captures)
    killed._player.process.kill()
    killed._player.process.wait()
    begun = directory / "kfix-replay.begun"
    begun.mkdir()
    with kfix_md.attach(replay=captures) as living:
        assert {path.name for path in directory.iterdir()} == {begun.name, os.path.basename(living._player.folder)}
        with kfix_md.attach(replay=captures) as another:
            assert os.path.isdir(living._player.folder) and os.path.isdir(another._player.folder)
    begun.rmdir()
    killed.close()
