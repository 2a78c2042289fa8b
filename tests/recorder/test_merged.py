"""Captures of two feeds, or of a hot pair, read as one: no message is missing or there twice."""

from __future__ import annotations

import random
import time

import pyarrow as pa
import pytest

import recorder
from kfix_md import Handler
from kfix_md.errors import NoSuchSymbol, UsageError
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from recorder import blocks, seams
from recorder.merged import Merged
from recorder.process import Recorder
from recorder.verify import verify
from tests.feed.offline import SECOND, Offline
from tests.recorder import build, sites
from tests.session.peer import NOON

SYMBOLS = 2


def test_an_upgrade_loses_no_message(tmp_path):
    found = sites.rehearse(tmp_path, symbols=2, rate=100, seconds=1.5)
    assert found["rows"] > 300 and found["missing in the old alone"] > 50 and found["missing in the new alone"] > 50
    assert (found["missing"], found["in excess"], found["out of order"], found["not trusted"]) == (0, 0, 0, 0)
    assert found["read from"] == ["new", "old"]
    assert found["readings"] > 100 and found["failed readings"] == [] and found["served by at the end"] == ["new"]


@pytest.fixture(scope="module")
def outages(tmp_path_factory):
    """Captures of two feeds and of a hot pair whose sessions were lost at random, never both, and of a quiet feed."""
    folder, rng = tmp_path_factory.mktemp("sites"), random.Random(7)
    with sites.sites(folder, "--symbols", str(SYMBOLS), "--rate", "150") as (venue, start):
        one = ("spot-l2",)
        feeds = [start("whole", one), start("first", one), start("second", one), start("pair", ("spot-l2", "spot-l2"))]
        for feed in feeds:
            feed.live(SYMBOLS)
        time.sleep(0.5)
        begin = time.time_ns()
        for _ in range(5):
            lost = [rng.choice(["first-0", "second-0"]), rng.choice(["pair-0", "pair-1"])]
            for sender in lost:
                venue("drop", service="spot-l2", sender=sender, how=rng.choice(["rst", "fin"]))
            time.sleep(rng.uniform(0.3, 0.8))
            for feed in feeds:
                feed.live(SYMBOLS)
            time.sleep(rng.uniform(0.2, 1.0))
        feeds[1].kill()
        time.sleep(0.5)
        venue("pause")
        time.sleep(0.5)
        end = time.time_ns()
        truth = {name: venue.control.truth(name, "L2")["ints"] for name in ("BTC/USD", "ETH/USD")}
        for feed in feeds[2:] + feeds[:1]:
            feed.stop()
        return {feed.name: feed.captures() for feed in feeds} | {"begin": begin, "end": end, "truth": truth}


def opened(outages, which):
    return recorder.open([outages["first"], outages["second"]] if which == "feeds" else outages["pair"])


@pytest.mark.parametrize("which", ["feeds", "pair"])
def test_no_message_is_missing_or_there_twice(outages, which):
    cap, whole = opened(outages, which), recorder.open(outages["whole"])
    assert isinstance(cap, Merged) and not isinstance(whole, Merged)
    found = sites.differences(cap, whole, outages["begin"], outages["end"] - 6 * 10**8)
    assert found["rows"] > 500 and (found["missing"], found["in excess"], found["out of order"]) == (0, 0, 0)
    for name in ("first", "second"):
        alone = sites.differences(recorder.open(outages[name]), whole, outages["begin"], outages["end"] - 6 * 10**8)
        assert alone["missing"] > 0
    both = recorder.open(outages["pair"], copies="both")
    twice = sites.differences(both, whole, outages["begin"], outages["end"] - 6 * 10**8)
    assert twice["in excess"] > found["rows"] // 2
    times = cap.ticks("BTC/USD")["recv_ns"].to_pylist()
    assert times == sorted(times)
    batches = list(cap.tick_batches("BTC/USD", price="float"))
    assert pa.Table.from_batches(batches).num_rows == len(times)
    assert cap.rows() == sum(cap.ticks(name).num_rows for name in cap.symbols())


@pytest.mark.parametrize("which", ["feeds", "pair"])
def test_any_window_has_the_rows_of_the_whole(outages, which):
    cap, rng = opened(outages, which), random.Random(3)
    rows = cap.ticks("ETH/USD", columns=["recv_ns", "session", "seq", "entry_no"])
    times = rows["recv_ns"].to_numpy()
    for _ in range(12):
        start, end = sorted(rng.randrange(int(times[0]), int(times[-1])) for _ in range(2))
        some = cap.ticks("ETH/USD", start, end, columns=["recv_ns", "session", "seq", "entry_no"])
        assert some.equals(rows.filter(pa.array((times >= start) & (times < end))))


@pytest.mark.parametrize("which", ["feeds", "pair"])
def test_books_are_trusted_throughout_and_those_of_the_venue(outages, which):
    cap = opened(outages, which)
    begin, end = outages["begin"], outages["end"]
    for symbol, truth in outages["truth"].items():
        last = int(cap.ticks(symbol)["recv_ns"][-1].as_py())
        at = cap.book(symbol, last, depth=1000)
        assert at.trusted, at.reason
        units = 10.0**at.book.price_precision, 10.0**at.book.qty_precision
        for ours, theirs in ((at.bids, truth["bids"]), (at.asks, truth["offers"])):
            levels = zip(ours["price"].tolist(), ours["qty"].tolist(), strict=True)
            assert list(levels) == [(p / units[0], q / units[1]) for p, q, _ in theirs]
        rows = [
            r for r in cap.coverage(symbol=symbol).to_pylist() if (r["to_ns"] or end) > begin and r["from_ns"] < end
        ]
        lasting = [row for row in rows if row["to_ns"] is None or row["to_ns"] > row["from_ns"]]
        assert all(row["trusted"] for row in lasting) and len(lasting) > 1
        if which == "feeds":
            assert {row["feed"] for row in rows} == {"first", "second"}
            assert cap.gaps(symbol=symbol).num_rows < sum(
                recorder.open(outages[n]).gaps().num_rows for n in ("first", "second")
            )
        else:
            assert {row["number"] for row in rows} == {0, 1}
            during = [row for row in cap.gaps(symbol=symbol).to_pylist() if begin <= row["opened_ns"] < end]
            both = recorder.open(outages["pair"], copies="both").gaps(symbol=symbol).to_pylist()
            assert during == [] and sum(begin <= row["opened_ns"] < end for row in both) >= 5
        best = cap.bbo(symbol, begin, last)
        assert all(best["trusted"].to_pylist()) and None not in best["bid"].to_pylist()
        depth = cap.depth(symbol, begin, last, every="50ms", levels=1)
        assert all(depth["trusted"].to_pylist())
        steps = depth["time_ns"].to_pylist()
        assert steps == list(range(steps[0], steps[-1] + 1, 50_000_000)) and steps[0] == begin
        for at_ns, bid in list(zip(steps, depth["bid_px_0"].to_pylist(), strict=True))[:: max(1, len(steps) // 15)]:
            assert bid == cap.book(symbol, at_ns).bids["price"][0]


@pytest.mark.parametrize("which", ["feeds", "pair"])
def test_a_replay_has_each_message_once(outages, which, monkeypatch):
    for name, value in (("_ROWS", 300), ("_FIRST_ROWS", 20), ("_KEPT_ROWS", 500), ("_BATCH_ROWS", (8, 64))):
        monkeypatch.setattr(blocks, name, value)
    cap, handler = opened(outages, which), Handler(level="L2")
    [day] = cap.dates()
    played = list(cap.replay(day, handler=handler))
    columns = ["symbol", "level", "session", "seq", "recv_ns"]
    rows = pa.concat_tables([cap.ticks(name, level="both", columns=columns) for name in cap.symbols()])
    keys = [(message.symbol, message.level, message.session, message.seq, message.recv_ns) for message in played]
    assert len(set(keys)) == len(keys) and set(keys) == {tuple(row.values()) for row in rows.to_pylist()}
    changes = [message for message in played if not message.flags & recorder.Flags.SNAPSHOT]
    whole = recorder.open(outages["whole"])
    changed = [m for m in whole.replay(day) if not m.flags & recorder.Flags.SNAPSHOT]
    assert abs(len(changes) - len(changed)) < len(changed) // 4  # they began at other times
    assert handler.stats["crc_failed"] == 0 and handler.stats["crc_checked"] > len(changed) // 2
    for symbol, truth in outages["truth"].items():
        bids, asks = handler[symbol].depth(None, "int")
        assert [(int(p), int(q)) for p, q in zip(bids["price"], bids["qty"], strict=True)] == [
            (p, q) for p, q, _ in truth["bids"]
        ]
        assert len(asks) == len(truth["offers"])
    if which == "pair":
        assert verify(cap).holds


def test_sessions_of_several_captures_have_numbers_of_their_own(outages):
    cap = opened(outages, "feeds")
    sessions = cap.sessions().to_pylist()
    assert len({row["session"] for row in sessions}) == len(sessions)
    by_session = {row["session"]: row["feed"] for row in sessions}
    assert set(by_session.values()) == {"first", "second"}
    rows = cap.ticks("BTC/USD", columns=["session", "feed"]).to_pylist()
    assert {by_session[row["session"]] for row in rows} == {"first", "second"}
    assert all(by_session[row["session"]] == row["feed"] for row in rows)
    assert cap.bars("BTC/USD", "1s", price="int").num_rows


def test_what_one_stream_cannot_answer_is_an_error(outages):
    cap = opened(outages, "feeds")
    with pytest.raises(UsageError, match="several captures"):
        verify(cap)
    with pytest.raises(NoSuchSymbol, match="no NONE/USD in any of"):
        cap.ticks("NONE/USD")
    with pytest.raises(UsageError, match="at least one"):
        recorder.open([])
    with pytest.raises(UsageError, match="copies is 'all'"):
        recorder.open(outages["pair"], copies="all")


def test_one_directory_in_a_list_reads_like_it_alone(tmp_path):
    build.two_days(tmp_path)
    build.record(tmp_path, flush_rows=200)
    alone, merged = recorder.open(tmp_path / "captures"), recorder.open([tmp_path / "captures"])
    for symbol in alone.symbols():
        for level in ("L2", "L3"):
            if alone.ticks(symbol, level="both").filter(pa.compute.field("level") == level).num_rows:
                assert merged.ticks(symbol, level=level).equals(alone.ticks(symbol, level=level))
                assert merged.bbo(symbol, level=level).equals(alone.bbo(symbol, level=level))
    assert merged.sessions().equals(alone.sessions()) and merged.dates() == alone.dates()


def test_a_timeline_keeps_a_copy_until_another_one_is_better():
    def row(start, trusted):
        return {"from_ns": start, "to_ns": None, "trusted": trusted}

    first = [row(0, False), row(10, True), row(50, False), row(60, True)]
    second = [row(5, True), row(70, False), row(90, True)]
    found = seams.merged_states([(0, first), (1, second)])
    assert [(r["source"], r["from_ns"], r["to_ns"], r["trusted"]) for r in found] == [
        (0, 0, 5, False),
        (1, 5, 70, True),
        (0, 70, None, True),
    ]


class Site(Offline):
    """One of several feeds of a venue: it records, and its snapshots have the venue's size of the best offer."""

    def __init__(self, folder, start: int) -> None:
        self.folder, self.qty = folder, "1"
        self.recorded = JournalWriter(folder / "journal")
        self.recorded.event(0, start, events.Started("0", 1, folder.name))
        super().__init__("A/USD", start=start, wiring={"journal": self.recorded})

    def snapshot(self, symbol, entries=None, **header):
        return super().snapshot(symbol, entries or ((0, "10.0", "1"), (1, "11.0", self.qty)), **header)

    def captures(self):
        self.recorded.close()
        made = Recorder(build.settings(self.folder))
        try:
            made.once()
        finally:
            made.close()
        return self.folder / "captures"


@pytest.mark.parametrize("second", ["lost the same", "began later", "began later, nothing came", "lost nothing"])
def test_what_no_copy_has_is_a_gap(second, tmp_path):
    """The first feed loses two messages and finds it at the next one, when the second one is live."""
    first, other = (Site(tmp_path / name, NOON) for name in ("first", "other"))
    both = [first.connect()] if "began" in second else [first.connect(), other.connect()]
    for site in both:
        site.wait(1).update("A/USD", "7")
        site.qty = "7"
    last_ns = first.now
    if second == "lost the same":
        other.wait(0.5).lose()
    lost = ["8", "9"] if "nothing came" not in second else []
    first.wait(1)
    for qty in lost:
        first.seq += 1
        if second == "lost nothing":
            other.update("A/USD", qty)
    if "began" in second:
        other.now = first.now
    other.qty = lost[-1] if lost else "7"
    if second != "lost nothing":
        other.wait(2).connect()
    connected_ns = other.now
    first.wait(5)
    first.seq += not lost
    first.update("A/USD", "10")
    other.wait((first.now - other.now) / 1e9).update("A/USD", "10").wait(1)
    first.wait(1)
    cap = recorder.open([first.captures(), other.captures()])
    assert {row["feed"] for row in cap.ticks("A/USD").to_pylist()} == {"first", "other"}
    assert cap.book("A/USD", other.now).asks["qty"][0] == 10
    found = [
        (row["feed"], row["cause"], row["opened_ns"], row["closed_ns"]) for row in cap.gaps(symbol="A/USD").to_pylist()
    ]
    assert found == {
        "lost the same": [("other", "DISCONNECT", last_ns + SECOND // 2, connected_ns)],
        "began later": [("first", "LOST", last_ns, connected_ns)],
    }.get(second, [])
    assert cap.gaps().num_rows >= len(found)
