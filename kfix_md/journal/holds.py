"""Positions of a journal that its other readers hold: segments from the lowest on are not deleted."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kfix_md.errors import CaptureError
from kfix_md.journal import files

_SUFFIX = ".hold"


class Hold:
    """What one reader of a journal still needs, kept in a file of the journal's directory.

    It lasts until `release`, also while the reader does not run: a reader that is down has to find its segments.

    Attributes
    ----------
    position : int
        From here on everything is held; 0 holds the whole journal.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str) -> None:
        self._path = Path(directory) / (name + _SUFFIX)
        self.position = _position(self._path) if self._path.exists() else -1

    def move(self, position: int) -> None:
        """Hold from `position` on; going back is no use, since segments may be gone, and is ignored."""
        if position > self.position:
            _write(self._path, f"{position:#x}\n")
            self.position = position

    def release(self) -> None:
        """Hold nothing any more."""
        self._path.unlink(missing_ok=True)
        self.position = -1


def held_from(directory: str | os.PathLike[str]) -> int | None:
    """The lowest position that a reader holds; None where there is no such reader.

    A hold that cannot be read holds everything.
    """
    positions = [_position(path) for path in Path(directory).glob("*" + _SUFFIX)]
    return min(positions, default=None)


def _position(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"), 16)
    except (OSError, ValueError):
        return 0


def identity(directory: str | os.PathLike[str], given: str | None = None) -> str:
    """Identity of a journal, made when it is first asked for: replicas have that of their source.

    Parameters
    ----------
    given : str, optional
        Identity that a directory without one gets.

    Raises
    ------
    CaptureError
        The file is there and holds none.
    """
    path = Path(directory) / "id"
    if not path.exists():
        _write(path, (given or secrets.token_hex(8)) + "\n")
    text = path.read_text(encoding="ascii").strip()
    if not text.isalnum():
        raise CaptureError(f"{path} does not have the identity of a journal: restore it from a backup")
    return text


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    files.sync(path.parent)
