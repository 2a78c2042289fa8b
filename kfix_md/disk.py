"""Forecasts for how many days a disk has room, from the bytes that journal and captures took on the last days."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

DAY_S = 86_400.0
#: less than this share of a disk, or fewer days, and it is time to act; monitoring/alerts.yml has the same
LOW_SHARE, LOW_DAYS = 0.05, 3.0
MEASURED_S = 300.0  # for which a measurement is used again: captures of years are many files
RECENT_DAYS = 7  # session dates that the forecast is made from
ENOUGH_S = 600.0  # of recording that a forecast needs
_DATE = re.compile(r"(?:session_date=|\A)(\d{4}-\d\d-\d\d)")


@dataclass(frozen=True, slots=True)
class Holding:
    """What a directory holds.

    Attributes
    ----------
    used : int
        Bytes that its files take on the disk.
    per_day : float or None
        Bytes that a day takes; None while less than ENOUGH_S of it were recorded.
    limit : float or None
        Bytes that it will not pass; None: it has no limit.
    """

    used: int
    per_day: float | None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """A directory that grows: what for ("journal"), where, and its limits, 0 for none."""

    name: str
    directory: Path
    max_bytes: float = 0
    max_days: float = 0


@dataclass(frozen=True, slots=True)
class Room:
    """The file system of a store: its bytes, and the days left at the present growth (inf: enough; None: unknown)."""

    free: int
    size: int
    days_left: float | None

    @property
    def low(self) -> bool:
        """Whether somebody has to make room."""
        return self.free < self.size * LOW_SHARE or (self.days_left is not None and self.days_left < LOW_DAYS)

    @property
    def text(self) -> str:
        """The room for people."""
        return f"{self.free / (1 << 30):.1f} GiB free, {span_text(self.days_left)}"


def holding(store: Store, now_s: float | None = None) -> Holding:
    """Measure a directory: every file whose name or partition has a session date counts for that date."""
    now_s = time.time() if now_s is None else now_s
    used: dict[date, int] = defaultdict(int)
    began: dict[date, float] = {}
    other = 0
    for day, status in _files(store.directory):
        taken = status.st_blocks * 512
        if day is None:
            other += taken
            continue
        used[day] += taken
        began[day] = min(began.get(day, now_s), status.st_mtime)
    per_day = _per_day(used, began, now_s)
    limits = [store.max_bytes] if store.max_bytes else []
    if store.max_days and per_day is not None:
        limits.append(store.max_days * per_day)
    return Holding(other + sum(used.values()), per_day, min(limits, default=None))


def _per_day(used: dict[date, int], began: dict[date, float], now_s: float) -> float | None:
    """Bytes a day over the last RECENT_DAYS session dates, today's part of a day included."""
    if not used:
        return None
    today = datetime.fromtimestamp(now_s, UTC).date()
    recent = [day for day in used if (today - day).days < RECENT_DAYS]
    if not recent:
        return 0.0
    first = min(recent)
    # a date begins at 22:00 of the day before it, or when its first file was written
    midnight_s = datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()
    passed_s = now_s - max(midnight_s - 2 * 3600, began[first] if len(recent) == 1 else 0)
    return sum(used[day] for day in recent) / passed_s * DAY_S if passed_s >= ENOUGH_S else None


def _files(directory: Path) -> Iterator[tuple[date | None, os.stat_result]]:
    for folder, _, names in os.walk(directory):
        inside = _date(os.path.basename(folder))
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError:  # retired, renamed or compacted at this moment
                continue
            yield inside or _date(name), status


def _date(name: str) -> date | None:
    found = _DATE.match(name)
    try:
        return date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def rooms(stores: Iterable[Store], now_s: float | None = None) -> dict[str, Room]:
    """The room of each store that exists, by its name. Stores on one file system share its bytes and its days."""
    held: dict[int, list[Holding]] = defaultdict(list)
    devices: dict[str, tuple[int, int, int]] = {}
    for store in stores:
        try:
            usage, device = shutil.disk_usage(store.directory), os.stat(store.directory).st_dev
        except OSError:  # the recorder makes its directory when it starts
            continue
        devices[store.name] = device, usage.free, usage.total
        held[device].append(holding(store, now_s))
    return {name: Room(free, size, days_left(free, held[at])) for name, (at, free, size) in devices.items()}


def days_left(free: float, holdings: Iterable[Holding]) -> float | None:
    """Days until `free` bytes are used up: inf when limits keep that from happening, None when nothing is known yet."""
    known = [each for each in holdings if each.per_day is not None]
    if not known:
        return None
    bounded = [each for each in known if each.limit is not None]
    reserved = sum(max(0.0, (each.limit or 0) - each.used) for each in bounded)
    growth = sum(each.per_day or 0 for each in known)
    unbounded = growth - sum(each.per_day or 0 for each in bounded)
    if free <= reserved:
        return free / growth if growth else float("inf")
    return (free - reserved) / unbounded if unbounded > 0 else float("inf")


def span_text(days: float | None) -> str:
    """Days left for people."""
    if days is None:
        return "too little recorded for a forecast"
    if days == float("inf"):
        return "its growth is limited"
    if days < 2:
        return f"full in {days * 24:.0f} hours at the present rate"
    return f"full in {days:.0f} days at the present rate" if days < 3650 else "room for more than ten years"
