"""Lets every call of a scenario fail in turn: `python -m tests.injected.run [SCENARIO ...] [--at N ...] [--times K]`.

As SQLite is tested: the first call fails, then the second alone, and so on until a run has none left to fail.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

from tests import preload

HERE = Path(__file__).parent
SOURCE = HERE / "fail_call.c"
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE)


def child(library: Path, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run this module with the library preloaded."""
    env = {**os.environ, "LD_PRELOAD": str(library), "KFIX_INJECTED": str(folder)}
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.injected.run", *arguments]
    return subprocess.run(command, env=env, cwd=HERE.parents[1], capture_output=True, text=True, check=False)


def passed(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a child found nothing: what the interpreter only prints ("Exception ignored", SystemError) is a fault."""
    return done.returncode == 0 and not done.stderr


def inject(folder: Path, name: str, places: list[int], times: int) -> int:
    """Run one scenario with each of these calls failing (none: with every call in turn); the number of runs."""
    from tests.injected.scenarios import ALL, Injection

    runs = 0
    for first in places or count(1):
        own = folder / f"{name}-{first}"
        own.mkdir()
        print(f"{name}: call {first}", flush=True)
        injection = Injection(first, times, ERRORS[first % len(ERRORS)])
        ALL[name](own, injection)
        assert not places or injection.calls >= first, f"{name}: there is no call {first}, only {injection.calls}"
        shutil.rmtree(own)
        runs += 1
        if not places and injection.calls < first:
            break
    return runs


def main() -> None:
    """Run scenarios, each in a process of its own."""
    from tests.injected.scenarios import ALL

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=list(ALL))
    parser.add_argument("--at", type=int, nargs="*", default=[])
    parser.add_argument("--times", type=int, default=1)
    options = parser.parse_args()
    if folder := os.environ.get("KFIX_INJECTED"):
        logging.disable()  # every fault is logged
        for name in options.scenarios:
            print(f"{name}: {inject(Path(folder), name, options.at, options.times)} runs", flush=True)
        return
    failed = False
    with tempfile.TemporaryDirectory() as work:
        library = preload.library(SOURCE, Path(work))
        for name in options.scenarios:
            own = Path(work) / name
            own.mkdir()
            places = ["--at", *map(str, options.at)] if options.at else []
            done = child(library, own, [name, "--times", str(options.times), *places])
            failed |= not passed(done)
            print(done.stdout.splitlines()[-1] if done.stdout else name, "passed" if passed(done) else "failed")
            print(done.stderr, end="", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
