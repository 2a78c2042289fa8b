"""Builds sdist and wheel, and runs the demo from the wheel in an empty environment (`make package`).

Not collected by pytest: it compiles the package, which takes some minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "build" / "dist"
PACKAGES = ("kfix_md", "recorder")
DEMO = ["-m", "kfix_md.cli.demo", "--seconds", "7", "--symbols", "3", "--rate", "200"]
IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
count = 0
for name in ("kfix_md", "recorder"):
    package = importlib.import_module(name)
    assert pathlib.Path(package.__file__).is_relative_to(sys.prefix), package.__file__
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
print(count)
"""


def run(command: list[str], **how: object) -> str:
    """Output of a command; SystemExit with the end of its output when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **how)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed with status {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def clean_environment(*folders: Path) -> dict[str, str]:
    """The environment without this checkout; PATH holds only `folders`, or all of it when none are given."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("KFIX_")}
    if folders:
        kept["PATH"] = os.pathsep.join(map(str, folders))
    return kept


def build(target: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from that sdist alone, as pip does; returns their paths."""
    run([sys.executable, "-m", "build", "--outdir", str(target), str(ROOT)], env=clean_environment())
    (sdist,), (wheel,) = target.glob("*.tar.gz"), target.glob("*.whl")
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> int:
    """Compare what is in both with the source tree; the number of compiled modules."""
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(ROOT)) for path in sources if path.suffix not in (".so", ".pyc")}
    missing = sorted(wanted - packed)
    assert not missing, f"the sdist lacks {missing}"
    files = zipfile.ZipFile(wheel).namelist()
    foreign = sorted(
        {name.split("/")[0] for name in files} - {*PACKAGES, *(n.split("/")[0] for n in files if ".dist-info" in n)}
    )
    assert not foreign, f"the wheel also holds {foreign}"
    compiled = sorted(name.split(".")[0] for name in files if name.endswith(".so"))
    modules = sorted(name.removesuffix(".pyx") for name in wanted if name.endswith(".pyx"))
    assert compiled == modules, f"compiled modules differ: {set(compiled) ^ set(modules)}"
    assert "kfix_md/shm/kfix_shm.h" in files and "kfix_md/py.typed" in files
    return len(compiled)


def install(folder: Path, package: Path, interpreter: str = sys.executable) -> Path:
    """A new environment of an interpreter with the package in it; its python."""
    run([interpreter, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    run([str(python), "-m", "pip", "install", "-q", f"{package}[nats,operator,simulator]"], env=clean_environment())
    return python


def check_incomplete_tree(folder: Path) -> None:
    """A tree without Cython sources must not build, instead of giving an empty package."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns("*.pyx", "*.so", ".git", ".venv", "build", "tests"))
    command = [sys.executable, "setup.py", "-q", "build"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=clean_environment())
    assert done.returncode != 0 and "not a complete source tree" in done.stderr, done.stderr


def main() -> None:
    """Every step, one line of output each."""
    with tempfile.TemporaryDirectory(prefix="kfix package ") as name:
        work = Path(name)
        check_incomplete_tree(work / "incomplete")
        print("a tree without sources does not build", flush=True)
        shutil.rmtree(DIST, ignore_errors=True)
        sdist, wheel = build(DIST)
        print(f"{sdist.name} and {wheel.name}: {check_contents(sdist, wheel)} compiled modules", flush=True)
        python = install(work / "wheel", wheel)
        without_compiler = clean_environment(python.parent)
        count = run([str(python), "-c", IMPORT_ALL], cwd=work, env=without_compiler).strip()
        print(f"{wheel.name}: installed, {count} modules imported", flush=True)
        run([str(python), *DEMO], cwd=work, env=without_compiler)
        print(f"{wheel.name}: the demo passed without a compiler on the PATH", flush=True)


if __name__ == "__main__":
    main()
