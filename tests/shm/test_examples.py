"""The examples run against a feed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import kfix_md
from kfix_md import Cause, State
from tests.shm.conftest import Desk

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def run(tmp_path: Path, name: str, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KFIX_SHM_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.fixture
def lively(tmp_path):
    """A book whose spread opens and closes again and again."""
    desk, stop = Desk(tmp_path, heartbeat_ns=10**9), threading.Event()

    def publish() -> None:
        wide = 0
        while not stop.wait(0.005):
            wide += 1
            desk.btc.set("ask", 1, 280130 + 3000 * (wide // 20 % 2), 96506)
            desk.btc.publish()
            desk.writer.heartbeat()

    thread = threading.Thread(target=publish)
    thread.start()
    yield desk
    stop.set()
    thread.join()
    desk.writer.close()


def test_poll_spread_alarm_and_imbalance(tmp_path, lively):
    assert "0.001 @ 28003.0 |" in run(tmp_path, "poll_top.py", "BTC/USD", "0.2")
    output = run(tmp_path, "spread_alarm.py", "BTC/USD", "50", "0.6")
    assert "WIDE" in output and "normal" in output
    output = run(tmp_path, "imbalance.py", "1", "--feed", "desk")
    assert output.startswith("1 of 1 books: BTC/USD +0.02") and "over ten levels" in output


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_takes_the_name_of_a_feed(tmp_path, name):
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(tmp_path, name, "--feed", "no-such-feed")
    assert "no feed named 'no-such-feed'" in error.value.stderr


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_c_reader(tmp_path):
    desk = Desk(tmp_path)
    program = tmp_path / "reader"
    subprocess.run(
        [
            COMPILER,
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-I",
            kfix_md.get_include(),
            "-o",
            program,
            EXAMPLES / "reader.c",
            "-lm",
        ],
        check=True,
    )

    def read(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    assert read(desk.writer.path, "BTC/USD") == (
        0,
        "BTC/USD: 28003.0 x 0.001 | 28013.0 x 0.00096506  LIVE (NONE) alive\n",
    )
    desk.btc.publish(State.GAP)
    assert read(desk.writer.path, "BTC/USD")[0] == 1
    desk.btc.publish(State.UNVERIFIED, Cause.RULE)
    status, text = read(desk.writer.path, "BTC/USD")
    assert status == 1 and "UNVERIFIED (RULE) alive" in text
    served = Desk(tmp_path, "served", serve_unverified=True)
    served.btc.publish(State.UNVERIFIED, Cause.RULE)
    assert read(served.writer.path, "BTC/USD")[0] == 0
    served.writer.close()
    assert read(desk.writer.path, "XRP")[0] == 2
    assert read(kfix_md.__file__, "XRP")[0] == 2
    assert read(str(ROOT / "kfix_md" / "shm" / "attach.py"), "XRP")[1].endswith("is no feed of layout 2\n")
    desk.writer.close()
