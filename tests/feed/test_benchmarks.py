"""The TLS benchmarks measure what they claim: messages of one size, 5041 right, each its own record, all received."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest

from benchmarks import ingest, latency, receivers
from benchmarks.ingest import Receiver
from benchmarks.venue import MARKER, MESSAGE_BYTES, SYMBOL, Market, Session, Venue
from kfix_md import Handler
from kfix_md._entry import State

pytest.importorskip("trustme")


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    with contextlib.closing(Venue(tmp_path_factory.mktemp("tls"))) as venue:
        yield venue


def test_every_message_is_of_one_size_and_right():
    market, handler = Market("7" * 10, steps=20), Handler()
    listing = [(320, "1"), (560, "0"), (146, "1"), (55, SYMBOL), (5010, "8"), (2349, "1")]
    handler.on_bytes(market.message("y", 1, listing) + market.snapshot(2))
    messages = list(itertools.islice(market.updates(itertools.count(3)), 100))
    assert {len(message) for message in messages} == {MESSAGE_BYTES}
    assert handler.on_bytes(b"".join(messages)) == 100
    assert handler.stats["crc_ok"] == 100 and handler.stats["gaps"] == 0
    assert handler[SYMBOL].state is State.LIVE


def receive(venue: Venue, kind: str, *more: str) -> int:
    """A round of 1000 messages in records of their own; how long the venue's bytes were."""
    process = receivers.start(kind, venue.port, venue.ca, *more)
    receiver = Receiver(kind, process, venue.accept())
    try:
        sealed = receiver.link.seal(*receiver.messages(1000))
        receiver.link.sock.sendall(sealed)
        assert receiver.link.receive() == b"done"
        receiver.round(1000)
        assert 0 < receiver.times[0] < 1e6
    finally:
        receiver.stop()
    return len(sealed)


@pytest.mark.parametrize(
    ("kind", "more"), [(receivers.C, ()), (receivers.FRAMING, ("uvloop",)), (receivers.STREAMS, ())]
)
def test_receivers_take_all_and_answer(venue, kind, more):
    if kind == receivers.C and receivers.native() is None:
        pytest.skip("no C compiler, or no headers of OpenSSL")
    record = 5 + 1 + 16  # header, content type, tag
    assert receive(venue, kind, *more) == 1000 * (MESSAGE_BYTES + record) + len(MARKER) + record


def test_the_feed_is_timed_until_its_book_shows_the_message(venue, tmp_path):
    import kfix_md

    pytest.importorskip("hdrh")
    process = receivers.start_feed(tmp_path, venue.port, venue.ca, Market().comp_id, engine="auto")
    link = venue.accept()
    feed = latency.Contender("feed", process, link, Session(link))
    try:
        book = kfix_md.attach(path=tmp_path / "kfix-md.bench")[SYMBOL]
        feed.seen = latency.seq_of(book)
        for rate, at_once in ((1000, 1), (5000, 500)):
            result = feed.run(rate, at_once, 0.2)
            assert (book.state, book.seq) == (State.LIVE, feed.session.seq)
            assert result.sent == rate // 5 and result.lateness.get_total_count() == result.sent // at_once
            assert result.latency.get_min_value() > 1000 or not result.latency.get_total_count()
        result.latency.record_value(5000)  # on a busy machine all others may have been left out
        found = {latency.FAST: dict.fromkeys(latency.PATTERNS, result)}
        latency.save(found, tmp_path / "out")
        rows = latency.rows_of(found)
        feed.round(500)
        assert ingest.cpu_ns(process) > 0
    finally:
        feed.stop()
    assert len(list((tmp_path / "out").glob("*.hgrm"))) == len(latency.PATTERNS)
    assert rows[0].name == latency.FAST and rows[0].far["longest"] >= rows[0].far["p50"]
    assert "journal" in (tmp_path / "feed.log").read_text()


def test_a_late_receiver_is_seen_late_and_a_sender_without_a_cpu_leaves_out(monkeypatch):
    """Messages, 1 ms apart: the third is visible with the sixth; the sender does not look at the ninth for 20 ms."""

    class Clock:
        """10 us pass between any two readings."""

        now = 0

        def perf_counter_ns(self) -> int:
            self.now += 10_000
            return self.now

    clock = Clock()

    class Nowhere:
        sent = 0

        def sendall(self, _data: bytes) -> None:
            self.sent += 1

    class Own:
        """A contender without a process."""

        def __init__(self) -> None:
            self.sock, self.session = Nowhere(), None
            self.link, self.process = self, None

        def seen(self) -> int:
            if self.sock.sent == 9 and not self.slept:
                self.slept = True
                clock.now += 20_000_000
            return 2 if 3 <= self.sock.sent < 6 else self.sock.sent

        slept = False

    monkeypatch.setattr(latency, "cpu_ns", lambda _process: 0)
    monkeypatch.setattr(latency, "time", clock)
    sent, taken, late, _ = latency.Contender._paced(Own(), [b""] * 40, 0, 1, 1_000_000, 1)
    assert len(sent) == len(taken) == len(late) == 40
    assert 2_500_000 < taken[2] < 3_500_000 and 500_000 < taken[4] < 1_500_000
    assert all(0 < taken[n] < 100_000 for n in (0, 1, 5, 6, 7, *range(31, 40)))
    # those due meanwhile went out at once: the sender's own lateness, not the receiver's
    assert set(taken[8:28]) == {-1} and late[9] > 10_000_000 and max(late[:9]) < 100_000


def test_where_the_journal_is():
    assert not latency.on_disk(Path("/dev/shm"))
