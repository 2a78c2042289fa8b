"""Progress of long commands: a bar with the time left on a terminal, lines on a pipe, nothing where none is wanted."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from kfix_md import progress as module
from kfix_md.progress import busy, progress

CODE = """
import time
from kfix_md.progress import progress
with progress("working", 10) as advance:
    for _ in range(10):
        advance(1)
        time.sleep(0.05)
print("done")
"""


def test_a_terminal_shows_a_bar_with_the_time_left():
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("NO_COLOR", None)
    done = subprocess.run(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=slave, stdin=slave, env=env, check=True, timeout=60
    )
    os.close(slave)
    seen = os.read(master, 1 << 20).decode()
    os.close(master)
    assert done.stdout == b"done\n", "the bar is on stderr, so that the result can be piped on"
    assert "working" in seen and "100%" in seen and "left" in seen and "0:00:0" in seen


def test_a_pipe_gets_lines_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("compacting", 100) as advance:
        for _ in range(25):
            now[0] += 1.0
            advance(4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["compacting: 20%, 20 s left", "compacting: 40%, 15 s left"] and len(lines) == 5


@pytest.mark.parametrize("total", [0, 10])
def test_what_is_done_at_once_prints_nothing(capsys, total):
    with progress("compacting", total) as advance, busy("report"):
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_no_lines_where_none_are_wanted_and_nothing_without_stderr(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    with progress("recording", 10, lines=False) as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", None)
    with progress("recording", 10) as advance, busy("report"):
        advance(5)
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with progress("recording", 10) as advance:
        advance(5)
    assert stream.getvalue().startswith("recording: 50%")
