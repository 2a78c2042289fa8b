"""The doctor's findings: a good configuration, and each thing that can be wrong with one."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from kfix_md.cli.doctor import command
from kfix_md.config import load
from kfix_md.feed import doctor
from kfix_md.feed.dial import DialResult
from kfix_md.metrics_server import listen
from tests.feed.rig import ROOT, SERVICES, Venue


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    venue = Venue(tmp_path_factory.mktemp("venue"), "--symbols", "2", "--rate", "20")
    yield venue
    venue.close()


def examine(tmp_path, text, **options):
    path = tmp_path / "feed.toml"
    path.write_text(text)
    return doctor.examine(str(path), **options)


def test_all_in_order(venue, tmp_path):
    findings = examine(tmp_path, venue.toml(tmp_path, "t-doc"))
    assert not [finding for finding in findings if finding.status == doctor.FAIL]
    for service in SERVICES:
        text = " ".join(finding.text for finding in findings if finding.about == service)
        assert "TLSv1.3" in text and "days left" in text and "logged on as" in text
        assert "2 of 2 instruments selected" in text and "clock" in text
    assert not (tmp_path / "captures").exists()


def test_what_the_machine_does_not_give_is_told(venue, tmp_path, monkeypatch):
    feed = 'cpu = 999\nrt_priority = 10\nbusy_poll = true\nprocesses = "per-service"\n'
    monkeypatch.setattr(doctor.tuning, "permitted", lambda priority: False)
    findings = examine(tmp_path, venue.toml(tmp_path, "t-doc", ("spot-l2", "spot-l3"), feed=feed))
    shown = {finding.about: finding for finding in findings}
    assert shown["TLS engine"].status == doctor.OK
    assert shown["feed"].status == doctor.FAIL and "999 is not one of this process's CPUs" in shown["feed"].text
    assert shown["rt_priority"].status == doctor.WARN and "not permitted" in shown["rt_priority"].text
    assert shown["busy_poll"].status == doctor.WARN and "2 processes" in shown["busy_poll"].text


def test_a_port_of_the_metrics_that_is_taken_is_named(tmp_path):
    pytest.importorskip("prometheus_client")
    path = tmp_path / "feed.toml"

    def found(host, port):
        service = '[[service]]\nname = "spot-l2"\nsender_comp_id = "A"\nsymbols = ["*"]\n'
        path.write_text(f'{service}[metrics]\nhost = "{host}"\nport = {port}\n')
        return [(finding.status, finding.text) for finding in doctor.metrics(load(path))]

    assert found("127.0.0.1", 0) == []
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        ((status, text),) = found("127.0.0.1", port)
        assert status == doctor.WARN and text.startswith(f"metrics.port = {port}: address already in use")
    assert found("127.0.0.1", port) == [(doctor.OK, f"port {port} of 127.0.0.1 is free")]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("tls_ca", "#tls_ca"), "not signed by the system's"),
        (('host = "localhost"', 'host = "localhost"\ntls_name = "other.example"'), "not for 'other.example'"),
        (('host = "localhost"', 'host = "no.such.host.invalid"'), "does not resolve"),
        (('symbols = ["*"]', 'symbols = ["BTC/USB"]'), "near: BTC/USD"),
    ],
)
def test_what_is_wrong_is_found(venue, tmp_path, change, parts):
    findings = examine(tmp_path, venue.toml(tmp_path, "t-doc", ("spot-l2",)).replace(*change))
    bad = [finding for finding in findings if finding.status == doctor.FAIL]
    assert bad and any(parts in finding.text for finding in bad)
    assert all("\n" not in finding.text for finding in findings)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_comp_ids_of_the_examples_are_found(tmp_path, path, monkeypatch):
    monkeypatch.setenv("KRAKEN_API_KEY", "key")
    monkeypatch.setenv("KRAKEN_API_SECRET", "c2VjcmV0")
    text = path.read_text().replace('host = "fix.', 'host = "no.such.')
    left = [f for f in examine(tmp_path, text, timeout_s=0.5) if "is a placeholder" in f.text]
    wanted = 0 if path.name == "simulator.toml" else text.count("[[service]]")
    assert len(left) == wanted and {finding.status for finding in left} <= {doctor.FAIL}


def test_a_refused_port_and_the_command_line(venue, tmp_path):
    text = venue.toml(tmp_path, "t-doc", ("spot-l2",)).replace(str(venue.ports["spot-l2"]), "1")
    (tmp_path / "feed.toml").write_text(text)
    ran = CliRunner().invoke(command, [str(tmp_path / "feed.toml"), "--json"])
    assert ran.exit_code == 2
    shown = json.loads(ran.output)
    assert not shown["ok"] and any(finding["status"] == "FAIL" for finding in shown["findings"])
    good = tmp_path / "feed.toml"
    good.write_text(venue.toml(tmp_path, "t-doc", ("spot-l2",)))
    ran = CliRunner().invoke(command, [str(good)])
    assert ran.exit_code == 0 and "0 failed" in ran.output


def test_comp_ids_ports_clock_and_certificate(venue, tmp_path):
    section = examine_section(tmp_path, venue.toml(tmp_path, "X-DRV", ("spot-l2",)))
    assert [finding.status for finding in doctor.comp_ids(section)] == [doctor.WARN]
    ordering = section.model_copy(update={"port": 4001, "sender_comp_id": "X"})
    assert [finding.status for finding in doctor.comp_ids(ordering)] == [doctor.FAIL]
    assert doctor.clock("x", 0.01).status == doctor.OK and doctor.clock("x", -3).status == doctor.WARN
    old = DialResult("a", ["a"], 0.1, "TLSv1.3", "X", {"notAfter": "Jan  1 00:00:00 2020 GMT"})
    assert doctor.connection("x", old)[-1].status == doctor.WARN


def examine_section(tmp_path, text):
    from tests.feed.rig import load

    return load(tmp_path, text).service[0]


def test_a_directory_that_takes_nothing(venue, tmp_path):
    (tmp_path / "file").write_text("")
    text = venue.toml(tmp_path, "t-doc", ("spot-l2",)).replace('"journal"', '"file/journal"')
    bad = [finding for finding in examine(tmp_path, text) if finding.status == doctor.FAIL]
    assert [finding.about for finding in bad] == ["journal"]
