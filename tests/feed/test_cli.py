"""The command line: what it offers, and that every mistake is one line and status 2."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
import tomllib

import click
import jsonschema
import pytest

from kfix_md import __version__, config
from kfix_md._codec import SIMD
from kfix_md.cli import COMMANDS, EXAMPLES, _group, main
from kfix_md.errors import FeedError
from kfix_md.journal import layout as journal_layout
from kfix_md.journal.writer import JournalWriter
from kfix_md.log_output import set_up_logging
from kfix_md.shm.attach import attach
from kfix_md.shm.layout import number as dtype_number
from kfix_md.shm.writer import SegmentWriter
from recorder import schema
from tests.feed.rig import ROOT


def ran(capsys, *arguments):
    """(exit status, stdout, stderr) of a command."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    shown = capsys.readouterr()
    return caught.value.code, shown.out, shown.err


def test_help_and_version(capsys):
    status, out, _ = ran(capsys, "--help")
    assert status == 0 and all(f"  {name} " in out for name in COMMANDS)
    assert __version__ in ran(capsys, "--version")[1]


def test_without_a_command_it_shows_its_help(capsys):
    status, out, err = ran(capsys)
    assert status == 0 and out == ran(capsys, "--help")[1] and not err


def test_version_names_what_a_report_of_a_fault_needs(capsys):
    status, out, _ = ran(capsys, "--version")
    assert status == 0 and out.startswith(f"kfix, version {__version__}\nPython 3.")
    layouts = f"shared memory {dtype_number()}, journal {journal_layout.VERSION}, Parquet schema {schema.VERSION}"
    assert layouts in out and f"instruction set: {SIMD}, " in out and "numpy " in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("feed", "no-such.toml", "--json"),
        ("record", "--json", "no-such.toml"),
        ("top", "--json", "--feed", "no-such-feed"),
        ("doctor", "no-such.toml", "--json", "--nope"),
        ("verify", "no-such-captures", "--json"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_with_json_the_last_line_is_an_object_too(capsys, arguments):
    status, out, err = ran(capsys, *arguments)
    (line,) = [json.loads(line) for line in err.splitlines()]
    assert status == 2 and not out and line["event"] == "fatal" and line["level"] == "critical" and "no" in line["text"]
    assert set(line) == {"time", "level", "process", "event", "service", "symbol", "cause", "text", "values"}


def test_every_mistake_is_an_object_with_json(capsys, tmp_path):
    path = tmp_path / "feed.toml"
    path.write_text('[feed]\nbook_depth = 3\nnam = "x"\n')
    _, _, err = ran(capsys, "feed", str(path), "--json")
    assert len([json.loads(line)["text"] for line in err.splitlines()]) == 3


@pytest.mark.parametrize(("name", "example"), [(name, each) for name in COMMANDS for each in EXAMPLES[name]])
def test_every_example_of_the_help_is_a_command_line_that_parses(capsys, name, example):
    assert f"kfix {example}" in ran(capsys, name, "--help")[1]
    words = example.split()
    assert words[0] == name
    group = _group()
    command = group.get_command(click.Context(group), name)
    words = words[1:]
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    assert command.make_context(name, words).params is not None


def test_a_feed_is_named_by_the_environment_unless_by_the_call(monkeypatch, tmp_path):
    with SegmentWriter("first", tmp_path, capacity=8), SegmentWriter("second", tmp_path, capacity=8):
        with pytest.raises(FeedError, match="no feed named 'default'"):
            attach(directory=tmp_path)
        monkeypatch.setenv("KFIX_FEED", "second")
        assert attach(directory=tmp_path).info["name"] == "second"
        assert attach("first", directory=tmp_path).info["name"] == "first"
        monkeypatch.setenv("KFIX_FEED", "third")
        with pytest.raises(FeedError, match="no feed named 'third'; there are: first, second; name one"):
            attach(directory=tmp_path)
    with SegmentWriter("first", tmp_path, capacity=8) as first, SegmentWriter("second", tmp_path, capacity=8):
        shutil.copy(first.path, tmp_path / "kfix-md.killed")  # as a feed leaves it that is killed
        with pytest.raises(FeedError, match=r"there are: first, killed \(has ended\), second; name one"):
            attach(directory=tmp_path)


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    """`kfix ... | head -1` with more text than the pipe holds."""
    with JournalWriter(tmp_path) as journal:
        for number in range(2000):
            journal.event(0, number, {"type": "status", "text": "some text"})
    here, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "kfix_md", "journal", "cat", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        os.read(here, 10)
        os.close(here)
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("command", ["verify", "report", "compact"])
def test_a_path_that_the_system_denies_is_one_line(capsys, tmp_path, monkeypatch, command):
    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "ticks").mkdir()
    monkeypatch.setattr(os, "listdir", denied)  # root has every permission
    status, _, err = ran(capsys, command, str(tmp_path))
    assert status == 2 and err == f"kfix: {tmp_path}/ticks: permission denied\n"


def test_an_output_that_cannot_be_made_is_known_before_the_probe(capsys, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "feed.toml"
    path.write_text('[[service]]\nname = "spot-l2"\nhost = "venue.invalid"\nsender_comp_id = "ME"\nsymbols = ["*"]\n')
    status, out, err = ran(capsys, "probe", str(path), "--output", str(tmp_path / "file" / "probe"))
    assert (status, out) == (2, "") and err == f"kfix: {tmp_path}/file/probe: not a directory\n"


def test_a_group_without_a_command_shows_its_help_in_lines(capsys):
    for name in ("journal", "lake"):
        status, out, err = ran(capsys, name)
        assert (status, out) == (2, "") and f"Usage: kfix {name} " in err.splitlines()[0] and len(err.splitlines()) > 5


def test_a_text_in_place_of_a_list_is_shown_as_one(capsys, tmp_path):
    path = tmp_path / "feed.toml"
    path.write_text('[[service]]\nname = "spot-l2"\nsender_comp_id = "ME"\nsymbols = "BTC/USD"\n')
    _, _, err = ran(capsys, "feed", str(path))
    assert 'symbols: must be a list, such as ["BTC/USD"]' in err


def test_every_mistake_of_a_configuration_is_a_line(capsys, tmp_path):
    path = tmp_path / "feed.toml"
    path.write_text('[feed]\nbook_depth = 3\nnam = "x"\n[[service]]\nname = "spot"\nsymbols = []\n')
    status, out, err = ran(capsys, "feed", str(path))
    lines = err.splitlines()
    assert status == 2 and not out and all(line.startswith(f"kfix: {path}: ") for line in lines)
    keys = [line.removeprefix(f"kfix: {path}: ").partition(": ")[0] for line in lines]
    assert keys[0] == "feed.nam" and set(keys[1:]) == {
        "feed.book_depth",
        "service[0] (spot).name",
        "service[0] (spot).sender_comp_id",
        "service[0] (spot).symbols",
    }


def test_the_schema_is_that_of_the_models(capsys):
    status, out, _ = ran(capsys, "doctor", "--schema")
    schema = json.loads(out)
    assert status == 0 and set(schema["properties"]) == set(config.SECTIONS)
    for name, model in config.SECTIONS.items():
        shown = schema["$defs"][model.__name__]
        assert set(shown["properties"]) == set(model.model_fields), name
        assert shown["additionalProperties"] is False
    feed = schema["$defs"]["FeedSection"]["properties"]
    assert (feed["mode"]["type"], feed["mode"]["default"]) == ("string", "0600")
    assert (feed["rollover"]["type"], feed["rollover"]["default"]) == ("string", "22:00")
    service = schema["$defs"]["ServiceSection"]["properties"]
    assert service["depth"]["enum"] == [0, 1, 10, 25, 100, 500, 1000] and "spot-l2" in service["name"]["enum"]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_examples_fit_the_schema(path):
    found = tomllib.loads(path.read_text())
    if "service" in found:
        jsonschema.validate(found, config.schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "feed": {"mode": 600}}, config.schema())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(capsys, name):
    status, out, _ = ran(capsys, name, "--help")
    assert status == 0 and "Usage: kfix" in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["fed"], "did you mean 'feed'?"),
        (["feed"], "Missing argument 'CONFIG'"),
        (["feed", "/none.toml"], "/none.toml: no such file"),
        (["doctor", "/none.toml"], "/none.toml: no such file"),
        (["feed", "--nonsense", "x"], "--nonsense"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, arguments, parts):
    status, out, err = ran(capsys, *arguments)
    assert status == 2 and not out
    assert err.startswith("kfix: ") and err.count("\n") == 1 and parts in err


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "kfix_md", "nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("kfix: no command 'nonsense'")


@pytest.mark.parametrize("as_json", [False, True])
def test_log_lines_for_people_and_for_machines(capfd, as_json):
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        output = set_up_logging(as_json)
        logging.getLogger("kfix.feed").warning("gap: %d", 3, extra={"service": "spot-l2"})
        output.close()
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
    line = capfd.readouterr().err.strip()
    if as_json:
        shown = json.loads(line)
        assert (shown["service"], shown["level"], shown["text"]) == ("spot-l2", "warning", "gap: 3")
    else:
        assert line.endswith("spot-l2        ! gap: 3")
