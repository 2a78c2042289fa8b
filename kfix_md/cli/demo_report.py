"""Reads the journal of a demo run, prints its summary, and checks each condition of success by name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfix_md.journal.reader import JournalReader


@dataclass
class DemoGap:
    """A gap as recorded in the journal."""

    service: str
    cause: str
    first: int
    last: int | None
    opened_ns: int
    healed: str = ""
    closed_ns: int = 0

    @property
    def milliseconds(self) -> float:
        """Time until the gap was healed."""
        return (self.closed_ns - self.opened_ns) / 1e6


@dataclass
class History:
    """Gaps, rollovers and frames of a run."""

    gaps: list[DemoGap] = field(default_factory=list)
    rollovers: dict[str, dict[str, Any]] = field(default_factory=dict)  # service -> last "verified" event
    frames: int = 0
    bytes: int = 0

    def caused_by(self, cause: str) -> list[DemoGap]:
        """The gaps of one cause."""
        return [gap for gap in self.gaps if gap.cause == cause]


@dataclass
class Run:
    """Results of a run: `history` from the journal, `totals` of the feed's counters, `proof` of `kfix verify`."""

    history: History
    totals: dict[str, int]
    proof: dict[str, Any]
    services: int  # how many there are
    symbols: int  # on each venue
    tops: list[tuple[str, str, str, str]]  # symbol, level, polled top, the venue's top
    captures: Path  # folder of the Parquet files


def read_history(journal: Path) -> History:
    """Gaps, rollovers and frames, as the journal recorded them."""
    history = History()
    names: dict[int, str] = {}
    gaps: dict[tuple[int, int], DemoGap] = {}
    for _, kind, session, recv_ns, _, body in JournalReader(journal):
        if kind == 1:
            history.frames += 1
            history.bytes += len(body)
            continue
        event = json.loads(bytes(body))
        what = event.get("type")
        if what == "session":
            names[session] = event["service"]
        elif what == "gap_open":
            gap = DemoGap(names[session], event["cause"], event["first"], event["last"], recv_ns)
            gaps[session, event["id"]] = gap
            history.gaps.append(gap)
        elif what == "gap_close" and (session, event["id"]) in gaps:
            gap = gaps[session, event["id"]]
            gap.healed, gap.closed_ns = event["healed"], recv_ns
        elif what == "rollover" and event.get("phase") == "verified":
            history.rollovers[names[session]] = event
    history.gaps = [gap for gap in history.gaps if not _final(gap, history)]
    return history


def _final(gap: DemoGap, history: History) -> bool:
    """Whether this is the open gap that a session leaves when it logs out at the end of the run."""
    mine = [other for other in history.gaps if other.service == gap.service]
    return gap is mine[-1] and gap.last is None and not gap.healed


def rows(run: Run, sample: str) -> list[tuple[str, str]]:
    """(label, text) of each line of the summary; `sample` is the symbol whose top of book is printed."""
    history, totals, proof = run.history, run.totals, run.proof
    parquet = list(run.captures.rglob("*.parquet"))
    size = sum(path.stat().st_size for path in parquet) / 1e6
    symbol, level, polled, truth = next(top for top in run.tops if top[0] == sample)
    return [
        ("books", f"{len(run.tops)} ({run.symbols} spot and {run.symbols} derivatives, L2 and L3)"),
        (
            "messages",
            f"{totals['messages']:,} received, {history.frames:,} frames ({history.bytes / 1e6:.1f} MB) in the journal",
        ),
        ("checksums", f"{totals['crc_checked']:,} checked, {totals['crc_failed']} failed (1 was forced)"),
        *(
            (
                f"forced gap ({gap.service})",
                f"MsgSeqNum {gap.first} to {gap.last} lost, healed by {gap.healed} in {gap.milliseconds:.1f} ms",
            )
            for gap in history.caused_by("lost")
        ),
        *(
            (
                f"forced checksum ({sample})",
                f"healed by {gap.healed} in {gap.milliseconds:.1f} ms, no other book affected",
            )
            for gap in history.caused_by("crc")
        ),
        (
            "rollover",
            ", ".join(f"{service} {event['seconds']:.2f} s" for service, event in history.rollovers.items())
            + " until all books were live again",
        ),
        (
            "Parquet",
            f"{proof['rows']:,} rows, {size:.2f} MB in {len(parquet)} files; proved from Parquet "
            f"alone: {proof['ok']:,} of {proof['checked']:,} checksums",
        ),
        (f"polled {symbol} {level}", polled),
        ("the venue's own", truth),
        ("whole books", f"all {len(run.tops)} polled books equal the venue's, level by level"),
    ]


def failures(run: Run) -> list[str]:
    """The conditions of success that are not met."""
    history, totals = run.history, run.totals
    lost, crc, planned = (history.caused_by(cause) for cause in ("lost", "crc", "rollover"))
    conditions = {
        "exactly one checksum failed, the forced one": totals["crc_failed"] == 1,
        "more than 100 checksums were checked": totals["crc_checked"] > 100,
        "the forced gap was recorded once, with its three messages": (
            len(lost) == 1 and lost[0].last is not None and lost[0].last - lost[0].first == 2
        ),
        "the forced checksum was recorded once": len(crc) == 1,
        "every service went through the rollover": len(history.rollovers) == len(planned) == run.services,
        "every gap was healed": all(gap.healed for gap in lost + crc + planned),
        "nothing else was lost": len(lost) + len(crc) + len(planned) == len(history.gaps),
        "every message is in the journal": history.frames >= totals["messages"],
        "the proof from Parquet holds": bool(run.proof["holds"]),
    }
    return [condition for condition, met in conditions.items() if not met]
