"""The commands over a lake: captures pushed to Delta tables on an object store or in a directory."""

import json
import logging
import re
import signal
import threading
from pathlib import Path

import click

from kfix_md.errors import UsageError
from kfix_md.log_output import set_up_logging
from recorder.cli import CAPTURES

_UNITS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh]?)$")


class _Seconds(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """60s, 5m or a number of seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.match(str(value))
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value!r}: use 60s, 5m or a number of seconds", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "s"]


@click.group()
def lake() -> None:
    """Captures as Delta tables on an object store: push."""


@lake.command()
@CAPTURES
@click.argument("url")
@click.option("--every", type=_Seconds(), default=None, help="Push again and again, such as every 60s; once without.")
@click.option("--feed", default=None, help="Name of the feed in the lake; else the one its rows name.")
@click.option("--take-over", is_flag=True, help="Write this feed from now on although other captures did.")
@click.option("--storage", multiple=True, metavar="KEY=VALUE", help="Option of the object store, such as aws_endpoint.")
@click.option("--json", "as_json", is_flag=True, help="Log lines and totals as JSON objects.")
def push(
    captures: Path,
    url: str,
    every: float | None,
    feed: str | None,
    take_over: bool,
    storage: tuple[str, ...],
    as_json: bool,
) -> None:
    """Put finished files of CAPTURES into the Delta tables under URL, unchanged; also while they are recorded.

    URL is s3://bucket/path or a local directory. Credentials and endpoint come from the AWS_* variables
    (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP) or from --storage.

    \b
    kfix lake push captures s3://market-data/kraken
    kfix lake push captures s3://market-data/kraken --every 60s
    kfix lake push captures /mnt/lake --feed tokyo

    Exit status: 0 pushed, 1 the lake or the captures did not allow it, 2 wrong usage.
    """
    from recorder.lake import Lake
    from recorder.lake_push import Push, rounds

    set_up_logging(as_json)
    job = Push(captures, Lake(url, _options(storage)), feed=feed, take_over=take_over)
    try:
        if every is None:
            done = job.run()
            click.echo(json.dumps(vars(done)) if as_json else str(done))
            return
        stop = threading.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda number, frame: stop.set())
        logging.getLogger("kfix.lake").info("pushing %s to %s every %.0f s", captures, job.lake.url, every)
        for _ in rounds(job, every, stop.wait):
            pass
    finally:
        job.close()


def _options(storage: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE pairs as a dict."""
    found = {}
    for one in storage:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise UsageError(f"--storage {one!r}: use KEY=VALUE, such as aws_endpoint=http://localhost:9000")
        found[key] = value
    return found
