"""docs/architecture.md names every module and file that it is about."""

from __future__ import annotations

import re

import pytest

from tests.docs.modules import PAGE, ROOT, modules, rewritten, sentence


def test_the_table_of_modules_is_that_of_the_tree():
    page = PAGE.read_text()
    assert rewritten(page) == page, "run: python -m tests.docs.modules"


def test_every_module_begins_with_a_sentence():
    assert len(modules()) > 100
    for path in modules():
        assert len(sentence(path).split()) >= 3, f"{path.relative_to(ROOT)}: {sentence(path)!r}"


def test_a_module_without_a_sentence_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.modules.ROOT", tmp_path)
    path = tmp_path / "silent.py"
    path.write_text("import os\n")
    with pytest.raises(ValueError, match=r"silent\.py does not begin with a sentence"):
        sentence(path)
    path.write_text('# cython: x=True\n"""Does one thing: this. And more."""\n')
    assert sentence(path) == "Does one thing: this"


#: paths as the documents write them: with a folder of the project in front
_PATH = re.compile(r"(?<![\w/.-])((?:kfix_md|recorder|tests|benchmarks|docs|examples)/[\w./-]*\w)")
_PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", _PAGES, ids=lambda path: path.name)
def test_the_files_that_a_page_names_exist(page):
    named = {match.rstrip("/") for match in _PATH.findall(page.read_text())}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
