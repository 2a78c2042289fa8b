"""The log never holds up whoever writes to it: no reader, a closed descriptor, floods, and the end of the process."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import time

import pytest

from kfix_md import log_output
from kfix_md.log_output import Human, LogOutput, Repetitions

F_SETPIPE_SZ = 1031


def record(text: str, *args, name="kfix.test", level=logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, args, None)


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def drain(reading: int, seconds: float) -> str:
    os.set_blocking(reading, False)
    text, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            text += os.read(reading, 1 << 16).decode()
        except BlockingIOError:
            time.sleep(0.01)
    return text


def test_a_log_that_nobody_reads_holds_nobody_up_and_its_losses_are_counted(pipe):
    reading, writing = pipe
    output = LogOutput(writing, Human(), lines=100)
    began = time.monotonic()
    for number in range(5000):
        output.emit(record(f"kind {number % 50}: %d", number))
    assert time.monotonic() - began < 2 and output.lost > 4000
    text = drain(reading, seconds=1)
    reported = re.findall(r"!! (\d+) log lines were lost", text)
    assert sum(map(int, reported)) == output.lost, "in the log itself, as soon as it is read again"
    written = [line for line in text.splitlines() if " kind " in line]
    assert len(written) + output.lost == 5000
    output.close()


def test_the_end_of_the_process_does_not_wait_for_a_reader(pipe):
    reading, writing = pipe
    output = LogOutput(writing, Human())
    for number in range(200):
        output.emit(record("%s", "x" * 100 + str(number)))
    began = time.monotonic()
    output.close()
    assert log_output.CLOSE_S * 0.9 < time.monotonic() - began < log_output.CLOSE_S + 1
    drain(reading, 0.2)  # so that the thread ends before its descriptor


def test_what_waits_is_written_at_the_end(pipe):
    reading, writing = pipe
    output = LogOutput(writing, Human())
    for number in range(20):
        output.emit(record("line %d", number))
    output.close()
    assert [line.split()[-1] for line in drain(reading, 0.1).splitlines()] == [str(n) for n in range(20)]


def test_a_closed_descriptor_loses_its_lines_and_nothing_else():
    reading, writing = os.pipe()
    output = LogOutput(os.dup(writing), Human())
    os.close(reading)
    os.close(writing)
    output.emit(record("into a broken pipe"))
    output.close()
    assert output.lost == 1


def test_repetitions_are_counted_and_summarised():
    kinds = Repetitions(lines=3, window_s=10)
    flood = [record("%s rejected", f"S{n}") for n in range(10)]
    assert [kinds.admit(one, 100.0) for one in flood] == [True] * 3 + [False] * 7
    assert kinds.admit(record("something else"), 100.0)
    assert kinds.over(105.0) == []
    [summary] = kinds.over(110.0)
    assert summary.getMessage() == "7 more like this in 10 s: S9 rejected" and summary.levelno == logging.INFO
    assert kinds.admit(flood[0], 111.0), "a new window"


def test_texts_that_are_no_templates_are_limited_together():
    kinds = Repetitions(lines=3)
    admitted = sum(kinds.admit(record(f"text of the venue {n}"), 1.0) for n in range(5000))
    assert admitted == 1000 + 3


def test_a_line_that_cannot_be_formatted_is_named(pipe):
    reading, writing = pipe
    output = LogOutput(writing, Human())
    output.emit(record("%d books", "three"))
    output.close()
    assert "could not be formatted: '%d books'" in drain(reading, 0.1)


def test_a_flood_of_lines_that_cannot_be_formatted_does_not_end_the_log(pipe, monkeypatch):
    monkeypatch.setattr(log_output, "WINDOW_S", 0.1)
    reading, writing = pipe
    output = LogOutput(writing, Human())
    output._repetitions = Repetitions(lines=1, window_s=0.1)
    for _ in range(5):
        output.emit(record("%d books", "three"))
    assert "4 more like this in 0 s: '%d books'" in drain(reading, 0.5)
    output.emit(record("afterwards"))
    output.close()
    assert "afterwards" in drain(reading, 0.1)


def test_the_text_of_an_exception_cannot_change_a_terminal():
    try:
        raise ValueError("\x1b[2Jvenue")
    except ValueError:
        text = Human().format(logging.LogRecord("kfix", logging.ERROR, "", 1, "internal", (), sys.exc_info()))
    assert text.endswith("ValueError: \\x1b[2Jvenue") and "\x1b" not in text and text.count("\n") >= 3


SCRIPT = """
import logging, sys
from kfix_md.log_output import set_up_logging
output = set_up_logging(as_json=True)
for n in range(50): logging.getLogger("kfix.x").warning("line %d", n)
"""


@pytest.mark.parametrize("closed", [False, True])
def test_a_process_ends_with_its_log_written_and_with_0(closed):
    close = "import os; os.close(2)\n" if closed else ""
    command = [sys.executable, "-c", close + SCRIPT]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    shown = [json.loads(line)["text"] for line in done.stderr.splitlines()]
    assert shown == ([] if closed else [f"line {n}" for n in range(50)])
