"""The page about a day agrees with the proof, needs no other file, and fits a screen and a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

import recorder
from kfix_md.errors import UsageError
from kfix_md.journal.writer import JournalWriter
from recorder import cli, lanes, schema
from recorder.report import page
from recorder.texts import ms, share
from tests.recorder import build
from tests.recorder.test_tools import run
from tests.streams import generate

_VOID = {"meta", "br", "link"}
CAPTURE = build.Path(__file__).parents[2] / "examples" / "notebooks" / "captures"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: drags over a part of the first chart as a mouse does
DRAG = """
const over = drawn[0].over, at = over.getBoundingClientRect();
const scales = () => drawn.map(u => [u.scales.x.min, u.scales.x.max]);
const mouse = (name, share, where) => where.dispatchEvent(new MouseEvent(name, {bubbles: true, button: 0, movementX: 5,
  buttons: name == "mouseup" ? 0 : 1, clientX: at.left + share * at.width, clientY: at.top + 20}));
const before = scales();
for (const [name, share] of [["mouseenter", .2], ["mousemove", .2], ["mousedown", .2], ["mousemove", .3],
  ["mousemove", .5], ["mouseup", .5]]) mouse(name, share, over);
mouse("mouseup", .5, document);
setTimeout(() => { document.documentElement.dataset.zoom = JSON.stringify([before, scales()]); }, 300);
"""
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=3000", "--dump-dom"),
)


class Tags(HTMLParser):
    """Checks that tags pair up, and collects what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.requests: list[str] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag, attrs):
        self.requests += [v for k, v in attrs if k in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())


def charts_of(text):
    return json.loads(re.search(r"id=charts>(.*?)</script>", text, re.DOTALL)[1])


def cap_messages(cap):
    flags = cap.ticks(columns=["flags"])["flags"].to_numpy()
    return int(((flags & schema.Flags.LAST) != 0).sum())


def test_the_page(tmp_path):
    streams = build.journal_of(tmp_path / "journal", ("spot-l2", "derivatives-l3"), messages=120)
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    text = page(cap, cap.dates()[0])
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and tags.requests == []
    styles = "".join(tags.texts["style"])
    assert "url(" not in styles and "@import" not in styles
    shown = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert "nan" not in shown.lower() and "None" not in shown.replace("None.", "")
    assert text.index("id=problems") < text.index("id=coverage") < text.index("id=symbols")
    charts = charts_of(text)
    assert {chart["series"][0]["name"] for chart in charts} == {"messages / s", "spread, bp"}
    rates = charts[0]
    assert sum(rates["series"][0]["values"]) * rates["step"] == pytest.approx(cap_messages(cap))
    assert "The MIT License" not in text and "uPlot" in text and "MIT" in text
    checked = sum(s.checksums for s, _ in streams.values())
    assert f"<b>{checked:,}</b><span>checksums right" in text
    assert "Proven" in text and "BTC/USD" in text and "PF_BTCUSD" in text
    out = tmp_path / "day.html"
    run(cli.report, tmp_path / "captures", "-o", out)
    assert out.read_text() == text
    with pytest.raises(UsageError, match="no session date 2020-01-01"):
        run(cli.report, tmp_path / "captures", "2020-01-01")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UsageError, match="cannot be written"):
        patch.setattr("recorder.report.page", None)  # it is found before the work
        run(cli.report, tmp_path / "captures", "-o", tmp_path / "none" / "x.html")


def test_a_day_without_data_and_a_day_of_one_message(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", build.START_NS)
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "x"})
    build.record(tmp_path)
    cap = recorder.open(tmp_path / "captures")
    text = page(cap, cap.dates()[0])
    assert "nothing to prove" in text and "<script" not in text and "still on" in text
    with JournalWriter(tmp_path / "journal") as journal:
        frames = generate("spot-l2", messages=1, symbols=1, empties=False).frames
        build.write_session(journal, 0, "spot-l2", frames, build.START_NS)
    build.record(tmp_path)
    text = page(recorder.open(cap.tree.root), cap.dates()[0])
    assert "Proven" in text and charts_of(text)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []


def interval(symbol, state, start, end, cause="NONE", service="spot-l2"):
    row = {"symbol": symbol, "level": "L2", "service": service, "session": 1, "from_ns": start, "to_ns": end}
    return row | {"state": state, "cause": cause, "trusted": state in ("LIVE", "EMPTY")}


def test_coverage_is_what_readers_saw_and_not_what_was_recorded():
    """A service that began late, a symbol that was no longer subscribed, and a gap of one symbol."""
    second = 10**9
    rows = [
        interval("A", "INIT", 0, 20 * second, service="late"),
        interval("A", "LIVE", 20 * second, None, service="late"),
        interval("A", "LIVE", 0, 50 * second),
        interval("A", "INIT", 50 * second, None, "UNSUBSCRIBED"),
        interval("B", "LIVE", 0, 10 * second),
        interval("B", "GAP", 10 * second, 30 * second, "LOST"),
        interval("B", "LIVE", 30 * second, 90 * second),
        interval("B", "DOWN", 90 * second, None, "DISCONNECT"),
    ]
    late, spot = lanes.of_services(rows, 0, 100 * second)
    assert [(round(a), round(w), kind) for a, w, kind, _ in late.parts] == [(20, 80, "ok")]
    assert (late.covered, late.known) == (80, 80)
    assert [(round(a), round(w), kind) for a, w, kind, _ in spot.parts] == [
        *((0, 10, "ok"), (10, 20, "gap"), (30, 20, "ok"), (50, 40, "ok"), (90, 10, "down"))
    ]
    assert spot.parts[1][3] == "1 of 2 books not covered (gap)" and (spot.covered, spot.known) == (120, 150)
    (only,) = lanes.of_symbols(rows, 0, 100 * second)
    assert only.name == "B L2" and [(kind, title) for _, _, kind, title in only.parts] == [
        *(("ok", "LIVE, 10.000 s"), ("gap", "GAP LOST, 20.000 s"), ("ok", "LIVE, 60.000 s")),
        ("down", "DOWN DISCONNECT, 10.000 s"),
    ]
    short = lanes.of_services([interval("A", "LIVE", 0, second), interval("A", "GAP", second, second + 1)], 0, 10**12)
    assert [kind for *_, kind, _ in short[0].parts] == ["gap"]  # a gap is never rounded away
    flapping = [interval("A", ("LIVE", "GAP")[i % 2], i * 1000, (i + 1) * 1000, "LOST") for i in range(5000)]
    (many,) = lanes.of_symbols(flapping, 0, 5_000_000)
    assert len(many.parts) <= 600 and many.covered == pytest.approx(many.known / 2)
    assert lanes.joined([(30, 40, "gap"), (0, 10, "gap"), (12, 20, "gap"), (20, 25, "down")], 5) == [
        *((0, 20, "gap"), (20, 25, "down"), (30, 40, "gap"))
    ]
    assert lanes.kind_of(None, "FILE_MISSING") == "lost" and lanes.kind_of("ROLLOVER", "ROLLOVER") == "planned"
    assert share(0.999999, 1) == "99.999 %" and share(1, 1) == "100 %" and share(0, 0) == "–"


def test_captures_without_states_have_bars_from_logons_and_gaps():
    sessions = [{"service": "a", "started_ns": 20, "ended_ns": 80}, {"service": "b", "started_ns": 0, "ended_ns": None}]
    gap = {"service": "a", "symbol": None, "cause": "LOST", "opened_ns": 40, "closed_ns": 50}
    first, second = lanes.of_gaps([gap], sessions, 0, 100)
    assert [(a, w, kind) for a, w, kind, _ in first.parts] == [(20, 60, "ok"), (40, 10, "gap")]
    assert first.covered == pytest.approx(50e-9) and [kind for *_, kind, _ in second.parts] == ["ok"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_draws_the_charts_without_overflow(tmp_path, width):
    cap = recorder.open(CAPTURE)
    out = tmp_path / "day.html"
    text = page(cap, cap.dates()[0])
    out.write_text(text.replace("</body>", f"<script>{DRAG}</script></body>"))
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={tmp_path}/profile", f"--window-size={width},900", f"file://{out}"]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    charts = charts_of(text)
    assert f'data-charts="{len(charts)}" data-overflow="0"' in dom
    assert dom.count("<canvas") == len(charts) > 5
    before, after = json.loads(re.search(r'data-zoom="(.*?)"', dom)[1])
    for chart, (low, high), (left, right) in zip(charts, before, after, strict=True):
        zoomed = low < left < right < high and right - left < (high - low) / 2
        assert zoomed if "start" in chart else (left, right) == (low, high)  # those over time together


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
