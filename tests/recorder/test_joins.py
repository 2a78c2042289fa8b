"""The joins of docs/parquet.md, run as they are written there, against a loop over trades and quotes."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow as pa
import pytest

import recorder
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from tests.recorder import build
from tests.recorder.test_coverage import SYMBOL, written

PAGE = Path(__file__).resolve().parents[2] / "docs" / "parquet.md"
SECTION = PAGE.read_text().split("### Joins\n")[1].split("\nTimes are ns")[0]
RECIPES = dict(zip(("pandas", "polars", "duckdb"), re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL), strict=True))


@pytest.fixture(scope="module")
def cap(tmp_path_factory):
    """A session of one symbol with a hole in the middle in which there are trades."""
    path = tmp_path_factory.mktemp("joined")
    with JournalWriter(path / "journal") as journal:
        states = {
            5: [events.BookChanged(SYMBOL, "LIVE", "NONE", 5)],
            150: [events.BookChanged(SYMBOL, "GAP", "LOST", 150)],
            260: [events.BookChanged(SYMBOL, "LIVE", "NONE", 260)],
        }
        written(journal, states)  # type: ignore[arg-type]
    build.record(path)
    return recorder.open(path / "captures")


def by_hand(cap: recorder.Captures) -> list[tuple]:
    """(time, bid, ask, trusted) of each trade: the last quote before it."""
    quotes = cap.bbo(SYMBOL).to_pylist()
    found = []
    for trade in cap.ticks(SYMBOL).to_pylist():
        if trade["side"] == "trade":
            before = [quote for quote in quotes if quote["recv_ns"] < trade["recv_ns"]]
            last = before[-1] if before else {"bid": None, "ask": None, "trusted": None}
            found.append((trade["recv_ns"], last["bid"], last["ask"], last["trusted"]))
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_joins_trades_with_the_quote_before_and_not_across_a_hole(cap, recipe):
    scope = {"cap": cap, "pandas": pandas, "polars": polars, "duckdb": duckdb}
    exec(RECIPES[recipe], scope)
    joined = scope["joined"]
    if isinstance(joined, pandas.DataFrame):
        joined = pa.Table.from_pandas(joined)
    elif isinstance(joined, polars.DataFrame):
        joined = joined.to_arrow()
    elif isinstance(joined, pa.RecordBatchReader):
        joined = joined.read_all()
    names = "recv_ns", "bid", "ask", "trusted"
    rows = list(zip(*(joined[name].to_pylist() for name in names), strict=True))
    wanted = by_hand(cap)
    assert rows == wanted
    [hole] = [row for row in cap.coverage(symbol=SYMBOL).to_pylist() if row["state"] == "GAP"]
    inside = [row for row in rows if hole["from_ns"] < row[0] < hole["to_ns"]]
    assert inside and not any(row[3] for row in inside)
    assert sum(bool(row[3]) for row in rows) > 5
