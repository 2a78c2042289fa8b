"""Rows in Parquet are the entries of the wire, exactly, once, in order, with what was known of them."""

from __future__ import annotations

import random
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import recorder
from kfix_md.errors import CaptureError, NoSuchSymbol, UsageError
from kfix_md.journal.writer import JournalWriter
from recorder.process import Recorder
from recorder.schema import Flags
from recorder.verify import verify
from tests.oracle.follow import Follower
from tests.recorder import build
from tests.streams import generate


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded")
    streams = build.journal_of(path / "journal", messages=250)
    build.record(path, flush_rows=1500, checkpoint_rows=400)
    return recorder.open(path / "captures"), streams


def as_told(rows: pa.Table) -> list[tuple]:
    names = ("symbol", "seq", "recv_ns", "side", "action", "price", "qty", "event_ns", "queue_ns", "order_id")
    return list(zip(*(rows[n].to_pylist() for n in names), strict=True))


@pytest.mark.parametrize("service", build.SERVICES)
def test_rows_are_the_oracles_entries(recorded, service):
    cap, streams = recorded
    stream, start = streams[service]
    session = {r["service"]: r["session"] for r in cap.sessions().to_pylist()}[service]
    wanted = build.oracle_entries(stream.data, build.seq_times(stream.frames, start))
    rows = cap.ticks(price="decimal", ids="text")
    rows = rows.filter(pa.compute.equal(rows["session"], session))
    clears = rows.filter(pa.compute.equal(rows["action"], "clear"))
    rows = rows.filter(pa.compute.not_equal(rows["action"], "clear"))
    by_id = service.endswith("l3")
    got = [(*r[:9], r[9] if by_id or r[3] == "trade" else None) for r in as_told(rows)]
    assert got == [
        (
            t.symbol,
            t.seq,
            t.recv_ns,
            t.side,
            t.action,
            t.price,
            t.qty,
            t.event_ns,
            t.queue_ns,
            t.id if by_id or t.side == "trade" else None,
        )
        for t in wanted
    ]
    assert len(got) == stream.entries
    snapshots = sum(b"\x0135=W\x01" in frame for frame in stream.frames)
    assert clears.num_rows == snapshots
    assert set(clears["side"].to_pylist()) == {None}


def test_the_exchange_time_is_stored_in_two_columns_and_given_in_one(recorded):
    cap, streams = recorded
    files = [f for day in cap.dates() for f in cap.tree.files("ticks", day)]
    raw = pa.concat_tables([pq.read_table(f, columns=["level", "event_ms", "event_frac_ns"]) for f in files])
    given = cap.ticks(columns=["event_ns", "action"])
    whole = [
        ms * 1_000_000 + rest
        for ms, rest in zip(raw["event_ms"].to_pylist(), raw["event_frac_ns"].to_pylist(), strict=True)
    ]
    assert given.column_names == ["event_ns", "action"]
    assert given["event_ns"].to_pylist() == whole
    assert str(given.to_pandas()["event_ns"].dtype) == "int64"  # never null: nothing turns it into a float
    sent: set[int] = set()
    for stream, _ in streams.values():
        Follower(lambda m, book: sent.add(m.sending_ns) if m.type == "W" else None).feed(stream.data)
    assert {e for e, a in zip(whole, given["action"].to_pylist(), strict=True) if a == "clear"} == sent
    fine = raw["event_frac_ns"].to_numpy() != 0
    assert set(np.array(raw["level"].to_pylist())[fine]) == {"L3"}  # 273 has milliseconds, 5060 nanoseconds
    assert cap.ticks(columns=["event_ms"])["event_ms"].equals(raw["event_ms"])


def test_flags_say_what_the_feed_knew(recorded):
    cap, _ = recorded
    rows = cap.ticks("BTC/USD", level="L2")
    flags = rows["flags"].to_numpy()
    last = (flags & Flags.LAST) != 0
    crc = rows["crc"].is_valid().to_numpy()
    assert (crc <= last).all() and crc.any()
    assert ((flags[crc] & (Flags.CRC_CHECKED | Flags.CRC_OK)) == Flags.CRC_CHECKED | Flags.CRC_OK).all()
    clear = np.array(rows["action"].to_pylist()) == "clear"
    assert ((flags[clear] & Flags.SNAPSHOT) != 0).all()
    assert not (flags & (Flags.MAYBE_BAD_BOOK | Flags.POSSDUP | Flags.IGNORED)).any()
    trades = cap.ticks("PF_BTCUSD", level="L2", columns=["side", "flags", "aggressor", "ord_type"])
    is_trade = np.array(trades["side"].to_pylist()) == "trade"
    assert is_trade.any()
    assert (((trades["flags"].to_numpy() & Flags.TRADE) != 0) == is_trade).all()
    assert set(trades["aggressor"].filter(pa.array(is_trade)).to_pylist()) == {"buy", "sell"}


def test_flushes_of_any_size_give_the_same_rows(tmp_path):
    build.journal_of(tmp_path / "journal", ("spot-l3", "derivatives-l2"), messages=120)
    whole = None
    for flush_rows in (10**9, 1, 97, 1000):
        target = tmp_path / str(flush_rows)
        one = Recorder(build.Settings(tmp_path / "journal", target, flush_rows=flush_rows, row_group=200))
        one.once()
        one.close()
        rows = recorder.open(target).ticks()
        whole = whole or rows
        assert rows.equals(whole)
        assert len(set(build.keys(rows))) == rows.num_rows


def test_a_backlog_of_events_alone_is_flushed_in_parts(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", build.START_NS)
        for i in range(1000):
            journal.event(0, build.START_NS + i, {"type": "connected", "try": i})
    one = Recorder(build.settings(tmp_path, flush_rows=100))
    one.once()
    one.close()
    cap = recorder.open(tmp_path / "captures")
    assert one.flushes == 10 and cap.status().num_rows == 1000


def test_a_later_recorder_goes_on_where_the_last_commit_stands(tmp_path):
    rng = random.Random(5)
    stream = generate("spot-l2", messages=400, seed=3)
    journal = JournalWriter(tmp_path / "journal")
    build.announce(journal, 0, "spot-l2", build.START_NS)
    journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
    handler = build.Handler(level="L2", session_number=0, journal=journal)
    one = None
    for i, frame in enumerate(stream.frames):
        handler.on_bytes(frame, build.START_NS + i)
        if rng.random() < 0.05:
            one = one or Recorder(build.settings(tmp_path, flush_rows=50))
            one.step()
            if rng.random() < 0.5:  # without a flush: what was read and not committed is read again
                one.close()
                one = None
    journal.close()
    if one:
        one.close()
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    rows = cap.ticks()
    assert rows.num_rows == stream.entries + sum(b"\x0135=W\x01" in f for f in stream.frames)
    assert len(set(build.keys(rows))) == rows.num_rows
    proof = verify(cap)
    assert proof.holds and proof.summary()["ok"] == stream.checksums
    assert cap.sessions().num_rows == 1


def test_frames_of_a_gap_count_when_they_are_released(tmp_path):
    frames = generate("spot-l2", messages=60, seed=4, symbols=1, empties=False, admin=False).frames
    t0 = build.START_NS
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", t0)
        journal.event(0, t0, {"type": "logged_on", "session_id": "one"})
        for i, frame in enumerate(frames[:20]):
            journal.frame(0, t0 + i, frame)
        opened = {"type": "gap_open", "id": 7, "first": 21, "last": 23, "cause": "lost", "symbols": ["BTC/USD"]}
        journal.event(0, t0 + 25, opened)
        for i in (23, 24, 25):
            journal.frame(0, t0 + 30 + i, frames[i], Flags.DEFERRED)
        journal.frame(0, t0 + 57, frames[5], Flags.IGNORED)
        one = Recorder(build.settings(tmp_path))
        one.once()
        one.close()
        held = recorder.open(tmp_path / "captures")
        assert max(held.ticks()["seq"].to_pylist()) == 20
        assert held.book("BTC/USD", t0 + 60).reason.startswith("inside a gap (LOST)")
        for i in (20, 21, 22):
            journal.frame(0, t0 + 60 + i, frames[i], Flags.POSSDUP)
        journal.event(0, t0 + 90, {"type": "released", "first": 24, "last": 26})
        journal.event(0, t0 + 90, {"type": "gap_close", "id": 7, "healed": "replay"})
        for i, frame in enumerate(frames[26:]):
            journal.frame(0, t0 + 100 + i, frame)
    build.record(tmp_path)  # another process: the deferred frames are read from the journal
    cap = recorder.open(tmp_path / "captures")
    rows = cap.ticks()
    seq = rows["seq"].to_numpy()
    assert (np.diff(seq) >= 0).all() and set(range(4, 64)) <= set(seq.tolist())
    flags = dict(zip(seq.tolist(), rows["flags"].to_numpy().tolist(), strict=True))
    assert [bool(flags[s] & Flags.DEFERRED) for s in (23, 24, 26, 27)] == [False, True, True, False]
    [gap] = cap.gaps().to_pylist()
    assert (gap["cause"], gap["healed"], gap["first_seq"], gap["last_seq"]) == ("LOST", "replay", 21, 23)
    assert (gap["opened_ns"], gap["closed_ns"], gap["symbol"]) == (t0 + 25, t0 + 90, "BTC/USD")
    assert cap.sessions()["ignored"].to_pylist() == [0] or cap.sessions()["ended_ns"].to_pylist() == [None]
    whole = Follower().feed(b"".join(frames)).books["BTC/USD"]
    book = cap.book("BTC/USD", t0 + 10**6, depth=1000)
    assert [int(q) for q in book.book.depth(1000, price="int")[0]["qty"]] == [
        int(q.scaleb(8)) for _, q, _ in whole.depth("0", 1000)
    ]


@pytest.mark.parametrize("service", ["spot-l2", "derivatives-l3"])
def test_books_at_random_times_equal_the_oracle(recorded, service):
    cap, streams = recorded
    stream, start = streams[service]
    times = build.seq_times(stream.frames, start)
    rng = random.Random(6)
    wanted = {}
    picked = set(rng.sample(range(20, len(stream.frames)), 40))

    def keep(message, book):
        if message.seq in picked and book is not None:
            p, q = book.price_precision, book.qty_precision
            wanted[message.seq] = (
                message.symbol,
                [[(int(x.scaleb(p)), int(y.scaleb(q)), n) for x, y, n in book.depth(side, 1000)] for side in "01"],
            )

    Follower(keep).feed(stream.data)
    for seq, (symbol, sides) in wanted.items():
        at = cap.book(symbol, times[seq], depth=1000, level=service[-2:].upper())
        assert at.trusted, at.reason
        assert at.seq == seq
        got = [[tuple(map(int, level)) for level in side.tolist()] for side in at.book.depth(1000, price="int")]
        assert got == sides


def test_queue_position(recorded):
    cap, streams = recorded
    stream, start = streams["derivatives-l3"]
    end = build.seq_times(stream.frames, start)[len(stream.frames) - 1]
    book = Follower().feed(stream.data).books["PF_BTCUSD"]
    at = cap.book("PF_BTCUSD", end - 1, level="L3")
    assert at.orders().num_rows == len(book.orders)
    price = book.best("0")[0]
    queue = sorted(book.levels["0"][price].items(), key=lambda o: (o[1].queue_ns, o[1].arrival))
    ahead = 0
    for place, (name, order) in enumerate(queue):
        assert at.queue_position(name) == (place, ahead)
        ahead += int(order.qty.scaleb(book.qty_precision))
    assert at.queue_position("00000000-0000-0000-0000-000000000000") is None


def test_words_that_cannot_be(recorded, tmp_path):
    cap, _ = recorded
    with pytest.raises(NoSuchSymbol, match="near: BTC/USD"):
        cap.ticks("BTC/USDT")
    with pytest.raises(UsageError, match="is not a time"):
        cap.ticks("BTC/USD", "yesterday")
    with pytest.raises(UsageError, match="no column 'bid'"):
        cap.ticks("BTC/USD", columns=["bid"])
    with pytest.raises(UsageError, match='use "int", "float" or "decimal"'):
        cap.ticks("BTC/USD", price="money")
    with pytest.raises(UsageError, match="has no captures"):
        recorder.open(tmp_path)
    with pytest.raises(UsageError, match="no journal at"):
        Recorder(build.settings(tmp_path))
    assert cap.book("BTC/USD", build.START_NS - 10**9).reason == "nothing was received before this time"


def test_prices_in_every_form(recorded):
    cap, _ = recorded
    raw = cap.ticks("BTC/USD", level="L2")
    exact = cap.ticks("BTC/USD", level="L2", price="decimal")
    near = cap.ticks("BTC/USD", level="L2", price="float", columns=["price", "qty"])
    for name in ("price", "qty"):
        scale = raw[name + "_scale"].to_pylist()
        wanted = [Decimal(v).scaleb(-s) for v, s in zip(raw[name].to_pylist(), scale, strict=True)]
        assert exact[name].to_pylist() == wanted
        assert near[name].to_pylist() == [float(w) for w in wanted]
    assert cap.ticks("BTC/USD", end=build.START_NS, price="float").num_rows == 0


def test_bars_and_bbo_against_plain_loops(recorded):
    cap, _ = recorded
    trades = cap.ticks("PF_BTCUSD", level="L2", price="decimal")
    rows = [r for r in trades.to_pylist() if r["side"] == "trade"]
    plain: dict[int, list] = {}
    for r in rows:
        plain.setdefault(r["recv_ns"] // 50_000_000 * 50_000_000, []).append(r)
    got = cap.bars("PF_BTCUSD", "50ms", price="decimal").to_pylist()
    assert [b["time_ns"] for b in got] == sorted(plain)
    for bar in got:
        prices = [r["price"] for r in plain[bar["time_ns"]]]
        assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (prices[0], max(prices), min(prices), prices[-1])
        assert bar["volume"] == sum(r["qty"] for r in plain[bar["time_ns"]])
        assert bar["trades"] == len(prices)
    best = cap.bbo("BTC/USD", price="int", level="L2").to_pylist()
    assert best
    for row in random.Random(7).sample(best, 20):
        assert cap.book("BTC/USD", row["recv_ns"], level="L2").top() == (
            row["bid"],
            row["bid_qty"],
            row["ask"],
            row["ask_qty"],
        )


def test_one_recorder_and_a_commit_that_is_missing(tmp_path):
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=50)
    one = Recorder(build.settings(tmp_path))
    with pytest.raises(CaptureError, match="already have a recorder, process"):
        Recorder(build.settings(tmp_path))
    one.once()
    one.close()
    (tmp_path / "captures/state/commit.json").rename(tmp_path / "aside")
    with pytest.raises(CaptureError, match=r"commit\.json is missing"):
        Recorder(build.settings(tmp_path))


def test_a_full_disk_is_waited_for(tmp_path, monkeypatch):
    streams = build.journal_of(tmp_path / "journal", ("spot-l2",), messages=200)
    one = Recorder(build.settings(tmp_path, flush_rows=200, compact=False))
    real, fails = one.writer._write, iter([False, True, True, False, True] + [False] * 1000)

    def write(*args):
        real(*args)
        if next(fails):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(one.writer, "_write", write)
    slept = []
    one.run(lambda: len(slept) > 30, slept.append)
    one.close()
    cap = recorder.open(tmp_path / "captures")
    rows = cap.ticks()
    assert len(set(build.keys(rows))) == rows.num_rows
    assert rows.num_rows - sum(a == "clear" for a in rows["action"].to_pylist()) == streams["spot-l2"][0].entries
    assert not list((tmp_path / "captures/work").iterdir())


def test_a_flipped_bit_anywhere_in_a_file_is_found(tmp_path):
    """Each page carries a CRC32, the footer its magic; what is neither (padding, statistics) may change unnoticed."""
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=200)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    [path] = cap.tree.files("ticks", cap.dates()[0])
    whole, sound, rng = cap.ticks(), path.read_bytes(), random.Random(2)
    end = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")  # of the pages
    found = 0
    for _ in range(60):
        bad = bytearray(sound)
        bad[rng.randrange(4, end)] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            assert recorder.open(cap.tree.root).ticks().equals(whole)
        except CaptureError as error:
            assert path.name in str(error)
            found += 1
    assert found > 50


def test_a_truncated_file_is_named(tmp_path):
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=50)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    [path] = cap.tree.files("ticks", cap.dates()[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CaptureError, match=path.name):
        cap.ticks("BTC/USD")
    with pytest.raises(CaptureError, match=path.name):
        verify(cap)
