"""Captures of market data in Parquet: what was recorded, what is missing, and the proof of both."""

from typing import TYPE_CHECKING

from recorder.schema import Flags

if TYPE_CHECKING:
    import os

    from recorder.catalog import Captures

__all__ = ["Flags", "open"]


def open(captures: "str | os.PathLike[str]") -> "Captures":
    """Open a captures directory for reading; also while it is being written. UsageError when it is none."""
    from recorder.catalog import Captures

    return Captures(captures)
