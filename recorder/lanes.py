"""Lays out when books could be trusted as bars over the time that was recorded, for the report page."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Row = dict[str, Any]
_SLOTS = 600  # of a service's bar: what many symbols did is summed in them
_SYMBOLS = 12  # with bars of their own: those covered least
_PLANNED = {"ROLLOVER"}
_DOWN = {"DISCONNECT", "RESTART", "LEAVING"}
_LOST = {"JOURNAL_LOST", "JOURNAL_DAMAGE", "UNDECODED", "FILE_MISSING"}


@dataclass
class Lane:
    """One bar.

    Attributes
    ----------
    name
        What it is of.
    covered, known
        Seconds in which it could be trusted, and in which it was followed at all.
    parts
        (left, width, kind, title): percent of the bar, and "ok", "gap", "down", "planned" or "lost".
    """

    name: str
    covered: float = 0.0
    known: float = 0.0
    parts: list[tuple[float, float, str, str]] = field(default_factory=list)


def kind_of(state: str | None, cause: str | None) -> str:
    """The kind of an interval that is not trusted: "gap", "down", "planned" or "lost"."""
    words = {state, cause}
    if words & _LOST or state is None:
        return "lost"
    if words & _PLANNED:
        return "planned"
    return "down" if words & _DOWN or state == "DOWN" else "gap"


def of_services(intervals: list[Row], first: int, last: int) -> list[Lane]:
    """A bar for each service: where all of its books could be trusted, and where how many could not.

    Parameters
    ----------
    intervals
        Rows of `Captures.coverage`.
    first, last
        Limits of the bars, ns.
    """
    services: dict[str, list[Row]] = {}
    for row in intervals:
        services.setdefault(row["service"], []).append(row)
    return [_of_service(name, rows, first, last) for name, rows in sorted(services.items())]


def _of_service(name: str, rows: list[Row], first: int, last: int) -> Lane:
    lane = Lane(name)
    known, dark = np.zeros(_SLOTS, int), np.zeros(_SLOTS, int)
    kinds: list[dict[str, int]] = [{} for _ in range(_SLOTS)]
    slot_ns = max(1, (last - first) // _SLOTS + 1)
    symbols: dict[str, np.ndarray] = {}
    for row in rows:
        if not _followed(row):
            continue
        a, b = _clipped(row, first, last)
        if b <= a:
            continue
        lane.known += (b - a) / 1e9
        lane.covered += (b - a) / 1e9 if row["trusted"] else 0.0
        i, j = (a - first) // slot_ns, (b - 1 - first) // slot_ns + 1
        seen = symbols.setdefault(row["symbol"], np.zeros((2, _SLOTS), bool))
        seen[0, i:j] = True
        if not row["trusted"]:
            seen[1, i:j] = True
            kind = kind_of(row["state"], row["cause"])
            for slot in range(i, j):
                kinds[slot][kind] = kinds[slot].get(kind, 0) + 1
    for seen in symbols.values():
        known += seen[0]
        dark += seen[1]
    looks = [_look(n, d, k) for n, d, k in zip(known.tolist(), dark.tolist(), kinds, strict=True)]
    begin = 0
    for i in range(1, _SLOTS + 1):
        if i < _SLOTS and looks[i] == looks[begin]:
            continue
        if looks[begin] is not None:
            kind, title = looks[begin]
            left, right = (100 * min(1.0, at * slot_ns / max(1, last - first)) for at in (begin, i))
            lane.parts.append((left, right - left, kind, title))
        begin = i
    return lane


def _look(known: int, dark: int, kinds: dict[str, int]) -> Any:
    """(kind, title) of a slot; None where nothing was followed."""
    if not known:
        return None
    if not dark:
        return "ok", f"all {known} books"
    worst = max(kinds, key=lambda kind: kinds[kind])
    return worst, f"{dark} of {known} books not covered ({', '.join(sorted(kinds))})"


def of_symbols(intervals: list[Row], first: int, last: int) -> list[Lane]:
    """Bars of the books that were covered least, each with its intervals; those covered throughout are left out."""
    books: dict[tuple[str, str], Lane] = {}
    rows_of: dict[tuple[str, str], list[Row]] = {}
    for row in intervals:
        a, b = _clipped(row, first, last)
        if not _followed(row) or b <= a:
            continue
        key = row["symbol"], row["service"]
        lane = books.setdefault(key, Lane(f"{row['symbol']} {row['level'] or ''}".strip()))
        rows_of.setdefault(key, []).append(row)
        lane.known += (b - a) / 1e9
        lane.covered += (b - a) / 1e9 if row["trusted"] else 0.0
        kind = "ok" if row["trusted"] else kind_of(row["state"], row["cause"])
        words = " ".join(dict.fromkeys(word for word in (row["state"], row["cause"]) if word not in (None, "NONE")))
        title = f"{words or 'not known'}, {(b - a) / 1e9:,.3f} s"
        span = max(1, last - first)
        lane.parts.append((100 * (a - first) / span, 100 * (b - a) / span, kind, title))
    found = [key for key, lane in books.items() if lane.covered < lane.known]
    least = sorted(found, key=lambda key: books[key].covered - books[key].known)[:_SYMBOLS]
    for key in least:
        if len(books[key].parts) > _SLOTS:  # more than a screen shows
            books[key].parts = _of_service("", rows_of[key], first, last).parts
    return [books[key] for key in least]


def joined(spans: list[tuple[int, int, str]], nearer_ns: int) -> list[tuple[int, int, str]]:
    """(from, to, kind) in order of time, those of one kind that follow within `nearer_ns` as one."""
    found: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(spans):
        if found and found[-1][2] == kind and start - found[-1][1] < nearer_ns:
            found[-1] = (found[-1][0], max(end, found[-1][1]), kind)
        else:
            found.append((start, end, kind))
    return found


def _followed(row: Row) -> bool:
    """Not the state of a book that is no longer, or not yet, subscribed."""
    return bool(row["state"] != "INIT")


def _clipped(row: Row, first: int, last: int) -> tuple[int, int]:
    end = last if row["to_ns"] is None else row["to_ns"]
    return max(first, row["from_ns"]), min(last, end)


def of_gaps(gaps: list[Row], sessions: list[Row], first: int, last: int) -> list[Lane]:
    """Bars of services from logons and gaps, for captures without states of books."""
    lanes = []
    for service in sorted({row["service"] for row in sessions}):
        lane, span = Lane(service), max(1, last - first)
        of_service = [row for row in gaps if row["service"] in (service, None) and row["symbol"] is None]
        spans = [
            ("ok", row["started_ns"], row["ended_ns"], "logged on") for row in sessions if row["service"] == service
        ]
        spans += [
            (kind_of("GAP", row["cause"]), row["opened_ns"], row["closed_ns"], row["cause"]) for row in of_service
        ]
        for kind, start, end, title in spans:
            a, b = max(first, start), min(last, last if end is None else end)
            if b > a:
                lane.parts.append((100 * (a - first) / span, 100 * (b - a) / span, kind, title))
                seconds = (b - a) / 1e9
                lane.known += seconds if kind == "ok" else 0.0
                lane.covered += seconds if kind == "ok" else -seconds
        lane.covered = max(0.0, lane.covered)
        lanes.append(lane)
    return lanes
