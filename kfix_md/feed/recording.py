"""The journal of a feed: opened when the disk lets it be, with an alarm while messages are not recorded."""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path
from typing import Any

from kfix_md import __version__
from kfix_md.config import Config, JournalSection
from kfix_md.errors import CaptureError, KfixError, Unreadable, UsageError, may_pass
from kfix_md.feed.checks import check_writable
from kfix_md.journal.events import ClockStepped, Started, Stopped
from kfix_md.shm.locks import InUse, hold

log = logging.getLogger("kfix.feed")


class Recording:
    """The journal of a feed, which may be missing: books and readers come first.

    Attributes
    ----------
    journal : JournalWriter or None
    """

    def __init__(self, section: JournalSection) -> None:
        self.section = section
        self.journal: Any = None
        self._opened: Any = None  # by `open`, for `begin`
        self._lock: Any = None
        self._fault = ""  # why there is none
        self._alarm = ""  # as last logged

    @property
    def missing(self) -> bool:
        """Whether there should be a journal, and is none."""
        return self.section.enabled and self.journal is None

    def start(self, ran_before: bool) -> None:
        """Open the journal, or go on without one when the disk is full, fails or is away.

        UsageError or CaptureError for what a person has to change.
        """
        if not self.section.enabled:
            return
        directory = self.section.directory
        try:
            check_writable(directory, "journal.directory")
            self._lock = hold("journal", directory)
        except InUse as error:
            raise UsageError(f"journal {directory} is {error}: one feed a journal") from None
        except UsageError as error:
            if not may_pass(error, ran_before):
                raise
            self._fault = str(error)
            return
        if self.open():
            self._take()

    def open(self) -> bool:
        """Try to open the journal for `begin`; False when the disk does not let us.

        CaptureError at the first attempt, when another process writes there.
        """
        from kfix_md.journal.writer import JournalWriter

        section = self.section
        try:
            section.directory.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = hold("journal", section.directory)
            self._opened = JournalWriter(
                section.directory, segment_bytes=section.segment_mb << 20, sync_ms=section.sync_ms
            )
        except (KfixError, OSError, MemoryError, InUse) as error:
            if isinstance(error, CaptureError) and not isinstance(error, Unreadable) and not self._fault:
                raise
            self._fault = str(error) or type(error).__name__
            return False
        return True

    def _take(self) -> None:
        """Record in the journal that `open` has opened."""
        self.journal, self._opened, self._fault = self._opened, None, ""

    def begin(self, now_ns: int, feed: str, step_ns: int) -> None:
        """Record in the journal that `open` has opened while the feed was running."""
        self._take()
        self.journal.clock_step_ns = step_ns
        self.announce(now_ns, feed)

    def announce(self, now_ns: int, feed: str) -> None:
        """Record the start of the feed, and report what the one before left."""
        if self.journal is None:
            return
        found = self.journal.recovered
        self.journal.event(0, now_ns, Started(__version__, os.getpid(), feed, found or None))
        if found:
            log.warning(
                "journal: the previous feed did not end in order; %s records are sound, %s bytes were incomplete",
                found.get("records"),
                found.get("torn_bytes"),
            )

    def stats(self) -> dict[str, Any]:
        """Counts of the journal; `alarm`: why messages are not being recorded, "" while they are."""
        if self.journal is not None:
            counts: dict[str, Any] = self.journal.stats()
            return counts
        return {"alarm": self._fault} if self.missing else {}

    def report(self, now_ns: int) -> None:
        """Log an alarm when it begins, changes or ends; have what a failed sync left written again elsewhere."""
        if self.journal is not None:
            self.journal.relieve(now_ns)
        stats = self.stats()
        before, alarm = self._alarm, stats.get("alarm") or ""
        if alarm and alarm != before and stats.get("risk_bytes"):
            log.error(
                "JOURNAL: %s; until then a power failure would cost %d records (%d bytes)",
                *(alarm, stats["risk_records"], stats["risk_bytes"]),
            )
        elif alarm and alarm != before:
            log.error("JOURNAL: %s; books continue, but messages are not being recorded", alarm)
        elif before and not alarm:
            log.warning(
                "journal: recording again (%d segments written again, %d bytes of them lost)",
                *(stats["rescued"], stats["rescue_lost"]),
            )
        self._alarm = alarm

    def clock_stepped(self, now_ns: int, step_ns: int, total_ns: int) -> None:
        """The wall clock was stepped, by `total_ns` since the start."""
        if self.journal is not None:
            self.journal.clock_step_ns = total_ns
            self.journal.event(0, now_ns, ClockStepped(step_ns // 1_000_000))

    def close(self, now_ns: int) -> None:
        """End the journal in order."""
        if self.journal is not None:
            self.journal.event(0, now_ns, Stopped())
            self.journal.close()
            if self.journal.unsynced:
                log.error("JOURNAL: the disk did not take the last %d bytes", self.journal.unsynced)
        if self._opened is not None:
            self._opened.close()
        if self._lock is not None:
            self._lock.close()


def has_run(config: Config) -> bool:
    """Whether the feed of a configuration has received messages of the venue before, as far as its journal shows."""
    return config.journal.enabled and has_frames(config.journal.directory)


def has_frames(journal: Path) -> bool:
    """Whether a journal has frames of a venue among its first records, or anything that cannot be read."""
    from kfix_md.journal.reader import FRAME, JournalReader

    if not journal.is_dir():
        return False
    try:
        return any(kind == FRAME for _, kind, *_ in itertools.islice(JournalReader(journal), 1000))
    except (KfixError, OSError):
        return True
