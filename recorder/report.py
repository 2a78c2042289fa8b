"""Writes one self-contained HTML page about a session date: proof, coverage, rates, lags, spreads, gaps."""

from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from kfix_md import __version__, trading_day
from recorder import coverage, drawing
from recorder.drawing import LEFT, WIDTH, escape, ms, time_of_day
from recorder.flow import SLOTS, Flow, Means, flow_of, lag_of_bin
from recorder.proof import Proof
from recorder.verify import verify

if TYPE_CHECKING:
    from recorder.catalog import Captures

_SPREADS = 6  # symbols whose spread is drawn: those with the most messages
_GAPS = 500  # rows of the table of gaps
_COLORS = {
    "ROLLOVER": "planned",
    "DISCONNECT": "down",
    "RESTART": "down",
    "JOURNAL_LOST": "lost",
    "JOURNAL_DAMAGE": "lost",
    "UNDECODED": "lost",
}
_KEY = {
    "ok": "covered",
    "gap": "gap",
    "down": "connection or feed down",
    "planned": "rollover",
    "lost": "journal",
}

Row = dict[str, Any]


def page(captures: "Captures", day: date) -> str:
    """The whole page as HTML, without scripts or requests."""
    proof = verify(captures, day)
    summary, gaps, flow = proof.summary(), proof.gaps.to_pylist(), flow_of(captures, day)
    body = [_head(captures, day, summary, flow)]
    if summary["messages"]:
        body += [
            "<h2>Coverage</h2>",
            _key(),
            _coverage(proof, gaps, flow),
            "<h2>Messages a second</h2>",
            _rates(flow),
            "<h2>Exchange to receive time</h2>",
            _latency(flow),
            "<h2>Spread and depth</h2>",
            _spreads(captures, proof, flow),
            "<h2>Symbols</h2>",
            _symbols(summary),
        ]
    body += ["<h2>Gaps</h2>", _gap_table(gaps), "<h2>Sessions</h2>", _sessions(captures, day)]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Capture {day}</title><style>{drawing.STYLE}</style><body>{''.join(body)}"
        f"<p style='margin-top:40px'>kfix-md {__version__}. Times are UTC.</p>"
    )


def _verdict(summary: Row) -> tuple[str, str]:
    """The verdict on the proof, and its colour."""
    if not summary["messages"]:
        return "No market data was recorded: there is nothing to prove", "planned"
    if summary["holds"]:
        return "Proven: every checksum that was checked live matches again", "ok"
    return "The proof does not hold", "down"


def _head(captures: "Captures", day: date, summary: Row, flow: Flow) -> str:
    start, end = trading_day.session_bounds(day)
    verdict, color = _verdict(summary)
    cards = {
        "messages": f"{summary['messages']:,}",
        "rows": f"{summary['rows']:,}",
        "checksums right": f"{summary['ok']:,}",
        "wrong live": f"{summary['failed_live']:,}",
        "gaps": f"{summary['gaps']:,}",
        "symbols": f"{len({r['symbol'] for r in summary['symbols']}):,}",
        "median lag": ms(flow.lag(0.5)),
        "99 % lag": ms(flow.lag(0.99)),
    }
    shown = "".join(f"<div class=card><b>{value}</b><span>{name}</span></div>" for name, value in cards.items())
    reasons = summary["why_not"] if summary["messages"] else summary["faults"]
    faults = "".join(f"<p class=bad>{escape(reason)}</p>" for reason in reasons)
    return (
        f"<h1>Capture of {day}</h1><p>{escape(captures.tree.root)} · trading session "
        f"{time_of_day(start, True)} to {time_of_day(end, True)} · recorded "
        f"{time_of_day(flow.first)} to {time_of_day(flow.last)}</p>"
        f"<div class=verdict style='background:var(--{color})'>{verdict}</div>{faults}"
        f"<div class=cards>{shown}</div>"
    )


def _key() -> str:
    parts = (f"<i style='background:var(--{color})'></i>{name}" for color, name in _KEY.items())
    return f"<p class=key>{''.join(parts)}</p>"


def _coverage(proof: Proof, gaps: list[Row], flow: Flow) -> str:
    """A bar for each service with its gaps on it; gaps of one symbol as marks below."""
    services = sorted({g["service"] for g in gaps if g["service"]} | proof.services)
    rows = []
    for i, service in enumerate(services):
        y = 14 + 30 * i
        rows.append(
            f"<text x=8 y={y + 12}>{escape(service)}</text>"
            f"<rect x={LEFT} y={y} width={WIDTH} height=16 rx=3 fill='var(--ok)'/>"
        )
        rows += [_gap_mark(gap, y, flow) for gap in gaps if gap["service"] in (service, None)]
    height = 30 * len(services) + 34
    return drawing.svg(height, *rows, drawing.time_axis(flow.first, flow.last, height))


def _gap_mark(gap: Row, y: int, flow: Flow) -> str:
    """A gap on the bar at `y`, empty when it is outside the recorded time."""
    span = max(1, flow.last - flow.first)
    a = max(0.0, (gap["opened_ns"] - flow.first) / span)
    b = min(1.0, ((gap["closed_ns"] or flow.last) - flow.first) / span)
    if a > 1 or b < 0:
        return ""
    title = escape(
        f"{gap['cause']} {time_of_day(gap['opened_ns'])} {gap['symbol'] or 'all symbols'}, "
        f"healed by {gap['healed'] or 'nothing yet'}"
    )
    top, height = (y, 16) if gap["symbol"] is None else (y + 17, 5)
    return (
        f"<rect x={LEFT + WIDTH * a:.1f} y={top} width={max(1.5, WIDTH * (b - a)):.1f} height={height} "
        f"fill='var(--{_COLORS.get(gap['cause'], 'gap')})'><title>{title}</title></rect>"
    )


def _rates(flow: Flow) -> str:
    per_second = flow.messages / (flow.width / 1e9)
    top = float(per_second.max()) or 1.0
    labels = f"<text x=8 y=18>{drawing.rate(top)} / s</text><text x=8 y=128>0</text>"
    plot = drawing.svg(156, labels, drawing.bars(per_second, top), drawing.time_axis(flow.first, flow.last, 156))
    return f"{plot}<p>{flow.rows.sum():,} rows with those that begin a snapshot, {flow.trades.sum():,} trades.</p>"


def _latency(flow: Flow) -> str:
    used = np.flatnonzero(flow.lags)
    if not len(used):
        if not flow.early:
            return "<p>No message carries an exchange time.</p>"
        return f"<p>Exchange times later than the receipt in every message ({flow.early:,}): a clock is wrong.</p>"
    low, high = int(used[0]), int(used[-1]) + 1
    shown = flow.lags[low:high]
    labels = "".join(
        f"<text x={LEFT + WIDTH * k / 5:.0f} y=150 text-anchor={'end' if k == 5 else 'middle'}>"
        f"{ms(lag_of_bin(low + (high - low) * k / 5))}</text>"
        for k in range(6)
    )
    quantiles = ", ".join(f"{100 * q:g} % under {ms(flow.lag(q))}" for q in (0.5, 0.9, 0.99, 0.999))
    early = f" {flow.early:,} messages carry an exchange time later than their receipt." if flow.early else ""
    plot = drawing.svg(156, drawing.bars(shown, float(shown.max())), labels)
    return f"{plot}<p>{quantiles} (clocks compared as they are).{early}</p>"


def _spreads(captures: "Captures", proof: Proof, flow: Flow) -> str:
    """Spread in basis points and quantity at the best, by time, of the busiest symbols."""
    counts: dict[tuple[str, str], int] = {}
    for s in proof.streams:
        counts[s.symbol, s.level] = counts.get((s.symbol, s.level), 0) + s.messages
    rows = []
    for symbol, level in sorted(counts, key=lambda k: -counts[k])[:_SPREADS]:
        spread, depth = _spread(captures, symbol, level, counts[symbol, level], flow)
        dark = _in_gaps(captures, proof, symbol, level, flow)
        spread[dark] = depth[dark] = np.nan
        rows.append(_spread_row(f"{symbol} {level}", spread, depth, flow))
    return "".join(rows) or "<p>No books.</p>"


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
    return spread.by_slot(), depth.by_slot()


def _in_gaps(captures: "Captures", proof: Proof, symbol: str, level: str, flow: Flow) -> np.ndarray:
    """Slots without a trusted book to draw: by its states, or by gaps where these captures have no states."""
    states = captures._coverage(symbol, flow.first, flow.last + 1)
    spans = [(row["from_ns"], row["to_ns"]) for row in coverage.dark(states) if row["level"] == level]
    if not states.num_rows:
        sessions = {s.session for s in proof.streams if (s.symbol, s.level) == (symbol, level)}
        spans = [
            (gap["opened_ns"], gap["closed_ns"])
            for gap in proof.gaps.to_pylist()
            if gap["symbol"] in (None, symbol) and gap["session"] in (None, *sessions)
        ]
    middle = flow.middles()
    dark = np.zeros(SLOTS, bool)
    for start, end in spans:
        dark |= (middle > start) & (middle < (flow.last + 1 if end is None else end))
    return dark


def _spread_row(name: str, spread: np.ndarray, depth: np.ndarray, flow: Flow) -> str:
    if not np.isfinite(spread).any():
        return ""
    tops = [max(float(np.nanmax(v)), 1e-9) for v in (spread, depth)]
    summary = f"{np.nanmedian(spread):.3g} bp median spread, {np.nanmedian(depth):.4g} median quantity at the best"
    return drawing.svg(
        110,
        f"<text x=8 y=20>{escape(name)}</text>",
        f"<text x=8 y=40 style='fill:var(--a)'>spread ≤ {tops[0]:.3g} bp</text>",
        f"<text x=8 y=56 style='fill:var(--gap)'>best qty ≤ {tops[1]:.3g}</text>",
        drawing.line(spread, tops[0], 110, "var(--a)"),
        drawing.line(depth, tops[1], 110, "var(--gap)"),
        drawing.time_axis(flow.first, flow.last, 110),
        f"<title>{escape(summary)}</title>",
        style="margin-top:6px",
    )


def _gap_table(gaps: list[Row]) -> str:
    if not gaps:
        return "<p>None.</p>"
    rows = [
        [
            escape(gap["service"] or "all"),
            escape(gap["symbol"] or "all"),
            gap["cause"],
            time_of_day(gap["opened_ns"]),
            "open" if gap["closed_ns"] is None else f"{(gap['closed_ns'] - gap['opened_ns']) / 1e9:,.3f} s",
            escape(gap["healed"] or "–"),
            f"{gap['first_seq'] or ''}–{gap['last_seq'] or ''}",
        ]
        for gap in gaps[:_GAPS]
    ]
    more = f"<p>{len(gaps) - _GAPS:,} more: recorder.open(...).gaps()</p>" if len(gaps) > _GAPS else ""
    return drawing.table(["service", "symbol", "cause", "opened", "length", "healed by", "MsgSeqNum"], rows) + more


def _symbols(summary: Row) -> str:
    names = ["symbol", "level", "messages", "rows", "CRC right", "CRC wrong", "wrong live", "unproven"]
    rows = [
        [
            escape(r["symbol"]),
            r["level"],
            *(f"{r[k]:,}" for k in ("messages", "rows", "ok")),
            f"<span class=bad>{r['failed']:,}</span>" if r["failed"] else "0",
            f"{r['failed_live']:,}",
            f"{r['unproven']:,}",
            escape(r["rule"] or "–"),
            f"{r['seconds_not_covered']:,.3f}",
        ]
        for r in summary["symbols"]
    ]
    return drawing.table([*names, "checksum rule", "seconds not covered"], rows)


def _sessions(captures: "Captures", day: date) -> str:
    rows = [
        [
            escape(f"{r['session']} {r['service']}"),
            r["level"] or "",
            time_of_day(r["started_ns"]),
            "still on" if r["ended_ns"] is None else time_of_day(r["ended_ns"]),
            f"{r['messages']:,}",
            f"{r['ignored']:,}",
            escape(r["reason"] or ""),
        ]
        for r in captures.sessions(day).to_pylist()
    ]
    return drawing.table(["session", "level", "from", "to", "messages", "ignored", "ended because"], rows)
