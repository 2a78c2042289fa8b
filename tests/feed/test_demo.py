"""`make demo`, shortened: it holds, leaves nothing running, and works in a path with spaces."""

from __future__ import annotations

import os
import signal
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


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=lambda number: number.name)
def test_a_demo_whose_terminal_is_closed_leaves_nothing_running(tmp_path, number):
    command = [sys.executable, "-u", "-m", "kfix_md.cli.demo", "--symbols", "2", "--rate", "20"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    demo = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    for line in demo.stdout:
        if "books live" in line:
            break
    demo.send_signal(number)
    demo.stdout.read()
    assert demo.wait(60) == 128 + number
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    assert str(tmp_path) not in listed
