"""Runs the recorder: reads the journal, flushes to Parquet, compacts finished dates, retires journal segments."""

import contextlib
import errno
import logging
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from kfix_md.child import python
from kfix_md.disk import MEASURED_S, Store, rooms
from kfix_md.errors import CaptureError, Unreadable, UsageError
from kfix_md.journal import files as journal_files
from kfix_md.journal.holds import held_from
from recorder import retention
from recorder.tail import Tail
from recorder.writer import Writer

log = logging.getLogger("kfix.record")
RETENTIONS = ("keep", "zstd", "delete")
_RETRY_S = 2.0


@dataclass(frozen=True)
class Settings:
    """Settings of the recorder, as in [journal] and [recorder] of the configuration file."""

    journal: Path
    captures: Path
    flush_seconds: float = 30.0
    flush_rows: int = 524_288
    row_group: int = 65_536
    checkpoint_rows: int = 20_000  # of a symbol between two of its checkpoints, or
    checkpoint_seconds: float = 300.0
    compression_level: int = 1  # of live files; compaction writes them again, smaller
    retention: str = "keep"
    max_bytes: float = 0  # of the journal, 0: no limit
    max_days: int = 0  # session dates of the journal, 0: no limit
    compact: bool = True
    poll_seconds: float = 0.2
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    feed: str | None = None  # its name, where the journal does not begin with the start of a feed
    json_logs: bool = False  # of the compaction's process

    @property
    def stores(self) -> list[Store]:
        """The directories whose disks fill up."""
        return [Store("journal", self.journal, self.max_bytes, self.max_days), Store("captures", self.captures)]

    @classmethod
    def load(cls, path: str, service: str | None = None) -> "Settings":
        """From a feed's configuration file (the part of one service); UsageError in one line when it cannot be."""
        from kfix_md.config import load, service_config

        config = load(path)
        if service is not None:
            config = service_config(config, service)
        return cls(
            journal=config.journal.directory,
            captures=config.recorder.directory,
            flush_seconds=config.recorder.interval_s,
            row_group=config.recorder.row_group_rows,
            retention=config.journal.retention,
            max_bytes=config.journal.max_gb * 1e9,
            max_days=config.journal.max_days,
            compact=config.recorder.compact,
            checkpoint_seconds=config.recorder.checkpoint_s,
            metrics_host=config.metrics.host,
            metrics_port=config.recorder.metrics_port,
            feed=config.feed.name,
        )


class Recorder:
    """Records a journal to Parquet, from the last commit on. Tests pass their own `now`."""

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], float] = time.monotonic,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ):
        if settings.retention not in RETENTIONS:
            raise UsageError(f"journal retention is {settings.retention!r}: use {', '.join(RETENTIONS)}")
        if not settings.journal.is_dir():
            fault = f"no journal at {settings.journal}: start `kfix feed` first, or correct [journal]"
            raise UsageError(fault) from FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), settings.journal)
        self.settings, self._now, self._progress = settings, now, progress or (lambda figures: None)
        self.writer = Writer(
            settings.captures, row_group=settings.row_group, compression_level=settings.compression_level
        )
        try:
            self._open_tail()
        except BaseException:
            self.writer.close()
            raise
        self.flushes = self.rows = 0
        self.counts: Counter[str] = Counter()  # by the names of recorder.metrics.COUNTERS
        self.fault = ""  # why the captures cannot be written or the journal not read, while that is so
        self.beat_s = self.current_s = time.monotonic()  # of the last round; when all that was read was committed
        self._compaction: subprocess.Popen[bytes] | None = None
        self._uncompacted: set[date] = set()
        self._due: float | None = None
        self._torn = False
        self._low: set[str] = set()  # stores whose disks are nearly full
        self._disks_due = self._now()
        self._unknown: set[str] = set()
        self._kept: Counter[int] = Counter()  # attempts to prove segments that could not be proven

    def _open_tail(self) -> None:
        self.tail = Tail(
            str(self.settings.journal),
            self.writer.state,
            checkpoint_rows=self.settings.checkpoint_rows,
            checkpoint_ns=int(self.settings.checkpoint_seconds * 1e9),
        )
        self.tail.ledger.feed = self.tail.ledger.feed or self.settings.feed
        self.tail.reader.hold_at_end = True
        self._undecoded: Counter[int] = Counter()  # as last logged
        self.committed = self.tail.reader.position
        self._new = self.writer.state["position"] == 0

    # ---- one step ----

    def step(self) -> str:
        """Read what there is, flush what is due; returns the result of `Tail.read`."""
        self.beat_s = time.monotonic()
        try:
            result = self.tail.read(self.settings.flush_rows)
        except Unreadable:
            self.flush()  # what came before it
            raise
        self.tail.reader.hold_at_end = True
        number = self.tail.reader.position >> 32
        if self._new and number:  # the journal may have begun after the recorder
            retention.save_start(self.writer.tree, number, {"position": number << 32})
            self._new = False
            if self.tail.begins_inside:
                log.warning("the journal begins inside a recording: segments before %d are missing", number)
        self._log_damage(result)
        if result == "segment":
            result = self._next_segment()
        if self.tail.reader.position == self.committed:
            self.current_s = time.monotonic()
        elif self._due is None:
            self._due = self._now() + self.settings.flush_seconds
        if result == "full" or (self._due is not None and self._now() >= self._due):
            self.flush()
        return result

    def _next_segment(self) -> str:
        """Flush at the end of a segment, so that it can be proven alone, and continue in the next."""
        reader = self.tail.reader
        number = reader.position >> 32
        following = journal_files.following(reader.directory, number)
        if not following:
            return "nothing"
        self.flush()
        try:
            if following == number + 1 and not reader.enter_next():
                return "nothing"  # reserved, not begun
        except CaptureError:
            following += 1
        if following > number + 1:
            reader.hold_at_end = False  # a hole, which the next `Tail.read` steps over and reports
            return "some"
        retention.save_start(self.writer.tree, reader.position >> 32, self.tail.state())
        return "some"

    def flush(self) -> list[Path]:
        """Make everything read so far part of the captures."""
        tail = self.tail
        if tail.reader.position == self.committed:
            return []
        tables = tail.take()
        books, missing = tail.checkpoints()
        if books is not None:
            tables["checkpoints"] = books
        state = tail.state()
        files = self.writer.commit(self.committed, state, tables)
        self.committed, self._due = state["position"], None
        self.current_s, self.fault = time.monotonic(), ""
        self.flushes += 1
        self.rows += tables["ticks"].num_rows if "ticks" in tables else 0
        self._restore_books(missing)
        self._log_unknown()
        self._log_undecoded()
        self._progress({"rows": self.rows, "flushes": self.flushes, **tail.reader.tail})
        return files

    def _restore_books(self, missing: list[tuple[int, int]]) -> None:
        """Books a restart forgot, from the captures themselves: they hold everything decoded so far."""
        from recorder.catalog import Captures

        if not missing:
            return
        captures = Captures(self.settings.captures)
        for number, row in missing:
            decoder, session = self.tail.decoders[number], self.tail.ledger.session(number).session
            if decoder is None or session is None:
                continue
            symbol = decoder.instrument(row)[0]
            with contextlib.suppress(CaptureError):
                book = captures.latest_book(symbol, decoder.level or 2, session)
                if book is not None:
                    decoder.restore(row, book)

    def _log_unknown(self) -> None:
        """Warn once of each kind of event that this version does not know."""
        for name in self.tail.unknown.keys() - self._unknown:
            log.warning("the journal has events '%s', which this version does not know: kept in status only", name)
        self._unknown |= self.tail.unknown.keys()

    def _log_undecoded(self) -> None:
        for number, count in (self.tail.undecoded - self._undecoded).items():
            log.error(
                "session %d: %d messages that the feed applied cannot be decoded: the instrument list before them is "
                "missing or damaged; they are a gap (UNDECODED), and their journal segments are kept",
                number,
                count,
            )
            self.counts["undecoded"] += count
        self._undecoded = Counter(self.tail.undecoded)

    def _log_damage(self, result: str) -> None:
        for text in self.tail.damages:
            log.error("%s; recorded as a gap", text)
            self.counts["damages"] += 1
        self.tail.damages.clear()
        if result == "torn" and not self._torn:
            log.warning(
                "%s: the journal's writer died inside a record; all before it is recorded", self.tail.reader.damage
            )
        self._torn = result == "torn"

    # ---- whole runs ----

    def once(self) -> None:
        """Record everything there is and end."""
        while self.step() in ("full", "some"):
            pass
        self.flush()

    def run(self, stop: Callable[[], bool], sleep: Callable[[float], None] = time.sleep) -> None:
        """Record until `stop`. A full or failing disk is waited for; nothing is lost, the journal has it."""
        housekeeping = self._now()
        stopping = reopen = False
        while not stopping:
            stopping = stop()  # what has come until then is still read
            try:
                if reopen:
                    self._open_tail()  # back to the last commit
                    reopen = False
                result = self.step()
                if result in ("nothing", "torn") and not stopping:
                    if self._now() >= housekeeping:
                        self.housekeeping()
                        housekeeping = self._now() + 60
                    sleep(self.settings.poll_seconds)
            except Unreadable as error:
                log.error("the journal cannot be read: %s; trying again in %.0f s", error, _RETRY_S)
                self._failed("read_errors", f"the journal cannot be read: {error}")
                sleep(_RETRY_S)
            except OSError as error:
                log.error("captures cannot be written: %s; trying again in %.0f s", error, _RETRY_S)
                self._failed("write_errors", f"captures cannot be written: {error}")
                reopen = True
                sleep(_RETRY_S)
        if not reopen:
            self.flush()

    def _failed(self, counter: str, why: str) -> None:
        self.counts[counter] += 1
        self.fault = why

    def housekeeping(self) -> None:
        """Compact session dates that are over, retire journal segments whose Parquet is proven."""
        date = self._journal_date()
        if self.settings.compact and date is not None:
            self._compact(date)
        self._retire()
        self._watch_disks()

    def _retire(self) -> None:
        settings, kept = self.settings, len(self._kept)
        safe, done = self.committed_safe(), []
        held = held_from(settings.journal)
        deletable = safe if held is None else min(safe, held)
        where = settings.journal, self.writer.tree
        if settings.retention != "keep":  # a compressed segment is still there for those who hold it
            done += retention.retire(
                *where, safe if settings.retention == "zstd" else deletable, settings.retention, self._kept
            )
        if settings.max_bytes or settings.max_days:
            done += retention.limit(*where, deletable, settings.max_bytes, settings.max_days, self._kept)
        self.counts["segments_retired"] += len(done)
        self.counts["segments_unproven"] += len(self._kept) - kept

    def _watch_disks(self) -> None:
        """Log that a disk will be full before it is."""
        if self._now() < self._disks_due:
            return
        self._disks_due = self._now() + MEASURED_S
        for name, room in rooms(self.settings.stores).items():
            if room.low and name not in self._low:
                log.error("disk of the %s: %s", name, room.text)
            elif not room.low and name in self._low:
                log.warning("disk of the %s has room again: %s", name, room.text)
            (self._low.add if room.low else self._low.discard)(name)

    def _compact(self, before: date) -> None:
        """Start compaction in a process of its own: recording continues."""
        from recorder import compact

        if self._compaction is not None:
            status = self._compaction.poll()
            if status is None:
                return
            if status:
                log.error("compaction failed with status %d, see the errors above; live files are unchanged", status)
                self.counts["compactions_failed"] += 1
                self._uncompacted.update(compact.candidates(self.writer.tree, before))
            self._compaction = None
        days = [d for d in compact.candidates(self.writer.tree, before) if d not in self._uncompacted]
        if days:
            command = python("-m", "kfix_md", "compact", str(self.settings.captures), "--date", str(days[0]))
            command += ["--json"] if self.settings.json_logs else []
            self._compaction = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            log.info("compacting %s", days[0])
            self.counts["compactions"] += 1

    @property
    def compacting(self) -> bool:
        """Whether a session date is being compacted."""
        return self._compaction is not None and self._compaction.poll() is None

    def committed_safe(self) -> int:
        """Journal position up to which nothing is needed any more: committed, and no deferred frame before it."""
        state = self.writer.state
        deferred = [position for d in state["decoders"].values() for position in d["held"]]
        return int(min([state["position"], *deferred]))

    def _journal_date(self) -> date | None:
        """Session date of the segment being read: dates before it are over."""
        from kfix_md.trading_day import DAY_NS, session_date

        head = journal_files.heads(self.settings.journal).get(self.tail.reader.position >> 32)
        return session_date(head.date * DAY_NS) if head is not None and head.date else None

    def close(self) -> None:
        """Release captures and journal; what was not flushed is read again by the next recorder."""
        if self._compaction is not None:
            self._compaction.terminate()  # changes nothing unless it was finished
            self._compaction.wait()
        self.writer.close()
