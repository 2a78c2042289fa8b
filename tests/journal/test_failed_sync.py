"""After a failed sync the kernel may drop the pages: no later success is believed, and no record is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kfix_md.journal import files as journal_files
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from tests import preload

HERE = Path(__file__).parent
NOON = 1_700_049_600_000_000_000  # 2023-11-15 12:00 UTC
SMALL = 1 << 16

_RIG = """
import json, mmap, os, struct, sys, time
from kfix_md.journal.writer import JournalWriter

NOON = 1_700_049_600_000_000_000
with open(os.environ["FAILING_SYNC"], "r+b") as file:
    fails = mmap.mmap(file.fileno(), 16)

def fail(msync, fsync, directory=0, realloc=0):
    fails[:] = struct.pack("<iiii", msync, fsync, directory, realloc)

def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, w.stats()
        time.sleep(0.002)

def beat_until(condition):  # as a feed: a heartbeat leaves the segment when no record comes after its sync failed
    until(lambda: (w.relieve(NOON), condition())[1])

def write(n):
    global count
    for _ in range(n):
        assert w.frame(0, NOON + count, b"%06d" % count * 20)
        count += 1

count = 0
w = JournalWriter(sys.argv[1], segment_bytes=int(sys.argv[2]), sync_ms=int(sys.argv[3]), first_number=1)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    if preload.COMPILER is None:
        pytest.skip("no C compiler")
    return preload.library(HERE / "failing_sync.c", tmp_path_factory.mktemp("shim"))


def run(shim: Path, journal: Path, script: str, segment_bytes: int = 1 << 20, sync_ms: int = 5) -> dict:
    counts = journal.with_name("counts")
    counts.write_bytes(bytes(16))
    preloaded = [*os.environ.get("LD_PRELOAD", "").split(), str(shim)]  # after the sanitizers' own, if there are any
    done = subprocess.run(
        [sys.executable, "-c", _RIG + script, str(journal), str(segment_bytes), str(sync_ms)],
        env={**os.environ, "LD_PRELOAD": " ".join(preloaded), "FAILING_SYNC": str(counts)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=HERE.parents[1],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def numbers(journal: Path) -> list[int]:
    return [int(body[:6]) for _, kind, *_, body in JournalReader(journal) if kind == FRAME]


_ONCE = """
write(500)
until(lambda: w.stats()["synced"] == w.position)
fail(1, 0)
write(700)
until(lambda: w.stats()["sync_failed"])
alarm, before = w.stats(), w.stats()["synced"]
write(300)
beat_until(lambda: not w.stats()["alarm"])
until(lambda: w.stats()["synced"] == w.position)
stats = w.stats()
w.close()
print(json.dumps({"alarm": alarm, "stats": stats, "count": count, "unsynced": w.unsynced}))
"""


def test_what_a_failed_sync_dropped_is_written_again_elsewhere(tmp_path, shim):
    journal = tmp_path / "journal"
    found = run(shim, journal, _ONCE)
    assert "cannot be synced: Input/output error" in found["alarm"]["alarm"]
    assert found["alarm"]["risk_records"] > 0 and found["alarm"]["risk_bytes"] > 0
    stats = found["stats"]
    assert (stats["sync_failed"], stats["rescued"], stats["rescue_lost"], stats["risk_bytes"]) == (1, 1, 0, 0)
    assert numbers(journal) == list(range(found["count"])) and found["unsynced"] == 0
    heads = journal_files.heads(journal)
    assert [head.reason for head in heads.values()] == ["fault", "closed"] and not any(h.fault for h in heads.values())
    assert not list(journal.glob("rescue*"))


_NO_RECORD_COMES = """
fail(1, 0)
write(40)
until(lambda: w.stats()["sync_failed"])
until(lambda: w.stats()["risk_records"] > 0)
beat_until(lambda: not w.stats()["alarm"])
assert w.stats()["rescued"] == 1 and w.stats()["rescue_lost"] == 0
w.close()
print(json.dumps({"count": count}))
"""


def test_without_a_further_record_the_heartbeat_leaves_the_segment(tmp_path, shim):
    found = run(shim, tmp_path / "journal", _NO_RECORD_COMES)
    assert numbers(tmp_path / "journal") == list(range(found["count"]))


_FOR_LONG = """
write(100)
until(lambda: w.stats()["synced"] == w.position)
synced = w.stats()["synced"]
fail(1, 1 << 30)
for _ in range(30):
    write(50)
    time.sleep(0.01)
until(lambda: w.stats()["sync_failed"])
assert w.stats()["alarm"] and w.stats()["synced"] == synced and not w.stats()["rescued"], w.stats()
fail(0, 0)
beat_until(lambda: not w.stats()["alarm"])
until(lambda: w.stats()["synced"] == w.position)
stats = w.stats()
w.close()
print(json.dumps({"count": count, "stats": stats}))
"""


def test_the_alarm_lasts_until_all_of_it_is_on_disk(tmp_path, shim):
    """The other file cannot be synced either, for some tries; later segments can."""
    found = run(shim, tmp_path / "journal", _FOR_LONG, SMALL)
    assert numbers(tmp_path / "journal") == list(range(found["count"]))
    assert found["stats"]["rescued"] == 1 and found["stats"]["segments"] > 3


_CLOSED = """
fail(1, 1 << 30)
write(40)
w.close()
fail(0, 0)
print(json.dumps({"count": count, "unsynced": w.unsynced}))
"""


def test_a_journal_closed_on_a_failing_disk_says_what_is_not_there(tmp_path, shim):
    found = run(shim, tmp_path / "journal", _CLOSED)
    assert found["unsynced"] > 0
    assert numbers(tmp_path / "journal") == list(range(found["count"])), "readers have it as long as the cache does"


_ITS_END = """
write(5)
until(lambda: w.stats()["synced"] == w.position)
fail(1, 0)
assert w.frame(0, NOON + 86_400_000_000_000, b"%06d" % count)  # of the next date: only the end is not on disk
until(lambda: not w.stats()["alarm"] and w.stats()["rescued"])
stats = w.stats()
w.close()
print(json.dumps({"stats": stats}))
"""


def test_a_segment_whose_end_cannot_be_synced_is_written_again(tmp_path, shim):
    stats = run(shim, tmp_path / "journal", _ITS_END)["stats"]
    assert (stats["sync_failed"], stats["rescued"], stats["rescue_lost"]) == (1, 1, 0)
    assert numbers(tmp_path / "journal") == list(range(6))
    assert [head.reason for head in journal_files.heads(tmp_path / "journal").values()] == ["date", "closed"]


_ITS_NAME = """
write(40)
fail(1, 0, 1)
assert w.frame(0, NOON + 86_400_000_000_000, b"%06d" % count)  # of the next date
until(lambda: w.stats()["sync_failed"])
until(lambda: w.stats()["synced"] == w.position)
stats = w.stats()
w.close()
print(json.dumps({"stats": stats}))
"""


def test_a_segment_is_written_again_although_the_sync_of_its_name_failed_too(tmp_path, shim):
    """`synced` must not pass a segment because its file was looked for under the name that it had before."""
    stats = run(shim, tmp_path / "journal", _ITS_NAME, sync_ms=200)["stats"]
    assert (stats["sync_failed"], stats["rescued"], stats["rescue_lost"]) == (1, 1, 0)
    assert numbers(tmp_path / "journal") == list(range(41))


_NO_COPY = """
write(5)
until(lambda: w.stats()["synced"] == w.position)
before = w.position
fail(1, 0, 0, 1 << 30)  # no memory for what is to be synced
write(200)
until(lambda: w.stats()["sync_failed"])
end = w.position
beat_until(lambda: not w.stats()["alarm"])
stats = w.stats()
w.close()
print(json.dumps({"stats": stats, "bytes": end - before}))
"""


@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer has a realloc of its own")
def test_what_is_gone_for_want_of_memory_for_a_copy_is_counted(tmp_path, shim):
    found = run(shim, tmp_path / "journal", _NO_COPY)
    stats = found["stats"]
    assert (stats["sync_failed"], stats["rescued"]) == (1, 1)
    assert 0 < stats["rescue_lost"] <= found["bytes"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_rescue_that_was_interrupted(tmp_path, whole):
    with JournalWriter(tmp_path, segment_bytes=SMALL, first_number=1) as writer:
        for i in range(50):
            writer.frame(0, NOON + i, b"%06d" % i * 20)
    path = journal_files.segments(tmp_path)[1]
    data = path.read_bytes()
    rescue = tmp_path / "rescue.0000000001.kfj"
    rescue.write_bytes(data if whole else data[:3000])
    with open(path, "r+b") as file:  # what the disk has of the segment
        file.seek(4096)
        file.write(bytes(4096))
    JournalWriter(tmp_path, segment_bytes=SMALL).close()
    assert not rescue.exists()
    reader, found = JournalReader(tmp_path), []
    while True:
        try:
            record = reader.read()
        except Exception:
            assert reader.resync()
            continue
        if record is None:
            break
        found.append(int(record[5][:6]))
    assert (found == list(range(50))) is whole
