"""Makes captures, pushes them, and compares the rows of a lake with theirs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from kfix_md.journal.writer import JournalWriter
from recorder import files, lake_push, layout, schema
from recorder.lake import TABLES, Lake
from recorder.lake_push import Push
from tests.recorder import build
from tests.streams import generate

DAY_NS = 86_400_000_000_000
MESSAGES = 60  # of a session
FLUSH_ROWS = 400


def push(captures: Path, url: str, **options) -> lake_push.Pushed:
    job = Push(captures, Lake(url), **options)
    try:
        return job.run()
    finally:
        job.close()


def local_rows(captures: Path, table: str) -> pa.Table:
    """Rows of the captures as plain columns, in an order of their own."""
    tree = layout.Tree(captures)
    whole = files.table(
        table,
        [path for day in tree.dates(table) for path in tree.files(table, day)],
        list(schema.SCHEMAS[table].names) if table != "ticks" else None,
    )
    plain = whole.cast(schema.plain(whole.schema))
    return ordered(plain)


def ordered(rows: pa.Table) -> pa.Table:
    rows = rows.select(sorted(rows.column_names))
    kinds = [
        pa.field(
            f.name,
            pa.binary()
            if pa.types.is_fixed_size_binary(f.type) or pa.types.is_large_binary(f.type)
            else pa.string()
            if pa.types.is_large_string(f.type) or pa.types.is_string_view(f.type)
            else f.type,
        )
        for f in rows.schema
    ]
    rows = rows.cast(pa.schema(kinds)).replace_schema_metadata()
    return rows.sort_by([(name, "ascending") for name in rows.column_names])


def lake_rows(url: str, table: str) -> pa.Table:
    """Rows of the newest version."""
    return ordered(DeltaTable(f"{url}/{table}").to_pyarrow_table())


def same(captures: Path, url: str, feed: str = "alpha") -> None:
    """Each table of the lake has the rows of the captures."""
    for table in TABLES:
        found = lake_rows(url, table)
        found = found.filter(pa.compute.equal(found["feed"], feed)).drop_columns(["session_date", "feed"])
        expected = local_rows(captures, table)
        assert found.num_rows == expected.num_rows, table
        assert ordered(found).equals(ordered(expected.drop_columns(["feed"]))), table


def journal(path: Path, feed: str, messages: int = MESSAGES) -> None:
    """Two session dates of one feed, L2 and L3, with a gap."""
    with JournalWriter(path, segment_bytes=1 << 17) as one:
        one.event(0, build.START_NS - 1, {"type": "started", "feed": feed})
        for i in range(2):
            for number, service in enumerate(("spot-l2", "spot-l3")):
                frames = generate(service, messages=messages, seed=20 + i).frames
                if i == 0 and number == 0:
                    frames = frames[: messages // 2] + frames[messages // 2 + 2 :]
                build.write_session(one, number, service, frames, build.START_NS + i * DAY_NS + number * 10**9)


def record(folder: Path, feed: str) -> Path:
    """Captures of one feed, recorded in several flushes."""
    journal(folder / "journal", feed)
    build.record(folder, flush_rows=FLUSH_ROWS)
    return folder / "captures"
