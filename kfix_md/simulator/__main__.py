"""`python -m kfix_md.simulator`: the same as `kfix simulate`, without the rest of the command line."""

import sys

from kfix_md.errors import UsageError
from kfix_md.simulator.cli import command

if __name__ == "__main__":
    try:
        command()
    except UsageError as error:
        print(f"kfix: {error}", file=sys.stderr)
        sys.exit(2)
