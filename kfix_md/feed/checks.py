"""Checks of what the configuration refers to, made before the feed opens anything: secrets and directories."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from kfix_md.config import Config
from kfix_md.errors import UsageError, reason_of
from kfix_md.shm.owners import make_own_directory


def read_secret(reference: str) -> str:
    """Value of the secret at "env:NAME" or "file:PATH"; UsageError when there is none, or all users may read it."""
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = os.environ.get(where, "")
        if not value:
            raise UsageError(f"environment variable {where} is not set; api_key/api_secret refer to it")
        return value
    try:
        with Path(where).expanduser().open() as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & stat.S_IRWXO:
                raise UsageError(f"{where}: secret may be read by every user (mode {mode:04o}): chmod o= {where}")
            return file.read().strip()
    except OSError as error:
        raise UsageError(f"{where}: secret cannot be read: {reason_of(error)}") from error


def check_writable(directory: Path, key: str, create: bool = True) -> None:
    """Create and delete a file in a directory; UsageError naming `key` when that fails."""
    try:
        if create:
            directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory, prefix=".kfix-check-"):  # without a name that a kill would leave
            pass
    except OSError as error:
        message = f"{key} = {directory}: cannot write there ({reason_of(error, lower=True)}); choose another or fix it"
        raise UsageError(message) from error


def check_directories(config: Config) -> None:
    """Check the directories without which a feed cannot serve; the journal's is checked when it is opened."""
    check_writable(make_own_directory(config.feed.directory, config.feed.mode), "feed.directory", create=False)
