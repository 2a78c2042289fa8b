"""Holds what a verification found: counts by stream, the rule of each stream's checksums, and the verdict."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kfix_md._book import Book

_USUAL = {"L2": "level", "L3": "order"}
_COUNTS = ("rows", "messages", "checked", "ok", "failed", "failed_live", "unverified", "unproven", "in_doubt")


@dataclass
class Stream:
    """One symbol in one session: its book while it is rebuilt, and what its messages showed.

    Attributes
    ----------
    sound
        The book is whole: from a snapshot on, until a loss of rows or a message that the feed itself found wrong.
    matched
        Messages on a sound book whose checksum a rule gives, by rule.
    missed
        Messages on a sound book whose checksum matched live and that a rule does not give, by rule.
    failed_live
        Messages whose checksum did not match in the feed, apart from those of an UNVERIFIED book.
    unverified
        Messages of a book that the feed followed although no rule it knows gave its checksums.
    unproven
        Messages on a book that is not sound.
    in_doubt
        Messages flagged MAYBE_BAD_BOOK by the feed.
    crossed
        Messages after which the best bid was not below the best offer.
    pending
        Rows of a message whose end is in the next batch.
    """

    session: int
    symbol: str
    level: str = "L2"
    book: Book | None = None
    sound: bool = False
    rows: int = 0
    messages: int = 0
    with_crc: int = 0
    matched: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    failed_live: int = 0
    unverified: int = 0
    unproven: int = 0
    in_doubt: int = 0
    crossed: int = 0
    first_ns: int = 0
    last_ns: int = 0
    first_failure: dict[str, int] = field(default_factory=dict)
    pending: pa.Table | None = None

    @property
    def rule(self) -> str:
        """The rule of 5041 that gives most of this stream's checksums; the usual one where none gives more."""
        usual = _USUAL[self.level]
        return max([usual, *self.matched], key=lambda rule: self.matched[rule])

    @property
    def ok(self) -> int:
        """Messages whose checksum the rule of this stream gives."""
        return self.matched[self.rule]

    @property
    def failed(self) -> int:
        """Messages whose checksum had to match and did not."""
        return self.missed[self.rule]

    def counts(self) -> dict[str, int]:
        """The counts of a summary."""
        values = {name: getattr(self, name) for name in _COUNTS if name != "checked"}
        return values | {"checked": self.ok + self.failed}


@dataclass
class Proof:
    """What was found in captures.

    Attributes
    ----------
    gaps
        Rows of gaps of the verified dates, the latest of each gap.
    uncovered
        Seconds during which a symbol's book was not to be trusted, by symbol.
    faults
        What is wrong apart from checksums, a sentence each.
    services
        Names of the feed's services that have rows.
    """

    streams: list[Stream]
    gaps: pa.Table
    uncovered: dict[str, float]
    faults: list[str]
    services: set[str] = field(default_factory=set)

    @property
    def holds(self) -> bool:
        """Whether something was checked, every checksum matches and nothing else is wrong."""
        return not self.faults and any(s.ok for s in self.streams) and not any(s.failed for s in self.streams)

    def why_not(self) -> list[str]:
        """Sentences that say why the proof does not hold; empty when it does."""
        reasons = list(self.faults)
        failed = sum(s.failed for s in self.streams)
        if failed:
            reasons.append(f"{failed:,} checksums (5041) that matched live do not match the rebuilt books")
        elif not any(s.ok for s in self.streams):
            messages = sum(s.messages for s in self.streams)
            reasons.append(
                f"nothing was proven: none of {messages:,} recorded messages has a checksum that was checked"
            )
        return reasons

    def summary(self) -> dict[str, Any]:
        """Totals, and a row for each symbol and level, ready for JSON."""
        by_symbol: dict[tuple[str, str], list[Stream]] = {}
        for s in self.streams:
            by_symbol.setdefault((s.symbol, s.level), []).append(s)
        rows = [self._row(*key, streams) for key, streams in sorted(by_symbol.items())]
        return {
            "holds": self.holds,
            **{name: sum(row[name] for row in rows) for name in _COUNTS},
            "gaps": self.gaps.num_rows,
            "rule_L3": self._rule_of_level("L3"),
            "faults": self.faults,
            "why_not": self.why_not(),
            "symbols": rows,
        }

    def _row(self, symbol: str, level: str, streams: list[Stream]) -> dict[str, Any]:
        counts = [s.counts() for s in streams]
        row: dict[str, Any] = {"symbol": symbol, "level": level, "sessions": len(streams)}
        row |= {name: sum(each[name] for each in counts) for name in _COUNTS}
        row["rule"] = ", ".join(sorted({s.rule for s in streams if s.ok}))  # empty: no known rule holds
        row["seconds_not_covered"] = round(self.uncovered.get(symbol, 0.0), 3)
        return row

    def _rule_of_level(self, level: str) -> str:
        """The rule of most streams of a level."""
        found = Counter(s.rule for s in self.streams if s.level == level and s.ok)
        return found.most_common(1)[0][0] if found else _USUAL[level]
