"""The `kfix` command: its subcommands, loaded when used, and how errors end."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any

from kfix_md import __version__
from kfix_md.errors import KfixError, Mistakes, UsageError, may_pass, reason_of
from kfix_md.symbol_text import one_line

#: command -> (module, attribute, help of the overview)
COMMANDS = {
    "simulate": ("kfix_md.simulator.cli", "command", "Simulate the venue: four FIX services over TLS."),
    "feed": ("kfix_md.cli.feed", "command", "Run the feed: sessions, books, shared memory, journal."),
    "follow": ("kfix_md.cli.follow", "command", "Publish the books of a journal: of a feed here, or of a replica."),
    "ship": ("kfix_md.cli.ship", "command", "Send the journal to a NATS broker."),
    "mirror": ("kfix_md.cli.mirror", "command", "Store the journal of a feed on this machine, from a NATS broker."),
    "record": ("recorder.cli", "record", "Turn the journal into Parquet."),
    "top": ("kfix_md.cli.top", "command", "One row per symbol of the running feed."),
    "ladder": ("kfix_md.cli.ladder", "command", "The book of one symbol, live."),
    "inspect": (
        "kfix_md.cli.inspect",
        "command",
        "Run a raw FIX stream or a FIX log through decoder and books, offline.",
    ),
    "verify": ("recorder.cli", "verify", "Prove that a capture is complete and correct."),
    "report": ("recorder.cli", "report", "Report on a recorded day as one HTML page."),
    "journal": ("recorder.cli", "journal", "Inspect the raw journal."),
    "compact": ("recorder.cli", "compact", "Cluster finished days by symbol."),
    "lake": ("recorder.lake_cli", "lake", "Captures as Delta tables on an object store."),
    "probe": ("kfix_md.cli.probe", "command", "Find out what a real gateway does, politely."),
    "doctor": ("kfix_md.cli.doctor", "command", "Check a configuration against machine, network and venue."),
}


#: command -> what people run it for; shown at the end of its help
EXAMPLES = {
    "simulate": (
        "simulate --symbols 20 --rate 2000",
        "simulate --symbols 5 --port-base 0 --tls-dir tls --control control.sock",
        "simulate --capture spot-l2.fix.gz --speed max",
    ),
    "feed": ("feed feed.toml", "feed --json feed.toml", "feed --check feed.toml"),
    "follow": ("follow journal", "follow /var/lib/kfix/journal --feed copy"),
    "ship": ("ship feed.toml", "ship feed.toml --once"),
    "mirror": ("mirror mirror.toml", "mirror nats://host:4222/default --directory replica --publish copy"),
    "record": ("record feed.toml", "record feed.toml --once --json"),
    "top": ("top", "top BTC --sort rate/s", "top --feed uat --once --json"),
    "ladder": ("ladder BTC/USD", "ladder PF_XBTUSD --level L3 -n 20", "ladder BTC/USD --feed uat --once"),
    "inspect": ("inspect stream.fix.gz", "inspect fix.log --json"),
    "verify": ("verify captures", "verify feed.toml --date 2026-11-20"),
    "report": ("report captures", "report captures 2026-11-20 -o day.html"),
    "journal": (
        "journal ls feed.toml",
        "journal cat feed.toml --start 2026-11-20T21:59 --end 2026-11-20T22:01",
        "journal grep feed.toml 35=y",
        "journal export feed.toml day.pcap",
    ),
    "lake": ("lake push captures s3://market-data/kraken", "lake push captures /mnt/lake --every 60s"),
    "compact": ("compact captures", "compact captures --date 2026-11-20", "compact captures --json"),
    "probe": ("probe uat.toml", "probe uat.toml --through-rollover"),
    "doctor": ("doctor feed.toml", "doctor feed.toml --json", "doctor --schema"),
}


def _group() -> Any:
    import click

    class LazyGroup(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(COMMANDS)

        def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
            if name not in COMMANDS:
                near = difflib.get_close_matches(name, COMMANDS, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "see kfix --help"
                raise UsageError(f"no command '{name}'; {hint}")
            module, attribute, _ = COMMANDS[name]
            try:
                command: click.Command = getattr(importlib.import_module(module), attribute)
                command.epilog = "\b\nExamples:\n" + "\n".join(f"  kfix {example}" for example in EXAMPLES[name])
                return command
            except ModuleNotFoundError as error:
                raise UsageError(_missing_module(name, error)) from None

        def invoke(self, ctx: click.Context) -> Any:
            try:
                status = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return status
            except BrokenPipeError:  # `kfix ... | head`: click would end with 1, which means something else here
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                raise SystemExit(0) from None

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    @click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
    @click.option(
        "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Versions."
    )
    def kfix() -> None:
        """Kraken's FIX 4.4 market data: verified books in shared memory, complete captures in Parquet.

        Exit status: 0 success, 1 check failed, 2 usage or configuration error.
        """

    return kfix


def _print_version(context: Any, _option: Any, wanted: bool) -> None:
    if wanted:
        print(version_text())
        context.exit()


def version_text() -> str:
    """The version, and what a report of a fault has to name: interpreter, machine, layouts, packages."""
    import platform
    import ssl
    from importlib.metadata import PackageNotFoundError, version

    from kfix_md._book import crc_uses_clmul
    from kfix_md._codec import SIMD
    from kfix_md.journal import layout as journal
    from kfix_md.shm import layout as segment
    from recorder.schema import VERSION as PARQUET_VERSION

    packages = []
    for name in ("numpy", "pyarrow", "uvloop", "aiofastnet", "pydantic", "prometheus-client", "zstandard"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"{name} absent")
    system = f"{platform.system()} {platform.release()} {platform.machine()}, {' '.join(platform.libc_ver())}"
    return "\n".join(
        (
            f"kfix, version {__version__}",
            f"Python {platform.python_version()} ({platform.python_compiler()}), {ssl.OPENSSL_VERSION}",
            system,
            f"layouts: shared memory {segment.number()}, journal {journal.VERSION}, Parquet schema {PARQUET_VERSION}",
            f"instruction set: {SIMD}, checksums of books by {'carry-less products' if crc_uses_clmul() else 'table'}",
            ", ".join(packages),
        )
    )


def _missing_module(command: str, error: ModuleNotFoundError) -> str:
    name = error.name or ""
    if name.split(".")[0] in ("kfix_md", "recorder"):
        return f"{command}: this installation has no '{name}'; install kfix-md again"
    extra = "simulator,operator" if command == "simulate" else "operator"
    return f"{command} needs the package '{name}': pip install 'kfix-md[{extra}]'"


def main(argv: list[str] | None = None) -> None:
    """Entry point of `kfix`. Each error is a line on stderr; exit status 2, or 1 for what time may cure."""
    _open_standard_descriptors()
    try:
        import click
    except ImportError:  # installed without the extra "operator"
        print("kfix: the command line needs 'click': pip install 'kfix-md[operator]'", file=sys.stderr)
        raise SystemExit(2) from None
    if not (sys.argv[1:] if argv is None else argv):
        argv = ["--help"]
    die = _die_as_json if "--json" in (sys.argv[1:] if argv is None else argv) else _die
    try:
        status = _group().main(args=argv, prog_name="kfix", standalone_mode=False)
    except click.exceptions.Abort:
        raise SystemExit(130) from None
    except getattr(click.exceptions, "NoArgsIsHelpError", ()) as error:  # `kfix journal`; of click 8.2
        click.echo(error.format_message(), err=True)
        raise SystemExit(2) from None
    except click.UsageError as error:
        where = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        die(f"{error.format_message()}{where}")
    except click.ClickException as error:
        die(error.format_message())
    except Mistakes as error:
        die(*error.lines)
    except (UsageError, KfixError) as error:
        die(str(error), status=_status(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:  # a path without permission, a disk that fails
        if error.filename is None:
            raise
        die(f"{error.filename}: {reason_of(error, lower=True)}", status=_status(error))
    raise SystemExit(status if isinstance(status, int) else 0)


def _status(error: Exception) -> int:
    """2 for what a person has to change, after which a service manager does not start a process again; else 1."""
    return 1 if may_pass(error) else 2


def _open_standard_descriptors() -> None:
    """Open /dev/null where stdin, stdout or stderr were closed: else the first files we open, a journal or a session's
    socket, would have those numbers, and log lines would go into them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _die_as_json(*messages: str, status: int = 2) -> None:
    """As `_die`, with the fields of a log line, for a collector that reads every line of stderr as JSON."""
    import logging

    from kfix_md.log_output import Json

    for message in messages:
        record = logging.LogRecord("kfix", logging.CRITICAL, __file__, 0, "%s", (" ".join(message.split()),), None)
        record.event = "fatal"
        print(Json().format(record), file=sys.stderr)
    raise SystemExit(status)


def _die(*messages: str, status: int = 2) -> None:
    for message in messages if sys.stderr is not None else ():  # it was closed
        print("kfix: " + one_line(" ".join(message.split())), file=sys.stderr)
    raise SystemExit(status)
