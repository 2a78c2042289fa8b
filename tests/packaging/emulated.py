"""Runs the tests of compiled code on processors that this machine is not, by qemu's user emulation (`make emulated`).

x86-64 with SSE4.2 alone (Nehalem) and with AVX2 but not AVX-512 (Haswell) run the modules that `make` built. For ARM64
gcc compiles, zig links, and the wheel is installed in a tree of Debian's own ARM64 packages, unpacked in build/emulated
and never installed; the demo and a comparison of `kfix inspect` with this machine's run there as well. Right answers
are what this shows: an emulator has no timing. What cannot run here is skipped, with the reason.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.packaging.check import IMPORT_ALL, ROOT, clean_environment, run
from tests.packaging.wheels import INSTRUCTIONS, build, check_stripped, tool_environment

WORK = ROOT / "build" / "emulated"
# the tests of compiled code; oracle, streams and commands are Python, which an emulator runs thirty times slower. First
# those of what has a form for each instruction set.
TESTED = (
    "tests/core/test_numbers.py",
    "tests/core/test_instruction_sets.py",
    "tests/core/test_checksum_rules.py",
    "tests/core/test_book.py",
    "tests/core/test_handler.py",
    "tests/core/test_hostile.py",
    "tests/core/test_mutated.py",
    "tests/core/test_depth_and_faults.py",
    "tests/core/test_states.py",
    "tests/core/test_surprises.py",
    "tests/journal/test_journal.py",
)
DEBIAN = ("python3.11", "libpython3.11-dev", "libstdc++6")
INSPECTED = """
import sys
from tests.streams import SERVICES, generate
for service in SERVICES:
    open(f"{sys.argv[1]}/{service}.fix", "wb").write(generate(service, symbols=3, messages=400, depth=14).data)
"""


def main(names: list[str]) -> None:
    """Run each of the named processors, or all."""
    for name in names or list(PROCESSORS):
        needed, check = PROCESSORS[name]
        missing = [tool for tool in needed if shutil.which(tool) is None]
        if missing:
            print(f"{name}: skipped, {' and '.join(missing)} not installed", flush=True)
            continue
        shutil.rmtree(WORK / name, ignore_errors=True)
        (WORK / name).mkdir(parents=True)
        check(name)


def x86(name: str) -> None:
    """The tests with the modules of this tree on one of qemu's x86-64 processors."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    python = launcher(WORK / name / "python", ["qemu-x86_64-static", "-cpu", name], Path(sys.executable).resolve())
    environment = clean_environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT), *packages])}
    pytest(name, python, ROOT, environment)


def aarch64(name: str) -> None:
    """The wheel for ARM64: built, installed, the tests, and `kfix inspect` as on this machine."""
    root = debian_tree(WORK / name / "root")
    python = launcher(root / "usr/bin/python", ["qemu-aarch64-static", "-L", str(root)], root / "usr/bin/python3.11")
    tools = tool_environment(WORK / name / "tools")
    print(f"{name}: compiling, some minutes", flush=True)
    cross = cross_environment(root)
    _, wheel = build(WORK / name, tools, "aarch64", cross)
    check_stripped(wheel)
    # the packages of ARM64, without running anything of them
    tags = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (17, 28)]
    pip = [str(tools), "-m", "pip", "install", "-q", "--only-binary=:all:", *tags, "--python-version=3.11"]
    site = root / "usr/lib/python3/dist-packages"
    wanted = [f"{wheel}[nats,operator,simulator]", "pytest", "hypothesis", "pandas"]
    run([*pip, "--target", str(site), *wanted], env=clean_environment())
    environment = clean_environment()
    work = WORK / name
    found = run([str(python), "-c", INSTRUCTIONS], cwd=work, env=environment).split()
    assert found == ["scalar", "True"], f"the wheel uses {found}, where qemu has the CRC and PMULL instructions"
    count = run([str(python), "-c", IMPORT_ALL], cwd=work, env=environment).strip()
    print(f"{wheel.name}: installed, {count} modules imported", flush=True)
    # not the demo: its shared memory is a sparse file of more than 16 GiB, which qemu 7.2 does not map
    compare_inspect(python, work, environment)
    pytest(name, python, tested_tree(work / "tree", wheel, cross, tools), environment)
    (ROOT / "dist").mkdir(exist_ok=True)
    shutil.copy(wheel, ROOT / "dist")
    print(f"{name}: dist/{wheel.name}", flush=True)


def launcher(path: Path, emulator: list[str], python: Path) -> Path:
    """A script that is Python under the emulator, also for the children that Python starts; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(emulator)} -0 "$0" {shlex.quote(str(python))} "$@"\n')
    path.chmod(0o755)
    return path


def debian_tree(root: Path) -> Path:
    """Python and its libraries of Debian 12 for ARM64, unpacked by dpkg; apt's lists and files are in the tree."""
    apt = root.parent / "apt"
    for folder in (apt / "lists/partial", apt / "cache/archives/partial", root):
        folder.mkdir(parents=True)
    (apt / "status").touch()
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keys}] http://deb.debian.org/debian bookworm main\n")
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "1",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt / "cache",
    }
    command = ["apt-get", "-qq", "-y", *(f"-o{name}={value}" for name, value in options.items())]
    run([*command, "update"])
    run([*command, "install", "--no-install-recommends", "--download-only", *DEBIAN])
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        run(["dpkg", "-x", str(package), str(root)])
    return root


def cross_environment(root: Path) -> dict[str, str]:
    """What setuptools and sysconfig take the compiler, the headers, the suffix and the platform from."""
    return {
        "CC": "aarch64-linux-gnu-gcc",
        "LDSHARED": "aarch64-linux-gnu-gcc -shared",
        "CFLAGS": f"-I{root}/usr/include/python3.11 -idirafter {root}/usr/include",
        "SETUPTOOLS_EXT_SUFFIX": ".cpython-311-aarch64-linux-gnu.so",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    }


def tested_tree(tree: Path, wheel: Path, cross: dict[str, str], tools: Path) -> Path:
    """A copy of the source tree with the wheel's modules and the tests' helpers compiled for ARM64."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "build", "dist", ".*", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=ignored)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tree, [name for name in archive.namelist() if name.endswith(".so")])
    environment = clean_environment() | cross | {"KFIX_TESTS_ONLY": "1"}
    run([str(tools), "setup.py", "-q", "build_ext", "--inplace"], cwd=tree, env=environment)
    return tree


def compare_inspect(python: Path, work: Path, environment: dict[str, str]) -> None:
    """`kfix inspect` of a stream of each service prints the same as on this machine."""
    run([sys.executable, "-c", INSPECTED, str(work)], cwd=ROOT)
    for stream in sorted(work.glob("*.fix")):
        command = ["-m", "kfix_md", "inspect", str(stream)]
        here = run([sys.executable, *command], cwd=ROOT, env=clean_environment() | {"PYTHONPATH": str(ROOT)})
        there = run([str(python), *command], cwd=work, env=environment)
        assert here == there and here.strip(), f"inspect of {stream.name} differs:\n{here}\n{there}"
        print(f"aarch64: {len(here.splitlines())} lines of kfix inspect {stream.name} equal", flush=True)


def pytest(name: str, python: Path, tree: Path, environment: dict[str, str]) -> None:
    """Run the tests, a line for each file; SystemExit with pytest's output when one fails."""
    for file in TESTED:
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", file]
        output = run(command, cwd=tree, env=environment)
        print(f"{name}: {file}: {output.strip().splitlines()[-1]}", flush=True)


PROCESSORS: dict[str, tuple[tuple[str, ...], Callable[[str], None]]] = {
    "Nehalem": (("qemu-x86_64-static",), x86),
    "Haswell": (("qemu-x86_64-static",), x86),
    "aarch64": (("qemu-aarch64-static", "aarch64-linux-gnu-gcc", "gcc", "apt-get", "dpkg"), aarch64),
}

if __name__ == "__main__":
    main(sys.argv[1:])
