"""Compares a coverage report with the floors of pyproject.toml, package by package."""

from __future__ import annotations

import json
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def percentages(report: Path) -> dict[str, float]:
    """Percentage of lines run in each folder that has source files."""
    lines: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, file in json.loads(report.read_text())["files"].items():
        folder = lines[str(Path(name).parent)]
        folder[0] += file["summary"]["covered_lines"]
        folder[1] += file["summary"]["num_statements"]
    return {folder: 100 * covered / total for folder, (covered, total) in sorted(lines.items()) if total}


def main(report: str) -> None:
    """Print a line per package; exit status 1 when one is under its floor or has none."""
    floors = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["kfix"]["coverage-floors"]
    found = percentages(Path(report))
    failed = sorted(set(floors) ^ set(found))
    for folder in failed:
        print(f"{folder}: {'no line of it ran' if folder in floors else 'has no floor in pyproject.toml'}")
    for folder, percent in found.items():
        floor = floors.get(folder, 100)
        print(f"{folder}: {percent:.1f} % (floor {floor} %)")
        if percent < floor:
            failed.append(folder)
    sys.exit(f"under the floor: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1])
