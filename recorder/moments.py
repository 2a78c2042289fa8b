"""Reads times and session dates as people write them."""

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any, Protocol, TypeAlias, overload

import numpy as np
import pyarrow as pa

from kfix_md.errors import UsageError


class ArrowScalar(Protocol):
    """A scalar of pyarrow."""

    def as_py(self) -> Any: ...


Moment: TypeAlias = int | str | datetime | date | np.datetime64 | np.integer | ArrowScalar
Day: TypeAlias = date | str | np.datetime64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXT = re.compile(r"(?P<whole>\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?)(?:[.,](?P<fraction>\d{1,9}))?(?P<zone>.*)")
_ZONE = re.compile(r"(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)?")
_YEAR_NS = 365 * 86_400 * 10**9
_OTHER_UNITS = 10**9, 10**17  # of ns since 1970: what are s, ms and us of a time that was recorded, and no ns
_NOT_A_TIME = -(2**63)  # NaT of numpy and pandas


@overload
def to_ns(moment: None) -> None: ...
@overload
def to_ns(moment: Moment) -> int: ...
def to_ns(moment: Moment | None) -> int | None:
    """Nanoseconds since 1970 UTC.

    Parameters
    ----------
    moment
        An int of ns, ISO text, a datetime or date, or a time of pandas, numpy or pyarrow. UTC unless it has a zone.

    Raises
    ------
    UsageError
        When it is no time. A float is refused: it cannot hold ns exactly, and its unit is not known.
    """
    if moment is None:
        return None
    if isinstance(moment, str):
        return _of_text(moment)
    if isinstance(moment, int | np.integer) and not isinstance(moment, bool | np.timedelta64):
        return _of_number(int(moment))
    if isinstance(moment, float | np.floating):
        raise UsageError(
            f"{moment!r} is a float, which cannot hold a time exactly: write ns as an int "
            "(seconds: int(s * 1e9)), ISO text or a datetime"
        )
    found = _of_object(moment)
    if found is None or found == _NOT_A_TIME:
        raise UsageError(f"{moment!r} is not a time: write ns as an int, ISO text (UTC) or a datetime")
    return found


def _of_number(ns: int) -> int:
    if not -(2**63) <= ns < 2**63:
        raise UsageError(f"{ns} is not a time: ns since 1970 have 64 bits")
    if _OTHER_UNITS[0] <= ns < _OTHER_UNITS[1]:
        raise UsageError(f"{ns} ns is in {1970 + ns // _YEAR_NS}: times as an int are ns since 1970, not s, ms or us")
    return ns


def span(start: Moment | None, end: Moment | None) -> tuple[int | None, int | None]:
    """ns of both; UsageError when the end is before the start."""
    first, last = to_ns(start), to_ns(end)
    if first is not None and last is not None and last < first:
        raise UsageError(f"end ({end}) is before start ({start})")
    return first, last


def _of_object(moment: Any) -> int | None:
    if isinstance(moment, pa.TimestampScalar):
        return _of_object(np.datetime64(moment.value, moment.type.unit)) if moment.is_valid else None
    if isinstance(moment, pa.Scalar):
        return to_ns(moment.as_py()) if moment.is_valid else None
    if isinstance(moment, np.datetime64):
        return int(moment.astype("datetime64[ns]").astype(np.int64))
    if isinstance(moment, datetime):
        value = getattr(moment, "value", None)  # pandas: ns of UTC, whatever the zone
        if value is not None:
            return int(value)
        return (_utc(moment) - _EPOCH) // timedelta(microseconds=1) * 1000
    return _of_object(datetime.combine(moment, time())) if isinstance(moment, date) else None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _of_text(text: str) -> int:
    match = _TEXT.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError(text)
        whole = datetime.fromisoformat(match["whole"]).replace(tzinfo=_zone(match["zone"]))
    except ValueError:
        raise UsageError(
            f"{text!r} is not a time: write 2026-03-01T14:30:00.123 (UTC), 2026-03-01T15:30:00+01:00, or ns as an int"
        ) from None
    return to_ns(whole) + int((match["fraction"] or "0").ljust(9, "0"))


def _zone(text: str) -> timezone:
    """The zone of "", "Z", "+01:00", "+0100" or "+01"."""
    if text in ("", "Z", "z"):
        return UTC
    match = _ZONE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"] or 0))
    return timezone(offset if match["sign"] == "+" else -offset)


def to_date(day: Day) -> date:
    """A session date from a date, a datetime or YYYY-MM-DD; UsageError when it is none."""
    if isinstance(day, np.datetime64):
        return to_date(day.astype("datetime64[D]").item())
    if isinstance(day, datetime):
        return day.date()
    if isinstance(day, date):
        return day
    try:
        return date.fromisoformat(day)
    except (TypeError, ValueError):
        raise UsageError(f"{day!r} is not a date: write YYYY-MM-DD") from None
