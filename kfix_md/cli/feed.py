"""`kfix feed`: starts the feed process and formats its log."""

from __future__ import annotations

import json
import logging
import sys
import time

import click

from kfix_md.symbol_text import one_line

_MARK = {logging.WARNING: "! ", logging.ERROR: "!! ", logging.CRITICAL: "!! "}


class _Human(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.gmtime(record.created))
        service = getattr(record, "service", "")
        mark = _MARK.get(record.levelno, "")
        text = f"{clock}.{int(record.msecs):03d} {service:<15}{mark}{one_line(record.getMessage())}"
        return text + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time_ns": int(record.created * 1e9),
            "level": record.levelname.lower(),
            "service": getattr(record, "service", None),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(as_json: bool, verbose: bool = False) -> None:
    """Log to stderr, as text or as JSON objects; times in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Human())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)


@click.command()
@click.argument("config", type=click.Path())
@click.option("--check", is_flag=True, help="Only check, as `kfix doctor` does.")
@click.option("--service", help='Run this service alone, as one process of processes = "per-service".')
@click.option("--json", "as_json", is_flag=True, help="Log lines as JSON objects.")
@click.option("-v", "--verbose", is_flag=True, help="Log details as well.")
def command(config: str, check: bool, service: str | None, as_json: bool, verbose: bool) -> int:
    """Run the feed of CONFIG.toml: sessions, books, shared memory, journal, metrics.

    It runs until SIGTERM or Ctrl-C and reconnects for ever. SIGHUP reads the symbols of CONFIG again.
    It ends with status 2 only for what a person has to change, such as a certificate that does not
    verify at the very first connection; a port that refuses is tried again until it answers.
    """
    if check:
        from kfix_md.cli.doctor import report

        raise SystemExit(report(config, as_json))
    set_up_logging(as_json, verbose)
    from kfix_md.feed.process import run
    from kfix_md.journal.files import close_to_others

    close_to_others()
    options = [*(["--json"] if as_json else []), *(["--verbose"] if verbose else [])]
    return run(config, service, options)
