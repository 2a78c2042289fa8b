"""A recorded day plays again in the order it was applied, through the same handler, to the same books."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import re
import shutil
import sys
import threading
import time

import numpy as np
import pytest

import recorder
from kfix_md import Handler, trading_day
from kfix_md._recorded import Recorded
from kfix_md.journal import events
from recorder import blocks, compact, derive, files, replay
from tests.oracle.codec import message
from tests.oracle.follow import Follower
from tests.recorder import build
from tests.streams.wire import body_of, seal

INSTRUMENT = ("symbol", "price_precision", "qty_precision")


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
    # not those of the same symbols as L2, from another session, which are no part of these books
    assert (handler.stats["entries"], handler.stats["crc_ok"]) == (stream.entries, stream.checksums)
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


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_ROWS", 300)
    monkeypatch.setattr(blocks, "_FIRST_ROWS", 20)
    monkeypatch.setattr(blocks, "_KEPT_ROWS", 500)
    monkeypatch.setattr(blocks, "_BATCH_ROWS", (8, 64))


def keys(played) -> list[tuple]:
    return [(m.recv_ns, m.session, m.seq, m.symbol, m.level, m.scales, m.flags, m.rows.num_rows) for m in played]


@pytest.fixture
def compacted(day, tmp_path):
    cap, _ = day
    shutil.copytree(cap.tree.root, tmp_path / "captures")
    again = recorder.open(tmp_path / "captures")
    compact.compact_day(again.tree, again.dates()[0])
    return recorder.open(again.tree.root)


def test_compacted_days_and_small_blocks_play_the_same(day, compacted, small_blocks, monkeypatch):
    cap, _ = day
    small = keys(cap.replay(cap.dates()[0]))
    assert keys(compacted.replay(cap.dates()[0])) == small
    assert len(list(blocks.blocks(cap, cap.dates()[0], None))) > 5
    monkeypatch.undo()
    assert keys(cap.replay(cap.dates()[0])) == small
    assert len(list(blocks.blocks(cap, cap.dates()[0], None))) == 1


@pytest.mark.parametrize("row_group", [64, 700])
def test_row_groups_of_one_symbol_and_of_several_play_the_same(day, tmp_path, small_blocks, row_group):
    """Those that are open at a time are limited, so that some are begun again where they were left."""
    cap, _ = day
    shutil.copytree(cap.tree.root, tmp_path / "captures")
    again = recorder.open(tmp_path / "captures")
    compact.compact_day(again.tree, again.dates()[0], row_group=row_group)
    again = recorder.open(again.tree.root)
    pieces = again._reader(*trading_day.session_bounds(again.dates()[0]), None, blocks.BOOKS).pieces
    assert {files.by_symbol(piece) for piece in pieces} == ({False} if row_group == 64 else {False, True})
    played = keys(again.replay(again.dates()[0]))
    assert played == keys(cap.replay(cap.dates()[0]))
    middle = len(played) // 2
    merged = recorder.open([again.tree.root])
    assert keys(merged.replay(again.dates()[0])) == played
    for opened in (again, merged):
        found = blocks.blocks(opened, again.dates()[0], None, played[middle][0])
        times = np.concatenate([block.recv_ns for block in found])
        assert times.tolist() == [key[0] for key in played if key[0] >= played[middle][0]]


def test_the_first_block_takes_a_small_part_of_a_day(day, tmp_path, monkeypatch):
    """Few rows of few row groups, however many symbols there are."""
    cap, _ = day
    pieces = [files.Piece(tmp_path, i, (1000 * i, 10**9), 10**6) for i in range(100)]
    reached = [sum(one.span[0] < end for one in pieces) for _, end in blocks.windows(pieces, 0, 10**10)]
    assert reached[:3] == [8, 40, 100]

    shutil.copytree(cap.tree.root, tmp_path / "captures")
    again = recorder.open(tmp_path / "captures")
    compact.compact_day(again.tree, again.dates()[0], row_group=256)
    monkeypatch.setattr(blocks, "_FIRST_ROWS", 20)
    monkeypatch.setattr(blocks, "_FIRST_PIECES", 1)
    monkeypatch.setattr(blocks, "_BATCH_ROWS", (8, 64))
    read, real = [], files.piece_batches

    def counted(*arguments):
        for batch in real(*arguments):
            read.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(files, "piece_batches", counted)
    monkeypatch.setattr(blocks, "_ahead", lambda found: found)  # nothing is read before it is wanted
    for opened in (again, recorder.open([again.tree.root])):
        read.clear()
        first = next(blocks.blocks(opened, again.dates()[0], None))
        assert len(first) > 0 and 0 < sum(read) < again.rows() / 5


def test_a_clock_set_back_leaves_the_order_of_a_symbol(tmp_path, small_blocks):
    """In whichever block a message comes, it comes after those before it in its session."""
    frames = build.generate("spot-l2", messages=300, symbols=1, empties=False).frames
    with build.JournalWriter(tmp_path / "journal") as journal:
        journal.event(0, build.START_NS, events.SessionDescribed(0, "spot-l2", "L2", None, None, None, None, 0))
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
        live, now = Handler(level="L2", session_number=0, journal=journal), build.START_NS
        for number, frame in enumerate(frames):
            now += build.STEP_NS - (100 * build.STEP_NS if number == 150 else 0)
            live.on_bytes(frame, now)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    for _ in range(2):
        handler = Handler(level="L2")
        batches = list(cap.replay_batches(cap.dates()[0], handler=handler))
        seqs = np.concatenate([batch.seq for batch in batches])
        assert seqs.tolist() == sorted(seqs.tolist()) and len(batches) > 3
        assert handler.stats["crc_failed"] == 0 and handler.stats["crc_ok"] == live.stats["crc_ok"]
        assert all((np.diff([batch.time_ns for batch in batches])) >= 0)
        compact.compact_day(cap.tree, cap.dates()[0])
        cap = recorder.open(cap.tree.root)


@pytest.mark.parametrize("every", [None, "1ms", "70ms", "1h"])
def test_batches_are_the_messages_and_books_of_their_steps(day, compacted, small_blocks, every):
    """Against the messages one by one, as FIX, through another handler."""
    cap, _ = day
    handler, plain = Handler(level="L2"), Handler(level="L2")
    for symbol, price, qty in zip(*(cap.instruments()[c].to_pylist() for c in INSTRUMENT), strict=True):
        plain.define(symbol, price, qty)
    waiting = [message for message in cap.replay(cap.dates()[0]) if message.level == "L2"]
    wanted = {"every": every} if every else {}
    times, found = [], 0
    for batch in compacted.replay_batches(cap.dates()[0], handler=handler, **wanted):
        times.append(batch.time_ns)
        found += len(batch)
        while waiting and (waiting[0].recv_ns < batch.time_ns if every else waiting[0].recv_ns <= batch.time_ns):
            plain.deliver(waiting[0].fix(), waiting[0].recv_ns)
            waiting.pop(0)
        for symbol in handler.symbols:
            assert handler.book_state(symbol) == plain.book_state(symbol)
            if handler.book(symbol) is not None:
                for ours, theirs in zip(
                    handler[symbol].depth(1000, allow_stale=True),
                    plain[symbol].depth(1000, allow_stale=True),
                    strict=True,
                ):
                    assert ours.tolist() == theirs.tolist()
    assert not waiting and found == len(keys(cap.replay(cap.dates()[0])))
    assert handler.stats["crc_ok"] == plain.stats["crc_ok"] > 0 == handler.stats["crc_failed"]
    if every:
        step = derive.duration(every)
        assert times == list(range(times[0], times[-1] + step, step)) and times[0] % step == 0


def test_a_book_with_a_depth_has_no_more_levels_than_its_subscription(tmp_path):
    """As live: the venue need not send the deletes of what leaves a depth of 10."""
    frames = build.generate("spot-l2", messages=80, symbols=1, empties=False).frames
    with build.JournalWriter(tmp_path / "journal") as journal:
        journal.event(0, build.START_NS, events.SessionDescribed(0, "spot-l2", "L2", None, None, None, None, 10))
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
        live, now = Handler(level="L2", session_number=0, journal=journal), build.START_NS
        for frame in frames:
            now += build.STEP_NS
            live.on_bytes(frame, now)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    assert cap.sessions()["depth"].to_pylist() == [10]
    [symbol] = cap.symbols()
    handler = Handler(level="L2")
    list(cap.replay(cap.dates()[0], handler=handler))
    assert len(live[symbol].depth(1000, allow_stale=True)[0]) > 10
    assert len(handler[symbol].depth(1000, allow_stale=True)[0]) == 10


def test_a_precision_that_changes_begins_another_book(tmp_path):
    """And what comes before it in the same block is not read with the new one."""
    with build.JournalWriter(tmp_path / "journal") as journal:
        first = build.generate("spot-l2", messages=40, symbols=1, seed=1, empties=False)
        end = build.write_session(journal, 0, "spot-l2", first.frames, build.START_NS)
        [symbol] = first.markets
        finer = [frame_with_precision(frame, symbol) for frame in first.frames]
        build.write_session(journal, 0, "spot-l2", finer, end)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    handler, seen = Handler(level="L2"), []
    for played in cap.replay(cap.dates()[0], handler=handler):
        seen.append((played.scales, handler.precisions(symbol)))
        assert seen[-1][0] == seen[-1][1]
    assert len({scales for scales, _ in seen}) == 2
    batched = Handler(level="L2")
    list(cap.replay_batches(cap.dates()[0], handler=batched))
    assert batched.stats["entries"] == handler.stats["entries"] and batched.precisions(symbol) == seen[-1][0]
    assert batched[symbol].depth(9)[0].tolist() == handler[symbol].depth(9)[0].tolist()


def frame_with_precision(frame: bytes, symbol: str) -> bytes:
    """The same frame; a list with one more decimal of prices."""
    if b"\x0135=y" not in frame:
        return frame
    found = re.search(rb"\x012349=(\d+)\x01", frame)
    assert found is not None
    return seal(body_of(frame.replace(found[0], b"\x012349=%d\x01" % (int(found[1]) + 1))))


def test_frames_of_an_open_gap_wait_for_those_before_them():
    session, seq, recv_ns, flags = (np.array(v) for v in ([1, 1, 1, 2], [5, 8, 9, 1], [10, 20, 30, 15], [0, 64, 64, 0]))
    order, time, waits = blocks._order(session, seq, recv_ns, flags, False)
    assert order[~waits].tolist() == [0, 3] and time[~waits].tolist() == [10, 15]
    more = [
        np.concatenate(pair)
        for pair in zip(
            (values[order[waits]] for values in (session, seq, recv_ns, flags)),
            ([1, 1], [6, 7], [40, 50], [2, 2]),
            strict=True,
        )
    ]
    order, time, waits = blocks._order(more[0], more[1], more[2], more[3], True)
    assert more[1][order].tolist() == [6, 7, 8, 9] and not waits.any() and time.tolist() == [40, 50, 50, 50]


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


def test_messages_that_are_taken_as_ordered_are_what_ordering_gives():
    rng, ordered = np.random.default_rng(7), 0
    for _ in range(4000):
        n = int(rng.integers(1, 6))
        session, seq, recv_ns = (np.sort(rng.integers(0, 4, n)) for _ in range(3))
        if rng.random() < 0.5:
            session, seq = session[rng.permutation(n)], seq[rng.permutation(n)]
        flags = np.where(rng.random(n) < 0.2, int(recorder.Flags.DEFERRED), 0)
        last = bool(rng.random() < 0.3)
        if blocks._is_ordered(session, seq, recv_ns, flags, last):
            ordered += 1
            order, time, waits = blocks._order(session, seq, recv_ns, flags, last)
            assert order.tolist() == list(range(n)) and time.tolist() == recv_ns.tolist() and not waits.any()
    assert 500 < ordered < 3000


def through(day):
    """A handler, and the one block of the day with the rows of its instruments."""
    handler = Handler(level="L2")
    [block] = blocks.blocks(day[0], day[0].dates()[0], None)
    return handler, block, blocks.Applier(handler).rows(block, 0, len(block))


def depths(handler: Handler) -> dict[str, tuple]:
    books = [(symbol, handler.book(symbol)) for symbol in handler.symbols]
    return {symbol: tuple(side.tobytes() for side in book.depth(None, "int")) for symbol, book in books if book}


def test_other_threads_run_while_messages_are_applied(day):
    """Such as that which reads ahead. This one is not made to give way, so that only `apply` lets the other count."""
    handler, block, rows = through(day)
    counted, over, moved = [0], threading.Event(), False

    def count():
        while not over.is_set():
            counted[0] += 1
            time.sleep(1e-5)

    thread, interval = threading.Thread(target=count), sys.getswitchinterval()
    thread.start()
    sys.setswitchinterval(30)
    try:
        for _ in range(2000):
            before = counted[0]
            handler.apply(block.messages, rows)
            moved = counted[0] > before
            if moved:
                break
    finally:
        sys.setswitchinterval(interval)
        over.set()
        thread.join()
    assert moved


def test_a_thread_that_looks_at_books_sees_them_as_after_a_call_and_never_in_between(day):
    """Messages are applied to them without the GIL."""
    handler, block, rows = through(day)
    names = "starts", "ends", "time", "recv_ns", "session", "seq", "flags", "instrument"
    long = dataclasses.replace(block, **{name: np.tile(getattr(block, name), 60) for name in names})
    handler.apply(block.messages, rows)
    wanted, seen, over = depths(handler), [], threading.Event()

    def look():
        while not over.is_set():
            seen.extend(depths(handler).items())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            handler.apply(long.messages, rows)
    finally:
        over.set()
        thread.join()
    assert seen and all(found == wanted[symbol] for symbol, found in seen)


def test_a_collection_of_garbage_inside_a_look_at_a_book_lets_no_message_in(day):
    """Its callbacks and finalizers are Python, in which another thread may get the interpreter."""
    handler, block, rows = through(day)
    names = "starts", "ends", "time", "recv_ns", "session", "seq", "flags", "instrument"
    long = dataclasses.replace(block, **{name: np.tile(getattr(block, name), 60) for name in names})
    handler.apply(block.messages, rows)
    wanted, over = depths(handler), threading.Event()

    def apply():
        while not over.is_set():
            handler.apply(long.messages, rows)

    def give_way(*_):
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.0005)

    thread, threshold = threading.Thread(target=apply), gc.get_threshold()
    gc.freeze()  # collections are short then
    thread.start()
    gc.callbacks.append(give_way)
    gc.set_threshold(1)
    try:
        found = [depths(handler) for _ in range(60)]
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(give_way)
        gc.unfreeze()
        over.set()
        thread.join()
    assert all(one == wanted for one in found)


def test_a_listener_may_use_the_books_and_define_them_again_while_messages_are_applied(day):
    """Also the one that the message is being applied to, which is not freed under it."""
    seen, defined = [], []

    class Listener:
        def on_book(self, symbol, state, cause, seq, recv_ns):
            book = handler.book(symbol)
            if book is not None:
                seen.append((symbol, state, book.counts))

        def on_checksum_rule(self, rule, symbol, precisions):
            price, qty = handler.precisions(symbol)
            handler.define(symbol, price + 1, qty)
            defined.append(symbol)
            gc.collect()

    handler = Handler(level="L3", listener=Listener())
    [block] = blocks.blocks(day[0], day[0].dates()[0], list(day[1]["derivatives-l3"][0].markets))
    rows = blocks.Applier(handler).rows(block, 0, len(block))
    handler.apply(block.messages, rows)
    assert seen and defined and handler.stats["faults"] == 0


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_what_fails_while_reading_ahead_reaches_the_caller_and_leaves_no_thread(day, small_blocks, monkeypatch):
    cap, _ = day
    read, calls = blocks.RowReader.rows, []

    def failing(self, start, end):
        calls.append(start)
        if len(calls) > 4:
            raise OSError("the disk is gone")
        return read(self, start, end)

    monkeypatch.setattr(blocks.RowReader, "rows", failing)
    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in cap.replay_batches(cap.dates()[0], handler=Handler(level="L2")):
            found.append(len(batch))
    assert sum(found) > 0 and not readers()


def test_a_replay_that_is_left_early_ends_its_thread(day, small_blocks):
    cap, _ = day
    for played in (cap.replay(cap.dates()[0]), cap.replay_batches(cap.dates()[0])):
        next(played)
        played.close()
        assert not readers()
    played = cap.replay_batches(cap.dates()[0])
    next(played)
    with pytest.raises(RuntimeError, match="of the caller"):
        for _ in played:
            raise RuntimeError("of the caller")
    played.close()
    assert not readers()


def test_levels_and_rows_that_do_not_exist_are_rejected_before_anything_is_applied(day):
    handler, block, rows = through(day)
    with pytest.raises(ValueError, match="there is no row 99"):
        handler.apply(block.messages, np.full_like(rows, 99))
    assert handler.stats["market_data"] == 0
    with pytest.raises(ValueError, match="a level is 2 or 3"):
        Recorded(
            block.entries[:1],
            starts=[0],
            ends=[1],
            seqs=[1],
            times=[1],
            instrument=[0],
            flags=[1],
            crcs=[0],
            levels=[0],
        )
