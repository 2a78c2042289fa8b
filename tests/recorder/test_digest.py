"""Digests differ with any value of any column and with the order of rows, and with nothing else."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from recorder import files, layout, schema
from recorder.digest import Digests, codes_order, row_hashes
from tests.recorder import build


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("digest")
    build.journal_of(path / "journal", ("spot-l2", "derivatives-l3", "derivatives-l2"), messages=60)
    build.record(path)
    tree = layout.Tree(path / "captures")
    return files.table("ticks", tree.files("ticks", tree.dates()[0])).combine_chunks()


def digest_of(batches: list[pa.RecordBatch], by_symbol: bool = True) -> dict:
    digests = Digests(by_symbol)
    list(digests.through(batches))
    return digests.result()


def other(value):
    """A value of the same kind that is not the same."""
    if isinstance(value, int):
        return value + 1
    return bytes([value[0] ^ 1]) + value[1:] if isinstance(value, bytes) else value + "x"


@pytest.mark.parametrize("name", schema.SCHEMAS["ticks"].names)
def test_any_change_of_any_column_is_seen(rows, name):
    column = rows[name]
    at = random.Random(name).randrange(rows.num_rows)
    values = column.to_pylist()
    known = next((v for v in values if v is not None), 0 if pa.types.is_integer(column.type) else "")
    values[at] = other(known if values[at] is None else values[at])
    changed = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(values, column.type))
    same = row_hashes(rows.to_batches()[0]) == row_hashes(changed.combine_chunks().to_batches()[0])
    assert np.flatnonzero(~same).tolist() == [at]
    assert digest_of(rows.to_batches()) != digest_of(changed.to_batches())


def test_batches_dictionaries_and_other_symbols_do_not_matter(rows):
    whole = digest_of(rows.to_batches())
    assert sum(n for n, _ in whole.values()) == rows.num_rows and len(whole) > 3
    for size in (1, 7, 1000):
        assert digest_of(rows.to_batches(size)) == whole
    again = rows.cast(schema.plain(rows.schema)).cast(rows.schema)  # new dictionaries for each chunk
    assert digest_of([b for i in range(0, rows.num_rows, 50) for b in again.slice(i, 50).to_batches()]) == whole
    codes = rows["symbol"].combine_chunks().indices.to_numpy()
    assert digest_of(rows.take(pa.array(codes_order(codes))).to_batches()) == whole


def test_order_and_number_matter(rows):
    whole = digest_of(rows.to_batches())
    symbol = rows["symbol"][0].as_py()
    first, second = np.flatnonzero(np.array(rows["symbol"].to_pylist()) == symbol)[:2]
    order = np.arange(rows.num_rows)
    order[[first, second]] = second, first
    for changed in (rows.take(pa.array(order)), rows.slice(1), pa.concat_tables([rows, rows.slice(0, 1)])):
        differ = {s for s, d in digest_of(changed.to_batches()).items() if d != whole.get(s)}
        assert differ == {symbol}
    assert digest_of(rows.to_batches(), by_symbol=False) != digest_of(
        rows.take(pa.array(order)).to_batches(), by_symbol=False
    )


def test_order_by_codes_is_stable_for_small_and_large_codes():
    rng = np.random.default_rng(1)
    for top in (2, 1 << 16, 1 << 20):
        codes = rng.integers(0, top, 5000).astype(np.int32)
        assert (codes_order(codes) == np.argsort(codes, kind="stable")).all()
    assert len(codes_order(np.zeros(0, np.int32))) == 0
