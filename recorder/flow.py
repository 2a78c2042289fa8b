"""Counts the messages, rows, trades and lags of a day in slots of time, a batch at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from kfix_md import trading_day
from recorder import files
from recorder.compute import pc
from recorder.schema import Flags

if TYPE_CHECKING:
    from recorder.catalog import Captures

SLOTS = 1440  # a minute of a whole day
_LEAST_NS = 100_000_000  # of a slot
_SPAN_MESSAGES = 50_000  # of a symbol in memory at a time
_LAG_BINS = 400  # from 1 us, ten for each factor of e


def _zeros() -> np.ndarray:
    return np.zeros(SLOTS, np.int64)


@dataclass
class Flow:
    """Histograms over the time that was recorded of a day.

    Attributes
    ----------
    first, last
        Receive times of the first and the last row, ns.
    width
        Length of a slot, ns.
    messages, rows, trades
        Counts by slot.
    lags
        Messages by the logarithm of receive time minus exchange time; `early` counts the negative ones.
    """

    first: int
    last: int
    width: int
    messages: np.ndarray = field(default_factory=_zeros)
    rows: np.ndarray = field(default_factory=_zeros)
    trades: np.ndarray = field(default_factory=_zeros)
    lags: np.ndarray = field(default_factory=lambda: np.zeros(_LAG_BINS, np.int64))
    early: int = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch with recv_ns, event_ns and flags."""
        slot = (batch["recv_ns"].to_numpy() - self.first) // self.width
        flags = batch["flags"].to_numpy()
        ends = (flags & Flags.LAST) != 0
        self.rows += np.bincount(slot, minlength=SLOTS)[:SLOTS]
        self.messages += np.bincount(slot[ends], minlength=SLOTS)[:SLOTS]
        self.trades += np.bincount(slot[(flags & Flags.TRADE) != 0], minlength=SLOTS)[:SLOTS]
        fresh = ends & ((flags & Flags.SNAPSHOT) == 0) & batch["event_ns"].is_valid().to_numpy(zero_copy_only=False)
        lag = pc.subtract(batch["recv_ns"], batch["event_ns"]).fill_null(0).to_numpy(zero_copy_only=False)[fresh]
        self.early += int((lag < 0).sum())
        lag = lag[lag >= 0]
        bins = np.clip((np.log(np.maximum(lag, 1000) / 1000) * 10).astype(int), 0, _LAG_BINS - 1)
        self.lags += np.bincount(bins, minlength=_LAG_BINS)

    @property
    def used(self) -> int:
        """Slots until the last row."""
        return min(SLOTS, (self.last - self.first) // self.width + 1)

    def lag(self, share: float) -> float:
        """Lag in ms that `share` of the messages do not exceed; NaN without messages."""
        total = np.cumsum(self.lags)
        if not total[-1]:
            return float("nan")
        return lag_of_bin(int(np.searchsorted(total, share * total[-1])) + 0.5)

    def slot_of(self, time_ns: np.ndarray) -> np.ndarray:
        """Slots of receive times, the last one for what comes later."""
        slots: np.ndarray = np.minimum((time_ns - self.first) // self.width, SLOTS - 1)
        return slots

    def middles(self) -> np.ndarray:
        """Times in the middle of each slot, ns."""
        times: np.ndarray = self.first + (np.arange(SLOTS) + 0.5) * self.width
        return times

    def spans(self, messages: int) -> Iterator[tuple[int, int]]:
        """The whole time in parts that have at most about 50,000 of a symbol's `messages` each."""
        share = np.cumsum(self.messages) / max(1, self.messages.sum())
        parts = messages // _SPAN_MESSAGES + 1
        cuts = sorted({int(np.searchsorted(share, i / parts)) + 1 for i in range(1, parts)} - {SLOTS})
        for a, b in pairwise([0, *cuts, SLOTS]):
            yield self.first + a * self.width, self.first + b * self.width


def lag_of_bin(place: float) -> float:
    """Lag in ms at a place in `Flow.lags`."""
    return float(np.exp(place / 10) / 1000)


def flow_of(captures: "Captures", day: date) -> Flow:
    """Histograms of a session date; over all of it when nothing was recorded."""
    start, end = trading_day.session_bounds(day)
    paths = captures._files.of("ticks", start, end - 1)
    spans = [captures._files.span(p) for p in paths if files.open_file(p).metadata.num_rows]
    first, last = min((s[0] for s in spans), default=start), max((s[1] for s in spans), default=end)
    flow = Flow(first, last, max(_LEAST_NS, (last - first) // SLOTS + 1))
    for batch in files.batches("ticks", paths, ["recv_ns", "event_ns", "flags"]):
        if batch.num_rows:
            flow.add(batch)
    return flow


class Means:
    """Means by slot of values that come in parts."""

    def __init__(self) -> None:
        self.n, self.total = np.zeros(SLOTS), np.zeros(SLOTS)

    def add(self, slot: np.ndarray, values: np.ndarray) -> None:
        """Add values and their slots; what is not finite is left out."""
        good = np.isfinite(values)
        self.n += np.bincount(slot[good], minlength=SLOTS)
        self.total += np.bincount(slot[good], weights=values[good], minlength=SLOTS)

    def by_slot(self) -> np.ndarray:
        """The mean of each slot, carried over slots without a value; NaN before the first."""
        known = self.n > 0
        means = np.where(known, self.total / np.maximum(self.n, 1), np.nan)
        carried: np.ndarray = means[np.maximum.accumulate(np.where(known, np.arange(SLOTS), 0))]
        return carried
