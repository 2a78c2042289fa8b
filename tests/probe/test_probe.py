"""The probe against the simulator: all as expected without surprises, and each variation named when it is on."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
import time
from pathlib import Path

import pytest
import uvloop

from kfix_md.cli import main
from kfix_md.config import Config
from kfix_md.feed.dial import choose_engine
from kfix_md.probe import run as probe_run
from kfix_md.probe.assumptions import ASSUMPTIONS, BY_KEY
from kfix_md.probe.service import ProbePace
from kfix_md.simulator.capture import read
from kfix_md.simulator.dialect import Dialect
from kfix_md.simulator.habits import SWITCHES
from tests.feed.rig import SERVICES, Venue, load
from tests.probe.cases import CASES, Case

#: a simulator on this machine answers at once
QUICK = ProbePace(data=0.6, answer=1.0, reject=0.3, between=0.02, late=0.3, shallow=0.5)


def probed(config: Config, through_rollover: bool = False, folder: Path | None = None, symbols: int = 2):
    """Reports of all services of a configuration."""
    wanted = probe_run.probe(config, symbols=symbols, pace=QUICK, through_rollover=through_rollover, folder=folder)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(wanted)


def rows(report):
    return {row["assumption"]: row for row in report.as_json()["assumptions"]}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder whose certificates are made once."""
    return tmp_path_factory.mktemp("venue")


@pytest.fixture
def venue(certificates):
    made = Venue(certificates, "--symbols", "4", "--rate", "400", "--seed", "3")
    yield made
    made.close()


def test_a_venue_without_surprises(venue, tmp_path):
    reports = probed(load(tmp_path, venue.toml(tmp_path, "probe")), symbols=3)
    assert [each.problem for each in reports] == [""] * 4
    differs = {
        (each.service, key): row["seen"]
        for each in reports
        for key, row in rows(each).items()
        if row["as_expected"] is False
    }
    assert differs == {}
    found = {each.service: rows(each) for each in reports}
    assert found["spot-l2"]["checksum-rule"]["seen"] == "level"
    assert found["spot-l3"]["checksum-rule"]["seen"] == "order"
    unseen = {key for each in found.values() for key, row in each.items() if row["as_expected"] is None}
    assert unseen <= {"update-rows", "rollover", "depth-deletes", "trade-codes"}
    checked = reports[0].as_json()["checksums"]
    assert len(checked) == 3 and all(each["rules"] and each["checked"] for each in checked.values())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_variation_is_named(case: Case, tmp_path, certificates):
    options, feed = list(case.options), case.feed
    if case.rollover:
        at = time.strftime("%H:%M:%S", time.gmtime(time.time() + 6))
        options += ["--rollover-at", at, "--rollover-form", case.rollover]
        feed = f'rollover = "{at}"'
    venue = Venue(certificates, "--symbols", "3", "--rate", "400", "--seed", "3", *options)
    try:
        for command, arguments in case.commands:
            venue(command, **arguments)
        section = case.section if "symbols" in case.section else f'symbols = ["*"]\n{case.section}'
        text = venue.toml(tmp_path, "probe", (case.service,), service=section, feed=feed)
        (report,) = probed(load(tmp_path, text), through_rollover=bool(case.rollover), symbols=3)
    finally:
        venue.close()
    row = rows(report)[case.assumption]
    assert case.seen in row["seen"], row
    assert row["as_expected"] is case.as_expected


def test_an_update_in_part_is_named(venue, tmp_path):
    """Sent while the probe is connected."""
    config = load(tmp_path, venue.toml(tmp_path, "probe", ("spot-l2",)))

    async def both():
        probing = asyncio.create_task(
            probe_run.probe(config, symbols=2, pace=QUICK, through_rollover=False, folder=None)
        )
        while not probing.done():
            venue("update", service="spot-l2", symbol="BTC/USD", tags=[5032])
            await asyncio.sleep(0.1)
        return probing.result()

    (report,) = asyncio.run(both())
    row = rows(report)["update-rows"]
    assert row["as_expected"] is False and row["seen"] == "in part: BTC/USD without precisions"


def test_every_switch_of_the_simulator_has_a_case():
    switches = {field.name for field in dataclasses.fields(Dialect)} | set(SWITCHES)
    covered = {key for case in CASES for _, arguments in case.commands for key in arguments}
    covered |= {option.removeprefix("--").replace("-", "_") for case in CASES for option in case.options}
    # of a ResendRequest in chunks; of a Logout that is not answered
    assert switches - covered <= {"chunk", "linger"}


def test_every_assumption_has_a_case():
    elsewhere = {"update-rows", "certificate"}
    assert {case.assumption for case in CASES} | elsewhere == set(BY_KEY)


@pytest.mark.parametrize("name", ["wrong.example", "localhost"])
def test_a_certificate_for_another_name_is_named(venue, tmp_path, name):
    text = venue.toml(tmp_path, "probe", ("spot-l2",), service=f'symbols = ["*"]\ntls_name = "{name}"')
    (report,) = probed(load(tmp_path, text))
    row = rows(report)["certificate"]
    assert row["as_expected"] is (name == "localhost")
    assert (name in report.problem) is (name != "localhost")


def test_a_session_that_ends_in_the_middle_is_a_problem_not_a_row_of_no_answers(venue, tmp_path):
    config = load(tmp_path, venue.toml(tmp_path, "probe", ("spot-l2",)))

    async def both():
        probing = asyncio.create_task(
            probe_run.probe(config, symbols=2, pace=QUICK, through_rollover=False, folder=None)
        )
        while not probing.done():
            if venue("stats")["services"]["spot-l2"]["counts"].get("received V"):
                venue("logout", service="spot-l2", text="enough")
                break
            await asyncio.sleep(0.02)
        return await probing

    (report,) = asyncio.run(both())
    assert "the gateway ended the session (Logout 'enough')" in report.problem
    assert rows(report)["resend"]["as_expected"] is None


def test_no_gateway_is_a_problem_and_no_row(venue, tmp_path):
    text = venue.toml(tmp_path, "probe", ("spot-l2",)).replace(str(venue.ports["spot-l2"]), "1")
    (report,) = probed(load(tmp_path, text))
    assert "connection refused" in report.problem and not report.sent
    assert {row["as_expected"] for row in rows(report).values()} == {None}


def test_the_command_saves_frames_without_the_account(venue, tmp_path, capsys):
    """As a user runs it; the capture is read by `kfix inspect`, and the simulator can serve it."""
    text = venue.toml(tmp_path, "acme", ("spot-l2",))
    key = 'api_key = "env:KFIX_KEY"\napi_secret = "env:KFIX_SECRET"'
    path = tmp_path / "feed.toml"
    path.write_text(text.replace("[journal]", f"{key}\n[journal]"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setenv("KFIX_KEY", "keyname")
        patch.setenv("KFIX_SECRET", "c2VjcmV0")
        main(["probe", str(path), "--json", "--output", str(tmp_path / "out"), "--seconds", "2", "--symbols", "3"])
    assert ended.value.code == 0
    (service,) = json.loads(capsys.readouterr().out)["services"]
    (log,) = (tmp_path / "out").glob("*.log.gz")
    both = gzip.decompress(log.read_bytes()).decode()
    assert "acme" not in both and "keyname" not in both and "49=CLIENT" in both and "56=CLIENT" in both
    assert "553=*" in both and "554=*" in both and "5025=*" in both
    assert all("acme" not in line for line in service["sent"])
    with pytest.raises(SystemExit) as ended:
        main(["inspect", service["capture"], "--json"])
    seen = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and seen["checksum"]["failed"] == 0 and seen["checksum"]["ok"] > 0
    served = read(service["capture"])
    assert len(served.snapshots) == 3 and {event.symbol for event in served.events} == set(served.snapshots)


def test_the_table_fits_eighty_columns(venue, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("kfix_md.probe.service.ProbePace", lambda **_: QUICK)
    venue("vary", symbol="*", ids="long")
    path = tmp_path / "feed.toml"
    path.write_text(venue.toml(tmp_path, "probe", ("spot-l2",)))
    with pytest.raises(SystemExit) as ended:
        main(["probe", str(path), "--output", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1
    assert [line for line in lines if len(line) > 80 and "frames of both" not in line] == []
    assert any("DIFFERS  ids-l2" in line for line in lines) and any("expected: side letter" in line for line in lines)


def test_every_assumption_has_what_an_operator_needs():
    for each in ASSUMPTIONS:
        assert each.text and each.expected and each.source and each.when_wrong and each.setting, each.key


def test_services_are_all_probed(venue, tmp_path):
    assert choose_engine("auto") is not None
    config = load(tmp_path, venue.toml(tmp_path, "probe"))
    assert [section.name for section in config.service] == list(SERVICES)
