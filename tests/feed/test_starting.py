"""Starts on a machine that is short of something: what time may cure ends no feed, and what it says to its manager."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kfix_md import State, attach
from kfix_md.cli import main
from kfix_md.errors import FeedError, UsageError, may_pass
from kfix_md.feed import processes
from kfix_md.feed.checks import read_secret
from kfix_md.feed.dial import Endpoint, tls_context
from kfix_md.feed.notify import Notifier
from kfix_md.feed.process import FeedProcess
from kfix_md.feed.processes import Supervisor
from kfix_md.feed.recording import has_frames, has_run
from kfix_md.journal.files import segments
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.session.store import SequenceStore
from tests.feed.raw import RawVenue, row
from tests.feed.rig import ROOT, Venue, all_good, drive, equal_to_truth, load, until
from tests.recorder import build

pytest.importorskip("trustme")
ONE = ("spot-l2",)


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    one = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "3", "--rate", "100")
    yield one
    one.close()


@pytest.fixture
def small(tmp_path):
    """A file system of 16 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(where)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("cannot mount a small file system")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def fill(where: Path) -> Path:
    """Take all the space there is."""
    ballast = where / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(1 << 16))
    return ballast


@contextmanager
def started(path: Path, what: str = "feed", **more):
    command = [sys.executable, "-m", "kfix_md", what, str(path)]
    with open(path.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(command, stderr=log, cwd=ROOT, **more)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def eventually(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def serves(name: str, directory: Path) -> bool:
    try:
        return attach(name, directory=directory)["BTC/USD"].state is State.LIVE
    except (FeedError, KeyError):
        return False


def test_books_are_served_without_a_journal_until_there_is_room(venue, tmp_path, small, caplog):
    ballast = fill(small)
    caplog.set_level(logging.INFO)

    async def script(feed):
        await all_good(feed)
        reader = attach("full", directory=tmp_path)
        await until(lambda: reader.counters["journal_alarm"] == 1)
        assert "JOURNAL" in caplog.text and "No space" in caplog.text
        assert reader["BTC/USD"].top() and feed.recording.missing
        ballast.unlink()
        await until(lambda: not feed.recording.missing)
        await until(lambda: feed.services[0].connects == 2)
        await all_good(feed)
        await until(lambda: reader.counters["journal_alarm"] == 0)
        assert await equal_to_truth(feed, venue) == 3
        await until(lambda: "recording again" in caplog.text)  # by the next heartbeat

    text = venue.toml(tmp_path, "full", ONE).replace('directory = "journal"', f'directory = "{small}/journal"')
    drive(tmp_path, text, script)
    records = [(kind, bytes(body)) for _, kind, _, _, _, body in JournalReader(small / "journal")]
    assert b'"started"' in records[0][1].replace(b" ", b"") and records[-1][1].count(b"stopped")
    frames = [body for kind, body in records if kind == FRAME]
    assert b"\x0135=A\x01" in frames[0] and any(b"\x0135=y\x01" in body for body in frames), "it can be decoded alone"


def test_a_feed_whose_shared_memory_is_full_waits_and_then_serves(venue, tmp_path, small):
    ballast = fill(small)
    load(tmp_path, venue.toml(tmp_path, "shm", ONE).replace(f'directory = "{tmp_path}"', f'directory = "{small}"'))
    log = tmp_path / "feed.log"
    with started(tmp_path / "feed.toml") as feed:
        eventually(lambda: b"the feed cannot start yet" in log.read_bytes())
        assert b"free" in log.read_bytes() and feed.poll() is None
        ballast.unlink()
        eventually(lambda: serves("shm", small))
        feed.send_signal(signal.SIGTERM)
        assert feed.wait(10) == 0


def test_a_recorder_whose_disk_is_full_waits_and_then_records(tmp_path, small):
    ballast = fill(small)
    build.journal_of(tmp_path / "journal", ONE, messages=20)
    text = '[[service]]\nname = "spot-l2"\nsender_comp_id = "X"\nsymbols = ["*"]\n'
    load(tmp_path, text + f'[recorder]\ndirectory = "{small}/captures"\ninterval_s = 0.5\n')
    with started(tmp_path / "feed.toml", "record") as recorder:
        eventually(lambda: b"cannot be written yet" in (tmp_path / "feed.log").read_bytes())
        ballast.unlink()
        eventually(lambda: list(small.glob("captures/ticks/**/*.parquet")))
        recorder.send_signal(signal.SIGTERM)
        assert recorder.wait(20) == 0


def test_a_directory_that_is_away_is_a_mistake_at_the_first_start_only(venue, tmp_path):
    where = tmp_path / "shm"
    text = venue.toml(tmp_path, "away", ONE).replace(f'directory = "{tmp_path}"', f'directory = "{where}"')
    with pytest.raises(UsageError, match="No such file") as caught:
        FeedProcess(load(tmp_path, text))
    assert not may_pass(caught.value, has_run(load(tmp_path, text)))
    where.mkdir(mode=0o700)
    drive(tmp_path, text, all_good)
    where.rename(tmp_path / "elsewhere")
    with started(tmp_path / "feed.toml") as feed:
        eventually(lambda: b"the feed cannot start yet" in (tmp_path / "feed.log").read_bytes())
        assert feed.poll() is None
        feed.send_signal(signal.SIGTERM)
        assert feed.wait(5) == 0


def test_a_metrics_port_in_use_ends_no_feed(venue, tmp_path, caplog):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        async def script(feed):
            await all_good(feed)
            assert f"metrics.port = {port}: address already in use" in caplog.text
            other.close()
            await until(lambda: feed._metrics is not None)
            url = f"http://127.0.0.1:{port}/metrics"
            page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=20).read().decode())
            assert "kfix_up" in page

        drive(tmp_path, venue.toml(tmp_path, "port", ONE, journal=f"[metrics]\nport = {port}"), script)


def test_sequence_numbers_without_a_disk_cost_a_reset_and_no_start(venue, tmp_path, monkeypatch, caplog):
    def broken(*_arguments):
        raise UsageError("cannot keep sequence numbers") from OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(SequenceStore, "__init__", broken)
    text = venue.toml(tmp_path, "store", ONE, service='symbols = ["*"]\nreset_seq_num = false')
    drive(tmp_path, text, all_good)
    assert "sequence numbers cannot be stored" in caplog.text


@pytest.mark.parametrize(
    ("code", "ran_before", "passes"),
    [
        (errno.ENOSPC, False, True),
        (errno.EMFILE, False, True),
        (errno.ENOMEM, False, True),
        (errno.EADDRINUSE, False, True),
        (errno.EACCES, True, False),
        (errno.ENOENT, False, False),
        (errno.ENOENT, True, True),
        (errno.EAGAIN, True, False),  # a lock of another process
    ],
)
def test_what_time_may_cure(code, ran_before, passes):
    error = UsageError("in words")
    error.__cause__ = OSError(code, os.strerror(code))
    assert may_pass(error, ran_before) is passes and may_pass(error.__cause__, ran_before) is passes
    assert not may_pass(UsageError("a mistake"), True) and may_pass(MemoryError())


@pytest.mark.parametrize(("code", "status"), [(errno.ENOSPC, 1), (errno.EIO, 1), (errno.EMFILE, 1), (errno.EACCES, 2)])
def test_a_service_manager_starts_again_what_could_not_read_a_file_for_now(tmp_path, monkeypatch, code, status, capsys):
    """A configuration on a failing disk is no mistake of it; neither is a secret or a certificate there."""

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "read_bytes", fails)
    for command in ("feed", "record", "ship"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(tmp_path / "feed.toml")])
        assert ended.value.code == status and os.strerror(code) in capsys.readouterr().err
    monkeypatch.setattr(Path, "open", fails)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", fails)
    for read in (lambda: read_secret("file:/key"), lambda: tls_context(Endpoint("venue", 1, ca=tmp_path / "ca.pem"))):
        with pytest.raises(UsageError, match=f"(?i){re.escape(os.strerror(code))}") as raised:
            read()
        assert may_pass(raised.value) is (status == 1)


def test_a_feed_has_run_before_where_its_journal_has_frames_or_cannot_be_read(tmp_path):
    assert not has_frames(tmp_path / "nothing")
    with JournalWriter(tmp_path, segment_bytes=1 << 16, first_number=1) as journal:
        journal.event(0, build.START_NS, {"type": "started"})
    assert not has_frames(tmp_path)
    with JournalWriter(tmp_path, segment_bytes=1 << 16) as journal:
        journal.frame(0, build.START_NS, b"x" * 100)
    assert has_frames(tmp_path)
    (path,) = [path for number, path in segments(tmp_path).items() if number == 2]
    path.write_bytes(path.read_bytes().replace(b"x", b"y", 1))
    assert has_frames(tmp_path)


# ---- the service manager ----


class Manager:
    """The socket of a service manager."""

    def __init__(self, folder: Path) -> None:
        self.path, self.seen = folder / "notify", []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def environment(self, watchdog_s: float = 0.4) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}

    def read(self) -> list[str]:
        while True:
            try:
                self.seen += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.seen

    def count(self, state: str) -> int:
        return self.read().count(state)


def test_the_manager_hears_ready_alive_and_stopping_and_closed_descriptors_disturb_nothing(venue, tmp_path):
    """stdin, stdout and stderr are closed: nothing of ours may get their numbers, and SIGTERM ends with 0."""
    manager = Manager(tmp_path)
    load(tmp_path, venue.toml(tmp_path, "unit", ONE))
    script = f'exec "{sys.executable}" -m kfix_md feed "{tmp_path}/feed.toml" 0<&- 1>&- 2>&-'
    feed = subprocess.Popen(["sh", "-c", script], cwd=ROOT, env={**os.environ, **manager.environment()})
    try:
        eventually(lambda: manager.count("READY=1") == 1)
        eventually(lambda: serves("unit", tmp_path))
        eventually(lambda: manager.count("WATCHDOG=1") >= 3)
        for fd in range(3):
            assert os.readlink(f"/proc/{feed.pid}/fd/{fd}") == "/dev/null"
        assert manager.count("STOPPING=1") == 0
        feed.send_signal(signal.SIGTERM)
        assert feed.wait(10) == 0
        assert manager.count("STOPPING=1") == 1 and manager.count("READY=1") == 1
    finally:
        feed.kill()
        feed.wait()


def test_a_loop_that_does_not_go_round_is_not_alive(venue, tmp_path):
    manager = Manager(tmp_path)

    async def script(feed):
        feed.notifier = Notifier(manager.environment())
        await until(lambda: manager.count("WATCHDOG=1") >= 2)
        time.sleep(0.1)  # the loop is wedged
        before = manager.count("WATCHDOG=1")
        time.sleep(1.0)
        assert manager.count("WATCHDOG=1") == before
        await until(lambda: manager.count("WATCHDOG=1") > before)

    drive(tmp_path, venue.toml(tmp_path, "wedge", ONE), script)


def test_only_the_process_that_is_meant_and_no_missing_manager(tmp_path):
    manager = Manager(tmp_path)
    assert Notifier(manager.environment()).watchdog_s == 0.4
    assert Notifier({**manager.environment(), "WATCHDOG_PID": "1"}).watchdog_s == 0
    assert Notifier({"WATCHDOG_USEC": "400000"}).watchdog_s == 0
    for address in ("/nowhere/at/all", "@kfix-nobody", ""):
        Notifier({"NOTIFY_SOCKET": address}).send("READY=1")
    assert manager.read() == []


def test_a_wedged_process_of_several_is_killed_and_started_again(tmp_path, monkeypatch, caplog):
    """The supervisor answers for all to the manager's watchdog, and looks at the heartbeat of each."""
    code = (
        "import os, sys, time\nfrom kfix_md.shm.writer import SegmentWriter\n"
        "writer = SegmentWriter(sys.argv[-1], sys.argv[1], capacity=1, heartbeat_ns=100_000_000)\n"
        "assert 'NOTIFY_SOCKET' not in os.environ\n"
        "wedged = os.path.join(sys.argv[1], 'wedged')\n"
        "while sys.argv[-1] == 'b' or os.path.exists(wedged):\n    writer.heartbeat(); time.sleep(0.02)\n"
        "open(wedged, 'w').close()\ntime.sleep(60)\n"
    )
    manager = Manager(tmp_path)
    for name, value in manager.environment(1.0).items():
        monkeypatch.setenv(name, value)
    segments = {name: tmp_path / f"kfix-md.{name}" for name in "ab"}
    supervisor = Supervisor([sys.executable, "-c", code, str(tmp_path)], ["a", "b"], segments)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    begun = time.monotonic()
    while "starting it again" not in caplog.text and time.monotonic() < begun + 20:
        supervisor._poll(time.monotonic())
        time.sleep(0.02)
    first = supervisor.children["b"].pid
    until_s = time.monotonic() + 2.5
    while time.monotonic() < until_s:
        supervisor._poll(time.monotonic())
        time.sleep(0.02)
    assert caplog.text.count("has not beaten") == 1 and "the process of a" in caplog.text
    assert supervisor.children["b"].pid == first and supervisor.children["a"].poll() is None
    monkeypatch.setattr(processes, "PATIENCE_S", 2.0)
    supervisor._end()


def test_the_supervisor_is_alive_for_the_manager(tmp_path):
    manager = Manager(tmp_path)
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    code = f"import sys; from kfix_md.feed.processes import Supervisor; sys.exit(Supervisor({child}, ['a']).run())"
    keeper = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **manager.environment()})
    try:
        eventually(lambda: manager.count("WATCHDOG=1") >= 3)
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(20) == 0 and manager.count("READY=1") == manager.count("STOPPING=1") == 1
    finally:
        keeper.kill()
        keeper.wait()


@pytest.mark.parametrize(
    ("limit", "size", "advice"),
    [("RLIMIT_NOFILE", 3, "ulimit -n"), ("RLIMIT_AS", None, "ulimit -v")],
)
def test_limits_of_the_process_are_named_with_advice(tmp_path, limit, size, advice):
    """A reader and a feed at the limit of descriptors and of address space: one sentence that names the remedy."""
    code = f"""
import resource, sys
import kfix_md.shm.attach  # which the first attach() imports
from kfix_md import attach
from kfix_md.errors import FeedError, UsageError
from kfix_md.shm.writer import SegmentWriter

where = sys.argv[1]
with SegmentWriter("a", where, capacity=500) as writer:
    size = {size} or int(open("/proc/self/statm").read().split()[0]) * 4096 + (1 << 20)
    resource.setrlimit(resource.{limit}, (size, resource.getrlimit(resource.{limit})[1]))
    for attempt in (lambda: attach("a", directory=where), lambda: SegmentWriter("b", where, capacity=500)):
        try:
            attempt()
        except (FeedError, UsageError) as error:
            print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path], env=env, capture_output=True, text=True, check=False
    )
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and all(advice in line for line in lines), result.stdout + result.stderr


def test_sigterm_is_answered_while_the_venue_floods(tmp_path):
    """Instrument lists without end, each of two MiB of rows: each is worked on as a whole, and then SIGTERM is seen."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    rows = [row(f"S{number:05d}/USD") for number in range(32_000)]
    flood = threading.Event()

    def lists(conn, body) -> None:
        def send() -> None:
            with suppress(OSError):
                while conn.alive:
                    conn.list(rows, request=body[320])
                    flood.set()

        threading.Thread(target=send, daemon=True).start()

    raw = RawVenue(tmp_path, rows)
    raw.hooks["x"] = lists
    (tmp_path / "feed.toml").write_text(
        f'[feed]\nname = "flood"\ndirectory = "{tmp_path}"\n[[service]]\nname = "spot-l2"\nsender_comp_id = "ME"\n'
        f'host = "127.0.0.1"\nport = {raw.port}\ntls_ca = "{raw.ca}"\nsymbols = ["S00001/USD"]\n'
        "[journal]\nenabled = false\n"
    )
    feed = subprocess.Popen([sys.executable, "-m", "kfix_md", "feed", "feed.toml"], cwd=tmp_path, env=env)
    try:
        assert flood.wait(20)
        time.sleep(1)
        feed.send_signal(signal.SIGTERM)
        assert feed.wait(10) == 0
    finally:
        feed.kill()
        feed.wait()
        raw.close()
