"""The tutorials are run as they are written: simulator, feed and recorder, every command, every Python block."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kfix_md import attach
from kfix_md._state import is_trusted
from kfix_md.errors import FeedError

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "tutorials"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SERVICES = ("simulate", "feed", "record")  # commands that stay in the foreground


def blocks(page: str, language: str) -> list[str]:
    """The blocks of one language of a tutorial."""
    return [text for kind, text in _BLOCK.findall((PAGES / f"{page}.md").read_text()) if kind == language]


def commands(page: str) -> list[list[str]]:
    """The lines of a tutorial's shell blocks, as words."""
    return [shlex.split(line, comments=True) for block in blocks(page, "sh") for line in block.splitlines()]


class Terminal:
    """Runs what a reader of the tutorials types, in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, []
        self.name = f"tutorial-{os.getpid()}"
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "KFIX_FEED": self.name}

    def words(self, command: list[str]) -> list[str]:
        """The command with this interpreter in the place of the installed programs."""
        program = {"kfix": [sys.executable, "-m", "kfix_md"], "python": [sys.executable]}
        return [*program[command[0]], *command[1:]]

    def start(self, command: list[str], **how) -> subprocess.Popen[str]:
        """A command that stays in the foreground of its terminal."""
        with open(self.folder / f"{command[1]}.log", "w") as log:
            process = subprocess.Popen(self.words(command), cwd=self.folder, env=self.env, stderr=log, text=True, **how)
        self.running.append(process)
        return process

    def run(self, command: list[str]) -> str:
        """Output of a command that ends; an error when its status is not 0."""
        done = subprocess.run(
            self.words(command), cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self, process: subprocess.Popen[str]) -> None:
        """Ctrl-C."""
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0

    def wait_live(self) -> None:
        """Until every book can be trusted."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                books = attach(self.name).books()
                if books and all(is_trusted(book.state) for book in books):
                    return
            except FeedError:
                pass
            time.sleep(0.1)
        raise AssertionError((self.folder / "feed.log").read_text()[-2000:])


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path)
    yield terminal
    for process in terminal.running:
        process.kill()
        process.wait()


def with_free_ports(text: str, name: str, ports: dict[str, int]) -> str:
    """The configuration of the tutorial with the ports of this simulator, and a name of its own."""
    text = re.sub(r'name = "(\w+-l\d)"', lambda m: f"{m[0]}\nport = {ports[m[1]]}", text)
    text = text.replace('name = "tutorial"', f'name = "{name}"')
    return re.sub(r"(metrics_port|^port) = 9\d+", r"\1 = 0", text, flags=re.MULTILINE)


def test_every_command_and_block_of_the_tutorials_runs(terminal):
    typed = [words for words in commands("operator") if words[0] in ("kfix", "python")]
    simulate = next(words for words in typed if words[1] == "simulate")
    venue = terminal.start([*simulate, "--port-base", "0"], stdout=subprocess.PIPE)
    ports = json.loads(venue.stdout.readline())["ports"]
    (toml,) = blocks("operator", "toml")
    (terminal.folder / "feed.toml").write_text(with_free_ports(toml, terminal.name, ports))
    long, ran = {}, []
    for words in typed:
        if words[1] in SERVICES and "--once" not in words:
            if words[1] != "simulate":
                long[words[1]] = terminal.start(words)
            continue
        if long and words[-1] == "--once":  # the tutorial ends both before
            run_python(terminal, "quant")
            terminal.stop(long.pop("feed"))
            terminal.stop(long.pop("record"))
        elif long:
            terminal.wait_live()
        if words[0] == "python" and "venv" in words:
            continue
        ran.append(" ".join(words[:2]))
        terminal.run(words)
    assert not long and {"kfix doctor", "kfix top", "kfix ladder", "kfix verify", "kfix report", "python -c"} <= set(
        ran
    )
    run_python(terminal, "researcher")
    for words in commands("researcher"):
        terminal.run(words)


def run_python(terminal: Terminal, page: str) -> None:
    """Every Python block of a tutorial, one after the other as in one session."""
    found = blocks(page, "python")
    assert len(found) >= 5
    terminal.run(["python", "-W", "error", "-c", "\n".join(found)])
