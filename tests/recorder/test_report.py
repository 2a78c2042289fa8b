"""The page about a day says what the proof says, and stands on its own."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

import recorder
from kfix_md.errors import UsageError
from recorder import cli, schema
from recorder.report import page
from tests.recorder import build
from tests.recorder.test_tools import run

_VOID = {"meta", "rect", "polyline", "br", "link"}
_LOOSE = {"html", "body", "tr", "td", "th", "p"}  # HTML closes these by itself


class Tags(HTMLParser):
    """Complains about tags that do not pair up, and remembers what the page asks the network for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.requests: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.requests += [v for k, v in attrs if k in ("src", "href")]
        if tag not in _VOID | _LOOSE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID | _LOOSE:
            assert self.open.pop() == tag


def test_the_page(tmp_path):
    told = build.journal_of(tmp_path / "journal", ("spot-l2", "derivatives-l3"), messages=120)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    text = page(cap, cap.dates()[0])
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and tags.requests == [] and "<script" not in text
    assert "nan" not in re.sub(r"<title>.*?</title>", "", text).lower().replace("nano", "")
    checked = sum(s.checksums for s, _ in told.values())
    assert f"<b>{checked:,}</b><span>checksums right" in text
    assert "Proven" in text and "BTC/USD" in text and "PF_BTCUSD" in text
    out = tmp_path / "day.html"
    run(cli.report, tmp_path / "captures", "-o", out)
    assert out.read_text() == text
    with pytest.raises(UsageError, match="no session date 2020-01-01"):
        run(cli.report, tmp_path / "captures", "2020-01-01")
    with pytest.raises(UsageError, match="cannot be written"):
        run(cli.report, tmp_path / "captures", "-o", tmp_path / "none" / "x.html")


def test_the_documentation_lists_every_column():
    text = (build.Path(__file__).parents[2] / "docs" / "parquet.md").read_text()
    for columns in schema.TABLES.values():
        for name, _, _, description in columns:
            assert f"| {name} | " in text and description in text, name
