"""Hooks of mkdocs for what lies outside docs/: README and CHANGELOG become pages, other files are copied and linked."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
#: file of the project -> page of the site
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
COPIES = "source"  # folder of the site with files of the project that pages link to
_LINK = re.compile(r"(\[[^\]\[]*\])\(([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of PAGES, and every file that a page links to."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    pages = [*files.documentation_pages()]
    for name in sorted({name for page in pages for name in linked(page.src_uri, page.content_string)}):
        if (ROOT / name).is_file():
            files.append(File.generated(config, f"{COPIES}/{name}.txt", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the project lead to their pages or copies; a folder is named without a link."""
    here = page.file.src_uri

    def changed(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        name = outside(here, target)
        if name is None:
            return found[0]
        place = PAGES.get(name) or (f"{COPIES}/{name}.txt" if (ROOT / name).is_file() else None)
        if name.startswith("docs/"):
            place = name.removeprefix("docs/")
        if place is None:
            return text[1:-1] if (ROOT / name).exists() else found[0]
        return f"{text}({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"

    return _LINK.sub(changed, markdown)


def linked(page: str, markdown: str) -> set[str]:
    """Files of the project outside docs/ that a page links to."""
    names = {outside(page, found[2]) for found in _LINK.finditer(_CODE.sub("", markdown))}
    return {name for name in names if name and name not in PAGES and not name.startswith("docs/")}


def outside(page: str, target: str) -> str | None:
    """Name of a link's target from the root of the project; None for one inside docs/ and for an address."""
    if ":" in target:
        return None
    source = next((name for name, page_name in PAGES.items() if page_name == page), f"docs/{page}")
    name = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return None if name.startswith("docs/") and source.startswith("docs/") else name
