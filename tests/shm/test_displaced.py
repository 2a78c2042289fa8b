"""A segment whose file is deleted or replaced under its living writer: published again, and its name stays taken."""

from __future__ import annotations

import os
import resource
import socket
import threading
from pathlib import Path

import pytest

from kfix_md import FeedDead, FeedError, UsageError
from kfix_md.shm import locks
from kfix_md.shm.writer import SegmentWriter
from tests.shm.conftest import ASKS, BIDS, Desk


def delete(path: Path) -> None:
    path.unlink()


def move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"something else")
    other.rename(path)


@pytest.mark.parametrize("how", [delete, move_away, replace])
def test_a_displaced_segment_is_published_again_with_all_it_had(tmp_path, how):
    desk = Desk(tmp_path)
    deep = desk.book("ETH/USD", 3, 2, 4, orders=2000)
    for row in range(2000):
        following = row + 1 if row < 1999 else -1
        deep.order(row, "bid", 100, 1, row, row, prev=row - 1, next=following)
    deep.fill([(100, 2000, 2000, 0)], [])
    deep.publish()
    desk.writer.set_session(0, service="spot-l2")
    moving, staying = desk.attach(reconnect=True), desk.attach()
    followed, left = moving["BTC/USD"], staying["BTC/USD"]
    queue = moving["ETH/USD"].orders(1.0)
    assert not desk.writer.displaced()
    how(Path(desk.writer.path))
    assert desk.writer.displaced()
    assert left.top() == followed.top(), "until it is published again, who is attached reads on"
    desk.writer.republish()
    assert not desk.writer.displaced()
    desk.btc.set("bid", 2, 280031, 7)  # into the new file, at the addresses of the old one
    desk.btc.publish()
    assert followed.top()[0] == 28003.1 == desk.attach()["BTC/USD"].top()[0]
    assert len(followed.depth()[0]) == len(BIDS) and len(followed.depth()[1]) == len(ASKS)
    assert len(queue) == 2000 and moving["ETH/USD"].orders(1.0).tolist() == queue.tolist()
    assert moving.sessions[0]["service"] == "spot-l2"
    assert moving.info["instance"] != staying.info["instance"]
    with pytest.raises(FeedDead, match="replaced"):
        left.top()
    desk.book("SOL/USD")  # symbols are added as before
    assert "SOL/USD" in moving
    desk.writer.close()
    assert not Path(desk.writer.path).exists()


def test_a_reader_that_sleeps_is_woken_and_moves(tmp_path):
    desk = Desk(tmp_path)
    book = desk.attach(reconnect=True)["BTC/USD"]
    book.top()
    woken = []
    waiting = threading.Thread(target=lambda: woken.append(book.wait(30)))
    waiting.start()
    Path(desk.writer.path).unlink()
    desk.writer.heartbeat()
    desk.writer.republish()
    for _ in range(500):  # without heartbeats the reader would wait for the feed
        desk.writer.heartbeat()
        waiting.join(0.02)
    assert woken == [True] and book.top()[0] == 28003.0
    desk.writer.close()


def test_what_is_in_the_way_is_named_and_readers_read_on(tmp_path):
    desk = Desk(tmp_path)
    path, book = Path(desk.writer.path), desk.attach()["BTC/USD"]
    path.unlink()
    path.symlink_to(tmp_path / "somewhere")
    for _ in range(2):
        with pytest.raises(UsageError, match="in the way"):
            desk.writer.republish()
    assert book.top()[0] == 28003.0
    path.unlink()
    desk.writer.republish()
    assert desk.attach()["BTC/USD"].top() == book.top(allow_stale=True)
    desk.writer.close()


def test_without_space_readers_read_on_and_it_is_made_later(tmp_path):
    desk = Desk(tmp_path)
    book = desk.attach()["BTC/USD"]
    Path(desk.writer.path).unlink()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, usual[1]))
    try:
        with pytest.raises(FeedError, match="cannot create the shared memory file"):
            desk.writer.republish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert book.top()[0] == 28003.0 and list(tmp_path.iterdir()) == []
    desk.writer.republish()
    assert desk.attach()["BTC/USD"].top()[0] == 28003.0
    desk.writer.close()


def test_a_name_is_taken_as_long_as_its_feed_lives_whatever_happens_to_the_file(tmp_path):
    desk = Desk(tmp_path)
    for _ in range(2):
        with pytest.raises(UsageError, match=f"running already.*{os.getpid()}"):
            SegmentWriter("desk", tmp_path)
        Path(desk.writer.path).unlink(missing_ok=True)
    SegmentWriter("other", tmp_path, capacity=4).close()
    desk.writer.close()
    SegmentWriter("desk", tmp_path, capacity=4).close()


def test_a_lock_that_another_user_took_stops_no_feed(tmp_path, monkeypatch, caplog):
    """Nor does one that does not answer: the record lock on the file still holds a second feed off."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as squatter:
        squatter.bind(locks.address("feed", tmp_path, "desk"))
        Desk(tmp_path).writer.close()
        assert "does not answer" in caplog.text
        squatter.listen()
        monkeypatch.setattr(locks, "_holder", lambda address: (4711, os.geteuid() + 1))
        desk = Desk(tmp_path)
        assert "process 4711 of user" in caplog.text
        with pytest.raises(UsageError, match="running already"):
            SegmentWriter("desk", tmp_path)
        desk.writer.close()
