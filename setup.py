"""Build of the Cython modules; metadata is in pyproject.toml.

Environment variables, all for developers:

KFIX_SANITIZE=1       both sanitizers and gcc's coverage counters (`make sanitize`, `make fuzz`)
KFIX_COVERAGE=1       line tracing of Cython code (`make coverage`)
KFIX_ABI3=1           one build for every CPython from 3.11 on, by the limited API (`make abi3`)
KFIX_TESTS_ONLY=1     only the tests' helpers: the other modules are those of a wheel (`make shipped`)
KFIX_NO_EXTENSIONS=1  none: `make` installs the package first and builds its modules in place, once

`setup.py build_ext --inplace` also builds the compiled helpers of the tests, which are never packaged.
"""

import os
import sys
import sysconfig
import threading
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group


def switched_on(name: str) -> bool:
    """Whether the environment variable KFIX_<name> is "1"."""
    return os.environ.get(f"KFIX_{name}") == "1"


CFLAGS = ["-O3", "-Wall", "-Wextra", "-fno-strict-aliasing"]
# Cython's own output trips these two in every module
CFLAGS += ["-Wno-unused-parameter", "-Wno-cast-function-type", "-Wno-missing-field-initializers"]
# resolved at start and read-only from then on; arrays of char on the stack are guarded
CFLAGS += ["-fstack-protector"]
LDFLAGS = ["-Wl,-z,relro,-z,now"]
MACROS: list[tuple[str, str | None]] = []
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    # Cython's own pickling ends the process without `binding`: a class has a __reduce__ or is a TypeError to pickle
    "auto_pickle": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",  # what inspect.signature reads
    # the interpreter's own method descriptors check what `self` is; Cython's functions do not, and Book.top(None) would
    # read whatever is there
    "binding": False,
    "allow_none_for_extension_args": False,
}
BUILD_DIR: str | None = "build/cython"

if sysconfig.get_platform() == "linux-x86_64":  # what is built for: _PYTHON_HOST_PLATFORM names another
    # what pyarrow requires of the machine too; anything newer is chosen at run time
    CFLAGS += ["-msse4.2", "-mpopcnt"]
if not any(switched_on(name) for name in ("SANITIZE", "COVERAGE")):
    CFLAGS += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
LINKED_IN: list[str] = []  # C files that are part of every module
if switched_on("SANITIZE"):
    # a null pointer is a SEGV that AddressSanitizer reports: asking before each use takes a quarter of the build
    CFLAGS += ["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize=null"]
    CFLAGS += ["-fno-sanitize-recover=undefined", "-fsanitize-coverage=trace-pc,trace-cmp"]
    LINKED_IN += ["tests/fuzz/coverage.c"]
if switched_on("COVERAGE"):
    CFLAGS += ["-O0"]
    MACROS += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]
    DIRECTIVES |= {"linetrace": True}
    BUILD_DIR = None  # the coverage plugin looks for the generated C next to its source

ABI3 = switched_on("ABI3")
if ABI3:
    MACROS += [("Py_LIMITED_API", "0x030B0000")]
    BUILD_DIR = "build/cython-abi3"

FOLDERS = ["kfix_md", "recorder"]
ROOT = Path(__file__).parent
if "--inplace" in sys.argv and (ROOT / "tests").is_dir():
    FOLDERS = ["tests"] if switched_on("TESTS_ONLY") else [*FOLDERS, "tests"]
HEADERS = [str(header.relative_to(ROOT)) for header in sorted((ROOT / "kfix_md").rglob("*.h"))]


def extensions(folder: str) -> list[Extension]:
    """The compiled modules of one package; SystemExit when its sources are missing."""
    sources = [path.relative_to(ROOT) for path in sorted((ROOT / folder).rglob("*.pyx"))]
    if not sources:
        sys.exit(f"setup.py: {folder} has no .pyx files; this is not a complete source tree")
    return [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            include_dirs=["kfix_md"],
            define_macros=MACROS,
            extra_compile_args=CFLAGS,
            extra_link_args=LDFLAGS,
            depends=HEADERS + LINKED_IN,
            py_limited_api=ABI3,
        )
        for source in sources
    ]


def modules() -> list[Extension]:
    """Every compiled module, or none under KFIX_NO_EXTENSIONS."""
    if switched_on("NO_EXTENSIONS"):
        return []
    found = [extension for folder in FOLDERS for extension in extensions(folder)]
    cores = os.cpu_count() or 1
    return cythonize(found, build_dir=BUILD_DIR, nthreads=cores, compiler_directives=DIRECTIVES)


class BuildModules(build_ext):
    """Prints its progress; links without the library folders of the interpreter: modules load nothing from them.

    What every module has of its own is compiled once, before the modules, which are compiled at the same time.
    """

    def build_extensions(self) -> None:
        """Build every module."""
        self.compiler.linker_so = [part for part in self.compiler.linker_so if not part.startswith("-Wl,-rpath")]
        for (
            extension
        ) in self.extensions:  # not by setuptools in several threads at once, one of which may come too early
            for source in extension.sources:
                Path(self.build_temp, source).parent.mkdir(parents=True, exist_ok=True)
        shared = self.compiler.compile(LINKED_IN, output_dir=self.build_temp, extra_postargs=CFLAGS)
        for extension in self.extensions:
            extension.extra_objects += shared
        self.waiting = [extension.name for extension in self.extensions if self.is_outdated(extension)]
        self.to_build, self.lock = len(self.waiting), threading.Lock()
        super().build_extensions()

    def is_outdated(self, extension: Extension) -> bool:
        """Whether a module has to be compiled."""
        needed = [*extension.sources, *extension.depends]
        return bool(self.force) or newer_group(needed, self.get_ext_fullpath(extension.name), "newer")

    def build_extension(self, ext: Extension) -> None:
        """Build one module, and print how many of them are done: all of them take minutes."""
        super().build_extension(ext)
        with self.lock:  # several are built at a time
            if ext.name in self.waiting:
                self.waiting.remove(ext.name)
                print(f"compiled {self.to_build - len(self.waiting)} of {self.to_build}: {ext.name}", flush=True)


if __name__ == "__main__":
    setup(
        ext_modules=modules(),
        cmdclass={"build_ext": BuildModules},
        options={"build_ext": {"parallel": os.cpu_count() or 1}}
        | ({"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {}),
    )
