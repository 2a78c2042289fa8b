"""Fuzz targets: each takes any bytes and raises only when the code under test breaks its promise.

Wire inputs are scripts, so that a fuzzer need not guess checksums: lines are bodies of FIX messages ("35=X|34=3|..."
with "|" for SOH), framed here with a right 8=, 9= and 10=. A line that begins with "!" goes onto the wire as it is.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from kfix_md import Handler, State
from kfix_md.config import load, service_config, service_names
from kfix_md.errors import CaptureError, FeedError, NotLive, UsageError
from kfix_md.journal.reader import JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.shm.attach import attach
from kfix_md.shm.writer import SegmentWriter
from kfix_md.simulator.commands import Commands, answer_line
from kfix_md.simulator.venue import Venue, VenueConfig
from recorder import schema
from recorder.tail import Tail
from tests.session.peer import NOON, SECOND, Rig

SYMBOLS = (("BTC/USD", 1, 8), ("PF_ETHUSD", 1, 3))
MAX_LINES = 64
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where files cost no sync
RECORDS_READ = 10_000


def framed(body: bytes) -> bytes:
    """A FIX frame around a body; "|" means SOH."""
    content = body.replace(b"|", b"\x01").rstrip(b"\x01") + b"\x01"
    head = b"8=FIX.4.4\x019=%d\x01" % len(content) + content
    return head + b"10=%03d\x01" % (sum(head) % 256)


def wire(data: bytes) -> list[bytes]:
    """The pieces of a script as they go onto the wire."""
    lines = data.split(b"\n")[:MAX_LINES]
    return [line[1:] if line.startswith(b"!") else framed(line) for line in lines if line]


def _follow(pieces: list[bytes]) -> tuple[dict[str, int], list[object]]:
    handler = Handler()
    for symbol, price, qty in SYMBOLS:
        handler.define(symbol, price, qty)
    for piece in pieces:
        handler.on_bytes(piece, NOON)
    books = []
    for symbol in handler.symbols:
        view = handler[symbol]
        try:
            bids, asks = view.depth(10, allow_stale=True)
        except NotLive:  # no snapshot came
            books.append((symbol, view.state, [], []))
            continue
        if view.state is State.LIVE:
            prices = bids["price"]
            assert all(prices[i] > prices[i + 1] for i in range(len(prices) - 1)), "bids are not in order"
        books.append((symbol, view.state, bids.tolist(), asks.tolist()))
    return dict(handler.stats), books


def frames(data: bytes) -> None:
    """Any stream gives books or counted errors, and any split of it into reads gives the same."""
    pieces = wire(data)
    whole = b"".join(pieces)
    together = _follow([whole])
    step = 1 + len(whole) // 7
    apart = _follow([whole[i : i + step] for i in range(0, len(whole), step)])
    assert together == apart, "the result depends on how the stream was split into reads"


def session(data: bytes) -> None:
    """Whatever the peer sends ends in order or in a close, and what we send is valid FIX."""
    rig = Rig(max_gap_messages=50)
    rig.logon()
    for line in data.split(b"\n")[:MAX_LINES]:
        if rig.closed is not None:
            break
        if line.startswith(b"~"):  # time passes
            rig.wait(min(len(line), 90))
            continue
        frame = framed(line)
        try:
            rig.raw(frame)
        except ValueError as error:
            # the plain parser of the rig cannot read the frame: the stream layer would not deliver it either
            if "parse" not in "".join(_names_of(error)):
                raise
        rig.take()
        rig.now += SECOND // 10


def _names_of(error: BaseException) -> list[str]:
    names = []
    trace = error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return names


def _patched(template: bytes, data: bytes) -> bytes:
    """A copy of a sound file with (offset, 8 bytes) patches from `data` applied; odd rest: cut the file there."""
    out = bytearray(template)
    for at in range(0, len(data) - 11, 12):
        (offset,) = struct.unpack_from("<I", data, at)
        offset %= max(1, len(out) - 8)
        out[offset : offset + 8] = data[at + 4 : at + 12]
    if len(data) % 12 == 4:
        del out[struct.unpack("<I", data[-4:])[0] % len(out) :]
    return bytes(out)


def _journal_template() -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        with JournalWriter(folder, segment_bytes=1 << 16, first_number=1) as writer:
            for number in range(20):
                writer.frame(0, NOON + number, framed(b"35=0|34=%d" % number))
            writer.event(0, NOON, {"type": "connected"})
        (path,) = Path(folder).glob("*.kfj")
        return path.name, path.read_bytes()


def _segment_template() -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        writer = SegmentWriter("fuzz", folder, capacity=4, depth=10, orders=16, heartbeat_ns=10**15)
        writer.add_symbol("BTC/USD", 2, 1, 8)
        writer.add_symbol("PF_ETHUSD", 3, 1, 3)
        path = Path(writer.path)
        return path.name, path.read_bytes()


_TEMPLATES: dict[str, tuple[str, bytes]] = {}


def _template(kind: str, make: Callable[[], tuple[str, bytes]]) -> tuple[str, bytes]:
    if kind not in _TEMPLATES:
        _TEMPLATES[kind] = make()
    return _TEMPLATES[kind]


def journal(data: bytes) -> None:
    """A damaged segment gives its sound records and CaptureErrors, and reading it ends."""
    name, sound = _template("journal", _journal_template)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        Path(folder, name).write_bytes(_patched(sound, data))
        reader = JournalReader(folder)
        for _ in range(RECORDS_READ):
            try:
                if reader.read() is None:
                    return
            except CaptureError:
                if not reader.resync():
                    return
        raise AssertionError("the reader does not come to an end")


def segment(data: bytes) -> None:
    """A damaged shared memory segment gives FeedError or values, never a crash."""
    name, sound = _template("segment", _segment_template)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        Path(folder, name).write_bytes(_patched(sound, data))
        try:
            feed = attach("fuzz", directory=folder)
            for book in feed.books():
                book.top(allow_stale=True)
                book.depth(10, allow_stale=True)
        except (FeedError, NotLive, UsageError, LookupError):
            return


def _write_records(writer: JournalWriter, data: bytes) -> None:
    """Lines as records: "{...}" is an event, "@" and two digits the session and the flags of those that follow, any
    other line a frame."""
    number = flags = 0
    for at, line in enumerate(data.split(b"\n")[:MAX_LINES]):
        now = NOON + at * SECOND
        if line.startswith(b"@"):
            number, flags = (value % 16 for value in (line[1:3] + b"00")[:2])
            flags <<= 4
        elif line.startswith(b"{"):
            try:
                writer.event(number, now, json.loads(line))
            except (ValueError, RecursionError):
                continue  # the fuzzer's text is no JSON
        elif line:
            writer.frame(number, now, line[1:] if line.startswith(b"!") else framed(line), flags)


def _tables(folder: str, stop_after: int | None) -> dict[str, list[dict[str, Any]]]:
    """Every row of a journal; with `stop_after`, by a second process after so many records."""
    found: dict[str, list[dict[str, Any]]] = {}

    def keep(tables: dict[str, pa.Table]) -> None:
        for name, table in tables.items():
            assert table.schema.equals(schema.SCHEMAS[name])
            found.setdefault(name, []).extend(table.to_pylist())

    tail = Tail(folder)
    if stop_after is not None:
        tail.read(1 << 20, max_records=stop_after)
        keep(tail.take())
        tail = Tail(folder, json.loads(json.dumps(tail.state())))
    for _ in range(MAX_LINES):
        if tail.read(1 << 20) in ("nothing", "torn"):
            break
    else:
        raise AssertionError("the tail does not come to an end")
    keep(tail.take())
    tail.checkpoints()
    return found


def tail(data: bytes) -> None:
    """Any records give rows of the schemas, and a recorder that was started again makes the same ticks."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        with JournalWriter(folder, segment_bytes=1 << 18, first_number=1) as writer:
            _write_records(writer, data)
        whole = _tables(folder, None)
        halves = _tables(folder, 1 + len(data) % 7)
        assert whole.get("ticks", []) == halves.get("ticks", []), "a restart changed the ticks"


def config(data: bytes) -> None:
    """Any text is a configuration or a UsageError of at least one line."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder, "feed.toml")
        path.write_bytes(data)
        try:
            loaded = load(path)
        except UsageError as error:
            assert str(error).strip()
            return
        for name in service_names(loaded):
            assert service_config(loaded, name).service
        assert loaded.capacity > 0 and loaded.stores


def control(data: bytes) -> None:
    """Each line on the control socket of a venue gets one line of JSON, whatever it says."""
    commands = Commands(Venue(VenueConfig(symbols=1)))
    for line in data.split(b"\n")[:8]:
        answer = json.loads(answer_line(commands, line))
        assert answer["ok"] or answer["error"]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames,
    "session": session,
    "journal": journal,
    "segment": segment,
    "tail": tail,
    "config": config,
    "control": control,
}
