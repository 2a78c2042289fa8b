"""The recorder under a service manager: ready while it waits for a journal, alive while its loop goes round."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kfix_md.errors import UsageError
from kfix_md.feed.notify import Notifier
from recorder import cli
from recorder.process import Recorder
from tests.feed.test_starting import Manager
from tests.recorder import build

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = '[[service]]\nname = "spot-l2"\nsender_comp_id = "ME"\nsymbols = ["*"]\n[recorder]\ninterval_s = 0.2\n'


def eventually(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_manager_hears_of_every_stage(tmp_path):
    manager = Manager(tmp_path)
    (tmp_path / "feed.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "kfix_md", "record", "--json", str(tmp_path / "feed.toml")]
    recorder = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **manager.environment()}, stdout=subprocess.PIPE)
    try:
        eventually(lambda: manager.count("READY=1") == 1)
        assert manager.count(f"STATUS=waiting for a journal in {tmp_path / 'journal'}") == 1
        eventually(lambda: manager.count("WATCHDOG=1") >= 2)
        build.journal_of(tmp_path / "journal", ("spot-l2",), messages=20)
        eventually(lambda: manager.count(f"STATUS=recording {tmp_path / 'journal'} into {tmp_path / 'captures'}") == 1)
        before = manager.count("WATCHDOG=1")
        eventually(lambda: manager.count("WATCHDOG=1") >= before + 3)
        recorder.send_signal(signal.SIGSTOP)  # a loop that does not go round is not alive
        time.sleep(0.3)
        before = manager.count("WATCHDOG=1")
        time.sleep(0.6)
        assert manager.count("WATCHDOG=1") == before and manager.count("STOPPING=1") == 0
        recorder.send_signal(signal.SIGCONT)
        recorder.send_signal(signal.SIGTERM)
        assert recorder.wait(20) == 0 and manager.count("STOPPING=1") == 1
    finally:
        recorder.kill()
        recorder.communicate()


def test_a_recorder_that_waits_for_a_disk_is_alive(tmp_path, monkeypatch):
    manager = Manager(tmp_path)
    monkeypatch.setattr(cli, "DISK_PAUSE_S", 0.5)
    cli._wait_for_disk(tmp_path, OSError(28, "full"), [], Notifier(manager.environment()))
    assert manager.count("WATCHDOG=1") >= 2


def test_a_journal_that_is_moved_away_while_a_recorder_starts_is_waited_for(tmp_path, monkeypatch):
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=20)
    attempts = []

    def starting(settings, *, progress):
        """The journal is there when it is looked for, and not when the first attempt opens it."""
        attempts.append(settings.journal.is_dir())
        if len(attempts) > 1:
            return Recorder(settings, progress=progress)
        settings.journal.rename(tmp_path / "away")
        try:
            return Recorder(settings, progress=progress)
        finally:
            (tmp_path / "away").rename(settings.journal)

    monkeypatch.setattr("recorder.process.Recorder", starting)
    one = cli._open(build.settings(tmp_path), False, [], cli._Progress(), Notifier({}))
    assert one is not None and attempts == [True, True]
    one.close()
    with pytest.raises(UsageError, match="no journal at"):  # --once does not wait
        Recorder(build.Settings(tmp_path / "none", tmp_path / "captures"))
