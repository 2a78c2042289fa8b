"""`kfix mirror`: stores what a broker has of a feed's journal as a journal on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable

from kfix_md.replication.chunks import SEAL, Corrupted, decode
from kfix_md.replication.replica import Missing, NotSynced, Replica
from kfix_md.replication.session import Every, Replication
from kfix_md.replication.transport import Away, Beat, Inlet, Report, Request

WAIT_S = 0.1
PRESENT_S = 3.0  # without a beat of the shipper for so long, the source is taken for ended
ASK_S = 1.0
AGAIN_S = 1.0  # between two attempts at a disk that fails


class Mirror(Replication):
    """Writes one replica.

    Parameters
    ----------
    replica : Replica
    name : str
        Under which this mirror reports what it has.
    connect
        Opens a connection.
    sync_s : float
        How often what was written is put on disk and reported.
    """

    log = logging.getLogger("kfix.mirror")

    def __init__(
        self, replica: Replica, name: str, connect: Callable[[], Awaitable[Inlet]], sync_s: float = 0.1
    ) -> None:
        super().__init__()
        self.counts = replica.counts
        self.replica, self.name, self.sync_s = replica, name, sync_s
        self._connect = connect
        self.source_position, self.source_s = 0, 0.0
        self.journal = ""
        self._seen = 0
        self._stuck_at = -1  # position at which the replica ended when something was missing before
        self._missing = False  # what follows the replica has to be sent again
        self._asked = Every(ASK_S)
        self._reported: Report | None = None
        self._full = ""
        self._syncing: asyncio.Task[None] | None = None

    async def session(self) -> None:
        inlet = await self._connect()
        try:
            await inlet.follow(await self._begin_after(inlet))
            if self.connected():
                self.log.info("mirroring into %s, from position %d on", self.replica.directory, self.replica.position)
            await self._mirror(inlet)
        finally:
            self.counts["reconnects"] += not self._stopping.is_set()
            self.source_s = 0.0  # unknown until it is heard of again
            self.replica.live(False)
            await inlet.close()

    async def _begin_after(self, inlet: Inlet) -> int:
        """Sequence after which there may be something that the replica does not have."""
        report = await inlet.report()
        known = report is not None and report.log == inlet.log and report.synced <= self.replica.synced
        self._seen = report.sequence if report is not None and known else 0
        return self._seen

    async def _mirror(self, inlet: Inlet) -> None:
        due = Every(self.sync_s)
        try:
            while not self._stopping.is_set():
                self.alive()
                self._look(inlet.beats())
                if self._syncing is not None and self._syncing.done():
                    await self._synced()
                if self._syncing is None and due():
                    self._syncing = asyncio.create_task(self._sync(inlet))
                if self._missing and self._asked():
                    self.counts["requests"] += 1
                    position = self.replica.position
                    await inlet.request(Request(self.journal, self.name, position, self._seen))
                message = await inlet.receive(min(WAIT_S, self.sync_s))
                if message is not None:
                    await self._take(inlet, *message)
        finally:
            with contextlib.suppress(Away):
                await self._synced()
        await self._sync(inlet)

    async def _synced(self) -> None:
        """Wait for the sync that is under way, and raise what came of it."""
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            await syncing

    async def _take(self, inlet: Inlet, sequence: int, line: str, data: bytes) -> None:
        try:
            chunk, source = decode(line, data)
        except Corrupted as error:
            self.counts["corrupted"] += 1
            self._miss(str(error))
            return
        finally:
            self._seen = sequence
        if source.journal != self.journal:
            self.replica.check(source.journal)
            self.journal = source.journal
        if chunk.kind == SEAL:  # which syncs as well: the system reports an error to one of two at a time
            await self._synced()
        while True:
            try:
                stored = self.replica.store(chunk)
                break
            except Missing as error:
                self._miss(str(error))
                return
            except NotSynced as error:
                await self._unsynced(error)
            except OSError as error:  # the broker keeps it meanwhile
                self._disk(error)
                await self.pause(AGAIN_S)
                if self._stopping.is_set():
                    return
        if self._full:
            self.fault = self._full = ""
        self.counts["chunks"] += stored
        self.counts["bytes"] += len(data) if stored else 0
        if stored:
            self._stuck_at, self._missing = -1, False

    def _disk(self, error: OSError) -> None:
        self.counts["write_errors"] += 1
        why = error.strerror or str(error)
        if why != self._full:
            self.log.error("replica %s cannot be written: %s; trying again until it can", self.replica.directory, why)
        self.fault = self._full = why
        self.replica.live(False)  # what readers have does not go on

    async def _unsynced(self, error: OSError) -> None:
        """The system may have dropped what could not be put on disk: it is received and written again."""
        self._disk(error)
        self.replica.unsynced()
        await self.pause(AGAIN_S)
        raise Away(f"the replica cannot be put on disk: {error.strerror or error}") from None

    def _miss(self, why: str) -> None:
        """Read again from what was reported last; when it is missing there too, ask the shipper until it comes."""
        self.counts["missed"] += 1
        if self._stuck_at != self.replica.position:
            self._stuck_at = self.replica.position
            raise Away(why)
        self._missing = True

    async def _sync(self, inlet: Inlet) -> None:
        """Put what is committed on disk, and report it."""
        replica, sequence = self.replica, self._seen
        settled = replica.received == replica.position and self._stuck_at < 0
        fd, position = replica.to_sync()
        try:
            await asyncio.to_thread(os.fdatasync, fd)
        except OSError as error:
            await self._unsynced(error)
        finally:
            os.close(fd)
        if replica.was_deleted():
            replica.begin_again()
            raise Away("a segment of the replica was deleted")
        replica.note_synced(position)
        report = Report(self.journal, position, sequence, inlet.log)
        if self.journal and settled and report != self._reported:
            await inlet.report(report)
            self._reported = report

    def _look(self, beats: list[Beat]) -> None:
        """Whether the source lives, by its shipper's beats."""
        now = time.monotonic()
        for beat in beats:
            self.source_position = beat.position
            self.source_s = now if beat.alive else self.source_s
        self.replica.live(bool(self.source_s) and now - self.source_s < PRESENT_S)

    def behind(self) -> tuple[int, float]:
        """Bytes of the newest segment that were sent and are not here; seconds since the shipper's last beat."""
        same = self.source_position >> 32 == self.replica.number
        lag = self.source_position - self.replica.position if same else 0
        return max(lag, 0), time.monotonic() - self.source_s if self.source_s else 0.0
