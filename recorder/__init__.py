"""Captures of market data in Parquet: what was recorded, what is missing, and the proof of both."""

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from kfix_md.errors import UsageError
from recorder.schema import Flags

if TYPE_CHECKING:
    from recorder.catalog import Captures

__all__ = ["Flags", "open"]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})  # what TAB offers


def open(
    captures: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]",
    *,
    copies: 'Literal["published", "both"] | None' = None,
) -> "Captures":
    """Open captures for reading; also while they are being written.

    Warns of files of the last session dates that were recorded and are no longer there; see `Captures.missing`. Every
    question looks at the files of its own dates.

    Parameters
    ----------
    captures
        A captures directory, or several of feeds of the same venue: they are read as one, and what one lost is taken
        from another (see recorder.merged).
    copies
        Of a hot pair: "published" gives the one stream that readers saw, "both" the messages of both sessions. None is
        "published" where one of the last two session dates has a hot pair.

    Raises
    ------
    UsageError
        When it is no captures directory.
    """
    from recorder.catalog import Captures
    from recorder.merged import Merged

    if copies not in (None, "published", "both"):
        raise UsageError(f'copies is {copies!r}: use "published" or "both"')
    several = not isinstance(captures, str | os.PathLike)
    roots = list(captures) if not isinstance(captures, str | os.PathLike) else [captures]
    parts = [Captures(root) for root in roots]
    if not parts:
        raise UsageError("open needs at least one captures directory")
    for found in parts:
        for one in found.missing(found.dates()[-1:]):
            warnings.warn(f"{found.tree.root}: {one}: books after them are not trusted", stacklevel=2)
    paired = copies != "both" and bool(parts[0].pairs(None if copies == "published" else 2))
    return Merged(parts) if several or paired else parts[0]
