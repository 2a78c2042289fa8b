"""`kfix ship`: sends the journal of a feed to a broker, from where the broker's copy ends."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kfix_md.errors import CaptureError
from kfix_md.journal import files
from kfix_md.journal.holds import Hold, identity
from kfix_md.replication.chunks import Chunk, Source
from kfix_md.replication.cutting import Cutter
from kfix_md.replication.session import Every, Replication
from kfix_md.replication.transport import Away, Beat, Outlet, OutOfTurn, Rejected
from kfix_md.shm.locks import held

WINDOW = 32  # chunks that are sent and not acknowledged yet
POLL_S, IDLE_S = 0.001, 0.02  # between two looks for new records: while they come, and after a silence of 200 ms
BEAT_S, REPORTS_S = 0.5, 0.5
LISTEN_S = 1.2  # for the beats of another shipper
HOLD = "ship"


def pause_after(silence_s: float) -> float:
    """Seconds until the next look for records: a tenth of the time since the last ones, so as to add no more to it."""
    return min(max(POLL_S, silence_s / 10), IDLE_S)


class Superseded(CaptureError):
    """Another shipper of this feed has taken over."""


class Shipper(Replication):
    """Ships one journal.

    Segments of the journal are held (see kfix_md.journal.holds) until every mirror of `mirrors` has them on disk.

    Parameters
    ----------
    journal : path
    feed : str
        Its name at the broker.
    connect
        Opens a connection.
    mirrors : list of str
        Those that segments are kept for.
    takeover : bool
        Go on with the feed although the broker has another journal of it.
    once : bool
        End when everything is shipped.
    """

    log = logging.getLogger("kfix.ship")

    def __init__(
        self,
        journal: Path,
        feed: str,
        connect: Callable[[Source], Awaitable[Outlet]],
        mirrors: list[str],
        takeover: bool = False,
        once: bool = False,
    ) -> None:
        super().__init__()
        self.once = once
        self.journal, self.feed, self.mirrors, self.takeover = journal, feed, mirrors, takeover
        self._connect = connect
        self.host = socket.gethostname()
        shipper = f"{self.host.replace(' ', '_')}/{os.getpid()}/{secrets.token_hex(4)}"
        self.source = Source(identity(journal), shipper)
        self.hold = Hold(journal, HOLD)
        self.hold.move(0)
        self.cutter = Cutter(journal)
        self.acknowledged = 0
        self.current_s = time.monotonic()  # when everything in the journal was acknowledged last
        self._resent: dict[int, int] = {}  # by position that was asked for: sequence from which on it was sent again
        self._silent = set(mirrors)  # that have never reported
        self._first = True

    async def session(self) -> None:
        outlet = await self._connect(self.source)
        try:
            await self._resume(outlet)
            if self.connected():
                self.log.info("shipping journal %s as feed '%s'", self.journal, self.feed)
            await self._ship(outlet)
        except OutOfTurn:
            self.counts["out_of_turn"] += 1
            raise Away("the broker has other messages than were acknowledged") from None
        finally:
            self.counts["reconnects"] += not self._stopping.is_set()
            await outlet.close()

    # ---- where to go on --------------------------------------------------------------------------

    async def _resume(self, outlet: Outlet) -> None:
        last = await outlet.last()
        if last is None:
            # nothing was shipped before, or the broker has lost everything: mirrors have what is before the hold
            self.cutter.seek(self.hold.position)
        elif last.source.journal != self.source.journal:
            if not self.takeover:
                raise Rejected(
                    f"the broker has another journal of feed '{self.feed}' ({last.source.journal}, shipped by "
                    f"{last.source.shipper}): give this feed another name, or ship with --takeover when it replaces "
                    "that one"
                )
            self.cutter.seek(0)
        else:
            if last.source.shipper != self.source.shipper:
                await self._take_over(outlet, last.source.shipper)
            self.cutter.resume(last.chunk)
            if last.source.shipper != self.source.shipper:
                fence = self.cutter.begin_again(last.chunk)
                if fence is not None:  # what the shipper before us still sends is out of turn from now on
                    await (await outlet.send(fence))
        self._first = False
        self._resent.clear()

    async def _take_over(self, outlet: Outlet, other: str) -> None:
        """Go on for a shipper that has ended; one that lives comes first."""
        if not self._first:
            raise Superseded(f"another shipper of feed '{self.feed}' has taken over: {other}")
        if other.split("/", maxsplit=1)[0] == self.host:
            return  # there is one at a time of a journal on this machine
        outlet.others()
        await self.pause(LISTEN_S)
        if any(beat.shipper == other for beat in outlet.others()):
            raise Rejected(f"feed '{self.feed}' is being shipped by {other}: end that one first")

    # ---- shipping --------------------------------------------------------------------------------

    async def _ship(self, outlet: Outlet) -> None:
        sent: deque[tuple[Any, Chunk]] = deque()
        beat, reports = Every(BEAT_S), Every(REPORTS_S)
        busy_s = time.monotonic()  # when the last chunk was sent
        while True:
            self.alive()
            while sent and (sent[0][0].done() or len(sent) >= WINDOW):
                await self._settle(*sent.popleft())
            if beat():
                await self._beat(outlet)
            if reports():
                await self._read_reports(outlet)
                self._answer(outlet)
            chunk = None if self._stopping.is_set() else self.cutter.next(outlet.chunk_bytes)
            if chunk is not None:
                sent.append((await outlet.send(chunk), chunk))
                busy_s = time.monotonic()
                continue
            if not sent:
                self.current_s = time.monotonic()
                if self.once or self._stopping.is_set():
                    self.stop()
                    return
            await asyncio.sleep(POLL_S if sent else pause_after(time.monotonic() - busy_s))

    async def _settle(self, stored: Awaitable[Any], chunk: Chunk) -> None:
        await stored
        self.acknowledged = chunk.committed
        self.counts["bytes"] += len(chunk.data)
        self.counts["chunks"] += 1

    async def _beat(self, outlet: Outlet) -> None:
        alive = held("journal", self.journal) or files.writer_alive(self.journal)
        await outlet.beat(Beat(self.source.journal, self.source.shipper, alive, self.cutter.position))
        if any(beat.journal == self.source.journal for beat in outlet.others()):
            self.counts["other_beats"] += 1

    async def _read_reports(self, outlet: Outlet) -> None:
        """Move the hold to what all mirrors have on disk."""
        reports = {
            name: report
            for name, report in (await outlet.reports(self.mirrors)).items()
            if report.journal == self.source.journal
        }
        if self._silent and (silent := self._silent - reports.keys()) == self._silent and self.counts["looked"] == 0:
            for name in sorted(silent):
                self.log.info("mirror '%s' has not reported yet: the journal is kept until it has", name)
        self._silent -= reports.keys()
        self.counts["looked"] += 1
        self.hold.move(min((reports[name].synced if name in reports else 0 for name in self.mirrors), default=0))

    def _answer(self, outlet: Outlet) -> None:
        """Go back to what a mirror misses, unless it is on its way."""
        asked = [request for request in outlet.requests() if request.journal == self.source.journal]
        positions = []
        for request in asked:
            if request.seen >= self._resent.get(request.position, 0):
                self._resent[request.position] = outlet.sequence + 1
                positions.append(request.position)
                self.log.warning("mirror '%s' misses what follows %d: sent again", request.mirror, request.position)
        if positions:
            self.counts["sent_again"] += len(positions)
            self.cutter.seek(min(positions))

    def behind(self) -> tuple[int, float]:
        """Bytes that are not acknowledged, at most; seconds since everything was."""
        return self.cutter.behind(), time.monotonic() - self.current_s
