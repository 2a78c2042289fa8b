"""Cuts the power of a feed and its recorder at every point of their log of writes: python -m tests.recorder.power_loss.

A victim process journals and records with a shim that logs what each fsync and msync puts on disk. For a cut, a machine
of nothing but that is built: a file has what was synced of it, a directory the names it had when it was synced. There
journal and captures must be sound, feed and recorder go on, and nothing that was reported as being on disk be missing.
"""

from __future__ import annotations

import bisect
import ctypes
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import recorder
from kfix_md.errors import CaptureError
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from recorder.process import Recorder
from tests import preload
from tests.recorder import build
from tests.streams import generate

HERE = Path(__file__).parent
SMALL = 1 << 16
STREAM = {"service": "spot-l2", "messages": 400, "symbols": 4, "seed": 8}
_SEQ = re.compile(rb"\x0134=(\d+)\x01")
_APPLIED = re.compile(rb"\x0135=[WX]\x01")
_FILE, _NAMES, _MARK = 1, 2, 3
#: memory, which gives the inode of a deleted file to no other
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_HEAD = struct.Struct("<5Q")


# ---- the victim ----


def victim(root: Path) -> None:
    """Journals a stream and records it, with marks of what it takes to be on disk; retires segments."""
    shim = ctypes.CDLL(None)

    def mark(**facts: int) -> None:
        shim.mark(json.dumps(facts).encode())

    frames = generate(**STREAM).frames
    with JournalWriter(root / "journal", segment_bytes=SMALL, sync_ms=1, first_number=1) as journal:
        build.announce(journal, 0, "spot-l2", build.START_NS)
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
        one = Recorder(build.settings(root, flush_rows=100_000, flush_seconds=1e9, compact=False, retention="delete"))
        for i, frame in enumerate(frames):
            journal.frame(0, build.START_NS + i, frame)
            mark(number=journal.position >> 32, written=journal.position)
            if i % 20 == 0:
                time.sleep(0.004)
                mark(synced=journal.stats()["synced"])
            if i % 50 == 0:
                one.step()
                one.flush()
                mark(committed=one.committed)
                one.housekeeping()
        one.close()


class Entry(NamedTuple):
    """One entry of the log, see write_log.c."""

    kind: int
    inode: int
    size: int
    offset: int
    data: bytes


def logged(folder: Path) -> tuple[list[Entry], int]:
    """The log of a victim, and the inode of its root."""
    root, log = folder / "victim", folder / "log"
    root.mkdir()
    env = {**os.environ, "LD_PRELOAD": str(preload.library(HERE / "write_log.c", folder)), "WRITE_LOG": str(log)}
    command = [sys.executable, "-m", "tests.recorder.power_loss", "--victim", str(root)]
    subprocess.run(command, check=True, env=env, cwd=HERE.parents[1], timeout=120)
    data, at, entries = log.read_bytes(), 0, []
    while at < len(data):
        *head, n = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        entries.append(Entry(*head, data[at : at + n]))
        at += n
    return entries, root.stat().st_ino


# ---- the machine after the cut ----


class Disk:
    """What is on disk: bytes by file, names by directory; both by inode."""

    def __init__(self) -> None:
        self.files: dict[int, bytearray] = {}
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}
        self.facts = {"number": 0, "synced": 0, "committed": 0}
        self.written: list[int] = []  # position after each frame

    def add(self, entry: Entry) -> None:
        """Take the next entry of the log."""
        if entry.kind == _MARK:
            facts = json.loads(entry.data)
            self.written += [facts.pop("written")] if "written" in facts else []
            self.facts.update({k: max(v, self.facts[k]) for k, v in facts.items()})
        elif entry.kind == _NAMES:
            lines = (line.split(" ", 2) for line in entry.data.decode().splitlines())
            self.names[entry.inode] = {n: (int(i), d == "1") for i, d, n in lines if n not in (".", "..")}
        else:
            content = self.files.setdefault(entry.inode, bytearray())
            if entry.offset == 0 and len(entry.data) == entry.size:
                content.clear()
            content.extend(bytes(max(0, entry.size - len(content))))
            content[entry.offset : entry.offset + len(entry.data)] = entry.data

    def lasting(self) -> int:
        """Number of frames that were reported as being on disk."""
        return bisect.bisect_right(self.written, self.facts["synced"])

    def build(self, inode: int, path: Path) -> None:
        """Make the tree as it would be found."""
        path.mkdir()
        for name, (child, is_directory) in self.names.get(inode, {}).items():
            if is_directory:
                self.build(child, path / name)
            else:
                (path / name).write_bytes(self.files.get(child, b""))


def seq_of(body: bytes) -> int:
    """MsgSeqNum of a frame."""
    found = _SEQ.search(body)
    assert found
    return int(found[1])


def sound(root: Path, facts: dict[str, int], frames: list[bytes], lasting: int) -> None:
    """AssertionError unless journal and captures are sound and both programs go on; `lasting` frames must be there."""
    with JournalWriter(root / "journal", segment_bytes=SMALL, first_number=1) as journal:
        found = list(readable(root / "journal"))
        read = [(position, body) for position, kind, *_, body in found if kind == FRAME]
        seqs = [seq_of(body) for position, body in read if position < facts["synced"]]
        assert not seqs or seqs == list(range(seqs[0], lasting + 1))
        assert facts["committed"] or len(seqs) == lasting, "only what is recorded is deleted"
        assert all(frames[seq_of(body) - 1] == body for _, body in read)
        journal.frame(0, build.START_NS + 10**9, b"new")
        assert journal.position >> 32 > facts["number"], "a number is given out twice"
    one = Recorder(build.settings(root, compact=False))
    before = one.committed
    assert before >= facts["committed"]
    one.once()
    one.close()
    cap = recorder.open(root / "captures")
    rows = cap.ticks()
    assert len(set(build.keys(rows))) == rows.num_rows
    applied = {seq_of(body) for _, kind, *_, body in found if kind == FRAME and _APPLIED.search(body)}
    applied |= {i + 1 for i in range(lasting) if _APPLIED.search(frames[i])}
    assert applied <= set(rows["seq"].to_pylist())


def readable(journal: Path) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """Every record that can be read."""
    reader = JournalReader(journal)
    while True:
        try:
            record = reader.read()
        except CaptureError:
            if not reader.resync():
                return
            continue
        if record is None:
            return
        yield record


def check(folder: Path, every: int = 1) -> int:
    """Cut at each `every`-th entry of a victim's log and at its end; returns the number of cuts."""
    entries, root = logged(folder)
    frames, disk, cuts, changes = generate(**STREAM).frames, Disk(), 0, 0
    for i, entry in enumerate(entries):
        disk.add(entry)
        changes += entry.kind != _MARK
        if entry.kind == _MARK and i + 1 < len(entries):
            continue
        if changes % every and i + 1 < len(entries):
            continue
        machine = folder / "machine"
        disk.build(root, machine)
        try:
            sound(machine, disk.facts, frames, disk.lasting())
        except Exception as error:
            raise AssertionError(f"cut after entry {i} of {len(entries)}, {disk.facts}: {error!r}") from error
        shutil.rmtree(machine)
        cuts += 1
    return cuts


def main() -> None:
    if sys.argv[1:2] == ["--victim"]:
        victim(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory(prefix="kfix-power-", dir=FAST) as folder:
        print(f"{check(Path(folder))} cuts, journal and captures sound at each")


if __name__ == "__main__":
    main()
