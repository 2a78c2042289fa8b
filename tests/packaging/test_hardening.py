"""How the compiled modules are linked: what an attacker of the process would use first."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from kfix_md import _codec, _handler
from kfix_md.journal import writer

MODULES = [_codec.__file__, _handler.__file__, writer.__file__]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not installed")
@pytest.mark.parametrize("path", MODULES)
def test_modules_are_bound_at_start_read_only_and_name_no_folder_of_the_builder(path):
    shown = subprocess.run(["readelf", "-dlW", path], capture_output=True, text=True, check=True).stdout
    assert "(BIND_NOW)" in shown or "Flags: NOW" in shown
    assert "GNU_RELRO" in shown
    assert "RUNPATH" not in shown and "RPATH" not in shown
    stack = next(line for line in shown.splitlines() if "GNU_STACK" in line)
    assert "RWE" not in stack, "no code is run from the stack"


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not installed")
@pytest.mark.skipif("coverage" in sys.modules, reason="modules whose lines are traced are built without FORTIFY")
def test_arrays_on_the_stack_are_guarded_and_calls_of_the_c_library_know_their_room():
    called = {
        path: subprocess.run(["readelf", "--dyn-syms", "-W", path], capture_output=True, text=True, check=True).stdout
        for path in MODULES
    }
    assert [path for path, symbols in called.items() if "__stack_chk_fail" not in symbols] == []
    assert re.search(r"__v?snprintf_chk|__mem(cpy|set|move)_chk", called[writer.__file__])
