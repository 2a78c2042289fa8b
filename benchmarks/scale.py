"""What thousands of symbols cost: messages, ticks, a change of the journal's segment, attach, snapshot(), memory.

    python -m benchmarks.scale [--symbols 1 1000 4000] [--rounds 7] [--json]

All of Kraken at both levels is some 3,700 books. All is measured in this process without sockets, CPU time of the
thread: messages of a generated stream that touch all symbols in turn, 5041 checked, each ratio to the first number of
symbols; then a whole service with as many live books (see benchmarks.reconnect), and a reader of its segment.
Memory is that of a process of its own, without journal and shared memory. `benchmarks.reconnect --symbols 3700
--read-bytes 1500` has the reconnect.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import kfix_md
from benchmarks.build import ROOT
from benchmarks.growth import incrementals, opened
from benchmarks.race import Race, Row
from benchmarks.reconnect import Bench

MESSAGES = 10_000
GOALS = {1000: 1.25, 4000: 1.4}
IDLE_GOAL = 1.0  # % of a core
RESIDENT = """
import sys, tempfile, logging
from pathlib import Path
from benchmarks.reconnect import Bench
logging.disable(logging.CRITICAL)
with tempfile.TemporaryDirectory() as folder:
    bench = Bench(Path(folder), int(sys.argv[1]))
    bench.connect()
    fields = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
    print(int(fields["RssAnon"].split()[0]))
"""


def messages(service: str, counts: list[int], rounds: int, number: int = MESSAGES) -> list[Row]:
    """Cost of a message; ratios to the first number of symbols."""
    race = Race(f"messages, {service}", number, calls=2)
    for count in counts:
        opening, updates = incrementals(count, 10, number, service)
        race.add(
            f"{count:,} symbols",
            lambda handler, updates=updates: handler.on_bytes(updates),
            prepare=lambda opening=opening: opened(opening),
        )
    rows = race.rows(rounds)
    for count, row in zip(counts[1:], rows[1:], strict=True):
        goal = GOALS.get(count)
        row.ratio, row.of = row.value / rows[0].value, rows[0].name
        if goal:
            row.goal, row.met = f"<= {goal:g} x", row.ratio <= goal
    return rows


def timed(work: Callable[[], object], times: int) -> float:
    """Median CPU time of a call in us."""
    taken = []
    for _ in range(times):
        began = time.thread_time_ns()
        work()
        taken.append((time.thread_time_ns() - began) / 1000)
    return statistics.median(taken)


def service(count: int, rounds: int) -> list[Row]:
    """What a service with `count` live books does without messages, and what a reader of its segment pays."""
    group = f"{count:,} symbols"
    with tempfile.TemporaryDirectory(prefix="kfix-scale-", dir="/dev/shm") as folder:
        bench = Bench(Path(folder), count)
        bench.connect()
        one = bench.service

        def tick() -> None:
            bench.now += 100_000_000
            one.tick(bench.now)
            one.output()

        def attach() -> kfix_md.Feed:
            one.publisher.heartbeat()
            return kfix_md.attach("bench", directory=folder)

        def read() -> None:
            one.publisher.heartbeat()
            feed.snapshot()

        ticks = timed(tick, 100 * rounds)
        calm = timed(lambda: one.calm(bench.now), 100 * rounds)
        rows = [
            # ten ticks a second while nothing is due, and the loop's own work around each
            Row(
                group, "ticks of a second without messages", 10 * (ticks + calm), "us", goal=f"<= {IDLE_GOAL:g} % of it"
            ),
            Row(group, "attach", timed(attach, 3 * rounds), "us"),
        ]
        rows[0].met = 10 * (ticks + calm) <= IDLE_GOAL * 1e4
        feed = attach()
        rows.append(Row(group, "snapshot()", timed(read, 3 * rounds), "us"))
        carried = timed(one.handler.carried, 3 * rounds)
        rows.append(Row(group, "what a new segment begins with", carried, "us"))
    out = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(count)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    rows.append(Row(group, "memory of a service without its mapped files", int(out.stdout) / 1024, "MB"))
    return rows


def run(counts: list[int], rounds: int) -> list[Row]:
    """All tables."""
    rows = messages("spot-l2", counts, rounds) + messages("spot-l3", counts, rounds)
    for count in counts:
        rows += service(count, rounds)
    return rows


def main() -> None:
    """Run and print."""
    from benchmarks.__main__ import row_lines

    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--symbols", type=int, nargs="+", default=[1, 1000, 4000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rows, group = run(options.symbols, options.rounds), None
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    for row in rows:
        print("\n".join(row_lines(row, group, False)))
        group = row.group


if __name__ == "__main__":
    main()
