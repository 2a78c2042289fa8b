"""Public names are fully typed: mypy and pyright find no error, and no Any in a user's script."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STRATEGY = Path(__file__).with_name("strategy.py")
BIN = Path(sys.executable).parent
PYRIGHT = shutil.which("pyright", path=os.pathsep.join([str(BIN), os.environ.get("PATH", "")]))


@pytest.fixture(scope="module")
def diagnostics(tmp_path_factory) -> list[dict]:
    """What pyright reports about the strategy script, in a folder of its own as a user has it."""
    if PYRIGHT is None:
        pytest.skip("pyright is not installed (it is in the extra 'test')")
    folder = tmp_path_factory.mktemp("strategy")
    script = shutil.copy(STRATEGY, folder)
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}))
    done = subprocess.run(
        [PYRIGHT, "--outputjson", "--pythonpath", sys.executable, "-p", folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    try:
        found: list[dict] = json.loads(done.stdout)["generalDiagnostics"]
    except (ValueError, KeyError):
        pytest.skip(f"pyright does not run here: {(done.stderr or done.stdout)[-200:]}")
    assert Path(script).exists()
    return found


def test_a_strategy_script_has_no_type_error(diagnostics):
    assert [each["message"] for each in diagnostics if each["severity"] == "error"] == []


def test_every_public_name_of_a_strategy_script_has_a_type(diagnostics):
    revealed = [each["message"] for each in diagnostics if each["message"].startswith("Type of")]
    assert len(revealed) == STRATEGY.read_text().count("reveal_type(")
    vague = [text for text in revealed if re.search(r"\b(Any|Unknown|object)\b", text.split('" is "')[1])]
    assert vague == []


def test_the_strategy_script_compiles_and_names_only_what_exists():
    """Runs where pyright is not installed, too."""
    import kfix_md

    text = STRATEGY.read_text()
    compile(text, str(STRATEGY), "exec")
    assert all(hasattr(kfix_md, name) for name in re.findall(r"kfix_md\.(\w+)", text))
