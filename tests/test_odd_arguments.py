"""Nothing public in a compiled module ends the process, whatever it is given."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from kfix_md import Handler, State
from kfix_md._book import OrderBook
from kfix_md._codec import Codec
from kfix_md._state import is_trusted, voids
from kfix_md._stream import FrameSink, Stream
from kfix_md.errors import ProtocolError
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.shm.segment import Segment
from recorder._ticks import SessionTicks
from recorder.tail import Tail
from tests.odd_arguments import ROOT, SNAPSHOT
from tests.session.peer import NOON

ODD_FRAMES = (b"", b"8", b"8=FIX.4.4\x01", b"35=W", SNAPSHOT[:-1], SNAPSHOT[:40], SNAPSHOT + b"x", bytes(64))


def test_odd_arguments_end_in_exceptions(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.odd_arguments", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"status {done.returncode} after {lines[-1:]}: {done.stderr[-1500:]}"
    assert int(lines[-1].split()[0]) > 3_000


@pytest.mark.parametrize(
    "method",
    [OrderBook.clear, Codec.take_ids, Handler.reset_stream, Stream.get_buffer, Segment.check, JournalReader.read],
    ids=lambda method: method.__qualname__,
)
@pytest.mark.parametrize("other", [None, 5, b"", object()], ids=lambda each: type(each).__name__)
def test_a_method_of_another_object_is_a_type_error(method, other):
    with pytest.raises(TypeError):
        method(other)


@pytest.mark.parametrize("frame", ODD_FRAMES, ids=repr)
def test_what_is_no_frame_is_not_applied(frame):
    handler = Handler()
    handler.define("BTC/USD", 1, 2)
    with pytest.raises(ProtocolError):
        handler.deliver(frame)
    with pytest.raises(ProtocolError):
        Codec().decode_frame(frame, 1, 2)
    ticks = SessionTicks("L2", books=True)
    ticks.hold(1, 1, 0, frame)
    assert ticks.deferred == [] and ticks.take_undecoded()[0] == 1


def test_a_sound_record_with_an_odd_frame_is_counted_and_the_next_is_read(tmp_path):
    with JournalWriter(tmp_path, segment_bytes=1 << 16) as writer:
        for frame in (SNAPSHOT[:-1], SNAPSHOT[:40], SNAPSHOT, b"", SNAPSHOT):
            writer.frame(0, NOON, frame)
    tail = Tail(str(tmp_path))
    tail.ledger.session(0).level = "L2"
    tail._decoder(0).define("BTC/USD", 1, 2)
    assert tail.read(1_000) == "nothing"
    assert tail.decoders[0].malformed == 2
    assert tail.take()["ticks"].num_rows == 6
    assert [kind for _, kind, *_ in JournalReader(tmp_path)] == [FRAME] * 5


def test_rows_that_do_not_exist_are_index_errors():
    ticks = SessionTicks("L2", books=True)
    ticks.define("BTC/USD", 1, 2)
    for row in (-1, 1, 64, 1 << 30):
        for method in (ticks.instrument, ticks.size, ticks.last, ticks.checkpointed, ticks.book):
            with pytest.raises(IndexError):
                method(row)


def test_a_view_of_the_receive_buffer_outlives_it():
    stream = Stream()
    view = stream.get_buffer()
    view[:5] = b"8=FIX"
    assert stream.buffer_updated(FrameSink(), 5, 1) == 0
    larger = stream.get_buffer(1 << 22)
    view[0], larger[0] = 1, 2
    assert stream.unfinished == 5
    assert len(larger) >= 1 << 22
    del stream
    assert view[0] == 1


def test_a_view_that_was_released_is_made_again():
    stream = Stream()
    first = stream.get_buffer()
    assert stream.get_buffer() is first, "as long as nothing was read, it is the same one"
    first.release()
    with stream.get_buffer() as second:
        second[:5] = b"8=FIX"
    assert stream.buffer_updated(FrameSink(), 5, 1) == 0
    assert len(stream.get_buffer()) < stream.get_buffer().obj.__len__() and stream.unfinished == 5


def test_a_stream_that_brings_a_frame_takes_no_bytes():
    class Listener:
        def on_book(self, *_: object) -> None:
            for call in (lambda: handler.on_bytes(SNAPSHOT), handler.get_buffer):
                with pytest.raises(RuntimeError, match="takes no bytes"):
                    call()
            seen.append(1)

    seen: list[int] = []
    handler = Handler(listener=Listener())
    handler.define("BTC/USD", 1, 2)
    seen.clear()
    handler.on_bytes(SNAPSHOT, 1)
    assert seen == [1]
    assert handler.on_bytes(SNAPSHOT, 1) == 1


@pytest.mark.parametrize("number", [-(1 << 31), -1, 99, 1 << 30])
def test_what_is_no_event_state_or_cause_is_a_value_error(number):
    handler = Handler()
    handler.define("BTC/USD", 1, 2)
    handler.on_bytes(SNAPSHOT, 1)
    for call in (
        lambda: handler.books.void_books(number, 0),
        lambda: handler.books.void_books(0, number),
        lambda: handler.mark("BTC/USD", number),
        lambda: handler.mark("BTC/USD", State.STALE, number),
        lambda: handler.unsubscribe("BTC/USD", number),
    ):
        with pytest.raises(ValueError, match="is not a valid"):
            call()
    assert handler["BTC/USD"].state is State.LIVE
    assert not is_trusted(number) and not voids(number)


def test_copying_what_cannot_be_copied_is_a_type_error(tmp_path):
    for thing in (JournalReader(tmp_path), Handler(), Codec(), Stream()):
        for attempt in (copy.copy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot pickle"):
                attempt(thing)
