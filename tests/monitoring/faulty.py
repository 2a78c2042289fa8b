"""Runs a kfix command with faults that no venue can cause: `python -m tests.monitoring.faulty feed feed.toml`.

Each line on stdin is the name of a fault, and of how it ends: "disk full", "disk free". A feed's exporter is a process
of its own, `python -m tests.monitoring.faulty exporter FILE ...`: for it the disk is full while FILE exists.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kfix_md.cli import main
from kfix_md.feed import clock, exporter
from kfix_md.feed.service import Service
from kfix_md.metrics_server import _ProcessCollector
from recorder.process import Recorder

_pending: set[str] = set()
_FLAG = Path(sys.argv[2]) if sys.argv[1:2] == ["exporter"] else None
_real = {"usage": shutil.disk_usage, "tick": Service.tick, "step": Recorder.step, "ahead": clock.Clock._ahead_ns}


def _usage(path: str) -> object:
    usage = _real["usage"](path)
    return usage._replace(free=usage.total // 100) if _disk_full() else usage


def _disk_full() -> bool:
    return "disk full" in _pending or (_FLAG is not None and _FLAG.exists())


def _once(fault: str) -> bool:
    if fault not in _pending:
        return False
    _pending.discard(fault)
    return True


def _tick(service: Service, now_ns: int) -> None:
    if _once("error"):
        raise RuntimeError("injected")
    if _once("stall"):
        time.sleep(2.0)
    _real["tick"](service, now_ns)


def _step(recorder: Recorder) -> str:
    if _once("stall"):
        time.sleep(2.0)
    if _once("damage"):
        recorder.tail.damages.append("injected damage")
    if _once("unproven"):
        recorder.counts["segments_unproven"] += 1
    return _real["step"](recorder)


def _commands(stderr: int, flag: Path) -> None:
    ends: dict[str, Callable[[], object]] = {
        "disk full": lambda: (_pending.add("disk full"), flag.touch()),
        "disk free": lambda: (_pending.discard("disk full"), flag.unlink()),
        "log closed": lambda: os.close(2),
        "log open": lambda: os.dup2(stderr, 2),
        "clock": lambda: setattr(clock.Clock, "_ahead_ns", lambda self: _real["ahead"](self) + 60_000_000_000),
        "clock back": lambda: setattr(clock.Clock, "_ahead_ns", _real["ahead"]),
    }
    for line in sys.stdin:
        fault = line.strip()
        if fault in ends:
            ends[fault]()
        else:
            _pending.add(fault)


if __name__ == "__main__":
    shutil.disk_usage, Service.tick, Recorder.step = _usage, _tick, _step
    _ProcessCollector._forecast = lambda self: {"journal": 9.0}
    if _FLAG is not None:
        exporter.main(*map(int, sys.argv[3:5]))
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder) / "full"
        exporter.COMMAND = [sys.executable, "-m", "tests.monitoring.faulty", "exporter", str(flag)]
        threading.Thread(target=_commands, args=(os.dup(2), flag), daemon=True).start()
        main()
