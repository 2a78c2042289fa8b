"""Sampled books equal `Captures.book` at the same moments: levels, trust, and the message they are of."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

import recorder
from kfix_md._handler import Handler
from kfix_md.errors import NoSuchSymbol, UsageError
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from recorder import compact, files, sampled
from tests.recorder import build
from tests.recorder.test_coverage import MS, SYMBOL, captured, written

LEVELS = 5


def levels_of(row: dict, side: str) -> list[tuple[int, int]]:
    pairs = [(row[f"{side}_px_{i}"], row[f"{side}_qty_{i}"]) for i in range(LEVELS)]
    return [pair for pair in pairs if pair != (None, None)]


def assert_as_books(cap: recorder.Captures, samples: pa.Table, symbol: str, level: str | None = None) -> None:
    """Every sample against the book that is rebuilt for its moment alone."""
    assert samples.num_rows
    for row in samples.to_pylist():
        one = cap.book(symbol, row["time_ns"], LEVELS, level=level)
        where = row["time_ns"], row["cause"], one.reason
        assert (row["trusted"], row["cause"] is None) == (one.trusted, one.trusted), where
        if one.book is None:
            assert row["recv_ns"] is None and not levels_of(row, "bid"), where
            continue
        assert (row["recv_ns"], row["session"], row["seq"]) == (one.recv_ns, one.session, one.seq), where
        for side, found in (("bid", one.bids), ("ask", one.asks)):
            exact = one.book.depth(LEVELS, price="int")[side == "ask"]
            whole = list(zip(exact["price"].tolist(), exact["qty"].tolist(), strict=True))
            assert levels_of(row, side) in ([], whole) if not one.trusted else levels_of(row, side) == whole, where
            assert len(found) == len(whole)


@pytest.fixture(scope="module", params=["L2", "L3"])
def mixed(request, tmp_path_factory):
    """Captures of all four services, and a symbol of the level asked for."""
    path = tmp_path_factory.mktemp("sampled")
    build.journal_of(path / "journal", messages=200)
    build.record(path, flush_rows=300, checkpoint_rows=150)
    cap = recorder.open(path / "captures")
    rows = cap.ticks(level=request.param, columns=["symbol"])
    return cap, str(rows["symbol"][0]), request.param


@pytest.mark.parametrize("batch_rows", [files._BATCH_ROWS, 7])
def test_samples_are_the_books_of_their_moments(mixed, batch_rows, monkeypatch):
    cap, symbol, level = mixed
    monkeypatch.setattr(files.batches, "__kwdefaults__", {**files.batches.__kwdefaults__, "rows": batch_rows})
    times = cap.ticks(symbol, level=level, columns=["recv_ns"])["recv_ns"].to_numpy()
    for start, end in ((None, None), (int(times[len(times) // 3]), int(times[-1]) + 40 * MS)):
        step = 29 * MS + 1
        samples = cap.depth(symbol, start, end, every=step, levels=LEVELS, level=level, price="int")
        grid = samples["time_ns"].to_numpy()
        assert (np.diff(grid) == step).all() and (start is None or grid[0] == start)
        assert start is not None or (grid[0] % step == 0 and grid[0] - step < times[0])
        assert_as_books(cap, samples, symbol, level)


def test_after_every_message(mixed):
    cap, symbol, level = mixed
    samples = cap.depth(symbol, every="event", levels=LEVELS, level=level, price="int")
    rows = cap.ticks(symbol, level=level, columns=["session", "seq"])
    messages = list(dict.fromkeys(zip(rows["session"].to_pylist(), rows["seq"].to_pylist(), strict=True)))
    assert list(zip(samples["session"].to_pylist(), samples["seq"].to_pylist(), strict=True)) == messages
    assert_as_books(cap, samples.take(list(range(0, samples.num_rows, 5))), symbol, level)


def test_batches_and_many_small_ones_give_the_same(mixed, monkeypatch):
    cap, symbol, level = mixed
    whole = cap.depth(symbol, every="3ms", levels=2, level=level)
    monkeypatch.setattr(sampled, "_SAMPLES", 5)
    parts = list(cap.depth_batches(symbol, every="3ms", levels=2, level=level))
    assert all(part.num_rows <= 5 for part in parts) and len(parts) > 5
    assert pa.Table.from_batches(parts).unify_dictionaries().equals(whole)


def test_forms_of_prices(mixed):
    cap, symbol, level = mixed
    exact, decimal, near = (
        cap.depth(symbol, every="5ms", levels=2, level=level, price=p).to_pylist() for p in ("int", "decimal", "float")
    )
    compared = 0
    for i, d, f in zip(exact, decimal, near, strict=True):
        for name, scale in (("bid_px_0", "price_scale"), ("ask_qty_1", "qty_scale")):
            if i[name] is None:
                assert d[name] is None and f[name] is None
                continue
            assert d[name] == Decimal(i[name]).scaleb(-i[scale]) and f[name] == float(d[name])
            compared += 1
    assert compared > 20


def test_untrusted_times_have_no_prices(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        times = written(
            journal,
            {
                5: [events.Subscribed(SYMBOL), events.BookChanged(SYMBOL, "LIVE", "NONE", 5)],
                100: [events.Unsubscribed(SYMBOL)],
                200: [events.Subscribed(SYMBOL)],
                220: [events.BookChanged(SYMBOL, "LIVE", "NONE", 220)],
                300: [events.Unsubscribed(SYMBOL)],
            },
        )
    cap = captured(tmp_path)
    samples = cap.depth(SYMBOL, every="3ms", levels=LEVELS, price="int")
    assert_as_books(cap, samples, SYMBOL)
    dark = [row for row in samples.to_pylist() if row["cause"] and row["time_ns"] > times[5]]
    assert {row["cause"] for row in dark} == {"INIT", "SYNCING SUBSCRIBED"}
    assert all(not levels_of(row, "bid") and not levels_of(row, "ask") for row in dark)
    after = [row for row in samples.to_pylist() if row["time_ns"] >= times[300]]
    assert len(after) > 20 and not any(row["trusted"] for row in after), "unsubscribed, and never again"


def test_a_session_that_ended_and_one_that_lost_messages(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        frames = build.generate("spot-l2", messages=60, seed=3, symbols=1, admin=False).frames
        now = build.write_session(journal, 0, "spot-l2", frames, build.START_NS)
        build.write_session(journal, 0, "spot-l2", frames, now + 30 * MS, name="second")
    cap = captured(tmp_path)
    samples = cap.depth(SYMBOL, every="2ms", levels=LEVELS, price="int")
    assert_as_books(cap, samples, SYMBOL)
    ended = [row for row in samples.to_pylist() if now <= row["time_ns"] < now + 30 * MS]
    assert len(ended) == 15 and all("had ended" in row["cause"] for row in ended)


def test_lost_records_leave_samples_unproven_until_a_snapshot(tmp_path):
    frames = build.generate("spot-l2", messages=80, seed=3, symbols=1, admin=False).frames
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", build.START_NS)
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
        handler = Handler(level="L2", session_number=0, journal=journal)
        for i, frame in enumerate(frames[:-1]):
            if i == 40:
                journal.event(0, build.START_NS + i * 2 * MS + MS, {"type": "journal_lost", "records": 3, "bytes": 900})
            handler.on_bytes(frame, build.START_NS + (i + 1) * 2 * MS)
    cap = captured(tmp_path)
    assert "JOURNAL_LOST" in cap.gaps()["cause"].to_pylist()
    samples = cap.depth(SYMBOL, every="3ms", levels=LEVELS, price="int")
    assert_as_books(cap, samples, SYMBOL)
    assert {row["cause"] for row in samples.to_pylist()} >= {None, sampled._LOST}


def test_compacted_and_ended_by_what_was_recorded(tmp_path):
    build.journal_of(tmp_path / "journal", messages=150)
    build.record(tmp_path, flush_rows=200)
    cap = recorder.open(tmp_path / "captures")
    symbol, level = cap.ticks(columns=["symbol", "level"]).to_pylist()[0].values()
    last = cap.ticks(columns=["recv_ns"])["recv_ns"].to_numpy().max()
    before = cap.depth(symbol, every="4ms", level=level)
    assert before["time_ns"][-1].as_py() <= last < before["time_ns"][-1].as_py() + 4 * MS
    assert cap.depth(symbol, end=int(last) + 10**12, every="4ms", level=level).equals(before)
    compact.compact_day(cap.tree, cap.dates()[0])
    assert recorder.open(tmp_path / "captures").depth(symbol, every="4ms", level=level).equals(before)


def test_what_cannot_be_sampled(mixed):
    cap, symbol, _ = mixed
    with pytest.raises(NoSuchSymbol):
        cap.depth("NO/SUCH")
    for wrong in ({"levels": 0}, {"levels": 5000}, {"every": "1 parsec"}, {"price": "text"}, {"level": "L4"}):
        with pytest.raises(UsageError):
            cap.depth(symbol, **wrong)
        with pytest.raises(UsageError):
            cap.depth_batches(symbol, **wrong)
    with pytest.raises(NoSuchSymbol):
        cap.depth(symbol, "2001-01-01", "2001-01-02")


def test_the_book_before_each_trade_as_the_documentation_joins_it(mixed):
    pandas = pytest.importorskip("pandas")
    cap, _, _ = mixed
    rows = cap.ticks(level="L2", columns=["symbol", "side"]).to_pylist()
    symbol = next(row["symbol"] for row in rows if row["side"] == "trade")
    book = cap.depth(symbol, every="event", levels=1, level="L2").to_pandas()
    trades = cap.ticks(symbol, price="float").to_pandas().query("side == 'trade'")
    joined = pandas.merge_asof(
        trades, book, left_on="recv_ns", right_on="time_ns", allow_exact_matches=False, suffixes=("", "_book")
    )
    assert len(joined) == len(trades) > 0
    for trade, bid in zip(joined["recv_ns"].tolist(), joined["bid_px_0"].tolist(), strict=True):
        top = cap.book(symbol, trade - 1, 1, level="L2").bids
        assert pandas.isna(bid) if not len(top) else bid == pytest.approx(top["price"][0])
