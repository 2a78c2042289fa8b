"""The layout is one: C compiler, numpy dtype, Cython declarations and the manual agree to the byte."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import kfix_md
from kfix_md import Cause, State
from kfix_md.shm import writer as _shm
from kfix_md.shm.layout import BLOCKS, dtype, table
from tests.shm.conftest import Desk

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_compiler_and_numpy_agree_on_every_field(tmp_path):
    want, lines = [], []
    for block in BLOCKS:
        want.append(f"{block} {dtype(block).itemsize}")
        lines.append(f'printf("{block} %zu\\n", sizeof(struct kfix_{block}));')
        for name, (kind, at, *_) in dtype(block).fields.items():
            want.append(f"{block}.{name} {at} {kind.itemsize}")
            lines.append(
                f'printf("{block}.{name} %zu %zu\\n", offsetof(struct kfix_{block}, {name}), '
                f"sizeof(((struct kfix_{block} *)0)->{name}));"
            )
    source = tmp_path / "layout.c"
    source.write_text(
        '#include <stdio.h>\n#include "kfix_shm.h"\nint main(void) {\n' + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    command = [
        COMPILER,
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-I",
        kfix_md.get_include(),
        source,
        "-o",
        tmp_path / "layout",
    ]
    subprocess.run(command, check=True)
    output = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout
    assert output.splitlines() == want


def enumerators(kind: str) -> dict[str, int]:
    """name -> number of `enum kfix_KIND` of the header."""
    text = (Path(kfix_md.get_include()) / "kfix_shm.h").read_text()
    body = re.search(rf"^enum kfix_{kind} \{{\n(.*?)^\}};", text, re.M | re.S)
    return {name: int(code) for name, code in re.findall(rf"KFIX_{kind.upper()}_(\w+) = (\d+)", body[1])}


@pytest.mark.parametrize("kind", [State, Cause])
def test_the_header_names_every_code(kind):
    assert enumerators(kind.__name__.lower()) == {each.name: each.value for each in kind}


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_c_programs_see_names_and_trusted_states(tmp_path):
    source = tmp_path / "names.c"
    source.write_text(
        '#include <stdio.h>\n#include "kfix_shm.h"\n'
        "int main(void) {\n"
        f"for (int i = 0; i <= {len(State)}; i++)\n"
        'printf("%s %d\\n", kfix_state_name(i), kfix_is_trusted(i));\n'
        f"for (int i = 0; i <= {len(Cause)}; i++)\n"
        'printf("%s\\n", kfix_cause_name(i));\n'
        "return 0;\n}\n"
    )
    subprocess.run(
        [COMPILER, "-Wall", "-Werror", "-I", kfix_md.get_include(), source, "-o", tmp_path / "n"], check=True
    )
    output = subprocess.run([tmp_path / "n"], check=True, capture_output=True, text=True).stdout.splitlines()
    trusted = (State.LIVE, State.EMPTY)
    assert output[: len(State) + 1] == [f"{state.name} {int(state in trusted)}" for state in State] + ["UNKNOWN 0"]
    assert output[len(State) + 1 :] == [*Cause.__members__, "UNKNOWN"]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_manual_shows_the_layout_as_it_is(block):
    assert table(block) in (ROOT / "docs" / "shared_memory.md").read_text()


def test_version_and_magic_are_the_header_s():
    text = Path(kfix_md.get_include(), "kfix_shm.h").read_text()
    assert int(re.search(r"KFIX_LAYOUT +(\d+)u", text)[1]) == _shm.LAYOUT
    assert _shm.MAGIC.to_bytes(8, "little") == b"KFIXSHM1"


def test_a_numpy_reader_finds_everything_by_the_header_s_offsets(tmp_path):
    """The file read by dtypes alone, as a program in another language would."""
    desk = Desk(tmp_path, depth=30)
    desk.writer.set_session(2, service="spot-l2", messages=7)
    data = np.memmap(desk.writer.path, mode="r")
    header = data[: dtype("header").itemsize].view(dtype("header"))[0]
    assert header["layout"] == 2 and header["name"] == b"desk" and header["file_bytes"] == len(data)
    at = int(header["symbols_offset"])
    (symbol,) = data[at : at + int(header["n_symbols"]) * int(header["symbol_bytes"])].view(dtype("symbol"))
    assert symbol["symbol"] == b"BTC/USD" and symbol["price_precision"] == 1

    def block(name: str, offset: int, n: int = 1) -> np.ndarray:
        return data[offset : offset + n * dtype(name).itemsize].view(dtype(name))

    top = block("top", int(symbol["top_offset"]))[0]
    assert (top["bid"], top["ask_qty"], top["state"], top["version"] % 2) == (280030, 96506, 2, 0)
    best = block("best", int(symbol["best_offset"]))[0]
    assert best["bids"]["price"][: best["n_bids"]].tolist() == [280030, 279999, 279699]
    levels = block("level", int(symbol["depth_offset"]) + 64, 60)
    assert levels["price"][:3].tolist() == [279699, 279999, 280030]
    assert levels["price"][30:32].tolist() == [280398, 280130]
    sessions = block("session", int(header["sessions_offset"]), int(header["sessions_capacity"]))
    assert sessions["service"][2] == b"spot-l2" and sessions["messages"][2] == 7
    for name in ("top_offset", "best_offset", "trades_offset", "depth_offset"):
        assert symbol[name] % 64 == 0, "blocks start on cache lines"
    desk.writer.close()
