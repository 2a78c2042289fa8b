"""What users type: the five one-liners at any moment, the journal tools, the commands and their errors."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import replace

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
from click.testing import CliRunner

import recorder
from kfix_md.errors import UsageError
from kfix_md.journal import files as journal_files
from kfix_md.journal.reader import EVENT, FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from recorder import cli, process
from recorder.journal_tools import export
from recorder.process import Recorder
from tests.recorder import build
from tests.streams import generate

#: rows of ticks as each tool sees them
ONE_LINERS = {
    "polars": lambda captures: pl.scan_parquet(f"{captures}/ticks").select(pl.len()).collect().item(),
    "duckdb": lambda captures: duckdb.sql(f"SELECT count(*) FROM '{captures}/ticks/**/*.parquet'").fetchall()[0][0],
    "pandas": lambda captures: len(pd.read_parquet(f"{captures}/ticks", columns=["seq"])),
    "pyarrow": lambda captures: ds.dataset(f"{captures}/ticks", partitioning="hive").count_rows(),
    "recorder": lambda captures: recorder.open(captures).ticks(columns=["seq"]).num_rows,
}


def test_every_table_opens_in_every_tool(tmp_path):
    written = build.journal_of(tmp_path / "journal", ("spot-l2", "derivatives-l3"), messages=80)
    build.record(tmp_path, flush_rows=100)
    captures = tmp_path / "captures"
    rows = sum(s.entries + sum(b"\x0135=W\x01" in f for f in s.frames) for s, _ in written.values())
    assert {read(captures) for read in ONE_LINERS.values()} == {rows}
    for table in ("ticks", "gaps", "sessions", "instruments", "status", "checkpoints"):
        frame = pl.scan_parquet(captures / table).collect()
        assert "session_date" in frame.columns
        assert len(pd.read_parquet(captures / table)) == len(frame)
    best = pl.scan_parquet(captures / "ticks").filter(pl.col("symbol") == "BTC/USD", pl.col("side") == "bid")
    exact = best.select(pl.col("price") / 10 ** pl.col("price_scale")).collect()
    assert len(exact) > 20


def test_tools_read_while_recording_compaction_and_kills_go_on(tmp_path):
    """Every reading works and sees no row less than the one before. A tool other than ours may report that a file went
    away under it, compaction's swap, and reads again."""
    going = subprocess.Popen(
        [sys.executable, "-m", "tests.recorder.crashes", "6", "3", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=build.Path(__file__).parents[2],
    )
    captures, seen, readings = tmp_path / "captures", dict.fromkeys(ONE_LINERS, 0), dict.fromkeys(ONE_LINERS, 0)
    while going.poll() is None:
        if not any(captures.glob("ticks/*/*.parquet")):
            time.sleep(0.02)
            continue
        for tool, read in ONE_LINERS.items():
            try:
                rows = read(captures)
            except (FileNotFoundError, duckdb.IOException, pl.exceptions.ComputeError) as error:
                assert "no such file" in str(error).lower() and tool != "recorder", (tool, error)
                continue
            assert rows >= seen[tool], (tool, rows, seen)
            seen[tool], readings[tool] = rows, readings[tool] + 1
    written = json.loads(going.stdout.read())
    going.stdout.close()
    assert going.returncode == 0 and min(readings.values()) >= 10, readings
    assert written["kills"] > 10 and written["dates_compacted"] and written["segments_compressed"], written
    assert len({read(captures) for read in ONE_LINERS.values()}) == 1


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    path = tmp_path_factory.mktemp("tools") / "journal"
    return path, build.journal_of(path, ("spot-l2", "derivatives-l2"), messages=40)


def run(command, *args, status=0):
    done = CliRunner().invoke(command, [str(a) for a in args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.output


def test_journal_ls_cat_grep(journal):
    path, written = journal
    rows = json.loads(run(cli.journal, "ls", path, "--json"))
    assert [r["date"] for r in rows] == ["2024-02-29"] * len(rows)
    assert rows[-1]["state"] == "sealed (closed)"
    lines = run(cli.journal, "cat", path).splitlines()
    assert len(lines) == len(list(JournalReader(path)))
    frames = written["derivatives-l2"][0].frames
    only = run(cli.journal, "cat", path, "--session", 1, "--raw").encode()
    assert only == b"".join(frames)
    found = run(cli.journal, "grep", path, r"35=y\|").splitlines()
    assert len(found) == 2 and all("|146=" in line for line in found)
    assert run(cli.journal, "grep", path, "35=Q", status=1) == ""
    late = run(cli.journal, "cat", path, "--start", "2024-02-29T10:00:00.050").splitlines()
    assert 0 < len(late) < len(lines) and late == [x for x in lines if x.split()[1] >= "2024-02-29T10:00:00.05"]
    with pytest.raises(UsageError, match="no regular expression"):
        run(cli.journal, "grep", path, "(")
    with pytest.raises(UsageError, match="no journal at"):
        run(cli.journal, "ls", path / "none")


def test_journal_export(journal, tmp_path):
    path, written = journal
    run(cli.journal, "export", path, tmp_path / "one.fix", "--session", 0)
    assert (tmp_path / "one.fix").read_bytes() == written["spot-l2"][0].data
    run(cli.journal, "export", path, tmp_path / "all.log")
    log = (tmp_path / "all.log").read_bytes().splitlines()
    assert len(log) == sum(len(s.frames) for s, _ in written.values())
    assert log[0].startswith(b"1709200800.001000000 8=FIX.4.4\x01")
    run(cli.journal, "export", path, tmp_path / "all.pcap")
    data, at, payload, streams = (tmp_path / "all.pcap").read_bytes(), 24, b"", {}
    assert struct.unpack_from("<I", data)[0] == 0xA1B23C4D  # nanosecond pcap
    while at < len(data):
        _, _, n, whole = struct.unpack_from("<IIII", data, at)
        packet = data[at + 16 : at + 16 + n]
        assert n == whole == struct.unpack(">H", packet[2:4])[0]
        words = struct.unpack(">10H", packet[:20])
        total = sum(words)
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF  # the header's own checksum
        port = struct.unpack(">H", packet[20:22])[0]
        seq = struct.unpack(">I", packet[24:28])[0]
        payload = streams.setdefault(port, b"")
        assert seq == len(payload) + 1
        streams[port] = payload + packet[40:]
        at += 16 + n
    assert streams == {40000: written["spot-l2"][0].data, 40001: written["derivatives-l2"][0].data}
    with pytest.raises(UsageError, match=r"name it \.fix"):
        run(cli.journal, "export", path, tmp_path / "all.txt")
    with pytest.raises(UsageError, match="cannot be written"):
        run(cli.journal, "export", path, tmp_path / "none" / "all.fix")


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_wireshark_reads_fix_of_every_session_in_a_pcap(tmp_path):
    frames = generate("spot-l3", messages=300, seed=4).frames
    frames += [b"8=FIX.4.4\x019=70007\x0135=B\x0158=" + b"x" * 70_000 + b"\x0110=000\x01"]  # more than one packet holds
    with JournalWriter(tmp_path / "journal", segment_bytes=1 << 20) as journal:
        for i, frame in enumerate(frames):
            for number in range(12):
                journal.frame(number, build.START_NS + i, frame, 0)
    export(tmp_path / "journal", tmp_path / "all.pcap")

    def shark(*options) -> list[str]:
        found = subprocess.run(["tshark", "-r", tmp_path / "all.pcap", *options], capture_output=True, check=True)
        return found.stdout.decode().splitlines()

    rows = [line.split("\t") for line in shark("-Y", "fix", "-T", "fields", "-e", "tcp.stream", "-e", "fix.MsgType")]
    kinds: dict[str, int] = {}
    for stream, types in rows:
        kinds[stream] = kinds.get(stream, 0) + len(types.split(","))
    assert kinds == {str(number): len(frames) for number in range(12)}
    assert shark("-Y", "_ws.malformed || tcp.analysis.flags") == []


CONFIG = """
[[service]]
name = "spot-l2"
sender_comp_id = "ME"
symbols = ["*"]
[journal]
directory = "journal"
[recorder]
directory = "captures"
"""


def test_record_verify_compact_commands(tmp_path):
    written = build.journal_of(tmp_path / "journal", ("spot-l2",), messages=60)
    (tmp_path / "feed.toml").write_text(CONFIG)
    out = json.loads(run(cli.record, tmp_path / "feed.toml", "--once", "--json").splitlines()[-1])
    stream = written["spot-l2"][0]
    assert out["rows"] == stream.entries + sum(b"\x0135=W\x01" in f for f in stream.frames)
    assert json.loads(run(cli.record, tmp_path / "feed.toml", "--once", "--json").splitlines()[-1])["rows"] == 0
    proof = json.loads(run(cli.verify, tmp_path / "captures", "--json"))
    assert proof["holds"] and proof["ok"] == proof["checked"] == stream.checksums
    assert proof["messages"] == sum(b"\x0135=W\x01" in f or b"\x0135=X\x01" in f for f in stream.frames)
    assert "the proof holds" in run(cli.verify, tmp_path / "captures", "--date", "2024-02-29")
    assert "files -> " in run(cli.compact, tmp_path / "captures", "--date", "2024-02-29")
    assert json.loads(run(cli.verify, tmp_path / "captures", "--json"))["ok"] == stream.checksums
    with pytest.raises(UsageError, match="no session date 2020-01-01"):
        run(cli.verify, tmp_path / "captures", "--date", "2020-01-01")
    with pytest.raises(UsageError, match="has no captures"):
        run(cli.verify, tmp_path)


def test_commands_that_meet_damage_go_on_and_end_with_status_1(tmp_path):
    journal = tmp_path / "journal"
    build.journal_of(journal, ("spot-l2",), messages=60)
    sound = list(JournalReader(journal))
    at = next(r[0] for r in sound[len(sound) // 2 :] if r[1] == FRAME)
    path = journal_files.heads(journal)[at >> 32].path
    with open(path, "r+b") as file:
        file.seek((at & 0xFFFFFFFF) + 60)
        file.write(b"?????")
    frames = [r[5] for r in sound if r[1] == FRAME and r[0] != at]
    raw = CliRunner().invoke(cli.journal, ["cat", "--raw", str(journal)])
    assert raw.exit_code == 1 and raw.stdout_bytes == b"".join(frames)
    assert raw.stderr.startswith("damaged: ") and f"{at:#x}" in raw.stderr and raw.stderr.count("\n") == 1
    text = CliRunner().invoke(cli.journal, ["cat", str(journal)])
    assert text.exit_code == 1 and len(text.stdout.splitlines()) == len(sound), "a # line in place of the record"
    assert "35=" in run(cli.journal, "grep", journal, "35=", status=1)
    assert f"{len(frames)} frames" in run(cli.journal, "export", journal, tmp_path / "day.fix", status=1)
    assert (tmp_path / "day.fix").read_bytes() == b"".join(frames)


def test_a_compaction_logs_json_where_its_recorder_does(tmp_path, monkeypatch):
    build.two_days(tmp_path)
    (tmp_path / "feed.toml").write_text(CONFIG)
    run(cli.record, tmp_path / "feed.toml", "--once")
    first = str(recorder.open(tmp_path / "captures").dates()[0])
    started = []
    monkeypatch.setattr(process.subprocess, "Popen", lambda command, **_: started.append(command))
    for json_logs in (False, True):
        one = Recorder(replace(build.settings(tmp_path), json_logs=json_logs))
        one.housekeeping()
        one.close()
        assert ("--json" in started.pop()) is json_logs
    monkeypatch.undo()
    done = CliRunner().invoke(cli.compact, [str(tmp_path / "captures"), "--date", first, "--json"])
    assert done.exit_code == 0 and done.stderr == ""
    assert json.loads(done.stdout)["date"] == first and json.loads(done.stdout)["rows"] > 100


def test_the_configuration_serves_where_a_directory_does(tmp_path):
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=60)
    config = tmp_path / "feed.toml"
    config.write_text(CONFIG)
    run(cli.record, config, "--once")
    for command, *more in ((cli.journal, "ls"), (cli.journal, "cat"), (cli.journal, "grep", r"35=y\|")):
        name, rest = more[0], more[1:]
        assert run(command, name, config, *rest) == run(command, name, tmp_path / "journal", *rest) != ""
    run(cli.journal, "export", config, tmp_path / "day.fix")
    assert (tmp_path / "day.fix").stat().st_size > 1000
    assert "the proof holds" in run(cli.verify, config)
    run(cli.report, config, "-o", tmp_path / "day.html")
    assert "nothing to compact" in run(cli.compact, config)
    config.write_text(
        '[feed]\nprocesses = "per-service"\n'
        + CONFIG
        + """
[[service]]
name = "spot-l3"
sender_comp_id = "ME"
symbols = ["*"]
"""
    )
    with pytest.raises(UsageError, match=r"one journal a service, name its directory: .*journal/spot-l2, .*spot-l3"):
        run(cli.journal, "ls", config)
    config.write_text("[journal")
    with pytest.raises(UsageError, match=r"feed\.toml"):
        run(cli.verify, config)


def test_verify_fails_when_a_quantity_is_changed(tmp_path):
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=60)
    one = Recorder(build.settings(tmp_path))
    one.tail.read(10**9)
    tables = one.tail.take()
    at = tables["ticks"].schema.get_field_index("qty")
    qty = tables["ticks"]["qty"].to_pylist()
    best = next(
        i
        for i, (n, a) in enumerate(
            zip(tables["ticks"]["entry_no"].to_pylist(), tables["ticks"]["action"].to_pylist(), strict=True)
        )
        if n == 1 and a == "new"
    )
    qty[best] += 1
    tables["ticks"] = tables["ticks"].set_column(at, tables["ticks"].schema.field(at), [qty])
    one.writer.commit(0, one.tail.state(), tables)
    one.close()
    out = json.loads(run(cli.verify, tmp_path / "captures", "--json", status=1))
    assert not out["holds"] and out["failed"] > 0
    run(cli.verify, tmp_path / "captures", status=1)


def test_a_recorder_that_is_told_to_stop_flushes_first(tmp_path):
    written = build.journal_of(tmp_path / "journal", ("spot-l2",), messages=60)
    (tmp_path / "feed.toml").write_text(CONFIG.replace("[recorder]", "[recorder]\ninterval_s = 3600"))
    process = subprocess.Popen(
        [sys.executable, "-m", "kfix_md", "record", str(tmp_path / "feed.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(build.Path.cwd())},
    )
    assert "recording" in process.stderr.readline()
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "rows in" in out
    rows = recorder.open(tmp_path / "captures").ticks()
    clears = sum(a == "clear" for a in rows["action"].to_pylist())
    assert rows.num_rows - clears == written["spot-l2"][0].entries


def test_the_bars_of_record_and_compact_reach_their_ends(tmp_path, monkeypatch):
    shown = []

    @contextlib.contextmanager
    def bar(what, total, **_):
        done = []
        yield done.append
        shown.append((what, total, sum(done), len(done)))

    monkeypatch.setattr(cli, "progress", bar)
    build.two_days(tmp_path)
    (tmp_path / "feed.toml").write_text(CONFIG)
    run(cli.record, tmp_path / "feed.toml", "--once")
    run(cli.compact, tmp_path / "captures")
    (recording, backlog, recorded, steps), (compacting, *counts, _) = shown
    assert recording == "recording" and backlog == recorded > 100_000 and steps > 1
    first = recorder.open(tmp_path / "captures").dates()[0]
    assert compacting == f"compacting {first}" and counts[0] == counts[1] > 100
    shown.clear()
    run(cli.record, tmp_path / "feed.toml", "--once", "--json")
    assert not shown, "the only lines on stderr are JSON"


def test_events_of_the_journal_are_json(journal):
    path, _ = journal
    assert all(json.loads(r[5])["type"] for r in JournalReader(path) if r[1] == EVENT)
