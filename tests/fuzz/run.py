"""Runs one fuzz target under atheris: `python -m tests.fuzz.run TARGET FOLDER [libFuzzer options]` (`make fuzz`)."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kfix_md", "recorder"]):
    from tests.fuzz.targets import TARGETS


OPTIONS = ["-timeout=60", "-rss_limit_mb=4096"]  # an instrumented interpreter on a busy machine


def main() -> None:
    """Fuzz until a limit of libFuzzer is reached; new inputs, and those that fail, go to FOLDER."""
    name, folder, *options = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    corpus = Path(__file__).with_name("corpus") / name
    failed = f"-artifact_prefix={folder}/"
    atheris.Setup([sys.argv[0], failed, *OPTIONS, *options, folder, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
