"""How late messages arrive: which clock is off and which message is late, and what readers see."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from unittest.mock import MagicMock

import pytest

from kfix_md._entry import Cause, State
from kfix_md.errors import FeedError, NotLive, UsageError
from kfix_md.feed.lag import CONFIRMED, SUSPECT_TICKS, Lag
from kfix_md.feed.metrics import gather
from kfix_md.feed.process import FeedProcess
from kfix_md.journal.events import Lagging
from kfix_md.shm.attach import attach
from kfix_md.shm.writer import SegmentWriter
from tests.feed.offline import SECOND, Offline
from tests.feed.rig import ROOT, Venue, all_good, drive, until
from tests.session.peer import stamp
from tests.shm.conftest import Desk

MS = SECOND // 1000
LIMIT = 5 * SECOND


def lag(offset_ns: int, round_trip_ns: int = 40 * MS) -> Lag:
    """After a Logon that took so long, at a venue behind us by `offset_ns`; its answer was sent half way."""
    made = Lag(LIMIT)
    made.answered(0, round_trip_ns, round_trip_ns // 2 - offset_ns)
    return made


@pytest.mark.parametrize("offset_ns", [0, 3 * SECOND, -3 * SECOND, 100 * SECOND, -100 * SECOND])
def test_what_the_clocks_differ_by_is_no_lag(offset_ns):
    made, now = lag(offset_ns), SECOND
    assert not made.measured(now, now - 30 * MS - offset_ns)
    assert not made.over and 0 <= made.lag_ns <= 70 * MS
    assert abs(made.offset_ns - offset_ns) <= 40 * MS
    assert made.measured(now, now - 6 * SECOND - offset_ns) and made.over
    assert 6 * SECOND - 40 * MS <= made.lag_ns <= 6 * SECOND + 40 * MS
    assert not made.measured(now, now - 7 * SECOND - offset_ns), "it changes once"
    assert made.measured(now, now - 30 * MS - offset_ns) and not made.over
    assert made.times == 1


def test_a_logon_that_takes_long_proves_no_offset():
    made = Lag(LIMIT)
    made.answered(0, 9 * SECOND, 0)  # sent at once, 9 s on its way
    assert made.offset_ns == 0
    assert made.measured(10 * SECOND, SECOND) and made.over


def test_a_clock_that_drifts_is_followed():
    made, now = lag(3 * SECOND), SECOND
    for _ in range(CONFIRMED):
        made.measured(now, now - 2 * SECOND)  # ours is 2 s ahead at most: no message comes before it was sent
    assert made.offset_ns == 2 * SECOND and made.lag_ns == 0
    made.connected()
    made.answered(0, 40 * MS, 20 * MS - 4 * SECOND)
    assert abs(made.offset_ns - 4 * SECOND) <= 40 * MS


@pytest.mark.parametrize("offset_ns", [0, 3 * SECOND, -3 * SECOND])
def test_a_message_with_a_wrong_time_makes_those_after_it_neither_late_nor_early(offset_ns):
    """A minute ahead of the others, and a year: they would be late for as long as the connection lasts."""
    made, now = lag(offset_ns), SECOND
    for ahead_ns in (60 * SECOND, 31_536_000 * SECOND):
        for _ in range(CONFIRMED - 1):
            assert not made.measured(now, now + ahead_ns - offset_ns) and made.lag_ns == 0
        assert not made.measured(now, now - 30 * MS - offset_ns)
        assert not made.over and made.lag_ns < 80 * MS and abs(made.offset_ns - offset_ns) <= 40 * MS
    assert made.measured(now, now - 6 * SECOND - offset_ns)


def test_a_clock_is_believed_by_the_message_that_shows_least():
    made, now = lag(0), SECOND
    for ahead_ns in (8 * SECOND, 60 * SECOND, 9 * SECOND):
        assert made.offset_ns == 0
        made.measured(now, now + ahead_ns)
    assert made.offset_ns == -8 * SECOND


def test_a_process_that_did_nothing_lags_until_it_has_read_on():
    made = lag(0)
    assert not made.stopped(LIMIT) and made.stopped(30 * SECOND) and made.over
    assert [made.tick() for _ in range(SUSPECT_TICKS)] == [False] * (SUSPECT_TICKS - 1) + [True]
    assert not made.over
    made.stopped(30 * SECOND)
    made.measured(60 * SECOND, 30 * SECOND)
    assert not any(made.tick() for _ in range(5)) and made.over, "what piled up is late, however the loop goes round"


def test_a_lagging_session_is_stale_for_readers_of_all_kinds(tmp_path):
    desk = Desk(tmp_path)
    other = desk.writer.add_symbol("ETH/USD", 2, 1, 8, session=1)
    desk.writer.set_state(other, State.LIVE)
    feed = desk.attach()
    book, ether = feed["BTC/USD"], feed["ETH/USD"]
    desk.writer.set_session(0, service="spot-l2", lag_ns=7 * SECOND, clock_offset_ns=-SECOND)
    desk.writer.set_lagging(0, True)
    for read in (book.top, book.read, lambda: book.bid, lambda: book.depth(5), lambda: book.depth(None)):
        with pytest.raises(NotLive) as caught:
            read()
        assert (caught.value.state, caught.value.cause) == (State.STALE, Cause.LAGGING)
    assert (book.state, book.cause, book.lag_ns) == (State.STALE, Cause.LAGGING, 7 * SECOND)
    assert book.top(allow_stale=True)[0] > 0
    rows = feed.snapshot()
    assert (rows["state"][0], rows["cause"][0]) == (State.STALE, Cause.LAGGING) and math.isnan(rows["bid"][0])
    assert ether.state is State.LIVE and rows["state"][1] == State.LIVE
    desk.btc.publish(State.UNVERIFIED, Cause.RULE)
    with pytest.raises(NotLive, match="LAGGING"):
        book.top(allow_unverified=True)
    desk.btc.publish(State.GAP, Cause.LOST)
    assert (book.state, book.cause) == (State.GAP, Cause.LOST)
    desk.btc.publish(State.LIVE)
    assert feed.wait(0.1)
    desk.writer.set_lagging(0, False)
    assert feed.wait(0.1) and book.top()[0] > 0 and book.state is State.LIVE
    with pytest.raises(UsageError):
        desk.writer.set_lagging(64, True)
    desk.writer.close()


def test_the_age_of_an_event_is_by_the_venue_s_clock(venue, tmp_path):
    async def script(feed):
        await all_good(feed)
        book = attach("t-age", directory=tmp_path).books()[0]
        await until(lambda: 0 < book.event_age_ns < 2 * SECOND)
        assert 0 <= book.lag_ns < SECOND
        feed.segment.set_session(feed.services[0].number, clock_offset_ns=-5 * SECOND)
        assert book.event_age_ns > 4 * SECOND

    drive(tmp_path, venue.toml(tmp_path, "t-age", ("spot-l2",)), script)


def test_lag_is_in_shared_memory_and_metrics(venue, tmp_path):
    async def script(feed):
        await all_good(feed)
        (service,), book = feed.services, attach("t-metric", directory=tmp_path).books()[0]
        assert service.lag.limit_ns == LIMIT, "the default"
        feed._beat_ns -= 30 * SECOND  # as if the process had been stopped: nothing was read yet
        feed._beat_once()
        assert attach("t-metric", directory=tmp_path).sessions[0]["lagging"]
        await until(lambda: not service.lag.over)
        service.lag.offset_ns = -3 * SECOND  # as if the venue's clock were ahead: messages are 3 s late
        await until(lambda: 2 * SECOND < book.lag_ns < 9 * SECOND)
        (session,) = attach("t-metric", directory=tmp_path).sessions
        assert session["clock_offset_ns"] == -3 * SECOND and not session["lagging"]
        (reading,) = gather(feed).services
        assert reading["lag_seconds"] > 2 and not reading["lagging"] and book.top()
        service.lag.offset_ns = -9 * SECOND
        await until(lambda: gather(feed).services[0]["lagging"] == gather(feed).totals()["lagging"] == 1)
        with pytest.raises(NotLive, match="LAGGING"):
            book.top()
        assert gather(feed).not_ready()[0].endswith("s late")

    drive(tmp_path, venue.toml(tmp_path, "t-metric", ("spot-l2",)), script)


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    venue = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "2", "--rate", "100")
    yield venue
    venue.close()


def test_late_messages_are_on_record_and_readers_see_them(tmp_path):
    with SegmentWriter("late", tmp_path, capacity=8) as segment:
        rig = Offline()
        rig.service.publisher = segment
        rig.connect()
        segment.set_session(0, service="spot-l2")
        rig.wait(1).update("A/USD", sending=stamp(rig.now - 100 * SECOND))
        assert rig.state() == "LIVE", "it is sound"
        assert attach("late", directory=tmp_path).sessions[0]["lagging"]
        rig.wait(1).update("A/USD")
        assert not attach("late", directory=tmp_path).sessions[0]["lagging"]
    changes = [event for _, event in rig.journal.events if isinstance(event, Lagging)]
    assert [change.over for change in changes] == [True, False] and changes[0].lag_ms == 100_000


@pytest.mark.parametrize(("heartbeat_ms", "max_lag_s"), [(500, 0.1), (10_000, 0.5), (10_000, 5.0)])
def test_the_pause_between_two_heartbeats_is_no_lag(heartbeat_ms, max_lag_s):
    """Books would be STALE for two ticks after each heartbeat."""
    rig, feed = Offline(wiring={"max_lag_s": max_lag_s}).connect(), MagicMock()
    feed.config.feed.heartbeat_ms, feed.services, feed.pairs, feed._beat_ns = heartbeat_ms, [rig.service], [], 0
    feed.clock.watch.return_value = 0
    now = rig.now
    for seconds, over in ((1, False), (heartbeat_ms / 2500 + 0.05, False), (heartbeat_ms / 2500 + 6, True)):
        now += int(seconds * SECOND)
        feed.clock.now_ns.return_value = now
        FeedProcess._beat_once(feed)
        assert rig.service.lag.over is over


def test_a_feed_that_was_stopped_is_not_live_with_what_it_had(venue, tmp_path):
    """SIGSTOP for longer than max_lag_s: no reading from before is ever returned as live after it."""
    text = venue.toml(tmp_path, "t-stop", ("spot-l2",), feed="max_lag_s = 0.5\nheartbeat_ms = 50")
    (tmp_path / "feed.toml").write_text(text)
    process = subprocess.Popen([sys.executable, "-m", "kfix_md", "feed", tmp_path / "feed.toml"], cwd=ROOT)
    try:
        book, end = None, time.monotonic() + 20
        while book is None or book.state is not State.LIVE:
            assert time.monotonic() < end
            try:
                book = attach("t-stop", directory=tmp_path).books()[0]
            except (FeedError, IndexError):
                time.sleep(0.05)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(process.pid, signal.SIGCONT)
        continued, ages = time.monotonic(), []
        while time.monotonic() < continued + 1.5:
            try:
                book.top()
                ages.append((time.monotonic() - continued, book.event_age_ns / 1e9))
            except (NotLive, FeedError):
                continue
        assert ages, "it is trusted again"
        assert max(age for _, age in ages) < 1.9, "nothing of before the stop was live"
    finally:
        process.terminate()
        process.wait(10)


def test_times_that_no_clock_shows_are_late_or_a_clocks_and_never_wrap_around():
    late, far, now = Lag(LIMIT), Lag(LIMIT), 1_800_000_000 * SECOND
    assert late.measured(now, -(1 << 63)) and late.over and late.lag_ns > 1 << 61
    for _ in range(CONFIRMED):
        assert not far.measured(now, (1 << 63) - 1)
    assert far.lag_ns == 0 and far.offset_ns < 0
    assert far.measured(now, -(1 << 63)) and far.lag_ns > 1 << 62
