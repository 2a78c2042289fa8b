"""The TLS benchmarks measure what they claim: messages of one size, 5041 right, each its own record, all received."""

from __future__ import annotations

import contextlib
import itertools

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

    process = receivers.start_feed(tmp_path, venue.port, venue.ca, Market().comp_id, engine="auto")
    link = venue.accept()
    feed = latency.Contender("feed", process, link, Session(link))
    try:
        book = kfix_md.attach(path=tmp_path / "kfix-md.bench")[SYMBOL]
        wait = latency.wait_for(book)
        for message in itertools.islice(feed._updates, 5):
            link.send(message)
            wait(feed.session.seq)
            assert (book.state, book.seq) == (State.LIVE, feed.session.seq)
        feed.round(500)
        assert ingest.cpu_ns(process) > 0
    finally:
        feed.stop()
    assert "journal" in (tmp_path / "feed.log").read_text()
