"""The command line: what it offers, and that every mistake is one line and status 2."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from kfix_md import __version__
from kfix_md.cli import COMMANDS, main
from kfix_md.log_output import set_up_logging
from tests.feed.rig import ROOT


def ran(capsys, *arguments):
    """(exit status, stdout, stderr) of a command."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    shown = capsys.readouterr()
    return caught.value.code, shown.out, shown.err


def test_help_and_version(capsys):
    status, out, _ = ran(capsys, "--help")
    assert status == 0 and all(f"  {name} " in out for name in COMMANDS)
    assert __version__ in ran(capsys, "--version")[1]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(capsys, name):
    status, out, _ = ran(capsys, name, "--help")
    assert status == 0 and "Usage: kfix" in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["fed"], "did you mean 'feed'?"),
        (["feed"], "Missing argument 'CONFIG'"),
        (["feed", "/none.toml"], "/none.toml: no such file"),
        (["doctor", "/none.toml"], "/none.toml: no such file"),
        (["feed", "--nonsense", "x"], "--nonsense"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, arguments, parts):
    status, out, err = ran(capsys, *arguments)
    assert status == 2 and not out
    assert err.startswith("kfix: ") and err.count("\n") == 1 and parts in err


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "kfix_md", "nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("kfix: no command 'nonsense'")


@pytest.mark.parametrize("as_json", [False, True])
def test_log_lines_for_people_and_for_machines(capfd, as_json):
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        output = set_up_logging(as_json)
        logging.getLogger("kfix.feed").warning("gap: %d", 3, extra={"service": "spot-l2"})
        output.close()
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
    line = capfd.readouterr().err.strip()
    if as_json:
        shown = json.loads(line)
        assert (shown["service"], shown["level"], shown["text"]) == ("spot-l2", "warning", "gap: 3")
    else:
        assert line.endswith("spot-l2        ! gap: 3")
