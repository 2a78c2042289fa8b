"""Writes the table of modules in docs/architecture.md from their docstrings: `python -m tests.docs.modules`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- modules: begin -->\n", "<!-- modules: end -->"
_DOCSTRING = re.compile(r'\A(?:#[^\n]*\n)*"""(.*?)(?:"""|\n\n)', re.DOTALL)  # after directives in comments
_COMMENT = re.compile(r"\A/\*(.*?)\*/", re.DOTALL)
FOLDERS = ("kfix_md", "recorder")


def sentence(path: Path) -> str:
    """First sentence of a module's docstring, or of a header's first comment; ValueError when there is none."""
    text = path.read_text()
    found = (_COMMENT if path.suffix in (".h", ".c") else _DOCSTRING).search(text)
    if found is None:
        raise ValueError(f"{path.relative_to(ROOT)} does not begin with a sentence about what it does")
    plain = " ".join(re.sub(r"^\s*\* ?", "", line).strip() for line in found[1].splitlines()).strip()
    first = re.split(r"(?<=\.)\s", plain, maxsplit=1)[0].rstrip(".:")
    return first.replace("|", "\\|")


def modules() -> list[Path]:
    """Every source file with code of its own: .py, .pyx, .h and .c, by folder."""
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".pyx", ".h", ".c")]
    kept = [path for path in found if not generated(path) and (path.name != "__init__.py" or sentence_or_none(path))]
    return sorted(kept, key=lambda path: (str(path.parent), path.name))


def generated(path: Path) -> bool:
    """Whether a C file is Cython's output, which a build for coverage leaves next to its source."""
    return path.suffix == ".c" and path.with_suffix(".pyx").exists()


def sentence_or_none(path: Path) -> str | None:
    """The sentence of an __init__.py that has one."""
    return sentence(path) if path.read_text().strip() else None


def table() -> str:
    """The modules as markdown, one table for each folder."""
    lines: list[str] = []
    folder = None
    for path in modules():
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"### `{folder.relative_to(ROOT)}/`", "", "| module | what it does |", "|---|---|"]
        lines.append(f"| `{path.name}` | {sentence(path)} |")
    return "\n".join(lines[1:]) + "\n\n"


def rewritten(page: str) -> str:
    """The page with the table of this tree in it."""
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    return head + BEGIN + "\n" + table() + END + tail


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
