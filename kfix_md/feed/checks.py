"""Checks of what the configuration refers to, made before the feed opens anything: secrets and directories."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from kfix_md.config import Config
from kfix_md.errors import UsageError
from kfix_md.shm.owners import make_own_directory


def read_secret(reference: str) -> str:
    """Value of the secret at "env:NAME" or "file:PATH"; UsageError when there is none."""
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = os.environ.get(where, "")
        if not value:
            raise UsageError(f"environment variable {where} is not set; api_key/api_secret refer to it")
        return value
    try:
        return Path(where).expanduser().read_text().strip()
    except OSError as error:
        raise UsageError(f"{where}: secret cannot be read: {error.strerror}") from None


def check_writable(directory: Path, key: str, create: bool = True) -> None:
    """Create and delete a file in a directory; UsageError naming `key` when that fails."""
    try:
        if create:
            directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory, prefix=".kfix-check-"):  # without a name that a kill would leave
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        message = f"{key} = {directory}: cannot write there ({reason}); choose another or fix it"
        raise UsageError(message) from error


def check_directories(config: Config) -> None:
    """Check the directories without which a feed cannot serve; the journal's is checked when it is opened."""
    check_writable(make_own_directory(config.feed.directory, config.feed.mode), "feed.directory", create=False)
