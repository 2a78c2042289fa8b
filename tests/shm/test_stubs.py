"""The type stubs of compiled modules name what the modules have: no more, no less."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUBS = sorted(path for folder in ("kfix_md", "recorder") for path in (ROOT / folder).rglob("*.pyi"))
#: attributes that instances have and classes do not
INSTANCE_ATTRIBUTES = {"TradeReader": {"book", "next", "lost"}}
#: classes whose stub leaves out what only compiled modules and their own tests call
PARTIAL = {"Handler"}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def is_alias(node: ast.stmt) -> bool:
    """A name that exists for type checkers only."""
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).endswith("TypeAlias")


def names_of(body: list[ast.stmt]) -> set[str]:
    """Names that a stub or a class in it defines."""
    found = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not is_alias(node):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found - {"__all__"}


@pytest.mark.parametrize("path", STUBS, ids=dotted)
def test_stub_and_module_agree(path: Path) -> None:
    module = importlib.import_module(dotted(path))
    tree = ast.parse(path.read_text())
    stub = names_of(tree.body)
    # private names of a stub may be types for checkers only
    assert [name for name in stub if not hasattr(module, name) and not name.startswith("_")] == []
    assert public(module) - stub == set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and hasattr(module, node.name):
            class_agrees(node, getattr(module, node.name))


def public(module: ModuleType) -> set[str]:
    """Public functions and classes that the module itself defines."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    }


def class_agrees(node: ast.ClassDef, kind: type) -> None:
    stub = {name for name in names_of(node.body) if not name.startswith("_")}
    own = {name for name in vars(kind) if not name.startswith("_")} | INSTANCE_ATTRIBUTES.get(node.name, set())
    if issubclass(kind, tuple):
        own &= stub
    inherited = {name for base in kind.__mro__[1:] for name in vars(base)}
    assert stub - own - inherited == set()
    if node.name not in PARTIAL:
        assert own - inherited - stub == set()


def test_stubs_are_found():
    assert {"kfix_md.shm.segment", "kfix_md.shm.reader", "kfix_md.shm.deep", "kfix_md.shm.writer"} <= set(
        map(dotted, STUBS)
    )
