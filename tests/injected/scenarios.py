"""What is done while calls fail, and what has to hold afterwards; run by tests.injected.run with fail_call.c preloaded.

Each scenario is a function of a folder and an Injection. It calls `during` with the work whose calls may fail, and
asserts afterwards, when nothing fails any more, what users are promised.
"""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from kfix_md import Handler
from kfix_md._state import is_trusted
from kfix_md.errors import KfixError
from kfix_md.journal.reader import EVENT, FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.session.store import SequenceStore
from kfix_md.shm.writer import SegmentWriter
from tests.recorder import build
from tests.streams import generate

MEMORY, FILES, READS = 1, 2, 4  # as in fail_call.c
TABLES = ("gaps", "sessions", "instruments", "status")
#: what a caller has to expect when the system refuses something
EXPECTED = (KfixError, OSError, MemoryError)


@dataclass
class Injection:
    """Lets calls `first` to `first + times - 1` of a kind fail while `during` runs its work.

    Attributes
    ----------
    calls
        Calls of the kind that the work made.
    raised
        What the work raised.
    """

    first: int
    times: int
    error: int
    calls: int = 0
    raised: list[str] = field(default_factory=list)

    def during(self, kind: int, work: Callable[[], object]) -> None:
        library = ctypes.CDLL(None)
        library.kfix_disarm.restype = ctypes.c_long
        library.kfix_arm(kind, ctypes.c_long(self.first), ctypes.c_long(self.times), self.error)
        try:
            work()
        except EXPECTED as error:
            self.raised.append(repr(error))
        finally:
            self.calls += library.kfix_disarm()


@cache
def frames_of(service: str, seed: int = 3) -> list[bytes]:
    return generate(service, messages=120, seed=seed, symbols=3).frames


def _books_without_memory(service: str, folder: Path, injection: Injection) -> None:
    level, frames = service[-2:].upper(), frames_of(service)
    half = len(frames) // 2
    with SegmentWriter("tried", folder) as segment, JournalWriter(folder / "journal", segment_bytes=1 << 20) as journal:
        tried = Handler(level=level, journal=journal, publisher=segment)
        control = Handler(level=level)

        def feed(handler: Handler, some: list[bytes], at: int) -> None:
            for i, frame in enumerate(some):
                try:
                    handler.on_bytes(frame, build.START_NS + at + i)
                except MemoryError as error:  # none for the receive buffer: the frame is lost
                    injection.raised.append(repr(error))

        for handler in (tried, control):
            feed(handler, frames[:4], 0)
        injection.during(MEMORY, lambda: feed(tried, frames[4:half], 4))
        feed(control, frames[4:half], 4)
        _compare(tried, control)
        for handler in (tried, control):
            feed(handler, frames[half:], half)
        _compare(tried, control)


def _compare(tried: Handler, control: Handler) -> None:
    """A book that is trusted is the right one."""
    for symbol in tried.symbols:
        state = tried.book_state(symbol)[0]
        if is_trusted(state):
            ours, right = tried.book(symbol), control.book(symbol)
            assert ours is not None and right is not None, (symbol, state)
            for a, b in zip(ours.depth(50, price="int"), right.depth(50, price="int"), strict=True):
                assert a.tolist() == b.tolist(), (symbol, state)


def books_l2(folder: Path, injection: Injection) -> None:
    """No allocation of decoder, books, journal and shared memory that fails leaves a wrong book LIVE (L2)."""
    _books_without_memory("spot-l2", folder, injection)


def books_l3(folder: Path, injection: Injection) -> None:
    """The same with orders."""
    _books_without_memory("spot-l3", folder, injection)


def journal(folder: Path, injection: Injection) -> None:
    """Every record is in the journal or counted as lost, in order, and the next start goes on behind it."""
    bodies = [b"%06d " % i + bytes(i % 300) for i in range(400)]
    writer: list[JournalWriter] = []

    def write() -> None:
        writer.append(JournalWriter(folder / "journal", segment_bytes=1 << 16, sync_ms=1))
        for i, body in enumerate(bodies):
            writer[0].frame(1, build.START_NS + i, body)
        writer[0].close()

    injection.during(FILES, write)
    if not writer:  # the start failed, which the feed tries again
        assert injection.raised
        bodies.clear()
    lost = sum(one.lost_total for one in writer)
    for one in writer:
        one.close()
    with JournalWriter(folder / "journal", segment_bytes=1 << 16) as again:
        again.frame(1, build.START_NS + 1000, b"after")
    records = list(JournalReader(folder / "journal"))
    found = [record[5] for record in records if record[1] == FRAME]
    assert found.pop() == b"after"
    events = [json.loads(record[5]) for record in records if record[1] == EVENT]
    noted = sum(event["count"] for event in events if event["type"] == "journal_lost")
    rest = iter(bodies)
    assert all(body in rest for body in found), "records in their order"
    assert len(found) + lost == len(bodies)
    assert noted <= lost, "what was lost last is known to the writer alone: it had no room left to write it down"


def segment(folder: Path, injection: Injection) -> None:
    """Shared memory that cannot be made leaves nothing in the way of the next start."""

    def make() -> None:
        with SegmentWriter("tried", folder, capacity=8) as made:
            for i in range(4):
                made.add_symbol(f"S{i}", 3)

    injection.during(FILES, make)
    make()
    left = [path.name for path in folder.iterdir() if "tried" in path.name]
    assert len(left) <= 1, left


def sequence(folder: Path, injection: Injection) -> None:
    """Saved MsgSeqNum never go back: after a restart none is used twice that was saved before."""
    saved = [0]

    def work() -> None:
        store = SequenceStore(folder, "A", "B")
        try:
            for number in range(1, 40):
                try:
                    store.save(number, number, build.START_NS)
                    saved.append(number)
                except OSError as error:
                    injection.raised.append(repr(error))
        finally:
            store.close()

    injection.during(FILES | READS, work)
    again = SequenceStore(folder, "A", "B")
    numbers = again.load()
    again.close()
    assert (numbers.outgoing if numbers else 0) >= saved[-1]


def recorder(folder: Path, injection: Injection) -> None:
    """Whatever fails in a flush or a start, the captures become those of a recorder without faults."""
    from recorder import open as open_captures

    control = _control(folder.parent)
    shutil.copytree(control / "journal", folder / "journal")
    injection.during(FILES, lambda: build.record(folder, flush_rows=60, checkpoint_rows=40))
    build.record(folder, flush_rows=60, checkpoint_rows=40)
    ours, right = (open_captures(path / "captures") for path in (folder, control))
    for table in TABLES:
        assert getattr(ours, table)().to_pylist() == getattr(right, table)().to_pylist(), table
    for symbol in right.symbols():
        assert ours.ticks(symbol, level="both").equals(right.ticks(symbol, level="both")), symbol


def _control(folder: Path) -> Path:
    """A journal with two logons of two services, and what is recorded of it without faults; made once."""
    control = folder / "control"
    if not control.exists():
        build.journal_of(control / "journal", ("spot-l2", "spot-l3"), messages=80)
        build.record(control, flush_rows=60, checkpoint_rows=40)
    return control


#: name -> function; the ones that a minute of the tests samples come with all their calls in `make injected`
ALL: dict[str, Callable[[Path, Injection], None]] = {
    one.__name__: one for one in (books_l2, books_l3, journal, segment, sequence, recorder)
}
