"""Runs a kfix command with faults that no venue can cause: `python -m tests.monitoring.faulty feed feed.toml`.

Each line on stdin is the name of a fault, and of how it ends: "disk full", "disk free".
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable

from kfix_md.cli import main
from kfix_md.feed import clock
from kfix_md.feed.service import Service
from kfix_md.metrics_server import _ProcessCollector
from recorder.process import Recorder

_pending: set[str] = set()
_real = {"usage": shutil.disk_usage, "tick": Service.tick, "step": Recorder.step, "ahead": clock.Clock._ahead_ns}


def _usage(path: str) -> object:
    usage = _real["usage"](path)
    return usage._replace(free=usage.total // 100) if "disk full" in _pending else usage


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


def _commands(stderr: int) -> None:
    ends: dict[str, Callable[[], object]] = {
        "disk free": lambda: _pending.discard("disk full"),
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
    threading.Thread(target=_commands, args=(os.dup(2),), daemon=True).start()
    main()
