"""The type stubs name what the compiled modules have: no more, no less."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import kfix_md

STUBS = ["segment", "reader", "deep", "writer"]


@pytest.mark.parametrize("name", STUBS)
def test_stub_and_module_agree(name):
    module = importlib.import_module(f"kfix_md.shm.{name}")
    tree = ast.parse(Path(kfix_md.get_include(), f"{name}.pyi").read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            _class_agrees(node, getattr(module, node.name))
        elif isinstance(node, ast.FunctionDef):
            assert callable(getattr(module, node.name))
        elif isinstance(node, ast.AnnAssign):
            assert hasattr(module, node.target.id), node.target.id


def _class_agrees(node: ast.ClassDef, kind: type) -> None:
    told = {
        each.name if isinstance(each, ast.FunctionDef) else each.target.id
        for each in node.body
        if isinstance(each, ast.FunctionDef | ast.AnnAssign)
    }
    own = {name for name in vars(kind) if not name.startswith("_")}
    if node.name == "TradeReader":  # attributes of the instance
        own |= {"book", "next", "lost"}
    if issubclass(kind, tuple):
        own &= told
    told = {name for name in told if not name.startswith("_")}
    inherited = {name for base in kind.__mro__[1:] for name in vars(base)}
    assert told == own - (inherited - told), (told ^ own) - inherited
