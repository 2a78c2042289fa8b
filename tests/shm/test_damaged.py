"""A damaged segment, or a wrong argument, is an error or gives values; it never ends the reader's process."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kfix_md import FeedError, attach
from kfix_md.shm.deep import Book
from kfix_md.shm.layout import dtype
from kfix_md.shm.reader import TopReader
from kfix_md.shm.segment import Segment, wait_any
from kfix_md.shm.writer import SegmentWriter
from tests.shm.conftest import Desk

ROOT = Path(__file__).resolve().parents[2]
READER = Path(__file__).with_name("read_everything.py")
#: values that overflow sums, are not aligned, or point just past something
NASTY = (
    0,
    1,
    7,
    0x7F,
    0xFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 8,
)


@pytest.fixture
def copy(tmp_path):
    """A small segment with an L2 and an L3 book, orders, trades, a session and a counter, without a writer."""
    desk = Desk(tmp_path, "source", depth=10, l3_depth=10, orders=16, trades=4)
    desk.btc.trade(280030, 5, 1, 1)
    eth = desk.book("PF_ETHUSD", 3, orders=8)
    eth.order(0, "bid", 1000, 5, 1, 2)
    eth.order(1, "bid", 1000, 6, 1, 3, prev=0)
    eth.fill([(1000, 11, 2, 0)], [(2000, 1, 0)])
    eth.publish()
    desk.writer.set_session(0, service="spot-l2", state="ON", host="h", messages=5)
    desk.writer.set_counter("frames", 12)
    path = tmp_path / "kfix-md.copy"
    shutil.copyfile(desk.writer.path, path)
    yield path
    desk.writer.close()


def read_everything(path: Path, changes: list[tuple[int, bytes]]) -> list[str]:
    """Result of reading the segment with each of the changes; fails when the process ended by a signal or a bug."""
    arguments = [f"{offset}:{data.hex()}" for offset, data in changes]
    done = subprocess.run(
        [sys.executable, READER, path, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"status {done.returncode} after {lines[-1:]}: {done.stderr[-1500:]}"
    return [line.strip() for line in lines[1::2]]


def field(block: str, name: str, value: int, base: int) -> tuple[int, bytes]:
    """The change that puts `value` into a field of the block at `base`."""
    kind, at = dtype(block).fields[name][:2]
    return base + at, (value & (1 << 8 * kind.itemsize) - 1).to_bytes(kind.itemsize, "little")


def numbers(block: str) -> list[str]:
    return [name for name, (kind, *_) in dtype(block).fields.items() if kind.kind in "iu" and "spare" not in name]


def blocks(path: Path) -> dict[str, int]:
    """Offsets of every block of the L3 book, and of the tables."""
    data = np.fromfile(path, "u1")
    header = data[: dtype("header").itemsize].view(dtype("header"))[0]
    entry_at = int(header["symbols_offset"]) + int(header["symbol_bytes"])
    entry = data[entry_at : entry_at + dtype("symbol").itemsize].view(dtype("symbol"))[0]
    found = {"header": 0, "symbol": entry_at, "session": int(header["sessions_offset"])}
    for name in ("top", "best", "trades", "depth"):
        found[name] = int(entry[f"{name}_offset"])
    found["order"] = int(entry["orders_offset"])
    found["level"] = found["depth"] + dtype("depth").itemsize
    found["trade"] = found["trades"] + dtype("trades").itemsize
    return found


@pytest.mark.parametrize(
    "block", ["header", "symbol", "session", "top", "best", "trades", "depth", "level", "order", "trade"]
)
def test_every_number_of_a_segment_may_be_damaged(copy, block):
    base = blocks(copy)[block]
    changes = [field(block, name, value, base) for name in numbers(block) if name not in UNBOUNDED for value in NASTY]
    for result in read_everything(copy, changes):
        assert result == "values" or re.match(r"(FeedError|FeedDead|NotLive|NoSuchSymbol) ", result), result


#: a version or stamp that is odd costs each reading the bounded wait for the writer; tested once below
UNBOUNDED = {"version"}


def test_random_bytes_in_tables_and_blocks(copy):
    rng = random.Random(5)
    where = blocks(copy)
    changes = []
    for _ in range(300):
        block = rng.choice(sorted(where))
        at = rng.randrange(8, dtype(block).itemsize)
        changes.append((where[block] + at, rng.randbytes(rng.choice((1, 2, 4, 8)))))
    assert len(read_everything(copy, changes)) == len(changes)


def test_a_block_locked_for_ever_is_an_error(copy):
    changes = [field("top", "version", 1, blocks(copy)["top"])]
    (result,) = read_everything(copy, changes)
    assert re.match("Feed(Error|Dead) ", result), result


@pytest.mark.parametrize(
    ("block", "name", "value"),
    [
        ("header", "header_bytes", 8),
        ("header", "counters_offset", (1 << 64) - 8),
        ("header", "counters_offset", 1 << 40),
        ("header", "counter_bytes", 0),
        ("header", "sessions_offset", 4097),
        ("header", "session_bytes", 8),
        ("header", "symbols_offset", 1 << 62),
        ("header", "symbol_bytes", 64),
        ("header", "n_symbols", 65),
        ("header", "heartbeat_interval_ns", 0),
        ("symbol", "region_offset", (1 << 64) - 8),
        ("symbol", "top_offset", 0),
        ("symbol", "best_offset", 4),
        ("symbol", "trades_offset", 1 << 50),
        ("symbol", "trades_capacity", 0),
        ("symbol", "trades_capacity", 0xFFFFFFFF),
        ("symbol", "depth_offset", 1 << 63),
        ("symbol", "depth_capacity", 0x80000000),
        ("symbol", "depth_capacity", 11_000),
        ("symbol", "orders_offset", 8),
        ("symbol", "orders_capacity", 0xFFFFFFFF),
        ("symbol", "level", 9),
    ],
)
def test_the_error_names_the_field(copy, block, name, value):
    if name in ("trades_capacity", "depth_capacity", "orders_capacity") and value:
        named = name.replace("capacity", "(offset|capacity)")
    elif name == "region_offset":
        named = "(region|top)_offset"
    else:
        named = name
    at, data = field(block, name, value, blocks(copy)[block])
    with copy.open("r+b") as file:
        file.seek(at)
        file.write(data)
    with pytest.raises(FeedError, match=f"damaged: {named}"):
        attach(path=copy)["PF_ETHUSD"]


@pytest.mark.parametrize(
    ("block", "name"), [("header", "name"), ("header", "software"), ("header", "boot_id"), ("symbol", "symbol")]
)
def test_text_without_its_end_is_named(copy, block, name):
    kind, at = dtype(block).fields[name][:2]
    with copy.open("r+b") as file:
        file.seek(blocks(copy)[block] + at)
        file.write(b"x" * kind.itemsize)
    with pytest.raises(FeedError, match=f"damaged: {name}"):
        attach(path=copy)["PF_ETHUSD"]


def test_a_session_that_the_table_does_not_have_is_named(copy):
    at, data = field("symbol", "session", 200, blocks(copy)["symbol"])
    with copy.open("r+b") as file:
        file.seek(at)
        file.write(data)
    book = attach(path=copy, reconnect=True)["PF_ETHUSD"]
    with pytest.raises(FeedError, match="damaged: session"):
        assert book.lag_ns


def test_arguments_of_the_wrong_kind_are_type_errors(desk):
    book = desk.attach()["BTC/USD"]
    segment = Segment(desk.writer.path)
    for call in (
        lambda: Book.bind(None, 5),
        lambda: book.bind(None, 0),
        lambda: Book(None, 0),
        lambda: Book.__new__(Book),
        lambda: TopReader.__new__(TopReader),
        lambda: Segment.__new__(Segment),
        lambda: Segment(None),
        lambda: wait_any(None, [], 0),
        lambda: wait_any([None], [0], 0),
        lambda: book.read("quote"),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError):
        wait_any([segment], [], 0)
    for row in (1, 1 << 31):
        with pytest.raises(IndexError):
            book.bind(segment, row)
    with pytest.raises(IndexError):
        segment.scan(np.zeros(9), True)
    assert book.top()[0] == 28003.0


def test_a_writer_that_was_not_created_does_nothing(tmp_path):
    blank = SegmentWriter.__new__(SegmentWriter)
    blank.heartbeat()
    blank.close()
    for call in (lambda: blank.add_symbol("A"), lambda: blank.set_counter("a", 1), lambda: blank.set_session(0)):
        with pytest.raises(FeedError, match="closed"):
            call()
    with pytest.raises(IndexError):
        blank.set_state(0, 0)
    with SegmentWriter("twice", tmp_path, capacity=4) as writer, pytest.raises(Exception, match="already"):
        writer.__init__("other", tmp_path)
