"""Counters, gauges and histograms of the feed, as Prometheus reads them, and what its probes answer."""

from __future__ import annotations

import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from kfix_md._entry import State
from kfix_md.disk import Store
from kfix_md.log_output import lines_lost
from kfix_md.metrics_server import MetricsServer
from kfix_md.session.types import SessionState

if TYPE_CHECKING:
    from kfix_md.feed.process import FeedProcess

#: handler counters exported as kfix_<name>_total
COUNTERS = {
    "messages": "FIX messages received",
    "bytes": "bytes of FIX messages received",
    "entries": "market data entries decoded",
    "crc_checked": "messages whose 5041 was checked",
    "crc_failed": "messages whose 5041 did not match the book",
    "malformed": "messages that could not be applied whole",
    "late": "messages of ended subscriptions",
    "bad_checksum": "frames with a wrong tag 10",
    "bad_length": "frames with a wrong tag 9",
    "garbage": "runs of bytes between messages",
}


_STATES = tuple(State.__members__.items())


@dataclass(slots=True)
class FeedCounters:
    """All counters of a feed at one moment."""

    services: list[dict[str, Any]] = field(default_factory=list)
    journal: dict[str, Any] = field(default_factory=dict)
    clock_steps: int = 0
    republished: int = 0  # how often the segment was lost and published again
    shm_alarm: bool = False
    beat_age_s: float = 0.0  # seconds since the loop's last heartbeat
    stalls: dict[str, tuple[int, float]] = field(default_factory=dict)  # cause -> count, s; of a tracer
    histograms: list[Histogram] = field(default_factory=list)
    lines_lost: int = 0  # log lines that could not be written

    def not_ready(self) -> list[str]:
        """One line for each session that does not deliver and is not in its planned rollover."""
        return [
            f"{one['labels'][0]} ({one['labels'][1]}): {fault}"
            for one in self.services
            if (fault := _fault(one)) and not one["planned"]
        ]

    def stalled(self) -> str:
        """Why the process does not work; empty while it does."""
        return "" if self.beat_age_s < STALLED_S else f"the loop has not run for {self.beat_age_s:.0f} s"

    def totals(self) -> dict[str, int]:
        """Sums over the services, for the counters in shared memory."""
        sums = {name: sum(int(one["counters"].get(name, 0)) for one in self.services) for name in COUNTERS}
        sums["gaps"] = sum(sum(one["gaps"].values()) for one in self.services)
        sums["gaps_open"] = sum(one["gaps_open"] for one in self.services)
        sums["left_out"] = sum(one["left_out"] for one in self.services)
        sums["unverified"] = sum(one["states"][State.UNVERIFIED.name] for one in self.services)
        sums["lagging"] = sum(one["lagging"] for one in self.services)
        sums["reconnects"] = sum(one["reconnects"] for one in self.services)
        sums["clock_steps"] = self.clock_steps
        sums["shm_republished"] = self.republished
        sums["shm_alarm"] = int(self.shm_alarm)
        sums["journal_records"] = int(self.journal.get("records", 0))
        sums["journal_position"] = int(self.journal.get("position", 0))
        sums["journal_alarm"] = int(bool(self.journal.get("alarm")))
        sums["journal_lost"] = int(self.journal.get("lost", 0))
        return sums


def _fault(one: dict[str, Any]) -> str:
    """Why a session does not deliver; empty when it does."""
    if not one["up"]:
        return "a gap is open" if one["logged_on"] else "not logged on"
    return f"messages arrive {one['lag_seconds']:.1f} s late" if one["lagging"] else ""


def gather(feed: FeedProcess) -> FeedCounters:
    """Collect every counter of a feed."""
    now_ns = feed.clock.now_ns()
    reading = FeedCounters(clock_steps=feed.clock.steps, beat_age_s=feed.beat_age_s())
    reading.republished, reading.shm_alarm = feed.place.republished, bool(feed.place.alarm)
    for service in feed.services:
        session = service.session
        reading.services.append(
            {
                "labels": (service.name, service.section.sender_comp_id),
                "counters": service.handler.stats,
                "states": {name: service.states[state] for name, state in _STATES},
                "gaps": dict(service.gaps),
                "gaps_open": service.open_gaps(),
                "reconnects": max(0, service.connects - 1),
                "errors": service.errors,
                "up": int(session.ready),
                "logged_on": session.state == SessionState.ON,
                "planned": int(session.rollover.armed(now_ns)),
                "silence_seconds": max(0, now_ns - session.last_recv_ns) / 1e9,
                "lag_seconds": service.lag.lag_ns / 1e9,
                "lagging": int(service.lag.over),
                "clock_lag_seconds": _clock_lag(service) / 1e9,
                "next_rollover_seconds": max(0, session.rollover.next_instant(now_ns) - now_ns) / 1e9,
                "rollover_duration_seconds": _took(session.rollover),
                "rejected": service.subs.counters.rejected,
                "left_out": len(service.subs.left_out.reasons),
                "resubscribed": dict(service.subs.counters.faults),
            }
        )
    reading.journal, reading.lines_lost = feed.recording.stats(), lines_lost()
    if feed.stalls is not None:
        reading.stalls = feed.stalls.counts()
    return reading


def _clock_lag(service: Any) -> int:
    """Receive time minus SendingTime of the last market data message, else of the last session message, in ns."""
    handler = service.handler
    if handler.last_sending_ns and handler.last_recv_ns:
        return int(handler.last_recv_ns + handler.clock_step_ns - handler.last_sending_ns)
    return int(service.session.clock_lag_ns)


def _took(rollover: Any) -> float:
    """Seconds that the last rollover took until every book was verified; 0 before the first."""
    return max(0, rollover.verified_ns - rollover.began_ns) / 1e9 if rollover.verified_ns else 0.0


#: a heartbeat is written every 4 s at the longest (feed.heartbeat_ms)
STALLED_S = 10.0
STALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
READ_BUCKETS = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.05, 0.25)


@dataclass(slots=True)
class Row:
    """The values of a histogram under one set of labels: how many were in each bucket, their sum, since when."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0
    created_s: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Histogram:
    """A histogram that the loop keeps and another process exports: `bounds` are the upper ones, +Inf not among them."""

    name: str
    text: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...] = ()
    rows: dict[tuple[str, ...], Row] = field(default_factory=dict)

    def row(self, *labels: str) -> Row:
        """The row of these labels, which is exported from now on."""
        return self.rows.get(labels) or self.rows.setdefault(labels, Row(self.bounds))

    def family(self) -> Any:
        """What prometheus_client writes of it."""
        from prometheus_client.core import HistogramMetricFamily
        from prometheus_client.utils import floatToGoString

        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        ends = [floatToGoString(bound) for bound in (*self.bounds, float("inf"))]  # type: ignore[no-untyped-call]
        for labels, row in self.rows.items():
            family.add_metric(labels, list(zip(ends, accumulate(row.counts), strict=True)), row.total)
            named = dict(zip(self.labels, labels, strict=True))
            family.add_sample(f"{self.name}_created", named, row.created_s)
        return family


def serve(
    listener: socket.socket,
    read: Callable[[], FeedCounters],
    stores: Sequence[Store],
    pid: int,
    lost: Callable[[], int],
) -> MetricsServer:
    """Serve metrics and probes of the feed that `read` reads; `pid` and `lost`: see MetricsServer."""

    def healthy() -> list[str]:
        stalled = read().stalled()
        return [stalled] if stalled else []

    return MetricsServer(
        listener,
        [_Collector(read)],
        healthy=healthy,
        ready=lambda: read().not_ready(),
        stores=stores,
        pid=pid,
        lost=lost,
    )


class _Collector:
    def __init__(self, read: Callable[[], FeedCounters]) -> None:
        self._read = read

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        reading, labels = self._read(), ["service", "sender"]
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"kfix_{name}", text, labels=labels)
            for one in reading.services:
                counter.add_metric(one["labels"], one["counters"].get(name, 0))
            yield counter
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"kfix_{name}", text, labels=labels)
            for one in reading.services:
                gauge.add_metric(one["labels"], one[name])
            yield gauge
        for name, text in _FAULTS.items():
            counter = CounterMetricFamily(f"kfix_{name}", text, labels=labels)
            for one in reading.services:
                counter.add_metric(one["labels"], one[name])
            yield counter
        for kind, name, label, text in (
            (GaugeMetricFamily, "states", "state", "books in each state"),
            (CounterMetricFamily, "gaps", "cause", "gaps since the start"),
            (CounterMetricFamily, "resubscribed", "cause", "books subscribed again"),
        ):
            family = kind(f"kfix_{name}", text, labels=[*labels, label])
            for one in reading.services:
                for key, value in one[name].items():
                    family.add_metric([*one["labels"], key.lower()], value)
            yield family
        yield GaugeMetricFamily(
            "kfix_heartbeat_age_seconds", "seconds since the loop's last heartbeat", value=reading.beat_age_s
        )
        if reading.stalls:
            count = CounterMetricFamily("kfix_traced_stalls", "stalls of the loop by longest cause", labels=["cause"])
            took = CounterMetricFamily("kfix_traced_stall_seconds", "how long these were in all", labels=["cause"])
            for cause, (number, seconds) in reading.stalls.items():
                count.add_metric([cause], number)
                took.add_metric([cause], seconds)
            yield from (count, took)
        for name, text in (
            ("records", "records appended"),
            ("lost", "records that could not be stored"),
            ("syncs", "times it was put on disk"),
            ("sync_failed", "times that failed"),
            ("rescued", "segments written again in another file after a failed sync"),
            ("rescue_lost", "bytes that were gone when their segment was written again"),
        ):
            value = reading.journal.get(name, 0)
            yield CounterMetricFamily(f"kfix_journal_{name}", f"journal: {text}", value=value)
        exposed = reading.journal.get("exposed_max_ns", 0) / 1e9
        yield GaugeMetricFamily(
            "kfix_journal_exposed_max_seconds",
            "longest a record may have waited to be on disk, what a power loss costs",
            value=exposed,
        )
        position, synced = (reading.journal.get(name, 0) for name in ("position", "synced"))
        waiting = max(0, position - synced) if position >> 32 == synced >> 32 else position & 0xFFFFFFFF
        yield GaugeMetricFamily("kfix_journal_unsynced_bytes", "written since the last sync", value=waiting)
        for name in ("records", "bytes"):
            text = f"{name} that a power failure would cost now, because their sync failed"
            yield GaugeMetricFamily(f"kfix_journal_risk_{name}", text, value=reading.journal.get(f"risk_{name}", 0))
        text = "times that the clock of this machine was set to another time"
        yield CounterMetricFamily("kfix_clock_steps", text, value=reading.clock_steps)
        text = "times that the shared memory file was deleted or replaced, and published again"
        yield CounterMetricFamily("kfix_shm_republished", text, value=reading.republished)
        text = "1 while the shared memory file is gone and cannot be made again"
        yield GaugeMetricFamily("kfix_shm_alarm", text, value=int(reading.shm_alarm))
        alarm = int(bool(reading.journal.get("alarm")))
        yield GaugeMetricFamily("kfix_journal_alarm", "1 while the journal cannot be written", value=alarm)
        for histogram in reading.histograms:
            yield histogram.family()


_GAUGES = {
    "up": "1 while the session is logged on with no gap open",
    "planned": "1 in the window of the daily rollover, in which a lost session is no fault",
    "gaps_open": "gaps not healed yet",
    "silence_seconds": "seconds since the last message",
    "lag_seconds": "how late the last message arrived, less what the clocks provably differ by",
    "lagging": "1 while messages arrive later than max_lag_s: readers do not trust the books",
    "clock_lag_seconds": "our clock minus SendingTime of the last message",
    "next_rollover_seconds": "seconds to the next rollover",
    "rollover_duration_seconds": "seconds the last rollover took until the last book was verified",
    "left_out": "symbols that are not served because something failed for them alone",
}
_FAULTS = {
    "reconnects": "connections made after the first",
    "errors": "internal errors that cost a connection",
    "rejected": "subscriptions that the venue rejected",
}
