"""Text of the venue that would clear a terminal, forge a line or run a script is escaped wherever people see it."""

from __future__ import annotations

import json
import logging
import re
import time

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import recorder
from kfix_md import Handler
from kfix_md.cli import _die, main, probe
from kfix_md.journal.events import Refused
from kfix_md.journal.writer import JournalWriter
from kfix_md.log_output import Human
from kfix_md.shm.writer import SegmentWriter
from recorder import cli
from recorder.report import page
from tests.fuzz.targets import framed
from tests.recorder import build
from tests.recorder.test_tools import run

SYMBOL = b"E\x1b[2J\n<i>\x9bL"
SHOWN = r"E\x1b[2J\x0a<i>\x9bL"
WHY = "none\x1b]0;x\x07\n2024-02-29 !! forged <script>alert(1)</script>"
HEAD = b"49=K|52=20240229-10:00:00.000|56=ME|"
LIST = framed(b"35=y|34=1|" + HEAD + b"320=1|560=0|146=1|55=" + SYMBOL + b"|5010=2|2349=1|5032=1|")
BOOK = framed(
    b"35=W|34=2|" + HEAD + b"55=" + SYMBOL + b"|262=1|268=2|"
    b"269=0|278=B10|270=10|271=1|273=12:00:00.000|269=1|278=O11|270=11|271=1|273=12:00:00.000|"
)
#: what a terminal obeys: all control characters but the end of a line
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@pytest.fixture
def written(tmp_path):
    """A feed's segment, journal and captures with such a symbol and such a reject."""
    with SegmentWriter("hostile", tmp_path, capacity=4) as segment, JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", build.START_NS)
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "one"})
        handler = Handler(level="L2", journal=journal, publisher=segment)
        handler.on_bytes(LIST + BOOK, build.START_NS)
        journal.event(0, build.START_NS, Refused(SHOWN, WHY))
        journal.event(0, build.START_NS, {"type": "disconnected", "reason": WHY, "cause": "disconnect"})
        segment.set_session(0, service="spot-l2", state="ON", host="h", port=4000, last_recv_ns=time.time_ns())
        yield tmp_path


def shown(capsys, *arguments) -> str:
    with pytest.raises(SystemExit):
        main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_consoles(written, capsys):
    for arguments in (("top", "--sample", 0), ("ladder", SHOWN, "--once")):
        text = shown(capsys, *arguments, "--directory", written)
        assert SHOWN in text and not CONTROL.search(text), arguments
    output = shown(capsys, "top", "--sample", 0, "--json", "--directory", written)
    assert json.loads(output)["symbols"][0]["symbol"] == SHOWN and not CONTROL.search(output)


def test_journal_and_report(written):
    lines = run(cli.journal, "cat", written / "journal")
    assert SHOWN in lines and not CONTROL.search(lines)
    assert not [line for line in lines.splitlines() if line.startswith("2024-02-29 !!")]
    build.record(written)
    cap = recorder.open(written / "captures")
    assert "forged" in str(cap.status().to_pylist())
    text = page(cap, cap.dates()[0])
    assert not CONTROL.search(text)
    assert "<script>alert" not in text and "<i>" not in text
    assert "E\\x1b[2J\\x0a&lt;i&gt;\\x9bL" in text


def test_other_commands(tmp_path, capsys):
    stream = tmp_path / "stream.fix"
    head = b"49=K\x1b[2J|52=20240229-10:00:00.000|56=ME\x07|"
    stream.write_bytes(framed(b"35=0|34=1|" + head) + framed(b"35=0|34=2|" + head) + LIST + BOOK)
    text = shown(capsys, "inspect", stream)
    assert r"K\x1b[2J to ME\x07" in text and not CONTROL.search(text)
    probe._print({"service": "spot-l2", "problem": WHY, "assumptions": [], "sent": [], "capture": None})
    with pytest.raises(SystemExit):
        _die(f"the venue rejected the logon: {WHY}")
    out, err = capsys.readouterr()
    for text in (out, err):
        assert r"none\x1b]0;x\x07" in text and not CONTROL.search(text)


def test_a_log_for_people():
    record = logging.LogRecord("kfix.x", logging.ERROR, "", 0, "rejected: %s", (WHY,), None)
    (line,) = Human().format(record).splitlines()
    assert not CONTROL.search(line) and r"none\x1b]0;x\x07\x0a2024" in line
