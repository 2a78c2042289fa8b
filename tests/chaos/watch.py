"""Samples the shared memory of a feed every 10 ms from a process of its own, and judges when books were live.

`python -m tests.chaos.watch SEGMENT OUT` writes one JSON line for each sample in which a state changed, or that came
late: [time in ns, [[symbol, level, state], ...], time of the sample before]; it ends when its input does.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfix_md import State, attach
from kfix_md.errors import FeedError
from kfix_md.shm.attach import Feed

if TYPE_CHECKING:
    import random

    from recorder.catalog import Captures

INTERVAL = 0.01
SECOND = 1_000_000_000
#: ns by which the captures may differ from what was sampled, without the time in which there was no sample
TOLERANCE_NS = SECOND // 20
TRUSTED = {State.LIVE, State.EMPTY}
FOREVER = 1 << 62
ENDS = ("logout sent", "logout received", "disconnected")

Book = tuple[str, int]
Span = tuple[int, int]


def watch(segment: Path, out: Path) -> None:
    """Sample until the input ends."""
    feed = patient(segment)
    known: dict[Book, int] = {}
    before_ns = time.time_ns()
    with open(out, "w") as file:
        while not select.select([sys.stdin], [], [], INTERVAL)[0]:
            rows = feed.snapshot(allow_stale=True)
            now_ns = time.time_ns()
            states = zip(rows["symbol"].tolist(), rows["level"].tolist(), rows["state"].tolist(), strict=True)
            changes = [row for row in states if known.get(row[:2]) != row[2]]
            if changes or now_ns - before_ns > TOLERANCE_NS:
                known.update({row[:2]: row[2] for row in changes})
                file.write(json.dumps([now_ns, changes, before_ns]) + "\n")
            before_ns = now_ns


def patient(segment: Path, seconds: float = 30.0) -> Feed:
    """Attach; on a busy machine the feed may look dead for a moment."""
    for _ in range(int(seconds / INTERVAL)):
        try:
            return attach(path=segment)
        except FeedError:
            time.sleep(INTERVAL)
    return attach(path=segment)


class Watcher:
    """The process; `stop` ends it and returns its samples."""

    def __init__(self, segment: Path, out: Path) -> None:
        self._out = out
        command = [sys.executable, "-m", "tests.chaos.watch", str(segment), str(out)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def stop(self) -> list[Any]:
        """End the process; its lines."""
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0
        return [json.loads(line) for line in self._out.read_text().splitlines()]


def pauses(samples: list[Any]) -> list[Span]:
    """When the watcher itself did not look."""
    return [(before, now) for now, _, before in samples if now - before > TOLERANCE_NS]


def spans(samples: list[Any]) -> dict[Book, list[Span]]:
    """When each book was trusted, as (from, to)."""
    found: dict[Book, list[Span]] = defaultdict(list)
    since: dict[Book, int] = {}
    for now_ns, changes, _ in samples:
        for symbol, level, state in changes:
            book = (symbol, level)
            if state in TRUSTED:
                since.setdefault(book, now_ns)
            elif book in since:
                found[book].append((since.pop(book), now_ns))
    for book, start in since.items():
        found[book].append((start, FOREVER))
    return dict(found)


def at_samples(
    live: dict[Book, list[Span]],
    captured: dict[Book, list[Span]],
    cap: Captures,
    within: Span,
    unseen: list[Span],
    rng: random.Random,
    count: int,
) -> tuple[Counter[str], list[str]]:
    """(samples by what both say, complaints): is `book()` trusted when readers trusted the book, and only then?

    So too the latest row of `bbo()` at that time. Half of the samples are of times at which readers did not trust the
    book. Times near a change, of the one or the other, are no samples: shared memory is looked at every 10 ms, and a
    gap that is healed in less is not seen. How long they differ is what `disagreements` finds.
    """
    found: Counter[str] = Counter()
    complaints: list[str] = []
    books = sorted(live)
    best = {book: cap.bbo(book[0], level=f"L{book[1]}") for book in books}
    outages = [
        (book, (end, start))
        for book in books
        for (_, end), (start, _) in pairwise(live[book])
        if start - end > 2 * TOLERANCE_NS
    ]
    for number in range(count):
        book, span = rng.choice(outages) if number % 2 and outages else (rng.choice(books), within)
        at = rng.randrange(*span)
        turns = [moment for span in [*live[book], *captured.get(book, []), *unseen] for moment in span]
        if any(abs(moment - at) < TOLERANCE_NS for moment in turns) or any(a < at < to for a, to in unseen):
            continue
        seen = any(a <= at < to for a, to in live[book])
        past = cap.book(book[0], at, level=f"L{book[1]}")
        row = int(np.searchsorted(np.maximum.accumulate(best[book]["recv_ns"].to_numpy()), at, "right")) - 1
        quoted = row >= 0 and bool(best[book]["trusted"][row].as_py())
        found[f"trusted by {'all' if seen else 'none'}"] += 1
        if past.trusted != seen:
            complaints.append(f"{book} at {at}: readers {seen}, book() {past.trusted} ({past.reason})")
        elif quoted != seen:
            complaints.append(f"{book} at {at}: readers {seen}, bbo() {quoted}")
    return found, complaints


def differences(some: list[Span], others: list[Span]) -> list[Span]:
    """Time in one of two lists of spans and not in the other; the spans of a list do not overlap."""
    turns = sorted(moment for span in [*some, *others] for moment in span)
    return [(at, to) for at, to in zip(turns[::2], turns[1::2], strict=True) if at < to]


def disagreements(
    live: dict[Book, list[Span]], captured: dict[Book, list[Span]], within: Span, unseen: list[Span]
) -> list[str]:
    """Where the captures do not name a book trusted when readers did, or the reverse, without the time `unseen`."""
    first, last = within
    complaints = []
    for book in sorted(live.keys() | captured.keys()):
        sampled, recorded = live.get(book, []), captured.get(book, [])
        for at, to in differences(sampled, recorded):
            start, end = max(at, first), min(to, last)
            if start < end and lasted(start, end, unseen) > TOLERANCE_NS:
                only = "readers" if any(a <= start < b for a, b in sampled) else "captures"
                complaints.append(f"{book}: trusted by {only} only for {(end - start) / SECOND:.3f} s from {start}")
    return complaints


def silences(events: list[dict[str, Any]]) -> dict[str, list[tuple[Span, str]]]:
    """When no session of a service delivered: ((end of a session, next Logon), how it ended), by service.

    The end of a connection that another session has already replaced is none.
    """
    started: dict[str, dict[str, int]] = defaultdict(dict)
    ended: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
    for event in events:
        service, _, run = str(event.get("session", "")).partition("/")
        connection = run.partition(".")[0]
        if event["event"] == "logged on":
            started[service].setdefault(connection, event["at_ns"])
        elif event["event"] in ENDS:
            ended[service].setdefault(connection, (event["at_ns"], event["event"]))
    return {service: _silent(started[service], connections) for service, connections in ended.items()}


def _silent(started: dict[str, int], ended: dict[str, tuple[int, str]]) -> list[tuple[Span, str]]:
    found = []
    for at_ns, how in ended.values():
        others = [(start, ended.get(name, (FOREVER, ""))[0]) for name, start in started.items()]
        if not any(start < at_ns < end for start, end in others):
            found.append(((at_ns, min((start for start, _ in others if start > at_ns), default=FOREVER)), how))
    return found


def lasted(start: int, end: int, stalled: Iterable[Span]) -> int:
    """Nanoseconds from `start` to `end` without those of stalls."""
    return end - start - sum(max(0, min(to, end) - max(at, start)) for at, to in stalled)


def audit(
    trusted: dict[Book, list[Span]],
    events: list[dict[str, Any]],
    until_ns: int,
    patience: float,
    stalled: Iterable[Span] = (),
) -> tuple[list[str], float]:
    """(complaints, longest time in seconds that a book stayed trusted after its session had ended).

    A complaint is a book trusted more than `patience` seconds after the end of its session and before the next, not
    counting when the feed was `stalled` by the machine.
    """
    complaints, longest = [], 0.0
    for service, ends in silences(events).items():
        market, level = service.split("-")
        mine = {
            book: rows
            for book, rows in trusted.items()
            if ("/" in book[0]) == (market == "spot") and book[1] == int(level[1])
        }
        for (start, after), how in ends:
            end = min(after, until_ns)
            for book, rows in mine.items():
                late = max(
                    (lasted(start, min(to, end), stalled) for at, to in rows if at < end and to > start), default=0
                )
                longest = max(longest, late / SECOND)
                if late > patience * SECOND:
                    text = f"{service} {book[0]}: live for {late / SECOND:.2f} s while no session delivers"
                    complaints.append(f"{text} ({how})")
    return complaints, longest


if __name__ == "__main__":
    watch(Path(sys.argv[1]), Path(sys.argv[2]))
