"""How often a handler publishes: once a read or every 64 messages, at once when a state changes, always all of it."""

from __future__ import annotations

import mmap
import random

import numpy as np
import pytest

import kfix_md
from kfix_md import Handler, State
from kfix_md.shm.layout import dtype
from kfix_md.shm.writer import SegmentWriter
from tests.streams import generate, wire
from tests.streams.market import Market

BURST = 64


@pytest.fixture
def segment(tmp_path):
    writer = SegmentWriter("burst", tmp_path, capacity=8)
    yield writer
    writer.close()


def stream(service: str = "spot-l2", symbols: int = 1) -> tuple[bytes, list[bytes]]:
    """What opens the books, and the frames after it."""
    made = generate(service, symbols=symbols, depth=12, messages=200, empties=False, admin=False, logout=False)
    return b"".join(made.frames[:-200]), made.frames[-200:]


def publications(segment) -> list[int]:
    """Publications of every symbol so far, from the versions of their top blocks."""
    with open(segment.path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        header = np.frombuffer(memory, dtype("header"), 1)[0]
        counts = []
        for i in range(int(header["n_symbols"])):
            at = int(header["symbols_offset"]) + i * int(header["symbol_bytes"])
            entry = np.frombuffer(memory, dtype("symbol"), 1, at)[0]
            counts.append(int(np.frombuffer(memory, dtype("top"), 1, int(entry["top_offset"]))[0]["version"]) // 2)
            del entry
        del header
        return counts


def same_books(handler: Handler, path) -> None:
    """Every published book is the handler's, level by level."""
    feed = kfix_md.attach(path=path)
    for symbol in handler.symbols:
        book = feed[symbol, str(handler[symbol].level)]
        assert book.seq == handler.book_state(symbol)[2]
        for n in (10, None):
            sides = zip(book.depth(n, price="int"), handler.book(symbol).depth(n, price="int"), strict=True)
            for ours, theirs in sides:
                for name in ("price", "qty", "orders"):
                    assert ours[name].tolist() == theirs[name].tolist()


@pytest.mark.parametrize("service", ["spot-l2", "derivatives-l3"])
def test_one_read_publishes_a_book_every_32_messages(segment, service):
    opening, frames = stream(service)
    handler = Handler(publisher=segment)
    handler.on_bytes(opening, 1)
    before = publications(segment)[0]
    handler.on_bytes(b"".join(frames), 2)
    assert 0 < publications(segment)[0] - before <= -(-len(frames) // BURST) + 2
    same_books(handler, segment.path)


def test_a_message_alone_is_published_when_the_read_ends(segment):
    opening, frames = stream()
    handler = Handler(publisher=segment)
    handler.on_bytes(opening, 1)
    before = publications(segment)[0]
    for count, frame in enumerate(frames, 1):
        handler.on_bytes(frame, count)
        assert publications(segment)[0] == before + count
    same_books(handler, segment.path)


def test_many_symbols_in_one_read(segment):
    opening, frames = stream(symbols=5)
    handler = Handler(publisher=segment)
    handler.on_bytes(opening + b"".join(frames), 1)
    same_books(handler, segment.path)


@pytest.mark.parametrize(
    ("service", "depth"),
    [
        ("spot-l2", 12),
        ("spot-l2", 14),
        ("spot-l2", 300),
        ("spot-l2", 1500),
        ("derivatives-l3", 14),
        ("derivatives-l3", 200),
    ],
)
def test_changes_at_every_depth_are_published(tmp_path, monkeypatch, service, depth):
    """As many far from the best as near it, alone and up to 40 in a read."""
    monkeypatch.setattr(Market, "near", lambda market: market.rng.randrange(market.depth))
    made = generate(service, symbols=1, depth=depth, messages=500, empties=False, admin=False, logout=False, seed=depth)
    rng = random.Random(depth)
    with SegmentWriter("deep", tmp_path, capacity=2, depth=2000, l3_depth=2000) as segment:
        handler = Handler(publisher=segment)
        handler.on_bytes(b"".join(made.frames[:-500]), 1)
        frames = made.frames[-500:]
        while frames:
            n = rng.choice((1, 1, 1, 3, 40))
            handler.on_bytes(b"".join(frames[:n]), 2)
            same_books(handler, segment.path)
            frames = frames[n:]
        assert handler.stats["crc_failed"] == 0


def test_a_level_touched_as_the_eleventh_is_among_the_ten_best_when_published(segment):
    """A level comes, the eleventh below it changes, the level goes: the book has the ten best prices it had before."""

    def message(seq, kind, *entries):
        body = [
            (34, seq),
            (49, "KRAKEN-MD"),
            (52, "20231012-09:55:14.934"),
            (56, "C"),
            (55, "A/B"),
            (262, "0"),
            (268, len(entries)),
        ]
        for action, price, qty in entries:
            body += [(279, action)] if kind == "X" else []
            body += [(269, "0"), (278, f"B{price}"), (270, price), (271, qty), (273, "09:55:15.071")]
        return wire.frame(kind, body)

    handler = Handler(publisher=segment)
    handler.define("A/B", 1, 1)
    handler.on_bytes(message(1, "W", *[("0", f"{price}.0", "1.0") for price in range(111, 100, -1)]), 1)
    came, changed = message(2, "X", ("0", "112.0", "1.0")), message(3, "X", ("1", "102.0", "7.0"))
    read = came + changed + message(4, "X", ("2", "112.0", "0.0"))
    handler.get_buffer()[: len(read)] = read
    handler.buffer_updated(len(read), 2)
    assert handler.book("A/B").depth(10, price="int")[0]["qty"][9] == 70
    same_books(handler, segment.path)


def test_a_lost_book_is_published_before_the_read_ends(segment):
    """The listener, called inside the read, finds the state of its book in shared memory already."""
    opening, frames = stream(symbols=2)
    seen = []

    class Listener:
        def on_book(self, symbol, state, cause, seq, recv_ns):
            published = feed[symbol, "L2"] if feed else None
            seen.append((state, published.state if published else None))

    feed = None
    handler = Handler(publisher=segment, listener=Listener())
    handler.on_bytes(opening, 1)
    feed = kfix_md.attach(path=segment.path)
    seen.clear()
    body = frames[20]
    at = body.index(b"\x015041=") + 6
    wrong = body[:at] + (b"1" if body[at : at + 1] != b"1" else b"2") + body[at + 1 :]
    wrong = wrong[:-7] + b"10=%03d\x01" % (sum(wrong[:-7]) % 256)
    handler.on_bytes(b"".join([*frames[:20], wrong, *frames[21:]]), 2)
    assert [pair for pair in seen if pair[0] == State.CRC_FAIL] == [(State.CRC_FAIL, State.CRC_FAIL)]
    lost = [symbol for symbol in handler.symbols if handler.book_state(symbol)[0] == State.CRC_FAIL]
    assert len(lost) == 1 and feed[lost[0], "L2"].state is State.CRC_FAIL
