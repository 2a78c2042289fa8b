"""Writes the tables of docs/performance.md from `python -m benchmarks --json`: `python -m benchmarks.page FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.__main__ import row_lines
from benchmarks.build import ROOT
from benchmarks.race import Row

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def tables(report: dict) -> str:
    """Machine, and a table for every question."""
    lines = [", ".join(f"{name} {value}" for name, value in report["machine"].items()) + ".", ""]
    rows = [Row(**row) for row in report["rows"]]
    goals = [row for row in rows if row.met is not None]
    lines.append(
        f"{sum(bool(row.met) for row in goals)} of {len(goals)} goals met; {report['seconds']} s in all, "
        f"medians of {report['rounds']} interleaved rounds."
    )
    group = None
    for row in rows:
        lines += row_lines(row, group, markdown=True)
        group = row.group
    return "\n".join(lines)


def main() -> None:
    """Put the tables between the two marks of the page."""
    page = ROOT / "docs" / "performance.md"
    text = page.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}\n{tables(json.loads(Path(sys.argv[1]).read_text()))}\n\n{after}")


if __name__ == "__main__":
    main()
