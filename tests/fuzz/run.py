"""Runs one fuzz target under atheris: `python -m tests.fuzz.run TARGET [libFuzzer options] [folders]`."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kfix_md"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer's limits are reached; new inputs go to the first folder named."""
    name, *options = sys.argv[1:]
    corpus = Path(__file__).with_name("corpus") / name
    folders = [option for option in options if not option.startswith("-")]
    found = Path(folders[0]) if folders else Path("build/fuzz-found", name)
    found.mkdir(parents=True, exist_ok=True)
    flags = [option for option in options if option.startswith("-")]
    atheris.Setup([sys.argv[0], *flags, str(found), str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
