"""Runs the `kfix simulate` command alone, as `python -m kfix_md.simulator`."""

import sys

from kfix_md.errors import UsageError
from kfix_md.simulator.cli import command

if __name__ == "__main__":
    try:
        command()
    except UsageError as error:
        print(f"kfix: {error}", file=sys.stderr)
        sys.exit(2)
