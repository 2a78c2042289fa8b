"""`kfix feed`: starts the feed process."""

from __future__ import annotations

import faulthandler
import logging

import click

from kfix_md.log_output import set_up_logging


@click.command()
@click.argument("config", type=click.Path())
@click.option("--check", is_flag=True, help="Only check, as `kfix doctor` does.")
@click.option("--service", help='Run this service alone, as one process of processes = "per-service".')
@click.option("--json", "as_json", is_flag=True, help="Log lines as JSON objects.")
@click.option("--trace-stalls", is_flag=True, help="Log what holds the loop up, and why; SIGUSR2 logs a report.")
@click.option("--stall-ms", type=click.FloatRange(0.1), default=1.0, show_default=True, help="What counts as a stall.")
@click.option("-v", "--verbose", is_flag=True, help="Log details as well.")
def command(
    config: str, check: bool, service: str | None, as_json: bool, trace_stalls: bool, stall_ms: float, verbose: bool
) -> int:
    """Run the feed of CONFIG.toml: sessions, books, shared memory, journal, metrics.

    It runs until SIGTERM or Ctrl-C and reconnects for ever. SIGHUP reads the symbols of CONFIG again.
    It ends with status 2 only for what a person has to change, such as a certificate that does not
    verify at the very first connection; a port that refuses is tried again until it answers.
    """
    if check:
        from kfix_md.cli.doctor import report

        raise SystemExit(report(config, as_json))
    set_up_logging(as_json, logging.DEBUG if verbose else logging.INFO)
    from kfix_md.feed.process import run
    from kfix_md.journal.files import close_to_others

    close_to_others()
    faulthandler.enable(2)  # a watchdog ends a loop that does not go round with SIGABRT: where was it?
    options = [*(["--json"] if as_json else []), *(["--verbose"] if verbose else [])]
    if trace_stalls:
        options += ["--trace-stalls", "--stall-ms", str(stall_ms)]
    return run(config, service, options, int(stall_ms * 1e6) if trace_stalls else 0)
