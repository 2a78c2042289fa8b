"""CHANGELOG.md names the layouts of the current version, in the form of Keep a Changelog."""

from __future__ import annotations

import re
from pathlib import Path

from kfix_md import __version__
from kfix_md.journal import layout as journal
from kfix_md.shm.layout import number
from recorder import schema

PAGE = (Path(__file__).resolve().parents[2] / "CHANGELOG.md").read_text()


def test_the_newest_release_has_the_layouts_of_this_tree():
    newest = re.search(r"^\| (\d+\.\d+\.\d+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert newest, "the table of layouts"
    assert newest.groups() == (__version__, str(number()), str(journal.VERSION), schema.VERSION)
    assert re.search(r"^## \[([^\]]+)\]", PAGE, re.MULTILINE)[1] == __version__


def test_every_change_is_in_a_section():
    sections = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    before = PAGE.partition("### ")[0]
    assert sections and "\n- " not in before
