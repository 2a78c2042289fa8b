"""The probe against the simulator: all as expected without surprises, and each variation named when it is on."""

from __future__ import annotations

import gzip
import json

import pytest

from kfix_md.cli import main
from kfix_md.probe.assumptions import ASSUMPTIONS
from tests.feed.rig import Venue

QUICK = ("--seconds", "2", "--symbols", "3")


def run(folder, text, capsys, *options):
    """`kfix probe` in this process: (exit status, rows by service and assumption, whole result)."""
    path = folder / "feed.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["probe", str(path), "--json", "--output", str(folder / "out"), *QUICK, *options])
    result = json.loads(capsys.readouterr().out)
    rows = {each["service"]: {row["assumption"]: row for row in each["assumptions"]} for each in result["services"]}
    return ended.value.code, rows, result


@pytest.fixture
def venue(tmp_path):
    made = Venue(tmp_path, "--symbols", "4", "--rate", "400", "--seed", "3")
    yield made
    made.close()


def test_a_venue_without_surprises(venue, tmp_path, capsys):
    _, rows, result = run(tmp_path, venue.toml(tmp_path, "probe"), capsys)
    assert [each["problem"] for each in result["services"]] == [None] * 4
    differs = {
        (service, key): row["seen"]
        for service, found in rows.items()
        for key, row in found.items()
        if row["as_expected"] is False
    }
    assert differs == {}
    assert rows["spot-l2"]["checksum-rule"]["seen"] == "level"
    assert rows["spot-l3"]["checksum-rule"]["seen"] == "order"


def test_frames_are_saved_without_the_account(venue, tmp_path, capsys):
    text = venue.toml(tmp_path, "acme", ("spot-l2",))
    _, _, result = run(tmp_path, text, capsys)
    (service,) = result["services"]
    (log,) = (tmp_path / "out").glob("*.log.gz")
    both = gzip.decompress(log.read_bytes()).decode()
    assert "acme" not in both and "49=CLIENT" in both and "56=CLIENT" in both
    assert all("acme" not in line for line in service["sent"])
    with pytest.raises(SystemExit) as ended:
        main(["inspect", service["capture"], "--json"])
    seen = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and seen["checksum"]["failed"] == 0 and seen["checksum"]["ok"] > 0


def test_every_assumption_has_what_an_operator_needs():
    for each in ASSUMPTIONS:
        assert each.text and each.expected and each.source and each.when_wrong and each.setting, each.key
