"""Calls everything public in the compiled modules with odd arguments: python -m tests.odd_arguments SEED [MODULE ...].

A line names each call before it is made, so that the last line names the one that ended the process by a signal.
What a call raises does not matter here; that the process survives it does. Run in a folder of its own.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import inspect
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kfix_md import Handler, attach
from kfix_md._book import L2Book
from kfix_md._book_l3 import L3Book
from kfix_md._codec import Codec
from kfix_md._entry import ENTRY_DTYPE, TICK_DTYPE
from kfix_md._stream import FrameSink, Stream
from kfix_md.journal.reader import JournalReader
from kfix_md.journal.writer import JournalWriter
from kfix_md.session.sequence import Sequence
from kfix_md.shm.deep import Book
from kfix_md.shm.segment import Segment
from kfix_md.shm.writer import SegmentWriter
from recorder._ticks import SessionTicks
from tests.fuzz.targets import framed

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 3 << 30  # bytes of address space: a huge size is a MemoryError, not a machine that swaps
CALL_S = 0.3  # a call that waits is interrupted
#: what operators, copy, pickle, TAB and notebooks call
SPECIAL = {
    *("__getitem__", "__setitem__", "__delitem__", "__contains__", "__len__", "__iter__", "__next__", "__bool__"),
    *("__call__", "__eq__", "__lt__", "__hash__", "__repr__", "__str__", "__dir__", "__enter__", "__exit__"),
    *("__reduce__", "__reduce_ex__", "__reduce_cython__", "__setstate__", "__setstate_cython__", "__copy__"),
    *("__buffer__", "_repr_html_", "_ipython_key_completions_", "_shown"),
}
TURNS = 6  # calls of each callable with odd arguments in every place, of each object
SNAPSHOT = framed(
    b"35=W|34=2|49=K|52=20240301-12:00:00.000|56=ME|55=BTC/USD|262=1|268=2|"
    b"269=0|278=B10.0|270=10.0|271=1|273=12:00:00.000|269=1|278=O11.0|270=11.0|271=1|273=12:00:00.000|"
)


class Waited(BaseException):
    """A call that does not return by itself."""


def _late(*_: object) -> None:
    raise Waited


def compiled() -> list[str]:
    """Names of all compiled modules of the package and the recorder."""
    found = [path.relative_to(ROOT) for folder in ("kfix_md", "recorder") for path in (ROOT / folder).rglob("*.pyx")]
    return sorted(".".join(path.with_suffix("").parts) for path in found)


def sound() -> list[Any]:
    """Objects of every kind that work, newly made: what a user has in hand."""
    book, orders = L2Book(1, 2), L3Book(1, 2)
    entries = np.zeros(3, ENTRY_DTYPE)
    entries["price"], entries["qty"], entries["side"] = (10, 11, 12), 5, (0, 1, 0)
    entries["id_lo"] = entries["id_kind"] = (1, 2, 3)
    book.apply(entries)
    orders.apply(entries)
    writer = SegmentWriter(f"odd{random.randrange(1 << 40)}", ".", capacity=4, depth=10, orders=16, trades=4)
    journal = JournalWriter(f"journal{random.randrange(1 << 40)}", segment_bytes=1 << 16)
    handler = Handler(publisher=writer, journal=journal, collect=True)
    handler.define("BTC/USD", 1, 2)
    handler.on_bytes(SNAPSHOT, 1)
    ticks = SessionTicks("L2", books=True)
    ticks.define("BTC/USD", 1, 2)
    ticks.add_record(1, 1, 0, SNAPSHOT)
    feed = attach(path=writer.path)
    return [
        *(
            book,
            orders,
            Codec(keep_ids=True),
            handler,
            handler.books,
            Stream(),
            FrameSink(),
            Sequence(),
            writer,
            journal,
        ),
        *(ticks, JournalReader(journal.directory), Segment(writer.path), feed["BTC/USD"]),
        *(feed["BTC/USD"].trade_reader(), feed["BTC/USD"].read(), Book(Segment(writer.path), 0)),
    ]


def odd(things: list[Any]) -> list[Any]:
    """Values that no parameter expects, and such as fit another one."""
    texts: list[Any] = [
        b"",
        b"\x01",
        b"8=",
        b"8=FIX.4.4\x019=5\x01",
        SNAPSHOT,
        SNAPSHOT[:40],
        bytearray(b"35=W"),
        "",
        "x",
    ]
    numbers: list[Any] = [0, 1, 2, -1, 5, 64, 1 << 31, -(1 << 31), 1 << 32, (1 << 63) - 1, 1 << 64, 0.5, float("nan")]
    arrays: list[Any] = [
        *(np.zeros(0, ENTRY_DTYPE), np.zeros(2, ENTRY_DTYPE), np.zeros(2, TICK_DTYPE), np.zeros(3), np.arange(4)),
        *(np.full(2, 255, "u1"), np.full((2, 1), -1), np.frombuffer(b"\xff" * 128, ENTRY_DTYPE)),
    ]
    others = [None, True, object(), [], [None], (), {}, "BTC/USD", "L3", memoryview(b"abc")[::2], ".", len]
    return texts + numbers + arrays + others + things


def callables(thing: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The methods of an object or class; a property is a call without arguments."""
    kind = thing if isinstance(thing, type) else type(thing)
    for name in dir(kind):
        if name.startswith("_") and name not in SPECIAL:
            continue
        if isinstance(inspect.getattr_static(kind, name), property) or not callable(getattr(kind, name, None)):
            if not isinstance(thing, type):
                yield name, lambda name=name: getattr(thing, name)
        else:
            yield name, getattr(thing, name)


def parameters(call: Callable[..., Any]) -> int:
    """How many arguments it takes at the most, by its signature."""
    try:
        return min(len(inspect.signature(call).parameters), 8)
    except (TypeError, ValueError):
        return 4  # a default that no literal gives


class Sweep:
    """The calls, each announced and made."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.calls = rng, 0

    def attempt(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...], **keywords: Any) -> Any:
        """One call; its result, None where it raised."""
        shown = ", ".join(f"{type(each).__name__} {repr(each)[:40]}" for each in arguments)
        print(f"{name}({shown}{keywords or ''})".replace("\n", " "), flush=True)
        self.calls += 1
        signal.setitimer(signal.ITIMER_REAL, CALL_S)
        try:
            with contextlib.suppress(Exception, Waited, SystemExit):
                return call(*arguments)
        finally:
            with contextlib.suppress(Waited):
                signal.setitimer(signal.ITIMER_REAL, 0)
        return None

    def everything(self, name: str, call: Callable[..., Any], values: list[Any]) -> None:
        """One callable: without arguments, with one odd value in every place, with odd values at random."""
        n = parameters(call)
        self.attempt(name, call, ())
        for turn in range(TURNS if n else 0):
            given = [self.rng.choice(values) for _ in range(self.rng.randrange(max(1, n - 2), n + 1))]
            self.attempt(name, call, tuple(given) if turn else (None,) * n)

    def module(self, name: str) -> None:
        """Every public function and class of a module."""
        module = importlib.import_module(name)
        things = sound()
        values = odd(things)
        for key, thing in vars(module).items():
            if getattr(thing, "__module__", name) != name or key.startswith("_"):
                continue
            if isinstance(thing, enum.EnumType):
                continue  # Python's own
            if isinstance(thing, type):
                self.kind(f"{name}.{key}", thing, [each for each in things if type(each) is thing], values)
            elif callable(thing):
                self.everything(f"{name}.{key}", thing, values)

    def kind(self, name: str, kind: type, things: list[Any], values: list[Any]) -> None:
        """A class: made in odd ways, its methods on what came of that, on sound objects, and on no object at all."""
        blank = self.attempt(f"{name}.__new__", kind.__new__, (kind,))
        made = [self.attempt(name, kind, (self.rng.choice(values),)) for _ in range(TURNS)]
        self.everything(name, kind, values)
        for each in [*things, blank, *made[:2], kind]:
            if each is not None:
                for method, call in callables(each):
                    self.everything(f"{name}.{method}", call, values)


def main() -> None:
    seed, *modules = sys.argv[1:]
    rng = random.Random(int(seed))
    random.seed(int(seed))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _late)
    sweep = Sweep(rng)
    for name in modules or compiled():
        sweep.module(name)
    print(f"{sweep.calls} calls", flush=True)


if __name__ == "__main__":
    main()
