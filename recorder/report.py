"""One page about a day: hides which numbers a person wants first and how they are drawn without any library."""

import html
from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from kfix_md import __version__, trading_day
from recorder import files
from recorder.schema import Flags
from recorder.verify import verify

if TYPE_CHECKING:
    from recorder.catalog import Captures

_BINS = 240
_SPREADS = 6  # symbols whose spread is drawn: those with the most messages
_SPAN_MESSAGES = 50_000  # of a symbol in memory at a time
_CAUSES = {
    "ROLLOVER": "planned",
    "DISCONNECT": "down",
    "RESTART": "down",
    "JOURNAL_LOST": "lost",
    "JOURNAL_DAMAGE": "lost",
}

_STYLE = """
:root{--ink:#1d2733;--soft:#6b7785;--line:#dfe4ea;--ok:#2f9e6e;--gap:#e07a1f;--down:#c9363e;--planned:#7b8794;
--lost:#7a1fa2;--a:#2b6cb0;--bg:#fff;--panel:#f7f9fb}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#93a1b0;--line:#2c3743;--bg:#11161c;--panel:#19212a;
--a:#63a4e8;--ok:#2f9e6e;--lost:#b57edc;--down:#e5534b}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1180px;padding:28px 24px 60px;background:var(--bg);
color:var(--ink);font:15px/1.5 system-ui,sans-serif}h1{font-size:26px;margin:0}h2{font-size:17px;margin:34px 0 8px}
p{margin:4px 0;color:var(--soft)}
.verdict{display:inline-block;margin:14px 0 2px;padding:6px 14px;border-radius:6px;color:#fff;font-weight:600}
.cards{display:grid;grid-template-columns:repeat(4,1fr);gap:10px;margin:16px 0}
.card{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.card b{display:block;font-size:21px;font-variant-numeric:tabular-nums}.card span{color:var(--soft);font-size:13px}
svg{width:100%;height:auto;display:block;background:var(--panel);border:1px solid var(--line);border-radius:8px}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{padding:5px 9px;border-bottom:1px solid var(--line);text-align:right;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:500;position:sticky;top:0;background:var(--bg)}th:first-child,td:first-child{text-align:left}
.scroll{overflow-x:auto}.key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin:0 5px 0 14px}
.bad{color:var(--down);font-weight:600}@media (max-width:700px){.cards{grid-template-columns:repeat(2,1fr)}}
"""


def page(captures: "Captures", day: date) -> str:
    """The whole page as HTML, self-contained: no script, no request."""
    told = verify(captures, day)
    proof = told.summary()
    flow = _flow(captures, day)
    gaps = told.gaps.to_pylist()
    body = [_head(captures, day, proof, flow)]
    if proof["messages"]:
        body += [
            "<h2>Coverage</h2>",
            _key(),
            _coverage(told, gaps, flow),
            "<h2>Messages a second</h2>",
            _rates(flow),
            "<h2>Exchange to receive time</h2>",
            _latency(flow),
            "<h2>Spread and depth</h2>",
            _spreads(captures, told, flow),
            "<h2>Symbols</h2>",
            _symbols(proof),
        ]
    body += ["<h2>Gaps</h2>", _gap_table(gaps), "<h2>Sessions</h2>", _sessions(captures, day)]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Capture {day}</title><style>{_STYLE}</style><body>{''.join(body)}"
        f"<p style='margin-top:40px'>kfix-md {__version__}. Times are UTC.</p>"
    )


def _flow(captures: "Captures", day: date) -> dict[str, Any]:
    """Histograms over the day's own span, a batch at a time: messages, rows, trades, lag."""
    bounds = trading_day.session_bounds(day)
    paths = captures._files.of("ticks", bounds[0], bounds[1] - 1)
    spans = [captures._files.span(p) for p in paths if files.open_file(p).metadata.num_rows]
    first, last = min((s[0] for s in spans), default=bounds[0]), max((s[1] for s in spans), default=bounds[1])
    width = max(1, (last - first) // _BINS + 1)
    counts = {k: np.zeros(_BINS, np.int64) for k in ("messages", "rows", "trades")}
    lags = np.zeros(400, np.int64)  # log scale: 10 bins a factor of e from 1 us
    negative = 0
    for batch in files.batches("ticks", paths, ["recv_ns", "event_ns", "flags"]):
        if not batch.num_rows:
            continue
        slot = (batch["recv_ns"].to_numpy() - first) // width
        flags = batch["flags"].to_numpy()
        ends = (flags & Flags.LAST) != 0
        counts["rows"] += np.bincount(slot, minlength=_BINS)[:_BINS]
        counts["messages"] += np.bincount(slot[ends], minlength=_BINS)[:_BINS]
        counts["trades"] += np.bincount(slot[(flags & Flags.TRADE) != 0], minlength=_BINS)[:_BINS]
        fresh = ends & ((flags & Flags.SNAPSHOT) == 0) & batch["event_ns"].is_valid().to_numpy(zero_copy_only=False)
        lag = pc.subtract(batch["recv_ns"], batch["event_ns"]).fill_null(0).to_numpy(zero_copy_only=False)[fresh]
        negative += int((lag < 0).sum())
        lag = lag[lag >= 0]
        bins = np.clip((np.log(np.maximum(lag, 1000) / 1000) * 10).astype(int), 0, len(lags) - 1)
        lags += np.bincount(bins, minlength=len(lags))
    return {"first": first, "last": last, "width": width, "lags": lags, "early": negative, **counts}


def _lag(flow: dict, share: float) -> float:
    """Lag in ms that `share` of the messages stay under."""
    total = np.cumsum(flow["lags"])
    if not total[-1]:
        return float("nan")
    return float(np.exp((np.searchsorted(total, share * total[-1]) + 0.5) / 10) / 1000)


def _head(captures: "Captures", day: date, proof: dict, flow: dict) -> str:
    start, end = trading_day.session_bounds(day)
    good = proof["holds"] and not proof["failed"]
    words = "Proven: every checksum that was checked live matches again" if good else "The proof does not hold"
    if good and not proof["messages"]:
        words = "No market data was recorded: there is nothing to prove"
    cards = [
        ("messages", f"{proof['messages']:,}"),
        ("rows", f"{proof['rows']:,}"),
        ("checksums right", f"{proof['ok']:,}"),
        ("wrong live", f"{proof['failed_live']:,}"),
        ("gaps", f"{proof['gaps']:,}"),
        ("symbols", f"{len({r['symbol'] for r in proof['symbols']}):,}"),
        ("median lag", _ms(_lag(flow, 0.5))),
        ("99 % lag", _ms(_lag(flow, 0.99))),
    ]
    shown = "".join(f"<div class=card><b>{v}</b><span>{k}</span></div>" for k, v in cards)
    color = "var(--down)" if not good else "var(--ok)" if proof["messages"] else "var(--planned)"
    faults = "".join(f"<p class=bad>{html.escape(f)}</p>" for f in proof["faults"])
    return (
        f"<h1>Capture of {day}</h1><p>{html.escape(str(captures.tree.root))} · trading session "
        f"{_time(start, True)} to {_time(end, True)} · recorded "
        f"{_time(flow['first'])} to {_time(flow['last'])}</p>"
        f"<div class=verdict style='background:{color}'>{words}</div>{faults}"
        f"<div class=cards>{shown}</div>"
    )


def _ms(value: float) -> str:
    """A time given in ms, in the unit one reads best."""
    if np.isnan(value):
        return "–"
    for size, unit in ((86_400_000, "days"), (1000, "s"), (1, "ms"), (1e-3, "µs")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} ns"


def _time(ns: int, with_date: bool = False, decimals: int = 0) -> str:
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    fraction = f".{ns % 1_000_000_000:09d}"[: decimals + 1] if decimals else ""
    return f"{moment:%Y-%m-%d %H:%M}" if with_date else f"{moment:%H:%M:%S}{fraction}"


def _key() -> str:
    names = (
        ("ok", "covered"),
        ("gap", "gap"),
        ("down", "connection or feed down"),
        ("planned", "rollover"),
        ("lost", "journal"),
    )
    return "<p class=key>" + "".join(f"<i style='background:var(--{c})'></i>{n}" for c, n in names) + "</p>"


def _coverage(proof: Any, gaps: list[dict], flow: dict) -> str:
    """A bar for each service, its gaps on it; gaps of one symbol as marks below."""
    services = sorted({g["service"] for g in gaps if g["service"]} | proof.services)
    span = max(1, flow["last"] - flow["first"])
    rows = []
    for i, service in enumerate(services):
        y = 14 + 30 * i
        rows.append(
            f"<text x=8 y={y + 12}>{html.escape(service)}</text>"
            f"<rect x=130 y={y} width=850 height=16 rx=3 fill='var(--ok)'/>"
        )
        for gap in gaps:
            if gap["service"] not in (service, None):
                continue
            a = max(0.0, (gap["opened_ns"] - flow["first"]) / span)
            b = min(1.0, ((gap["closed_ns"] or flow["last"]) - flow["first"]) / span)
            if a > 1 or b < 0:
                continue
            color = _CAUSES.get(gap["cause"], "gap")
            title = html.escape(
                f"{gap['cause']} {_time(gap['opened_ns'])} {gap['symbol'] or 'all symbols'}, "
                f"healed by {gap['healed'] or 'nothing yet'}"
            )
            top, tall = (y, 16) if gap["symbol"] is None else (y + 17, 5)
            rows.append(
                f"<rect x={130 + 850 * a:.1f} y={top} width={max(1.5, 850 * (b - a)):.1f} height={tall} "
                f"fill='var(--{color})'><title>{title}</title></rect>"
            )
    height = 30 * len(services) + 34
    return f"<svg viewBox='0 0 1000 {height}'>{''.join(rows)}{_axis(flow, height)}</svg>"


def _axis(flow: dict, height: int, left: int = 130, width: int = 850) -> str:
    span = flow["last"] - flow["first"]
    marks = [(i / 6, flow["first"] + span * i // 6) for i in range(7)]
    fine = 3 if span < 30e9 else 0
    return "".join(
        f"<text x={left + width * x:.0f} y={height - 6} text-anchor={'end' if x == 1 else 'middle'}>"
        f"{_time(ns, decimals=fine)}</text>"
        for x, ns in marks
    )


def _line(values: np.ndarray, top: float, height: int, color: str, left: int = 130, width: int = 850) -> str:
    """A polyline of values over the page's span; NaN breaks it."""
    step = width / max(1, len(values) - 1)
    parts, run = [], []
    for i, v in enumerate([*values.tolist(), float("nan")]):
        if not np.isnan(v):
            run.append(f"{left + i * step:.1f},{8 + (height - 34) * (1 - min(v, top) / top):.1f}")
        elif run:
            parts.append(f"<polyline points='{' '.join(run)}' fill=none stroke='{color}' stroke-width=1.4 />")
            run = []
    return "".join(parts)


def _bars(values: np.ndarray, top: float) -> str:
    step = 850 / len(values)
    return "".join(
        f"<rect x={130 + i * step:.2f} y={8 + 120 * (1 - v / top):.1f} width={max(0.5, step - 0.4):.2f} "
        f"height={120 * v / top:.1f} fill='var(--a)'/>"
        for i, v in enumerate(values.tolist())
    )


def _rates(flow: dict) -> str:
    per = flow["width"] / 1e9
    rate = flow["messages"] / per
    top = float(rate.max()) or 1.0
    bars = _bars(rate, top)
    return (
        f"<svg viewBox='0 0 1000 156'><text x=8 y=18>{_rate(top)} / s</text><text x=8 y=128>0</text>{bars}"
        f"{_axis(flow, 156)}</svg>"
        f"<p>{flow['rows'].sum():,} rows with those that begin a snapshot, {flow['trades'].sum():,} trades.</p>"
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _latency(flow: dict) -> str:
    lags = flow["lags"]
    used = np.flatnonzero(lags)
    if not len(used):
        if not flow["early"]:
            return "<p>No message carries an exchange time.</p>"
        return f"<p>Exchange times later than the receipt in every message ({flow['early']:,}): a clock is wrong.</p>"
    low, high = int(used[0]), int(used[-1]) + 1
    shown, n = lags[low:high], high - low
    top = float(shown.max())
    bars = _bars(shown, top)
    ticks = "".join(
        f"<text x={130 + 850 * k / 5:.0f} y=150 text-anchor={'end' if k == 5 else 'middle'}>"
        f"{_ms(float(np.exp((low + n * k / 5) / 10) / 1000))}</text>"
        for k in range(6)
    )
    quantiles = ", ".join(f"{100 * q:g} % under {_ms(_lag(flow, q))}" for q in (0.5, 0.9, 0.99, 0.999))
    early = f" {flow['early']:,} messages carry an exchange time later than their receipt." if flow["early"] else ""
    return f"<svg viewBox='0 0 1000 156'>{bars}{ticks}</svg><p>{quantiles} (clocks compared as they are).{early}</p>"


def _spreads(captures: "Captures", proof: Any, flow: dict) -> str:
    """Spread in basis points and quantity at the best, by time, of the busiest symbols."""
    counts: dict[tuple[str, str], int] = {}
    for s in proof.streams:
        counts[s.symbol, s.level] = counts.get((s.symbol, s.level), 0) + s.messages
    out = []
    for symbol, level in sorted(counts, key=lambda k: -counts[k])[:_SPREADS]:
        means = _Means(), _Means()
        for start, end in _spans(flow, counts[symbol, level]):
            best = captures.bbo(symbol, start, end, level=level)
            bid, ask = (best[c].to_numpy() for c in ("bid", "ask"))
            bid_qty, ask_qty = (best[c].fill_null(0).to_numpy() for c in ("bid_qty", "ask_qty"))
            slot = np.minimum((best["recv_ns"].to_numpy() - flow["first"]) // flow["width"], _BINS - 1)
            with np.errstate(invalid="ignore", divide="ignore"):
                means[0].add(slot, (ask - bid) / ((ask + bid) / 2) * 1e4)
            means[1].add(slot, (bid_qty + ask_qty) / 2)
        spread, depth = (mean.by_slot() for mean in means)
        dark = _dark(proof, symbol, level, flow)
        spread[dark] = depth[dark] = np.nan
        out.append(_spread_row(f"{symbol} {level}", spread, depth, flow))
    return "".join(out) or "<p>No books.</p>"


def _spans(flow: dict, messages: int) -> Iterator[tuple[int, int]]:
    """The page's span in parts with about so many of a symbol's messages as may be in memory."""
    share = np.cumsum(flow["messages"]) / max(1, flow["messages"].sum())
    parts = messages // _SPAN_MESSAGES + 1
    cuts = sorted({int(np.searchsorted(share, i / parts)) + 1 for i in range(1, parts)} - {_BINS})
    for a, b in pairwise([0, *cuts, _BINS]):
        yield flow["first"] + a * flow["width"], flow["first"] + b * flow["width"]


def _dark(proof: Any, symbol: str, level: str, flow: dict) -> np.ndarray:
    """Slots inside a gap of the symbol's services: there is no book to speak of."""
    sessions = {s.session for s in proof.streams if (s.symbol, s.level) == (symbol, level)}
    middle = flow["first"] + (np.arange(_BINS) + 0.5) * flow["width"]
    dark = np.zeros(_BINS, bool)
    for gap in proof.gaps.to_pylist():
        if gap["symbol"] in (None, symbol) and gap["session"] in (None, *sessions):
            dark |= (middle > gap["opened_ns"]) & (middle < (gap["closed_ns"] or flow["last"] + 1))
    return dark


class _Means:
    """Means by slot of values that come in parts."""

    def __init__(self) -> None:
        self.n, self.total = np.zeros(_BINS), np.zeros(_BINS)

    def add(self, slot: np.ndarray, values: np.ndarray) -> None:
        good = np.isfinite(values)
        self.n += np.bincount(slot[good], minlength=_BINS)
        self.total += np.bincount(slot[good], weights=values[good], minlength=_BINS)

    def by_slot(self) -> np.ndarray:
        """The mean of each slot, carried over slots without a change; NaN before the first."""
        known = self.n > 0
        means = np.where(known, self.total / np.maximum(self.n, 1), np.nan)
        return means[np.maximum.accumulate(np.where(known, np.arange(_BINS), 0))]


def _spread_row(name: str, spread: np.ndarray, depth: np.ndarray, flow: dict) -> str:
    if not np.isfinite(spread).any():
        return ""
    tops = [max(float(np.nanmax(v)), 1e-9) for v in (spread, depth)]
    lines = _line(spread, tops[0], 110, "var(--a)") + _line(depth, tops[1], 110, "var(--gap)")
    mean = f"{np.nanmedian(spread):.3g} bp median spread, {np.nanmedian(depth):.4g} median quantity at the best"
    return (
        f"<svg viewBox='0 0 1000 110' style='margin-top:6px'><text x=8 y=20>{html.escape(name)}</text>"
        f"<text x=8 y=40 style='fill:var(--a)'>spread ≤ {tops[0]:.3g} bp</text>"
        f"<text x=8 y=56 style='fill:var(--gap)'>best qty ≤ {tops[1]:.3g}</text>{lines}{_axis(flow, 110)}"
        f"<title>{html.escape(mean)}</title></svg>"
    )


def _table(names: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(n)}" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<div class=scroll><table><tr>{head}{body}</table></div>"


def _gap_table(gaps: list[dict]) -> str:
    if not gaps:
        return "<p>None.</p>"
    rows = [
        [
            html.escape(str(g["service"] or "all")),
            html.escape(g["symbol"] or "all"),
            g["cause"],
            _time(g["opened_ns"]),
            "open" if g["closed_ns"] is None else f"{(g['closed_ns'] - g['opened_ns']) / 1e9:,.3f} s",
            html.escape(g["healed"] or "–"),
            f"{g['first_seq'] or ''}–{g['last_seq'] or ''}",
        ]
        for g in gaps[:500]
    ]
    more = f"<p>{len(gaps) - 500:,} more: recorder.open(...).gaps()</p>" if len(gaps) > 500 else ""
    return _table(["service", "symbol", "cause", "opened", "length", "healed by", "MsgSeqNum"], rows) + more


def _symbols(proof: dict) -> str:
    rows = []
    for r in proof["symbols"]:
        failed = f"<span class=bad>{r['failed']:,}</span>" if r["failed"] else "0"
        rows.append(
            [
                html.escape(r["symbol"]),
                r["level"],
                *(f"{r[k]:,}" for k in ("messages", "rows", "ok")),
                failed,
                f"{r['failed_live']:,}",
                f"{r['unproven']:,}",
                f"{r['seconds_not_covered']:,.3f}",
            ]
        )
    return _table(
        [
            "symbol",
            "level",
            "messages",
            "rows",
            "CRC right",
            "CRC wrong",
            "wrong live",
            "unproven",
            "seconds not covered",
        ],
        rows,
    )


def _sessions(captures: "Captures", day: date) -> str:
    rows = [
        [
            html.escape(f"{r['session']} {r['service']}"),
            r["level"] or "",
            _time(r["started_ns"]),
            "still on" if r["ended_ns"] is None else _time(r["ended_ns"]),
            f"{r['messages']:,}",
            f"{r['ignored']:,}",
            html.escape(r["reason"] or ""),
        ]
        for r in captures.sessions(day).to_pylist()
    ]
    return _table(["session", "level", "from", "to", "messages", "ignored", "ended because"], rows)
