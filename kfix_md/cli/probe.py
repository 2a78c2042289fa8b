"""`kfix probe`: prints what a real gateway does where its documentation is silent."""

from __future__ import annotations

import json
from pathlib import Path

import click


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

    reports = asyncio.run(
        probe(load(config), symbols=symbols, seconds=seconds, through_rollover=through_rollover, folder=output)
    )
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
        click.echo(click.style(f"  ended early: {report['problem']}", fg="red"))
    for row in report["assumptions"]:
        mark, colour = _MARKS[row["as_expected"]]
        click.echo(f"  {click.style(f'{mark:<8}', fg=colour)} {row['assumption']:<19} {row['seen']}")
        if row["as_expected"] is False:
            click.echo(f"  {'':<8} {'':<19} expected: {row['expected']}; setting: {row['setting']}")
    click.echo(f"  sent {len(report['sent'])} messages; frames saved as {report['capture'] or '-'}")
