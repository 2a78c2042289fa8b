"""The events of the log: a name and named values for each text that is logged, for machines that read it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from kfix_md.symbol_text import one_line


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A kind of log line: its name, the text it comes from, and what the values in it are, in their order."""

    name: str
    template: str
    values: tuple[str, ...] = ()


def _e(name: str, template: str, values: str = "") -> LogEvent:
    return LogEvent(name, template, tuple(values.split()))


#: every event of feed, recorder and simulator; tests/feed/test_log_events.py compares them with the log calls
EVENTS = (
    # captures that are pushed to a lake
    _e("lake_push_started", "pushing %s to %s every %.0f s", "captures lake seconds"),
    _e("lake_pushed", "pushed %s to %s: %s", "captures lake totals"),
    _e("lake_push_failed", "not pushed, the next attempt is in %.0f s: %s", "seconds error"),
    _e("lake_push_works_again", "pushing to %s works again", "lake"),
    # the processes
    _e("feed_started", "feed '%s': %d sessions, shared memory %s, journal %s", "feed sessions segment journal"),
    _e("feed_stopping", "stopping"),
    _e("processes_started", "%s: one process for each of %s", "command services"),
    _e("process_restarted", "the process of %s %s; starting it again", "service cause"),
    _e("process_killed", "the process of %s did not end in time; killed", "service"),
    _e("retried_configuration", "%s; trying again, since this feed has run before", "cause"),
    _e("process_killed", "the process of %s has not beaten for %.1f s; killed", "service seconds"),
    _e("cannot_start", "the feed cannot start yet: %s; it is tried again until it can", "cause"),
    _e("segment_displaced",
       "SHARED MEMORY: %s was deleted or replaced under this feed (a cleaner, or RemoveIPC of systemd-logind?); "
       "published again: readers with reconnect=True follow, others have to attach again", "segment"),
    _e("segment_gone",
       "SHARED MEMORY: %s was deleted or replaced and cannot be published again: %s; "
       "readers that are attached go on, no other can attach", "segment cause"),
    _e("metrics_failing", "%s; the feed goes on without /metrics and tries again", "cause"),
    _e("metrics_ended", "metrics: the process that serves them %s; it is started again", "cause"),
    _e("metrics_served", "metrics: served on port %d now", "port"),
    _e("no_lock", "no lock of %s %s: %s", "kind name cause"),
    _e("no_lock", "the lock of %s %s was taken by %s; going on without", "kind name owner"),
    _e("follower_started", "following journal %s as feed '%s', shared memory %s", "journal feed segment"),
    _e("source_absent", "journal %s: %s; books are STALE until it goes on", "journal cause"),
    _e("source_present", "journal %s goes on", "journal"),
    _e("source_restarted", "journal %s: the source was started again", "journal"),
    _e("journal_damaged", "%s: what was there is lost, and books are not trusted before their next snapshots", "cause"),
    _e("left_out", "%s is left out: %s", "symbols cause"),
    _e("state_differs", "%s of session %d: %s in the journal, %s here", "symbol session state here"),
    _e("reloaded", "configuration read again"),
    _e("reload_waits", "symbols read again: they are compared with the instrument list when it comes"),
    _e("reload_failed", "configuration not reloaded, nothing changed: %s", "cause"),
    _e("restart_needed", "changed, but not followed without a restart: %s", "keys"),
    _e("restart_needed", "new service %s in the configuration: needs a restart", "service"),
    _e("restart_needed", "service %s is no longer in the configuration: needs a restart", "service"),
    _e("no_priority", "feed.rt_priority = %d: not permitted, continuing without; grant CAP_SYS_NICE (or LimitRTPRIO)",
       "priority"),
    _e("not_verified", "TLS CERTIFICATE VERIFICATION IS OFF (verify = false)"),
    _e("internal_error", "internal error; %s", "consequence"),
    _e("internal_error", "internal error in the heartbeat; it goes on"),
    _e("internal_error", "internal error in garbage collection; it goes on"),
    _e("internal_error", "internal error while a connection was given up"),
    _e("internal_error", "internal error while something missing was tried again; it goes on"),
    _e("loop_stalled", "the loop stood still for %.1f ms: %s (the longest of %d)", "ms causes stalls"),
    _e("stalls_traced", "stalls of the loop are traced from %.2f ms on", "limit_ms"),
    _e("stalls_not_traced", "stalls of the loop are not traced: that takes kfix feed --trace-stalls"),
    _e("stall_report", "stalls of %.2f ms or more: %d in %.0f s, %.1f ms in all", "limit_ms stalls seconds ms"),
    _e("stall_report", "stalls by %s: %d, %.1f ms in all, longest %.1f ms", "cause stalls ms longest_ms"),
    _e("stall_report", "stall of %.1f ms, %.1f s ago: %s", "ms seconds causes"),
    _e("log_lines_lost", "%d log lines were lost: the reader of this log did not keep up", "lines"),
    # clock and lag
    _e("clock_stepped",
       "the clock of this machine was set %s by %.3f s; times of day follow it, timers and ages are not affected",
       "direction seconds"),
    _e("lagging", "messages arrive %s late, more than max_lag_s = %g: readers do not trust the books", "lag limit_s"),
    _e("lag_over", "messages arrive in time again (%s); they were up to %.1f s late", "lag highest_s"),
    # connections and sessions
    _e("connected", "connected to %s", "peer"),
    _e("no_answer", "no answer to the Logon from %s; trying another address next", "address"),
    _e("disconnected", "disconnected: %s", "cause"),
    _e("disconnected", "disconnected: %s (%s)", "cause kind"),
    _e("logged_on", "logged on (session %s)", "session"),
    _e("logged_out", "the venue logged us out: %s", "cause"),
    _e("logged_out", "the venue logged us out: %s (%s)", "cause advice"),
    _e("rejected", "the venue rejected our message %s: %s", "seq cause"),
    _e("rejected", "the venue rejected %s (%s)", "request cause"),
    _e("numbers_restarted", "the venue restarted its message numbers (%s)", "form"),
    _e("numbers_not_stored", "%s: sequence numbers cannot be stored, a restart begins with 141=Y: %s", "service cause"),
    _e("numbers_not_stored", "sequence numbers cannot be stored: %s; a restart will begin with 141=Y", "cause"),
    _e("rollover", "rollover %s", "phase"),
    _e("gap_opened", "gap: MsgSeqNum %s to %s missing (%s)", "first last cause"),
    _e("gap_closed", "gap (%s) closed by %s after %.3f s", "cause how seconds"),
    _e("session_status", "trading session: %s", "status"),
    _e("session_status_rejected", "trading session status rejected: %s", "cause"),
    # instruments
    _e("instruments", "instrument list: %d instruments", "instruments"),
    _e("instruments_bad", "instrument list: %s", "cause"),
    _e("instruments_bad", "instrument list: %d more rows cannot be used", "rows"),
    _e("instruments_flood",
       "instrument list: %d rows, of which %d may be read so soon after the rows before them: lists are ignored, and "
       "requested again in %.1f s",
       "rows readable seconds"),
    _e("instruments_missing", "no usable instrument list yet; requesting it again"),
    _e("instruments_missing", "instrument list%s %s; requesting it again in %.1f s", "security cause seconds"),
    _e("instruments_given_up", "instrument list%s %s; continuing without it", "security cause"),
    _e("instrument_new", "new instrument %s", "symbol"),
    _e("instrument_changed", "%s changed (precision %d/%d, %s); new snapshot",
       "symbol price_precision qty_precision status"),
    _e("instrument_maintenance", "%s is in maintenance", "symbol"),
    # books
    _e("books_verified", "all books good: %d books live after %.3f s", "books seconds"),
    _e("books_unverified",
       "%d books UNVERIFIED: 5041 of %s%s fits no known checksum rule; they are followed, but not live",
       "books symbols more"),
    _e("book_recovered", "%s is %s again", "symbol state"),
    _e("book_fault", "%s: %s; new snapshot%s", "symbol cause when"),
    _e("book_fault", "%s: %s; requesting the instrument list: has its precision changed?", "symbol cause"),
    _e("book_fault", "%s: message not applied: %r", "symbol cause"),
    _e("book_fault", "%s: %s %s does not fit 64 bits at the precision of the instrument list; its book cannot be kept",
       "symbol field number"),
    _e("book_quarantined", "%s: quarantined after %d faults in a row (%s); next attempt in %.1f s, then less often",
       "symbol faults cause seconds"),
    _e("book_limit", "%s: its book would take %s; it is void until its next snapshot", "symbol limit"),
    _e("book_served_by", "%s: served by %s now (%s is %s)", "symbol sender other state"),
    _e("no_snapshot", "%s: no snapshot after %.0f s; requesting it again", "symbol seconds"),
    _e("checksum_rule", "checksum rule: %s (first found for %s)", "rule symbol"),
    _e("checksum_decimals",
       "%s: 5041 is computed with %d/%d decimals (rule %s), not with those of the instrument list",
       "symbol price_decimals qty_decimals rule"),
    _e("subscription_rejected", "%s: the venue rejected the subscription: %s; next attempt in %.0f s",
       "symbol cause seconds"),
    _e("subscription_ended", "%s: %s", "symbol cause"),
    _e("left_out", "left out: %s (%s)", "symbols cause"),
    # journal and recorder
    _e("journal_failing", "JOURNAL: %s; books continue, but messages are not being recorded", "cause"),
    _e("journal_at_risk", "JOURNAL: %s; until then a power failure would cost %d records (%d bytes)",
       "cause records bytes"),
    _e("journal_not_synced", "JOURNAL: the disk did not take the last %d bytes", "bytes"),
    _e("journal_recovered", "journal: recording again (%d segments written again, %d bytes of them lost)",
       "segments bytes"),
    _e("journal_begins_inside", "the journal begins inside a recording: segments before %d are missing", "segment"),
    _e("undecoded",
       "session %d: %d messages that the feed applied cannot be decoded: the instrument list before them is "
       "missing or damaged; they are a gap (UNDECODED), and their journal segments are kept",
       "session messages"),
    _e("journal_unclean",
       "journal: the previous feed did not end in order; %s records are sound, %s bytes were incomplete",
       "records torn_bytes"),
    _e("journal_torn", "%s: the journal's writer died inside a record; all before it is recorded", "cause"),
    _e("journal_damaged", "%s; recorded as a gap", "cause"),
    _e("journal_unknown", "the journal has events '%s', which this version does not know: kept in status only", "kind"),
    _e("journal_awaited", "no journal at %s yet: waiting for `kfix feed`", "journal"),
    _e("recording", "recording %s into %s", "journal captures"),
    _e("catching_up", "catching up: %s rows, %.0f a second, %.0f MB of journal in %s segments to go",
       "rows rate megabytes segments"),
    _e("captures_failing", "%s cannot be written yet: %s; trying again", "captures cause"),
    _e("journal_unreadable", "the journal cannot be read: %s; trying again in %.0f s", "cause seconds"),
    _e("captures_failing", "captures cannot be written: %s; trying again in %.0f s", "cause seconds"),
    _e("compacting", "compacting %s", "date"),
    _e("compaction_failed", "compaction failed with status %d, see the errors above; live files are unchanged",
       "status"),
    _e("segment_retired", "journal segment %s: its Parquet is proven, now %s", "segment state"),
    _e("disk_low", "disk of the %s: %s", "holds cause"),
    _e("disk_has_room", "disk of the %s has room again: %s", "holds room"),
    # replication
    _e("shipping", "shipping journal %s as feed '%s'", "journal feed"),
    _e("mirroring", "mirroring into %s, from position %d on", "replica position"),
    _e("replication_failing", "replication stands still: %s; trying again until it works", "cause"),
    _e("journal_damaged", "%s: replicated as it is", "cause"),
    _e("mirror_awaited", "mirror '%s' has not reported yet: the journal is kept until it has", "mirror"),
    _e("sent_again", "mirror '%s' misses what follows %d: sent again", "mirror position"),
    _e("replica_failing", "replica %s cannot be written: %s; trying again until it can", "replica cause"),
    _e("replica_hole",
       "replica: the source has nothing before segment %d any more; what came after %d is missing here",
       "segment position"),
    _e("replica_incomplete",
       "replica: segments %d to %d are missing: copy them from the source, or mirror into a new directory",
       "first last"),
    _e("replica_deleted", "replica: segment %d was deleted while it was written; it is received again", "segment"),
    _e("replica_longer", "replica: the source lost %d bytes at the end of segment %d, which are kept here",
       "bytes segment"),
    # the simulator
    _e("venue_event", "%s %s", "kind facts"),
    _e("venue_fault", "fault %s %s", "kind facts"),
)  # fmt: skip
#: events that a call names itself (extra={"event": ...}), since their text is made at run time
NAMED = {
    "dial_failed": "no connection, and why; tried again",
    "clock_off": "this machine's clock and SendingTime differ, or a message was late",
    "symbols_warning": "a name or pattern of `symbols` that needs attention",
    "segment_kept": "a journal segment whose Parquet could not be proven",
}
_BY_TEMPLATE = {event.template: event for event in EVENTS}


def event_of(record: logging.LogRecord) -> str:
    """Name of a record's event; "other" for lines of libraries."""
    named = getattr(record, "event", None)
    found = _BY_TEMPLATE.get(str(record.msg))
    return str(named) if named else found.name if found else "other"


def values_of(record: logging.LogRecord) -> dict[str, Any]:
    """The values in a record's text by their names: numbers as numbers, everything else as text of one line."""
    found = _BY_TEMPLATE.get(str(record.msg))
    if found is None or not isinstance(record.args, tuple) or len(record.args) != len(found.values):
        return {}
    return {
        name: value if isinstance(value, int | float) and not isinstance(value, bool) else one_line(str(value)).strip()
        for name, value in zip(found.values, record.args, strict=True)
    }


class EventLog(logging.LoggerAdapter[logging.Logger]):
    """A logger of one service, whose calls may name their event."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Add the service to what the call has in `extra`."""
        return msg, {**kwargs, "extra": {**(self.extra or {}), **kwargs.get("extra", {})}}
