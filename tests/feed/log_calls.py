"""Finds every log call of the shipped Python source: the template of its text, and how many values it takes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


@dataclass(frozen=True)
class LogCall:
    """One call: where, its template (None: made at run time), its values, and the event it names itself."""

    where: str
    template: str | None
    values: int
    event: str | None


def calls() -> Iterator[LogCall]:
    """Every call of a logger below kfix_md and recorder."""
    for folder in ("kfix_md", "recorder"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _is_log(node.func):
                    yield _call(node, f"{path.relative_to(ROOT)}:{node.lineno}")


def _is_log(function: ast.expr) -> bool:
    if not (isinstance(function, ast.Attribute) and function.attr in _LEVELS):
        return False
    owner = ast.unparse(function.value)
    return owner in ("log", "logger") or owner.endswith((".log", "._log")) or "getLogger" in owner


def _call(node: ast.Call, where: str) -> LogCall:
    assert isinstance(node.func, ast.Attribute)
    text, *values = node.args[1:] if node.func.attr == "log" else node.args
    template = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else None
    named = {key.arg: key.value for key in node.keywords}.get("extra")
    event = ast.literal_eval(named)["event"] if named is not None else None
    return LogCall(where, template, len(values), event)
