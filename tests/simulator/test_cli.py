"""`kfix simulate` as a program: its ready line, its mistakes, its scripts, its end."""

import json
import subprocess
import sys

import pytest

from kfix_md.errors import UsageError
from kfix_md.simulator import script
from tests.simulator.venue import ROOT, Client, running_venue, value


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "kfix_md.simulator", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )


def test_ready_line_and_statistics(tmp_path):
    done = run(
        "--symbols",
        "1",
        "--port-base",
        "0",
        "--seconds",
        "0.3",
        "--json",
        "--tls-dir",
        str(tmp_path / "t"),
        "--control",
        str(tmp_path / "c"),
    )
    ready, stats = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0 and ready["ready"] and ready["ca"] == str(tmp_path / "t" / "ca.pem")
    assert set(ready["ports"]) == set(stats["services"]) == {"spot-l2", "derivatives-l2", "derivatives-l3", "spot-l3"}
    assert stats["faults"] == [] and not (tmp_path / "c").exists()
    assert (tmp_path / "t" / "server.key").stat().st_mode & 0o777 == 0o600


def test_default_port_offsets(tmp_path):
    import socket

    for base in range(21000, 60000, 1111):  # the first free stretch
        taken = False
        for offset in (0, 2, 4, 5):
            with socket.socket() as probe:
                taken |= probe.connect_ex(("127.0.0.1", base + offset)) == 0
        done = None if taken else run("--symbols", "1", "--port-base", str(base), "--seconds", "0.1")
        if done and done.returncode == 0:
            break
    assert list(json.loads(done.stdout)["ports"].values()) == [base, base + 2, base + 4, base + 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to serve"),
        (["--capture", "/nowhere/x.fix"], "cannot be read"),
        (["--symbols", "1", "--faults", "/nowhere/f.toml"], "cannot be read"),
        (["--symbols", "1", "--control", "/nowhere/c"], "control socket"),
        (["--symbols", "1", "--tls-dir", "/proc/nowhere"], "certificates"),
        (["--symbols", "1", "--host", "192.0.2.1"], "cannot be opened"),
        (["--symbols", "1", "--speed", "fast"], "max"),
        (["--symbols", "1", "--rollover-at", "22h"], "HH:MM:SS"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    done = run("--port-base", "0", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[fault]]\ncmd = 'explode'", "unknown cmd"),
        ("fault = [", "not TOML"),
        ("[faults]\nx = 1", "unknown table"),
        ("[[fault]]\nat = 'noon'\ncmd = 'drop'", "seconds"),
    ],
)
def test_bad_scripts(tmp_path, text, message):
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        script.read(path)


def test_timeline_of_a_script(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text("""
[[fault]]
at = 2
cmd = "crc"
symbol = "BTC/USD"
[[fault]]
at = 1.0
every = 0.5
times = 3
cmd = "drop"
[random]
seed = 4
rate = 10.0
until = 3.0
faults = [{cmd = "gap", count = 2}, {cmd = "delay", seconds = 0.1}]
""")
    plan = script.read(path)
    rows = script.timeline(plan)
    assert [at for at, request in rows if request["cmd"] == "drop"] == [1.0, 1.5, 2.0]
    assert (2.0, {"cmd": "crc", "symbol": "BTC/USD"}) in rows
    drawn = [row for row in rows if row[1]["cmd"] in ("gap", "delay")]
    assert 10 < len(drawn) < 60 and rows == script.timeline(plan) and rows == sorted(rows, key=lambda row: row[0])


def test_a_script_runs(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text("[[fault]]\nat = 0\nevery = 0.05\ncmd = 'testrequest'\nid = 'SCRIPT'\n")
    with running_venue(tmp_path, "--symbols", "1", "--rate", "0", "--faults", str(path), tls=False) as venue:
        client = Client(venue, "spot-l2")
        client.logon()
        assert value(client.until("1")[-1], 112) == "SCRIPT"
        events = venue.control("events")["events"]
        assert any(event["event"] == "script" for event in events)
        client.close()


def test_rollover_at_a_time_of_day(tmp_path):
    import time

    at = time.strftime("%H:%M:%S", time.gmtime(time.time() + 5))
    with running_venue(tmp_path, "--symbols", "1", "--rollover-at", at, "--rollover-form", "fin", tls=False) as venue:
        client = Client(venue, "spot-l2")
        client.logon()
        while client.message(timeout=20):
            pass
        assert client.closed
        assert venue.control("stats")["faults"][0]["form"] == "fin"
