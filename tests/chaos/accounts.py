"""Checks that the journal names every loss the venue caused and no other, and contains every frame received."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from kfix_md.journal.reader import JournalReader

SECOND = 1_000_000_000
NEAR = 10 * SECOND
#: causes of a gap that concern single symbols, by what a message contained
CONTENT = ("crc", "malformed", "crossed", "number", "rule", "ids")


def audit(journal: Path, services: tuple[str, ...], faults: list[dict[str, Any]], report: dict[str, Any]) -> list[str]:
    """Complaints, as text; `report` gains the counts of gaps by cause and cure."""
    gaps, frames, numbers = read(journal)
    report["gaps"] = dict(Counter(f"{gap['cause']} -> {gap.get('healed')}" for gap in gaps))
    report["journal_frames"] = dict(frames)
    complaints = []
    for fault in faults:
        if fault["harm"] == "lost":
            number = services.index(fault["service"])
            if not any(covers(gap, fault) for gap in gaps if gap["session"] == number):
                mine = [gap for gap in gaps if gap["session"] == number]  # several gaps may share the loss
                missing = [
                    seq
                    for seq in fault["seqs"]
                    if not came(numbers[number], seq, fault["at_ns"])
                    and not any(covers(gap, {**fault, "first": seq, "last": seq}) for gap in mine)
                ]
                if missing:
                    complaints.append(f"no gap names the loss of {fault}")
    for gap in gaps:
        if gap["cause"] == "restart" or gap["opened_ns"] > report["ended_ns"]:  # the end of the run
            continue
        if gap["cause"] == "precision" and report["injected"]["precision"]:  # no fault, so not in the venue's list
            continue
        if gap["cause"] == "crc" and gap["names"] <= set(report["unverified"]):  # an unknown rule
            continue
        service = services[gap["session"]]
        near = [fault for fault in faults if fault.get("service") in (None, service) and explains(fault, gap)]
        if not near:
            complaints.append(f"no fault explains the gap {gap}")
        elif gap["cause"] in CONTENT and not gap["names"] <= {name for fault in near for name in fault["symbols"]}:
            complaints.append(f"no fault touched all symbols of the gap {gap}")
        if "healed" not in gap:
            complaints.append(f"the gap was never closed: {gap}")
    for number, messages in report["messages"].items():
        if frames[number] < messages:
            complaints.append(f"{services[number]}: {messages} frames came, {frames[number]} are in the journal")
    return complaints


def read(journal: Path) -> tuple[list[dict[str, Any]], Counter[int], dict[int, dict[int, list[int]]]]:
    """Gaps (opened and closed times, session number), frames by session, and when which MsgSeqNum came."""
    gaps: dict[Any, dict[str, Any]] = {}
    frames: Counter[int] = Counter()
    numbers: dict[int, dict[int, list[int]]] = {}
    for _, kind, session, recv_ns, _, body in JournalReader(journal):
        if kind == 1:
            frames[session] += 1
            note_number(numbers.setdefault(session, {}), bytes(body[:200]), recv_ns)
        elif kind == 2:
            event = json.loads(bytes(body))
            if event["type"] == "gap_open":
                names = set(event.pop("symbols"))
                gaps[session, event["id"]] = {
                    **event,
                    "symbols": len(names),
                    "names": names,
                    "session": session,
                    "opened_ns": recv_ns,
                    "closed_ns": 1 << 62,
                }
            elif event["type"] == "gap_close":
                gaps[session, event["id"]] |= {"healed": event["healed"], "closed_ns": recv_ns}
    return list(gaps.values()), frames, numbers


def note_number(numbers: dict[int, list[int]], head: bytes, recv_ns: int) -> None:
    """Remember when a MsgSeqNum came."""
    _, found, rest = head.partition(b"\x0134=")
    text = rest.split(b"\x01", 1)[0]
    if found and text.isdigit() and len(text) < 18:
        numbers.setdefault(int(text), []).append(recv_ns)


def came(numbers: dict[int, list[int]], seq: int, after_ns: int) -> bool:
    """Whether a message of that number came soon after: by the replay of another gap, for example."""
    return any(after_ns - SECOND < at_ns < after_ns + NEAR for at_ns in numbers.get(seq, ()))


def covers(gap: dict[str, Any], fault: dict[str, Any]) -> bool:
    """Whether the gap is the loss of this fault: its numbers, or an outage at that time."""
    if gap["last"] is None:
        return gap["opened_ns"] - NEAR < fault["at_ns"] < gap["closed_ns"] + SECOND
    near = abs(gap["opened_ns"] - fault["at_ns"]) < NEAR
    return near and gap["first"] <= fault["first"] and fault["last"] <= gap["last"]


def explains(fault: dict[str, Any], gap: dict[str, Any]) -> bool:
    """Whether the fault is what this gap came from."""
    late = gap["opened_ns"] - fault["at_ns"]
    if not -SECOND < late < NEAR:
        return False
    if gap["cause"] in ("lost", "checksum") and gap["last"] is not None:
        touches = fault.get("first", 0) <= gap["last"] and gap["first"] <= fault.get("last", -1)
        return touches or fault["harm"] in ("rollover", "session")
    if gap["cause"] in CONTENT:
        return fault["harm"] in ("content", "hidden")
    return True
