"""Lives of orders against a plain book in Python that every message of the venue goes through."""

from __future__ import annotations

import itertools
from collections import defaultdict
from decimal import Decimal

import pytest

import recorder
from kfix_md import UsageError
from kfix_md.journal import events
from recorder import files
from tests.oracle.follow import Follower
from tests.recorder import build
from tests.streams import generate

SERVICE, SYMBOLS = "derivatives-l3", 2


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """Captures of a session with a gap in its states, the receive time of each MsgSeqNum, and the stream."""
    path = tmp_path_factory.mktemp("orders")
    stream = generate(SERVICE, messages=260, seed=3, symbols=SYMBOLS, empties=False)
    symbol = next(iter(stream.markets))
    times = build.seq_times(stream.frames, build.START_NS)
    with build.JournalWriter(path / "journal") as journal:
        half = len(stream.frames) // 2
        now = build.write_session(journal, 0, SERVICE, stream.frames[:1], build.START_NS, end=False)
        handler = build.Handler(level="L3", session_number=0, journal=journal)
        for index, frame in enumerate(stream.frames):
            now = times[index + 1]
            for at, state in ((20, "LIVE"), (half, "GAP"), (half + 20, "LIVE")):
                if index == at:
                    journal.event(0, now, events.BookChanged(symbol, state, "NONE", index))
            if index:
                handler.on_bytes(frame, now)
    build.record(path, checkpoint_rows=100, flush_rows=150)
    return recorder.open(path / "captures"), times, stream


def histories(stream, times):
    """By (symbol, order): (time, price, qty, orders ahead, quantity ahead) after each message that changed one; None
    where it was no longer there."""
    found, last = defaultdict(list), {}

    def note(message, book):
        if book is None:
            return
        for name in set(book.orders) | {name for symbol, name in last if symbol == message.symbol}:
            now = None
            if name in book.orders:
                one = book.orders[name]
                now = (one.price, one.qty, *book.position(name))
            key = message.symbol, name
            if last.get(key) != now:
                found[key].append((times[message.seq], now))
                last[key] = now

    Follower(note).feed(stream.data)
    return found


def exact(row: dict) -> tuple | None:
    if row["price"] is None:
        return None
    return row["price"], row["qty"], row["orders_ahead"], row["qty_ahead"]


@pytest.mark.parametrize("batch_rows", [files._BATCH_ROWS, 11])
def test_the_life_of_every_order_is_that_of_the_oracle(day, batch_rows, monkeypatch):
    cap, times, stream = day
    monkeypatch.setattr(files.batches, "__kwdefaults__", {**files.batches.__kwdefaults__, "rows": batch_rows})
    wanted = histories(stream, times)
    chosen = sorted(wanted, key=lambda key: -len(wanted[key]))[:12] + sorted(wanted)[:12]
    events_seen = set()
    for symbol, name in chosen:
        rows = cap.order(name, symbol, price="decimal").to_pylist()
        own = [row for row in rows if row["event"] != "untrusted"]
        assert [(row["time_ns"], exact(row)) for row in own] == wanted[symbol, name], name
        assert [row["time_ns"] for row in rows] == sorted(row["time_ns"] for row in rows)
        events_seen |= {row["event"] for row in rows}
        before = None
        for row in own:
            now = exact(row)
            if row["event"] == "queue":
                assert now[:2] == before[:2] and now[2:] != before[2:]
            if row["event"] == "reduced":
                assert now[0] == before[0] and now[1] < before[1]
            assert (row["event"] in ("deleted", "left", "gone")) == (now is None)
            assert (row["event"] in ("added", "snapshot")) == (before is None and now is not None)
            before = now
    assert {"added", "queue", "deleted"} <= events_seen


def test_trust_ends_with_a_row_without_numbers(day):
    cap, _, _ = day
    symbol = cap.symbols()[0] if len(cap.coverage()) == 0 else cap.coverage()["symbol"][0].as_py()
    [gap] = [row for row in cap.coverage(symbol=symbol).to_pylist() if row["state"] == "GAP"]
    resting = [
        row["order_id"]
        for row in cap.orders(symbol).to_pylist()
        if row["first_ns"] < gap["from_ns"] and row["last_ns"] > gap["to_ns"]
    ]
    assert resting
    rows = cap.order(resting[0], symbol).to_pylist()
    [end] = [row for row in rows if row["event"] == "untrusted"]
    assert (end["time_ns"], end["price"], end["trusted"], end["cause"]) == (gap["from_ns"], None, False, "GAP")
    for row in rows:
        inside = gap["from_ns"] <= row["time_ns"] < gap["to_ns"]
        assert not (inside and row["trusted"])


def test_a_summary_of_every_order(day):
    """First and last price and quantity, how long it rested and how it ended, from the entries of the venue."""
    cap, times, stream = day
    entries = defaultdict(lambda: defaultdict(list))
    for message, _, entry in Follower().feed(stream.data).entries:
        entries[message.symbol][entry.id].append((times[message.seq], entry))
    for symbol, orders in entries.items():
        rows = {row["order_id"]: row for row in cap.orders(symbol, price="decimal").to_pylist()}
        assert set(rows) == set(orders)
        for name, row in rows.items():
            life = orders[name]
            there = [one for _, one in life if one.action != "2"] or [life[-1][1]]
            assert (row["price_first"], row["qty_first"]) == (life[0][1].price, life[0][1].qty)
            assert (row["price_last"], row["qty_last"]) == (there[-1].price, there[-1].qty)
            over = life[-1][1].action == "2"
            assert row["ended"] == ("deleted" if over and not life[-1][1].qty else "left" if over else "resting"), name
            assert row["first_ns"] == life[0][0] and (not over or row["last_ns"] == life[-1][0])
            assert row["rows"] == len(life) and row["qty_reduced"] == reduced([one for _, one in life])
            since = life[0][1].queue_ns or life[0][0]
            assert row["resting_ns"] == max(0, row["last_ns"] - since)
        assert {row["ended"] for row in rows.values()} >= {"deleted", "resting"}


def reduced(entries: list) -> Decimal:
    """What was taken away at an unchanged price."""
    pairs = [(a, b) for a, b in itertools.pairwise(entries) if a.price == b.price and "2" not in (a.action, b.action)]
    return sum((max(a.qty - b.qty, Decimal(0)) for a, b in pairs), Decimal(0))


def test_an_order_that_is_not_in_the_next_snapshot_is_gone(tmp_path):
    """Two sessions: what rests at the end of the first, and is not in the second."""
    first, second = (generate(SERVICE, messages=60, seed=seed, symbols=1, empties=False) for seed in (3, 9))
    with build.JournalWriter(tmp_path / "journal") as journal:
        now = build.write_session(journal, 0, SERVICE, first.frames, build.START_NS)
        build.write_session(journal, 0, SERVICE, second.frames, now)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    [symbol] = cap.symbols()
    rows = cap.orders(symbol).to_pylist()
    gone = [row for row in rows if row["ended"] == "gone"]
    assert gone and {row["session"] for row in gone} == {rows[0]["session"]}
    snapshot = min(row["first_ns"] for row in rows if row["session"] != rows[0]["session"])
    assert {row["last_ns"] for row in gone} == {snapshot}
    for row in gone[:5]:
        life = cap.order(row["order_id"], symbol).to_pylist()
        over = [one for one in life if one["event"] == "gone"]
        assert [one["time_ns"] for one in over] == [snapshot] and life[-1] == over[-1]


def test_what_is_no_order_is_said(day):
    cap, _, stream = day
    symbol = next(iter(stream.markets))
    for name in ("00000000-0000-0000-0000-000000000000", "", "nothing"):
        with pytest.raises(UsageError, match="order"):
            cap.order(name, symbol)
    with pytest.raises(UsageError, match="in this time"):
        cap.orders(symbol, end=build.START_NS - 1, start=build.START_NS - 2)
