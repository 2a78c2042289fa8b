"""Writes docs/reference/c.md from the comments of kfix_shm.h: `python -m tests.docs.c_reference`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "c.md"
HEADER = ROOT / "kfix_md" / "shm" / "kfix_shm.h"
_COMMENT = r"(?:/\*(?P<comment>(?:[^*]|\*(?!/))*)\*/\n)?"
_STRUCT = re.compile(_COMMENT + r"(?P<kind>struct|enum) (?P<name>\w+) \{\n(?P<body>.*?)^\};", re.MULTILINE | re.DOTALL)
_FUNCTION = re.compile(_COMMENT + r"static inline (?P<signature>[\w \*]+?\w+\([^)]*\)) \{", re.MULTILINE)
_MACRO = re.compile(
    r"^#define (?P<name>KFIX_\w+)[ \t]+(?P<value>\w+|\([^)\n]*\))[ \t]*(?:/\* (?P<comment>.*?) \*/)?$", re.MULTILINE
)
_FIELD = re.compile(r"^ +(?P<field>[^;,/]+?)[;,]?\s*(?:/\* (?P<comment>.*?) \*/)?$")
HEAD = """# The C header

Made of the comments in `kfix_shm.h`. `python -c 'import kfix_md; print(kfix_md.get_include())'` prints its directory.
[Shared memory](../shared_memory.md) has how to read; [examples/reader.c](../../examples/reader.c) is a whole reader.

"""


def plain(comment: str | None) -> str:
    """Text of a comment, in one line."""
    lines = [re.sub(r"^\s*\* ?", "", line).strip() for line in (comment or "").splitlines()]
    return " ".join(line for line in lines if line).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def rows(body: str) -> str:
    """A table of the fields of a struct or the values of an enum; spare fields are left out."""
    lines = []
    for line in body.splitlines():
        found = _FIELD.match(line)
        if found and "spare" not in found["field"]:
            lines.append(f"| `{found['field'].strip()}` | {plain(found['comment'])} |")
    return "\n".join(["| | |", "|---|---|", *lines])


def page() -> str:
    """The page as markdown."""
    text = HEADER.read_text()
    introduction = re.match(r"/\*(.*?)\*/", text, re.DOTALL)
    paragraphs = re.split(r"\n \*\n", introduction[1]) if introduction else []
    parts = [
        HEAD,
        "\n\n".join(plain(paragraph) for paragraph in paragraphs),
        "\n\n## Constants\n\n| | | |\n|---|---|---|\n",
    ]
    parts += [
        f"| `{macro['name']}` | `{macro['value']}` | {plain(macro['comment'])} |\n" for macro in _MACRO.finditer(text)
    ]
    parts.append("\n## Blocks\n")
    for struct in _STRUCT.finditer(text):
        parts.append(
            f"\n### {struct['kind']} {struct['name']}\n\n{plain(struct['comment'])}\n\n{rows(struct['body'])}\n"
        )
    parts.append("\n## Functions\n")
    for function in _FUNCTION.finditer(text):
        name = re.search(r"(\w+)\(", function["signature"])
        signature = " ".join(function["signature"].split())
        parts.append(f"\n### {name[1] if name else ''}\n\n```c\n{signature}\n```\n\n{plain(function['comment'])}\n")
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
