"""benchmarks.reconnect measures what it claims: every book is back, and the replay has closed the gap."""

from __future__ import annotations

import pytest

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
