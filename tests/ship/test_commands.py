"""`kfix ship` and `kfix mirror` as their users run them; what is killed is killed by SIGKILL."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("click")

from kfix_md.cli import main
from kfix_md.journal.holds import Hold, held_from
from kfix_md.journal.writer import JournalWriter
from kfix_md.replication import run
from recorder.process import Recorder
from tests.recorder import build
from tests.ship.rig import ENVIRONMENT, dead, free_port, needs_broker, segment_bytes, write_journal

CONFIG = """
[feed]
name = "{feed}"
[[service]]
name = "spot-l2"
sender_comp_id = "A"
symbols = ["BTC/USD"]
[journal]
directory = "{journal}"
[recorder]
directory = "{captures}"
[ship]
url = "{url}"
stream_gb = 0.1
{ship}
[mirror]
url = "{url}"
feed = "{feed}"
directory = "{replica}"
sync_ms = 20
"""


def command(*words, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "kfix_md", *map(str, words)],
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.parametrize("as_json", [False, True])
def test_the_follower_of_a_mirror_logs_in_the_form_of_the_mirror(tmp_path, monkeypatch, as_json):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: started.append(words))
    run._Follower(tmp_path, "copy", None, as_json).look()
    assert ("--json" in started[0]) == as_json and started[0][-1] in ("copy", "--json")


@pytest.fixture
def here_command(capsys):
    """Run a command in this process; what it wrote to stdout and to stderr."""

    def run(*words, status=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words)])
        written = capsys.readouterr()
        assert ended.value.code == status, written.err
        return written

    return run


def started(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "kfix_md", *map(str, words)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )


def until(what, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.05)


def config(tmp_path, url, captures="captures", journal="journal", ship=""):
    path = tmp_path / f"{captures}.toml"
    path.write_text(
        CONFIG.format(
            url=url,
            feed=tmp_path.name,
            journal=tmp_path / journal,
            captures=captures,
            ship=ship,
            replica=tmp_path / "replica",
        )
    )
    return path


@needs_broker
def test_a_replica_is_recorded_verified_and_exported_as_its_source(tmp_path, broker, here_command):
    build.journal_of(tmp_path / "journal", messages=400, segment_bytes=1 << 17)
    here = config(tmp_path, broker.url)
    command("ship", here, "--once")
    mirror = started("mirror", here)
    until(
        lambda: (
            (tmp_path / "replica").is_dir()
            and segment_bytes(tmp_path / "replica") == segment_bytes(tmp_path / "journal")
        )
    )
    mirror.terminate()
    assert mirror.wait(10) == 0
    there = config(tmp_path, broker.url, "copied", "replica")
    results = []
    for one in (here, there):
        here_command("record", one, "--once")
        proof = json.loads(here_command("verify", one, "--json").out)
        proof.pop("seconds")
        results.append((proof, here_command("journal", "cat", one).out))
        here_command("journal", "export", one, tmp_path / f"{one.stem}.fix")
    assert results[0] == results[1]
    assert results[0][0]["holds"] and results[0][0]["ok"] > 100
    assert (tmp_path / "captures.fix").read_bytes() == (tmp_path / "copied.fix").read_bytes()


@needs_broker
def test_processes_killed_at_random_points_leave_the_replica_byte_identical(tmp_path, broker):
    here = config(tmp_path, broker.url)
    draw = random.Random(7)
    (tmp_path / "journal").mkdir()
    ends = {name: started(name, here) for name in ("ship", "mirror")}
    try:
        with JournalWriter(tmp_path / "journal", segment_bytes=1 << 20) as journal:
            for turn in range(3):
                write_journal(journal, turn, 400, big=1)
                time.sleep(draw.uniform(0.6, 1.4))
                victim = ("ship", "mirror", "broker")[turn]
                if victim == "broker":
                    broker.kill()
                    broker.start()
                    continue
                dead(ends[victim])
                ends[victim] = started(victim, here)
        until(lambda: segment_bytes(tmp_path / "replica") == segment_bytes(tmp_path / "journal"))
        until(lambda: held_from(tmp_path / "journal") == journal_end(tmp_path / "journal"))
    finally:
        for process in ends.values():
            dead(process)


def journal_end(directory):
    from kfix_md.journal import files

    newest = list(files.heads(directory).values())[-1]
    return newest.number << 32 | newest.sealed_end


def test_segments_that_a_reader_holds_are_not_deleted(tmp_path):
    build.journal_of(tmp_path / "journal", messages=400, segment_bytes=1 << 16)
    numbers = sorted(segment_bytes(tmp_path / "journal"))
    assert len(numbers) > 4
    hold = Hold(tmp_path / "journal", "ship")
    third = int(numbers[2].split(".")[1])
    hold.move(third << 32 | 500)
    recorder = Recorder(build.settings(tmp_path, retention="delete"))
    recorder.once()
    recorder.housekeeping()
    assert sorted(segment_bytes(tmp_path / "journal")) == numbers[2:]
    hold.release()
    recorder.housekeeping()
    recorder.close()
    assert sorted(segment_bytes(tmp_path / "journal")) == numbers[-1:]


@needs_broker
def test_metrics_of_a_shipper_and_its_hold_which_lasts_until_it_is_forgotten(tmp_path, broker, here_command):
    port = free_port()
    here = config(tmp_path, broker.url, ship=f"metrics_port = {port}")
    assert "no journal at" in here_command("ship", here, "--forget", status=2).err
    build.journal_of(tmp_path / "journal", messages=200, segment_bytes=1 << 17)
    sent = sum(map(len, segment_bytes(tmp_path / "journal").values()))

    def scraped(path="/metrics"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=3) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(name):
        found = re.search(rf"^{name} (\S+)$", scraped()[1], re.MULTILINE)
        return float(found[1]) if found else -1.0

    shipper = started("ship", here)
    try:
        until(lambda: metric("kfix_ship_bytes_total") >= sent)
        assert metric("kfix_ship_failing") == metric("kfix_ship_lag_bytes") == metric("kfix_ship_failures_total") == 0
        assert metric("kfix_ship_chunks_total") >= 3 * len(segment_bytes(tmp_path / "journal"))
        assert scraped("/readyz")[0] == scraped("/healthz")[0] == 200
        assert f"is being shipped by process {shipper.pid}" in here_command("ship", here, "--forget", status=2).err
        broker.kill()
        until(lambda: metric("kfix_ship_failing") == 1)
        assert scraped("/readyz")[0] == 503 and scraped("/healthz")[0] == 200
        broker.start()
        until(lambda: metric("kfix_ship_failing") == 0)
        assert metric("kfix_ship_reconnects_total") >= 1
    finally:
        shipper.terminate()
        assert shipper.wait(10) == 0
    assert held_from(tmp_path / "journal") == 0  # no mirror has reported: everything is kept
    here_command("ship", here, "--forget", status=0)
    assert held_from(tmp_path / "journal") is None


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("mirror", "nats://host"), "name the feed as well"),
        (("mirror", "nats://me:secret@host/default"), "must be like nats://host:4222/default"),
        (("ship", "{config}"), "no journal at"),
    ],
)
def test_a_wrong_configuration_ends_with_status_2_and_the_remedy(tmp_path, here_command, words, text):
    path = config(tmp_path, "nats://127.0.0.1:1")
    assert text in here_command(*(word.format(config=path) for word in words), status=2).err
