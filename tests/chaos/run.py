"""A chaos run: a venue with faults at random, a feed, and a judge who compares every book that is LIVE.

`python -m tests.chaos.run --seconds 120 --symbols 200 --seed 7` (see `--help`); exit status 1 when a LIVE book
was wrong, a book did not recover, a loss has no gap in the journal or a gap has no loss.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import recorder
from kfix_md import attach
from kfix_md._entry import State
from kfix_md.feed.pacing import SECOND, Phase
from kfix_md.feed.process import FeedProcess
from kfix_md.feed.service import Service
from kfix_md.session.rollover import RolloverWindow
from kfix_md.simulator.control import ControlError
from recorder.process import Recorder, Settings
from tests.chaos import watch
from tests.chaos.accounts import audit
from tests.chaos.faults import FORMS, draw
from tests.chaos.variations import Listed, Variation, chosen
from tests.feed.rig import SERVICES, Venue, drive, until

GOOD = (State.LIVE, State.EMPTY)
SERVICE = """symbols = ["*"]
heartbeat_s = 2
logon_timeout_s = 2
gap_timeout_s = 1
retry_max_s = 0.5
batch = 1000
requests_per_s = 20000"""


@dataclasses.dataclass
class Plan:
    """Length, size and seed of a run."""

    seconds: float = 12.0
    symbols: int = 8  # on each of the two venues
    rate: float = 200.0  # book changes a second and service
    faults: float = 6.0  # a second
    rollover: int = 4  # seconds
    seed: int = 1
    variations: str = "default"  # or none, all, or names with commas between them (tests/chaos/variations.py)
    samples: float = 30.0  # times a second at which readers and captures are compared
    patience: float = 1.0  # seconds that a book may be live after its session has ended


Levels = list[list[tuple[int, int]]]


def levels(book: Any) -> Levels:
    """(price, quantity) of all bids and all offers, in units of the precisions, of an UNVERIFIED book as well."""
    return [
        [(int(p), int(q)) for p, q in zip(side["price"], side["qty"], strict=True)]
        for side in book.depth(None, price="int", allow_unverified=True)
    ]


class Judge:
    """Samples LIVE books and compares them with the venue's own at that MsgSeqNum."""

    def __init__(self, feed: FeedProcess, venue: Venue, rng: random.Random, depth: int = 0) -> None:
        self.feed, self.venue, self.rng, self.depth = feed, venue, rng, depth
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.readers = attach(path=feed.segment.path)
        self._runs: dict[Any, str] = {}  # our numbering -> the venue's name of it

    def numbering(self, service: Service) -> tuple[Any, ...]:
        """Names the present run of MsgSeqNums of a service."""
        return (service.name, service.connects, service.session.session_id, service.session.stats["resets"])

    async def sample(self) -> None:
        """Judge one book."""
        service = self.rng.choice(self.feed.services)
        if not followed(service):
            return
        symbol = self.rng.choice(followed(service))
        book, run = service.handler[symbol], self.numbering(service)
        if book.state not in GOOD:
            self.counts[book.state.name] += 1
            return
        ours = levels(book)
        self._judge_reader(symbol, service, book.state, ours)
        seq = service.session.sequence.expected - 1
        try:
            truth = self.venue.control.truth(
                symbol,
                service.section.level,
                service=service.name,
                sender=service.section.sender_comp_id,
                seq=seq,
                depth=self.depth,
            )
        except ControlError:  # the venue has ended this numbering and we have not read so far yet
            self.counts["venue is ahead"] += 1
            return
        if (truth["price_precision"], truth["qty_precision"]) != service.handler.precisions(symbol):
            self.counts["other precisions"] += 1  # they changed while the session was down: the list is on its way
            return
        theirs = [[(p, q) for p, q, _ in truth["ints"][side]] for side in ("bids", "offers")]
        if ours == theirs:
            self._runs.setdefault(run, truth["session"])
            self.counts["equal"] += 1
            return
        if self._runs.get(run, truth["session"]) != truth["session"]:
            self.counts["venue is ahead"] += 1
            return
        await self._condemn(service, symbol, seq, run, ours, theirs)

    def _judge_reader(self, symbol: str, service: Service, state: State, ours: Levels) -> None:
        """What a polling script sees at this moment is in the same state and has the same levels."""
        reader = self.readers[symbol, service.section.level]
        if reader.state is not state:
            self.wrong.append(f"{service.name} {symbol}: {state.name} here, {reader.state.name} in shared memory")
        elif levels(reader) != ours:
            self.wrong.append(f"{service.name} {symbol}: other levels in shared memory")

    async def _condemn(self, service: Service, symbol: str, seq: int, run: Any, ours: Any, theirs: Any) -> None:
        if run not in self._runs:  # perhaps another numbering of the venue's that we are about to learn of
            await asyncio.sleep(0.5)
            if self.numbering(service) != run:
                self.counts["venue is ahead"] += 1
                return
        differ = [(a, b) for side in (0, 1) for a, b in zip(ours[side], theirs[side], strict=False) if a != b][:3]
        sizes = [(len(ours[side]), len(theirs[side])) for side in (0, 1)]
        self.wrong.append(f"{service.name} {symbol} at {seq}: sizes {sizes}, first differences {differ}")


async def turn(feed: FeedProcess, venue: Venue, plan: Plan, counts: Counter[str], rng: random.Random) -> None:
    """A rollover at every planned instant, in every form in turn."""
    for number in range(10**6):
        now_ns = time.time_ns()
        await asyncio.sleep((feed.services[0].session.rollover.next_instant(now_ns) - now_ns) / SECOND)
        form = FORMS[(number + plan.seed) % len(FORMS)]
        counts[f"rollover {form}"] += 1
        venue("rollover", form=form, refuse=rng.choice([0.2, 0.6]), how=rng.choice(["close", "logout", "tcp"]))
        await asyncio.sleep(0.5)


async def throw(
    feed: FeedProcess,
    venue: Venue,
    plan: Plan,
    counts: Counter[str],
    rng: random.Random,
    variations: list[Variation],
    redefined: list[dict[str, Any]],
) -> None:
    """Faults at random moments; `redefined` gains those of which the venue keeps no record."""
    symbols = {service.name: sorted(followed(service)) for service in feed.services}
    while True:
        await asyncio.sleep(rng.expovariate(plan.faults))
        command, arguments = draw(rng, symbols, variations)
        if command == "precision":
            # no fault, but 5041 is printed with it: a session that logs on has a book before it has the list
            symbol = arguments["symbol"]
            redefined.append({"fault": command, "harm": "content", "at_ns": time.time_ns(), "symbols": [symbol]})
        try:
            venue(command, **arguments)
        except ControlError:  # no session is logged on there at the moment
            counts["no session"] += 1
        else:
            counts[f"garble {arguments['edit']}" if command == "garble" else command] += 1


async def stalls(found: list[watch.Span]) -> None:
    """Note when this loop did not run for a tenth of a second: on a busy machine that is no fault of the feed."""
    while True:
        before = time.time_ns()
        await asyncio.sleep(0.01)
        if time.time_ns() - before > SECOND // 10:
            found.append((before, time.time_ns()))


def excuses(stalled: list[watch.Span]) -> list[dict[str, Any]]:
    """Long stalls as faults: a session may time out of them."""
    return [
        {"fault": "stall", "harm": "session", "at_ns": to, "symbols": []} for at, to in stalled if to - at > SECOND // 2
    ]


def compare(feed: FeedProcess, venue: Venue, depth: int) -> int:
    """Stop the market and compare the `depth` best levels (0: all) of every book with the venue's own."""
    compared = 0
    for service in feed.services:
        for symbol in followed(service):
            truth = venue.control.truth(symbol, service.section.level, service=service.name, depth=depth)["ints"]
            theirs = [[(p, q) for p, q, _ in truth[side]] for side in ("bids", "offers")]
            assert levels(service.handler[symbol]) == theirs, (service.name, symbol)
            compared += 1
    return compared


def followed(service: Service) -> list[str]:
    """Symbols of a service that are not left out."""
    return [symbol for symbol, sub in service.subs.all.items() if sub.phase is not Phase.LEFT_OUT]


def sound(service: Service, unverified: set[str]) -> bool:
    """Logged on, and every book is live; those of `unverified` symbols may be UNVERIFIED."""
    books = [(symbol, service.handler[symbol].state) for symbol in followed(service)]
    return (
        service.session.ready
        and bool(books)
        and all(state in GOOD or (symbol in unverified and state is State.UNVERIFIED) for symbol, state in books)
    )


def unsettled(feed: FeedProcess, unverified: set[str]) -> list[str]:
    """What keeps the services from being sound."""
    found = []
    for service in feed.services:
        if sound(service, unverified):
            continue
        books = [(symbol, service.handler[symbol]) for symbol in followed(service)]
        bad = [(s, b.state.name, b.cause.name, service.subs.all[s]) for s, b in books if b.state not in GOOD]
        found.append(f"{service.name} did not settle: session {service.session.state}, {len(bad)} books, {bad[:3]}")
    return found


def settled(feed: FeedProcess, unverified: set[str]) -> bool:
    """All books are sound, and no connection is one that the venue holds mute."""
    now_ns = time.time_ns()
    return all(
        sound(service, unverified) and now_ns - service.handler.last_recv_ns < SECOND // 4 for service in feed.services
    )


def prepare(venue: Venue, plan: Plan, variations: list[Variation], seed: int) -> set[str]:
    """Switch the variations on; the symbols that may be UNVERIFIED."""
    unverified: set[str] = set()
    rows = venue("symbols")["symbols"]
    listed: Listed = {
        service: {name: (row["price_precision"], row["qty_precision"]) for name, row in symbols.items()}
        for service, symbols in rows.items()
    }
    for number, variation in enumerate(variations):
        for command, arguments in variation.setup(random.Random(seed + number), listed) if variation.setup else []:
            venue(command, **arguments)
            if variation.unverified:
                unverified.add(arguments["symbol"])
    return unverified


def hurry(feed: FeedProcess, plan: Plan) -> None:
    """A rollover every few seconds, and patience to match."""
    for service in feed.services:
        config = service.session.config
        config.rollover_every, config.rollover_at, config.rollover_silence = plan.rollover, 0, 0.4
        config.rollover_lead, config.rollover_patience = 0.3, 1.5
        service.session.rollover = RolloverWindow(config)
        service.subs.pace = dataclasses.replace(
            service.subs.pace, first_retry_ns=SECOND // 10, longest_retry_ns=SECOND // 2, answer_ns=2 * SECOND
        )


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """One run; the report, whose "wrong" is empty when all is well."""
    rng = random.Random(plan.seed)
    named = chosen(plan.variations)
    variations = list(named.values())
    depth = max(variation.depth for variation in [Variation(), *variations])
    options = [option for variation in variations for option in variation.options]
    venue = Venue(folder, "--symbols", str(plan.symbols), "--rate", str(plan.rate), "--seed", str(plan.seed), *options)
    unverified = prepare(venue, plan, variations, plan.seed)
    injected: Counter[str] = Counter()
    report: dict[str, Any] = {"plan": dataclasses.asdict(plan), "variations": sorted(named), "injected": injected}
    report["unverified"] = sorted(unverified)
    trusted: dict[watch.Book, list[watch.Span]] = {}
    unseen: list[watch.Span] = []

    async def script(feed: FeedProcess) -> None:
        hurry(feed, plan)
        await until(lambda: all(sound(service, unverified) for service in feed.services), 30)
        judge = Judge(feed, venue, random.Random(plan.seed), depth)
        watcher = watch.Watcher(feed.segment.path, folder / "states.jsonl")
        stalled: list[watch.Span] = []
        redefined: list[dict[str, Any]] = []
        tasks = [
            asyncio.create_task(stalls(stalled)),
            asyncio.create_task(throw(feed, venue, plan, injected, rng, variations, redefined)),
            asyncio.create_task(turn(feed, venue, plan, injected, random.Random(plan.seed + 1))),
        ]
        end = time.monotonic() + plan.seconds
        while time.monotonic() < end:
            await judge.sample()
            await asyncio.sleep(0.004)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        for service in feed.services:
            service.session.rollover = RolloverWindow(dataclasses.replace(service.session.config, rollover_every=86400))
        began = time.monotonic()
        await asyncio.sleep(1)  # what was thrown last has arrived
        with contextlib.suppress(AssertionError):
            await until(lambda: settled(feed, unverified), 60)
        judge.wrong += unsettled(feed, unverified)
        report["recovered_s"] = round(time.monotonic() - began, 2)
        venue("pause")
        await asyncio.sleep(0.3)
        report["compared_at_the_end"] = compare(feed, venue, depth)
        report["ended_ns"] = time.time_ns()
        venue("resume")
        report["samples"], report["wrong"] = judge.counts, judge.wrong
        report["faults"] = venue("stats")["faults"] + [
            {"fault": "stall", "harm": "session", "at_ns": to, "symbols": []}
            for at, to in stalled
            if to - at > SECOND // 2
        ]
        report["faults"] += redefined
        events = venue("events", last=10**6)["events"]
        (folder / "events.json").write_text(json.dumps([events, report["faults"]]))
        samples = watcher.stop()
        report["stopped_ns"] = time.time_ns()
        trusted.update(watch.spans(samples))
        unseen.extend([*stalled, *watch.pauses(samples)])
        complaints, longest = watch.audit(trusted, events, report["stopped_ns"], plan.patience, stalled)
        report["wrong"] += complaints
        report["live_after_end_s"] = round(longest, 3)
        report["longest_stall_s"] = max((round((to - at) / SECOND, 3) for at, to in stalled), default=0)
        report["requests"] = {
            name: service["counts"].get("received V", 0) for name, service in venue("stats")["services"].items()
        }
        report["messages"] = {service.number: service.handler.stats["messages"] for service in feed.services}

    try:
        name = f"chaos-{folder.name}"
        lines = "\n".join([SERVICE, *([f"depth = {depth}"] if depth else [])])
        text = venue.toml(folder, name, SERVICES, service=lines)
        feed = drive(folder, text, script)
    finally:
        venue.close()
    report["stats"] = {service.name: dict(service.session.stats) for service in feed.services}
    report["wrong"] += audit(folder / "journal", SERVICES, report["faults"], report)
    recorded = captured(folder / "journal", folder / "captures")
    report["trusted_spans"] = sum(map(len, trusted.values()))
    first_ns = min((at for spans in trusted.values() for at, _ in spans), default=0)
    within = first_ns, report["stopped_ns"]
    report["wrong"] += watch.disagreements(trusted, recorded, within, unseen)
    past = recorder.open(folder / "captures")
    number = int(plan.samples * plan.seconds)
    counts, complaints = watch.at_samples(trusted, recorded, past, within, unseen, random.Random(plan.seed), number)
    report["trust_samples"], report["wrong"] = counts, report["wrong"] + complaints
    return report


def captured(journal: Path, captures: Path) -> dict[watch.Book, list[watch.Span]]:
    """Record a journal; when each book was trusted by the coverage of the captures."""
    with contextlib.closing(Recorder(Settings(journal, captures))) as running:
        running.once()
    rows = recorder.open(captures).coverage()
    found: dict[watch.Book, list[watch.Span]] = {}
    for row in rows.filter(rows["trusted"]).to_pylist():
        span = (row["from_ns"], watch.FOREVER if row["to_ns"] is None else row["to_ns"])
        found.setdefault((row["symbol"], int(row["level"][1])), []).append(span)
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in dataclasses.fields(Plan):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    parser.add_argument("--keep", type=Path, help="keep journal and configuration in this folder")
    options = vars(parser.parse_args())
    keep = options.pop("keep")
    with tempfile.TemporaryDirectory() as folder:
        where = keep or Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        report = run(Plan(**options), where)
    report["faults"] = len(report["faults"])
    print(json.dumps(report, indent=1, default=dict))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
