"""The whole path: frame, checksum, sequence, journal, decode, book, 5041 and shared memory, per message."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.decode import HFFIX, REFERENCE, Reader, readers
from benchmarks.race import Race, Row, compare
from benchmarks.workload import Workload
from kfix_md import Handler
from kfix_md.journal.writer import JournalWriter
from kfix_md.shm.writer import SegmentWriter

WHOLE, BARE = "kfix-md, all eight steps", "kfix-md without journal and shared memory"
PUBLISHED, JOURNALED = "kfix-md without journal", "kfix-md without shared memory"
READ_BYTES = 65_536


def run_handler(handler: Handler, data: bytes) -> None:
    """A stream in reads of 64 KiB, without a copy."""
    view = memoryview(data)
    for at in range(0, len(data), READ_BYTES):
        handler.on_bytes(view[at : at + READ_BYTES], 1)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in shared memory where there is one, removed afterwards."""
    there = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="kfix-bench-", dir=there))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def opened_journal(where: Path) -> JournalWriter:
    """A journal with its first record and its spare segment, as a feed has when data come: the spare one is being
    zeroed on another core just after the first was taken, which would take memory bandwidth from the round."""
    journal = JournalWriter(where)
    journal.event(0, 1, {"type": "started"})
    until = time.monotonic() + 2
    while journal.stats()["segments"] < 2 and time.monotonic() < until:
        time.sleep(0.002)
    return journal


class Plumbing:
    """A handler for one call, with new journal and segment; those of the call before are closed.

    Both are made whether the handler is given them or not: it takes milliseconds and empties the caches, which all
    runners are to find alike.
    """

    def __init__(self, folder: Path, journal: bool, publisher: bool, opening: bytes = b"") -> None:
        self.folder, self.wanted, self.opening, self.open = folder, (journal, publisher), opening, []

    def __call__(self) -> Handler:
        self.close()
        where = Path(tempfile.mkdtemp(dir=self.folder))
        journal, publisher = opened_journal(where / "journal"), SegmentWriter("bench", where, capacity=32)
        self.open = [(part, where) for part in (journal, publisher)]
        handler = Handler(journal=journal if self.wanted[0] else None, publisher=publisher if self.wanted[1] else None)
        handler.on_bytes(self.opening, 1)
        return handler

    def close(self) -> None:
        """End what the last call used."""
        for part, where in self.open:
            part.close()
            shutil.rmtree(where, ignore_errors=True)
        self.open = []


def run(work: Workload, rounds: int) -> list[Row]:
    """The rows of one stream: the whole of it, then what single steps cost once the books are open."""
    return whole_stream(work, rounds) + steps(work, rounds)


def whole_stream(work: Workload, rounds: int) -> list[Row]:
    """Every message, snapshots and the first touch of the memory included."""
    group = f"whole path, {work.name}"
    race, data = Race(group, work.messages, calls=2), work.data
    with scratch() as folder:
        plumbing = {WHOLE: Plumbing(folder, True, True), BARE: Plumbing(folder, False, False)}
        for name, prepare in plumbing.items():
            race.add(name, lambda handler: run_handler(handler, data), prepare=prepare)
        missing = add_readers(race, plumbing, folder, data)
        rows = race.rows(rounds)
        for prepare in plumbing.values():
            prepare.close()
    compare(rows, WHOLE, REFERENCE, 1.0, at_most=True)
    compare(rows, WHOLE, HFFIX, 1.05, at_most=False)
    return rows + missing


def add_readers(
    race: Race, plumbing: dict[str, Plumbing], folder: Path, data: bytes, opening: bytes = b""
) -> list[Row]:
    """Readers in C++, which decode alone, after the preparation that the others have; rows of those that are absent."""
    found, missing = readers(race.group)
    for name in found:
        plumbing[name] = Plumbing(folder, False, False)

        def prepare(name: str = name) -> Reader:
            plumbing[name]()
            return Reader(name, opening)

        race.add(name, lambda reader: reader(data), prepare=prepare)
    return missing


def steps(work: Workload, rounds: int) -> list[Row]:
    """Incrementals after the snapshots: all steps, what journal and shared memory add, and decoding alone in C++."""
    opening, updates = work.halves()
    messages = updates.count(b"8=FIX.4.4\x019=")
    group = f"steps, X of {work.name}"
    race = Race(group, messages, calls=2)
    kinds = {WHOLE: (True, True), PUBLISHED: (False, True), JOURNALED: (True, False), BARE: (False, False)}
    with scratch() as folder:
        plumbing = {name: Plumbing(folder, *kind, opening) for name, kind in kinds.items()}
        for name, prepare in plumbing.items():
            race.add(name, lambda handler: run_handler(handler, updates), prepare=prepare)
        missing = add_readers(race, plumbing, folder, updates, opening)
        rows = race.rows(rounds)
        for prepare in plumbing.values():
            prepare.close()
    compare(rows, WHOLE, HFFIX, 1.54 if work.level == "L3" else 1.33, at_most=False)
    by_name = {row.name: row.value for row in rows}
    return [
        *rows,
        *missing,
        cost(group, "publish to shared memory", by_name[PUBLISHED], by_name[BARE], 20),
        cost(group, "append to the journal", by_name[JOURNALED], by_name[BARE], 200),
    ]


def cost(group: str, name: str, with_it: float | None, without: float | None, goal: int) -> Row:
    """What one step adds to a message: the difference of two medians."""
    assert with_it is not None and without is not None
    value = with_it - without
    return Row(group, name, value, goal=f"<= {goal} ns", met=value <= goal, note="difference of two runs above")
