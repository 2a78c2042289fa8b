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
from kfix_md import Handler
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from tests.recorder import build
from tests.streams import generate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "parquet.md"
SECTION = PAGE.read_text().split("### Joins\n")[1].split("\nTimes are ns")[0]
RECIPES = dict(zip(("pandas", "polars", "duckdb"), re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL), strict=True))


@pytest.fixture(scope="module")
def cap(tmp_path_factory):
    """A session of one symbol with trades, and with a hole in the middle in which there are some too."""
    path, service = tmp_path_factory.mktemp("joined"), "derivatives-l2"
    stream = generate(service, messages=300, seed=2, symbols=1, admin=False)
    [symbol] = stream.markets
    with JournalWriter(path / "journal") as journal:
        build.announce(journal, 0, service, build.START_NS)
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
        handler = Handler(level="L2", session_number=0, journal=journal)
        for index, frame in enumerate(stream.frames[:-1]):
            now = build.START_NS + (index + 1) * build.STEP_NS
            for at, state in ((5, "LIVE"), (110, "GAP"), (210, "LIVE")):
                if at == index:
                    journal.event(0, now - build.STEP_NS // 2, events.BookChanged(symbol, state, "NONE", index))
            handler.on_bytes(frame, now)
    build.record(path)
    return recorder.open(path / "captures")


def by_hand(cap: recorder.Captures) -> list[tuple]:
    """(time, bid, ask, trusted) of each trade: the last quote before it."""
    [symbol] = cap.symbols()
    quotes = cap.bbo(symbol).to_pylist()
    found = []
    for trade in cap.ticks(symbol).to_pylist():
        if trade["side"] == "trade":
            before = [quote for quote in quotes if quote["recv_ns"] < trade["recv_ns"]]
            last = before[-1] if before else {"bid": None, "ask": None, "trusted": None}
            found.append((trade["recv_ns"], last["bid"], last["ask"], last["trusted"]))
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_joins_trades_with_the_quote_before_and_not_across_a_hole(cap, recipe):
    scope = {"cap": cap, "pandas": pandas, "polars": polars, "duckdb": duckdb}
    exec(RECIPES[recipe].replace("BTC/USD", cap.symbols()[0]), scope)
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
    [hole] = [row for row in cap.coverage().to_pylist() if row["state"] == "GAP"]
    inside = [row for row in rows if hole["from_ns"] < row[0] < hole["to_ns"]]
    assert inside and not any(row[3] for row in inside)
    assert sum(bool(row[3]) for row in rows) > 5
