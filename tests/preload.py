"""Compiles the libraries that tests preload (LD_PRELOAD) to make calls of the system fail, or to note them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def library(source: Path, folder: Path) -> Path:
    """Compile a C file; the library in `folder`."""
    assert COMPILER is not None, "no C compiler"
    made = folder / (source.stem + ".so")
    command = [COMPILER, "-O1", "-Wall", "-shared", "-fPIC", "-o", made, source, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return made
