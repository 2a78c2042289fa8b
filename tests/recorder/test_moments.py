"""Times and dates as people write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from kfix_md.errors import UsageError
from recorder.moments import to_date, to_ns

NS = 1_772_375_400_123_456_789  # 2026-03-01T14:30:00.123456789 UTC
WHOLE = NS // 10**9 * 10**9
PARIS = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("moment", "ns"),
    [
        (NS, NS),
        (np.int64(NS), NS),
        ("2026-03-01T14:30:00.123456789", NS),
        ("2026-03-01T14:30:00.123456789Z", NS),
        ("2026-03-01 14:30:00,123456789", NS),
        ("2026-03-01T15:30:00.123456789+01:00", NS),
        ("2026-03-01T09:00:00.123456789-0530", NS),
        ("2026-03-01T14:30", WHOLE),
        ("2026-03-01", WHOLE - (14 * 3600 + 30 * 60) * 10**9),
        ("1969-12-31T23:59:59.5", -500_000_000),
        (datetime(2026, 3, 1, 14, 30, 0, 123456), NS - 789),
        (datetime(2026, 3, 1, 15, 30, 0, 123456, PARIS), NS - 789),
        (datetime(1969, 12, 31, 23, 59, 59, 500_000, UTC), -500_000_000),
        (date(2026, 3, 1), WHOLE - (14 * 3600 + 30 * 60) * 10**9),
        (pd.Timestamp(NS), NS),
        (pd.Timestamp(NS, tz="UTC").tz_convert("Europe/Paris"), NS),
        (pd.Timestamp("2026-03-01T14:30:00").as_unit("s"), WHOLE),
        (np.datetime64(NS, "ns"), NS),
        (np.datetime64("2026-03-01T14:30:00", "s"), WHOLE),
        (pa.scalar(NS, pa.timestamp("ns")), NS),
        (pa.scalar(WHOLE // 10**6, pa.timestamp("ms", tz="Europe/Paris")), WHOLE),
        (pa.scalar(NS), NS),
        (pa.scalar(date(2026, 3, 1)), WHOLE - (14 * 3600 + 30 * 60) * 10**9),
        (None, None),
    ],
)
def test_times(moment, ns):
    assert to_ns(moment) == ns
    assert type(to_ns(moment)) in (int, type(None))


@pytest.mark.parametrize("moment", [1.7e18, 1772375400.0, np.float64(1.0), pa.scalar(1.5)])
def test_floats_are_refused_with_a_hint(moment):
    with pytest.raises(UsageError, match=r"is a float.*write ns as an int .seconds: int\(s \* 1e9\)"):
        to_ns(moment)


@pytest.mark.parametrize(
    "moment",
    [
        "yesterday",
        "",
        "2026-02-30",
        "2026-03-01T25:00",
        "2026-03-01T14:30:00.0123456789",
        "2026-03-01T14:30:00+1",
        "14:30:00",
        True,
        pd.NaT,
        np.datetime64("NaT"),
        pa.scalar(None, pa.timestamp("ns")),
        pa.scalar(None, pa.int64()),
        b"2026-03-01",
        timedelta(1),
        np.timedelta64(1, "s"),
        2**63,
        [NS],
    ],
)
def test_what_is_no_time(moment):
    with pytest.raises(UsageError, match="is not a time: "):
        to_ns(moment)


@pytest.mark.parametrize("unit", [10**9, 10**6, 10**3])
def test_other_units_than_ns_are_refused(unit):
    with pytest.raises(UsageError, match=r"in 197.: times as an int are ns since 1970, not s, ms or us"):
        to_ns(NS // unit)


def test_dates():
    day = date(2026, 3, 1)
    assert {
        to_date("2026-03-01"),
        to_date(day),
        to_date(datetime(2026, 3, 1, 23)),
        to_date(pd.Timestamp(NS)),
        to_date(np.datetime64(NS, "ns")),
    } == {day}
    for wrong in ("01.03.2026", 20260301, None):
        with pytest.raises(UsageError, match="is not a date: write YYYY-MM-DD"):
            to_date(wrong)
