"""Writes the table of events in docs/log.md from the code: `python -m tests.docs.log_events`."""

from __future__ import annotations

import re
from pathlib import Path

from kfix_md.log_events import EVENTS, NAMED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "log.md"
BEGIN, END = "<!-- events: begin -->\n", "<!-- events: end -->"
_PLACE = re.compile(r"%[-.\d]*[sdfgr]")


def text(template: str, values: tuple[str, ...]) -> str:
    """A template with the names of its values in their places."""
    names = iter(values)
    return _PLACE.sub(lambda _: f"<{next(names)}>", template)


def table() -> str:
    """The events as markdown."""
    texts: dict[str, list[str]] = {}
    for event in EVENTS:
        shown = text(event.template, event.values).replace("|", "\\|").replace("`", "'")
        texts.setdefault(event.name, []).append(f"`{shown}`")
    rows = [f"| `{name}` | {'<br>'.join(lines)} |" for name, lines in texts.items()]
    rows += [f"| `{name}` | {what} |" for name, what in NAMED.items()]
    rows.append("| `other` | lines of libraries |")
    return "\n".join(["| event | text |", "|---|---|", *rows, ""])


def rewritten(page: str) -> str:
    """The page with the table of this tree in it."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
