"""Build of the Cython modules; metadata is in pyproject.toml.

KFIX_SANITIZE=1 builds with AddressSanitizer and UndefinedBehaviorSanitizer (see `make sanitize`).
KFIX_NO_EXTENSIONS=1 leaves the modules out: `make` installs the package first and builds them in place, once.
"""

import os
import platform
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("KFIX_SANITIZE") == "1"
CFLAGS = ["-O3", "-Wall", "-Wextra", "-fno-strict-aliasing"]
# Cython's own output trips these two in every module
CFLAGS += ["-Wno-unused-parameter", "-Wno-cast-function-type", "-Wno-missing-field-initializers"]
if platform.machine() in ("x86_64", "AMD64"):
    # what pyarrow asks of the machine too; anything newer is chosen when it runs
    CFLAGS += ["-msse4.2", "-mpopcnt"]
LDFLAGS: list[str] = []
if SANITIZE:
    CFLAGS += [
        *("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"),
        "-fno-sanitize-recover=undefined",
    ]
    LDFLAGS = ["-fsanitize=address,undefined"]

FOLDERS = ["kfix_md", "recorder"]
if os.environ.get("KFIX_TEST_RIGS") == "1":  # compiled helpers of the tests: built in place, never packaged
    FOLDERS.append("tests")

HEADERS = [str(header) for header in sorted(Path("kfix_md").rglob("*.h"))]
extensions = [
    Extension(
        ".".join(source.with_suffix("").parts),
        [str(source)],
        include_dirs=["kfix_md"],
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
        depends=HEADERS,
    )
    for folder in FOLDERS
    for source in sorted(Path(folder).rglob("*.pyx"))
]

if os.environ.get("KFIX_NO_EXTENSIONS") == "1":
    extensions = []

setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/cython",
        nthreads=0,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
            "binding": True,
        },
    )
)
