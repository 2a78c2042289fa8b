"""Processes that ours start run Python's own modules and ours, not files of the working directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from kfix_md.child import ending, python

TREE = Path(__file__).resolve().parents[1]


def test_a_file_of_the_working_directory_is_not_taken_for_a_module(tmp_path, monkeypatch):
    (tmp_path / "token.py").write_text("raise SystemExit('a file of the user was run')")
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    for words in (("-m", "kfix_md.cli.nothing"), ("-c", "import token, kfix_md; print(token.__file__)")):
        done = subprocess.run(python(*words), capture_output=True, text=True, env=environment, check=False)
        assert "a file of the user" not in done.stdout + done.stderr
    assert done.returncode == 0 and "python" in done.stdout


def test_a_tree_that_is_run_without_being_installed_finds_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(TREE)
    assert python("-m", "kfix_md") == [sys.executable, "-m", "kfix_md"]
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert python() == [sys.executable, "-P"]


def test_a_child_ends_with_its_parent_also_while_it_is_stopped():
    child = (
        "import os, time; from kfix_md.child import end_with_parent; end_with_parent(9); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, time; subprocess.Popen({python('-c', child)}); time.sleep(60)"
    process = subprocess.Popen(python("-c", parent), stdout=subprocess.PIPE, text=True)
    number = int(process.stdout.readline())
    os.kill(number, signal.SIGSTOP)
    process.kill()
    assert ending(process.wait()) == "was killed by signal 9"
    assert process.stdout.read() == ""  # both have closed it
    assert ending(2) == "ended with status 2"
