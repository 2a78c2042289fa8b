"""Drives hftbacktest's order book without a strategy: one call runs its loop over all updates.

Its ROIVectorMarketDepth (Rust) cannot be reached from outside its backtest loop, so the loop is what is timed: events
for the local book alone, in one `elapse` from the opening to the end, called through the compiled library itself. The
loop's own work (times, queues of orders there are none of) is in its figure, the best price after each message is not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

STEP_NS = 1_000  # between messages
MAX_TICKS = 20_000_000  # its book is an array of all prices between the lowest and the highest


class Run:
    """A backtest after the opening; `finish` does the rest."""

    def __init__(self, events: np.ndarray, end_ns: int) -> None:
        from hftbacktest import BacktestAsset, binding, build_roivec_backtest

        low, high = float(events["px"].min()), float(events["px"].max())
        asset = (
            BacktestAsset()
            .data(events)
            .linear_asset(1.0)
            .constant_order_latency(0, 0)
            .risk_adverse_queue_model()
            .no_partial_fill_exchange()
            .trading_value_fee_model(0, 0)
            .tick_size(1.0)
            .lot_size(1.0)
            .roi_lb(low - 10)
            .roi_ub(high + 10)
            .last_trades_capacity(0)
        )
        self._events, self._lib, self._end_ns = events, binding, end_ns  # the loop reads the array where it is
        self._loop = ctypes.c_void_p(build_roivec_backtest([asset]))
        self._elapse(STEP_NS)

    def _elapse(self, ns: int) -> int:
        return int(self._lib.roivecbt_elapse(self._loop, ctypes.c_uint64(ns)))

    def finish(self) -> tuple[int, int]:
        """Apply every update; best bid and best offer after the last."""
        self._elapse(self._end_ns)
        book = ctypes.c_void_p(self._lib.roivecbt_depth(self._loop, ctypes.c_uint64(0)))
        best = self._lib.roivecdepth_best_bid_tick(book), self._lib.roivecdepth_best_ask_tick(book)
        return int(best[0]), int(best[1])

    def __del__(self) -> None:
        if hasattr(self, "_loop"):
            self._lib.roivecbt_close(self._loop)


def events_of(seen: Any) -> tuple[np.ndarray, int]:
    """Updates of the local book, one message each STEP_NS, and when the last is over; ImportError where it cannot."""
    try:
        from hftbacktest import BUY_EVENT, DEPTH_EVENT, LOCAL_EVENT, SELL_EVENT, event_dtype
    except ImportError:
        raise ImportError("hftbacktest is not installed") from None
    if seen.level != "L2":
        raise ImportError("its L3 book lives in an exchange with queues of one's own orders")
    entries = np.concatenate([seen.opening, seen.updates])
    if np.ptp(entries["price"]) > MAX_TICKS:
        raise ImportError("the prices are too far apart for its array")
    message = np.searchsorted(seen.ends, np.arange(len(seen.updates)), side="right") + 2
    events = np.zeros(len(entries), event_dtype)
    side = np.where(entries["side"] == 0, BUY_EVENT, SELL_EVENT).astype("u8")
    events["ev"] = side | np.uint64(DEPTH_EVENT) | np.uint64(LOCAL_EVENT)
    events["local_ts"] = np.concatenate([np.ones(len(seen.opening), "i8"), message]) * STEP_NS
    events["exch_ts"] = events["local_ts"]
    events["px"] = entries["price"]
    events["qty"] = np.where(entries["action"] >= 2, 0, entries["qty"])
    end_ns = int(events["local_ts"][-1]) + STEP_NS
    return events, end_ns


def hftbacktest(seen: Any, with_crc: bool) -> tuple[Callable, Callable]:
    """(prepare, run) as benchmarks.books wants them; `seen` is a Flow. ImportError where it cannot take part."""
    if with_crc:
        raise ImportError("it has no checksum")
    events, end_ns = events_of(seen)
    return lambda: Run(events, end_ns), lambda run: run.finish()
