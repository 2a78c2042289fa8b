"""Writes one self-contained HTML page about a session date: proof, problems, coverage, rates, lags, spreads."""

from collections.abc import Sequence
from datetime import date
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from kfix_md import __version__, trading_day
from kfix_md.errors import UsageError
from kfix_md.symbol_text import one_line
from recorder import coverage, lanes
from recorder.flow import Flow, Means, flow_of, lag_of_bin
from recorder.proof import Proof
from recorder.texts import ms, share, time_of_day
from recorder.verify import verify

if TYPE_CHECKING:
    from recorder.catalog import Captures

_SPREADS = 6  # symbols whose spread is drawn: those with the most messages
_GAPS = 500  # rows of the table of gaps
_KEY = {
    "ok": "covered",
    "gap": "not trusted",
    "down": "connection or feed down",
    "planned": "rollover",
    "lost": "lost or not known",
    "none": "not followed",
}
_SYMBOL_NAMES = ["symbol", "level", "messages", "rows", "CRC right", "CRC wrong", "wrong live", "unproven"]

Row = dict[str, Any]


def page(captures: "Captures", day: date) -> str:
    """The whole page as HTML: scripts and data are in it, it makes no request."""
    try:
        from jinja2 import Environment, PackageLoader
        from markupsafe import Markup
    except ImportError:
        raise UsageError("a report needs jinja2: pip install 'kfix-md[operator]'") from None

    templates = Environment(
        loader=PackageLoader("recorder"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: one_line(value) if type(value) is str else value,  # not Markup: scripts have lines
    )
    folder = resources.files("recorder") / "templates"

    def source(name: str) -> Markup:
        return Markup((folder / name).read_text(encoding="utf-8"))

    found = templates.get_template("report.html").render(**_content(captures, day), source=source, share=share)
    return f"{found}\n"


def _content(captures: "Captures", day: date) -> Row:
    """What the template shows."""
    proof = verify(captures, day)
    summary, gaps, flow = proof.summary(), proof.gaps.to_pylist(), flow_of(captures, day)
    start, end = trading_day.session_bounds(day)
    verdict, color = _verdict(summary)
    planned = [gap for gap in gaps if gap["planned"]]
    problems = [gap for gap in gaps if not gap["planned"]]
    content = {
        "day": day,
        "root": str(captures.tree.root),
        "session": f"{time_of_day(start, True)} to {time_of_day(end, True)}",
        "recorded": f"{time_of_day(flow.first)} to {time_of_day(flow.last)}",
        "verdict": verdict,
        "color": color,
        "cards": _cards(summary, flow),
        "reasons": summary["why_not"] if summary["messages"] else summary["faults"],
        "gaps": [_gap_row(gap) for gap in problems[:_GAPS]],
        "more_gaps": f"{len(problems) - _GAPS:,}" if len(problems) > _GAPS else "",
        "planned": _planned(planned),
        "sessions": _sessions(captures, day),
        "version": __version__,
    }
    if not summary["messages"]:
        return content
    charts = _Charts(captures, proof, flow)
    states = captures.coverage(day).to_pylist()
    services = (
        lanes.of_services(states, flow.first, flow.last)
        if states
        else lanes.of_gaps(gaps, captures.sessions(day).to_pylist(), flow.first, flow.last)
    )
    return content | {
        "key": _KEY,
        "services": services,
        "symbols_covered_least": lanes.of_symbols(states, flow.first, flow.last),
        "ticks": _ticks(flow),
        "sections": [charts.rates(), charts.lags(), charts.spreads()],
        "charts": charts.made,
        "symbol_names": [*_SYMBOL_NAMES, "checksum rule", "seconds not covered"],
        "symbols": [_symbol_row(row) for row in summary["symbols"]],
    }


def _verdict(summary: Row) -> tuple[str, str]:
    """The verdict on the proof, and its colour."""
    if not summary["messages"]:
        return "No market data was recorded: there is nothing to prove", "planned"
    if summary["holds"]:
        return "Proven: every checksum that was checked live matches again", "ok"
    return "The proof does not hold", "down"


def _cards(summary: Row, flow: Flow) -> dict[str, str]:
    return {
        "messages": f"{summary['messages']:,}",
        "rows": f"{summary['rows']:,}",
        "checksums right": f"{summary['ok']:,}",
        "wrong live": f"{summary['failed_live']:,}",
        "gaps": f"{summary['gaps']:,}",
        "symbols": f"{len({r['symbol'] for r in summary['symbols']}):,}",
        "median lag": ms(flow.lag(0.5)),
        "99 % lag": ms(flow.lag(0.99)),
    }


def _ticks(flow: Flow, n: int = 7) -> list[str]:
    """Times below the bars."""
    span = flow.last - flow.first
    return [time_of_day(flow.first + span * i // (n - 1), decimals=3 if span < 30e9 else 0) for i in range(n)]


class _Charts:
    """The charts as templates/report.js draws them, and what is written about them."""

    def __init__(self, captures: "Captures", proof: Proof, flow: Flow) -> None:
        self._captures, self._proof, self._flow = captures, proof, flow
        self.made: list[Row] = []

    def _add(self, series: list[Row], **more: Any) -> Row:
        chart = {"id": f"chart{len(self.made)}", "title": "", "series": series} | more
        self.made.append(chart)
        return chart

    def _over_time(self, series: list[Row], **more: Any) -> Row:
        flow = self._flow
        return self._add(series, start=round(flow.first / 1e9, 3), step=flow.width / 1e9, **more)

    def rates(self) -> Row:
        """Messages a second over time."""
        flow = self._flow
        values = flow.messages[: flow.used] / (flow.width / 1e9)
        chart = self._over_time([{"name": "messages / s", "color": "a", "bars": True, "values": _rounded(values)}])
        text = f"{flow.rows.sum():,} rows with those that begin a snapshot, {flow.trades.sum():,} trades."
        return {"title": "Messages a second", "charts": [chart], "text": text}

    def lags(self) -> Row:
        """How many messages arrived how late."""
        flow, section = self._flow, {"title": "Exchange to receive time", "charts": []}
        used = np.flatnonzero(flow.lags)
        if not len(used):
            text = f"Exchange times later than the receipt in every message ({flow.early:,}): a clock is wrong."
            return section | {"text": text if flow.early else "No message carries an exchange time."}
        low, high = int(used[0]), int(used[-1]) + 1
        edges = [ms(lag_of_bin(place)) for place in range(low, high + 1)]
        shown = flow.lags[low:high].tolist()
        chart = self._add(
            [{"name": "messages", "color": "a", "bars": True, "values": shown}],
            labels=edges[:-1],
            names=[f"{a} to {b}" for a, b in pairwise(edges)],
            x="lag",
            height=170,
        )
        quantiles = ", ".join(f"{100 * q:g} % under {ms(flow.lag(q))}" for q in (0.5, 0.9, 0.99, 0.999))
        early = f" {flow.early:,} messages carry an exchange time later than their receipt." if flow.early else ""
        return section | {"charts": [chart], "text": f"{quantiles} (clocks compared as they are).{early}"}

    def spreads(self) -> Row:
        """Spread in basis points and quantity at the best, by time, of the busiest symbols."""
        counts: dict[tuple[str, str], int] = {}
        for s in self._proof.streams:
            counts[s.symbol, s.level] = counts.get((s.symbol, s.level), 0) + s.messages
        made = []
        for symbol, level in sorted(counts, key=lambda k: -counts[k])[:_SPREADS]:
            spread, depth = _spread(self._captures, symbol, level, counts[symbol, level], self._flow)
            spans = _untrusted(self._captures, self._proof, symbol, level, self._flow)
            dark = _inside(spans, self._flow)
            spread[dark] = depth[dark] = np.nan
            if not np.isfinite(spread).any():
                continue
            title = (
                f"{symbol} {level}: {np.nanmedian(spread):.3g} bp median spread, "
                f"{np.nanmedian(depth):.4g} median quantity at the best"
            )
            series = [
                {"name": "spread, bp", "color": "a", "values": _rounded(spread)},
                {"name": "quantity at the best", "color": "b", "values": _rounded(depth)},
            ]
            bands = lanes.joined(spans, self._flow.width // 4)
            shown = [[round(a / 1e9, 3), round(b / 1e9, 3), kind] for a, b, kind in bands]
            made.append(self._over_time(series, title=title, dark=shown))
        return {"title": "Spread and depth", "charts": made, "text": "" if made else "No books."}


def _rounded(values: np.ndarray) -> list[float | None]:
    """Numbers as short as a chart needs them, null for NaN."""
    return [None if np.isnan(value) else float(f"{value:.5g}") for value in values.tolist()]


def _spread(captures: "Captures", symbol: str, level: str, messages: int, flow: Flow) -> tuple[np.ndarray, np.ndarray]:
    """Mean spread (basis points) and mean quantity at the best, by slot."""
    spread, depth = Means(), Means()
    for start, end in flow.spans(messages):
        best = captures.bbo(symbol, start, end, level=level)
        bid, ask = (best[c].to_numpy() for c in ("bid", "ask"))
        bid_qty, ask_qty = (best[c].fill_null(0).to_numpy() for c in ("bid_qty", "ask_qty"))
        slot = flow.slot_of(best["recv_ns"].to_numpy())
        with np.errstate(invalid="ignore", divide="ignore"):
            spread.add(slot, (ask - bid) / ((ask + bid) / 2) * 1e4)
        depth.add(slot, (bid_qty + ask_qty) / 2)
    return spread.by_slot()[: flow.used], depth.by_slot()[: flow.used]


def _untrusted(captures: "Captures", proof: Proof, symbol: str, level: str, flow: Flow) -> list[tuple[int, int, str]]:
    """(from, to, kind) without a trusted book: by its states, or by gaps where these captures have no states."""
    states = captures._coverage(symbol, flow.first, flow.last + 1)
    spans = [
        (row["from_ns"], row["to_ns"], lanes.kind_of(row["state"], row["cause"]))
        for row in coverage.dark(states)
        if row["level"] == level
    ]
    if not states.num_rows:
        sessions = {s.session for s in proof.streams if (s.symbol, s.level) == (symbol, level)}
        spans = [
            (gap["opened_ns"], gap["closed_ns"], lanes.kind_of("GAP", gap["cause"]))
            for gap in proof.gaps.to_pylist()
            if gap["symbol"] in (None, symbol) and gap["session"] in (None, *sessions)
        ]
    whole = ((max(flow.first, a), flow.last + 1 if b is None else min(b, flow.last + 1), kind) for a, b, kind in spans)
    return [(a, b, kind) for a, b, kind in whole if a < b]


def _inside(spans: list[tuple[int, int, str]], flow: Flow) -> np.ndarray:
    """Slots whose middle is in one of the spans."""
    middle = flow.middles()[: flow.used]
    dark = np.zeros(flow.used, bool)
    for start, end, _ in spans:
        dark |= (middle > start) & (middle < end)
    return dark


def _gap_row(gap: Row) -> list[str]:
    return [
        gap["service"] or "all",
        gap["symbol"] or "all",
        gap["cause"],
        time_of_day(gap["opened_ns"]),
        _length(gap),
        gap["healed"] or "–",
        f"{gap['first_seq'] or ''}–{gap['last_seq'] or ''}",
    ]


def _length(gap: Row) -> str:
    if gap["closed_ns"] is None:
        return "open"
    return f"{(gap['closed_ns'] - gap['opened_ns']) / 1e9:,.3f} s"


def _planned(gaps: Sequence[Row]) -> str:
    """A sentence about the gaps that were planned."""
    if not gaps:
        return ""
    ended = [gap for gap in gaps if gap["closed_ns"] is not None]
    longest = max(ended, key=lambda gap: int(gap["closed_ns"]) - int(gap["opened_ns"]), default=None)
    many = f"{len(gaps)} planned gaps" if len(gaps) > 1 else "1 planned gap"
    return f"{many} ({gaps[0]['cause']}), " + ("still open." if longest is None else f"{_length(longest)} the longest.")


def _symbol_row(row: Row) -> list[str]:
    return [
        row["symbol"],
        row["level"],
        *(f"{row[name]:,}" for name in ("messages", "rows", "ok", "failed", "failed_live", "unproven")),
        row["rule"] or "–",
        f"{row['seconds_not_covered']:,.3f}",
    ]


def _sessions(captures: "Captures", day: date) -> list[list[str]]:
    return [
        [
            f"{row['session']} {row['service']}",
            row["level"] or "",
            time_of_day(row["started_ns"]),
            "still on" if row["ended_ns"] is None else time_of_day(row["ended_ns"]),
            f"{row['messages']:,}",
            f"{row['ignored']:,}",
            row["reason"] or "",
        ]
        for row in captures.sessions(day).to_pylist()
    ]
