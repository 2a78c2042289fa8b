"""Runs the probe on every configured service, side by side, and saves what it received."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kfix_md.config import Config, ServiceSection
from kfix_md.feed.dial import choose_engine
from kfix_md.probe.client import without_credentials
from kfix_md.probe.reading import Checksums
from kfix_md.probe.service import ProbePace, Seen, ServiceProbe
from kfix_md.trading_day import DAY_S


@dataclass(frozen=True)
class Report:
    """What one service showed."""

    service: str
    seen: Sequence[Seen]
    sent: Sequence[str]
    problem: str
    checksums: dict[str, Checksums]
    capture: Path | None

    def as_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        rows = [
            {
                "assumption": each.assumption.key,
                "text": each.assumption.text,
                "expected": each.assumption.expected,
                "seen": each.text,
                "as_expected": each.as_expected,
                "setting": each.assumption.setting,
            }
            for each in self.seen
        ]
        capture = str(self.capture) if self.capture else None
        return {
            "service": self.service,
            "problem": self.problem or None,
            "assumptions": rows,
            "checksums": {
                symbol: {
                    "checked": found.checked,
                    "rules": list(found.rules),
                    "precision_change": list(found.precision_change),
                }
                for symbol, found in self.checksums.items()
            },
            "sent": list(self.sent),
            "capture": capture,
        }


def next_rollover(second_of_day: int, now_s: float | None = None) -> float:
    """Unix time of the next reset, in seconds."""
    now = time.time() if now_s is None else now_s
    start = now // DAY_S * DAY_S + second_of_day
    return start if start > now else start + DAY_S


async def probe(
    config: Config, *, symbols: int, pace: ProbePace, through_rollover: bool, folder: Path | None
) -> list[Report]:
    """Probe every service of a configuration at the same time.

    Parameters
    ----------
    config : Config
    symbols : int
        Symbols to subscribe to on each service.
    pace : Pace
        How long to collect market data, and to wait for answers.
    through_rollover : bool
        Stay connected until the next reset (`feed.rollover`) is over.
    folder : Path, optional
        Where the captures go; None saves nothing.
    """
    create = choose_engine(config.feed.tls_engine)
    until = next_rollover(config.feed.rollover) if through_rollover else None
    sections = list({section.name: section for section in reversed(config.service)}.values())[::-1]
    probes = [ServiceProbe(section, create, symbols=symbols, pace=pace, room=config.capacity) for section in sections]
    await asyncio.gather(*(each.run(until) for each in probes))
    return [_report(each, section, folder) for each, section in zip(probes, sections, strict=True)]


def _report(each: ServiceProbe, section: ServiceSection, folder: Path | None) -> Report:
    capture = _save(each, section, folder) if folder is not None and each.client.frames else None
    masked = [without_credentials(f, each.client.sender) for f in each.client.frames if not f.inbound]
    return Report(
        section.name, each.results(), [_readable(raw) for raw in masked], each.problem, each.checksums, capture
    )


def _readable(raw: bytes) -> str:
    return raw.replace(b"\x01", b"|").decode("utf-8", "surrogateescape")


def _save(each: ServiceProbe, section: ServiceSection, folder: Path) -> Path:
    """The gateway's frames as a capture, and both directions as text, without the account's identity."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"probe-{section.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    capture = folder / f"{stem}.fix.gz"
    frames = [(frame, without_credentials(frame, each.client.sender)) for frame in each.client.frames]
    with gzip.open(capture, "wb") as out:
        out.writelines(raw for frame, raw in frames if frame.inbound)
    with gzip.open(folder / f"{stem}.log.gz", "wt", encoding="utf-8", errors="surrogateescape") as log:
        for frame, raw in frames:
            moment = datetime.fromtimestamp(frame.at_ns / 1e9, UTC).isoformat(timespec="milliseconds")
            arrow = "<-" if frame.inbound else "->"
            log.write(f"{moment} {arrow} {_readable(raw)}\n")
    return capture
