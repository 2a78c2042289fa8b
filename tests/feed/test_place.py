"""A feed whose shared memory or lock files are deleted under it goes on, says so, and keeps a second one away."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from kfix_md.errors import UsageError
from kfix_md.feed.process import FeedProcess
from kfix_md.shm.attach import attach
from tests.feed.rig import Venue, all_good, drive, equal_to_truth, load, until

pytest.importorskip("trustme")
ONE = ("spot-l2", "spot-l3")


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    one = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "3", "--rate", "200")
    yield one
    one.close()


def test_a_deleted_segment_is_published_again_within_a_heartbeat(venue, tmp_path, caplog):
    async def script(feed):
        await all_good(feed)
        path = Path(feed.segment.path)
        reader = attach("gone", directory=tmp_path, reconnect=True)
        book = reader["BTC/USD"]
        for times in (1, 2):
            path.unlink()
            began = time.monotonic()
            await until(path.exists)
            assert time.monotonic() - began < feed.config.feed.heartbeat_ms / 1000
            book.top()  # moves
            before = book.info()["updates"]
            await until(lambda: book.info()["updates"] > before)  # noqa: B023
            assert caplog.text.count("published again") == times
        assert await equal_to_truth(feed, venue) == 6
        await until(lambda: reader.alive and reader.counters["shm_republished"] == 2)

    drive(tmp_path, venue.toml(tmp_path, "gone", ONE), script)
    assert not (tmp_path / "kfix-md.gone").exists()


def test_a_second_feed_on_a_name_or_journal_is_rejected_whatever_was_deleted(venue, tmp_path):
    async def script(feed):
        await all_good(feed)
        Path(feed.segment.path).unlink()
        with pytest.raises(UsageError, match="'twice' is running already"):
            FeedProcess(load(tmp_path / "a", venue.toml(tmp_path, "twice", ONE)))
        (tmp_path / "journal" / "lock").unlink()
        other = load(tmp_path / "b", venue.toml(tmp_path, "another", ONE))
        other.journal.directory = tmp_path / "journal"
        with pytest.raises(UsageError, match=r"journal .* is in use by process"):
            FeedProcess(other)
        assert not list(tmp_path.glob("*another*"))

    drive(tmp_path, venue.toml(tmp_path, "twice", ONE), script)


def test_a_segment_that_cannot_be_made_again_is_an_alarm_until_it_can(venue, tmp_path, caplog):
    where = tmp_path / "shm"
    where.mkdir(mode=0o700)

    async def script(feed):
        await all_good(feed)
        reader = attach("alarm", directory=where)
        shutil.rmtree(where)
        where.write_text("no directory")
        await until(lambda: feed.place.alarm)
        await until(lambda: reader.counters["shm_alarm"] == 1)
        assert caplog.text.count("cannot be published again") == 1
        assert reader["BTC/USD"].top(), "who is attached reads on"
        where.unlink()
        where.mkdir(mode=0o700)
        await until(lambda: not feed.place.alarm and feed.place.republished == 1)
        fresh = attach("alarm", directory=where)
        await until(lambda: fresh.counters["shm_alarm"] == 0)
        await all_good(feed)

    drive(tmp_path, venue.toml(where, "alarm", ONE), script)
