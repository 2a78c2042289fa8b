"""A venue in a process of its own and a feed in this one, for tests of the whole path over TLS."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from kfix_md import config
from kfix_md._entry import State
from kfix_md.feed.clock import Clock
from kfix_md.feed.process import FeedProcess
from kfix_md.feed.service import Service
from kfix_md.simulator.control import Control

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICES = ("spot-l2", "derivatives-l2", "derivatives-l3", "spot-l3")


class Venue:
    """`kfix simulate` on free ports with TLS; call it to command it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        command = [
            sys.executable,
            "-m",
            "kfix_md",
            "simulate",
            "--port-base",
            "0",
            "--tls-dir",
            str(folder / "tls"),
            "--control",
            str(folder / "ctl"),
            *options,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        ready = json.loads(self._process.stdout.readline())
        self.ports, self.ca = ready["ports"], ready["ca"]
        self.control = Control(folder / "ctl")

    def __call__(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        return self.control(cmd, **arguments)

    def close(self) -> None:
        self.control.close()
        self._process.terminate()
        self._process.wait(timeout=60)  # next to fifty spinning readers it has a fiftieth of a core
        self._process.stdout.close()

    def toml(self, folder: Path, name: str, services: tuple[str, ...] = SERVICES, **more: str) -> str:
        """A configuration for this venue; `more`: section -> lines, "service" for lines of every service."""
        lines = ["[feed]", f'name = "{name}"', f'directory = "{folder}"', more.get("feed", "")]
        for number, service in enumerate(services):
            lines += [
                "[[service]]",
                f'name = "{service}"',
                f'sender_comp_id = "{name}-{number}"',
                'host = "localhost"',
                f"port = {self.ports[service]}",
                f'tls_ca = "{self.ca}"',
                more.get("service", 'symbols = ["*"]'),
            ]
        lines += ["[journal]", 'directory = "journal"', "segment_mb = 1", more.get("journal", "")]
        return "\n".join(lines) + "\n"


def load(folder: Path, text: str) -> config.Config:
    """The text as a configuration file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "feed.toml"
    path.write_text(text)
    return config.load(path)


def drive(
    folder: Path, text: str, script: Callable[[FeedProcess], Awaitable[None]], clock: Clock | None = None
) -> FeedProcess:
    """Run a feed of this configuration until `script` has ended; the feed, stopped."""
    built = load(folder, text)

    async def main() -> FeedProcess:
        feed = FeedProcess(built, lambda: config.load(folder / "feed.toml"), clock)
        running = asyncio.create_task(feed.run())
        playing = asyncio.create_task(script(feed))
        await asyncio.wait({running, playing}, return_when=asyncio.FIRST_COMPLETED)
        feed.stop()
        await running
        if playing.done():
            playing.result()
        else:
            playing.cancel()
        return feed

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for a condition; fails after `seconds`."""
    for _ in range(int(seconds * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to pass")


def good(service: Service) -> bool:
    """Logged on, and every book that is wanted is live."""
    live = service.states[State.LIVE] + service.states[State.EMPTY]
    return service.session.ready and bool(service.subs.all) and live == len(service.subs.all)


async def all_good(feed: FeedProcess, seconds: float = 10.0) -> None:
    """Wait until every book of every service is live."""
    await until(lambda: all(good(service) for service in feed.services), seconds)


async def equal_to_truth(feed: FeedProcess, venue: Venue) -> int:
    """Stop the market and compare every book with the venue's own; the number of books compared."""
    venue("pause")
    await asyncio.sleep(0.1)
    compared = 0
    for service in feed.services:
        for symbol in service.subs.all:
            truth = venue.control.truth(symbol, service.section.level, service=service.name)["ints"]
            bids, offers = service.handler[symbol].depth(None, "int")
            for ours, theirs in ((bids, truth["bids"]), (offers, truth["offers"])):
                assert [(int(p), int(q)) for p, q in zip(ours["price"], ours["qty"], strict=True)] == [
                    (p, q) for p, q, _ in theirs
                ], (service.name, symbol)
            compared += 1
    venue("resume")
    return compared
