"""The `kfix` command: which subcommands exist, that each is loaded only when used, and how errors end."""

from __future__ import annotations

import difflib
import importlib
import sys

from kfix_md import __version__
from kfix_md.errors import KfixError, UsageError

try:
    import click
except ImportError:  # a polling script's installation has no command line
    click = None  # type: ignore[assignment]

#: command -> (module, attribute, help of the overview)
COMMANDS = {
    "simulate": ("kfix_md.simulator.cli", "command", "Run a venue of your own: four FIX services over TLS."),
    "feed": ("kfix_md.cli.feed", "command", "Run the feed: sessions, books, shared memory, journal."),
    "record": ("recorder.cli", "record", "Turn the journal into Parquet."),
    "top": ("kfix_md.cli.top", "command", "One row per symbol of the running feed."),
    "ladder": ("kfix_md.cli.ladder", "command", "The book of one symbol, live."),
    "inspect": (
        "kfix_md.cli.inspect",
        "command",
        "Run a raw FIX stream or a FIX log through decoder and books, offline.",
    ),
    "verify": ("recorder.cli", "verify", "Prove that a capture is complete and right."),
    "report": ("recorder.cli", "report", "One HTML page about a recorded day."),
    "journal": ("recorder.cli", "journal", "Look into the raw journal."),
    "compact": ("recorder.cli", "compact", "Cluster finished days by symbol."),
    "probe": ("kfix_md.cli.probe", "command", "Find out what a real gateway does, politely."),
    "doctor": ("kfix_md.cli.doctor", "command", "Check a configuration against the world, in plain words."),
}


def _group():
    class LazyGroup(click.Group):
        def list_commands(self, ctx):
            return list(COMMANDS)

        def get_command(self, ctx, name):
            if name not in COMMANDS:
                near = difflib.get_close_matches(name, COMMANDS, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "see kfix --help"
                raise UsageError(f"no command '{name}'; {hint}")
            module, attribute, _ = COMMANDS[name]
            try:
                return getattr(importlib.import_module(module), attribute)
            except ModuleNotFoundError as error:
                raise UsageError(_missing_module(name, error)) from None

        def format_commands(self, ctx, formatter):
            with formatter.section("Commands"):
                formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    @click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(version=__version__, prog_name="kfix")
    def kfix() -> None:
        """Kraken's FIX 4.4 market data: verified books in shared memory, complete captures in Parquet.

        Exit status: 0 it is so, 1 the check failed, 2 something has to be put right first.
        """

    return kfix


def _missing_module(command: str, error: ModuleNotFoundError) -> str:
    name = error.name or ""
    if name.split(".")[0] in ("kfix_md", "recorder"):
        return f"{command}: this installation has no '{name}'; install kfix-md again"
    extra = "simulator,operator" if command == "simulate" else "operator"
    return f"{command} needs the package '{name}': pip install 'kfix-md[{extra}]'"


def main(argv: list[str] | None = None) -> None:
    """Entry point of `kfix`: runs a command; every error the user can fix is one line and exit status 2."""
    if click is None:
        print("kfix: the command line needs 'click': pip install 'kfix-md[operator]'", file=sys.stderr)
        raise SystemExit(2)
    try:
        status = _group().main(args=argv, prog_name="kfix", standalone_mode=False)
    except click.exceptions.Abort:
        raise SystemExit(130) from None
    except click.UsageError as error:
        where = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        _die(f"{error.format_message()}{where}")
    except click.ClickException as error:
        _die(error.format_message())
    except (UsageError, KfixError) as error:
        _die(str(error))
    except BrokenPipeError:  # `kfix ... | head`
        sys.stderr.close()
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(status if isinstance(status, int) else 0)


def _die(message: str) -> None:
    print("kfix: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)
