"""A followed journal: the same books, states and verdicts as the feed that writes it, and none trusted without it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("uvloop")
pytest.importorskip("cryptography")

from kfix_md import Cause, State, attach
from kfix_md._state import is_trusted
from kfix_md.feed import follow
from kfix_md.feed.follow import QUIET_NS, JournalFollower
from kfix_md.journal import files
from kfix_md.journal.events import SessionDescribed
from kfix_md.shm.writer import SegmentWriter
from tests.feed.rig import ROOT, Venue, all_good, drive, load, until

QUIET_S = 0.15


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    made = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "3", "--rate", "400", "--seed", "11")
    yield made
    made.close()


class Copy:
    """A follower of a journal, in this process, with a segment of its own."""

    def __init__(self, folder, name: str, journal) -> None:
        self.writer = SegmentWriter(name, folder, capacity=64, heartbeat_ns=60_000_000_000)
        self.follower = JournalFollower(journal, self.writer)
        self.feed = attach(name, directory=folder)

    def catch_up(self) -> Copy:
        while self.follower.step():
            pass
        return self

    def close(self) -> None:
        self.writer.close()


def rows(book):
    bids, asks = book.depth(None, price="int", allow_stale=True)
    return bids[["price", "qty", "orders"]].tolist(), asks[["price", "qty", "orders"]].tolist()


def assert_equal(source, copy) -> int:
    """Every book of the source's segment is in that of the copy, with the same state and levels; how many."""
    source_books, compared = dict(keyed(source)), 0
    for key, book in source_books.items():
        mine = copy[key]
        assert (mine.state, mine.cause, mine.seq) == (book.state, book.cause, book.seq), key
        assert rows(mine) == rows(book), key
        if key[1] == "L3":
            for level in book.depth(3)[0]["price"] if is_trusted(book.state) else ():
                assert mine.orders(level)["id_lo"].tolist() == book.orders(level)["id_lo"].tolist(), key
        compared += 1
    return compared


def states(feed):
    return {(book.state, book.cause) for book in feed.books()}


def keyed(feed):
    for book in feed.books():
        yield (book.symbol, book.level), book


def test_books_states_and_verdicts_are_those_of_the_source(venue, tmp_path):
    """All services, with every kind of fault of a session and of a book in between."""
    faults = [
        lambda: venue("gap", count=3, answer="replay"),
        lambda: venue("gap", count=3, answer="gapfill"),
        lambda: venue("crc", symbol="BTC/USD", level="L3"),
        lambda: venue("status", symbol="ETH/USD", status=2),
        lambda: venue("garble", edit="empty", count=1),
        lambda: venue("drop", service="spot-l2", how="rst"),
        lambda: venue("rollover", form="logout", refuse=0.2),
    ]
    equal = []

    async def script(feed):
        await all_good(feed)
        source = attach("t-follow", directory=tmp_path)
        copy = Copy(tmp_path, "copy", tmp_path / "journal")
        for fault in faults:
            fault()
            for _ in range(20):
                copy.catch_up()
                await asyncio.sleep(0.02)
            venue("status", symbol="ETH/USD", status=1)
            await all_good(feed, 15)
            venue("pause")
            await asyncio.sleep(QUIET_S)
            copy.catch_up()
            equal.append(assert_equal(source, copy.feed))
            again = Copy(tmp_path, "again", tmp_path / "journal").catch_up()
            assert assert_equal(source, again.feed) == equal[-1]
            again.close()
            venue("resume")
        counts = copy.follower.counts()
        assert counts["messages"] > 500
        wrong = {name: counts[name] for name in ("verdicts_differ", "not_applied", "states_differ", "journal_damages")}
        assert not any(wrong.values()), (wrong, [each.first_difference for each in copy.follower.sessions])
        copy.close()

    drive(tmp_path, venue.toml(tmp_path, "t-follow"), script)
    assert equal == [12] * len(faults)


def test_books_of_a_source_that_goes_on_have_the_states_they_had(venue, tmp_path, monkeypatch):
    """One that was halted, too: nothing in the journal says it again."""

    async def script(feed):
        await all_good(feed)
        source = attach("t-silent", directory=tmp_path)
        copy = Copy(tmp_path, "copy", tmp_path / "journal")
        venue("status", symbol="ETH/USD", status=2)
        await until(lambda: source["ETH/USD"].state is State.HALTED)
        venue("pause")
        await asyncio.sleep(QUIET_S)
        copy.catch_up()
        with monkeypatch.context() as patch:
            patch.setattr(follow, "ABSENT_NS", 0)
            patch.setattr(follow, "held", lambda *_: False)
            patch.setattr(files, "writer_alive", lambda _: False)
            copy.catch_up()
            assert states(copy.feed) == {(State.STALE, Cause.RESTART)}
        venue("resume")
        await until(lambda: not copy.catch_up().follower.absent)
        assert copy.feed["ETH/USD"].state is State.HALTED
        venue("pause")
        await asyncio.sleep(QUIET_S)
        assert assert_equal(source, copy.catch_up().feed) == 3
        venue("resume")
        venue("status", symbol="ETH/USD", status=1)
        await all_good(feed)
        copy.close()

    drive(tmp_path, venue.toml(tmp_path, "t-silent", ("spot-l2",)), script)


def test_the_copies_of_a_hot_pair_are_published_as_the_source_does(venue, tmp_path):
    async def script(feed):
        await all_good(feed)
        source = attach("t-pair", directory=tmp_path)
        copy = Copy(tmp_path, "copy", tmp_path / "journal").catch_up()
        for _ in range(3):
            serving = feed.pairs[0].served("BTC/USD")
            venue("drop", service="spot-l2", sender=serving.section.sender_comp_id, how="rst")
            await until(lambda serving=serving: feed.pairs[0].served("BTC/USD") is not serving)
            await all_good(feed)
            venue("pause")
            await asyncio.sleep(QUIET_S)
            assert assert_equal(source, copy.catch_up().feed) == 3
            venue("resume")
        assert feed.pairs[0].switches >= 9 and copy.follower.counts()["verdicts_differ"] == 0
        copy.close()

    drive(tmp_path, venue.toml(tmp_path, "t-pair", ("spot-l2", "spot-l2")), script)


@pytest.fixture(scope="module")
def recorded(venue, tmp_path_factory):
    """A folder with the journal of a feed that has ended in order."""
    folder = tmp_path_factory.mktemp("recorded")

    async def script(feed):
        await all_good(feed)
        await asyncio.sleep(0.5)

    drive(folder, venue.toml(folder, "t-recorded", ("spot-l2", "derivatives-l3")), script)
    return folder


def test_the_journal_of_a_feed_that_has_ended_gives_no_book_that_can_be_read(recorded, tmp_path):
    copy = Copy(tmp_path, "copy", recorded / "journal").catch_up()
    assert copy.follower.absent == "the source has ended"
    assert states(copy.feed) == {(State.STALE, Cause.RESTART)}
    assert all(rows(book)[0] for book in copy.feed.books()), "their last levels are there"
    copy.close()


def test_damage_of_the_journal_costs_trust_until_the_next_snapshot_and_nothing_else(recorded, tmp_path):
    damaged = tmp_path / "journal"
    shutil.copytree(recorded / "journal", damaged)
    last = max(files.segments(damaged).values())
    content = bytearray(last.read_bytes())
    at = content.index(b"35=X", len(content) // 8)
    content[at + 60] ^= 1
    last.write_bytes(content)
    copy, states = Copy(tmp_path, "copy", damaged), set()
    while copy.follower.step():
        if copy.follower.damages:
            states |= {(book.state, book.cause) for book in copy.feed.books()}
    assert copy.follower.counts()["journal_damages"] == 1
    assert not any(is_trusted(state) for state, _ in states), "no snapshot came after it"
    copy.close()


def test_a_killed_source_makes_books_stale_and_its_next_start_live_again(venue, tmp_path):
    """Real processes: `kfix feed`, `kfix follow`, kill -9 of the feed, and its next start."""
    load(tmp_path, venue.toml(tmp_path, "t-source", ("spot-l2",)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KFIX_SHM_DIR": str(tmp_path)}

    def start(*arguments) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", "kfix_md", *arguments], cwd=tmp_path, env=environment)

    feed, copier = start("feed", "feed.toml"), None
    try:
        source = wait_for(lambda: attach("t-source", directory=tmp_path, reconnect=True))
        wait_for(source["BTC/USD"].top)
        copier = start("follow", "journal", "--feed", "copy")
        copy = wait_for(lambda: attach("copy", directory=tmp_path))
        wait_for(copy["BTC/USD"].top)
        assert copy.sessions[0]["state"] == "ON" and copy.sessions[0]["service"] == "spot-l2"
        feed.send_signal(signal.SIGKILL)
        feed.wait()
        wait_for(lambda: not is_trusted(copy["BTC/USD"].state))
        assert (copy["BTC/USD"].state, copy["BTC/USD"].cause) == (State.STALE, Cause.RESTART)
        assert copy.alive and copy["BTC/USD"].top(allow_stale=True)[0] > 0
        feed = start("feed", "feed.toml")
        wait_for(copy["BTC/USD"].top)
        copier.send_signal(signal.SIGTERM)
        assert copier.wait(10) == 0
    finally:
        for process in filter(None, (feed, copier)):
            process.kill()
            process.wait()


def wait_for(what, seconds: float = 20.0):
    """The first value that `what` gives without an exception and that is true."""
    end = time.monotonic() + seconds
    while True:
        try:
            if value := what():
                return value
        except Exception:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end
        time.sleep(0.01)


def test_consoles_see_the_sessions_of_the_source(recorded, tmp_path):
    copy = Copy(tmp_path, "copy", recorded / "journal").catch_up()
    copy.follower.described[0].connected = True
    copy.follower._describe(
        0, SessionDescribed(0, "spot-l2", "L2", None, None, None, None)
    )  # as each segment of the journal begins
    copy.follower.publish()
    row = copy.feed.sessions[0]
    assert row["state"] == "ON" and row["messages"] == copy.follower.sessions[0].messages > 0
    assert 0 < time.time_ns() - row["last_recv_ns"] < 600 * 10**9
    copy.close()


def test_a_backlog_is_lagging_until_it_is_read(recorded, tmp_path):
    copy = Copy(tmp_path, "copy", recorded / "journal")
    copy.follower.max_lag_ns = -1  # all that is read is late
    seen = set()
    while copy.follower.step():
        seen |= {(book.state, book.cause) for book in copy.feed.books()}
    assert (State.STALE, Cause.LAGGING) in seen and not any(is_trusted(state) for state, _ in seen)
    assert all(session["lagging"] for session in copy.feed.sessions)  # a mirror may be receiving the rest
    copy.follower._last_ns -= QUIET_NS
    copy.follower.step()
    assert not any(session["lagging"] for session in copy.feed.sessions)
    copy.close()
