"""Captures of market data in Parquet: what was recorded, what is missing, and the proof of both."""

import warnings
from typing import TYPE_CHECKING

from recorder.schema import Flags

if TYPE_CHECKING:
    import os

    from recorder.catalog import Captures

__all__ = ["Flags", "open"]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})  # what TAB offers


def open(captures: "str | os.PathLike[str]") -> "Captures":
    """Open a captures directory for reading; also while it is being written.

    Warns of files of the last session dates that were recorded and are no longer there; see `Captures.missing`. Every
    question looks at the files of its own dates.

    Raises
    ------
    UsageError
        When it is no captures directory.
    """
    from recorder.catalog import Captures

    found = Captures(captures)
    for one in found.missing(found.dates()[-1:]):
        warnings.warn(f"{found.tree.root}: {one}: books after them are not trusted", stacklevel=2)
    return found
