"""Documentation and examples agree with the code: keys and defaults, states, metrics."""

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from kfix_md import config
from kfix_md._entry import State
from kfix_md.feed.metrics import _FAULTS, _GAUGES, COUNTERS
from recorder import metrics as recorder_metrics

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
#: Defaults that depend on something else, as the table describes them.
DESCRIBED = {"symbols_max", "port", "target_comp_id", "trades", "tls_name", "tls_ca", "securities", "logon_fields"}


def table(section):
    """{key: text of the default} of one section of docs/configuration.md."""
    heading = "## [[service]]" if section == "service" else f"## [{section}]"
    text = CONFIGURATION.partition(heading)[2].partition("\n## ")[0]
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            keys, default = (cell.strip() for cell in line.split("|")[1:3])
            rows |= dict.fromkeys(re.findall(r"`([a-z_]+)`", keys), default)
    return rows


def as_documented(key, known):
    """A default as the table shows it."""
    value = known.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    if key == "mode":
        return f'`"{value:04o}"`'
    if key == "rollover":
        return f'`"{value // 3600:02d}:{value % 3600 // 60:02d}"`'
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"`{value:g}`"
    return f'`"{value}"`' if isinstance(value, str | Path) else f"`{value}`"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_examples_are_good_configurations(path):
    assert config.load(path).service


@pytest.mark.parametrize("section", ["feed", "service", "journal", "recorder", "metrics"])
def test_every_key_is_documented_with_its_default(section):
    fields, rows = config.SECTIONS[section].model_fields, table(section)
    assert set(rows) == set(fields)
    for key, known in fields.items():
        if key not in DESCRIBED or section in ("metrics", "journal", "recorder"):
            assert rows[key] == as_documented(key, known), key


def test_states_and_metrics_are_documented():
    for state in State:
        assert state.name in OPERATIONS, state
    recorder = [f"recorder_{name}_total" for name in recorder_metrics.COUNTERS]
    for name in [f"{name}_total" for name in (*COUNTERS, *_FAULTS)] + [*_GAUGES, *recorder]:
        assert f"`{name}`" in OPERATIONS, name
