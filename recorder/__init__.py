"""Captures of market data in Parquet: what was recorded, what is missing, and the proof of both."""

import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
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
    feed: str | None = None,
    version: "int | str | datetime | None" = None,
    storage: "Mapping[str, str] | None" = None,
) -> "Captures":
    """Open captures for reading; also while they are being written.

    Warns of files of the last session dates that were recorded and are no longer there; see `Captures.missing`. Every
    question looks at the files of its own dates.

    Parameters
    ----------
    captures
        A captures directory, or several of feeds of the same venue: they are read as one, and what one lost is taken
        from another (see recorder.merged). A URL (s3://bucket/path) or a directory of Delta tables is a lake that
        `kfix lake push` has written: it is read at the version it has now, its feeds as several captures.
    copies
        Of a hot pair: "published" gives the one stream that readers saw, "both" the messages of both sessions. None is
        "published" where one of the last two session dates has a hot pair.
    feed, version, storage
        Of a lake: one of its feeds (all when None), the version of its table of ticks or a time (the newest when None),
        and options of the object store; see docs/lake.md.

    Raises
    ------
    UsageError
        When it is no captures directory.
    """
    if copies not in (None, "published", "both"):
        raise UsageError(f'copies is {copies!r}: use "published" or "both"')
    roots = list(captures) if not isinstance(captures, str | os.PathLike) else [captures]
    parts = [part for root in roots for part in _parts(root, feed, version, storage)]
    if not parts:
        raise UsageError("open needs at least one captures directory")
    for found in parts:
        for one in found.missing(found.dates()[-1:]):
            warnings.warn(f"{found.tree.root}: {one}: books after them are not trusted", stacklevel=2)
    several = len(parts) > 1 or not isinstance(captures, str | os.PathLike)
    paired = copies != "both" and bool(parts[0].pairs(None if copies == "published" else 2))
    if not (several or paired):
        return parts[0]
    from recorder.merged import Merged

    return Merged(parts)


def _parts(
    root: "str | os.PathLike[str]",
    feed: str | None,
    version: "int | str | datetime | None",
    storage: "Mapping[str, str] | None",
) -> "list[Captures]":
    """The captures of a directory, or those of each feed of a lake."""
    from recorder.catalog import Captures

    text = os.fspath(root)
    if "://" in text or os.path.isdir(os.path.join(text, "ticks", "_delta_log")):
        from recorder.lake_tree import trees

        return [Captures(tree) for tree in trees(text, feed=feed, version=version, storage=storage)]
    if (feed, version, storage) != (None, None, None):
        raise UsageError(f"{text} is no lake: feed, version and storage are of lakes")
    return [Captures(root)]
