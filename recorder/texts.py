"""Writes numbers and times of the report page as people read them."""

import math
from datetime import UTC, datetime


def ms(value: float) -> str:
    """A duration given in ms, in the unit that reads best."""
    if math.isnan(value):
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


def share(part: float, whole: float) -> str:
    """A part as percent, never rounded up to 100 %."""
    if whole <= 0:
        return "–"
    percent = 100 * part / whole
    return "100 %" if percent >= 100 else f"{math.floor(percent * 1000) / 1000:.3f} %"
