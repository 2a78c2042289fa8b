"""requirements/tested.txt is a whole set for pyproject.toml, with a hash for every file that may be installed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = re.findall(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.M)[0].split()
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)((?: ; [^\\\n]+)?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)


def locked() -> dict[str, str]:
    """name -> version; every line of the file belongs to one."""
    text = (ROOT / "requirements" / "tested.txt").read_text()
    found = LOCKED.findall(text)
    assert LOCKED.sub("", text).strip() == "", "a line that is no pinned requirement with hashes"
    return {canonicalize_name(name): version for name, version, _, _ in found}


def wanted() -> list[Requirement]:
    """What pyproject.toml requires to build, run and test."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    lines = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    return [Requirement(line) for line in [*lines, *(line for extra in EXTRAS for line in extras[extra])]]


def test_the_tested_set_satisfies_every_requirement():
    versions = locked()
    missing = [str(each) for each in wanted() if canonicalize_name(each.name) not in versions]
    assert missing == [], "run `make lock`"
    wrong = [str(each) for each in wanted() if not each.specifier.contains(versions[canonicalize_name(each.name)])]
    assert wrong == [], "run `make lock`"
    assert len(versions) > len(wanted()), "with what those require"
