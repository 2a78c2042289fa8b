"""Fixtures shared by all tests: the real captures (where they are present) and streams of our own."""

from __future__ import annotations

import fcntl
import gzip
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from kfix_md.log_output import LogOutput
from tests.oracle import Book, Follower, Message

ROOT = Path(__file__).resolve().parent.parent
CAPTURES = ("spot-l2", "derivatives-l2", "derivatives-l3")


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets the log up: not for the tests after it."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [handler for handler in root.handlers if isinstance(handler, LogOutput)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.fixture(scope="session")
def made_once(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Callable[[str, Callable[[Path], object]], Path]:
    """made_once(name, make) -> a folder that `make` has filled, in one worker for all of a run: not to be changed."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "made-once"
    root.mkdir(exist_ok=True)

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, done = root / name, root / f"{name}.done"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)  # of an attempt that failed
                path.mkdir()
                make(path)
                done.touch()
        return path

    return folder


def captures_folder() -> Path:
    """Where real captures are looked for: KFIX_CAPTURES, else ../shared/captures next to the project."""
    return Path(os.environ.get("KFIX_CAPTURES") or ROOT.parent / "shared" / "captures")


@lru_cache(len(CAPTURES))
def capture_bytes(name: str) -> bytes:
    """The plain bytes of one capture, such as "spot-l2"."""
    return gzip.decompress((captures_folder() / f"{name}.fix.gz").read_bytes())


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of real captures; the test is skipped where it is absent."""
    folder = captures_folder()
    if not all((folder / f"{name}.fix.gz").exists() for name in CAPTURES):
        pytest.skip("real captures are not here (set KFIX_CAPTURES)")
    return folder


@pytest.fixture(scope="session")
def capture(captures: Path) -> Callable[[str], bytes]:
    """capture("spot-l2") -> the plain bytes of that capture; the test is skipped where there are none."""
    return capture_bytes


@dataclass
class L3Oracle:
    """The oracle's reading of the L3 capture: its messages with entries, and the book at the end."""

    messages: list[Message]
    book: Book
    follower: Follower


@pytest.fixture(scope="session")
def l3_oracle(capture: Callable[[str], bytes]) -> L3Oracle:
    """The L3 capture followed by the oracle to its end, one 5041 in ten checked (a few seconds, once)."""
    messages: list[Message] = []
    seen = Follower(lambda message, book: messages.append(message) if book else None, verify_every=10)
    seen.feed(capture("derivatives-l3"))
    return L3Oracle(messages, seen.books["PF_ESUSD"], seen)
