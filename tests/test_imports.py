"""Imports point one way: the lines of every module are read and held against the layering of the design."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CIMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\(?[\w ,*]+)|c?import\s+([\w.]+))", re.MULTILINE)

# what each module of the core may import of ours; a name not listed here is not part of the core
CORE = {
    "_entry": {"errors"},
    "_frame": {"errors"},
    "_ids": {"_entry", "errors"},
    "_fields": {"_entry", "_frame"},
    "_codec": {"_entry", "_fields", "_frame", "_ids", "errors"},
    "_stream": {"_frame", "errors"},
    "_sequence": {"_entry", "errors"},
    "_book": {"_entry", "errors"},
    "_book_l3": {"_book", "_entry", "errors"},
    "_shm": {"_entry", "_segment", "errors"},
    "_journal": {"_entry", "errors", "journal_files"},
    "_symbols": {"_book", "_book_l3", "_entry", "_shm", "_stream", "errors", "view"},
    "_handler": {
        *("_entry", "_frame", "_fields", "_codec", "_stream", "_symbols", "_sequence", "_book", "_journal"),
        *("_shm", "errors", "fix", "follower", "instruments"),
    },
}
FORBIDDEN_TO_SIMULATOR = {
    *("_codec", "_fields", "_frame", "_stream", "_ids", "_book", "_book_l3", "_handler", "_shm", "_journal"),
    *("_sequence", "_symbols", "_entry", "_crc"),
}
HEAVY = ("pyarrow", "uvloop", "click", "rich", "pydantic", "prometheus_client", "aiofastnet", "cryptography",
         "simplefix", "zstandard", "asyncio", "recorder", "pandas", "polars")


def module_name(path: Path) -> str:
    """Dotted name of a source file."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def absolute(target: str, package: str) -> str:
    """A possibly relative module name made absolute within `package`."""
    dots = len(target) - len(target.lstrip("."))
    if not dots:
        return target
    kept = package.split(".")[: len(package.split(".")) - (dots - 1)]
    return ".".join([*kept, target[dots:]]).rstrip(".")


def is_late(node: ast.AST) -> bool:
    """What is inside does not run when the module is loaded."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def python_imports(path: Path, module_level: bool) -> set[str]:
    """Modules a .py file imports: all of them, or only those imported when it is loaded."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    nodes = list(ast.walk(tree))
    if module_level:
        late = {child for node in nodes if is_late(node) for child in ast.walk(node) if child is not node}
        nodes = [node for node in nodes if node not in late]
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute("." * node.level + (node.module or ""), package)
            found |= {base} | {f"{base}.{name.name}" for name in node.names}
    return found


def cython_imports(path: Path) -> set[str]:
    """Modules a .pyx or .pxd imports or cimports."""
    package = module_name(path).rpartition(".")[0]
    found: set[str] = set()
    for base, names, plain in CIMPORT.findall(path.read_text()):
        if plain:
            found.add(plain)
            continue
        whole = absolute(base, package)
        found |= {whole} | {f"{whole}.{name.strip(' (')}" for name in names.split(",")}
    return found


def imports(path: Path, module_level: bool = False) -> set[str]:
    """Modules a source file imports."""
    return python_imports(path, module_level) if path.suffix == ".py" else cython_imports(path)


def ours(found: set[str]) -> set[str]:
    """Second-level names of kfix_md among dotted names: {"_codec", "errors"}."""
    return {name.split(".")[1] for name in found if name.startswith("kfix_md.")}


def sources(folder: str) -> list[Path]:
    """Every source file below a folder of the project."""
    return [path for path in sorted((ROOT / folder).rglob("*.p*")) if path.suffix in (".py", ".pyx", ".pxd")]


@pytest.mark.parametrize("name", CORE)
def test_core_modules_import_only_what_is_below_them(name):
    for path in (ROOT / "kfix_md").glob(f"{name}.p*"):
        if path.suffix in (".pyx", ".pxd"):
            own = {module for module in ours(imports(path)) if (ROOT / "kfix_md" / f"{module}.pxd").exists()
                   or (ROOT / "kfix_md" / f"{module}.py").exists()}
            assert own <= CORE[name] | {name}, path


def test_nothing_in_the_core_knows_session_or_connector():
    for path in sources("kfix_md"):
        if path.suffix in (".pyx", ".pxd"):
            above = {"session", "connector", "feed", "config", "cli", "simulator"}
            assert not ours(imports(path)) & above, path


def test_the_simulator_shares_no_code_with_what_it_tests():
    for path in sources("kfix_md/simulator"):
        found = imports(path)
        assert not ours(found) & FORBIDDEN_TO_SIMULATOR, path
        assert not {"kfix_md", "kfix_md.Handler", "kfix_md.attach"} & found, path


def test_the_package_does_not_import_the_recorder():
    for path in sources("kfix_md"):
        for name in imports(path, module_level=True):
            assert name.split(".")[0] != "recorder", path


def test_the_recorder_knows_no_session():
    for path in sources("recorder"):
        assert not ours(imports(path)) & {"session", "connector", "feed", "simulator"}, path


def test_session_has_no_io_clock_or_loop():
    for path in [ROOT / "kfix_md" / "session.py", *sources("kfix_md/session")]:
        if path.exists():
            roots = {name.split(".")[0] for name in imports(path)}
            assert not roots & {"asyncio", "uvloop", "socket", "ssl", "threading", "time", "selectors"}, path


def test_oracle_and_streams_import_nothing_of_ours():
    for path in sources("tests/oracle") + sources("tests/streams"):
        assert not {name for name in imports(path) if name.split(".")[0] in ("kfix_md", "recorder")}, path


def test_the_reader_of_import_lines_reads_them(tmp_path):
    assert "kfix_md._entry" in imports(ROOT / "kfix_md" / "_entry.pyx") | {"kfix_md._entry"}
    assert absolute("..errors", "kfix_md.cli") == "kfix_md.errors"
    assert absolute(".follow", "tests.oracle") == "tests.oracle.follow"
    assert "tests.oracle.codec" in imports(ROOT / "tests" / "oracle" / "book.py")


def test_import_of_the_package_is_light():
    code = "import sys, kfix_md; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "kfix_md" in loaded
    assert not set(HEAVY) & set(loaded)
