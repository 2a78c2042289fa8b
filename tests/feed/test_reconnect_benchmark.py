"""benchmarks.reconnect, scale and growth measure what they claim: every book is back, all symbols are touched."""

from __future__ import annotations

import pytest

from benchmarks import growth, scale
from benchmarks.reconnect import Bench, measure
from kfix_md._entry import State


def test_it_brings_every_book_back(tmp_path):
    bench = Bench(tmp_path, 20)
    assert bench.connect() > 0 and bench.service.states[State.LIVE] == 20
    assert bench.gap() > 0 and bench.service.gaps["lost"] == 1 and bench.service.open_gaps() == 0
    bench.requests.clear()
    with pytest.raises(KeyError):
        bench.gap()


def test_its_rows():
    rows = measure(20, 1)
    assert [row["what"] for row in rows] == ["reconnect", "gap, replayed"]
    assert all(row["ms"] > 0 and row["worst_ms"] >= row["ms"] for row in rows) and rows[0]["floor_ms"] > 0


def test_a_stream_of_many_symbols_touches_them_all():
    opening, updates = growth.incrementals(50, 25, 500)
    handler = growth.opened(opening)
    before = handler.stats["crc_ok"]
    assert handler.on_bytes(updates) == 500
    assert handler.stats["crc_ok"] - before == 500 and handler.stats["crc_failed"] == 0
    assert len({part.split(b"\x01")[0] for part in updates.split(b"\x0155=")[1:]}) == 50


def test_rows_of_a_service():
    rows = {row.name: row for row in scale.service(20, 1)}
    assert rows["ticks of a second without messages"].met is not None
    assert all(row.value > 0 for row in rows.values()) and len(rows) == 5
