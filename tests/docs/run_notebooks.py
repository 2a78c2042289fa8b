"""Runs the code of notebooks as Jupyter does: python -m tests.docs.run_notebooks NOTEBOOK ...

Each notebook has names of its own; the last expression of a cell is shown as a notebook shows it, as HTML if it can. A
line for each: the name, how many cells ran and how many showed something.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl


def run(path: Path) -> tuple[int, int]:
    """Code cells run, and results shown."""
    names: dict[str, Any] = {"__name__": "__main__"}
    ran = shown = 0
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        code = "".join(cell["source"])
        tree = ast.parse(code)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}[{ran}]", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"{path.name}[{ran}]", "eval"), names)
            if value is not None and not code.rstrip().endswith(";"):
                html = getattr(value, "_repr_html_", lambda: None)()
                shown += bool(html or repr(value))
        ran += 1
    return ran, shown


def main() -> None:
    mpl.use("Agg")
    for name in sys.argv[1:]:
        print(Path(name).stem, *run(Path(name)), flush=True)


if __name__ == "__main__":
    main()
