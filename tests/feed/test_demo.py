"""`make demo`, shortened: it holds, leaves nothing running, and works in a path with spaces."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import kfix_md
from kfix_md import config
from tests.feed.rig import ROOT


@pytest.mark.slow
def test_the_demo_holds_in_a_path_with_spaces(tmp_path):
    folder = tmp_path / "a path"
    folder.mkdir()
    command = [sys.executable, "-m", "kfix_md.cli.demo", "--seconds", "7", "--symbols", "3", "--rate", "200"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All checks passed" in done.stdout and "all 12 polled books equal the venue's" in done.stdout
    name = config.load(folder / "demo-run" / "feed.toml").feed.name
    assert name not in kfix_md.feeds("/dev/shm")
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    assert str(folder) not in listed
