"""Reads TOML fault scripts and runs their commands at times, repeatedly, or at random from a seed."""

import asyncio
import random
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfix_md.errors import UsageError

if TYPE_CHECKING:
    from kfix_md.simulator.commands import Commands

TIMING = {"at", "every", "times"}


def read(path: Path) -> list[dict[str, Any]]:
    """The faults of FILE: `[[fault]]` tables (`at` seconds, optional `every` and `times`, `cmd` and its
    arguments) and at most one `[random]` table (`rate` a second, `seed`,
    `from`, `until`, `faults` a list of commands)."""
    from kfix_md.simulator import (  # noqa: F401  they register themselves
        fault_commands,
        market_commands,
        variation_commands,
    )
    from kfix_md.simulator.commands import COMMANDS

    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML ({error})") from None
    unknown = set(table) - {"fault", "random"}
    if unknown:
        raise UsageError(f"{path}: unknown table {sorted(unknown)[0]!r}; only [[fault]] and [random] go here")
    plan = list(table.get("fault", []))
    drawn = table.get("random")
    for fault in plan + (drawn or {}).get("faults", []):
        if fault.get("cmd") not in COMMANDS:
            known = ", ".join(sorted(COMMANDS))
            raise UsageError(f"{path}: unknown cmd {fault.get('cmd')!r}; one of {known}")
    for fault in plan:
        if not isinstance(fault.get("at", 0.0), int | float) or fault.get("every", 1) <= 0:
            raise UsageError(f"{path}: `at` and `every` are seconds")
    return plan + ([{"random": drawn}] if drawn else [])


def timeline(plan: list[dict[str, Any]], horizon: float = 86_400.0) -> list[tuple[float, dict[str, Any]]]:
    """(seconds from the start, command) in order, up to `horizon` seconds and a million entries."""
    rows: list[tuple[float, dict[str, Any]]] = []
    for fault in plan:
        if "random" in fault:
            rows += _drawn(fault["random"], horizon)
            continue
        request = {key: value for key, value in fault.items() if key not in TIMING}
        at, every = float(fault.get("at", 0.0)), fault.get("every")
        times = int(fault.get("times", horizon // every + 1 if every else 1))
        rows += [(at + number * (every or 0.0), request) for number in range(min(times, 100_000))]
    return sorted((row for row in rows if row[0] <= horizon), key=lambda row: row[0])


def _drawn(table: dict[str, Any], horizon: float) -> list[tuple[float, dict[str, Any]]]:
    dice = random.Random(table.get("seed", 1))
    at, until = float(table.get("from", 0.0)), float(table.get("until", min(horizon, 3600.0)))
    rows: list[tuple[float, dict[str, Any]]] = []
    while table["faults"] and len(rows) < 1_000_000:
        at += dice.expovariate(float(table.get("rate", 1.0)))
        if at > until:
            break
        rows.append((at, dice.choice(table["faults"])))
    return rows


async def play(plan: list[dict[str, Any]], commands: "Commands") -> None:
    """Run a plan against the clock."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for at, request in timeline(plan):
        await asyncio.sleep(max(0.0, start + at - loop.time()))
        answer = commands.run(request)
        commands.venue.log(
            "script", request=request, answer={key: answer[key] for key in ("ok", "error") if key in answer}
        )
