"""kfix top and kfix ladder: rows, JSON, widths, keys, and a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("click")

from rich.console import Console

from kfix_md import Cause, State
from kfix_md.cli import console, ladder, main, top
from kfix_md.cli.top import View, Watch, draw
from kfix_md.shm.attach import attach
from tests.shm.conftest import Desk

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def busy(tmp_path):
    """Three books, one in a gap, a session and its counters."""
    desk = Desk(tmp_path)
    desk.btc.publish(crc_checked=1500, crc_failed=2)
    eth = desk.book("PF_ETHUSD", 3)
    eth.fill([(20448, 2874, 2)], [(20450, 1000, 1)])
    eth.publish()
    eth.publish(State.GAP, Cause.LOST)
    desk.book("XRP/USD", 2, 5, 8)
    now = time.time_ns()
    desk.writer.set_session(
        0,
        service="spot-l2",
        state="ON",
        host="fix.kraken.com",
        port=4000,
        messages=12_345,
        gaps=1,
        last_recv_ns=now,
        rollover_ns=now + 3600 * 10**9,
    )
    desk.writer.set_counter("journal_position", (3 << 32) + 5000)
    yield desk
    desk.writer.close()


def run(capsys, *arguments) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of `kfix ARGUMENTS`."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_top_as_json_is_exact_and_complete(busy, capsys, tmp_path):
    (tmp_path / "captures" / "state").mkdir(parents=True)
    (tmp_path / "captures" / "state" / "commit.json").write_text(json.dumps({"position": (3 << 32) + 2000}))
    status, out, _ = run(
        capsys, "top", "--json", "--sample", 0, "--directory", tmp_path, "--captures", tmp_path / "captures"
    )
    output = json.loads(out)
    assert status == 0 and output["alive"] and output["feed"] == "desk"
    btc, eth, xrp = output["symbols"]
    assert (btc["bid"], btc["ask_qty"], btc["spread"]) == ("28003.0", "0.00096506", "10.0")
    assert (btc["crc_ok"], btc["crc_failed"], btc["last_gap"]) == (1498, 2, None)
    assert (eth["state"], eth["level"], eth["bid"], eth["last_gap"]["cause"]) == ("GAP", "L3", "2044.8", "LOST")
    assert xrp["bid"] is None and xrp["age_s"] is None and xrp["state"] == "INIT"
    assert output["sessions"][0]["messages"] == 12_345 and 3590 < output["rollover_s"] < 3600
    assert output["recorder"]["behind_bytes"] == 3000 and output["recorder"]["behind_segments"] == 0


def test_top_shows_a_recorder_without_a_commit(busy, capsys, tmp_path):
    (tmp_path / "captures" / "state").mkdir(parents=True)
    (tmp_path / "captures" / "state" / "commit.json").write_text(json.dumps({"position": 0}))
    arguments = ("top", "--sample", 0, "--directory", tmp_path, "--captures", tmp_path / "captures")
    assert "nothing committed yet" in run(capsys, *arguments)[1]
    output = json.loads(run(capsys, *arguments, "--json")[1])["recorder"]
    assert output["behind_segments"] is None and output["behind_bytes"] is None


def test_top_once_is_plain_when_not_a_terminal(busy, capsys, tmp_path):
    status, out, _ = run(capsys, "top", "--sample", 0, "--directory", tmp_path)
    assert status == 0 and "\x1b" not in out
    rows = {line.split()[0]: line for line in out.splitlines() if line[:3] in ("BTC", "PF_", "XRP")}
    assert list(rows) == ["BTC/USD", "PF_ETHUSD", "XRP/USD"]
    assert "28003.0" in rows["BTC/USD"] and "LOST" in rows["PF_ETHUSD"] and "INIT" in rows["XRP/USD"]
    assert "rollover in 59m" in out and "1 LIVE" in out and "1 GAP" in out
    status, out, _ = run(capsys, "top", "gap", "--once", "--sample", 0, "--directory", tmp_path)
    assert "PF_ETHUSD" in out and "BTC/USD" not in out


def test_alarms_of_the_feed_are_in_the_header(busy, capsys, tmp_path):
    for name in ("journal_alarm", "journal_lost", "shm_alarm"):
        busy.writer.set_counter(name, 0)
    _, out, _ = run(capsys, "top", "--once", "--sample", 0, "--directory", tmp_path)
    assert "JOURNAL" not in out and "SHARED MEMORY" not in out
    for name, value in (("journal_alarm", 1), ("journal_lost", 1723), ("shm_alarm", 1)):
        busy.writer.set_counter(name, value)
    _, out, _ = run(capsys, "top", "--once", "--sample", 0, "--directory", tmp_path)
    assert "JOURNAL: messages are not being recorded" in out and "JOURNAL: 1723 records were lost" in out
    assert "SHARED MEMORY: its file is gone" in out


def test_a_dead_feed_shows_every_book_down_and_exits_1(busy, capsys, tmp_path):
    os.utime(busy.writer.path)
    copy = tmp_path / "kfix-md.gone"
    os.link(busy.writer.path, copy)
    busy.writer.close()
    status, out, _ = run(capsys, "top", "--json", "--sample", 0, "--directory", tmp_path)
    output = json.loads(out)
    assert status == 1 and not output["alive"] and "ended" in output["fault"]
    assert {row["state"] for row in output["symbols"]} == {"DOWN"} and output["symbols"][0]["bid"] == "28003.0"
    status, out, err = run(capsys, "ladder", "BTC/USD", "--directory", tmp_path)
    assert status == 1 and "DOWN" in out and "ended" in err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("kfix lad", ["ladder"]),
        ("kfix top --feed ", ["desk"]),
        ("kfix ladder --feed desk PF", ["PF_ETHUSD"]),
        ("kfix ladder --feed no-such-feed PF", []),
        ("kfix journal exp", ["export"]),
    ],
)
def test_the_shell_completes_commands_feeds_and_symbols(busy, capsys, monkeypatch, tmp_path, words, found):
    monkeypatch.setenv("KFIX_SHM_DIR", str(tmp_path))
    monkeypatch.setenv("_KFIX_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    _, out, err = run(capsys)
    assert [line.partition(",")[2] for line in out.split()] == found and not err


def test_ladder_of_both_kinds(busy, capsys, tmp_path):
    busy.btc.trade(280030, 5000, aggressor=2, recv_ns=10**18)
    status, out, _ = run(capsys, "ladder", "BTC/USD", "-n", 2, "--json", "--directory", tmp_path)
    output = json.loads(out)
    assert status == 0
    assert output["bids"] == [{"price": "28003.0", "qty": "0.00100000"}, {"price": "27999.9", "qty": "0.00096375"}]
    assert output["asks"][0] == {"price": "28013.0", "qty": "0.00096506"}
    assert output["trades"][0] == {"price": "28003.0", "qty": "0.00005000", "recv_ns": 10**18, "side": "sell"}
    status, out, _ = run(capsys, "ladder", "PF_ETHUSD", "--level", "L3", "--directory", tmp_path)
    assert status == 1 and "GAP (LOST)" in out and "2044.8 2.874     2" in out
    asks, bids = out.index("2045.0"), out.index("2044.8")
    assert asks < out.index("spread 0.2") < bids, "asks above bids"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["top", "--feed", "nope"], "no feed named 'nope'; there are: desk"),
        (["ladder", "BTCUSD"], "near: BTC/USD"),
        (["ladder", "BTC/USD", "--level", "L3"], "L2 only"),
        (["top", "--sort", "luck"], "luck"),
    ],
)
def test_a_usage_error_is_one_line(busy, capsys, tmp_path, arguments, message):
    status, out, err = run(capsys, *arguments, "--directory", tmp_path)
    assert status == 2 and out == "" and err.startswith("kfix: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize("width", [30, 80, 120, 200])
def test_every_line_fits_and_the_essential_columns_stay(busy, width):
    reading = Watch(busy.attach()).look()
    screen = Console(width=width, no_color=True, file=None, record=True, force_terminal=False)
    with screen.capture() as shot:
        screen.print(draw(reading, View(), width, 20)[0])
    lines = shot.get().splitlines()
    assert max(map(len, lines)) <= width and len(lines) <= 20
    (title,) = [line for line in lines if line.startswith("symbol")]
    assert title.split()[:2] == ["symbol", "state"] or "lv" in title
    assert ("levels" in title and "bid qty" in title) == (width == 200) or width == 120
    assert ("bid" in title.split() and "failed" in title) == (width >= 80)


def shown(renderable, width) -> list[str]:
    screen = Console(width=width, no_color=True, force_terminal=False)
    with screen.capture() as shot:
        screen.print(renderable)
    return shot.get().splitlines()


@pytest.mark.parametrize("width", range(30, 150, 5))
def test_a_column_is_there_with_its_counterpart_or_not_at_all(busy, width):
    reading = Watch(busy.attach()).look()
    lines = shown(draw(reading, View(), width, 20)[0], width)
    (title,) = [line for line in lines if line.startswith("symbol")]
    assert ("bid qty" in title) == ("ask qty" in title)
    assert ("bid" in title) == ("ask" in title)
    assert not any(line.endswith("…") for line in lines), "nothing is cut off in its middle"


@pytest.mark.parametrize("width", [30, 40, 80])
def test_a_dead_feed_looks_dead(busy, tmp_path, width):
    copy = tmp_path / "kfix-md.gone"
    os.link(busy.writer.path, copy)
    busy.writer.close()
    feed = attach(path=copy, reconnect=True)
    watch = Watch(feed)
    watch.look()
    reading = watch.look()
    assert reading.dead and not reading.rate.any() and {each["state"] for each in reading.sessions} == {"DOWN"}
    drawing = draw(reading, View(), width, 20)[0]
    lines = shown(drawing, width)
    assert lines[0].startswith("Feed 'desk'") and "last values" in " ".join(lines[:5]) and len(lines) <= 20
    assert "ON" not in " ".join(lines).split() and "up " not in " ".join(lines)
    banner, *_, last_row, _ = drawing.renderables
    assert "on red" in str(banner.style) and str(last_row.style) == "dim"
    rung = ladder.draw(ladder.read(feed["BTC/USD"], 2), width, dead=True).renderables[2]
    assert str(rung.style) == "dim" and not [span for span in rung.spans if "red" in str(span.style)]


def test_the_help_key_names_every_key(busy):
    view = View()
    view.press("?", 3, 10)
    assert view.help
    page = " ".join(shown(console.help_page("kfix top", top.KEYS), 100))
    for key in ("?", "q", "s", "r", "/", "enter"):
        assert f" {key} " in page
    for sort in top.SORTS:
        assert sort in page
    view.press("s", 3, 10)
    assert not view.help and view.sort == "symbol", "any key leads back and does nothing else"


def test_sorting_filtering_and_choosing(busy):
    view, reading = View(), Watch(busy.attach()).look()
    assert view.order(reading) == [0, 1, 2]
    for key in "s" * 5:
        view.press(key, 3, 10)
    assert view.sort == "state" and view.order(reading)[0] == 1  # the gap first
    view.press("r", 3, 10)
    assert view.order(reading)[-1] == 1
    for key in ("/", "p", "x", "backspace", "f", "enter"):
        view.press(key, 3, 10)
    assert view.filter == "pf" and view.order(reading) == [1]
    view.press("escape", 1, 10)
    assert len(view.order(reading)) == 3
    for key, at in (("down", 1), ("end", 2), ("down", 2), ("page up", 0), ("up", 0), ("j", 1)):
        view.press(key, 3, 10)
        assert view.chosen == at


def test_keys_of_a_terminal():
    assert list(console.split_keys("\x1b[Aq\r\x1b")) == ["up", "q", "enter", "escape"]


def test_rates_are_messages_a_second(busy):
    watch = Watch(busy.attach())
    assert watch.look().rate.tolist() == [0, 0, 0]
    then, updates, _ = watch._before
    watch._before = then - 2 * 10**9, updates - [100, 0, 0], {0: 12_345 - 500}
    reading = watch.look()
    assert reading.rate[0] == pytest.approx(50, rel=0.05) and reading.rate[1] == 0
    assert reading.session_rate[0] == pytest.approx(250, rel=0.05)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (812, "812"),
        (0.4, "0.4"),
        (12_345, "12.3k"),
        (1.2e6, "1.20M"),
    ],
)
def test_counts_in_few_characters(number, text):
    assert console.short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.012, "12ms"),
        (3.21, "3.2s"),
        (245, "4m05s"),
        (7980, "2h13m"),
        (273600, "3d04h"),
        (None, "-"),
        (-5, "-5.0s"),
    ],
)
def test_durations_in_few_characters(seconds, text):
    assert console.span(seconds) == text


@pytest.mark.parametrize("command", [("top",), ("ladder", "BTC/USD")], ids=lambda command: command[0])
def test_a_console_ends_with_its_terminal(busy, tmp_path, command):
    """No SIGHUP comes to a process that is not of the terminal's session: it must not spin at the end of its input."""
    master, slave = pty.openpty()
    code = "import sys; from kfix_md.cli import main; main(sys.argv[1:])"
    child = subprocess.Popen(
        [sys.executable, "-c", code, *command, "--directory", tmp_path, "--interval", "0.05"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
        cwd=tmp_path,
    )
    os.close(slave)
    seen, deadline = b"", time.monotonic() + 20
    while b"BTC/USD" not in seen:
        assert time.monotonic() < deadline, seen[-2000:]
        if select.select([master], [], [], 0.1)[0]:
            seen += os.read(master, 65536)
    os.close(master)
    try:
        assert child.wait(20) == 1
    finally:
        child.kill()


def test_top_on_a_real_terminal_takes_keys_and_restores_it(busy, tmp_path, request):
    """In a pseudo terminal: the table comes, enter opens the ladder, escape leads back, q ends; several at once."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    before = termios.tcgetattr(slave)
    code = "import sys; from kfix_md.cli import main; main(sys.argv[1:])"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):  # a test runner may set them for its own output
        env.pop(name, None)
    child = subprocess.Popen(
        [sys.executable, "-c", code, "top", "--directory", tmp_path, "--interval", "0.05"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
        cwd=tmp_path,
    )
    request.addfinalizer(child.kill)
    seen = b""

    def until(*texts: bytes) -> None:
        nonlocal seen
        deadline, seen = time.monotonic() + 20, b""
        while not all(text in seen for text in texts):
            assert time.monotonic() < deadline, seen[-2000:]
            if select.select([master], [], [], 0.1)[0]:
                seen += os.read(master, 65536)

    until(b"BTC/USD", b"PF_ETHUSD", b"enter ladder")
    assert b"\x1b[32m" in seen, "LIVE is green"
    os.write(master, b"\r")
    until(b"spread 10.0", b"esc back")
    os.write(master, b"\x1b")
    until(b"PF_ETHUSD", b"enter ladder")
    os.write(master, b"?")
    until(b"kfix top: keys")
    os.write(master, b"x")
    until(b"enter ladder")
    os.write(master, b"/eth")
    until(b"filter: eth_")
    os.write(master, b"\rq")
    until(b"\x1b[?1049l")
    assert child.wait(20) == 0
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
