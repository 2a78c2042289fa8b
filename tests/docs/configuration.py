"""Writes the tables of keys in docs/configuration.md from the models: `python -m tests.docs.configuration`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from kfix_md.config import SECTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
_TABLE = re.compile(r"<!-- keys of (\w+): begin -->\n.*?<!-- keys of \1: end -->", re.DOTALL)
#: defaults that depend on something else
DEPENDENT = {
    ("feed", "symbols_max"): "by services",
    ("service", "port"): "by `name`",
    ("service", "target_comp_id"): "by `name`",
    ("service", "trades"): "L2: `true`",
    ("service", "tls_ca"): "the system's",
    ("service", "tls_name"): "`host`",
}


def default(section: str, key: str, field: Any) -> str:
    """The default of a key as the table shows it."""
    if (section, key) in DEPENDENT:
        return DEPENDENT[section, key]
    value = (field.json_schema_extra or {}).get("default", field.default)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"`{value:g}`"
    if isinstance(value, list):
        value = ", ".join(f'"{each}"' for each in value)
        return f"`[{value}]`"
    return f'`"{value}"`' if isinstance(value, str | Path) else f"`{value}`"


def table(section: str) -> str:
    """The keys of one section as markdown."""
    rows = [
        f"| `{key}` | {default(section, key, field)} | {' '.join(field.description.split())} |"
        for key, field in SECTIONS[section].model_fields.items()
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows, ""])


def rewritten(page: str) -> str:
    """The page with the tables of this tree in it."""
    return _TABLE.sub(lambda m: f"<!-- keys of {m[1]}: begin -->\n{table(m[1])}<!-- keys of {m[1]}: end -->", page)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
