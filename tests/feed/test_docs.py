"""Documentation and examples agree with the code: keys and defaults, states, metrics."""

from pathlib import Path

import pytest

from kfix_md import config
from kfix_md._entry import State
from kfix_md.feed.metrics import _FAULTS, _GAUGES, COUNTERS
from recorder import metrics as recorder_metrics
from tests.docs import configuration

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_examples_are_good_configurations(path):
    assert config.load(path).service


def test_every_key_is_documented_with_its_default():
    page = configuration.PAGE.read_text()
    assert configuration.rewritten(page) == page, "run: python -m tests.docs.configuration"
    for section, model in config.SECTIONS.items():
        assert f"<!-- keys of {section}: begin -->" in page
        for key, field in model.model_fields.items():
            assert field.description, f"{section}.{key} has no docstring"
            assert f"| `{key}` | " in page


def test_editors_show_what_a_key_means():
    shown = config.schema()["$defs"]["FeedSection"]["properties"]["book_depth"]
    assert shown["description"] == "Levels of each side that readers can see on L2."


def test_states_and_metrics_are_documented():
    for state in State:
        assert state.name in OPERATIONS, state
    recorder = [f"recorder_{name}_total" for name in recorder_metrics.COUNTERS]
    for name in [f"{name}_total" for name in (*COUNTERS, *_FAULTS)] + [*_GAUGES, *recorder]:
        assert f"`{name}`" in OPERATIONS, name
