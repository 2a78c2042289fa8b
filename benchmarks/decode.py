"""Decoding: text to int64 entries with times and ids, against a field iterator in C++ and Python's FIX readers."""

from __future__ import annotations

import calendar
import ctypes
import os
from collections.abc import Callable

from benchmarks import build
from benchmarks.race import Race, Row, absent, compare
from benchmarks.workload import Workload

REFERENCE, HFFIX = "plain C++ reader", "hffix"
GROUP, ORDER = (279, 269, 278, 270, 271, 273), (5060, 5273)
OURS, GENERAL = "kfix-md template", "kfix-md general path"


def frames_of(data: bytes, limit: int) -> list[bytes]:
    """The first `limit` market data messages."""
    parts = data.split(b"8=FIX.4.4\x01")[1:]
    chosen = [part for part in parts if b"\x0135=X\x01" in part][:limit]
    return [b"8=FIX.4.4\x01" + part for part in chosen]


class Reader:
    """A session's reader in C++: `native/reference.cpp`, or hffix where its headers are.

    Raises ImportError or RuntimeError where it cannot be compiled.
    """

    def __init__(self, name: str, opening: bytes = b"") -> None:
        include = os.environ.get("KFIX_HFFIX", "")
        if name == HFFIX and not include:
            raise ImportError("KFIX_HFFIX does not name the folder of hffix.hpp")
        library = build.library("reference") if name == REFERENCE else build.library("hffix", "-I", include)
        if library is None:
            raise ImportError("no C++ compiler found")
        library.decoder_new.restype = ctypes.c_void_p
        self._library, self._decoder = library, ctypes.c_void_p(library.decoder_new())
        self(opening)

    def __call__(self, data: bytes) -> list[int]:
        """Decode whole messages: messages, entries, wrong checksums and a digest, of all calls together."""
        out = (ctypes.c_int64 * 4)()
        self._library.decoder_run(self._decoder, data, ctypes.c_int64(len(data)), out)
        return list(out)

    def __del__(self) -> None:
        if hasattr(self, "_decoder"):
            self._library.decoder_free(self._decoder)


def readers(group: str) -> tuple[list[str], list[Row]]:
    """Names of the readers in C++ that can be had, and a row for each of the others."""
    found, missing = [], []
    for name in (REFERENCE, HFFIX):
        try:
            Reader(name)
            found.append(name)
        except (ImportError, RuntimeError) as error:
            missing.append(absent(group, name, str(error).splitlines()[0]))
    return found, missing


def converter(of: type) -> Callable[[dict], tuple]:
    """What makes numbers of one entry's texts, given by tag as `of` (bytes or str): (279, 269, 278, 270, 271, 273 or
    5060, 5273), decimals as their digits, times in ns (273 since midnight), a UUID as an int."""
    point, colon, dash, day = (b".", b":", b"-", b"T") if of is bytes else (".", ":", "-", "T")
    nothing = of()
    days: dict = {}

    def clock_ns(text) -> int:
        hours, minutes, seconds = text.split(colon)
        whole, _, fraction = seconds.partition(point)
        return ((int(hours) * 60 + int(minutes)) * 60 + int(whole)) * 10**9 + int(fraction) * 10 ** (9 - len(fraction))

    def iso_ns(text) -> int:
        date, _, clock = text[:-1].partition(day)
        if date not in days:
            days[date] = calendar.timegm((*map(int, date.split(dash)), 0, 0, 0)) * 10**9
        return days[date] + clock_ns(clock)

    def convert(entry: dict) -> tuple:
        name = entry[278]
        return (
            int(entry[279]),
            int(entry[269]),
            int(name.replace(dash, nothing), 16) if len(name) == 36 else name,
            int(entry[270].replace(point, nothing)),
            int(entry[271].replace(point, nothing)),
            iso_ns(entry[5060]) if 5060 in entry else clock_ns(entry[273]),
            iso_ns(entry[5273]) if 5273 in entry else 0,
        )

    return convert


BYTES, TEXT = converter(bytes), converter(str)


def entries_of(pairs) -> list[tuple]:
    """The entries of one message from its (tag, value) pairs, as a careful script would make them."""
    entries: list[tuple] = []
    entry: dict[int, bytes] = {}
    for name, value in pairs:
        tag = int(name)
        if tag == 279:
            if 279 in entry:
                entries.append(BYTES(entry))
            entry = {}
        entry[tag] = value
    entries.append(BYTES(entry))
    return entries


def byte_split(frames: list[bytes]) -> int:
    """What a script without a library does: split and convert; the checksum is summed too."""
    found = 0
    for frame in frames:
        assert sum(frame[:-7]) % 256 == int(frame[-4:-1])
        found += len(entries_of([part.split(b"=", 1) for part in frame.split(b"\x01")[:-1]]))
    return found


def simplefix_runner(frames: list[bytes]):
    """simplefix's parser, then the same conversion."""
    import simplefix

    def run() -> int:
        parser, found = simplefix.FixParser(), 0
        for frame in frames:
            parser.append_buffer(frame)
            found += len(entries_of(parser.get_message().pairs))
        return found

    return run


def quickfix_runner(frames: list[bytes]):
    """QuickFIX from Python: length and checksum verified, groups by a data dictionary, then the same conversion."""
    import quickfix

    texts = [frame.decode() for frame in frames]
    dialect = quickfix.DataDictionary(str(build.NATIVE / "dialect.xml"))

    def run() -> int:
        found = 0
        for text in texts:
            message = quickfix.Message()
            message.setString(text, True, dialect, dialect)
            group = quickfix.Group(268, 279)
            for i in range(1, int(message.getField(268)) + 1):
                message.getGroup(i, group)
                entry = {tag: group.getField(tag) for tag in GROUP}
                entry |= {tag: group.getField(tag) for tag in ORDER if group.isSetField(tag)}
                found += bool(TEXT(entry))
        return found

    return run


def quickfix_cpp_runner(frames: list[bytes]):
    """QuickFIX in C++, where its headers are installed (libquickfix-dev)."""
    library = build.library("quickfix", "-std=c++14", "-w", "-lquickfix")
    if library is None:
        raise ImportError("no C++ compiler")
    data, dialect = b"".join(frames), str(build.NATIVE / "dialect.xml").encode()

    def run() -> int:
        entries = ctypes.c_int64()
        count = library.quickfix_decode(data, ctypes.c_int64(len(data)), dialect, ctypes.byref(entries))
        assert count == len(frames)
        return entries.value

    return run


RIVALS = {
    "QuickFIX C++": (quickfix_cpp_runner, 2000, 20),
    "QuickFIX from Python": (quickfix_runner, 500, 200),
    "simplefix": (simplefix_runner, 300, 900),
}


def run(work: Workload, rounds: int) -> list[Row]:
    """The rows of one stream: the whole of it in C, then some of its incrementals from Python too."""
    return whole_stream(work, rounds) + incrementals(work, rounds)


def whole_stream(work: Workload, rounds: int) -> list[Row]:
    """Every message of the stream, snapshots included."""
    group = f"decode, {work.name}"
    race = Race(group, work.messages)
    decoder = build.driver().Decoder
    checked = decoder(work.precisions)
    checked.run(work.padded)
    assert checked.errors == 0 and checked.messages == work.messages
    for name, fast in ((OURS, True), (GENERAL, False)):
        race.add(
            name, lambda made: made.run(work.padded), prepare=lambda fast=fast: decoder(work.precisions, fast=fast)
        )
    found, missing = readers(group)
    for name in found:
        counts = Reader(name)(work.data)
        assert counts[0] == work.messages and counts[2] == 0 and counts[1] == checked.entries, (name, counts)
        race.add(name, lambda made: made(work.data), prepare=lambda name=name: Reader(name))
    rows = race.rows(rounds)
    compare(rows, OURS, REFERENCE, 0.25 if work.level == "L3" else 0.40, at_most=True)
    compare(rows, GENERAL, REFERENCE, 0.75, at_most=True)
    return rows + missing


def incrementals(work: Workload, rounds: int) -> list[Row]:
    """The same 35=X messages for everybody; the slow ones take fewer of them."""
    group, missing = f"decode X, {work.name}", []
    frames = frames_of(work.data, 2000)
    race = Race(group, len(frames))
    decoder, padded = build.driver().Decoder, b"".join(frames) + bytes(64)
    race.add(OURS, lambda made: made.run(padded), prepare=lambda: decoder(work.precisions))
    for name, (make, count, _) in RIVALS.items():
        try:
            runner = make(frames[:count])
            assert runner() == sum(frame.count(b"\x01279=") for frame in frames[:count]), name
            race.add(name, runner, min(count, len(frames)))
        except (ImportError, RuntimeError, OSError) as error:
            missing.append(absent(group, name, str(error).splitlines()[0]))
    race.add("bytes.split in Python", lambda: byte_split(frames))
    rows = race.rows(rounds)
    for name, (_, _, times) in RIVALS.items():
        compare(rows, OURS, name, times, at_most=False)
    return rows + missing
