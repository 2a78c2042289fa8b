"""Compiles what a comparison needs, when it is run, into build/bench."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
NATIVE = Path(__file__).resolve().parent / "native"
DRIVER = Path(__file__).resolve().parent / "driver.pyx"


def newer(target: Path, *sources: Path) -> bool:
    """The target is there and not older than its sources."""
    return target.exists() and all(target.stat().st_mtime >= source.stat().st_mtime for source in sources)


def run(command: list[str]) -> None:
    """A compiler's run; its output in the error when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} failed:\n{done.stderr[-2000:]}")


COMPILERS = {"cpp": (("c++", "g++", "clang++"), "-std=c++17"), "c": (("cc", "gcc", "clang"), "-std=c11")}


def library(name: str, *flags: str, suffix: str = "cpp") -> ctypes.CDLL | None:
    """native/<name>.<suffix> as a shared library; None where there is no compiler for it."""
    names, standard = COMPILERS[suffix]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        return None
    source, target = NATIVE / f"{name}.{suffix}", BUILD / f"{name}.so"
    if not newer(target, source, *NATIVE.glob("*.h")):
        BUILD.mkdir(parents=True, exist_ok=True)
        linked = [flag for flag in flags if flag.startswith("-l")]  # after what needs them
        run(
            [
                compiler,
                "-O3",
                "-march=native",
                standard,
                "-shared",
                "-fPIC",
                *(flag for flag in flags if flag not in linked),
                str(source),
                "-o",
                str(target),
                *linked,
            ]
        )
    return ctypes.CDLL(str(target))


def translated(folder: Path) -> Path:
    """driver.pyx as C, made in a folder against the core's own .pxd files."""
    generated = folder / "kfix_bench_driver.c"
    directives = "boundscheck=False,wraparound=False,cdivision=True,initializedcheck=False"
    command = [sys.executable, "-m", "cython", "-3", "-I", str(ROOT), "-X", directives]
    run([*command, "--module-name", "kfix_bench_driver", str(DRIVER), "-o", str(generated)])
    return generated


def compiling(generated: Path) -> list[str]:
    """The start of a compiler's command line for what `translated` made."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    include = ["-I", sysconfig.get_path("include"), "-I", str(ROOT / "kfix_md")]
    return [*compiler, "-fno-strict-aliasing", *include, str(generated)]


def driver() -> ModuleType:
    """driver.pyx, compiled."""
    target = BUILD / f"kfix_bench_driver{sysconfig.get_config_var('EXT_SUFFIX')}"
    headers = [*(ROOT / "kfix_md").rglob("*.pxd"), *(ROOT / "kfix_md").rglob("*.h")]
    if not newer(target, DRIVER, *headers):
        BUILD.mkdir(parents=True, exist_ok=True)
        generated = translated(BUILD)
        run([*compiling(generated), "-O3", "-shared", "-fPIC", "-o", str(target)])
    spec = importlib.util.spec_from_file_location("kfix_bench_driver", target)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{target} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
