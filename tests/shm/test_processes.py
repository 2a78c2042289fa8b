"""Writers and readers as processes: killed, stopped, replaced, attached again, and files that are no feeds."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import kfix_md
from kfix_md import Cause, FeedDead, FeedError, State, UsageError, attach
from kfix_md.shm.writer import SegmentWriter
from tests.shm._stress import check_levels
from tests.shm.conftest import Desk

VICTIM = Path(__file__).with_name("victim.py")
ROOT = Path(__file__).resolve().parents[2]


def start(directory: Path, name: str = "v", heartbeat_ms: int = 200, mode: str = "600") -> subprocess.Popen:
    """A feed process, publishing; returns when it does."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    victim = subprocess.Popen(
        [sys.executable, VICTIM, name, directory, str(heartbeat_ms), mode],
        cwd=directory,
        stdout=subprocess.PIPE,
        env=env,
    )
    assert victim.stdout.readline() == b"ready\n"
    return victim


def end(victim: subprocess.Popen) -> None:
    victim.kill()
    victim.wait()
    victim.stdout.close()


def until(what, seconds: float = 10.0):
    """The first true value of what(); fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)
    return value


def dead(book) -> str:
    try:
        book.top(allow_stale=False)
    except FeedDead as error:
        return str(error)
    except FeedError as error:  # killed inside a write
        return str(error) if "dead" in str(error) else ""
    return ""


def test_a_killed_writer_is_dead_within_one_heartbeat(tmp_path):
    for _ in range(4):
        victim = start(tmp_path)
        feed = attach("v", directory=tmp_path)
        book = feed["BTC/USD"]
        assert check_levels(*book.depth(12, price="int"))
        end(victim)
        killed = time.monotonic()
        message = until(lambda: dead(book))  # noqa: B023
        assert time.monotonic() - killed < 0.2 + 0.1, "a heartbeat and what the loop takes"
        assert f"process {victim.pid}" in message and "dead" in message
        assert (book.state, book.cause, feed.alive) == (State.DOWN, Cause.RESTART, False)
        assert book.changed()
        with pytest.raises(FeedDead):
            book.wait(5)
        with pytest.raises(FeedDead):
            feed.snapshot()
        with pytest.raises(FeedDead, match="dead"):
            attach("v", directory=tmp_path)
        assert attach("v", directory=tmp_path, reconnect=True) is not None


def test_readers_move_to_the_new_feed_when_asked_to(tmp_path):
    victim = start(tmp_path)
    plain, moving = attach("v", directory=tmp_path), attach("v", directory=tmp_path, reconnect=True)
    still, moved = plain["BTC/USD"], moving["BTC/USD"]
    trades = moved.trade_reader()
    end(victim)
    again = start(tmp_path)  # starts at once over the dead one
    try:
        assert "replaced" in until(lambda: dead(still))
        assert moved.top()[0] > 0 and moved.state is State.LIVE
        assert moving["BTC/USD"] is moved and moving.alive
        assert len(moving.snapshot()) == 1 and moving.wait(5) and moved.wait(5)
        assert len(trades.read()) == 0
        assert moving.info["pid"] == again.pid
    finally:
        end(again)


def test_who_reads_no_books_follows_a_restarted_feed_too(tmp_path):
    first = start(tmp_path)
    plain, moving = attach("v", directory=tmp_path), attach("v", directory=tmp_path, reconnect=True)
    end(first)
    second = start(tmp_path)
    try:
        assert plain.info["pid"] == first.pid
        assert moving.info["pid"] == second.pid
        assert moving.counters == attach("v", directory=tmp_path).counters
        assert moving["BTC/USD"].top()[0] > 0
    finally:
        end(second)


def test_a_reader_that_waits_moves_too(tmp_path):
    victim = start(tmp_path)
    moving = attach("v", directory=tmp_path, reconnect=True)
    book = moving["BTC/USD"]
    end(victim)
    until(lambda: dead(book))
    second = start(tmp_path)
    try:
        assert book.wait(5)
        assert book.top()[0] > 0
    finally:
        end(second)


def test_a_stopped_writer_is_noticed_and_believed_again(tmp_path):
    victim = start(tmp_path, heartbeat_ms=50)
    try:
        book = attach("v", directory=tmp_path)["BTC/USD"]
        victim.send_signal(signal.SIGSTOP)
        message = until(lambda: dead(book) or _stuck(book))
        assert "stopped" in message or "changing" in message
        with pytest.raises(UsageError, match=f"running already.*{victim.pid}"):
            SegmentWriter("v", tmp_path)
        victim.send_signal(signal.SIGCONT)
        until(lambda: not dead(book) and not _stuck(book))
    finally:
        end(victim)


def _stuck(book) -> str:
    """Stopped inside a write: no whole reading."""
    try:
        book.top(allow_stale=True)
    except FeedError as error:
        return str(error)
    return ""


def test_closing_in_order_frees_the_name_and_says_so(tmp_path):
    desk = Desk(tmp_path)
    btc = desk.attach()["BTC/USD"]
    desk.writer.close()
    desk.writer.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(FeedDead, match="ended"):
        btc.top()
    assert btc.top(allow_stale=True)[0] == 28003.0
    desk.btc.publish()  # goes nowhere, does no harm
    Desk(tmp_path).writer.close()


def test_only_one_of_many_starting_feeds_gets_the_name(tmp_path):
    made, rejected = [], []

    def make() -> None:
        try:
            made.append(SegmentWriter("one", tmp_path, capacity=4))
        except UsageError as error:
            rejected.append(str(error))

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(rejected) == 5
    made[0].close()


def test_fifty_readers_killed_do_nothing_to_the_feed(tmp_path):
    victim = start(tmp_path)
    code = (
        "import kfix_md, sys\nb = kfix_md.attach('v', directory=sys.argv[1])['BTC/USD']\n"
        "print('r', flush=True)\nwhile 1: b.wait(1); b.top(); b.depth(12)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    readers = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", code, tmp_path],
            stdout=subprocess.PIPE,
            env={**env, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])},
        )
        for _ in range(6)
    ]
    try:
        feeds = [attach("v", directory=tmp_path) for _ in range(44)]
        for reader in readers:
            assert reader.stdout.readline() == b"r\n"
        for reader in readers:
            reader.kill()
            reader.wait()
        for feed in feeds:
            assert check_levels(*feed["BTC/USD"].depth(12, price="int"))
        before = feeds[0]["BTC/USD"].info()["updates"]
        until(lambda: feeds[0]["BTC/USD"].info()["updates"] > before)
        assert victim.poll() is None
    finally:
        for reader in readers:
            reader.kill()
            reader.stdout.close()
        end(victim)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_account_reads_by_group_and_not_without(tmp_path):
    os.chmod(tmp_path, 0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_mode & 0o005 != 0o005 and folder != Path("/"):
            break
    else:
        folder = None
    writer = SegmentWriter("g", tmp_path, 0o640, group=65534, capacity=4)
    private = SegmentWriter("p", tmp_path, capacity=4)
    writer.add_symbol("A")
    pid = os.fork()
    if pid == 0:  # uid 65534: no privileges
        try:
            os.chdir(tmp_path)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            feed = attach("g", directory=".")
            code = 0 if feed["A"].state is State.INIT else 1
            try:
                attach("p", directory=".")
                code = 2
            except FeedError as error:
                code = code or (0 if "permission" in str(error) and "0o600" in str(error) else 3)
        except BaseException:
            code = 4
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    writer.close()
    private.close()
    assert status == 0 or (status == 4 and folder is not None)


# ---- files that are no feeds ----


def test_no_such_feed_names_those_there_are(tmp_path):
    with pytest.raises(FeedError, match="there is none in"):
        attach(directory=tmp_path)
    desk = Desk(tmp_path, "tokyo")
    assert attach(directory=tmp_path).name == "tokyo"  # the only one there is
    other = Desk(tmp_path, "paris")
    with pytest.raises(FeedError, match="no feed named 'default'; there are: paris, tokyo"):
        attach(directory=tmp_path)
    with pytest.raises(FeedError, match="directory"):
        attach("x", directory=tmp_path / "none")
    assert attach(path=tmp_path / "kfix-md.paris").name == "paris"
    assert kfix_md.feeds(tmp_path) == ["paris", "tokyo"]
    desk.writer.close()
    other.writer.close()


def spoiled(tmp_path: Path, desk: Desk, how) -> Path:
    """A sparse copy of a segment's first MiB, spoiled by `how(data)`, under the name "bad"."""
    data = bytearray(np.fromfile(desk.writer.path, "u1", 1 << 20).tobytes())
    size = Path(desk.writer.path).stat().st_size
    path = tmp_path / "kfix-md.bad"
    size = how(data) or size
    with path.open("wb") as file:
        file.write(data[:size])
        file.truncate(size)
    return path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.__setitem__(slice(0, 8), b"GARBAGE!"), "not a kfix-md feed"),
        (lambda data: data.__setitem__(slice(8, 12), struct.pack("<I", 7)), "layout 7.*layout 2"),
        (lambda data: 4096, "truncated"),
        (lambda data: 100, "truncated"),
        (lambda data: 8, "only 8 bytes"),
        (lambda data: data.__setitem__(slice(192, 200), struct.pack("<Q", 1 << 60)), "damaged"),
        (lambda data: data.__setitem__(slice(236, 240), struct.pack("<I", 1 << 30)), "damaged"),
        (lambda data: data.__setitem__(slice(4096 + 64 * 256 + 64, 4096 + 64 * 256 + 72), b"\xff" * 8), "damaged"),
    ],
)
def test_damaged_segments_give_one_clear_error_each(tmp_path, desk, spoil, message):
    path = spoiled(tmp_path, desk, spoil)
    with pytest.raises(FeedError, match=message):
        attach(path=path)["BTC/USD"].top()


def test_garbage_and_folders_in_place_of_a_segment(tmp_path):
    (tmp_path / "kfix-md.text").write_text("no feed" * 1000)
    (tmp_path / "kfix-md.empty").touch()
    (tmp_path / "kfix-md.folder").mkdir()
    os.mkfifo(tmp_path / "kfix-md.fifo")
    for name in ("text", "empty", "folder", "fifo"):
        with pytest.raises(FeedError):
            attach(name, directory=tmp_path)
    SegmentWriter("text", tmp_path, capacity=4).close()  # garbage is no living feed: the name is taken
    with pytest.raises(UsageError, match="in the way"):
        SegmentWriter("folder", tmp_path, capacity=4)
    with pytest.raises(UsageError, match="in the way"):
        SegmentWriter("fifo", tmp_path, capacity=4)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs a small tmpfs")
def test_a_full_file_system_is_an_error_when_a_symbol_is_added_never_sigbus(tmp_path):
    where = tmp_path / "small"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", where], check=False).returncode:
        pytest.skip("cannot mount")
    try:
        with pytest.raises(FeedError, match=r"needs .* more bytes .* free"):
            SegmentWriter("big", where, capacity=4000)
        writer = SegmentWriter("s", where, capacity=20, orders=4096)
        with pytest.raises(FeedError, match=r"needs .* more bytes"):
            for i in range(20):
                writer.add_symbol(f"S{i}")
        assert 2 <= len(attach("s", directory=where)) < 10
        writer.set_state(1, State.LIVE)
        assert attach("s", directory=where)["S1"].state is State.LIVE
        writer.close()
        _orders_without_space(where)
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def _orders_without_space(where: Path) -> None:
    """Order rows that get no pages are left out, and flagged."""
    from tests.shm._stress import ManualBook

    writer = SegmentWriter("o", where, capacity=4, orders=20_000, l3_depth=10, trades=4, depth=10)
    book = ManualBook(writer, writer.add_symbol("A", 3), orders=20_000)
    for row in range(20_000):
        book.order(row, "bid", 1, 1, row, row)
    book.fill([(1, 20_000, 20_000, 0)], [])
    book.publish()
    assert attach("o", directory=where)["A"].truncated == (False, True)
    writer.close()


def mappings(directory: Path) -> int:
    """Segments of a directory that this process maps, deleted ones included."""
    return sum(str(directory) in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_reconnecting_readers_do_not_keep_the_segments_of_ended_feeds(tmp_path):
    desk = Desk(tmp_path)
    feed = desk.attach(reconnect=True)
    book = feed["BTC/USD"]
    counts = []
    for n in range(40):
        desk.writer.close()
        desk = Desk(tmp_path)
        desk.btc.set("bid", 2, 280030 + n, 1)
        desk.btc.publish()
        assert book.top()[0] == (280030 + n) / 10
        counts.append(mappings(tmp_path))
    assert max(counts) <= counts[1] and len(feed.snapshot()) == 1
    desk.writer.close()


def test_no_lock_of_a_reader_is_in_the_way_of_the_next_feed(tmp_path):
    """Scripts that poll a dead feed ask whether its writer lives as fast as they can."""
    victim = start(tmp_path, heartbeat_ms=50)
    feed = attach("v", directory=tmp_path)
    end(victim)
    until(lambda: dead(feed["BTC/USD"]))
    with open(feed.path, "rb") as readers:
        fcntl.flock(readers, fcntl.LOCK_SH)
        SegmentWriter("v", tmp_path).close()
    stop, polls = threading.Event(), itertools.count()

    def poll() -> None:
        while not stop.is_set():
            feed.alive  # noqa: B018 - asks the kernel
            next(polls)

    threads = [threading.Thread(target=poll) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        SegmentWriter("v", tmp_path).close()
    stop.set()
    for thread in threads:
        thread.join()
    assert next(polls) > 20


def test_what_killed_starts_left_is_removed_by_the_next(tmp_path):
    """Their temporary files; not that of a start that is under way, nor a young one of another name."""

    def leave(name: str, age_s: float) -> Path:
        path = tmp_path / name
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    ours, old = leave(".kfix-md.desk.4711.0123abcd", 0), leave(".kfix-md.other.one.4712.0123abcd", 3600)
    young, foreign = leave(".kfix-md.other.4713.0123abcd", 0), leave(".kfix-md.text", 3600)
    busy = leave(".kfix-md.other.4714.0123abcd", 3600)
    with busy.open("r+b") as file:
        fcntl.fcntl(file, 37, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 2, 1, 0))  # F_OFD_SETLK on KFIX_WRITER
        Desk(tmp_path).writer.close()
    assert [path.exists() for path in (ours, old, young, foreign, busy)] == [False, False, True, True, True]
