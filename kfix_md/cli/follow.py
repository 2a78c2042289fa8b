"""`kfix follow`: publishes the books of a journal."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from kfix_md.log_output import set_up_logging


def _mode(_context: click.Context, _option: click.Parameter, text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no octal number such as 640") from None


@click.command()
@click.argument("journal", type=click.Path(path_type=Path))
@click.option("--feed", "name", default="follow", envvar="KFIX_FEED", show_default=True, help="Name to publish under.")
@click.option("--directory", default="/dev/shm", envvar="KFIX_SHM_DIR", show_default=True, help="Of the shared memory.")
@click.option("--mode", default="600", callback=_mode, show_default=True, help="Permissions of the shared memory.")
@click.option("--symbols", type=click.IntRange(1), default=4096, show_default=True, help="Room for so many books.")
@click.option(
    "--max-lag",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    help="Books this many seconds old are LAGGING.",
)
@click.option("--json", "as_json", is_flag=True, help="Log lines as JSON objects.")
@click.option("-v", "--verbose", is_flag=True, help="Log details as well.")
def command(
    journal: Path, name: str, directory: str, mode: int, symbols: int, max_lag: float, as_json: bool, verbose: bool
) -> int:
    """Publish the books of JOURNAL, the directory in which a feed records, in shared memory.

    The books are made by the same decoder from the same bytes as those of the feed, and have the same states. They are
    STALE while the feed does not run. It begins with the last Logon of each session and runs until SIGTERM or Ctrl-C.
    """
    set_up_logging(as_json, logging.DEBUG if verbose else logging.INFO)
    from kfix_md.feed.follow import run

    return run(journal, name, directory, mode, max_lag_s=max_lag, capacity=symbols)
