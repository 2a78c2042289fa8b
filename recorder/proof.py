"""Holds what a verification found: counts by stream, the rule of each stream's checksums, and the verdict."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kfix_md._book import OrderBook
from recorder import _proof
from recorder.rebuild import WholeMessages

_USUAL = {"L2": "level", "L3": "order"}
_COUNTS = ("rows", "messages", "checked", "ok", "failed", "failed_live", "unverified", "unproven", "in_doubt")


@dataclass
class StreamProof:
    """One symbol in one session: its book while it is rebuilt, and what its messages showed.

    Attributes
    ----------
    limit
        Levels a side of the subscription, 0 for all.
    sound
        The book is whole: from a snapshot on, until a loss of rows or a message that the feed itself found wrong.
    matched
        Messages on a sound book whose checksum a rule gives, by code of the rule (see _proof.rule_of).
    code
        Code of the rule that gave the last of them: a rule is given up only for one that gives what it does not.
    failed
        Messages on a sound book whose checksum matched live and that no rule gives.
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
    whole
        Its rows until a message is whole; None afterwards.
    cut
        Its last message is not whole.
    """

    session: int
    symbol: str
    level: str = "L2"
    book: OrderBook | None = None
    limit: int = 0
    sound: bool = False
    rows: int = 0
    messages: int = 0
    with_crc: int = 0
    precisions: tuple[int, int] = (0, 0)
    matched: Counter[int] = field(default_factory=Counter)
    code: int = 0
    failed: int = 0
    failed_live: int = 0
    unverified: int = 0
    unproven: int = 0
    in_doubt: int = 0
    crossed: int = 0
    first_ns: int = 0
    last_ns: int = 0
    first_failure: dict[str, int] = field(default_factory=dict)
    whole: WholeMessages | None = None
    cut: bool = False

    @property
    def rule(self) -> str:
        """Name of the rule of 5041 that this stream follows, empty when none gives its checksums."""
        return _proof.rule_of(self.code)[0] if self.code else ""

    @property
    def precision_mismatch(self) -> str:
        """How the checksum's precisions differ from those of the instrument list, empty when they do not."""
        if not self.code:
            return ""
        names, shifts = ("price", "quantity"), _proof.rule_of(self.code)[1:]
        return ", ".join(
            f"{name} with {listed + shift} decimals instead of {listed}"
            for name, listed, shift in zip(names, self.precisions, shifts, strict=True)
            if shift
        )

    @property
    def ok(self) -> int:
        """Messages whose checksum a rule gives."""
        return sum(self.matched.values())

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

    streams: list[StreamProof]
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
        by_symbol: dict[tuple[str, str], list[StreamProof]] = {}
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

    def _row(self, symbol: str, level: str, streams: list[StreamProof]) -> dict[str, Any]:
        counts = [s.counts() for s in streams]
        row: dict[str, Any] = {"symbol": symbol, "level": level, "sessions": len(streams)}
        row |= {name: sum(each[name] for each in counts) for name in _COUNTS}
        row["rule"] = ", ".join(sorted({s.rule for s in streams if s.rule}))  # empty: no known rule holds
        row["precision_mismatch"] = "; ".join(sorted({s.precision_mismatch for s in streams if s.precision_mismatch}))
        row["seconds_not_covered"] = round(self.uncovered.get(symbol, 0.0), 3)
        return row

    def _rule_of_level(self, level: str) -> str:
        """The rule of most streams of a level."""
        found = Counter(s.rule for s in self.streams if s.level == level and s.rule)
        return found.most_common(1)[0][0] if found else _USUAL[level]
