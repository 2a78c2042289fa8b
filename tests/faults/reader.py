"""Polls a book without a pause, whatever happens to its feed: SEGMENT."""

import sys
from pathlib import Path

from kfix_md import attach
from kfix_md.errors import KfixError


def main() -> None:
    """Poll until killed."""
    path, book = Path(sys.argv[1]), None
    while True:
        try:
            book = book or attach(path=path, reconnect=True)["BTC/USD"]
            book.top()
        except KfixError:
            continue


main()
