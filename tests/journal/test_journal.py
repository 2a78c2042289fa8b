"""The journal keeps every record, in order, whatever happens to its writer."""

import errno
import fcntl
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kfix_md.errors import CaptureError, Unreadable, UsageError
from kfix_md.journal import files as journal_files
from kfix_md.journal import layout
from kfix_md.journal.reader import EVENT, FRAME, OUT, JournalReader, crc32c, crc32c_ways
from kfix_md.journal.writer import JournalWriter
from recorder.layout import Tree
from tests import preload

NOON = 1_700_049_600_000_000_000  # 2023-11-15 12:00 UTC
HOUR = 3_600_000_000_000
SMALL = 1 << 16


def writer(path, **options) -> JournalWriter:
    return JournalWriter(path, **{"segment_bytes": SMALL, "first_number": 1, **options})


def bodies(path, position=0) -> list[bytes]:
    return [record[5] for record in JournalReader(path, position)]


def crc32c_plain(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_every_way_to_crc32c_against_the_definition():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value
    rng = random.Random(1)
    for n in [0, 1, 7, 8, 9, 63, 64, 95, 96, 103, 200, 404, 1511, 1512, 1513, 1620, 3121, 9001]:
        data = rng.randbytes(n)
        assert crc32c(data) == crc32c_plain(data)
        for way in crc32c_ways():
            assert crc32c(data, way=way) == crc32c_plain(data)
            assert crc32c(data[n // 2 :], crc32c(data[: n // 2], way=way), way=way) == crc32c_plain(data)
    assert "portable" in crc32c_ways()
    with pytest.raises(ValueError, match="portable"):
        crc32c(b"", way="crc16")


def test_records_come_back_in_order_across_segments(tmp_path):
    rng = random.Random(2)
    sent = []
    with writer(tmp_path) as w:
        for i in range(3000):
            body = rng.randbytes(rng.choice([0, 1, 31, 200, 900]))
            sent.append((FRAME, i % 5, NOON + i, i & 0xFF, body))
            assert w.frame(i % 5, NOON + i, body, i & 0xFF)
        assert w.stats()["lost"] == 0
    got = list(JournalReader(tmp_path))
    assert [r[1:] for r in got] == sent
    positions = [r[0] for r in got]
    assert positions == sorted(set(positions))
    assert len(journal_files.segments(tmp_path)) > 5
    for i in (0, 1, 777, 2999):  # a reader may begin at any record
        assert next(JournalReader(tmp_path, positions[i]))[1:] == sent[i]


def test_a_reader_follows_a_living_writer(tmp_path):
    w = writer(tmp_path)
    reader = JournalReader(tmp_path)
    assert list(reader) == []
    for i in range(2000):
        w.frame(0, NOON, b"%d" % i * 20)
        got = list(reader)
        assert [r[5] for r in got] == [b"%d" % i * 20]
        assert i % 100 or reader.tail["segments_behind"] == 0, "a segment made in advance has not begun"
    start = JournalReader(tmp_path)
    w.close()
    assert list(reader) == []
    assert start.tail["segments_behind"] > 2


def test_the_session_date_ends_a_segment_at_22_utc(tmp_path):
    with writer(tmp_path) as w:
        for ns in (NOON, NOON + 10 * HOUR - 1, NOON + 10 * HOUR, NOON + 9 * HOUR, NOON + 34 * HOUR):
            w.frame(0, ns, b"x")
    names = [p.name for p in journal_files.segments(tmp_path).values()]
    assert names == ["2023-11-15.0000000001.kfj", "2023-11-16.0000000002.kfj", "2023-11-17.0000000003.kfj"]
    reasons = [journal_files.info(p).reason for p in journal_files.segments(tmp_path).values()]
    assert reasons == ["date", "date", "closed"]
    assert len(bodies(tmp_path)) == 5  # the clock set back stays in the open date


def test_a_clock_that_was_a_year_ahead_dates_nothing_there_for_ever(tmp_path):
    year = 365 * 24 * HOUR
    times = [NOON, NOON + year, NOON + year, NOON + 1, NOON + 2, NOON - 11 * HOUR, NOON + 24 * HOUR]
    with writer(tmp_path) as w:
        for ns in times:
            w.frame(0, ns, b"x")
    names = [path.name for _, path in sorted(journal_files.segments(tmp_path).items())]
    assert names == [
        "2023-11-15.0000000001.kfj",
        "2024-11-14.0000000002.kfj",
        "2023-11-15.0000000003.kfj",
        "2023-11-16.0000000004.kfj",
    ]
    assert [record[3] for record in JournalReader(tmp_path)] == times  # by number, whatever the dates


@pytest.mark.parametrize("ns", [-(1 << 63), -1, 0, (1 << 63) - 1])
def test_no_receive_time_begins_a_segment_for_each_record(tmp_path, ns):
    with writer(tmp_path) as w:
        for _ in range(5):
            w.frame(0, ns, b"x")
    assert [record[3] for record in JournalReader(tmp_path)] == [ns] * 5
    assert len(journal_files.segments(tmp_path)) == 1


def test_a_record_larger_than_a_segment(tmp_path):
    big = random.Random(3).randbytes(5 * SMALL)
    with writer(tmp_path) as w:
        for body in (b"a", big, b"b", big + b"!", b"c"):
            assert w.frame(0, NOON, body)
    assert bodies(tmp_path) == [b"a", big, b"b", big + b"!", b"c"]
    numbers = sorted(journal_files.segments(tmp_path))
    assert numbers == list(range(1, len(numbers) + 1))


def test_events_wait_for_the_frame_being_processed(tmp_path):
    with writer(tmp_path) as w:
        reader = JournalReader(tmp_path)
        w.stage(1, NOON, b"frame")
        w.event(1, NOON, {"type": "gap_open", "first": 3})
        w.out(1, NOON, b"2=")
        assert list(reader) == []  # nothing is visible before the commit
        w.publish(8)
        got = list(reader)
    assert [(r[1], r[4]) for r in got] == [(FRAME, 8), (EVENT, 0), (OUT, 0)]
    assert json.loads(got[1][5]) == {"type": "gap_open", "first": 3}


def test_a_frame_that_comes_after_the_end_is_lost_and_harms_nothing(tmp_path):
    w = writer(tmp_path)
    w.stage(1, NOON, b"frame")
    w.publish(0)
    w.close()
    assert not w.stage(1, NOON, b"late")
    w.publish(0)
    assert bodies(tmp_path) == [b"frame"]


def test_one_writer_a_directory(tmp_path):
    with writer(tmp_path):
        assert journal_files.writer_alive(tmp_path)
        with pytest.raises(CaptureError, match=f"in use by process {os.getpid()}"):
            writer(tmp_path)
    assert not journal_files.writer_alive(tmp_path)
    writer(tmp_path).close()


def test_words_for_directories_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        writer(tmp_path / "file" / "journal")
    with pytest.raises(UsageError, match="no journal at"):
        JournalReader(tmp_path / "absent")
    with pytest.raises(UsageError, match="segment_bytes"):
        writer(tmp_path, segment_bytes=5)
    w = writer(tmp_path)
    w.close()
    with pytest.raises(CaptureError, match="closed"):
        w.frame(0, NOON, b"")


def _last_segment(path) -> Path:
    found = journal_files.segments(path)
    return found[max(found)]


def _unseal(path: Path, torn: bytes, at: int | None = None) -> int:
    """Make a closed segment look like its writer died, `torn` written after the last record."""
    end = journal_files.info(path).sealed_end
    with open(path, "r+b") as file:
        file.seek(layout.SEALED_END_AT)
        file.write(bytes(8))
        file.seek(end if at is None else at)
        file.write(torn)
    return end


def test_restart_behind_a_torn_record_says_so_and_goes_on(tmp_path):
    with writer(tmp_path) as w:
        for i in range(10):
            w.frame(0, NOON, b"%d" % i)
    torn = struct.pack("<IIHHHHqQ", 40, 0xBAD, 1, 0, 0, 0, NOON, 5) + b"half"
    end = _unseal(_last_segment(tmp_path), torn)
    reader = JournalReader(tmp_path)
    for i in range(10):
        assert next(reader)[5] == b"%d" % i
    with pytest.raises(CaptureError, match=rf"damaged at offset {end} .*checksum"):
        next(reader)
    assert reader.resync() == 0  # nothing sound after it, and the end is not known
    with writer(tmp_path) as w:
        assert w.recovered == {
            "segment": "2023-11-15.0000000001.kfj",
            "end": end,
            "records": 10,
            "torn_bytes": len(torn),
            "damaged_bytes": 0,
        }
        w.frame(0, NOON, b"again")
    assert [r[5] for r in reader] == [b"again"]  # the same reader goes on
    assert bodies(tmp_path) == [b"%d" % i for i in range(10)] + [b"again"]


def test_damage_in_the_middle_is_said_and_stepped_over(tmp_path):
    with writer(tmp_path) as w:
        positions = []
        for i in range(50):
            positions.append(w.position if i else 1 << 32 | 128)
            w.frame(0, NOON, b"record %d" % i)
    path = _last_segment(tmp_path)
    with open(path, "r+b") as file:
        for i in (20, 30):
            file.seek((positions[i] & 0xFFFFFFFF) + 35)
            file.write(b"?")
        file.seek(positions[31] & 0xFFFFFFFF)
        file.write(bytes(20))  # a length of nothing inside a sealed segment
    reader, seen, damages = JournalReader(tmp_path), [], []
    while True:
        try:
            record = reader.read()
        except CaptureError as error:
            damages.append(str(error))
            assert reader.resync() > 0
            continue
        if record is None:
            break
        seen.append(int(record[5].split()[1]))
    assert seen == [i for i in range(50) if i not in (20, 30, 31)]
    assert len(damages) == 2 and f"{positions[20]:#x}" in damages[0]


def test_missing_segments_and_foreign_files_are_said(tmp_path):
    with writer(tmp_path) as w:
        for i in range(400):
            w.frame(0, NOON, b"%03d" % i * 200)
    found = journal_files.segments(tmp_path)
    found[2].unlink()
    reader = JournalReader(tmp_path)
    before = 0
    with pytest.raises(CaptureError, match="segment 2 is missing"):
        while reader.read():
            before += 1
    assert reader.resync() and len(list(reader)) + before < 400
    found[1].unlink()
    with pytest.raises(CaptureError, match="is gone"):
        JournalReader(tmp_path, 1 << 32)
    found[3].write_bytes(b"not a journal" * 20)
    with pytest.raises(CaptureError, match="not a journal segment"):
        next(JournalReader(tmp_path))


def test_compressed_segments_read_the_same(tmp_path):
    with writer(tmp_path) as w:
        for i in range(500):
            w.frame(0, NOON, b"%03d" % i * 200)
    before = list(JournalReader(tmp_path))
    for path in list(journal_files.segments(tmp_path).values()):
        assert journal_files.compress(path).name.endswith(".kfj.zst")
    assert list(JournalReader(tmp_path)) == before
    assert next(JournalReader(tmp_path, before[321][0])) == before[321]
    with writer(tmp_path) as w:  # numbers go on
        w.frame(0, NOON, b"new")
    assert len(list(JournalReader(tmp_path))) == 501


_LIMITED = """
import resource, sys, time
from kfix_md.journal.writer import JournalWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
w = JournalWriter(sys.argv[1], segment_bytes=1 << 17, first_number=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
stored = 0
deadline = time.monotonic() + 20
while w.lost_total < 50:
    stored += w.frame(1, 1_700_000_000_000_000_000, b"m" * 400)
    assert time.monotonic() < deadline
alarm = w.stats()["alarm"]
assert "cannot grow" in alarm, alarm
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
while not w.frame(1, 1_700_000_000_000_000_000, b"after"):
    time.sleep(0.01)
    assert time.monotonic() < deadline
while w.stats()["alarm"]:
    time.sleep(0.01)
    assert time.monotonic() < deadline
print(stored, w.lost_total)
w.close()
"""


def test_no_room_is_an_alarm_and_a_record_of_what_was_lost(tmp_path):
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored, lost = map(int, done.stdout.split())
    records = list(JournalReader(tmp_path))
    kinds = [r[1] for r in records]
    assert kinds.count(EVENT) == 1
    at = kinds.index(EVENT)
    event = json.loads(records[at][5])
    assert event["type"] == "journal_lost" and event["count"] == lost
    assert (at, records[at + 1][5], len(records)) == (stored, b"after", stored + 2)


_VICTIM = """
import sys
from kfix_md.journal.writer import JournalWriter
w = JournalWriter(sys.argv[1], segment_bytes=1 << 17)
start = int(sys.argv[2])
out = sys.stdout
i = start
while True:
    for _ in range(50):
        assert w.frame(1, 1_700_000_000_000_000_000, b"%d|" % i + b"x" * (i * 7919 % 900))
        i += 1
    out.write(f"{i}\\n")     # reported as stored: must never be lost
    out.flush()
"""


def test_kill_9_at_random_points_loses_nothing(tmp_path):
    rng = random.Random(4)
    reported = start = 0
    for _ in range(6):
        victim = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(tmp_path), str(start)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(rng.randrange(1, 60)):
            reported = int(victim.stdout.readline())
        time.sleep(rng.random() * 0.002)
        victim.send_signal(signal.SIGKILL)
        for line in victim.stdout:
            reported = int(line)
        victim.wait()
        victim.stdout.close()
        reader, numbers = JournalReader(tmp_path), []
        while (record := reader.read()) is not None:
            i = int(record[5].split(b"|")[0])
            assert record[5] == b"%d|" % i + b"x" * (i * 7919 % 900)
            numbers.append(i)
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= reported
        start = len(numbers)


class Source:
    """A feed session whose instruments are carried from segment to segment."""

    def __init__(self, text: bytes | Exception) -> None:
        self.text = text

    def carried(self) -> bytes:
        if isinstance(self.text, Exception):
            raise self.text
        return self.text


CARRIED = b'{"type":"carried","symbols":{"A/USD":[1,8]}}'


@pytest.mark.parametrize(
    ("third", "carried"),
    [
        (b"", [(1, CARRIED)]),
        (b"c" * 15_000, [(1, CARRIED), (3, b"c" * 15_000)]),
        (b"c" * (SMALL // 4), None),  # with the others more than a quarter of a segment
        (ValueError("no instruments"), None),
    ],
)
def test_each_segment_begins_with_what_decoding_it_takes(tmp_path, third, carried):
    described = [(n, b'{"type":"session","number":%d}' % n) for n in (1, 2)]
    with writer(tmp_path) as w:
        for n, _ in described:
            w.event(n, NOON, {"type": "session", "number": n})
        w.carry(1, Source(CARRIED))
        w.carry(3, Source(third))
        n = 0
        while w.position >> 32 < 4:
            w.frame(1, NOON, b"%06d" % n * 200)
            n += 1
    frames = [int(body[:6]) for _, kind, *_, body in JournalReader(tmp_path) if kind == FRAME]
    assert frames == list(range(n)), "the same ones once"
    for number in (2, 3, 4):
        records = [record for record in JournalReader(tmp_path, number << 32) if record[0] >> 32 == number]
        found = [(session, body) for _, kind, session, *_, body in records if kind == EVENT]
        assert found == ([] if carried is None else described + carried)
        assert [kind for _, kind, *_ in records[: len(found)]] == [EVENT] * len(found), "before all frames"


def test_nothing_is_done_for_a_journal_to_which_nothing_is_added(tmp_path):
    """Its thread wakes up for the time of each sync, and syncs again what is added later."""

    def until_synced(w) -> dict[str, int]:
        deadline = time.monotonic() + 20
        while w.stats()["synced"] < w.position:
            time.sleep(0.001)
            assert time.monotonic() < deadline
        return w.stats()

    def wakings(thread: str) -> int:
        status = Path(f"/proc/self/task/{thread}/status").read_text()
        return int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)[1])

    before = set(os.listdir("/proc/self/task"))
    with writer(tmp_path, sync_ms=100) as w:
        (thread,) = set(os.listdir("/proc/self/task")) - before
        w.frame(0, NOON, b"x")
        until_synced(w)
        time.sleep(0.2)
        idle, awake = w.stats(), wakings(thread)
        time.sleep(1)
        later = w.stats()
        assert wakings(thread) - awake < 45  # each 10 ms it was 100, and a sync each 100 ms
        assert later["syncs"] - idle["syncs"] <= 2
        assert later["synced_ns"] - idle["synced_ns"] > 300_000_000  # all of it is on disk, as of now
        w.frame(0, NOON, b"y")
        assert until_synced(w)["syncs"] > later["syncs"]


_CLOCK_SET_BACK = """
import os, struct, sys, time
from kfix_md.journal.writer import JournalWriter

def synced():
    deadline = time.monotonic() + 5
    while w.stats()["synced"] != w.position:
        assert time.monotonic() < deadline, w.stats()
        time.sleep(0.002)

w = JournalWriter(sys.argv[1], sync_ms=20, first_number=1)
w.frame(0, 1_700_049_600_000_000_000, b"x")
synced()
time.sleep(0.1)
with open(os.environ["WALL_CLOCK_AHEAD"], "r+b") as file:
    file.write(struct.pack("<q", 0))
w.frame(0, 1_700_049_600_000_000_000, b"y")
synced()
assert w.stats()["exposed_max_ns"] < 5_000_000_000, w.stats()
w.close()
"""


@preload.needs_compiler
def test_a_clock_that_is_set_back_does_not_stop_the_syncs(tmp_path):
    """A wait until a time of day would last for the hour by which the clock went back."""
    shim, ahead = preload.library(Path(__file__).parents[1] / "shm" / "wall_clock.c", tmp_path), tmp_path / "ahead"
    ahead.write_bytes(struct.pack("<q", HOUR))
    preloaded = [*os.environ.get("LD_PRELOAD", "").split(), str(shim)]
    env = {**os.environ, "LD_PRELOAD": " ".join(preloaded), "WALL_CLOCK_AHEAD": str(ahead)}
    subprocess.run([sys.executable, "-c", _CLOCK_SET_BACK, str(tmp_path / "journal")], env=env, check=True, timeout=60)


def test_what_is_older_than_a_sync_is_on_disk(tmp_path):
    """`synced` grows, never beyond what was written, and reaches every record by the end of the sync that began after
    it; `exposed_max_ns` bounds how long that took."""
    written: list[tuple[int, int]] = []  # position after a record, when it was committed
    syncs = synced = 0
    with writer(tmp_path, sync_ms=5) as w:
        deadline = time.monotonic() + 20
        while syncs < 40:
            w.frame(0, NOON, b"x" * 900)
            written.append((w.position, time.time_ns()))
            reported = w.stats()
            assert synced <= reported["synced"] <= w.position
            old = [position for position, at in written if at < reported["synced_ns"]]
            assert not old or w.stats()["synced"] >= old[-1]
            syncs, synced = reported["syncs"], reported["synced"]
            time.sleep(0.001)
            assert time.monotonic() < deadline
        while w.stats()["synced"] < w.position:  # to the end, though nothing comes after it
            time.sleep(0.001)
            assert time.monotonic() < deadline
        reported = w.stats()
        assert reported["segments"] > 2 and reported["sync_failed"] == 0
        assert reported["exposed_max_ns"] >= 5_000_000 and reported["exposed_max_ns"] >= reported["sync_max_ns"]


def test_the_lock_is_a_lock(tmp_path):
    w = writer(tmp_path)
    with open(tmp_path / "lock") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    w.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_a_disk_that_cannot_lock_is_not_another_writer(tmp_path, monkeypatch, number):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UsageError, match=f"cannot be written: {os.strerror(number)}"):
        writer(tmp_path)
    with pytest.raises(OSError, match=os.strerror(number)):
        (tmp_path / "state").mkdir()
        Tree(tmp_path).lock("recorder")


@pytest.mark.parametrize("step", ["list", "open"])
def test_a_segment_renamed_while_a_reader_enters_it_is_found_again(tmp_path, monkeypatch, step):
    with writer(tmp_path) as w:
        w.frame(0, NOON, b"one")
    listed, segment, calls = os.listdir, journal_files.SegmentFile, []

    def listdir(path):
        calls.append(path)
        return [] if len(calls) == 1 else listed(path)

    def opened(path):
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(path)
        return segment(path)

    if step == "list":
        monkeypatch.setattr(journal_files.os, "listdir", listdir)
    else:
        monkeypatch.setattr(journal_files, "SegmentFile", opened)
    reader = JournalReader(tmp_path)
    calls.clear()
    assert [record[5] for record in reader][:1] == [b"one"] and len(calls) >= 2


def failing_reads(monkeypatch, fails):
    """os.pread fails with EIO where `fails(offset)` is true."""
    pread = os.pread

    def read(fd, n, offset):
        if fails(offset):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, n, offset)

    monkeypatch.setattr(os, "pread", read)


@pytest.mark.parametrize("at", [0, layout.HEADER_BYTES])  # the header; the records
def test_a_read_that_fails_for_now_is_no_damage(tmp_path, monkeypatch, at):
    with writer(tmp_path) as w:
        for body in (b"one", b"two"):
            w.frame(0, NOON, body)
    with monkeypatch.context() as patch:
        failing_reads(patch, lambda offset: offset == at)
        reader = JournalReader(tmp_path)
        for _ in range(3):
            with pytest.raises(Unreadable, match="Input/output error") as caught:
                reader.read()
            assert caught.value.errno == errno.EIO and reader.unreadable
    assert [record[5] for record in reader] == [b"one", b"two"] and not reader.unreadable


def test_an_unreadable_place_can_be_stepped_over_where_that_is_wanted(tmp_path, monkeypatch):
    with writer(tmp_path) as w:
        for number in range(300):
            w.frame(0, NOON, b"%d" % number + bytes(200))
    failing_reads(monkeypatch, lambda offset: 8192 <= offset < 12288)
    monkeypatch.setattr(journal_files._Plain, "read", lambda self, offset, n, read=journal_files._Plain.read: read(
        self, offset, min(n, 4096)))  # fmt: skip
    reader = JournalReader(tmp_path)
    found, skipped = [], 0
    while True:
        try:
            record = reader.read()
        except Unreadable:
            with pytest.raises(Unreadable):
                reader.resync(read_all=True)
            skipped += reader.resync()
            continue
        if record is None:
            break
        found.append(int(record[5].split(b"\0")[0]))
    assert skipped >= 3800 and found[-1] == 299 and 260 < len(found) < 300


def test_a_dead_writers_segment_is_not_sealed_where_it_cannot_be_read(tmp_path, monkeypatch):
    with writer(tmp_path) as w:
        for body in (b"one", b"two"):
            w.frame(0, NOON, body)
        while not (dated := list(tmp_path.glob("2*.0000000001.kfj"))):  # another thread renames the spare
            time.sleep(0.001)
        data = dated[0].read_bytes()
    dated[0].write_bytes(data)  # as if its writer had died
    with monkeypatch.context() as patch:
        failing_reads(patch, lambda offset: offset >= layout.HEADER_BYTES)
        with pytest.raises(Unreadable):
            writer(tmp_path)
    with writer(tmp_path) as w:
        assert w.recovered["records"] == 2
    assert bodies(tmp_path)[:2] == [b"one", b"two"]
