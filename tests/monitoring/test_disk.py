"""The forecast of when a disk is full: from the bytes of the last session dates, and from limits."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kfix_md.disk import Holding, Store, days_left, holding, rooms, span_text

NOW_S = datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()
MB = 1 << 20


def put(path: Path, megabytes: int, hours_ago: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(megabytes * MB))
    os.utime(path, (NOW_S - hours_ago * 3600,) * 2)


def test_growth_is_that_of_the_recent_session_dates(tmp_path):
    put(tmp_path / "2026-11-01.0000000001.kfj", 8, 400)  # too long ago to tell how busy the days are
    put(tmp_path / "2026-11-19.0000000002.kfj", 4, 13)
    put(tmp_path / "2026-11-20.0000000003.kfj", 2, 1)
    put(tmp_path / "spare.0000000004.kfj", 1, 0)
    found = holding(Store("journal", tmp_path), NOW_S)
    assert found.used == 15 * MB and found.limit is None
    assert found.per_day == pytest.approx(6 * MB * 24 / 36)  # since 22:00 of the 18th


def test_one_date_counts_from_its_first_file_and_needs_ten_minutes(tmp_path):
    put(tmp_path / "ticks" / "session_date=2026-11-20" / "a.parquet", 1, 2)
    put(tmp_path / "ticks" / "session_date=2026-11-20" / "b.parquet", 1, 1)
    put(tmp_path / "state" / "commit.json", 1, 0)
    assert holding(Store("captures", tmp_path), NOW_S).per_day == pytest.approx(24 * MB)
    assert holding(Store("captures", tmp_path), NOW_S - 1.9 * 3600).per_day is None
    assert holding(Store("captures", tmp_path / "none"), NOW_S) == Holding(0, None)


def test_what_has_stopped_growing_takes_no_room(tmp_path):
    put(tmp_path / "2026-01-01.0000000001.kfj", 1, 7000)
    assert holding(Store("journal", tmp_path), NOW_S).per_day == 0


def test_limits_are_the_lower_of_size_and_age(tmp_path):
    put(tmp_path / "2026-11-20.0000000001.kfj", 1, 12)
    for size, days, limit in ((9 * MB, 0, 9 * MB), (0, 3, 6 * MB), (9 * MB, 3, 6 * MB)):
        store = Store("journal", tmp_path, max_bytes=size, max_days=days)
        assert holding(store, NOW_S).limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("free", "holdings", "days"),
    [
        (100, [], None),
        (100, [Holding(5, None)], None),
        (100, [Holding(5, 10)], 10),
        (100, [Holding(5, 10), Holding(5, 15)], 4),  # on one disk
        (100, [Holding(50, 10, limit=90), Holding(0, 6)], 10),  # 40 of the free bytes are the journal's
        (100, [Holding(90, 10, limit=90)], float("inf")),
        (100, [Holding(0, 10, limit=300)], 10),  # the limit comes too late
        (100, [Holding(7, 0)], float("inf")),
    ],
)
def test_days_left(free, holdings, days):
    assert days_left(free, holdings) == days


def test_rooms_leave_out_what_does_not_exist(tmp_path):
    put(tmp_path / "2026-11-20.0000000001.kfj", 1, 12)
    found = rooms([Store("journal", tmp_path), Store("captures", tmp_path / "none")], NOW_S)
    assert list(found) == ["journal"] and found["journal"].free < found["journal"].size
    assert found["journal"].days_left == pytest.approx(found["journal"].free / (2 * MB))


def test_texts():
    texts = [span_text(days) for days in (None, float("inf"), 0.5, 12.3, 9999)]
    assert texts[2:] == [
        "full in 12 hours at the present rate",
        "full in 12 days at the present rate",
        "room for more than ten years",
    ]
