"""Every instruction set this machine offers gives the same entries and checksums: each runs in a child."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from kfix_md import Handler
from tests.conftest import ROOT
from tests.streams import SERVICES, generate

PROBE = """
import sys; sys.path.insert(0, ".")
from tests.core.test_instruction_sets import digest
from kfix_md._codec import SIMD
print(SIMD, digest())
"""


def digest() -> str:
    """One number for all ticks and counters of four streams, and of the same with damaged bytes."""
    hashed = hashlib.sha256()
    for service in SERVICES:
        data = generate(service, symbols=2, messages=150, depth=14).data
        for whole in (data, data.replace(b"\x0134=77\x01", b"\x0134=7z\x01"), data[:999] + data[1001:]):
            handler = Handler(collect=True)
            handler.on_bytes(whole, 1)
            hashed.update(handler.ticks().tobytes())
            hashed.update(repr(sorted(handler.stats.items())).encode())
    return hashed.hexdigest()


@pytest.mark.parametrize("name", ["scalar", "avx2", "avx512"])
def test_forced(name):
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KFIX_SIMD": name},
    )
    if done.returncode and "offers no such instruction set" in done.stderr:
        pytest.skip(f"this machine has no {name}")
    assert done.stdout.split() == [name, digest()], done.stderr


def test_an_unknown_one_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "import kfix_md._codec"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KFIX_SIMD": "mmx"},
    )
    assert done.returncode
    assert "KFIX_SIMD=mmx" in done.stderr
