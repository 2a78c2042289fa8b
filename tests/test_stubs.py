"""The type stubs of compiled modules name what the modules have, and every compiled module in use has one."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.test_imports import package_of, python_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kfix_md", "recorder")
STUBS = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.pyi"))
#: attributes that instances have and classes do not
INSTANCE_ATTRIBUTES = {"TradeReader": {"book", "next", "lost"}}
#: compiled modules that Python code imports and that have no stub, and why
WITHOUT_STUB: dict[str, str] = {}


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
        elif isinstance(node, ast.ImportFrom):  # `from x import y as y`: the stub gives y again
            found |= {name.name for name in node.names if name.asname == name.name}
    return found - {"__all__"}


def public(module: ModuleType) -> set[str]:
    """Public functions and classes that the module itself defines, and what its __all__ names."""
    own = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    }
    return own | set(getattr(module, "__all__", ()))


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


def class_agrees(node: ast.ClassDef, kind: type) -> None:
    stub = {name for name in names_of(node.body) if not name.startswith("_")}
    own = {name for name in vars(kind) if not name.startswith("_")} | INSTANCE_ATTRIBUTES.get(node.name, set())
    if issubclass(kind, tuple):
        own &= stub
    inherited = {name for base in kind.__mro__[1:] for name in vars(base)}
    assert stub == own - (inherited - stub), (stub ^ own) - inherited


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef, Callable[..., object]]]:
    """Functions and methods that a stub defines, each with the compiled one."""
    module = importlib.import_module(dotted(path))
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node, getattr(module, node.name)
        elif isinstance(node, ast.ClassDef) and hasattr(module, node.name):
            kind = getattr(module, node.name)
            for each in node.body:
                plain = isinstance(each, ast.FunctionDef) and not each.decorator_list
                if plain and not each.name.startswith("_"):
                    yield each, getattr(kind, each.name)


def parameters(node: ast.FunctionDef) -> list[str]:
    """Names of the parameters in a stub, self left out."""
    given = node.args
    named = [*given.posonlyargs, *given.args, *([given.vararg] if given.vararg else []), *given.kwonlyargs]
    named += [given.kwarg] if given.kwarg else []
    return [each.arg for each in named if each.arg != "self"]


@pytest.mark.parametrize("path", STUBS, ids=dotted)
def test_parameters_have_the_names_of_the_stub(path: Path) -> None:
    wrong = []
    for node, compiled in functions(path):
        try:
            signature = inspect.signature(compiled)
        except ValueError:
            continue  # not introspectable
        actual = [name for name in signature.parameters if name != "self"]
        if actual != parameters(node):
            wrong.append((node.name, actual, parameters(node)))
    assert wrong == []


def in_use() -> set[str]:
    """Compiled modules that Python code of the packages imports."""
    compiled = {dotted(path) for folder in PACKAGES for path in (ROOT / folder).rglob("*.pyx")}
    found = set()
    for folder in PACKAGES:
        for path in (ROOT / folder).rglob("*.py"):
            for target in python_imports(path.read_text(), package_of(path)):
                found |= {target, target.rpartition(".")[0]} & compiled
    return found


def test_every_compiled_module_in_use_has_a_stub() -> None:
    assert in_use() - set(map(dotted, STUBS)) <= WITHOUT_STUB.keys()
