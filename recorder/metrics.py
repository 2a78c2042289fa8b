"""Counters and gauges of the recorder for Prometheus, and what its probes answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kfix_md.disk import Store
from kfix_md.errors import CaptureError
from kfix_md.metrics_server import MetricsServer, listen

if TYPE_CHECKING:
    from recorder.process import Recorder

#: a round of the recorder may compare many journal segments with their Parquet
STALLED_S = 300.0
#: what the recorder counts, exported as kfix_recorder_<name>_total
COUNTERS = {
    "rows": "rows of ticks committed",
    "flushes": "commits",
    "write_errors": "times that the captures could not be written",
    "read_errors": "times that the disk did not give the journal",
    "damages": "damaged places of the journal, each a row of gaps",
    "undecoded": "messages that the feed applied and that cannot be decoded, rows of gaps",
    "compactions": "session dates whose compaction began",
    "compactions_failed": "compactions that failed and changed nothing",
    "segments_retired": "journal segments compressed or deleted after their Parquet was proven",
    "segments_unproven": "times that a segment was kept because its Parquet could not be proven",
}


def serve(recorder: Recorder, host: str, port: int, stores: Sequence[Store]) -> MetricsServer:
    """Serve the metrics of a recorder. UsageError when the port is taken."""
    return MetricsServer(
        listen(host, port, "recorder.metrics_port"),
        [_Collector(recorder)],
        healthy=lambda: _stalled(recorder),
        ready=lambda: [recorder.fault] if recorder.fault else [],
        stores=stores,
    )


def _stalled(recorder: Recorder) -> list[str]:
    age_s = time.monotonic() - recorder.beat_s
    return [f"the recorder has done nothing for {age_s:.0f} s"] if age_s > STALLED_S else []


class _Collector:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        recorder, now_s = self._recorder, time.monotonic()
        counts = {**recorder.counts, "rows": recorder.rows, "flushes": recorder.flushes}
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"kfix_recorder_{name}", text, value=counts.get(name, 0))
        gauges = {
            "heartbeat_age_seconds": ("seconds since the recorder's last round", now_s - recorder.beat_s),
            "uncommitted_seconds": ("age of the oldest record read and not committed", now_s - recorder.current_s),
            "compacting": ("1 while a session date is being compacted", int(recorder.compacting)),
            "failing": ("1 while the captures cannot be written or the journal not read", int(bool(recorder.fault))),
        }
        with contextlib.suppress(OSError, CaptureError):  # segments are retired while they are listed
            behind = recorder.tail.reader.tail
            gauges["behind_bytes"] = ("journal not read yet, at most", behind["bytes_behind"])
            gauges["behind_segments"] = ("journal segments not begun yet", behind["segments_behind"])
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"kfix_recorder_{name}", text, value=value)
