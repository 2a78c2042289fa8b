"""What captures state about trust equals what readers of the feed saw: coverage, book(), bbo(), gaps() and verify."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

import recorder
from kfix_md import trading_day
from kfix_md._entry import Cause, State
from kfix_md._handler import Handler
from kfix_md._state import is_trusted
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from recorder import coverage, schema
from recorder.loss import Losses
from recorder.process import Recorder
from recorder.rebuild import Found
from recorder.schema import Flags
from recorder.trust import why_not
from recorder.verify import verify
from tests.feed.offline import Offline
from tests.feed.test_states import KINDS, malformed
from tests.recorder import build
from tests.streams import generate

MS = 1_000_000
SECOND = 1000 * MS
SYMBOL = "BTC/USD"


def written(journal: JournalWriter, moments: dict[int, list[events.JournalEvent]]) -> list[int]:
    """A session of one symbol, a frame each ms, with events of the feed before the frames of these indices."""
    build.announce(journal, 0, "spot-l2", build.START_NS)
    journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
    handler = Handler(level="L2", session_number=0, journal=journal)
    times = []
    for index, frame in enumerate(generate("spot-l2", messages=400, seed=7, symbols=1, admin=False).frames[:-1]):
        times.append(build.START_NS + (index + 1) * MS)
        for event in moments.get(index, []):
            journal.event(0, times[-1] - MS // 2, event)
        handler.on_bytes(frame, times[-1])
    return times


def captured(tmp_path) -> recorder.Captures:
    made = Recorder(build.settings(tmp_path))
    try:
        made.once()
    finally:
        made.close()
    return recorder.open(tmp_path / "captures")


def test_a_symbol_that_was_unsubscribed_for_a_while_is_not_trusted_then(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        times = written(
            journal,
            {
                5: [events.Subscribed(SYMBOL), events.BookChanged(SYMBOL, "LIVE", "NONE", 5)],
                100: [events.Unsubscribed(SYMBOL)],
                200: [events.Subscribed(SYMBOL)],
                220: [events.BookChanged(SYMBOL, "LIVE", "NONE", 220)],
            },
        )
    cap = captured(tmp_path)
    out, back, live = times[100] - MS // 2, times[200] - MS // 2, times[220] - MS // 2
    states = [(r["state"], r["from_ns"], r["to_ns"], r["trusted"]) for r in cap.coverage(symbol=SYMBOL).to_pylist()]
    begin = times[5] - MS // 2
    assert states == [
        ("SYNCING", begin, begin, False),
        ("LIVE", begin, out, True),
        ("INIT", out, back, False),
        ("SYNCING", back, live, False),
        ("LIVE", live, None, True),
    ]
    assert {row["level"] for row in cap.coverage().to_pylist()} == {"L2"}
    for at, state in [(out - 1, ""), (out, "INIT"), (back, "SYNCING"), (live - 1, "SYNCING"), (live, "")]:
        found = cap.book(SYMBOL, at)
        assert (found.trusted, state in found.reason) == (not state, True), (at, found.reason)
    best = cap.bbo(SYMBOL).to_pylist()
    ends = [row for row in best if row["cause"]]
    assert [(row["recv_ns"], row["cause"], row["bid"], row["trusted"]) for row in ends] == [
        (begin, "SYNCING SUBSCRIBED", None, False),
        (out, "INIT", None, False),
        (back, "SYNCING SUBSCRIBED", None, False),
    ]
    assert [row["recv_ns"] for row in best] == sorted(row["recv_ns"] for row in best)
    assert all(row["trusted"] != (out <= row["recv_ns"] < live) for row in best if row["recv_ns"] > begin)
    again = next(row for row in best if row["recv_ns"] >= live)
    before = [row for row in best if row["recv_ns"] < live and row["bid"] is not None][-1]
    assert again == before | {"recv_ns": live, "trusted": True}, "prices as soon as trusted"
    assert verify(cap).uncovered[SYMBOL] == pytest.approx((live - out) / 1e9, abs=0.006)


@pytest.mark.parametrize(("served", "missed"), [(1, 0.0), (0, 0.02)])
def test_what_the_other_copy_of_a_hot_pair_has_is_covered(tmp_path, served, missed):
    """Messages of the first session cannot be decoded, those of the second can."""
    frames = generate("spot-l2", messages=400, seed=7, symbols=1, admin=False).frames[:-1]
    with JournalWriter(tmp_path / "journal") as journal:
        copies = []
        for number in (0, 1):
            build.announce(journal, number, "spot-l2", build.START_NS)
            journal.event(number, build.START_NS, {"type": "logged_on", "session_id": str(number)})
            copies.append(Handler(level="L2", session_number=number, journal=journal))
        for index, frame in enumerate(frames):
            now = build.START_NS + index * MS
            if index == 5:
                journal.event(served, now, events.Served(SYMBOL, served))
                for number in (0, 1):
                    journal.event(number, now, events.Subscribed(SYMBOL))
                    journal.event(number, now, events.BookChanged(SYMBOL, "LIVE", "NONE", 5))
            for number, copy in enumerate(copies):
                if number == 0 and index in (200, 220):
                    journal.frame(number, now, frame.replace(SYMBOL.encode(), b"NOT/ONE"), 0)
                else:
                    copy.on_bytes(frame, now)
    cap = captured(tmp_path)
    assert [row["number"] for row in cap.gaps().to_pylist() if row["cause"] == "UNDECODED"] == [0]
    assert verify(recorder.open(tmp_path / "captures", copies="both")).uncovered == {SYMBOL: missed}
    assert verify(cap).uncovered == {SYMBOL: missed}


def test_a_killed_feed_leaves_its_books_untrusted_until_they_are_live_again(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        times = written(journal, {5: [events.Subscribed(SYMBOL), events.BookChanged(SYMBOL, "LIVE", "NONE", 5)]})
        again = times[-1] + 3 * SECOND
        journal.event(0, again, events.Started())
        journal.event(0, again + SECOND, events.Subscribed(SYMBOL))
        journal.event(0, again + 2 * SECOND, events.BookChanged(SYMBOL, "LIVE", "NONE", 1))
    cap = captured(tmp_path)
    last = [(r["state"], r["cause"], r["from_ns"], r["to_ns"]) for r in cap.coverage(symbol=SYMBOL).to_pylist()][-3:]
    assert last == [
        ("DOWN", "RESTART", times[-1], again + SECOND),
        ("SYNCING", "SUBSCRIBED", again + SECOND, again + 2 * SECOND),
        ("LIVE", "NONE", again + 2 * SECOND, None),
    ]


def test_books_whose_messages_are_late_are_not_trusted(tmp_path):
    """Readers are shown STALE because of LAGGING then, also on the date that begins meanwhile."""
    end = trading_day.session_bounds(trading_day.session_date(build.START_NS))[1]
    with JournalWriter(tmp_path / "journal") as journal:
        times = written(journal, {5: [events.BookChanged(SYMBOL, "LIVE", "NONE", 5)]})
        journal.event(0, times[-1] + SECOND, events.Lagging(True, 9000))
        journal.event(0, end + SECOND, events.BookChanged("B/USD", "LIVE", "NONE", 5))
        journal.event(0, end + 2 * SECOND, events.Lagging(False, 0))
        journal.event(0, end + 3 * SECOND, events.BookChanged(SYMBOL, "GAP", "LOST", 5))
    cap = captured(tmp_path)
    states = [(r["state"], r["cause"], r["from_ns"], r["to_ns"]) for r in cap._coverage(SYMBOL, None, None).to_pylist()]
    assert states[1:] == [
        ("STALE", "LAGGING", times[-1] + SECOND, end + 2 * SECOND),
        ("LIVE", "NONE", end + 2 * SECOND, end + 3 * SECOND),
        ("GAP", "LOST", end + 3 * SECOND, None),
    ]
    assert cap.coverage(trading_day.session_date(end), SYMBOL)["state"][0].as_py() == "STALE"
    other = cap._coverage("B/USD", None, None).to_pylist()
    assert [(row["state"], row["from_ns"]) for row in other] == [("STALE", end + SECOND), ("LIVE", end + 2 * SECOND)]


def test_the_last_row_of_a_time_says_whether_the_book_was_trusted_then(tmp_path):
    """A book may leave LIVE and be LIVE again at one time, with its snapshot."""
    with JournalWriter(tmp_path / "journal") as journal:
        times = written(
            journal,
            {
                5: [events.BookChanged(SYMBOL, "LIVE", "NONE", 5)],
                50: [events.BookChanged(SYMBOL, "SYNCING", "LOST", 5), events.BookChanged(SYMBOL, "LIVE", "NONE", 6)],
            },
        )
        at = times[-1]
        journal.event(0, at, events.BookChanged(SYMBOL, "SYNCING", "LOST", 7))
        journal.event(0, at, events.BookChanged(SYMBOL, "LIVE", "NONE", 8))
    best = captured(tmp_path).bbo(SYMBOL).to_pylist()
    last = [row for row in best if row["recv_ns"] == at]
    assert [row["trusted"] for row in last] == [False, True] and last[0]["cause"] == "SYNCING LOST"


def test_a_feed_that_was_dead_when_a_date_began_leaves_its_books_down_then(tmp_path):
    end = trading_day.session_bounds(trading_day.session_date(build.START_NS))[1]
    with JournalWriter(tmp_path / "journal") as journal:
        times = written(journal, {5: [events.BookChanged(SYMBOL, "LIVE", "NONE", 5)]})
    with JournalWriter(tmp_path / "journal") as journal:
        journal.event(0, end + SECOND, events.Started())
        journal.event(0, end + 2 * SECOND, events.BookChanged(SYMBOL, "LIVE", "NONE", 1))
    cap = captured(tmp_path)
    rows = cap.coverage(trading_day.session_date(end), SYMBOL).to_pylist()
    assert [(r["state"], r["cause"], r["from_ns"], r["to_ns"]) for r in rows] == [
        ("DOWN", "RESTART", end, end + 2 * SECOND),
        ("LIVE", "NONE", end + 2 * SECOND, None),
    ]
    assert [r["to_ns"] for r in cap._coverage(SYMBOL, None, None).to_pylist()][-2] == end + 2 * SECOND
    assert not cap.book(SYMBOL, end + SECOND // 2).trusted and times[-1] < end


@pytest.mark.parametrize("ended", ["killed", "stopped"])
def test_a_restart_that_continues_the_numbering_is_one_gap(tmp_path, ended):
    with JournalWriter(tmp_path / "journal") as journal:
        times = written(journal, {5: [events.Subscribed(SYMBOL), events.BookChanged(SYMBOL, "LIVE", "NONE", 5)]})
        if ended == "stopped":  # the feed that leaves opens the gap itself
            journal.event(0, times[-1], events.GapOpened(1, 301, None, "restart", (SYMBOL,)))
            journal.event(0, times[-1], events.BookChanged(SYMBOL, "DOWN", "DISCONNECT"))
            journal.event(0, times[-1], events.Disconnected("logout", "restart", False, True))
            journal.event(0, times[-1], events.Stopped())
        again = times[-1] + 3 * SECOND
        journal.event(0, again, events.Started())
        journal.event(0, times[-1], events.GapOpened(2, 301, None, "restart", ()))
        journal.event(0, again, events.LoggedOn("two", 60, False, 301, 9))
        journal.event(0, again, events.Subscribed(SYMBOL))
        journal.event(0, again + SECOND, events.BookChanged(SYMBOL, "LIVE", "NONE", 1))
        journal.event(0, again + SECOND, events.GapClosed(2, "reconnect"))
    [gap] = captured(tmp_path).gaps().to_pylist()
    assert (gap["cause"], gap["first_seq"], gap["healed"]) == ("RESTART", 301, "reconnect")
    assert gap["closed_ns"] == again + SECOND


def test_each_date_begins_with_the_states_of_all_books(tmp_path):
    today = trading_day.session_date(build.START_NS)
    midnight = trading_day.session_bounds(today)[1]
    with JournalWriter(tmp_path / "journal") as journal:
        times = written(
            journal,
            {5: [events.BookChanged(SYMBOL, "HALTED", "STATUS", 5), events.BookChanged("B/USD", "LIVE", "NONE")]},
        )
        journal.event(0, midnight + SECOND, events.BookChanged("B/USD", "GAP", "LOST", 6))
    cap = captured(tmp_path)
    tomorrow = trading_day.session_date(midnight)
    rows = [row for row in cap.status(tomorrow).to_pylist() if row["kind"] == "book"]
    assert [(row["recv_ns"], row["symbol"], row["state"], row["cause"]) for row in rows] == [
        (midnight, SYMBOL, "HALTED", "STATUS"),
        (midnight, "B/USD", "LIVE", "NONE"),
        (midnight + SECOND, "B/USD", "GAP", "LOST"),
    ]
    whole = cap._coverage(None, None, None).to_pylist()
    began = times[5] - MS // 2
    assert [(row["symbol"], row["from_ns"], row["to_ns"]) for row in whole] == [
        ("B/USD", began, midnight + SECOND),
        ("B/USD", midnight + SECOND, None),
        (SYMBOL, began, None),
    ]
    assert [row["from_ns"] for row in cap.coverage(tomorrow, SYMBOL).to_pylist()] == [midnight]


def test_the_gap_of_a_session_ends_for_each_symbol_where_its_book_was_good(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        times = written(
            journal, {5: [events.BookChanged(SYMBOL, "LIVE", "NONE"), events.BookChanged("B/USD", "LIVE", "NONE")]}
        )
        now = times[-1]
        journal.event(0, now, events.GapOpened(1, 7, 8, "lost", (SYMBOL, "B/USD")))
        for name in (SYMBOL, "B/USD"):
            journal.event(0, now, events.BookChanged(name, "SYNCING", "LOST", 9))
        journal.event(0, now + SECOND, events.BookChanged(SYMBOL, "LIVE", "NONE", 10))
        journal.event(0, now + 4 * SECOND, events.BookChanged("B/USD", "LIVE", "NONE", 11))
        journal.event(0, now + 4 * SECOND, events.GapClosed(1, "snapshot"))
    cap = captured(tmp_path)
    assert [row["closed_ns"] for row in cap.gaps().to_pylist()] == [now + 4 * SECOND]
    assert [row["closed_ns"] for row in cap.gaps(symbol=SYMBOL).to_pylist()] == [now + SECOND]


def recorded(venue: Offline, tmp_path) -> recorder.Captures:
    """Captures of what a service wrote into its journal."""
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", venue.journal.events[0][0])
        for now_ns, event in venue.journal.events:
            journal.event(0, now_ns, event)
    return captured(tmp_path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_coverage_equals_what_readers_saw_at_every_moment(kind, tmp_path):
    venue = Offline().connect().wait(1)
    venue.latency = 130 * MS
    kind(venue)
    venue.wait(20, step=0.05)
    venue.service.subs.reload(["B/USD"], venue.now)
    venue.wait(8, step=0.05)
    venue.service.subs.reload(["*"], venue.now)
    malformed(venue.wait(5, step=0.05))
    venue.wait(5, step=0.05)
    cap = recorded(venue, tmp_path)
    for symbol, changes in venue.states.items():
        rows = cap._coverage(symbol, None, None).to_pylist()
        assert rows
        moments = [at for at, _ in changes] + [random.Random(5).randrange(changes[0][0], venue.now) for _ in range(300)]
        for moment in moments:
            seen = [state for at, state in changes if at <= moment][-1]
            [row] = [r for r in rows if r["from_ns"] <= moment and (r["to_ns"] is None or moment < r["to_ns"])]
            assert (row["state"], row["trusted"]) == (seen.name, is_trusted(seen)), (symbol, moment)
    assert is_trusted(State.LIVE) and not is_trusted(State.GAP)


@pytest.mark.parametrize(("live_ns", "trusted"), [(12, True), (10, True), (5, False)])
def test_a_book_is_trusted_again_without_a_message(live_ns, trusted):
    """A halt ends: the last message came while the book was not trusted, and the state says that it is again."""
    logon = {"session": 1, "service": "spot-l2"}
    state = {"symbol": "A/USD", "level": "L2", "service": "spot-l2", "session": 1, "state": "LIVE", "trusted": True}
    last = Found("L2", recv_ns=10, session=1, flags=Flags.MAYBE_BAD_BOOK, seen=True)
    no_gaps = pa.Table.from_pylist([], schema.SCHEMAS["gaps"])
    why = why_not(
        "A/USD",
        20,
        last,
        Losses(no_gaps),
        no_gaps,
        pa.Table.from_pylist([logon], schema.SCHEMAS["sessions"]),
        pa.Table.from_pylist([state | {"from_ns": live_ns}], coverage.SCHEMA),
    )
    assert why == ("" if trusted else "the feed did not trust it at its last message")


@pytest.mark.parametrize("messages", [True, False], ids=["messages in the halt", "none"])
def test_all_readers_trust_a_book_again_when_a_halt_ends(messages, tmp_path):
    """book(), bbo() and depth() follow the states, not the flags of a message that came during the halt."""
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", build.START_NS)
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
        handler = Handler(level="L2", session_number=0, journal=journal)
        frames = generate("spot-l2", messages=60, seed=7, symbols=1, admin=False).frames[:-1]
        now = build.START_NS
        for index, frame in enumerate(frames):
            now += MS
            if index == 5:
                journal.event(0, now, events.BookChanged(SYMBOL, "LIVE", "NONE", 5))
            if index == 40 + (0 if messages else 8):
                halted = now
                handler.mark(SYMBOL, State.HALTED, Cause.STATUS)
                journal.event(0, now, events.BookChanged(SYMBOL, "HALTED", "STATUS", 6))
            if index == 48:
                again = now = now + 20 * MS
                handler.mark(SYMBOL, State.LIVE, Cause.NONE)
                journal.event(0, now, events.BookChanged(SYMBOL, "LIVE", "NONE", 7))
                now += 20 * MS
            handler.on_bytes(frame, now)
    cap = captured(tmp_path)
    flags = cap.ticks(SYMBOL, halted, again, columns=["flags"])["flags"].to_numpy()
    assert bool(((flags & Flags.MAYBE_BAD_BOOK) != 0).any()) == messages
    moments = list(range(halted - 3 * MS, now, MS))
    best = cap.bbo(SYMBOL).to_pylist()
    said = {
        "book": [cap.book(SYMBOL, at).trusted for at in moments],
        "bbo": [[row["trusted"] for row in best if row["recv_ns"] <= at][-1] for at in moments],
        "depth": cap.depth(SYMBOL, moments[0], now, every="1ms")["trusted"].to_pylist(),
    }
    seen = [not halted <= at < again for at in moments]
    assert said == dict.fromkeys(said, seen)
    sampled = cap.depth(SYMBOL, again, again + MS, every="1ms", levels=1)["bid_px_0"].to_pylist()
    assert sampled == [row["bid"] for row in best if row["recv_ns"] == again]
