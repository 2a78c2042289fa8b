"""Names and paths of segments, those of a feed with one process per service included."""

from __future__ import annotations

import os
from pathlib import Path

from kfix_md.services import SERVICES

#: A segment file is named PREFIX + the feed's name.
PREFIX = "kfix-md."
#: Name of the feed that a replay plays, in a directory of its own.
REPLAY = "replay"


def default_directory() -> Path:
    """Where readers look for shared memory: $KFIX_SHM_DIR, else /dev/shm."""
    return Path(os.environ.get("KFIX_SHM_DIR") or "/dev/shm")


def segment_path(directory: str | os.PathLike[str], name: str) -> Path:
    """Path of the segment of the feed called `name`."""
    return Path(directory) / (PREFIX + name)


def feed_name(path: Path) -> str:
    """Name of the feed whose segment is at `path`."""
    return path.name.removeprefix(PREFIX)


def part_name(name: str, service: str) -> str:
    """Name of the segment of one service of a feed with one process per service: "default.spot-l2"."""
    return f"{name}.{service}"


def split_part(name: str) -> tuple[str, str]:
    """("default", "spot-l2") for "default.spot-l2"; the second is "" for the name of a whole feed."""
    for service in SERVICES:
        if name.endswith("." + service):
            return name.removesuffix("." + service), service
    return name, ""


def part_paths(path: Path) -> dict[str, Path]:
    """Path of the segment of each service, if the feed at `path` has one process per service."""
    return {service: path.with_name(part_name(path.name, service)) for service in SERVICES}


def parts_of(path: Path) -> list[Path]:
    """Existing segments of the services of the feed at `path`."""
    return [part for part in part_paths(path).values() if os.path.lexists(part)]
