"""Runs every benchmark and prints one table: `python -m benchmarks [--quick] [--json]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from benchmarks import books, decode, growth, ingest, latency, path, start, workload
from benchmarks.race import Row

PACKAGES = (
    "numpy",
    "Cython",
    "uvloop",
    "aiofastnet",
    "simplefix",
    "sortedcontainers",
    "order-book",
    "quickfix",
    "quickfix-tls",
    "nautilus_trader",
    "hftbacktest",
)
PARTS = ("decode", "books", "path", "ingest", "latency", "growth", "start")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    from kfix_md import __version__
    from kfix_md._codec import SIMD

    cpu = next(
        (line.split(":", 1)[1].strip() for line in read("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    compiler = shutil.which("c++") or shutil.which("g++")
    version = ""
    if compiler:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    facts = {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "compiler": version.splitlines()[0] if version else "none found",
        "kfix-md": __version__,
        "instruction set": SIMD,
        "TLS": ssl.OPENSSL_VERSION,
        "load before": f"{os.getloadavg()[0]:.1f}",
    }
    for name in PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return facts


def read(name: str) -> list[str]:
    """Lines of a file that may not be there."""
    try:
        return Path(name).read_text().splitlines()
    except OSError:
        return []


def plan(works: list[workload.Workload], rounds: int, quick: bool, parts: set[str]) -> list[Callable[[], list[Row]]]:
    """What is to be run, in order."""
    runs: list[Callable[[], list[Row]]] = []
    for name, suite in (("decode", decode), ("books", books), ("path", path)):
        if name in parts:
            runs += [lambda suite=suite, work=work: suite.run(work, rounds) for work in works]
    if "ingest" in parts:
        runs.append(lambda: ingest.run(rounds, quick))
    if "latency" in parts:
        runs.append(lambda: latency.run(rounds, quick))
    if "growth" in parts:
        runs.append(lambda: growth.run(max(rounds // 2, 3), quick))
    if "start" in parts:
        runs.append(lambda: start.run(max(rounds // 2, 3)))
    return runs


def columns(row: Row) -> tuple[str, str, str, str, str]:
    """Name, value with unit, ratio, goal and note as text."""
    digits = 0 if row.value is not None and row.value >= 100 else 2
    value = "-" if row.value is None else f"{row.value:,.{digits}f} {row.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.{2 if row.ratio < 10 else 0}f} x {row.of}"
    goal = "" if not row.goal else f"{row.goal}: {'met' if row.met else 'missed'}"
    return row.name, value, ratio, goal, row.note


def line(row: Row) -> str:
    """One line of the plain table."""
    name, value, ratio, goal, note = columns(row)
    return f"  {name:<42} {value:>22}  {ratio:<34} {goal:<20} {note}".rstrip()


def row_lines(row: Row, group: str | None, markdown: bool) -> list[str]:
    """What to print for a row: a heading when its group is new, and the row."""
    if markdown:
        head = ["", f"**{row.group}**", "", "| | | relative to | goal | |", "|---|---|---|---|---|"]
        return [*(head if row.group != group else []), "| " + " | ".join(columns(row)) + " |"]
    return [*(["", row.group] if row.group != group else []), line(row)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller streams, fewer rounds: under two minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--markdown", action="store_true", help="the table as docs/performance.md has it")
    parser.add_argument("--captures", type=Path, metavar="DIR", help="measure on the *.fix.gz of a folder too")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be given more than once")
    parser.add_argument("--rounds", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    """Run and print; the exit status is whether everything could be run, not whether goals were met."""
    args = arguments()
    rounds = args.rounds or (5 if args.quick else 15)
    if args.captures and not list(args.captures.glob("*.fix.gz")):
        print(f"no *.fix.gz in {args.captures}", file=sys.stderr)
        return 2
    begun, facts = time.monotonic(), machine()
    works = workload.generated(args.quick) + (workload.captured(args.captures) if args.captures else [])
    rows: list[Row] = []
    if not args.json:
        print("\n".join(f"{'- ' if args.markdown else ''}{name}: {value}" for name, value in facts.items()))
    for part in plan(works, rounds, args.quick, set(args.only or PARTS)):
        for row in part():
            if not args.json:
                group = rows[-1].group if rows else None
                print("\n".join(row_lines(row, group, args.markdown)), flush=True)
            rows.append(row)
    seconds = round(time.monotonic() - begun, 1)
    if args.json:
        whole = {"machine": facts, "rounds": rounds, "seconds": seconds, "rows": [asdict(row) for row in rows]}
        print(json.dumps(whole))
    else:
        goals = [row for row in rows if row.met is not None]
        met = sum(bool(row.met) for row in goals)
        print(f"\n{met} of {len(goals)} goals met; {seconds} s, medians of {rounds} interleaved rounds, CPU time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
