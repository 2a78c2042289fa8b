"""Steps of the wall clock: what lasts is not disturbed, times of day follow, and the step is on record."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from kfix_md.feed.clock import STEP_NS, Clock
from kfix_md.journal.events import ClockWarning
from kfix_md.journal.reader import JournalReader
from kfix_md.shm.attach import attach
from tests.feed.rig import Venue, all_good, drive, until
from tests.session.peer import SECOND, TEN_PM, Rig, parse, stamp

HOUR = 3600 * SECOND


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    venue = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "2", "--rate", "100")
    yield venue
    venue.close()


class Hands:
    """A wall clock that can be set, on the machine's monotonic one or on a number."""

    def __init__(self, monotonic=time.monotonic_ns) -> None:
        self.monotonic, self.ahead = monotonic, time.time_ns() - time.monotonic_ns()
        self.clock = Clock(lambda: monotonic() + self.ahead, monotonic)


@pytest.mark.parametrize("step", [2 * SECOND, -60 * SECOND, HOUR])
def test_the_clock_goes_on_through_a_step_and_reports_it_once(step):
    now = [7 * SECOND]
    hands = Hands(lambda: now[0])
    before = hands.clock.now_ns()
    assert hands.clock.watch() == 0
    hands.ahead += step
    now[0] += SECOND
    assert hands.clock.now_ns() == before + SECOND
    assert (hands.clock.watch(), hands.clock.watch()) == (step, 0)
    hands.ahead -= step
    assert hands.clock.watch() == -step
    assert (hands.clock.step_ns, hands.clock.steps) == (0, 2)


def test_what_reading_two_clocks_takes_is_no_step():
    hands = Hands()
    hands.ahead += STEP_NS // 2
    assert hands.clock.watch() == 0 and hands.clock.steps == 0


@pytest.mark.parametrize("step", [2 * SECOND, -60 * SECOND, HOUR])
def test_a_step_ends_no_session_and_no_reading(venue, tmp_path, step):
    hands = Hands()
    ages, name = [], f"t-clock{step // SECOND}"

    async def script(feed):
        await all_good(feed)
        reader = attach(name, directory=tmp_path)
        book = reader.books()[0]
        hands.ahead += step
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            book.top()
            ages.append(book.age_ns)
            await asyncio.sleep(0.002)
        await until(lambda: reader.counters["clock_steps"] == 1)
        wall = time.monotonic_ns() + hands.ahead
        assert abs(wall - book.recv_ns) < 2 * SECOND
        assert abs(wall - reader.sessions[0]["last_recv_ns"]) < 2 * SECOND
        for service in feed.services:
            assert (service.connects, sum(service.gaps.values()), service.session.stats["test_requests"]) == (1, 0, 0)

    drive(tmp_path, venue.toml(tmp_path, name, ("spot-l2", "spot-l3")), script, hands.clock)
    assert min(ages) >= 0 and max(ages) < 5 * SECOND
    records = [(kind, recv_ns, bytes(body)) for _, kind, _, recv_ns, _, body in JournalReader(tmp_path / "journal")]
    [at] = [i for i, (kind, _, body) in enumerate(records) if kind == 2 and b"clock_stepped" in body]
    assert abs(json.loads(records[at][2])["step_ms"] - step // 1_000_000) <= 1
    moved = records[at + 1][1] - records[at - 1][1] - step
    assert abs(moved) < SECOND, "receive times are times of day"


def test_timers_measure_elapsed_time():
    """Without the correction an hour's step is silence, a Logon that is not answered, and gaps that never end."""
    rig = Rig().logon()
    rig.session.clock_stepped(HOUR)
    rig.now += SECOND
    rig.session.tick(rig.now)
    assert rig.session.outbox == [] and rig.session.close_reason is None
    rig.session.logout(rig.now)
    sent = dict(parse(rig.session.outbox[-1]))
    assert sent[52].startswith(b"20260310-13:00:01"), "SendingTime is the time of day"


def test_the_rollover_is_at_a_time_of_day():
    rig = Rig(now=TEN_PM - HOUR - 5 * SECOND).logon()
    assert not rig.session.rollover.armed(rig.now)
    rig.session.clock_stepped(HOUR)
    assert rig.session.rollover.armed(rig.now)
    assert rig.session.rollover.next_instant(rig.now) == rig.now + 5 * SECOND


@pytest.mark.parametrize(("ahead", "step"), [(0, HOUR), (0, -HOUR), (100 * SECOND, -100 * SECOND)])
def test_a_clock_that_was_set_wrong_or_right_ends_no_session(ahead, step):
    """`ahead`: of the venue's, before the step."""
    rig = Rig(sending_time_limit=120.0).logon()
    rig.now += ahead
    rig.session.clock_stepped(step)
    for _ in range(3):
        rig.now += SECOND
        rig.peer("0", sending=stamp(rig.now - ahead))
    assert rig.session.close_reason is None
    assert abs(rig.session.clock_lag_ns) < SECOND
    assert [event for _, event in rig.session.events if isinstance(event, ClockWarning)] == []
    rig.peer("0", sending=stamp(rig.now - 5 * HOUR))
    assert rig.session.close_reason is not None, "neither clock agrees"
