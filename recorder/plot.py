"""Draws recorded books with matplotlib: depth with trades, best prices, spread, coverage; gaps as gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from kfix_md import trading_day
from kfix_md.errors import UsageError
from recorder import coverage
from recorder.compute import pc
from recorder.moments import Day, Moment, to_date, to_ns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from recorder.catalog import Captures

_SAMPLES = 600  # columns of a heat map; twice as many points of a line: what a screen shows
_PRICES = 200  # rows of a heat map
_STEPS = [n * unit for unit in (10**6, 10**7, 10**8, 10**9, 10**10) for n in (1, 2, 5)] + [
    n * 10**9 for n in (60, 120, 300, 600, 1800, 3600)
]
_BUY, _SELL, _BID, _ASK, _DARK = "#2f9e6e", "#c9363e", "#2b6cb0", "#e07a1f", "#9aa5b1"
_ON_DARK = ("#9cd0ff", "#ffb36b")  # bid and ask over a heat map
_STATES = {"LIVE": "#2f9e6e", "EMPTY": "#7cc6a4", "UNVERIFIED": "#b5a429", "ROLLOVER": "#7b8794", "DOWN": "#c9363e"}
_OTHER, _UNKNOWN = "#e07a1f", "#7a1fa2"
_SHOWN_CAUSES = 4  # in a legend


class Plots:
    """Plots of captures: `cap.plot.book("BTC/USD", start, end)`, `.bbo`, `.spread`, `.coverage`.

    Each takes `ax`, matplotlib axes to draw into, or makes a figure, and returns the axes: `ax.figure.savefig(...)`.
    Times are UTC. Where readers of the feed did not trust the book nothing is drawn but a grey band with the cause.
    """

    def __init__(self, captures: "Captures") -> None:
        self._cap = captures

    def book(
        self,
        symbol: str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        levels: int = 20,
        level: str | None = None,
        trades: bool = True,
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Quantity by price and time as a heat map, best prices as lines, trades as dots.

        Parameters
        ----------
        start, end
            Receive times; None for all that was recorded.
        levels
            Levels of a side that are looked at.
        level
            "L2" or "L3"; None for L2 where it was recorded, else L3.
        trades
            Draw trades too, their area in proportion to their quantity.
        """
        span = _Span.of(self._cap, symbol, start, end, level, _SAMPLES)
        table = self._cap.depth(symbol, *span.limits, every=span.step, levels=levels, level=span.level)
        ax = _axes(ax, (11, 5))
        prices, quantities = _matrix(table, "px", levels), _matrix(table, "qty", levels)
        if np.isfinite(prices).any():
            edges, image = heat(prices, quantities)
            times = _times([*table["time_ns"].to_pylist(), table["time_ns"][-1].as_py() + span.step])
            mesh = ax.pcolormesh(times, edges, image.T, norm=_log_norm(image), cmap="viridis", rasterized=True)
            ax.set_facecolor(mesh.get_cmap()(0.0))  # no quantity looks like the smallest
            ax.figure.colorbar(mesh, ax=ax, label="quantity", pad=0.01)
            _best_lines(ax, table, _ON_DARK)
            ax.set_ylim(edges[0], edges[-1])
        if trades:
            self._trades(ax, symbol, span)
        self._finish(ax, symbol, span, table, "price")
        return ax

    def bbo(
        self,
        symbol: str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        level: str | None = None,
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Best bid and offer over time; see `book` for the parameters."""
        span = _Span.of(self._cap, symbol, start, end, level, 2 * _SAMPLES)
        table = self._cap.depth(symbol, *span.limits, every=span.step, levels=1, level=span.level)
        ax = _axes(ax, (11, 4))
        _best_lines(ax, table)
        self._finish(ax, symbol, span, table, "price")
        return ax

    def spread(
        self,
        symbol: str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        unit: Literal["price", "bp"] = "bp",
        level: str | None = None,
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Ask less bid over time, in basis points of the mid price or as a price; see `book` for the parameters."""
        if unit not in ("price", "bp"):
            raise UsageError(f'unit is {unit!r}: use "bp" (basis points of the mid price) or "price"')
        span = _Span.of(self._cap, symbol, start, end, level, 2 * _SAMPLES)
        table = self._cap.depth(symbol, *span.limits, every=span.step, levels=1, level=span.level)
        bid, ask = _matrix(table, "px", 1)
        values = (ask - bid)[0] if unit == "price" else ((ask - bid) / ((ask + bid) / 2) * 1e4)[0]
        ax = _axes(ax, (11, 3))
        ax.step(_times(table["time_ns"]), values, where="post", color=_BID, linewidth=1)
        ax.set_ylim(bottom=0 if np.isfinite(values).any() and np.nanmin(values) >= 0 else None)
        self._finish(ax, symbol, span, table, "spread, bp" if unit == "bp" else "spread")
        return ax

    def coverage(
        self, day: Day | None = None, symbol: str | list[str] | None = None, *, ax: "Axes | None" = None
    ) -> "Axes":
        """When each book was in which state, a bar for each symbol and service.

        Parameters
        ----------
        day
            Session date; None for the last one recorded.
        symbol
            One symbol, a list, or None for all.
        """
        dates = self._cap.dates()
        if day is None and not dates:
            raise UsageError(f"{self._cap.tree.root} has no session date with ticks")
        date = dates[-1] if day is None else to_date(day)
        self._cap._check(symbol)
        rows = self._cap.coverage(date)
        if symbol is not None:
            rows = rows.filter(pc.is_in(rows["symbol"], pa.array([symbol] if isinstance(symbol, str) else symbol)))
        begin, end = trading_day.session_bounds(date)
        paths = self._cap._files.of("ticks", begin, end - 1)
        spans = [self._cap._files.span(path) for path in paths]
        begin, end = max(begin, min(s[0] for s in spans)), min(end, max(s[1] for s in spans) + 1)
        names = sorted({(row["symbol"], row["service"]) for row in rows.to_pylist()})
        ax = _axes(ax, (11, 1.2 + 0.28 * max(1, len(names))))
        bars: dict[str, list[tuple[int, Any, Any]]] = {}
        for row in rows.to_pylist():
            a, b = max(begin, row["from_ns"]), min(end, end if row["to_ns"] is None else row["to_ns"])
            if a < b:
                y = len(names) - 1 - names.index((row["symbol"], row["service"]))
                bars.setdefault(row["state"] or "not known", []).append((y, a, b))
        for state, parts in bars.items():
            color = _STATES.get(state, _UNKNOWN if state == "not known" else _OTHER)
            left, right = _times([a for _, a, _ in parts]), _times([b for _, _, b in parts])
            ax.barh([y for y, _, _ in parts], right - left, left=left, height=0.7, color=color, label=state)
        ax.set_yticks(range(len(names)), [f"{name} ({service})" for name, service in reversed(names)])
        ax.set_xlim(*_times([begin, end]))
        ax.set_title(f"coverage of {date}")
        ax.set_xlabel("UTC")
        if bars:
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        return ax

    def _trades(self, ax: "Axes", symbol: str, span: "_Span") -> None:
        columns = ["recv_ns", "side", "price", "qty", "aggressor"]
        table = self._cap.ticks(symbol, *span.limits, level="both", price="float", columns=columns)
        table = table.filter(pc.equal(table["side"], "trade"))
        if not table.num_rows:
            return
        area = 60 * table["qty"].to_numpy() / table["qty"].to_numpy().max() + 4
        times, prices = _times(table["recv_ns"]), table["price"].to_numpy()
        buy = pc.equal(table["aggressor"], "buy").fill_null(False).to_numpy()
        for chosen, color, name in ((buy, _BUY, "buys"), (~buy, _SELL, "sells")):
            if chosen.any():
                dots = ax.scatter(times[chosen], prices[chosen], area[chosen], color, label=name, zorder=3)
                dots.set(edgecolor="white", linewidth=0.5)

    def _finish(self, ax: "Axes", symbol: str, span: "_Span", table: pa.Table, what: str) -> None:
        """Bands where the book was not trusted, limits, names."""
        named: list[str] = []
        for start, end, cause in self._dark(symbol, span, table):
            label = cause if cause not in named and len(named) < _SHOWN_CAUSES else None
            named += [label] if label else []
            left, right = _times([start, end])
            ax.axvspan(left, right, facecolor=_DARK, alpha=0.85, edgecolor=_DARK, linewidth=1, label=label, zorder=2)
        ax.set_xlim(*_times(span.limits))
        ax.set_ylabel(what)
        ax.ticklabel_format(axis="y", useOffset=False, style="plain")
        ax.set_title(f"{symbol}, UTC, a sample every {span.step / 1e9:g} s", loc="left", fontsize=10, parse_math=False)
        if ax.get_legend_handles_labels()[1]:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8, ncols=4, frameon=False)

    def _dark(self, symbol: str, span: "_Span", table: pa.Table) -> list[tuple[int, int, str]]:
        """(from, to, cause) where the book was not trusted: samples, and states that begin and end between two."""
        found: list[tuple[int, int, str]] = []
        times, causes = table["time_ns"].to_pylist(), table["cause"].to_pylist()
        for at, text in zip(times, causes, strict=True):
            if text is None:
                continue
            cause = _words(text.split())
            if found and found[-1][1] == at and found[-1][2] == cause:
                found[-1] = (found[-1][0], at + span.step, cause)
            else:
                found.append((at, at + span.step, cause))
        states = self._cap._coverage(symbol, *span.limits)
        for row in coverage.dark(states):
            if span.level not in (None, row["level"]):
                continue
            a, b = max(span.start, row["from_ns"]), min(span.end, span.end if row["to_ns"] is None else row["to_ns"])
            if a < b and not any(start < b and a < end for start, end, _ in found):
                found.append((a, b, _words([row["state"], row["cause"]])))
        return found


@dataclass(frozen=True)
class _Span:
    """A span of time, the step between its samples, ns, and the level that they are of."""

    start: int
    end: int
    step: int
    level: str | None

    @classmethod
    def of(
        cls,
        captures: "Captures",
        symbol: str,
        start: Moment | None,
        end: Moment | None,
        level: str | None,
        samples: int,
    ) -> "_Span":
        first, last = to_ns(start), to_ns(end)
        captures._listing.check(symbol, first if last is None else last)
        if first is None or last is None:
            paths = captures._files.of("ticks", first, None if last is None else last - 1, [symbol])
            spans = [captures._files.span(path) for path in paths]
            if not spans:
                captures._listing.require(symbol, first, last)
            first = min((s[0] for s in spans), default=0) if first is None else first
            last = max((s[1] for s in spans), default=first) + 1 if last is None else last
        if last <= first:
            raise UsageError(f"end ({end}) is not after start ({start})")
        step = next((step for step in _STEPS if (last - first) / step <= samples), _STEPS[-1])
        return cls(first, last, step, captures._listing.level(symbol, last, level))

    @property
    def limits(self) -> tuple[int, int]:
        return self.start, self.end


def heat(prices: np.ndarray, quantities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantities by time and price.

    Parameters
    ----------
    prices, quantities
        (2, levels, n) floats of bids and asks, NaN where there is no level.

    Returns
    -------
    tuple of arrays
        Edges of the prices (m + 1), and the quantities (n, m), NaN where there are none. Prices that few samples reach
        are left out: a hundredth of them at each end.
    """
    seen = prices[np.isfinite(prices)]
    low, high = np.quantile(seen, [0.01, 0.99])
    steps = np.diff(np.unique(seen))
    tick = float(steps[steps > abs(high) * 1e-12].min(initial=np.inf))
    if not np.isfinite(tick):
        tick = abs(high) * 1e-4 or 1.0
    height = tick * np.ceil((high - low) / tick / _PRICES + 1e-9)  # of a row: whole ticks, with prices in their middle
    edges = low - tick / 2 + height * np.arange(int((high - low) / height + 1.5) + 1)
    row = np.searchsorted(edges, prices, "right") - 1  # NaN sorts last: outside
    inside = np.isfinite(prices) & (row >= 0) & (row < len(edges) - 1)
    column = np.broadcast_to(np.arange(prices.shape[2]), prices.shape)
    image = np.zeros((prices.shape[2], len(edges) - 1))
    np.add.at(image, (column[inside], row[inside]), quantities[inside])
    image[image == 0] = np.nan
    return edges, image


def _words(words: Sequence[str | None]) -> str:
    """Each word once: a book in ROLLOVER because of ROLLOVER."""
    return " ".join(dict.fromkeys(word for word in words if word and word != "NONE"))


def _matrix(table: pa.Table, what: str, levels: int) -> np.ndarray:
    """(2, levels, n) floats of bids and asks, NaN where null."""
    names = [[f"{side}_{what}_{i}" for i in range(levels)] for side in ("bid", "ask")]
    return np.array([[table[name].to_numpy().astype(float) for name in side] for side in names])


def _best_lines(ax: "Axes", table: pa.Table, colors: tuple[str, str] = (_BID, _ASK)) -> None:
    times = _times(table["time_ns"])
    bid, ask = _matrix(table, "px", 1)
    for values, color, name in ((bid[0], colors[0], "bid"), (ask[0], colors[1], "ask")):
        ax.step(times, values, where="post", color=color, linewidth=1.1, label=name)


def _times(ns: "Sequence[int] | pa.ChunkedArray") -> np.ndarray:
    values: np.ndarray = np.asarray(ns, np.int64).astype("datetime64[ns]")
    return values


def _axes(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UsageError("plots need matplotlib: pip install 'kfix-md[plot]'") from None
    made: Axes = pyplot.subplots(figsize=size, layout="constrained")[1]
    return made


def _log_norm(image: np.ndarray) -> Any:
    """Colours by the logarithm of the quantity, without the extremes."""
    from matplotlib.colors import LogNorm

    low, high = np.nanquantile(image, [0.05, 0.99])
    return LogNorm(low, max(high, low * 1.01), clip=True)
