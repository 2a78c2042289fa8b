"""Every reader sums every column to the same value; files of an older schema are read, and rewritten by compaction."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import recorder
from kfix_md._book_l3 import L3Book
from kfix_md._entry import ENTRY_DTYPE, TICK_DTYPE, IdKind
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from recorder import _columns, compact, files, layout, schema
from recorder._ticks import book_rows
from recorder.verify import verify
from recorder.writer import write_file
from tests.recorder import build


@pytest.fixture(scope="module")
def captures(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("captures")
    with JournalWriter(path / "journal", segment_bytes=1 << 17) as journal:
        journal.event(0, build.START_NS, events.Started("1", 7, "kfix-test"))
    build.two_days(path)
    after = build.START_NS + 2 * 86_400_000_000_000
    with JournalWriter(path / "journal") as journal:
        journal.event(0, after, events.GapOpened(5, 20, 23, "lost", ("BTC/USD",), "three of them"))
        journal.event(0, after + 5, events.GapClosed(5, "replay"))
    build.record(path, flush_rows=300, checkpoint_rows=20)
    return path


@pytest.fixture
def copy(captures, tmp_path) -> Path:
    return Path(shutil.copytree(captures / "captures", tmp_path / "captures"))


Sums = dict[str, tuple[int, int]]  # of the values that are there: how many, and their sum


def weigh(value: object) -> int:
    if isinstance(value, str):
        return sum(value.encode())
    return sum(value) if isinstance(value, bytes) else int(value)  # type: ignore[call-overload]


def summed(columns: dict[str, list]) -> Sums:
    sums = {}
    for name, values in columns.items():
        present = [v for v in values if v is not None]
        sums[name] = len(present), sum(map(weigh, present))
    return sums


def by_pyarrow(paths: list[str], names: list[str]) -> Sums:
    rows = ds.dataset(paths).to_table(columns=names)
    return summed({n: rows[n].to_pylist() for n in names})


def by_duckdb(paths: list[str], names: list[str]) -> Sums:
    found = duckdb.sql(f"select {', '.join(names)} from read_parquet({paths!r})").fetchall()
    return summed({n: [row[i] for row in found] for i, n in enumerate(names)})


def by_polars(paths: list[str], names: list[str]) -> Sums:
    rows = pl.concat([pl.read_parquet(p, columns=names, use_pyarrow=False) for p in paths], how="vertical_relaxed")
    return summed({n: rows[n].to_list() for n in names})


def by_pandas(paths: list[str], names: list[str]) -> Sums:
    rows = pd.concat([pd.read_parquet(p, columns=names, dtype_backend="pyarrow").astype(object) for p in paths])
    return summed({n: [None if v is pd.NA else v for v in rows[n].tolist()] for n in names})


def check_every_column(root: Path) -> int:
    cap = recorder.open(root)
    columns = 0
    for table, wanted in schema.SCHEMAS.items():
        paths = [str(path) for day in cap.tree.dates(table) for path in cap.tree.files(table, day)]
        assert paths
        expected = by_pyarrow(paths, wanted.names)
        for reader in (by_duckdb, by_polars, by_pandas):
            assert reader(paths, wanted.names) == expected, (table, reader)
        columns += len(wanted)
        assert any(n for n, _ in expected.values())
    return columns


def test_every_reader_sums_every_column_alike_live_and_compacted(copy):
    assert check_every_column(copy) > 60
    tree = layout.Tree(copy)
    for day in {day for table in layout.TABLES for day in tree.dates(table)}:
        compact.compact_day(tree, day)
    check_every_column(copy)


def test_integers_have_encodings_that_every_reader_knows(captures):
    for path in (captures / "captures").rglob("*.parquet"):
        meta = pq.ParquetFile(path).metadata
        assert meta.metadata[b"kfix_md.schema"] == schema.VERSION.encode()
        for group in range(meta.num_row_groups):
            for column in range(meta.num_columns):
                assert "BYTE_STREAM_SPLIT" not in meta.row_group(group).column(column).encodings
        assert not any(pa.types.is_unsigned_integer(f.type) for f in pq.read_schema(path))


def test_texts_of_several_dictionaries_are_written_with_one(tmp_path):
    """As those of the sessions of a flush. polars 1.0 reads plain texts of required columns in no file."""
    ticks = np.zeros(1000, TICK_DTYPE)
    names = ["BTC/USD", "ETH/USD", "XRP/USD"]
    parts = [schema.tick_columns(ticks, [(name, 1, 8)], 1, 2, lambda found: []) for name in names]
    write_file(tmp_path / "file.parquet", "ticks", pa.Table.from_batches(parts), {}, schema.ROW_GROUP, schema.LEVEL)
    file = pq.ParquetFile(tmp_path / "file.parquet")
    group = file.metadata.row_group(0)
    size = {group.column(i).path_in_schema: group.column(i).total_uncompressed_size for i in range(group.num_columns)}
    assert size["symbol"] < 3000 * 4, "of plain texts a row has 11 bytes"
    assert file.read(["symbol"])["symbol"].to_pylist() == np.repeat(names, 1000).tolist()


#: columns of schema 4
ADDED = {
    **dict.fromkeys(("ticks", "instruments", "checkpoints"), ("feed", "service")),
    **dict.fromkeys(("gaps", "sessions", "status"), ("feed", "number")),
}


def table_of(path: Path) -> str:
    return path.parent.parent.name


def as_schema_3(path: Path) -> None:
    """Rewrite a file as version 3 wrote it."""
    table = pq.ParquetFile(path).read()
    described = dict(pq.read_schema(path).metadata) | {b"kfix_md.schema": b"3"}
    pq.write_table(table.drop_columns(list(ADDED[table_of(path)])).replace_schema_metadata(described), path)


def as_schema_2(path: Path) -> None:
    """Rewrite a file as version 2 wrote it."""
    table = pq.ParquetFile(path).read()
    described = dict(pq.read_schema(path).metadata) | {b"kfix_md.schema": b"2"}
    for name in ("decimals", "depth", *ADDED[table_of(path)]):
        if name in table.column_names:
            table = table.drop_columns([name])
    if "crc" in table.column_names:
        at = table.schema.get_field_index("crc")
        table = table.set_column(at, pa.field("crc", pa.uint32()), table["crc"].cast(pa.uint32()))
    split = [n for n in ("event_ms", "event_frac_ns", "entry_no", "price") if n in table.column_names]
    split = split if "event_ms" in split else []
    dictionaries = [n for n in table.column_names if n not in split]
    table = table.replace_schema_metadata(described)
    encodings = dict.fromkeys(split, "BYTE_STREAM_SPLIT")
    pq.write_table(table, path, use_dictionary=dictionaries, column_encoding=encodings or None)


def plain(rows: pa.Table) -> pa.Table:
    return rows.cast(schema.plain(rows.schema))


def test_captures_of_schema_2_are_read_and_rewritten(copy, captures):
    for path in copy.rglob("*.parquet"):
        as_schema_2(path)
    now, old = recorder.open(captures / "captures"), recorder.open(copy)
    for symbol in now.symbols():
        for level in ("L2", "L3"):
            expected, rows = now.ticks(symbol, level=level), old.ticks(symbol, level=level)
            assert rows["decimals"].null_count == rows.num_rows
            assert plain(rows.drop_columns(["decimals"])).equals(plain(expected.drop_columns(["decimals"])))
    later = ["depth", "number"]
    assert plain(old.sessions().drop_columns(later)).equals(plain(now.sessions().drop_columns(later)))
    proof = verify(old)
    assert proof.holds and proof.summary()["rows"] == verify(now).summary()["rows"]
    tree = layout.Tree(copy)
    for day in {day for table in layout.TABLES for day in tree.dates(table)}:
        compact.compact_day(tree, day)
    for path in (path for table in layout.TABLES for path in (copy / table).rglob("*.parquet")):
        assert not files.footer(path).outdated
    check_every_column(copy)


def test_rows_of_schema_3_are_named_by_the_sessions_and_starts_of_their_dates(copy, captures):
    for path in copy.rglob("*.parquet"):
        as_schema_3(path)
    now, old = recorder.open(captures / "captures"), recorder.open(copy)
    for table in schema.SCHEMAS:
        expected, rows = plain(now._table(table, None, None)), plain(old._table(table, None, None))
        for name in schema.SCHEMAS[table].names:
            if name == "number":
                assert rows[name].null_count == rows.num_rows
            else:
                assert rows[name].to_pylist() == expected[name].to_pylist(), (table, name)
    assert old.ticks(columns=["service"])["service"].unique().to_pylist() == ["spot-l2", "spot-l3"]
    tree = layout.Tree(copy)
    for day in {day for table in layout.TABLES for day in tree.dates(table)}:
        compact.compact_day(tree, day)
    check_every_column(copy)
    assert old.ticks(columns=["feed"])["feed"].unique().to_pylist() == ["kfix-test"]


def test_every_row_has_its_feed_and_service_for_tools_that_read_files_alone(captures):
    root = captures / "captures"
    for table in ("ticks", "instruments", "checkpoints", "sessions"):
        found = duckdb.sql(f"select distinct feed, service from '{root}/{table}/**/*.parquet' order by all").fetchall()
        assert found == [("kfix-test", "spot-l2"), ("kfix-test", "spot-l3")], table
    numbers = duckdb.sql(f"select distinct service, number from '{root}/sessions/**/*.parquet' order by all")
    assert numbers.fetchall() == [("spot-l2", 0), ("spot-l3", 1)]


def test_compacted_dates_of_an_older_schema_are_candidates_when_wanted(copy):
    tree = layout.Tree(copy)
    first = tree.dates()[0]
    compact.compact_day(tree, first)
    assert compact.candidates(tree, None, outdated=True) == []
    for path in tree.files("ticks", first):
        as_schema_2(path)
    assert compact.candidates(tree, None) == [] and compact.candidates(tree, None, outdated=True) == [first]
    compact.compact_day(tree, first)
    assert compact.candidates(tree, None, outdated=True) == []


def test_codes_beyond_the_known_ones_are_kept_as_sent_or_unknown():
    ticks = np.zeros(5, TICK_DTYPE)
    ticks["side"], ticks["action"], ticks["qty"] = 2, 0, 1
    ticks["ord_type"], ticks["aggressor"] = [0, 1, 2, 3, 200], [0, 2, 1, 9, 77]
    rows = schema.tick_columns(ticks, [("BTC/USD", 1, 8)], 1, 2, lambda found: [])
    assert rows["ord_type"].to_pylist() == [None, "market", "limit", "3", None]
    assert rows["aggressor"].to_pylist() == [None, "sell", "buy", "9", None]


def test_decimals_as_sent_are_a_column(tmp_path):
    ticks = np.zeros(2, TICK_DTYPE)
    ticks["decimals"] = [1 | 8 << 8, 5 | 2 << 8]
    rows = schema.tick_columns(ticks, [("BTC/USD", 1, 8)], 1, 2, lambda found: [])
    assert rows["decimals"].to_pylist() == [1 + 256 * 8, 5 + 256 * 2]
    assert schema.entries(pa.Table.from_batches([rows]))["decimals"].tolist() == ticks["decimals"].tolist()


def test_entries_of_any_part_of_a_table_are_those_of_its_rows():
    ticks = np.zeros(40, TICK_DTYPE)
    ticks["side"], ticks["action"] = np.arange(40) % 3, np.arange(40) % 5
    ticks["price"], ticks["qty"] = np.arange(40), np.arange(40) * 7
    ticks["queue_ns"] = np.where(np.arange(40) % 3, np.arange(40), 0)
    ticks["id_kind"] = np.where(np.arange(40) % 4 == 1, IdKind.NONE, IdKind.UUID)
    ticks["id_hi"], ticks["id_lo"] = (np.where(ticks["id_kind"], np.arange(40) + more, 0) for more in (1, 100))
    rows = pa.Table.from_batches([schema.tick_columns(ticks, [("BTC/USD", 1, 8)], 1, 3, lambda found: [])])
    whole = schema.entries(rows)
    for name in ("price", "qty", "queue_ns", "id_kind", "id_hi", "id_lo"):
        assert whole[name].tolist() == ticks[name].tolist(), name
    assert whole["side"].tolist() == [0 if one["action"] == 4 else one["side"] for one in ticks]
    for first, n in ((0, 0), (3, 11), (8, 32), (39, 1)):
        assert (schema.entries(rows.slice(first, n)) == whole[first : first + n]).all()
    parts = pa.concat_tables([rows.slice(30), rows.slice(5, 9)])
    assert (schema.entries(parts) == np.concatenate([whole[30:], whole[5:14]])).all()


def test_a_dictionary_without_the_value_of_a_row_is_an_error():
    with pytest.raises(IndexError, match="value 1 is 3 of a dictionary of 2"):
        _columns.codes(np.array([0, 3], np.int32), np.zeros(2, np.uint8))


def test_a_checkpoint_gives_the_same_book_whatever_form_its_order_ids_have(tmp_path):
    kinds = [IdKind.NONE, IdKind.UUID, IdKind.KRAKEN, IdKind.TEXT, IdKind.TEXT, IdKind.TABLE, IdKind.TABLE]
    entries = np.zeros(len(kinds), ENTRY_DTYPE)
    entries["price"], entries["qty"], entries["queue_ns"] = 100, np.arange(1, len(kinds) + 1), np.arange(len(kinds))
    entries["id_kind"] = kinds
    entries["id_hi"] = [0, 1, 2, int.from_bytes(b"order-00"), int.from_bytes(b"order-00"), 2**64 - 1, 2**64 - 1]
    entries["id_lo"] = [0, 7, 7, int.from_bytes(b"1\0\0\0\0\0\0\0"), 2**63, 5, 6]
    book = L3Book(1, 8)
    book.apply(entries)
    rows = book_rows(book)
    assert len(rows) == len(kinds)
    table = schema.checkpoint_table(rows, 1, 1, 9, "BTC/USD", 3, (1, 8))
    pq.write_table(table, tmp_path / "point.parquet")
    again = L3Book(1, 8)
    again.apply(schema.entries(pq.read_table(tmp_path / "point.parquet")))
    assert (book_rows(again) == rows).all()
    assert set(pc.unique(table["id_kind"]).to_pylist()) == {"none", "uuid", "kraken", "text", "hash"}
    assert again.crc("order") == book.crc("order")
