"""docs/assumptions.md has the probe's own list of assumptions."""

from __future__ import annotations

from pathlib import Path

from kfix_md.probe.assumptions import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "assumptions.md"
BEGIN, END = "<!-- assumptions: begin -->\n", "<!-- assumptions: end -->"


def rewritten(page: str) -> str:
    """The page with the present table in it."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


def test_the_page_is_the_probe_s_list():
    page = PAGE.read_text()
    assert rewritten(page) == page, "run: python -m tests.probe.test_page"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
