"""Implements `kfix simulate`: starts a venue from options and prints one JSON line with its ports."""

import asyncio
import json
import logging
import signal
from pathlib import Path
from typing import Any

import click

from kfix_md.errors import UsageError
from kfix_md.log_output import set_up_logging
from kfix_md.services import PORT_BASE
from kfix_md.simulator import dialect
from kfix_md.simulator.habits import ANSWERS
from kfix_md.simulator.rollover import FORMS


def _speed(_context: click.Context, _option: click.Parameter, value: str) -> float:
    if value == "max":
        return 0.0
    try:
        speed = float(value)
    except ValueError:
        speed = 0.0
    if speed <= 0:
        raise click.BadParameter("a positive number, or max")
    return speed


def _vary(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    try:
        return dict(dialect.parse(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _clock(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    parts = value.split(":") if value else []
    if value and not (len(parts) == 3 and all(part.isdigit() and len(part) == 2 for part in parts)):
        raise click.BadParameter("HH:MM:SS, UTC")
    return value


@click.command()
@click.option(
    "--capture",
    "captures",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A recorded stream, .fix or .fix.gz; once for each service.",
)
@click.option("--symbols", type=click.IntRange(0), default=0, help="Generated symbols on each venue.")
@click.option(
    "--rate", type=click.FloatRange(0), default=100.0, show_default=True, help="Book changes a second on each service."
)
@click.option(
    "--orders",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    help="Orders resting on each side of a generated book, about.",
)
@click.option(
    "--rendered",
    type=click.IntRange(0),
    default=0,
    help="Play a market rendered beforehand, of this many steps a symbol: for very high rates.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port-base",
    type=click.IntRange(0, 65000),
    default=PORT_BASE,
    show_default=True,
    help="Spot L2; derivatives L2 is 2 above, derivatives L3 4, spot L3 5. 0: any free ports.",
)
@click.option("--tls-dir", type=click.Path(path_type=Path), help="Use TLS; certificates are made here.")
@click.option(
    "--tls", type=click.Choice(["1.3", "1.2"]), default="1.3", show_default=True, help="The only TLS version."
)
@click.option("--dead-host", default="", help="An address where TCP and TLS succeed and no Logon is answered.")
@click.option("--name", "names", multiple=True, help="Another host name or address in the certificate.")
@click.option("--faults", "script", type=click.Path(path_type=Path), help="A TOML file of faults and their times.")
@click.option("--control", type=click.Path(path_type=Path), help="Path of the control socket.")
@click.option("--rollover-at", callback=_clock, metavar="HH:MM:SS", help="Roll over every day at this UTC time.")
@click.option("--rollover-form", default="logout", show_default=True, type=click.Choice(FORMS))
@click.option(
    "--rollover-refuse",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds for which logons are refused after it.",
)
@click.option(
    "--replay",
    type=click.Choice(ANSWERS),
    default="replay",
    show_default=True,
    help="Answer to ResendRequests.",
)
@click.option(
    "--l3-rule",
    type=click.Choice(["order", "level"]),
    default="order",
    show_default=True,
    help="What 5041 covers on L3.",
)
@click.option(
    "--vary",
    multiple=True,
    callback=_vary,
    metavar="SWITCH=VALUE",
    help="Another habit of the venue, such as qty_form=padded; see docs/simulator.md.",
)
@click.option("--fragment", type=click.IntRange(1), default=500, show_default=True, help="Instruments in one 35=y.")
@click.option("--interleave", is_flag=True, help="Send an update between the fragments of an instrument list.")
@click.option(
    "--listing", type=click.IntRange(0), default=0, help="Instruments of each venue, those beyond --symbols empty."
)
@click.option("--stocks", type=click.IntRange(0), default=0, help="Tokenised stocks (167=TS on spot) of each venue.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the generated market.")
@click.option(
    "--speed",
    callback=_speed,
    default="1",
    show_default=True,
    help="Replay speed of captures; max: as fast as possible.",
)
@click.option("--seconds", type=click.FloatRange(0), default=0.0, help="End after this time; 0: when interrupted.")
@click.option("--json", "as_json", is_flag=True, help="At the end, print the statistics as JSON.")
@click.option("--verbose", is_flag=True, help="Log sessions and faults to stderr.")
def command(script: Path | None, seconds: float, as_json: bool, verbose: bool, **options: Any) -> None:
    """Play Kraken's four market data gateways from a capture or a generated market.

    Prints one JSON line with the ports when it is ready.
    """
    set_up_logging(as_json, level=logging.INFO if verbose else logging.WARNING)
    stats = _run(script, seconds, options)
    if as_json:
        click.echo(json.dumps(stats))


def _run(script: Path | None, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_main(script, seconds, options))
    return uvloop.run(_main(script, seconds, options))


async def _main(script: Path | None, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    from kfix_md.simulator import script as scripts
    from kfix_md.simulator.commands import Commands, serve
    from kfix_md.simulator.venue import Venue, VenueConfig

    plan = scripts.read(script) if script else []
    try:
        venue = Venue(VenueConfig(**options))
    except OSError as error:
        raise UsageError(str(error)) from None
    commands = Commands(venue)
    ready = await venue.start()
    server = await serve(commands, options["control"]) if options["control"] else None
    tasks = [asyncio.create_task(scripts.play(plan, commands))] if plan else []
    print(json.dumps(ready), flush=True)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    if seconds:
        loop.call_later(seconds, ended.set)
    await ended.wait()
    stats = commands.run({"cmd": "stats"})
    for task in tasks:
        task.cancel()
    venue.stop()
    if server:
        server.close()
        options["control"].unlink(missing_ok=True)
    return stats
