"""Hides what is measured on: generated streams by default, real captures where a folder is given."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kfix_md import Handler
from tests.streams import generate


@dataclass
class Workload:
    """One stream: plain bytes, and the same as entries for those who need no text."""

    name: str
    data: bytes

    @cached_property
    def handler(self) -> Handler:
        """A handler that followed it to its end, every CRC right."""
        handler = Handler(collect=True)
        handler.on_bytes(self.data)
        stats = handler.stats
        assert stats["crc_failed"] == stats["malformed"] == stats["gaps"] == 0, (self.name, stats)
        return handler

    @cached_property
    def ticks(self) -> np.ndarray:
        """Every entry, with a CLEAR before a snapshot."""
        return self.handler.ticks()

    @cached_property
    def padded(self) -> bytes:
        """The stream with room behind it for wide loads."""
        return self.data + bytes(64)

    @cached_property
    def precisions(self) -> dict[str, tuple[int, int]]:
        """(price, quantity) precision by symbol."""
        return {symbol: self.handler.precisions(symbol) for symbol in self.handler.symbols}

    def halves(self) -> tuple[bytes, bytes]:
        """What opens the books (to the last snapshot), and the incrementals behind it."""
        at = self.data.index(b"8=FIX.4.4\x019=", self.data.rindex(b"\x0135=W\x01"))
        return self.data[:at], self.data[at:]

    @property
    def messages(self) -> int:
        """Messages in the stream."""
        return self.handler.stats["messages"]

    @property
    def level(self) -> str:
        """L2 or L3."""
        return str(self.handler[self.handler.symbols[0]].level)

    @cached_property
    def busiest(self) -> str:
        """The symbol with the most entries: books are measured on it."""
        assert len(self.ticks)
        rows, counts = np.unique(self.ticks["instrument"], return_counts=True)
        return self.handler.symbols[int(rows[counts.argmax()])]


def generated(quick: bool) -> list[Workload]:
    """An L2 and an L3 stream of our own, alike in size and depth to the real ones."""
    n = 6_000 if quick else 20_000
    l2 = generate("spot-l2", symbols=6, depth=400, messages=n, max_entries=4, empties=False, seed=1)
    l3 = generate("derivatives-l3", symbols=1, depth=600, per_level=6, messages=n, max_entries=3, empties=False, seed=1)
    return [Workload("generated L2", l2.data), Workload("generated L3", l3.data)]


def captured(folder: Path) -> list[Workload]:
    """Every capture in a folder."""
    files = sorted(folder.glob("*.fix.gz"), reverse=True)
    return [Workload(path.name.removesuffix(".fix.gz"), gzip.decompress(path.read_bytes())) for path in files]
