"""Processes that one of ours starts: how they find their modules, that they end with it, and how they ended."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_TREE = Path(__file__).resolve().parents[1]
_PR_SET_PDEATHSIG = 1


def python(*arguments: str) -> list[str]:
    """The command line of this interpreter with `arguments`, such as "-m", "kfix_md", "follow", "journal".

    For -m and -c the interpreter looks for modules in the working directory first. A file there that is called as a
    module of Python (`token.py`) would be run in its place, so that directory is left out (-P), unless we are in it.
    """
    try:
        inside = os.path.samefile(".", _TREE)
    except OSError:  # the working directory was deleted
        inside = False
    return [sys.executable, *([] if inside else ["-P"]), *arguments]


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Send this process a signal when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def ending(status: int) -> str:
    """How a process ended, by its status as subprocess has it."""
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
