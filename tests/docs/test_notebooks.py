"""The notebooks run from beginning to end on the capture next to them, and are kept without results."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.docs.recipes import CAPTURES, FOLDER, ROOT

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_they_run():
    command = [sys.executable, "-W", "error::FutureWarning", "-m", "tests.docs.run_notebooks", *map(str, NOTEBOOKS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    how = {"cwd": FOLDER, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(command, check=False, **how)
    assert done.returncode == 0, done.stderr[-2000:]
    ran = {line.split()[0]: tuple(map(int, line.split()[1:])) for line in done.stdout.splitlines() if _counts(line)}
    assert set(ran) == {"operator", "quant", "researcher"}
    assert all(cells >= 9 and shown >= 5 for cells, shown in ran.values()), ran
    assert not {path.name for path in FOLDER.iterdir()} - {"captures", "make_capture.py", *(p.name for p in NOTEBOOKS)}


def _counts(line: str) -> bool:
    words = line.split()
    return len(words) == 3 and words[0] in ("operator", "quant", "researcher") and words[1].isdigit()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_kept_without_results(path):
    cells = json.loads(path.read_text())["cells"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    for cell in cells:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


def test_the_capture_is_small():
    assert sum(path.stat().st_size for path in CAPTURES.rglob("*.parquet")) < 600_000
