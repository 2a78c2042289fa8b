"""A flush or a read that fails changes nothing: the captures equal those of a recorder without faults."""

from __future__ import annotations

import errno
import os
import random

import pytest

import recorder
from kfix_md._codec import fields
from kfix_md.journal import events
from kfix_md.journal.writer import JournalWriter
from recorder import layout
from recorder import writer as recorder_writer
from recorder._ticks import message_type
from recorder.process import Recorder
from recorder.verify import verify
from tests.recorder import build
from tests.streams import generate

TABLES = ("gaps", "sessions", "instruments", "status")


def write_journal(path) -> None:
    """Two services, each with gaps, listings and a second logon, in small segments."""
    with JournalWriter(path, segment_bytes=1 << 16, first_number=1) as journal:
        now = build.START_NS
        for turn in range(2):
            for number, service in enumerate(("spot-l2", "spot-l3")):
                frames = generate(service, messages=120, seed=10 * turn + number).frames
                half = len(frames) // 2
                now = build.write_session(journal, number, service, frames[:half], now, end=False)
                gap = events.GapOpened(now, half, half + 2, "lost", ("BTC/USD",))
                journal.event(number, now, gap)
                journal.event(number, now + 5, events.GapClosed(gap.id, "snapshot"))
                journal.event(number, now + 6, events.Disconnected("reset by peer", "disconnect", False, True))
                now = build.write_session(journal, number, service, frames, now + 10**9)


def last_seqs() -> list[int]:
    """Highest MsgSeqNum of market data of each logon that `write_journal` writes."""
    found = []
    for turn in range(2):
        for number, service in enumerate(("spot-l2", "spot-l3")):
            frames = generate(service, messages=120, seed=10 * turn + number).frames
            found += [_last_seq(frames[: len(frames) // 2]), _last_seq(frames)]
    return found


def _last_seq(frames: list[bytes]) -> int:
    data = [frame for frame in frames if message_type(frame) in ("W", "X")]
    return max(int(dict(fields(frame))[34]) for frame in data)


class Faults:
    """Raises an OSError in a share of the calls of whatever it wraps."""

    def __init__(self, seed: int, share: float, number: int = errno.ENOSPC):
        self.rng, self.share, self.number, self.raised = random.Random(seed), share, number, 0

    def around(self, function):
        def call(*args, **kwargs):
            late = self.rng.random() < 0.5
            if not late:
                self.maybe()
            result = function(*args, **kwargs)
            if late:
                self.maybe()
            return result

        return call

    def maybe(self) -> None:
        if self.rng.random() < self.share:
            self.raised += 1
            raise OSError(self.number, os.strerror(self.number))


def record_all(tmp_path, **options) -> None:
    """The recorder's own loop, until there is nothing more, with a flush after every 60 rows."""
    made = Recorder(build.settings(tmp_path, flush_rows=60, checkpoint_rows=40, **options))
    results = []

    def stop() -> bool:
        return len(results) > 3

    def sleep(seconds: float) -> None:
        if seconds < 1:  # nothing to read; a second and more: after an error
            results.append(seconds)

    try:
        made.run(stop, sleep)
    finally:
        made.close()


@pytest.mark.parametrize(("what", "seed"), [("flush", 0), ("flush", 1), ("flush", 2), ("read", 0), ("read", 1)])
def test_failed_calls_leave_the_captures_of_a_recorder_without_faults(tmp_path, monkeypatch, what, seed):
    write_journal(tmp_path / "control" / "journal")
    write_journal(tmp_path / "tried" / "journal")
    build.record(tmp_path / "control", flush_rows=60, checkpoint_rows=40)
    faults = Faults(seed, 0.08) if what == "flush" else Faults(seed, 0.6, errno.EIO)
    with monkeypatch.context() as patch:
        if what == "flush":
            patch.setattr(recorder_writer, "write_file", faults.around(recorder_writer.write_file))
            patch.setattr(layout, "write_atomically", faults.around(layout.write_atomically))
            patch.setattr(layout, "sync_file", faults.around(layout.sync_file))
        else:
            patch.setattr(os, "pread", faults.around(os.pread))
        while True:
            try:
                record_all(tmp_path / "tried")
                break
            except OSError:  # the last flush, or the start: the operator starts the recorder again
                continue
    build.record(tmp_path / "tried")
    assert faults.raised > 10
    control, tried = (recorder.open(tmp_path / name / "captures") for name in ("control", "tried"))
    assert [row["last_seq"] for row in control.sessions().to_pylist()] == last_seqs()
    for table in TABLES:
        assert getattr(tried, table)().to_pylist() == getattr(control, table)().to_pylist(), table
    for symbol in control.symbols():
        for level in ("L2", "L3"):
            got, wanted = (cap.ticks(symbol, level=level).to_pylist() for cap in (tried, control))
            assert got == wanted, (symbol, level)
    proof = verify(tried)
    assert proof.holds and proof.summary() == verify(control).summary()
    assert not list(tried.tree.work.iterdir())


@pytest.mark.parametrize("after", [False, True], ids=["ended at once", "flushed again"])
def test_a_commit_that_cannot_be_read_back_keeps_the_files_that_it_names(tmp_path, monkeypatch, after):
    for name in ("faulty", "control"):
        write_journal(tmp_path / name / "journal")
    record_all(tmp_path / "control")
    made = Recorder(build.settings(tmp_path / "faulty", flush_rows=10**9, checkpoint_rows=40))
    made.tail.read(made.settings.flush_rows)
    write = layout.write_atomically

    def no_directory_sync(path, *arguments):
        write(path, *arguments)
        if path.name == "commit.json":
            raise OSError(errno.EIO, "the directory")

    def unreadable():
        raise OSError(errno.EIO, "the commit")

    with monkeypatch.context() as patched:
        patched.setattr(layout, "write_atomically", no_directory_sync)
        patched.setattr(made.writer, "_load", unreadable)
        with pytest.raises(OSError, match="the commit"):
            made.flush()
    if after:  # as `run` goes on after an error
        made._open_tail()
        made.tail.read(made.settings.flush_rows)
        made.flush()
    made.close()
    record_all(tmp_path / "faulty")
    ours, right = (recorder.open(tmp_path / name / "captures") for name in ("faulty", "control"))
    assert len(ours.ticks(level="both")) == len(right.ticks(level="both")) > 0
    for table in TABLES:
        assert getattr(ours, table)().to_pylist() == getattr(right, table)().to_pylist(), table
    assert verify(ours).holds
