"""Plots show what the tables say: prices where they are, and a band with the cause where the book was not trusted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import dates

import recorder
from kfix_md.errors import NoSuchSymbol, UsageError
from kfix_md.journal.writer import JournalWriter
from recorder.plot import heat
from tests.recorder import build
from tests.streams import generate

mpl.use("Agg")
SYMBOL = "PF_BTCUSD"
CAPTURE = Path(__file__).parents[2] / "examples" / "notebooks" / "captures"
GAP_NS, OFF_NS = 2 * 10**9, 10**9
WITHOUT = """
import sys
sys.modules["matplotlib"] = None
import recorder
try:
    recorder.open(sys.argv[1]).plot.bbo("PF_BTCUSD")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def cap(tmp_path_factory):
    """Two sessions of one service with a disconnection between them."""
    root = tmp_path_factory.mktemp("plots")
    with JournalWriter(root / "journal") as journal:
        now = build.START_NS
        for seed in (1, 2):
            frames = generate("derivatives-l2", messages=200, seed=seed).frames
            now = build.write_session(journal, 0, "derivatives-l2", frames, now) + GAP_NS
    build.record(root)
    return recorder.open(root / "captures")


@pytest.fixture(autouse=True)
def closed():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def drawn(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


def bands(ax):
    """(from ns, to ns) of the grey bands."""
    found = []
    for patch in ax.patches:
        a, b = patch.get_extents().transformed(ax.transData.inverted()).intervalx
        found.append(tuple(int(dates.num2date(x).timestamp() * 1e9) for x in (a, b)))
    return found


def test_best_prices_are_the_samples_and_stop_in_a_gap(cap):
    ax = cap.plot.bbo(SYMBOL)
    assert not ax._left_title.get_parse_math(), "a symbol with dollar signs is no formula"
    line = drawn(ax, "bid")
    prices = np.asarray(line.get_ydata())
    assert np.isfinite(prices).any() and np.isnan(prices).any()
    times = np.asarray(line.get_xdata()).astype("int64")
    step = int(times[1] - times[0])
    table = cap.depth(SYMBOL, int(times[0]), int(times[-1]) + 1, every=step, levels=1)
    assert np.array_equal(prices, table["bid_px_0"].to_numpy(), equal_nan=True)
    first, second = cap.sessions().to_pylist()
    inside = (times >= first["ended_ns"]) & (times <= second["started_ns"])
    assert inside.any() and np.isnan(prices[inside]).all()
    assert any(a <= first["ended_ns"] + step and b >= second["started_ns"] - step for a, b in bands(ax))
    assert {text.get_text() for text in ax.get_legend().get_texts()} >= {"bid", "ask"}
    ax.figure.canvas.draw()


def test_the_heat_map_has_the_quantities_and_every_trade(cap):
    ax = cap.plot.book(SYMBOL, levels=5)
    (mesh,) = ax.collections[:1]
    image = np.ma.filled(mesh.get_array(), np.nan)
    trades = cap.ticks(SYMBOL, price="float").to_pandas().query("side == 'trade'")
    dots = ax.collections[1:]
    assert sum(len(each.get_offsets()) for each in dots) == len(trades) > 0
    assert sorted(y for each in dots for _, y in each.get_offsets()) == sorted(trades["price"])
    assert np.isfinite(image).any() and np.isnan(image).all(axis=0).any()  # columns without a book
    assert not cap.plot.book(SYMBOL, trades=False).collections[1:]
    ax.figure.canvas.draw()


def test_quantities_of_a_heat_map_are_summed_in_rows_of_whole_ticks():
    prices = np.array([[[10.0, 10.1], [9.9, np.nan]], [[10.2, 10.2], [10.3, 10.4]]])
    quantities = np.array([[[1.0, 2.0], [3.0, np.nan]], [[4.0, 5.0], [6.0, 7.0]]])
    edges, image = heat(prices, quantities)
    assert np.nansum(image) == 28.0 and np.allclose(np.diff(edges), 0.1)
    assert np.nansum(image[0]) == 14.0
    row = int(np.searchsorted(edges, 10.2) - 1)
    assert image[:, row].tolist() == [4.0, 5.0]
    one = np.full((2, 1, 3), 5.0)
    assert heat(one, one)[1].shape[0] == 3


def test_the_spread_in_both_units(cap):
    bp = np.asarray(cap.plot.spread(SYMBOL).lines[0].get_ydata())
    price = np.asarray(cap.plot.spread(SYMBOL, unit="price").lines[0].get_ydata())
    known = np.isfinite(price)
    assert known.any() and (np.isfinite(bp) == known).all() and (bp[known] >= 0).all()
    with pytest.raises(UsageError, match="unit is 'pips'"):
        cap.plot.spread(SYMBOL, unit="pips")


def test_a_gap_between_two_samples_is_a_band_too():
    cap = recorder.open(CAPTURE)
    (lost,) = [row for row in cap.coverage(symbol="BTC/USD").to_pylist() if row["cause"] == "LOST"]
    ax = cap.plot.bbo("BTC/USD")
    step = int(np.diff(np.asarray(drawn(ax, "bid").get_xdata()).astype("int64")[:2])[0])
    assert lost["to_ns"] - lost["from_ns"] < step
    assert any(abs(a - lost["from_ns"]) < step and b - a <= 2 * step for a, b in bands(ax))
    assert "GAP LOST" in {text.get_text() for text in ax.get_legend().get_texts()}


def test_coverage_has_a_bar_for_every_state():
    cap = recorder.open(CAPTURE)
    ax = cap.plot.coverage()
    names = {text.get_text() for text in ax.get_yticklabels()}
    rows = cap.coverage(cap.dates()[0]).to_pylist()
    assert names == {f"{row['symbol']} ({row['service']})" for row in rows}
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {
        row["state"] for row in rows if row["to_ns"] is not None and row["to_ns"] > row["from_ns"]
    }
    shown = cap.plot.coverage(symbol="PF_XBTUSD").get_yticklabels()
    assert [text.get_text() for text in shown] == ["PF_XBTUSD (derivatives-l3)", "PF_XBTUSD (derivatives-l2)"]


def test_axes_of_the_caller_are_used(cap):
    from matplotlib import pyplot

    own = pyplot.subplots()[1]
    assert cap.plot.bbo(SYMBOL, build.START_NS, build.START_NS + 10**8, ax=own) is own
    assert len(own.lines) == 2


def test_what_cannot_be_drawn_is_an_error(cap):
    with pytest.raises(NoSuchSymbol, match="NONE/USD"):
        cap.plot.book("NONE/USD")
    with pytest.raises(UsageError, match="is not after start"):
        cap.plot.bbo(SYMBOL, build.START_NS, build.START_NS)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(cap.tree.root)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "UsageError plots need matplotlib: pip install 'kfix-md[plot]'\n"
