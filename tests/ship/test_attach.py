"""attach("nats://host/feed"): a live book of a feed elsewhere, in one line."""

from __future__ import annotations

import pytest

pytest.importorskip("uvloop")
pytest.importorskip("cryptography")

from kfix_md import UsageError, attach
from kfix_md.replication.jetstream import Access, JetStreamOutlet
from kfix_md.replication.ship import Shipper
from tests.feed.rig import Venue, all_good, drive, until
from tests.ship.rig import Broker, needs_broker

pytestmark = needs_broker


def test_a_book_of_a_feed_on_another_machine_is_live(tmp_path, monkeypatch):
    import asyncio

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


def test_an_address_that_cannot_be_is_rejected(tmp_path):
    with pytest.raises(UsageError, match="must be like nats://host:4222/default"):
        attach("nats://host", directory=tmp_path)
