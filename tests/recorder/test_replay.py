"""A recorded day plays again in the order it was applied, through the same handler, to the same books."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest

import recorder
from kfix_md import Handler
from recorder import compact, replay
from tests.oracle.codec import message
from tests.oracle.follow import Follower
from tests.recorder import build


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    path = tmp_path_factory.mktemp("replayed")
    sources = build.journal_of(path / "journal", ("spot-l2", "derivatives-l3", "derivatives-l2"), messages=150)
    build.record(path, flush_rows=700)
    return recorder.open(path / "captures"), sources


def test_every_message_in_order_and_the_same_words(day):
    cap, sources = day
    played = list(cap.replay(cap.dates()[0]))
    wanted = []
    for stream, start in sources.values():
        times = build.seq_times(stream.frames, start)
        seen = [message(f) for f in stream.frames]
        wanted += [(times[m.seq], m) for m in seen if m.type in ("W", "X")]
    assert [(m.recv_ns, m.seq, m.symbol) for m in played] == [(t, m.seq, m.symbol) for t, m in wanted]
    for got, (_, sent) in zip(played, wanted, strict=True):
        again = message(got.fix())
        assert (again.type, again.crc, len(again.entries)) == (sent.type, sent.crc, len(sent.entries))
        for a, b in zip(again.entries, sent.entries, strict=True):
            assert (a.side, a.action, a.price, a.qty, a.ord_type, a.aggressor) == (
                b.side,
                b.action,
                b.price,
                b.qty,
                b.ord_type,
                b.aggressor,
            )
            assert a.queue_ns == b.queue_ns and a.event_ns == b.event_ns


def test_through_the_live_handler_every_crc_is_right_again(day):
    cap, sources = day
    stream, _ = sources["derivatives-l3"]
    handler = Handler(level="L3")
    for _ in cap.replay(cap.dates()[0], symbols=list(stream.markets), handler=handler):
        pass
    l2 = sources["derivatives-l2"][0]  # the same symbols, as L2, from another session: after those of L3
    assert handler.stats["entries"] == stream.entries + l2.entries
    spot = Handler(level="L2")
    list(cap.replay(cap.dates()[0], symbols=list(sources["spot-l2"][0].markets), handler=spot))
    assert spot.stats["crc_ok"] == sources["spot-l2"][0].checksums
    assert spot.stats["crc_failed"] == 0
    whole = Follower().feed(sources["spot-l2"][0].data)
    for symbol, book in whole.books.items():
        assert spot[symbol].depth(1000)[0]["price"].tolist() == [float(p) for p in book.best("0", 1000)]


def test_speed_is_kept_by_waiting(day):
    cap, _ = day
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    played = replay.replay(cap, cap.dates()[0], 2.0, None, None, sleep, lambda: now[0])
    first, *_, last = itertools.islice(played, 100)
    assert now[0] == pytest.approx((last.recv_ns - first.recv_ns) / 1e9 / 2)
    assert all(w > 0 for w in waits)


def test_compacted_days_and_small_windows_play_the_same(day, monkeypatch):
    cap, _ = day
    key = [(m.recv_ns, m.session, m.seq, m.symbol, m.rows.num_rows) for m in cap.replay(cap.dates()[0])]
    monkeypatch.setattr(replay, "_WINDOW_ROWS", 300)
    assert [(m.recv_ns, m.session, m.seq, m.symbol, m.rows.num_rows) for m in cap.replay(cap.dates()[0])] == key
    compact.compact_day(cap.tree, cap.dates()[0])
    again = recorder.open(cap.tree.root)
    assert [(m.recv_ns, m.session, m.seq, m.symbol, m.rows.num_rows) for m in again.replay(cap.dates()[0])] == key


def test_frames_of_an_open_gap_wait_for_those_before_them():
    names = ("session", "seq", "recv_ns", "flags")
    rows = pa.table(
        {
            n: pa.array(v)
            for n, v in zip(names, ([1, 1, 1, 2], [5, 8, 9, 1], [10, 20, 30, 15], [0, 64, 64, 0]), strict=True)
        }
    )
    now, later = replay._in_order(rows, last=False)
    assert list(zip(now["session"].to_pylist(), now["seq"].to_pylist(), strict=True)) == [(1, 5), (2, 1)]
    rest = pa.concat_tables([later, pa.table({"session": [1, 1], "seq": [6, 7], "recv_ns": [40, 50], "flags": [2, 2]})])
    assert replay._in_order(rest, last=True)[0]["seq"].to_pylist() == [6, 7, 8, 9]


@pytest.mark.parametrize("raw", ["É/USD".encode(), b"\xc9\\/USD", b"a\xff"])
def test_symbols_and_ids_of_any_bytes_are_kept(tmp_path, raw):
    """Recorded, queried, replayed through a handler, exported: the bytes of 55 and 278 are those of the venue."""
    frames = []
    for frame in build.generate("spot-l2", messages=40, symbols=1, empties=False).frames:
        start, end = frame.index(b"\x0135=") + 1, frame.rindex(b"\x0110=") + 1
        body = frame[start:end].replace(b"\x0155=BTC/USD\x01", b"\x0155=" + raw + b"\x01")
        text = b"8=FIX.4.4\x019=%d\x01" % len(body) + body
        frames.append(text + b"10=%03d\x01" % (sum(text) % 256))
    with build.JournalWriter(tmp_path / "journal") as journal:
        build.write_session(journal, 0, "spot-l2", frames, build.START_NS)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    [symbol] = cap.symbols()
    handler = Handler(level="L2")
    played = list(cap.replay(cap.dates()[0], symbols=[symbol], handler=handler))
    assert played and all(b"\x0155=" + raw + b"\x01" in one.fix() for one in played)
    assert handler.stats["crc_ok"] == sum(b"\x015041=" in one.fix() for one in played) > 30
    assert handler.stats["crc_failed"] == 0
    assert cap.book(symbol, played[-1].recv_ns).top() == handler[symbol].top(price="int", allow_stale=True)
    assert (
        cap.instruments()["symbol"].to_pylist() == [symbol] and cap.ticks(symbol).num_rows and cap.bbo(symbol).num_rows
    )
