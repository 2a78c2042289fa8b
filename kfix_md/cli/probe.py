"""`kfix probe`: prints what a real gateway does where its documentation is silent."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections import Counter
from pathlib import Path

import click

from kfix_md.symbol_text import one_line


@click.command()
@click.argument("config", type=click.Path())
@click.option("--symbols", type=click.IntRange(1, 50), default=4, show_default=True, help="Symbols for each service.")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=20.0,
    show_default=True,
    help="How long to collect market data.",
)
@click.option("--through-rollover", is_flag=True, help="Stay connected over the next 22:00 UTC and record its form.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("probe"),
    show_default=True,
    help="Folder for the raw frames, without credentials.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
def command(config: str, symbols: int, seconds: float, through_rollover: bool, output: Path, as_json: bool) -> None:
    """Find out what the gateways of CONFIG.toml do, as a polite client: market data only, few symbols, paced.

    Stop the feed first: the venue accepts one session per CompID. Exit status: 0 all as expected, 1 something
    differs, 2 usage or configuration error, or no service could be logged on to.
    """
    import asyncio

    from kfix_md.config import load
    from kfix_md.probe.run import probe
    from kfix_md.probe.service import ProbePace

    loaded = load(config)
    output.mkdir(parents=True, exist_ok=True)  # an error now, and not after the probe
    names = ", ".join(dict.fromkeys(section.name for section in loaded.service))
    until = "until after the next rollover" if through_rollover else f"about {seconds + 25:.0f} s"
    click.echo(f"probing {names}: {until}", err=True)
    pace = ProbePace(data=seconds, shallow=max(2.0, seconds / 2))
    reports = asyncio.run(probe(loaded, symbols=symbols, pace=pace, through_rollover=through_rollover, folder=output))
    if as_json:
        click.echo(json.dumps({"services": [report.as_json() for report in reports]}, indent=1))
    else:
        for report in reports:
            _print(report.as_json())
    if all(report.problem and not report.capture for report in reports):
        raise SystemExit(2)
    differs = any(each.as_expected is False for report in reports for each in report.seen)
    raise SystemExit(1 if differs or any(report.problem for report in reports) else 0)


_MARKS = {True: ("ok", "green"), False: ("DIFFERS", "red"), None: ("not seen", "yellow")}


def _print(report: dict) -> None:  # type: ignore[type-arg]  # JSON
    click.echo(click.style(f"\n{report['service']}", bold=True))
    if report["problem"]:
        _wrapped("  ended early: ", report["problem"], "red")
    for row in report["assumptions"]:
        mark, colour = _MARKS[row["as_expected"]]
        text = "" if row["seen"] == mark else row["seen"]
        _wrapped(f"  {mark:<8} {row['assumption']:<19} ", text, colour, marked=len(mark) + 2)
        if row["as_expected"] is False:
            _wrapped(" " * 31, f"expected: {row['expected']}; setting: {row['setting']}")
    kinds = Counter(line.split("|35=", 1)[1].split("|", 1)[0] for line in report["sent"])
    _wrapped("  sent: ", ", ".join(f"35={kind} x {count}" for kind, count in kinds.items()) or "nothing")
    click.echo(f"  frames of both directions: {report['capture'] or 'none'}")


def _wrapped(lead: str, text: str, colour: str = "", marked: int = 0) -> None:
    """Print `text` after `lead`, wrapped to the terminal; `marked` characters of `lead` (0: all) have the colour."""
    width = max(shutil.get_terminal_size().columns, 60)
    lines = textwrap.wrap(one_line(text), width - len(lead)) or [""]
    marked = marked or len(lead)
    head = click.style(lead[:marked], fg=colour) + lead[marked:] if colour else lead
    click.echo((head + lines[0]).rstrip())
    for line in lines[1:]:
        click.echo(" " * len(lead) + line)
