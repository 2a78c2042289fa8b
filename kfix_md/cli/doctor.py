"""`kfix doctor`: prints the findings about a configuration and returns the exit status."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import click

from kfix_md.symbol_text import one_line

_COLOUR = {"ok": "green", "warn": "yellow", "FAIL": "red"}


@click.command()
@click.argument("config", type=click.Path(), required=False)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the configuration file and end.")
@click.option("--json", "as_json", is_flag=True, help="Findings as one JSON object.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.5),
    default=8.0,
    show_default=True,
    help="Seconds a service may take to log on.",
)
def command(config: str | None, schema: bool, as_json: bool, timeout: float) -> None:
    """Check CONFIG.toml and all it depends on: directories, DNS, TLS, certificate, CompIDs, clock, symbols.

    Logs on to each service and requests its instruments, unless a feed with these CompIDs is running.
    Exit status 0: the feed will work (warnings included); 2: something has to be corrected first.
    """
    if schema:
        from kfix_md.config import schema as config_schema

        click.echo(json.dumps(config_schema(), indent=1))
        return
    if config is None:
        raise click.UsageError("Missing argument 'CONFIG'.")
    raise SystemExit(report(config, as_json, timeout))


def report(config: str, as_json: bool, timeout: float = 8.0) -> int:
    """Print the findings; returns the exit status."""
    from kfix_md.feed.doctor import FAIL, WARN, examine

    log = logging.getLogger("kfix.feed")
    log.propagate = False  # the findings contain the warnings
    try:
        findings = examine(config, timeout)
    finally:
        log.propagate = True
    bad = sum(finding.status == FAIL for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not bad, "findings": [asdict(finding) for finding in findings]}, indent=1))
        return 2 if bad else 0
    for finding in findings:
        status = click.style(f"{finding.status:<5}", fg=_COLOUR[finding.status])
        click.echo(f"{status} {finding.about:<15} {one_line(finding.text)}")
    warned = sum(finding.status == WARN for finding in findings)
    click.echo(f"{bad} failed, {warned} warnings, {len(findings) - bad - warned} ok")
    return 2 if bad else 0
