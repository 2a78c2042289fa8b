"""A journal that is shipped and mirrored through a real nats-server: the replica has the very bytes of the source."""

from __future__ import annotations

import asyncio

import pytest

from kfix_md.journal.holds import held_from
from kfix_md.journal.reader import JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.replication import ship
from kfix_md.replication.jetstream import token_of
from kfix_md.replication.ship import Superseded
from kfix_md.replication.transport import Rejected
from tests.ship import rig
from tests.ship.rig import Broker, Ends, needs_broker, segment_bytes, write_journal

pytestmark = needs_broker


def test_the_replica_of_several_segments_with_large_records_is_byte_identical(ends):
    async def run():
        with JournalWriter(ends.source, segment_bytes=4 << 20) as journal:
            write_journal(journal, 1, 2000, big=4)
            shipper, mirror = ends.shipper(), ends.mirror()
            ends.start(shipper)
            ends.start(mirror)
            await ends.until(lambda: mirror.replica.position == journal.position)
            assert ends.equal()
            write_journal(journal, 2, 1000, big=3)
            await ends.until(lambda: mirror.replica.position == journal.position)
            assert list(JournalReader(ends.directory)) == list(JournalReader(ends.source))
        await ends.until(lambda: ends.equal() and mirror.replica.sealed)
        await ends.until(lambda: shipper.hold.position == mirror.replica.position)
        await ends.end(shipper, mirror)
        assert mirror.counts["duplicates"] == mirror.counts["missed"] == shipper.counts["out_of_turn"] == 0
        return shipper, mirror

    shipper, mirror = asyncio.run(run())
    assert len(segment_bytes(ends.directory)) >= 4
    whole = {path.name: path.read_bytes() for path in ends.source.glob("2*.kfj")}
    assert whole == {path.name: path.read_bytes() for path in ends.directory.glob("2*.kfj")}
    assert held_from(ends.source) == mirror.replica.position
    assert shipper.counts["bytes"] >= mirror.replica.bytes > 9_000_000


def test_an_idle_shipper_looks_seldom_and_a_busy_one_each_millisecond(ends, monkeypatch):
    pauses, real = [], ship.pause_after
    monkeypatch.setattr(ship, "pause_after", lambda silence_s: pauses.append(real(silence_s)) or pauses[-1])

    async def run():
        with JournalWriter(ends.source) as journal:
            shipper = ends.shipper()
            ends.start(shipper)
            for seed in (1, 2):
                pauses.clear()
                write_journal(journal, seed, 10)
                await ends.until(lambda: shipper.acknowledged == journal.position)
                await ends.until(lambda: bool(pauses) and pauses[-1] == ship.IDLE_S)
                assert pauses == sorted(pauses) and len(pauses) < 200
        await ends.end(shipper)

    asyncio.run(run())
    assert [real(seconds) for seconds in (0, 0.01, 0.1, 3600)] == [ship.POLL_S, ship.POLL_S, 0.01, ship.IDLE_S]


def test_every_part_may_be_restarted_while_the_journal_grows(ends, broker):
    async def run():
        with JournalWriter(ends.source, segment_bytes=1 << 20) as journal:
            shipper, mirror = ends.shipper(), ends.mirror()
            first, second = ends.start(shipper), ends.start(mirror)
            write_journal(journal, 3, 3000)
            await ends.until(lambda: mirror.replica.position > 0)
            await rig.abandon(first)
            write_journal(journal, 4, 2000, big=1)
            shipper = ends.shipper()
            ends.start(shipper)
            await ends.until(lambda: mirror.counts["chunks"] > 20)
            await rig.abandon(second)
            mirror.replica.close()
            broker.kill()
            write_journal(journal, 5, 2000)
            mirror = ends.mirror()
            ends.start(mirror)
            await asyncio.sleep(0.3)
            broker.start()
            await ends.until(lambda: mirror.replica.position == journal.position)
            assert ends.equal()
            assert shipper.counts["failures"] and mirror.counts["failures"]
        await ends.until(ends.equal)
        ends.tasks = [task for task in ends.tasks if not task.done()]
        await ends.end(shipper, mirror)

    asyncio.run(run())


def test_a_broker_that_lost_everything_is_filled_again_from_the_source(ends, broker):
    async def run():
        with JournalWriter(ends.source, segment_bytes=1 << 20) as journal:
            shipper, mirror = ends.shipper(), ends.mirror()
            ends.start(shipper)
            ends.start(mirror)
            write_journal(journal, 6, 3000)
            await ends.until(lambda: mirror.replica.position == journal.position)
            await ends.until(lambda: shipper.hold.position == journal.position)
            mirror.stop()
            await ends.tasks[1]
            mirror.replica.close()
            write_journal(journal, 7, 3000)  # acknowledged by the broker, and then lost with everything else
            await ends.until(lambda: shipper.acknowledged == journal.position)
            held = held_from(ends.source)
            assert held == mirror.replica.position < journal.position
            broker.kill()
            broker.wipe()
            broker.start()
            mirror = ends.mirror()
            ends.start(mirror)
            await ends.until(lambda: mirror.replica.position == journal.position)
            assert ends.equal()
            assert mirror.counts["holes"] == 0
            await ends.until(lambda: held_from(ends.source) == journal.position)
        await ends.until(ends.equal)
        await ends.end(shipper, mirror)

    asyncio.run(run())


def test_a_new_mirror_is_sent_what_the_broker_no_longer_has(ends, broker):
    """The stream begins in the middle of the journal: it was purged."""

    async def run():
        with JournalWriter(ends.source, segment_bytes=1 << 20) as journal:
            shipper = ends.shipper()
            ends.start(shipper)
            write_journal(journal, 8, 3000)
            await ends.until(lambda: shipper.acknowledged == journal.position)
            import nats

            client = await nats.connect(broker.url)
            await client.jetstream().purge_stream(f"KFIX_{token_of(ends.feed)}", keep=2)
            await client.close()
            mirror = ends.mirror()
            ends.start(mirror)
            await ends.until(lambda: mirror.replica.position == journal.position)
            assert ends.equal()
            assert mirror.counts["requests"] >= 1
            assert shipper.counts["sent_again"] == 1
        await ends.until(ends.equal)
        await ends.end(shipper, mirror)

    asyncio.run(run())


def test_the_second_of_two_shippers_of_a_feed_wins_and_the_first_ends(ends):
    async def run():
        with JournalWriter(ends.source, segment_bytes=1 << 20) as journal:
            first = ends.shipper()
            task = asyncio.create_task(first.run())
            write_journal(journal, 9, 500)
            await ends.until(lambda: first.acknowledged == journal.position)
            second, mirror = ends.shipper(), ends.mirror()
            ends.start(second)
            ends.start(mirror)
            await ends.until(lambda: not second.fault)
            write_journal(journal, 10, 500)  # both send it, and one message can follow the last
            with pytest.raises(Superseded, match="has taken over"):
                for _ in range(50):
                    journal.frame(0, rig.START_NS, b"x" * 100)
                    await asyncio.wait({task}, timeout=0.05)
                    if task.done():
                        task.result()
            write_journal(journal, 11, 500)
            await ends.until(lambda: mirror.replica.position == journal.position)
            assert ends.equal()
            assert mirror.counts["missed"] == 0
        await ends.end(second, mirror)

    asyncio.run(run())


def test_another_journal_of_the_same_feed_is_rejected_unless_it_takes_over(ends, tmp_path):
    async def run():
        with JournalWriter(ends.source) as journal:
            write_journal(journal, 12, 100)
            await ends.shipper(once=True).run()
        ends.source = tmp_path / "another"
        with JournalWriter(ends.source) as journal:
            write_journal(journal, 13, 100)
            with pytest.raises(Rejected, match=rf"another journal of feed '{ends.feed}'.*--takeover"):
                await ends.shipper(once=True).run()
            await ends.shipper(once=True, takeover=True).run()

    asyncio.run(run())


def test_bytes_that_changed_on_the_way_are_never_stored(ends):
    """Two chunks arrive damaged, one of them is damaged in the broker as well: the source sends it again."""

    async def run():
        with JournalWriter(ends.source, segment_bytes=1 << 20) as journal:
            write_journal(journal, 14, 4000)
            shipper = ends.shipper()
            broken = {3: 1, 5: 2}  # by sequence: how often it arrives damaged
            mirror = ends.mirror()
            connect = mirror._connect

            async def damaging():
                inlet = await connect()
                receive = inlet.receive

                async def damaged(timeout_s):
                    message = await receive(timeout_s)
                    if message is not None and broken.get(message[0]):
                        broken[message[0]] -= 1
                        sequence, line, data = message
                        return sequence, line, data[:100] + bytes([data[100] ^ 1]) + data[101:]
                    return message

                inlet.receive = damaged
                return inlet

            mirror._connect = damaging
            ends.start(shipper)
            ends.start(mirror)
            await ends.until(lambda: mirror.replica.position == journal.position)
            assert mirror.counts["corrupted"] == 3
            assert shipper.counts["sent_again"] == 1
            assert ends.equal()
        await ends.until(ends.equal)
        await ends.end(shipper, mirror)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "jetstream", "text"),
    [((), False, "start nats-server with JetStream"), (("--auth", "secret"), True, "rejects us: .*[Aa]uthorization")],
)
def test_what_a_person_has_to_change_at_the_broker_ends_both_with_the_reason(tmp_path, options, jetstream, text):
    broker = Broker(tmp_path, *options, jetstream=jetstream)
    (tmp_path / "source").mkdir()
    ends = Ends(broker, tmp_path / "source", tmp_path / "replica")
    mirror = ends.mirror()
    try:
        with pytest.raises(Rejected, match=text):
            asyncio.run(ends.shipper().run())
        with pytest.raises(Rejected, match=text):
            asyncio.run(mirror.run())
    finally:
        broker.close()
        mirror.replica.close()


def test_a_broker_without_room_for_the_stream_is_reported_with_the_key_to_lower(ends):
    ends.access.stream_bytes = 1 << 50

    async def run():
        with JournalWriter(ends.source) as journal:
            write_journal(journal, 16, 10)
            shipper = ends.shipper()
            task = ends.start(shipper)
            await ends.until(lambda: shipper.counts["failures"])
            assert "lower [ship] stream_gb" in shipper.fault and not task.done()
            ends.access.stream_bytes = rig.STREAM_BYTES  # the broker was given more
            await ends.until(lambda: shipper.acknowledged == journal.position)
        await ends.end(shipper)

    asyncio.run(run())


def test_a_reader_of_the_replica_sees_whole_records_only(ends):
    """It reads all the time, while chunks of parts of records are written."""
    ends.chunk_bytes = 8192
    seen = []

    async def run():
        with JournalWriter(ends.source, segment_bytes=4 << 20) as journal:
            shipper, mirror = ends.shipper(), ends.mirror()
            ends.start(shipper)
            ends.start(mirror)
            await ends.until(lambda: not shipper.fault)
            write_journal(journal, 15, 1000, big=2)
            await ends.until(lambda: mirror.replica.position > 0)
            reader = JournalReader(ends.directory)
            while mirror.replica.position != journal.position or reader.position != journal.position:
                seen.extend(reader)
                await asyncio.sleep(0)
            assert seen == list(JournalReader(ends.source))
        await ends.until(ends.equal)
        await ends.end(shipper, mirror)

    asyncio.run(run())
    assert len(seen) == 1000
