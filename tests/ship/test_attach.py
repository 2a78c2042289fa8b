"""attach("nats://host/feed"): a live book of a feed elsewhere, in one line."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("uvloop")
pytest.importorskip("cryptography")

from kfix_md import Cause, State, UsageError, attach
from kfix_md.replication.jetstream import Access, JetStreamOutlet
from kfix_md.replication.ship import Shipper
from tests.feed.rig import Venue, all_good, drive, until
from tests.feed.test_follow import Copy, assert_equal, keyed, rows
from tests.ship.rig import Broker, Ends, needs_broker

pytestmark = needs_broker


def test_a_book_of_a_feed_on_another_machine_is_live(tmp_path, monkeypatch):
    monkeypatch.setenv("KFIX_MIRRORS", str(tmp_path / "mirrors"))
    broker = Broker(tmp_path)
    venue = Venue(tmp_path / "venue", "--symbols", "2", "--rate", "100", "--seed", "3")
    shm = tmp_path / "other"
    shm.mkdir()

    async def script(feed):
        await all_good(feed)
        access = Access([broker.url])
        shipper = Shipper(
            tmp_path / "journal", "far", lambda source: JetStreamOutlet.open(access, "far", source, 1 << 18), []
        )
        task = asyncio.create_task(shipper.run())
        far = await asyncio.to_thread(attach, f"{broker.url}/far", directory=shm)
        assert (await asyncio.to_thread(attach, f"{broker.url}/far", directory=shm)).path == far.path
        source = attach("t-ship", directory=tmp_path)
        book, ours = far["BTC/USD"], source["BTC/USD"]
        await until(lambda: book.state.name == "LIVE", 10)
        venue("pause")
        await until(lambda: book.seq == ours.seq, 10)
        assert book.top() == ours.top()
        shipper.stop()
        await task

    try:
        drive(tmp_path, venue.toml(tmp_path, "t-ship"), script)
    finally:
        venue.close()
        broker.close()


def test_books_of_a_replica_are_those_of_the_source_and_stale_while_its_mirror_is_stopped(tmp_path):
    broker = Broker(tmp_path)
    venue = Venue(tmp_path / "venue", "--symbols", "2", "--rate", "100", "--seed", "4")

    async def script(feed):
        await all_good(feed)
        ends = Ends(broker, tmp_path / "journal", tmp_path / "replica")
        source, shipper, mirror = attach("t-far", directory=tmp_path), ends.shipper(), ends.mirror()
        ends.start(shipper)
        mirroring = ends.start(mirror)
        copy = Copy(tmp_path, "copy", ends.directory)

        def causes():
            copy.catch_up()
            return {(book.state, book.cause) for book in copy.feed.books()}

        async def compared():
            venue("pause")
            await asyncio.sleep(0.2)
            await ends.until(ends.equal)
            copy.catch_up()
            return assert_equal(source, copy.feed)

        assert await compared() >= 4
        before = {key: rows(book) for key, book in keyed(copy.feed)}
        mirror.stop()
        await mirroring
        mirror.replica.close()
        venue("resume")
        await until(lambda: causes() == {(State.STALE, Cause.RESTART)}, 10)
        assert {key: rows(book) for key, book in keyed(copy.feed)} == before
        ends.tasks.remove(mirroring)
        mirror = ends.mirror()
        ends.start(mirror)
        await until(lambda: causes() == {(State.LIVE, Cause.NONE)}, 10)
        assert await compared() >= 4
        assert copy.follower.counts()["verdicts_differ"] == 0
        copy.close()
        await ends.end(shipper, mirror)

    try:
        drive(tmp_path, venue.toml(tmp_path, "t-far"), script)
    finally:
        venue.close()
        broker.close()


def test_an_address_that_cannot_be_is_rejected(tmp_path):
    with pytest.raises(UsageError, match="must be like nats://host:4222/default"):
        attach("nats://host", directory=tmp_path)
