"""Imports point one way: every import and cimport of the tree, late ones included, against the layers of the design."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: The layers, lowest first: group -> the modules or packages in it. A group may import itself and any group that
#: ALLOWED names for it; docs/architecture.md shows the same picture.
GROUPS = {
    "base": (
        "kfix_md",
        "kfix_md.child",
        "kfix_md.errors",
        "kfix_md.symbol_text",
        "kfix_md.progress",
        "kfix_md.log_output",
        "kfix_md.log_events",
        "kfix_md.disk",
        "kfix_md.metrics_server",
        "kfix_md.services",
        "kfix_md.trading_day",
        "kfix_md._state",
        "kfix_md._entry",
        "kfix_md._ids",
        "kfix_md.display",
    ),
    "decode": (
        "kfix_md._frame",
        "kfix_md._fields",
        "kfix_md._codec",
        "kfix_md._stream",
        "kfix_md._tick_buffer",
        "kfix_md._list_rows",
        "kfix_md.instruments",
    ),
    "book": ("kfix_md._book", "kfix_md._book_l3", "kfix_md._checksum"),
    "shm": ("kfix_md.shm",),
    # what is recorded, apart from how: the session reports it without knowing of a journal
    "events": ("kfix_md.journal.events",),
    "journal": ("kfix_md.journal",),
    "session": ("kfix_md.session",),
    "handler": (
        "kfix_md._symbols",
        "kfix_md._decode",
        "kfix_md._recorded",
        "kfix_md._market_data",
        "kfix_md._handler",
        "kfix_md._follow",
        "kfix_md.follower",
        "kfix_md.view",
    ),
    "config": ("kfix_md.config", "kfix_md.config_fields"),
    "feed": ("kfix_md.feed",),
    "replication": ("kfix_md.replication",),
    "probe": ("kfix_md.probe",),
    "recorder": ("recorder",),
    "simulator": ("kfix_md.simulator",),
    "cli": ("kfix_md.cli", "kfix_md.__main__"),
}
ALLOWED = {
    "base": set(),
    "decode": {"base"},
    "book": {"base"},
    "shm": {"base"},
    "events": {"base"},
    "journal": {"base", "events"},
    "session": {"base", "decode", "events"},
    "handler": {"base", "decode", "book", "shm", "events", "journal", "session"},
    "config": {"base", "shm"},
    "feed": {"base", "decode", "shm", "events", "journal", "session", "handler", "config"},
    "replication": {"base", "shm", "journal", "config", "feed"},
    "probe": {"base", "decode", "handler", "session", "config", "feed"},
    "recorder": {"base", "decode", "book", "shm", "events", "journal", "handler", "config"},
    "simulator": {"base"},
    "cli": {"base", "decode", "shm", "journal", "handler", "config", "feed", "replication", "probe"},
}
#: (module, what it imports) that crosses a layer on purpose, and why.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("kfix_md", "kfix_md._handler.Handler"): "public names, for type checkers; loaded when first used",
    **{
        ("kfix_md", f"kfix_md.shm.{name}"): "public names, for type checkers; loaded when first used"
        for name in ("attach.Book", "attach.Feed", "attach.feeds", "attaching.attach")
    },
    ("kfix_md.cli.demo", "kfix_md.simulator.control.Control"): "the demo runs a venue of its own and steers it",
    ("kfix_md.cli", "kfix_md._book.crc_uses_clmul"): "`kfix --version` names the instruction set",
    ("kfix_md.cli", "recorder.schema.VERSION"): "`kfix --version` names every layout",
    ("recorder.cli", "kfix_md.feed.notify.Notifier"): "the recorder reports to its service manager as the feed does",
    ("recorder.cli", "kfix_md.feed.processes.supervise"): "kfix record runs one process per service as the feed does",
}

HEAVY = (
    "pyarrow",
    "uvloop",
    "click",
    "rich",
    "pydantic",
    "prometheus_client",
    "aiofastnet",
    "cryptography",
    "trustme",
    "simplefix",
    "zstandard",
    "asyncio",
    "recorder",
    "pandas",
    "polars",
    "nats",
)


def module_name(path: Path) -> str:
    """Dotted name of a source file."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(path: Path) -> str:
    """Dotted name of the package that relative imports of a file start from."""
    return ".".join(path.relative_to(ROOT).parts[:-1])


def absolute(target: str, package: str) -> str:
    """A possibly relative module name made absolute within `package`."""
    dots = len(target) - len(target.lstrip("."))
    if not dots:
        return target
    kept = package.split(".")[: len(package.split(".")) - (dots - 1)]
    return ".".join([*kept, target[dots:]]).rstrip(".")


def python_imports(text: str, package: str) -> set[str]:
    """Modules that Python source imports anywhere, functions and TYPE_CHECKING blocks included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute("." * node.level + (node.module or ""), package)
            found |= {f"{base}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                found.add(absolute(target.value, package))
    return found


_TEXT = re.compile(r"\"\"\".*?\"\"\"|'''.*?'''|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|#[^\n]*", re.DOTALL)
_FROM = re.compile(r"^\s*from\s+([\w.]+)\s+c?import\s*(\([^)]*\)|[^\n;]*)", re.MULTILINE)
_PLAIN = re.compile(r"^\s*c?import\s+([^\n;]*)", re.MULTILINE)


def cython_imports(text: str, package: str) -> set[str]:
    """Modules that Cython source imports or cimports, lists over several lines included."""
    code = _TEXT.sub(" ", text).replace("\\\n", " ")
    found: set[str] = set()
    for base, names in _FROM.findall(code):
        whole = absolute(base, package)
        listed = [name.split(" as ")[0].strip() for name in names.strip("() \n").split(",")]
        found |= {f"{whole}.{name}" for name in listed if name}
    for names in _PLAIN.findall(code):
        found |= {absolute(name.split(" as ")[0].strip(), package) for name in names.split(",")}
    return found


def imports(path: Path) -> set[str]:
    """Names a source file imports: modules, or members of modules as `module.member`."""
    read = python_imports if path.suffix in (".py", ".pyi") else cython_imports
    return read(path.read_text(), package_of(path))


def group_of(name: str) -> str | None:
    """The group of a dotted name, or None when it is not ours."""
    best = ""
    for group, members in GROUPS.items():
        for member in members:
            if (name == member or name.startswith(member + ".")) and len(member) > len(best):
                best, found = member, group
    if not best or (best == "kfix_md" and name.count(".") and _is_module(name)):
        return None if not best else f"{name}, which is in no group"
    return found


def _is_module(name: str) -> bool:
    stem = ROOT / Path(*name.split("."))
    return stem.is_dir() or any(stem.with_suffix(end).exists() for end in (".py", ".pyx", ".pxd"))


def sources(folder: str) -> list[Path]:
    """Every source file below a folder of the project."""
    kinds = (".py", ".pyi", ".pyx", ".pxd")
    return [path for path in sorted((ROOT / folder).rglob("*.p*")) if path.suffix in kinds]


SHIPPED = [*sources("kfix_md"), *sources("recorder")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_points_down(path):
    name = module_name(path)
    own = group_of(name)
    assert own in GROUPS, f"{name} is in no group"
    for target in sorted(imports(path)):
        group = group_of(target)
        if group is None or group == own or (name, target) in EXCEPTIONS:
            continue
        assert group in ALLOWED[own], f"{name} ({own}) imports {target} ({group})"


def test_the_allowed_arrows_make_no_circle():
    order: list[str] = []
    while len(order) < len(GROUPS):
        ready = [group for group in GROUPS if group not in order and ALLOWED[group] <= set(order)]
        assert ready, f"a circle among {set(GROUPS) - set(order)}"
        order += ready


def test_every_exception_is_still_needed():
    for name, target in EXCEPTIONS:
        (path,) = [path for path in SHIPPED if module_name(path) == name and target in imports(path)][:1] or [None]
        assert path is not None, f"{name} no longer imports {target}"


def test_session_has_no_io_clock_or_loop():
    for path in sources("kfix_md/session"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"asyncio", "uvloop", "socket", "ssl", "threading", "selectors"}, path


def test_oracle_and_streams_import_nothing_of_ours():
    for path in sources("tests/oracle") + sources("tests/streams"):
        assert not {name for name in imports(path) if name.split(".")[0] in ("kfix_md", "recorder")}, path


CYTHON_FORMS = '''
"""from kfix_md.hidden cimport in_a_docstring"""
from kfix_md._entry cimport (
    STATE_LIVE,     # from kfix_md.hidden cimport in_a_comment
    TopOfBook,
)
from kfix_md._book cimport Book, crossed as is_crossed
from kfix_md.shm.writer cimport *
cimport kfix_md._ids as ids, cython
import kfix_md.errors
from .sibling import \\
    continued
cdef extern from "c/scan.h":
    int f()
def late():
    from kfix_md.view import BookView
'''


def test_the_reader_of_cython_imports_reads_every_form():
    assert cython_imports(CYTHON_FORMS, "kfix_md.shm") == {
        *("kfix_md._entry.STATE_LIVE", "kfix_md._entry.TopOfBook", "kfix_md._book.Book", "kfix_md._book.crossed"),
        *("kfix_md.shm.writer.*", "kfix_md._ids", "cython", "kfix_md.errors", "kfix_md.shm.sibling.continued"),
        "kfix_md.view.BookView",
    }


PYTHON_FORMS = """
import kfix_md.errors
from . import writer
from ..errors import FeedDead
if TYPE_CHECKING:
    from kfix_md.config import Config
def late():
    import importlib
    from recorder import open
    importlib.import_module("kfix_md.feed.process")
"""


def test_the_reader_of_python_imports_reads_late_ones():
    assert python_imports(PYTHON_FORMS, "kfix_md.shm") == {
        *("kfix_md.errors", "kfix_md.shm.writer", "kfix_md.errors.FeedDead", "kfix_md.config.Config"),
        *("importlib", "recorder.open", "kfix_md.feed.process"),
    }


def test_a_wrong_arrow_is_found():
    assert group_of("kfix_md.feed.service.Service") == "feed"
    assert group_of("kfix_md._book.Book") == "book"
    assert group_of("numpy.array") is None
    assert "feed" not in ALLOWED["session"]


def test_import_of_the_package_is_light():
    code = "import sys, kfix_md; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "kfix_md" in loaded
    assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("kfix_md._handler", "kfix_md.session.machine"),
        ("recorder.player", "kfix_md.shm.attach"),
        ("kfix_md.shm.attaching", "numpy"),  # the playing process is started first, and imports at the same time
    ],
)
def test_a_replay_begins_without_what_it_does_not_need(name, without):
    code = f"import sys, {name}; print({without!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
