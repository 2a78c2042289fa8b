"""Services in processes of their own: readers see one feed, and what dies takes nothing else with it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kfix_md
from kfix_md._entry import Cause, State
from kfix_md.cli.console import Watch
from kfix_md.config import service_config, service_names
from kfix_md.errors import FeedDead, NoSuchSymbol, UsageError
from kfix_md.feed.processes import Supervisor, clear_way
from kfix_md.shm.joined import JoinedFeed
from kfix_md.shm.writer import SegmentWriter
from tests.feed.rig import ROOT, Venue, load

SERVICES = ("spot-l2", "derivatives-l3")
FEED = 'processes = "per-service"'
PATIENCE_S = 120.0  # only a hang reaches it: other processes may be slow on a loaded machine
#: A living process that is delayed must not count as stopped: three heartbeats are longer than any delay here.
SLOW_HEART = "heartbeat_ms = 5000"


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    venue = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "2", "--rate", "200")
    yield venue
    venue.close()


def until(condition: Callable[[], object]) -> None:
    """Wait for other processes."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def kfix(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kfix_md", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def all_live(folder: Path) -> bool:
    try:
        feed = kfix_md.attach("parts", directory=folder)
    except kfix_md.FeedError:
        return False
    books = feed.books()
    return len(books) == 4 and all(book.state is State.LIVE for book in books)


def test_two_processes_are_one_feed_and_a_killed_one_comes_back(venue, tmp_path):
    path = tmp_path / "feed.toml"
    path.write_text(venue.toml(tmp_path, "parts", SERVICES, feed=f"{FEED}\n{SLOW_HEART}"))
    recording = subprocess.Popen(
        [sys.executable, "-m", "kfix_md", "record", str(path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    shown = [recording.stderr.readline() for _ in range(3)]  # before there is a feed
    assert sum("waiting for `kfix feed`" in line for line in shown) == 2
    running = subprocess.Popen(
        [sys.executable, "-m", "kfix_md", "feed", str(path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: all_live(tmp_path))
        plain = kfix_md.attach("parts", directory=tmp_path)
        moving = kfix_md.attach("parts", directory=tmp_path, reconnect=True)
        assert kfix_md.feeds(tmp_path) == ["parts"] and plain.name == "parts"
        pids = plain.info["pids"]
        assert set(pids) == set(SERVICES) and running.pid not in pids.values()
        _consoles_see_one_feed(tmp_path)
        _one_dies(plain, moving, pids["derivatives-l3"])
        again = kfix_md.attach("parts", directory=tmp_path)
        assert again.fault == "" and again.info["pids"]["spot-l2"] == pids["spot-l2"]
        assert again.info["pids"]["derivatives-l3"] != pids["derivatives-l3"]
        for process in (running, recording):
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE_S) == 0
    finally:
        recording.kill()
        recording.communicate()
        running.kill()
        log = running.communicate()[1]
    assert "the process of derivatives-l3 was killed by signal 9; starting it again" in log
    assert kfix_md.feeds(tmp_path) == []
    with pytest.raises(FeedDead):
        plain.check()
    _closed_to_others(tmp_path)
    _recorded_apart(path)


def _closed_to_others(folder: Path) -> None:
    made = [path for part in ("journal", "captures") for path in (folder / part, *(folder / part).rglob("*"))]
    assert any(path.suffix == ".kfj" for path in made) and any(path.suffix == ".parquet" for path in made)
    assert [path for path in made if path.stat().st_mode & 0o007] == []


def _consoles_see_one_feed(folder: Path) -> None:
    ran = kfix("top", "--json", "--sample", "0", "--feed", "parts", "--directory", folder)
    shown = json.loads(ran.stdout)
    assert ran.returncode == 0 and shown["feed"] == "parts" and shown["fault"] is None
    assert {(row["level"], row["state"]) for row in shown["symbols"]} == {("L2", "LIVE"), ("L3", "LIVE")}
    assert [session["service"] for session in shown["sessions"]] == list(SERVICES)
    assert [session["number"] for session in shown["sessions"]] == [0, 1]


def _one_dies(plain: JoinedFeed, moving: JoinedFeed, pid: int) -> None:
    spot, other = plain["BTC/USD"], next(book for book in plain.books() if book.level == "L3")
    moved = moving[other.symbol]
    before = spot.instance, moved.instance
    os.kill(pid, signal.SIGKILL)
    until(lambda: other.state is State.DOWN)
    with pytest.raises(FeedDead, match="derivatives-l3"):
        other.top()
    assert spot.state is State.LIVE and spot.top()[0] > 0
    assert plain.alive and "derivatives-l3" in plain.fault and "spot-l2" not in plain.fault
    rows = plain.snapshot()
    dead = rows["level"] == 3
    assert dead.sum() == 2 and set(rows["state"][dead]) == {State.DOWN}
    assert set(rows["cause"][dead]) == {Cause.RESTART}
    assert np.isnan(rows["bid"][dead]).all() and not np.isnan(rows["bid"][~dead]).any()
    until(lambda: moved.state is State.LIVE and moved.instance != before[1])
    assert moved.top()[0] > 0 and spot.instance == before[0]
    assert spot.state is State.LIVE and other.state is State.DOWN


def _recorded_apart(path: Path) -> None:
    made = kfix("record", path, "--once")
    assert made.returncode == 0, made.stderr
    for service in SERVICES:
        proof = kfix("verify", path.parent / "captures" / service, "--json")
        assert proof.returncode == 0 and json.loads(proof.stdout)["holds"], proof.stdout
        assert json.loads(proof.stdout)["checked"] > 0


def test_a_part_has_what_must_not_be_shared(tmp_path):
    ports = "[metrics]\nport = 9000\n[recorder]\nmetrics_port = 9100\n"
    text = f'[feed]\nname = "a"\ncpu = [3, 5]\nprocesses = "per-service"\n{ports}' + "".join(
        f'[[service]]\nname = "{name}"\nsender_comp_id = "{name}-{twin}"\nsymbols = ["*"]\n'
        for name, twin in (("spot-l2", 1), ("spot-l3", 1), ("spot-l2", 2), ("derivatives-l2", 1))
    )
    whole = load(tmp_path, text)
    assert service_names(whole) == ["spot-l2", "spot-l3", "derivatives-l2"]
    parts = [service_config(whole, name) for name in service_names(whole)]
    assert [part.feed.name for part in parts] == ["a.spot-l2", "a.spot-l3", "a.derivatives-l2"]
    assert [part.feed.cpu for part in parts] == [3, 5, 3]
    assert [part.metrics.port for part in parts] == [9000, 9001, 9002]
    assert [part.recorder.metrics_port for part in parts] == [9100, 9101, 9102]
    assert [len(part.service) for part in parts] == [2, 1, 1]  # a hot pair stays together
    assert parts[1].journal.directory == tmp_path / "journal" / "spot-l3"
    assert parts[1].recorder.directory == tmp_path / "captures" / "spot-l3"
    assert (whole.feed.name, len(whole.service)) == ("a", 4)
    with pytest.raises(UsageError, match=r"no service 'derivatives-l3'.*there are: spot-l2"):
        service_config(whole, "derivatives-l3")


def test_names_of_parts_are_not_to_be_had(tmp_path):
    service = '[[service]]\nname = "spot-l2"\nsender_comp_id = "x"\nsymbols = ["*"]\n'
    for feed, message in (
        ('name = "a.spot-l3"', "must not end in .spot-l3"),
        (f'name = "{"a" * 33}"\n{FEED}', "at most 32"),
        ("cpu = []", "empty list"),
    ):
        with pytest.raises(UsageError, match=message):
            load(tmp_path, f"[feed]\n{feed}\n{service}")


def writer(folder: Path, name: str, symbol: str, level: int = 2) -> SegmentWriter:
    made = SegmentWriter(name, str(folder), capacity=4, depth=10, orders=64, heartbeat_ns=10**11)
    made.add_symbol(symbol, level)
    return made


def test_a_feed_of_the_other_form_is_told_or_swept_away(tmp_path):
    service = '[[service]]\nname = "spot-l2"\nsender_comp_id = "x"\nsymbols = ["*"]\n'
    whole = load(tmp_path, f'[feed]\nname = "a"\ndirectory = "{tmp_path}"\n{service}')
    apart = whole.model_copy(update={"feed": whole.feed.model_copy(update={"processes": "per-service"})})
    part = writer(tmp_path, "a.spot-l2", "BTC/USD")
    clear_way(apart)
    with pytest.raises(UsageError, match="'a' is running already"):
        clear_way(whole)
    part.close()
    dead = tmp_path / "kfix-md.a.spot-l3"
    made = writer(tmp_path, "a.spot-l3", "BTC/USD", 3)
    copy = dead.read_bytes()
    made.close()
    dead.write_bytes(copy)  # as a kill leaves it
    clear_way(whole)
    assert not dead.exists()


def test_joined_readers(tmp_path):
    spot = writer(tmp_path, "j.spot-l2", "BTC/USD")
    feed = kfix_md.attach("j", directory=tmp_path)
    assert isinstance(feed, JoinedFeed) and feed.symbols == ["BTC/USD"] and len(feed) == 1
    with pytest.raises(NoSuchSymbol, match="PF_ETHUSD"):
        feed["PF_ETHUSD"]
    futures = writer(tmp_path, "j.derivatives-l2", "PF_ETHUSD")  # a process that starts later
    assert feed["PF_ETHUSD"].symbol == "PF_ETHUSD" and feed["PF_ETHUSD"] is feed["PF_ETHUSD", "L2"]
    assert feed.symbols == ["BTC/USD", "PF_ETHUSD"] and ("PF_ETHUSD", "L3") not in feed
    assert [symbol for symbol, _ in feed.items()] == feed.symbols
    spot.set_counter("messages", 3)
    futures.set_counter("messages", 4)
    assert feed.counters["messages"] == 7
    assert feed.wait(0.01) in (True, False) and feed.wait(0.001) is False
    futures.set_counter("messages", 5)
    futures.close()
    assert feed.alive and "closed it" in feed.fault and "closed it" in repr(feed)
    spot.close()
    assert not feed.alive
    with pytest.raises(FeedDead, match=r"spot-l2.*derivatives-l2"):
        feed.snapshot()
    assert set(feed.snapshot(allow_stale=True)["state"]) == {State.DOWN}
    assert kfix_md.feeds(tmp_path) == []


def test_a_sleeper_hears_of_any_process(tmp_path):
    writers = [writer(tmp_path, "w.spot-l2", "BTC/USD"), writer(tmp_path, "w.derivatives-l2", "PF_ETHUSD")]
    feed = kfix_md.attach("w", directory=tmp_path)
    feed.wait(0.001)
    for each in writers:
        each.heartbeat()  # sees that somebody sleeps
    for each in writers:
        later = threading.Timer(0.02, each.set_state, (0, State.SYNCING))
        later.start()
        assert feed.wait(PATIENCE_S) is True
        later.join()
    assert feed.wait(0.002) is False
    for each in writers:
        each.close()


def test_the_console_shows_the_recorder_that_is_furthest_behind(tmp_path):
    writers = [writer(tmp_path, "r.spot-l2", "BTC/USD"), writer(tmp_path, "r.derivatives-l2", "PF_ETHUSD")]
    captures = tmp_path / "captures"
    watch = Watch(kfix_md.attach("r", directory=tmp_path), captures)
    assert watch.look().recorder is None
    for made, service, lag in zip(writers, ("spot-l2", "derivatives-l2"), (100, 7), strict=True):
        (captures / service / "state").mkdir(parents=True)
        (captures / service / "state" / "commit.json").write_text(json.dumps({"position": (5 << 32) + 1000}))
        made.set_counter("journal_position", (5 << 32) + 1000 + lag)
    assert watch.look().recorder["behind_bytes"] == 100
    writers[0].set_counter("journal_position", (5 << 32) + 1000)
    assert watch.look().recorder["behind_bytes"] == 7
    writers[1].close()
    reading = watch.look()
    assert "derivatives-l2" in reading.fault and [State(int(state)).name for state in reading.rows["state"]] == [
        "INIT",
        "DOWN",
    ]
    writers[0].close()


def test_a_fault_of_the_configuration_ends_all(tmp_path):
    script = "import sys, time; time.sleep(3600) if sys.argv[2] == 'b' else sys.exit(2)"
    code = (
        "import sys; from kfix_md.feed.processes import Supervisor; "
        f"sys.exit(Supervisor([sys.executable, '-c', {script!r}], ['a', 'b']).run())"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=PATIENCE_S, check=False).returncode == 2


def test_a_configuration_error_at_a_restart_leaves_the_others_running():
    keeper = Supervisor([sys.executable, "-c", "import sys; sys.exit(2)"], ["a"])
    keeper._starts["a"] = 1  # it has run before
    for now in (1000.0, 1100.0, 1200.0):
        assert keeper._poll(now) == 0
        keeper.children["a"].wait(PATIENCE_S)
    assert keeper._starts["a"] == 4


def test_what_keeps_dying_is_started_later_each_time(caplog):
    keeper = Supervisor([sys.executable, "-c", "pass"], ["a"])
    keeper._born["a"], starts = 1000.0, []
    for tenth in range(400):
        now = 1000.0 + tenth / 10
        if keeper._may_start("a", -9, now):
            keeper._born["a"] = now
            starts.append(now)
    pauses = [round(after - before, 1) for before, after in itertools.pairwise(starts)]
    assert starts[0] == 1000.0 and pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert "killed by signal 9" in caplog.text
