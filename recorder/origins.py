"""Names the feed and the service of rows recorded before schema 4, from sessions and starts of feeds around them."""

import json
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recorder import layout, schema
from recorder.compute import pc
from recorder.layout import Tree

_DAYS_BACK = 3  # a session ends with its date, as a rule


@dataclass(frozen=True)
class Origin:
    """What is known of the rows of one session date: the feed, and the service of each session."""

    feed: str | None
    services: dict[int, str]

    def added(self, batch: pa.RecordBatch, needed: list[str]) -> pa.RecordBatch:
        """`batch` with those of the columns feed and service that are needed and not in it."""
        if "feed" in needed and "feed" not in batch.schema.names:
            batch = batch.append_column("feed", schema.one_text(self.feed, batch.num_rows))
        if "service" in needed and "service" not in batch.schema.names:
            batch = batch.append_column("service", self._service(batch["session"]))
        return batch

    def _service(self, session: pa.Array) -> pa.Array:
        numbers = sorted(self.services)
        place = pc.index_in(session, pa.array(numbers, pa.int32()))
        names = pa.array([self.services[number] for number in numbers], pa.string())
        return names.take(place).dictionary_encode()


_known: dict[tuple[str, date], tuple[list[Path], Origin]] = {}


def of(path: Path) -> Origin:
    """What is known of the rows of a finished file."""
    tree, day = Tree(path.parents[2]), layout.date_of(path)
    sessions = [file for one in _before(tree, "sessions", day) for file in tree.files("sessions", one)]
    key = str(tree.root), day
    known = _known.get(key)
    if known is None or known[0] != sessions:
        services: dict[int, str] = {}
        for file in sessions:
            rows = pq.read_table(file, columns=["session", "service"], partitioning=None)
            pairs = zip(rows["session"].to_pylist(), rows["service"].to_pylist(), strict=True)
            services |= {session: name for session, name in pairs if name is not None}
        known = _known[key] = sessions, Origin(_feed(tree, day), services)
    return known[1]


def _before(tree: Tree, table: str, day: date) -> list[date]:
    return [one for one in tree.dates(table) if day - timedelta(_DAYS_BACK) <= one <= day]


def _feed(tree: Tree, day: date) -> str | None:
    """Name of the feed that started last on a date or before it, else of the first after it."""
    days = tree.dates("status")
    for one in [*reversed([d for d in days if d <= day]), *(d for d in days if d > day)]:
        for file in reversed(tree.files("status", one)):
            rows = pq.read_table(file, columns=["kind", "state", "detail"], partitioning=None)
            plain = rows.cast(schema.plain(rows.schema))
            started = pc.and_(pc.equal(plain["kind"], "feed"), pc.equal(plain["state"], "started"))
            for text in reversed(plain["detail"].filter(started).to_pylist()):
                if text is not None and (name := json.loads(text).get("feed")):
                    return str(name)
    return None
