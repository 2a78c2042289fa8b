"""A soak: very many messages and rollovers through one feed, watched for growth of memory, files, tasks and lag.

`python -m tests.chaos.soak --messages 1e8` (`make soak`); exit status 1 when something grew.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from kfix_md.feed.pacing import SECOND
from kfix_md.feed.process import FeedProcess
from kfix_md.session.rollover import RolloverWindow
from tests.chaos.faults import FORMS
from tests.chaos.run import SERVICE, settled
from tests.feed.rig import SERVICES, Venue, drive, equal_to_truth, good, until

PAGE = os.sysconf("SC_PAGE_SIZE")
#: what may grow without a leak: allocator and page granularity on a small process
SLACK_BYTES = 2 << 20


@dataclasses.dataclass
class Plan:
    """How long (whichever of messages and seconds comes first) and how fast."""

    messages: float = 1e8
    seconds: float = 86_400.0
    symbols: int = 50
    rate: float = 60_000.0  # book changes a second and service
    rollover: int = 20
    sample: float = 1.0  # seconds between measurements


@dataclasses.dataclass
class Sample:
    """One measurement of the feed's process."""

    messages: int
    rss: int
    files: int
    tasks: int
    lag_ms: float


def measure(feed: FeedProcess) -> Sample:
    """Now. The lag is from SendingTime to our receive time, of the slowest service."""
    handlers = [service.handler for service in feed.services]
    lag = max(handler.last_recv_ns - handler.last_sending_ns for handler in handlers) / 1e6
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    return Sample(
        sum(handler.stats["messages"] for handler in handlers),
        rss,
        len(os.listdir("/proc/self/fd")),
        len(asyncio.all_tasks()),
        round(lag, 3),
    )


def judge(samples: list[Sample]) -> list[str]:
    """What grew from the second quarter (the first is warm-up) to the last, as text."""
    if len(samples) < 8:
        return [f"only {len(samples)} samples: too short a run"]
    early, late = samples[len(samples) // 4 : len(samples) // 2], samples[-len(samples) // 4 :]
    wrong = []
    before, after = (median(sample.rss for sample in part) for part in (early, late))
    if after > before * 1.05 + SLACK_BYTES:
        wrong.append(f"resident memory grew from {before / 1e6:.1f} to {after / 1e6:.1f} MB")
    for name, slack in (("files", 2), ("tasks", 2)):
        before, after = (median(getattr(sample, name) for sample in part) for part in (early, late))
        if after > before + slack:
            wrong.append(f"{name} grew from {before:.0f} to {after:.0f}")
    before, after = (median(sample.lag_ms for sample in part) for part in (early, late))
    if after > 2 * max(before, 0) + 50:
        wrong.append(f"the lag grew from {before:.1f} to {after:.1f} ms")
    return wrong


async def roll(feed: FeedProcess, venue: Venue, plan: Plan, forms: list[str]) -> None:
    """A planned rollover every few seconds, in every form but the silent one, in turn."""
    kinds = [form for form in FORMS if form != "silent"]
    while True:
        now_ns = time.time_ns()
        await asyncio.sleep((feed.services[0].session.rollover.next_instant(now_ns) - now_ns) / SECOND)
        forms.append(kinds[len(forms) % len(kinds)])
        venue("rollover", form=forms[-1], refuse=0.2)
        await asyncio.sleep(0.5)


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """One soak; the report, whose "wrong" is empty when nothing grew and all books are right at the end."""
    venue = Venue(folder, "--symbols", str(plan.symbols), "--rate", str(plan.rate), "--rendered", "400")
    samples: list[Sample] = []
    forms: list[str] = []
    report: dict[str, Any] = {"plan": dataclasses.asdict(plan)}

    async def script(feed: FeedProcess) -> None:
        for service in feed.services:
            config = service.session.config
            config.rollover_every, config.rollover_at = plan.rollover, 0
            config.rollover_lead, config.rollover_patience = 0.3, 1.5
            service.session.rollover = RolloverWindow(config)
        await until(lambda: all(good(service) for service in feed.services), 30)
        began = time.monotonic()
        rolling = asyncio.create_task(roll(feed, venue, plan, forms))
        while time.monotonic() - began < plan.seconds:
            await asyncio.sleep(plan.sample)
            if rolling.done():
                rolling.result()
            samples.append(measure(feed))
            if samples[-1].messages >= plan.messages:
                break
        rolling.cancel()
        report["seconds"] = round(time.monotonic() - began, 1)
        await asyncio.sleep(1)
        await until(lambda: settled(feed, set()), 30)
        report["compared_at_the_end"] = await equal_to_truth(feed, venue)
        report["crc_failed"] = sum(service.handler.stats["crc_failed"] for service in feed.services)

    try:
        text = venue.toml(folder, f"soak-{folder.name}", SERVICES, service=SERVICE, journal="enabled = false")
        drive(folder, text, script)
    finally:
        venue.close()
    report |= {"rollovers": len(forms), "messages": samples[-1].messages, "wrong": judge(samples)}
    report["samples"] = [dataclasses.asdict(samples[n]) for n in (len(samples) // 4, len(samples) // 2, -1)]
    if report["crc_failed"]:
        report["wrong"].append(f"{report['crc_failed']} checksums failed")
    return report


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in dataclasses.fields(Plan):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    with tempfile.TemporaryDirectory() as folder:
        report = run(Plan(**vars(parser.parse_args())), Path(folder))
    print(json.dumps(report, indent=1))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
