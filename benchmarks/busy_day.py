"""A long session of many symbols as frames, for benchmarks that find one moment in a day."""

from __future__ import annotations

import random
from collections.abc import Iterator
from uuid import UUID

from tests.streams.wire import clock, frame, iso, stamp

Resting = tuple[int, str, str, str]  # side, price, id, queue time or ""


class BusyDay:
    """A session of one level; its symbols are busy by rank (the first has about a fifth of all messages).

    Prices and quantities have two decimals. `frames(n)` gives (receive time, frame): the list, a snapshot of each
    symbol (`depth` a side; L3: of orders, fewer on less busy symbols) and n messages of one entry each, spread over
    `span_ns`. No checksums: what is measured here is not the book.
    """

    def __init__(self, level: str, symbols: int, depth: int, start_ns: int, span_ns: int, seed: int = 1):
        self.by_order, self.depth = level == "L3", depth
        self.symbols = [f"{level}{i:03d}/USD" for i in range(symbols)]
        self.start_ns, self.span_ns = start_ns, span_ns
        self.rng = random.Random(seed)
        self.resting: list[list[Resting]] = [[] for _ in self.symbols]
        self.names: list[set[str]] = [set() for _ in self.symbols]
        self.usual = [0] * len(self.symbols)  # how much rests, about

    def _fresh(self, now: int) -> Resting:
        side = self.rng.randrange(2)
        away = 1 + int(self.rng.expovariate((10 if self.by_order else 2) / self.depth))  # mostly near the best
        price = f"{(100_000 + (away if side else -away)) / 100}"
        if self.by_order:
            return side, price, str(UUID(int=self.rng.getrandbits(128))), iso(now)
        return side, price, f"{'BO'[side]}{price}", ""

    def _entry(self, one: Resting, qty: int, now: int) -> list[tuple[int, str]]:
        side, price, name, queue = one
        more = [(5060, iso(now)), (5273, queue)] if queue else []
        return [(269, str(side)), (278, name), (270, price), (271, str(qty / 100)), (273, clock(now)), *more]

    def _add(self, row: int, one: Resting) -> bool:
        if one[2] in self.names[row]:
            return False
        self.names[row].add(one[2])
        self.resting[row].append(one)
        return True

    def _head(self, now: int, seq: int) -> list[tuple[int, str]]:
        return [(34, str(seq)), (49, "K"), (52, stamp(now)), (56, "M")]

    def _opening(self, now: int) -> Iterator[bytes]:
        listed = [
            pair for s in self.symbols for pair in ((55, s), (5010, "2"), (2349, "2"), (5022, "0.01"), (5032, "1"))
        ]
        counted = (146, str(len(self.symbols)))
        yield frame("y", [*self._head(now, 1), (320, "1"), (322, "1"), (560, "0"), counted, *listed])
        for row, symbol in enumerate(self.symbols):
            size = max(20, 2 * self.depth // (row + 1)) if self.by_order else 2 * self.depth
            for _ in range(size):
                self._add(row, self._fresh(now))
            self.usual[row] = len(self.resting[row])
            groups = [pair for one in self.resting[row] for pair in self._entry(one, self.rng.randrange(1, 10**6), now)]
            yield frame(
                "W", [*self._head(now, row + 2), (55, symbol), (262, "1"), (268, str(len(self.resting[row]))), *groups]
            )

    def _change(self, row: int, now: int) -> list[tuple[int, str]]:
        """Something comes, goes or changes; about as much rests afterwards."""
        rows, kind, rng = self.resting[row], self.rng.random(), self.rng
        if kind < 0.4:
            one = self._fresh(now)
            if self._add(row, one):
                return [(279, "0"), *self._entry(one, rng.randrange(1, 10**6), now)]
        at = rng.randrange(len(rows))
        if kind < 0.8 and len(rows) > self.usual[row]:
            one, rows[at] = rows[at], rows[-1]
            rows.pop()
            self.names[row].discard(one[2])
            return [(279, "2"), *self._entry(one, 0, now)]
        return [(279, "1"), *self._entry(rows[at], rng.randrange(1, 10**6), now)]

    def frames(self, messages: int) -> Iterator[tuple[int, bytes]]:
        """(receive time, frame) of the whole session."""
        for opening in self._opening(self.start_ns):
            yield self.start_ns, opening
        weights = [1 / (i + 1) for i in range(len(self.symbols))]
        chosen = self.rng.choices(range(len(self.symbols)), weights, k=messages)
        for i, row in enumerate(chosen):
            now = self.start_ns + self.span_ns * (i + 1) // (messages + 1)
            pairs = [(55, self.symbols[row]), (262, "1"), (268, "1"), *self._change(row, now)]
            yield now, frame("X", [*self._head(now, len(self.symbols) + 2 + i), *pairs])
