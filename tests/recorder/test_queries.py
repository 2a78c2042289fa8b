"""What is skipped when captures are asked holds nothing of the answer, and a book of the past is never far to fetch."""

from __future__ import annotations

import itertools
import pickle
import random
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import recorder
from benchmarks.busy_day import BusyDay
from kfix_md.errors import CaptureError, NoSuchSymbol, UsageError
from recorder import compact, coverage, derive, files, layout, rebuild, schema, tail
from recorder._ticks import book_rows
from recorder.rebuild import Rebuilder
from tests.recorder import build


@pytest.fixture(scope="module", params=["live", "compacted"])
def queried(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("queried")
    build.journal_of(path / "journal", messages=200)
    build.record(path, flush_rows=700, row_group=256)
    cap = recorder.open(path / "captures")
    if request.param == "compacted":
        compact.compact_day(cap.tree, cap.dates()[0], row_group=256)
    return recorder.open(path / "captures"), cap.ticks()


def same(a: pa.Table, b: pa.Table) -> bool:
    """Equal rows in the same order within a symbol, however they are laid out."""

    def plain(rows: pa.Table) -> list[dict]:
        rows = rows.append_column("n", pa.array(np.arange(rows.num_rows)))
        return [
            {k: v for k, v in r.items() if k != "n"}
            for r in sorted(rows.to_pylist(), key=lambda r: (r["symbol"], r["level"], r["n"]))
        ]

    return plain(a) == plain(b)


def test_columns_of_one_value_are_those_of_the_file_without_being_read(queried, monkeypatch):
    cap, _ = queried
    paths = cap._files.of("ticks")
    plain = [pq.read_table(str(path)) for path in paths]
    read = pq.ParquetFile.iter_batches
    asked: list[list[str]] = []

    def noted(file, rows, groups, columns, **options):
        asked.append(columns)
        return read(file, rows, groups, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    for path, expected in zip(paths, plain, strict=True):
        for columns in (schema.SCHEMAS["ticks"].names, ["level", "service"], ["price", "symbol", "session"]):
            found = files.table("ticks", [path], columns)
            assert found.to_pylist() == expected.select(columns).to_pylist()
            assert found.schema.equals(pa.schema([schema.field("ticks", name) for name in columns]))
    assert ["price"] in asked or not any(layout.is_compacted(path.name) for path in paths)


def test_entries_have_the_exchange_time_of_both_of_its_columns(queried):
    cap, _ = queried
    names = ["price", "qty", "side", "action"]
    for path in cap._files.of("ticks"):
        given = files.table("ticks", [path], [*names, "event_ns"])
        stored = files.table("ticks", [path], [*names, "event_ms", "event_frac_ns"])
        assert given["event_ns"].to_numpy().any()
        assert (schema.entries(given) == schema.entries(stored)).all()


def test_a_book_of_the_past_is_pickled_with_all_it_holds(queried):
    cap, everything = queried
    kinds = set(zip(everything["symbol"].to_pylist(), everything["level"].to_pylist(), strict=True))
    moment = int(everything["recv_ns"].to_numpy().max())
    books = [cap.book(symbol, moment, level=level) for symbol, level in sorted(kinds)]
    nothing = cap.book(cap.symbols()[0], int(everything["recv_ns"].to_numpy().min()) - 1)
    assert nothing.book is None and any(len(one.bids) for one in books)
    for one in [*books, nothing]:
        again = pickle.loads(pickle.dumps(one))
        assert repr(again) == repr(one) and again.precision == one.precision
        assert [side.tolist() for side in again.depth(1000, "int")] == [s.tolist() for s in one.depth(1000, "int")]
        assert again.orders().equals(one.orders())
        if one.book is not None:
            assert (again.book.crc(), again.book.limit) == (one.book.crc(), one.book.limit)


def test_trust_that_changes_before_a_message_comes_changes_in_bbo_too(queried, monkeypatch):
    cap, everything = queried
    low = int(everything["recv_ns"].to_numpy().max()) + 1000
    dark = {"level": "L2", "session": 1, "from_ns": low + 5, "to_ns": low + 9, "state": "SYNCING", "trusted": False}
    monkeypatch.setattr(cap, "_coverage", lambda *_: pa.Table.from_pylist([dark], coverage.SCHEMA))

    def opening(trusted: bool):
        row = {"recv_ns": low, "session": 1, "seq": 7, "bid": 2.5, "trusted": trusted}
        return lambda kind: pa.Table.from_pylist([row], kind)

    found = derive.bbo(cap, "BTC/USD", low, low + 100, "L2", "float", opening(True)).to_pylist()
    expected = [(low, True, 2.5), (low + 5, False, None), (low + 9, True, 2.5)]
    assert [(row["recv_ns"], row["trusted"], row["bid"]) for row in found] == expected
    monkeypatch.setattr(cap, "_coverage", lambda *_: pa.Table.from_pylist([dark | {"from_ns": low}], coverage.SCHEMA))
    found = derive.bbo(cap, "BTC/USD", low, low + 100, "L2", "float", opening(False)).to_pylist()
    assert [(row["recv_ns"], row["trusted"]) for row in found] == [(low, False)]
    assert not derive.bbo(cap, "BTC/USD", low, low + 100, "L2", "float").num_rows


def test_a_selection_is_what_a_filter_over_everything_gives(queried):
    cap, everything = queried
    rng = random.Random(3)
    times = everything["recv_ns"].to_numpy()
    symbols = cap.symbols()
    for _ in range(40):
        names = rng.sample(symbols, rng.randrange(1, 4))
        start, end = sorted(int(t) for t in rng.choices(times, k=2))
        level = rng.choice(["both", "L2", "L3"])
        mask = np.isin(everything["symbol"].to_pylist(), names) & (times >= start) & (times < end)
        if level != "both":
            mask &= np.array(everything["level"].to_pylist()) == level
        wanted = everything.filter(pa.array(mask))
        assert same(cap.ticks(names, start, end, level=level), wanted)
        batches = list(cap.tick_batches(names, start, end, level=level, columns=["seq"]))
        assert sum(b.num_rows for b in batches) == wanted.num_rows and all(b.schema.names == ["seq"] for b in batches)


@pytest.mark.parametrize(("price", "ids"), [("int", "binary"), ("float", "text")])
def test_batches_and_lazy_streams_give_what_ticks_gives(queried, price, ids):
    cap, _ = queried
    asked = {"symbol": "PF_BTCUSD", "level": "both", "price": price, "ids": ids}
    whole = cap.ticks(**asked)
    assert whole.num_rows > 400
    plain = whole.cast(schema.plain(whole.schema))
    for found in (pa.Table.from_batches(cap.tick_batches(**asked)), cap.scan(**asked).read_all()):
        assert found.schema.names == whole.schema.names
        assert found.cast(schema.plain(whole.schema)).equals(plain)
    frame = cap.scan(**asked).read_pandas()
    assert frame["recv_ns"].tolist() == whole["recv_ns"].to_pylist()
    assert cap.scan("PF_BTCUSD", build.START_NS - 10, build.START_NS - 5).read_all().num_rows == 0
    columns = ["price", "recv_ns"]
    assert cap.scan("PF_BTCUSD", columns=columns, price=price).schema.names == columns
    asked["price"] = "decimal"
    decimals = pa.concat_tables(pa.Table.from_batches([b]) for b in cap.tick_batches(**asked))
    assert decimals["price"].to_pylist() == cap.ticks(**asked)["price"].to_pylist()


def test_what_cannot_be_asked_is_said_at_once(queried, monkeypatch):
    cap, _ = queried
    with pytest.raises(NoSuchSymbol, match="no NIL/USD"):
        cap.tick_batches("NIL/USD")
    with pytest.raises(UsageError, match="no column 'bid'"):
        cap.scan(columns=["bid"])
    with pytest.raises(UsageError, match='scan has "int" and "float"'):
        cap.scan(price="decimal")
    with pytest.raises(UsageError, match='use "L2", "L3" or "both"'):
        cap.tick_batches(level="L4")
    found = cap.tick_batches()
    path = cap.tree.files("ticks", cap.dates()[0])[0]

    def gone(*args):
        raise files.Vanished(path)

    monkeypatch.setattr(files, "_opened", gone)
    with pytest.raises(CaptureError, match="compacted while it was read: read again"):
        list(found)


def test_without_a_level_a_symbol_means_its_l2(queried):
    cap, everything = queried
    levels: dict[str, set[str]] = {}
    for symbol, level in zip(everything["symbol"].to_pylist(), everything["level"].to_pylist(), strict=True):
        levels.setdefault(symbol, set()).add(level)
    assert {"L2", "L3"} in levels.values()
    for symbol, known in levels.items():
        found = cap.ticks(symbol)
        assert set(found["level"].to_pylist()) == {min(known)}
        assert same(found, cap.ticks(symbol, level=min(known)))
        assert set(cap.ticks(symbol, level="both")["level"].to_pylist()) == known
    assert cap.ticks().num_rows == cap.ticks(level="both").num_rows == everything.num_rows
    both = sorted(levels)
    assert cap.ticks(both).num_rows == sum(cap.ticks(symbol).num_rows for symbol in both)


def test_arguments_that_are_not_valid_are_errors_not_empty_answers(queried):
    """Neither a quiet market nor an exception of numpy."""
    cap, rows = queried
    symbol, level, day = cap.symbols()[0], rows["level"][0].as_py(), cap.dates()[0]
    first, last = pc.min_max(rows["recv_ns"]).as_py().values()
    for query in (cap.ticks, cap.bbo, cap.bars, cap.depth, cap.orders):
        with pytest.raises(UsageError, match="is before start"):
            query(symbol, start=last, end=first)
        with pytest.raises(UsageError, match="ns since 1970, not s, ms or us"):
            query(symbol, start=first // 10**9)
    with pytest.raises(NoSuchSymbol, match="no nope in"):
        cap.status(day, "nope")
    with pytest.raises(NoSuchSymbol, match=f"near: .*{symbol}"):
        cap.ticks(symbol.lower())
    for query in (cap.book, cap.bbo, cap.bars):
        with pytest.raises(UsageError, match="is not one symbol"):
            query([symbol], last)
    with pytest.raises(UsageError, match="5 is not a symbol"):
        cap.ticks([symbol, 5])
    for levels in ("10", 2.5):
        with pytest.raises(UsageError, match="levels is"):
            cap.depth(symbol, levels=levels)
    for speed in (0, -1):
        with pytest.raises(UsageError, match="speed"):
            cap.replay(day, speed=speed)
    assert cap.depth(symbol, every=timedelta(seconds=1), level=level) == cap.depth(symbol, every="1s", level=level)


def test_one_symbol_is_replayed_as_a_list_of_it(queried):
    """Not every symbol whose name is a part of its text."""
    cap, _ = queried
    day = cap.dates()[0]
    for symbol in cap.symbols():
        one, several = (list(map(repr, cap.replay(day, symbols=some))) for some in (symbol, [symbol]))
        assert one == several != []


def test_what_was_not_recorded_is_an_error_not_an_empty_table(tmp_path):
    """A second service lists a symbol and is never subscribed; the date after has no data."""
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=60)
    listed = build.generate("derivatives-l2", messages=1, symbols=1, empties=False)
    with build.JournalWriter(tmp_path / "journal") as journal:
        build.write_session(journal, 1, "derivatives-l2", listed.frames[:2], build.START_NS + 10**9)
    build.record(tmp_path)
    [symbol] = listed.markets
    day = 86_400 * 10**9
    for compacted in (False, True):
        cap = recorder.open(tmp_path / "captures")
        if compacted:
            compact.compact_day(cap.tree, cap.dates()[0])
        assert symbol in cap.instruments()["symbol"].to_pylist()
        for ask in (cap.ticks, cap.bars, cap.bbo, lambda name, cap=cap: list(cap.tick_batches(name))):
            with pytest.raises(NoSuchSymbol, match=f"no ticks of {symbol} in .*: it was listed, but not recorded"):
                ask(symbol)
        for ask in (cap.depth, lambda name, cap=cap: cap.gaps(symbol=name)):
            with pytest.raises(NoSuchSymbol, match=f"no ticks of {symbol} in .*: it was listed, but not recorded"):
                ask(symbol)
        with pytest.raises(NoSuchSymbol, match=f"no ticks of {symbol} "):
            cap.ticks(["BTC/USD", symbol])  # the rows of the other one are no answer for both
        with pytest.raises(NoSuchSymbol, match=f"no ticks of {symbol} "):
            list(cap.tick_batches(["BTC/USD", symbol]))
        for asked in (None, cap.dates()[0]):
            [row] = cap.coverage(asked, symbol).to_pylist()
            assert (row["symbol"], row["trusted"], row["cause"]) == (symbol, False, "NOT_RECORDED")
        found = cap.book(symbol, build.START_NS + 10**12)
        assert not found.trusted and "was received before" in found.reason
        for late in ((build.START_NS + day, build.START_NS + 2 * day), (build.START_NS + day, None)):
            with pytest.raises(NoSuchSymbol, match="no ticks of BTC/USD on the session dates of this time; "):
                cap.ticks("BTC/USD", *late)
        assert cap.ticks("BTC/USD", build.START_NS - 10, build.START_NS - 5).num_rows == 0  # recorded, and quiet
        for ask in (cap.symbols, cap.rows, cap.gaps, cap.sessions, cap.instruments, cap.status):
            with pytest.raises(UsageError, match="has no session date 2020-01-01; there are 2024-02-29 to 2024-02-29"):
                ask("2020-01-01")
        with pytest.raises(UsageError, match="has no session date"):
            list(cap.replay("2020-01-01"))


def test_best_prices_carry_their_session(tmp_path):
    build.two_days(tmp_path)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    best = cap.bbo("BTC/USD")
    assert best.column_names == ["recv_ns", "session", "seq", "bid", "bid_qty", "ask", "ask_qty", "trusted", "cause"]
    rows = cap.ticks("BTC/USD")
    known = set(zip(rows["recv_ns"].to_pylist(), rows["session"].to_pylist(), rows["seq"].to_pylist(), strict=True))
    found = list(zip(best["recv_ns"].to_pylist(), best["session"].to_pylist(), best["seq"].to_pylist(), strict=True))
    assert set(found) <= known and len({session for _, session, _ in found}) == 2
    for price in ("int", "float", "decimal"):
        empty = cap.bbo("BTC/USD", build.START_NS - 10, build.START_NS - 5, price=price)
        assert empty.num_rows == 0 and empty.column_names == best.column_names


def test_row_groups_without_the_symbol_are_not_read(queried, monkeypatch):
    cap, everything = queried
    counts = {v["values"]: v["counts"] for v in pc.value_counts(everything["symbol"].cast(pa.string())).to_pylist()}
    rarest = min(counts, key=counts.get)
    read = []
    real = files._selected
    monkeypatch.setattr(files, "_selected", lambda batch, *more: read.append(batch.num_rows) or real(batch, *more))
    assert cap.ticks(rarest, level="both").num_rows == counts[rarest]
    assert counts[rarest] <= sum(read) < everything.num_rows
    paths = [f for day in cap.dates() for f in cap.tree.files("ticks", day)]
    for path in paths:
        for group, present in files.footer(path).present.items():
            column = files.open_file(path).read_row_group(group, ["symbol"])["symbol"]
            assert present == set(column.to_pylist())


def test_a_quiet_and_a_deep_book_are_checkpointed_by_rows_inside_one_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(tail, "_CHUNK", 40)
    build.journal_of(tmp_path / "journal", ("spot-l2", "derivatives-l3"), messages=900, segment_bytes=1 << 22)
    build.record(tmp_path, flush_rows=10**9, checkpoint_rows=20)
    cap = recorder.open(tmp_path / "captures")
    found = pc.value_counts(cap._table("checkpoints", None, None)["symbol"].cast(pa.string()))
    assert len(found) > 1
    for symbol, level in (("BTC/USD", "L2"), ("PF_BTCUSD", "L3")):
        points = pc.unique(cap._table("checkpoints", None, None, symbols=[symbol])["seq"]).to_numpy()
        seqs = pc.unique(cap.ticks(symbol, level=level)["seq"]).to_numpy()
        assert len(points) > 2, "one flush, several checkpoints"
        # from nothing but ticks: the same book as through the checkpoint before it
        for seq in random.Random(4).sample(sorted(set(seqs.tolist()) - set(points.tolist())), 12):
            rows = cap.ticks(symbol, level=level)
            at = rows["recv_ns"].to_numpy()[rows["seq"].to_numpy() == seq][-1]
            through = cap.book(symbol, int(at), level=level)
            with monkeypatch.context() as patch:
                patch.setattr(Rebuilder, "_checkpoint", lambda *args: None)
                plain = cap.book(symbol, int(at), level=level)
            assert through.seq == plain.seq == seq and through.trusted
            assert (book_rows(through.book) == book_rows(plain.book)).all()


def test_a_tail_that_only_compares_makes_no_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(tail, "_CHUNK", 10)
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=300)
    made = []
    for rows in (10, None):
        one = tail.Tail(str(tmp_path / "journal"), checkpoint_rows=rows)
        while one.read(10**9) != "nothing":
            pass
        made.append((len(one.books), one.rows_waiting()))
    assert made[0][0] > 2 and made[1] == (0, made[0][1])


def test_what_is_due():
    frames = build.generate("spot-l2", messages=300, symbols=2, empties=False).frames
    ticks = tail.SessionTicks("L2", books=True)
    for symbol in ("BTC/USD", "ETH/USD"):
        ticks.define(symbol, 1 if symbol == "BTC/USD" else 2, 8)
    for i, frame in enumerate(frames):
        if tail.message_type(frame) in ("W", "X"):
            ticks.add_record(i, build.START_NS + i * 10**9, 0, frame)
    rows = len(ticks)
    since = [int(n) for n in np.bincount(ticks.take()["instrument"], minlength=2)]
    assert sum(since) == rows and min(since) > 100
    size = [ticks.size(row) for row in (0, 1)]
    assert min(size) > 10
    assert ticks.due(10**9) == []
    assert ticks.due(min(since) // 3) == [0, 1]  # three times that is enough for any book
    assert min(since) > max(size)
    assert ticks.due(max(since) + 1, 1, total=rows, enough=rows + 1) == [0, 1]  # as many ticks as they are large
    assert ticks.due(max(since) + 1, 10**18, total=rows, enough=rows) == []
    for row in (0, 1):
        ticks.checkpointed(row, rows)
    assert ticks.due(1, 0, total=2 * rows, enough=rows) == []  # nothing new
    for i, frame in enumerate(frames[-3:-1]):
        ticks.add_record(1000 + i, build.START_NS + 10**12 + i, 0, frame)
    new = sorted({int(row) for row in ticks.take()["instrument"]})
    assert new and ticks.due(10**9, 10**11, total=2 * rows, enough=rows + 1) == []
    assert ticks.due(10**9, 10**11, total=2 * rows, enough=rows) == new  # long after what others had since
    assert ticks.due(10**9, 10**13, total=2 * rows, enough=rows) == []  # not long ago
    assert ticks.due(1, 10**13) == []  # too few for what their books hold
    assert ticks.due(10**9, files=1) == []  # no file yet
    for _ in range(3):
        ticks.flushed()  # new rows in the first of these files alone
    assert ticks.due(10**9, files=1) == new and ticks.due(10**9, files=2) == []
    ticks.checkpointed(new[0], rows)
    assert ticks.due(10**9, files=1) == new[1:]


@pytest.mark.parametrize("level", ["L2", "L3"])
def test_the_busy_day_of_the_benchmarks_is_a_sound_stream(tmp_path, level):
    day = BusyDay(level, 3, 30, build.START_NS, 3_600 * 10**9)
    frames = list(day.frames(400))
    with build.JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, f"busy-{level.lower()}", build.START_NS)
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
        for now, frame in frames:
            journal.frame(0, now, frame)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    followed = build.Follower().feed(b"".join(frame for _, frame in frames))
    assert cap.sessions()["ignored"].to_pylist() == [0]
    assert cap.rows() == len(followed.entries) + len(day.symbols)  # a clear row before each snapshot
    for symbol in day.symbols:
        book = cap.book(symbol, frames[-1][0], depth=1000).book
        got = [[(int(x["price"]), int(x["qty"])) for x in side] for side in book.depth(1000, price="int")]
        assert got == [
            [(int(p.scaleb(2)), int(q.scaleb(2))) for p, q, _ in followed.books[symbol].depth(side, 1000)]
            for side in "01"
        ]


def test_a_message_that_ends_in_a_trade_is_checked_like_any_other(tmp_path, monkeypatch):
    """Its 5041 is on the trade's row."""
    build.journal_of(tmp_path / "journal", ("derivatives-l2",), messages=300, symbols=1, empties=False)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    rows = cap.ticks().to_pylist()
    checked: list[int] = []
    real = rebuild._proof.check
    monkeypatch.setattr(rebuild._proof, "check", lambda *args: (checked.append(int(args[3][0])), real(*args))[1])
    ends = [
        row
        for before, row in itertools.pairwise(rows)
        if row["side"] == "trade"
        and row["crc"] is not None
        and before["seq"] == row["seq"]
        and before["side"] != "trade"
    ]
    assert len(ends) > 3
    for row in ends:
        found = cap.book(row["symbol"], row["recv_ns"])
        assert (checked.pop(), found.seq) == (row["crc"], row["seq"]) and not checked
        assert cap._rebuild.book(row["symbol"], "L2", row["recv_ns"])[1].agrees
        checked.clear()
