"""What the documentation and the examples say is what the code does."""

from pathlib import Path

import pytest

from kfix_md import config
from kfix_md._entry import State
from kfix_md.feed.metrics import COUNTERS

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_examples_are_good_configurations(path):
    assert config.load(path).service


@pytest.mark.parametrize("section", ["feed", "service", "journal", "recorder", "metrics"])
def test_every_key_is_documented_with_its_default(section):
    heading = "## [[service]]" if section == "service" else f"## [{section}]"
    text = CONFIGURATION.partition(heading)[2].partition("\n## ")[0]
    for key, known in config.SECTIONS[section].model_fields.items():
        row = next((line for line in text.splitlines() if line.startswith("|") and f"`{key}`" in line), "")
        assert row, key
        if isinstance(known.default, int | str) and not isinstance(known.default, bool):
            assert f"{known.default}" in row, (key, known.default)


def test_states_and_metrics_are_documented():
    for state in State:
        assert state.name in OPERATIONS, state
    for name in COUNTERS:
        assert f"`{name}_total`" in OPERATIONS, name
