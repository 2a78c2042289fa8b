"""The page about a day agrees with the proof and needs no other file."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

import recorder
from kfix_md.errors import UsageError
from kfix_md.journal.writer import JournalWriter
from recorder import cli, schema
from recorder.drawing import ms
from recorder.report import page
from tests.recorder import build
from tests.recorder.test_tools import run
from tests.streams import generate

_VOID = {"meta", "rect", "polyline", "br", "link"}
_LOOSE = {"html", "body", "tr", "td", "th", "p"}  # their end tags may be left out


class Tags(HTMLParser):
    """Checks that tags pair up, and collects what the page would load."""

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
    streams = build.journal_of(tmp_path / "journal", ("spot-l2", "derivatives-l3"), messages=120)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    text = page(cap, cap.dates()[0])
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and tags.requests == [] and "<script" not in text
    assert "nan" not in re.sub(r"<title>.*?</title>", "", text).lower().replace("nano", "")
    checked = sum(s.checksums for s, _ in streams.values())
    assert f"<b>{checked:,}</b><span>checksums right" in text
    assert "Proven" in text and "BTC/USD" in text and "PF_BTCUSD" in text
    out = tmp_path / "day.html"
    run(cli.report, tmp_path / "captures", "-o", out)
    assert out.read_text() == text
    with pytest.raises(UsageError, match="no session date 2020-01-01"):
        run(cli.report, tmp_path / "captures", "2020-01-01")
    with pytest.raises(UsageError, match="cannot be written"):
        run(cli.report, tmp_path / "captures", "-o", tmp_path / "none" / "x.html")


def test_a_day_without_data_and_a_day_of_one_message(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", build.START_NS)
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "x"})
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    text = page(cap, cap.dates()[0])
    assert "nothing to prove" in text and "<svg" not in text and "still on" in text
    with JournalWriter(tmp_path / "journal") as journal:
        frames = generate("spot-l2", messages=1, symbols=1, empties=False).frames
        build.write_session(journal, 0, "spot-l2", frames, build.START_NS)
    build.record(tmp_path)
    text = page(recorder.open(cap.tree.root), cap.dates()[0])
    assert "Proven" in text and "10:00:00.004" in text  # times of a span of milliseconds differ
    tags = Tags()
    tags.feed(text)
    assert tags.open == []


def test_lags_in_the_unit_that_reads_best():
    assert [ms(v) for v in (float("nan"), 5e-6, 0.02, 3.25, 12_000, 2e9)] == [
        "–",
        "5 ns",
        "20 µs",
        "3.25 ms",
        "12 s",
        "23.1 days",
    ]


def test_the_documentation_lists_every_column():
    text = (build.Path(__file__).parents[2] / "docs" / "parquet.md").read_text()
    for columns in schema.TABLES.values():
        for name, _, _, description in columns:
            assert f"| {name} | " in text and description in text, name
