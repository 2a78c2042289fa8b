"""Replication while a disk fails, and of journals that are damaged, compressed, or shorter than their replica."""

from __future__ import annotations

import asyncio
import errno
import logging
import os

import pytest

from kfix_md.errors import CaptureError
from kfix_md.journal import files
from kfix_md.journal.reader import JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.replication import replica as replica_module
from kfix_md.replication.chunks import BEGIN, RECORDS, SEAL, Chunk
from kfix_md.replication.cutting import Cutter
from kfix_md.replication.replica import Missing, Replica
from tests.ship.rig import needs_broker, segment_bytes, write_journal

MOST = 1 << 16


def source_of(folder, count=1500, segment_bytes=1 << 18):
    """A finished journal of several segments."""
    with JournalWriter(folder, segment_bytes=segment_bytes) as journal:
        write_journal(journal, 21, count)
    return folder


def chunks_of(journal) -> list[Chunk]:
    cutter, chunks = Cutter(journal), []
    while (chunk := cutter.next(MOST)) is not None:
        chunks.append(chunk)
    return chunks


def stored(chunks, folder, close=True) -> Replica:
    replica = Replica(folder)
    replica.check("cafe")
    for chunk in chunks:
        replica.store(chunk)
    if close:
        replica.close()
    return replica


def records(directory) -> list:
    """All records, damage stepped over, and where it was."""
    reader, found = JournalReader(directory), []
    while True:
        try:
            record = reader.read()
        except CaptureError:
            found.append(("damage", reader.position))
            assert reader.resync()
            continue
        if record is None:
            return found
        found.append(record)


def test_a_segment_that_is_renamed_while_it_is_looked_at_is_found_again(tmp_path, monkeypatch):
    journal = source_of(tmp_path / "source")
    wanted, real, calls = chunks_of(journal), files.header, []

    def header(path):
        calls.append(path)
        if len(calls) % 2:
            year = "1999" if path.name[:4] != "1999" else "1998"
            path.rename(path.with_name(year + path.name[4:]))
        return real(path)

    monkeypatch.setattr(files, "header", header)
    assert chunks_of(journal) == wanted and len(calls) > 12


def begun(directory) -> list:
    return [head for head in files.heads(directory).values() if head.date]


class Failing:
    """Calls of os in the replica that fail with an errno while it is set."""

    def __init__(self, monkeypatch, *names: str) -> None:
        self.error, self.failed = 0, 0
        for name in names:
            monkeypatch.setattr(replica_module.os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, real):
        def call(*arguments):
            if self.error:
                self.failed += 1
                raise OSError(self.error, os.strerror(self.error))
            return real(*arguments)

        return call


@needs_broker
@pytest.mark.parametrize(
    ("calls", "error"), [(("pwritev", "pwrite"), errno.ENOSPC), (("fdatasync",), errno.EIO), (("pwrite",), errno.EIO)]
)
def test_a_failing_disk_of_the_replica_is_an_alarm_and_loses_nothing(ends, monkeypatch, caplog, calls, error):
    failing = Failing(monkeypatch, *calls)
    monkeypatch.setattr("kfix_md.replication.mirror.AGAIN_S", 0.05)

    async def run():
        with JournalWriter(ends.source, segment_bytes=1 << 18) as journal:
            shipper, mirror = ends.shipper(), ends.mirror()
            ends.start(shipper)
            ends.start(mirror)
            write_journal(journal, 22, 300)
            await ends.until(lambda: shipper.hold.position == journal.position)
            synced, failing.error = mirror.replica.synced, error
            write_journal(journal, 23, 1000)
            await ends.until(lambda: failing.failed > 2 and mirror.fault)
            assert os.strerror(error) in mirror.fault
            assert not files.writer_alive(ends.directory)  # followers of the replica must not trust it
            assert shipper.hold.position == synced
            failing.error = 0
            await ends.until(lambda: mirror.replica.synced == journal.position and not mirror.fault)
            assert mirror.counts["write_errors"]
        await ends.until(ends.equal)
        await ends.end(shipper, mirror)

    asyncio.run(run())
    alarms = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert alarms and os.strerror(error) in alarms[0].getMessage()


def test_records_that_a_failed_sync_may_have_dropped_are_written_again(tmp_path, monkeypatch):
    """The second sync after a failed one succeeds without having written anything: a seal must not rely on it."""
    chunks = chunks_of(source_of(tmp_path / "source"))
    end = next(i for i, chunk in enumerate(chunks) if chunk.kind == SEAL)
    replica = stored(chunks[:end], tmp_path / "replica", close=False)
    failing = Failing(monkeypatch, "fdatasync")
    failing.error = errno.EIO
    with pytest.raises(replica_module.NotSynced):
        replica.store(chunks[end])
    failing.error = 0
    replica.unsynced()
    assert not replica.sealed and replica.position == chunks[1].number << 32 | chunks[1].start
    with pytest.raises(Missing):
        replica.store(chunks[end])
    for chunk in chunks[1:]:
        replica.store(chunk)
    replica.close()
    assert segment_bytes(tmp_path / "source") == segment_bytes(tmp_path / "replica")


def test_a_chunk_whose_last_write_failed_is_stored_again_whole(tmp_path, monkeypatch):
    chunks = chunks_of(source_of(tmp_path / "source", 100))
    replica = stored(chunks[:1], tmp_path / "replica", close=False)
    failing = Failing(monkeypatch, "pwrite")
    failing.error = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        replica.store(chunks[1])
    failing.error = 0
    for chunk in chunks[1:]:
        assert replica.store(chunk)
    replica.close()
    assert segment_bytes(tmp_path / "source") == segment_bytes(tmp_path / "replica")


@pytest.mark.parametrize("where", ["record", "header", "end_in_header", "cut_off"])
def test_damage_of_the_source_is_replicated_as_it_is(tmp_path, where):
    source = source_of(tmp_path / "source")
    path = begun(source)[1].path
    data = bytearray(path.read_bytes())
    at = {"record": 20_000, "header": 8, "end_in_header": replica_module.SEALED_END_AT + 5, "cut_off": 0}[where]
    data[at] ^= 0x55 if at else 0
    path.write_bytes(data[:100_000] if where == "cut_off" else data)
    chunks = chunks_of(source)
    replica = stored(chunks, tmp_path / "replica")
    assert replica.number == begun(source)[-1].number and replica.sealed
    assert records(tmp_path / "replica") == records(source)
    # and a mirror that is started again in the middle goes on
    for number in (len(chunks) // 4, len(chunks) // 3, len(chunks) // 2):
        stored(chunks[:number], tmp_path / f"again{number}")
        stored(chunks, tmp_path / f"again{number}")
        assert segment_bytes(tmp_path / f"again{number}") == segment_bytes(tmp_path / "replica")


def test_compressed_segments_are_shipped_as_they_were(tmp_path):
    source = source_of(tmp_path / "source")
    before = segment_bytes(source)
    for head in begun(source)[:-1]:
        files.compress(head.path)
    stored(chunks_of(source), tmp_path / "replica")
    assert segment_bytes(tmp_path / "replica") == before


def test_a_segment_that_is_compressed_while_it_is_shipped_goes_on(tmp_path):
    source = source_of(tmp_path / "source")
    before, cutter, chunks = segment_bytes(source), Cutter(source), []
    while (chunk := cutter.next(MOST)) is not None:
        chunks.append(chunk)
        if chunk.kind == RECORDS and not files.info(files.find(source, chunk.number)).compressed:
            files.compress(files.find(source, chunk.number))
    stored(chunks, tmp_path / "replica")
    assert segment_bytes(tmp_path / "replica") == before


@needs_broker
def test_an_open_segment_that_was_deleted_at_the_mirror_is_received_again(ends):
    async def run():
        with JournalWriter(ends.source, segment_bytes=1 << 18) as journal:
            shipper, mirror = ends.shipper(), ends.mirror()
            ends.start(shipper)
            ends.start(mirror)
            write_journal(journal, 24, 800)
            await ends.until(lambda: shipper.hold.position == journal.position)
            files.find(ends.directory, mirror.replica.number).unlink()
            await ends.until(lambda: mirror.counts["deleted"] == 1)
            write_journal(journal, 25, 300)
            await ends.until(lambda: mirror.replica.position == journal.position)
        await ends.until(ends.equal)
        assert mirror.counts["holes"] == 0
        await ends.end(shipper, mirror)

    asyncio.run(run())


def test_a_sealed_segment_that_was_deleted_at_the_mirror_is_reported(tmp_path, caplog):
    chunks = chunks_of(source_of(tmp_path / "source"))
    stored(chunks, tmp_path / "replica")
    gone = begun(tmp_path / "replica")[1]
    gone.path.unlink()
    replica = stored(chunks, tmp_path / "replica")
    assert replica.counts["holes"] == 1
    assert f"segments {gone.number} to {gone.number} are missing: copy them from the source" in caplog.text
    (tmp_path / "source" / gone.path.name).rename(gone.path)  # as it was said to be mended
    assert stored(chunks, tmp_path / "replica").counts["holes"] == 0
    assert len(records(tmp_path / "replica")) == 1500


def test_segments_that_the_source_no_longer_has_do_not_stop_a_replica_that_has_them(tmp_path):
    """All segments of the source but the first and the last are gone, by hand: what is here already is no hole."""
    source, here = source_of(tmp_path / "source"), tmp_path / "replica"
    chunks = chunks_of(source)
    heads = begun(source)
    last = next(i for i, chunk in enumerate(chunks) if chunk.number == heads[-1].number)
    stored(chunks[:last], here)
    for head in heads[1:-1]:
        head.path.rename(tmp_path / head.path.name)
    remaining = chunks_of(source)
    (begin,) = [chunk for chunk in remaining if chunk.kind == BEGIN and chunk.after]
    assert begin.after == heads[0].number
    replica = stored(remaining, here)
    assert replica.counts["holes"] == 0 and replica.number == heads[-1].number
    assert len(records(here)) == 1500


@needs_broker
@pytest.mark.parametrize("lost", [5000, 10**9])
def test_records_that_a_power_loss_cost_the_source_stay_in_the_replica(ends, caplog, lost):
    """The source's last segment loses its end, or all of its records; the replica keeps them, and goes on."""

    async def replicated(journal, shipper, mirror):
        ends.start(shipper)
        ends.start(mirror)
        await ends.until(lambda: mirror.replica.position == shipper.hold.position == journal.position)
        await ends.end(shipper, mirror)
        ends.tasks.clear()

    async def run():
        kept = JournalWriter(ends.source, segment_bytes=1 << 18)
        write_journal(kept, 26, 600)
        await replicated(kept, ends.shipper(), ends.mirror())
        before = records(ends.directory)
        path, end = files.find(ends.source, kept.position >> 32), kept.position & 0xFFFFFFFF
        data = path.read_bytes()
        kept.close()
        start = max(end - lost, files.HEADER_BYTES)
        path.write_bytes(data[:start].ljust(len(data), b"\0"))
        for later in [number for number in files.segments(ends.source) if number > kept.position >> 32]:
            files.find(ends.source, later).unlink()
        with JournalWriter(ends.source, segment_bytes=1 << 18) as journal:
            write_journal(journal, 27, 200)
            mirror, shipper = ends.mirror(), ends.shipper()
            await replicated(journal, shipper, mirror)
            assert mirror.counts["kept"] == 1 and mirror.counts["holes"] == 0
            found = records(ends.directory)
            assert found[: len(before)] == before and len(found) == len(before) + 200
            assert found[len(before) :] == records(ends.source)[-200:]

    asyncio.run(run())
    assert "bytes at the end of segment" in caplog.text
