"""The trading day: when it ends (22:00 UTC), and which session date a moment belongs to."""

from __future__ import annotations

from datetime import date, timedelta

DAY_S = 86_400
DAY_NS = DAY_S * 1_000_000_000

#: Seconds after midnight UTC at which the venue resets its sessions and a new trading day begins.
ROLLOVER_S = 22 * 3600

#: Nanoseconds to add to a time so that its UTC day number is the number of its trading day.
SHIFT_NS = DAY_NS - ROLLOVER_S * 1_000_000_000

_EPOCH = date(1970, 1, 1)


def session_day(ns: int) -> int:
    """Trading day of a time, as days since 1970-01-01; `ns` counts from the epoch."""
    return (ns + SHIFT_NS) // DAY_NS


def day_date(day: int) -> date:
    """Date of a trading day given as days since 1970-01-01."""
    return _EPOCH + timedelta(days=day)


def session_date(ns: int) -> date:
    """Trading session date of a time: the UTC date on which that session ends at 22:00."""
    return day_date(session_day(ns))


def session_bounds(day: date) -> tuple[int, int]:
    """First nanosecond of a trading session, and the first of the next one."""
    start = (day - _EPOCH).days * DAY_NS - SHIFT_NS
    return start, start + DAY_NS
