"""Draws the pieces of the report page as HTML and SVG text, without any library."""

import html
from datetime import UTC, datetime

import numpy as np

STYLE = """
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

LEFT, WIDTH = 130, 850  # of the plot inside an SVG of 1000


def escape(text: object) -> str:
    """Text for HTML."""
    return html.escape(str(text))


def ms(value: float) -> str:
    """A duration given in ms, in the unit that reads best."""
    if np.isnan(value):
        return "–"
    for size, unit in ((86_400_000, "days"), (1000, "s"), (1, "ms"), (1e-3, "µs")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} ns"


def time_of_day(ns: int, with_date: bool = False, decimals: int = 0) -> str:
    """A time in UTC, as hours, minutes and seconds or with the date."""
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    fraction = f".{ns % 1_000_000_000:09d}"[: decimals + 1] if decimals else ""
    return f"{moment:%Y-%m-%d %H:%M}" if with_date else f"{moment:%H:%M:%S}{fraction}"


def rate(value: float) -> str:
    """A number per second with as many digits as it needs."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def svg(height: int, *parts: str, style: str = "") -> str:
    """An SVG of 1000 by `height`."""
    return f"<svg viewBox='0 0 1000 {height}'{style and f' style={chr(39)}{style}{chr(39)}'}>{''.join(parts)}</svg>"


def time_axis(first: int, last: int, height: int) -> str:
    """Seven times from `first` to `last` ns below a plot."""
    span = last - first
    marks = [(i / 6, first + span * i // 6) for i in range(7)]
    decimals = 3 if span < 30e9 else 0
    return "".join(
        f"<text x={LEFT + WIDTH * x:.0f} y={height - 6} text-anchor={'end' if x == 1 else 'middle'}>"
        f"{time_of_day(ns, decimals=decimals)}</text>"
        for x, ns in marks
    )


def line(values: np.ndarray, top: float, height: int, color: str) -> str:
    """Polylines of values from 0 to `top`; NaN interrupts them."""
    step = WIDTH / max(1, len(values) - 1)
    parts: list[str] = []
    run: list[str] = []
    for i, value in enumerate([*values.tolist(), float("nan")]):
        if not np.isnan(value):
            run.append(f"{LEFT + i * step:.1f},{8 + (height - 34) * (1 - min(value, top) / top):.1f}")
        elif run:
            parts.append(f"<polyline points='{' '.join(run)}' fill=none stroke='{color}' stroke-width=1.4 />")
            run = []
    return "".join(parts)


def bars(values: np.ndarray, top: float) -> str:
    """Bars of values from 0 to `top`, 120 high."""
    step = WIDTH / len(values)
    return "".join(
        f"<rect x={LEFT + i * step:.2f} y={8 + 120 * (1 - v / top):.1f} width={max(0.5, step - 0.4):.2f} "
        f"height={120 * v / top:.1f} fill='var(--a)'/>"
        for i, v in enumerate(values.tolist())
    )


def table(names: list[str], rows: list[list[str]]) -> str:
    """A table; cells are HTML already."""
    head = "".join(f"<th>{escape(n)}" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<div class=scroll><table><tr>{head}{body}</table></div>"
