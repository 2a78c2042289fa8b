"""Start: what a polling script pays before its first read: the import, and attaching to a feed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import kfix_md
from benchmarks.build import ROOT
from benchmarks.path import scratch
from benchmarks.race import Row
from kfix_md.shm.writer import SegmentWriter


def child_cpu_ms(code: str) -> float:
    """CPU time of a Python process that runs `code`."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    after = os.times()
    return 1000 * (after.children_user - before.children_user + after.children_system - before.children_system)


def imports(rounds: int) -> list[Row]:
    """`import kfix_md` and `import numpy`, each in its own process, in turn."""
    codes = {"import numpy": "import numpy", "import kfix_md": "import kfix_md; kfix_md.attach"}
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(rounds + 1):
        for name, code in codes.items():
            times[name].append(child_cpu_ms(code))
    numpy, ours = (statistics.median(times[name][1:]) for name in codes)
    return [
        Row("start", "import kfix_md", ours, "ms CPU", ours / numpy, "import numpy", "<= 2 x", ours <= 2 * numpy),
        Row("start", "import numpy", numpy, "ms CPU"),
    ]


def attaching(rounds: int) -> Row:
    """`kfix_md.attach()` to a segment with 1,000 symbols, wall clock."""
    with scratch() as folder:
        writer = SegmentWriter("bench", folder, capacity=1000, depth=10, l3_depth=10, orders=16, trades=16)
        for i in range(1000):
            writer.add_symbol(f"S{i}/USD", "L2", 1, 8, 0)
        taken = []
        for _ in range(20 * rounds):
            start = time.perf_counter_ns()
            feed = kfix_md.attach("bench", directory=folder)
            taken.append(time.perf_counter_ns() - start)
            assert "S7/USD" in [key[0] if isinstance(key, tuple) else key for key in feed]
            del feed
        writer.close()
    value = statistics.median(taken) / 1e6
    return Row("start", "attach to a feed of 1,000 symbols", value, "ms", goal="<= 1 ms", met=value <= 1)


def run(rounds: int) -> list[Row]:
    """Import and attach."""
    return [*imports(rounds), attaching(rounds)]
