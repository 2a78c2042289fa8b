"""Every mistake in a configuration file is one line that names the key and what to do."""

import os

import pytest

from kfix_md import config, config_fields
from kfix_md.errors import UsageError
from kfix_md.feed import checks
from kfix_md.feed.settings import session_config

GOOD = """
[[service]]
name = "spot-l2"
sender_comp_id = "ME"
symbols = ["BTC/USD", "*/EUR"]
"""


def load(tmp_path, text):
    path = tmp_path / "feed.toml"
    path.write_text(text)
    return config.load(path)


def test_defaults_are_those_of_the_venue(tmp_path):
    found = load(tmp_path, GOOD)
    service = found.service[0]
    assert (service.host, service.port, service.target_comp_id) == ("fix.kraken.com", 4000, "KRAKEN-MD")
    assert service.verify and service.tls and service.trades and service.level == "L2"
    assert found.feed.mode == 0o600 and found.feed.rollover == 22 * 3600


def test_relative_paths_count_from_the_file(tmp_path):
    found = load(tmp_path, GOOD + 'tls_ca = "ca.pem"\n[journal]\ndirectory = "j"\n[recorder]\ndirectory = "/abs"\n')
    assert found.journal.directory == tmp_path / "j"
    assert str(found.recorder.directory) == "/abs"
    assert found.service[0].tls_ca == tmp_path / "ca.pem"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["service: missing", "[[service]]"]),
        ("x =", ["not valid TOML", "Invalid value"]),
        ("[jurnal]\nx = 1\n" + GOOD, ["jurnal: unknown key", "did you mean 'journal'"]),
        (GOOD + "prot = 4000", ["service[0] (spot-l2).prot", "did you mean 'port'"]),
        (GOOD + "port = 70000", ["service[0] (spot-l2).port", "65535"]),
        (GOOD + "depth = 7", [".depth", "1, 10, 25, 100, 500, 1000"]),
        (GOOD + "verify = false", ["verify", "production", "fix.kraken.com"]),
        (GOOD + "tls = false", ["tls", "loopback"]),
        (GOOD + 'api_key = "abc"', ["api_key", "env:", "file:"]),
        (GOOD + 'api_key = "env:K"', ["api_secret", "both or neither"]),
        (GOOD.replace("spot-l2", "spot-l9"), ["name", "'spot-l2'"]),
        (GOOD.replace("spot-l2", "spot-l3") + "trades = true", ["trades", "L3"]),
        (GOOD.replace('"ME"', '"M E"'), ["sender_comp_id", "printable"]),
        (GOOD + GOOD, ["sender_comp_id ME appears twice", "another sender_comp_id"]),
        ('[feed]\nrollover = "25:00"\n' + GOOD, ["feed.rollover", "22:00"]),
        ("[feed]\nmode = 600\n" + GOOD, ["feed.mode", "octal"]),
        ('[feed]\nname = "a/b"\n' + GOOD, ["feed.name", "letters"]),
        (GOOD + "sending_time_limit_s = inf", [".sending_time_limit_s", "finite"]),
        (GOOD + "sending_time_limit_s = 1e9", [".sending_time_limit_s", "86400"]),
        (GOOD + "gap_timeout_s = nan", [".gap_timeout_s", "finite"]),
        (GOOD + "retry_max_s = -1", [".retry_max_s", "0.1"]),
        (GOOD + "requests_per_s = inf", [".requests_per_s", "finite"]),
        (GOOD + "[recorder]\ninterval_s = inf", ["recorder.interval_s", "finite"]),
        ("[feed]\nsymbols_max = 0\n" + GOOD, ["feed.symbols_max", "1"]),
        (GOOD + 'tls_min = "1.1"', [".tls_min", "'1.3' or '1.2'"]),
        (GOOD + 'checksum = "sent"', [".checksum", "'level-sent'"]),
        (GOOD + "logon_fields = {5051 = 1}", ["logon_fields", "string"]),
        (GOOD + 'logon_fields = {x = "1"}', ["logon_fields", "'x' is not a FIX tag"]),
        (GOOD + "securities = []", ["securities", "at least 1"]),
        (GOOD + 'securities = ["TS", "TS"]', ["securities", "twice"]),
        (GOOD + 'securities = ["STOCK"]', ["securities", "'TS'"]),
        ('[feed]\nunverified = "yes"\n' + GOOD, ["feed.unverified", "'refuse' or 'serve'"]),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, parts):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message and "feed.toml" in message
    for part in parts:
        assert part in message


def test_unverified_tls_is_for_other_hosts(tmp_path):
    assert not load(tmp_path, GOOD + 'host = "fix.uat.kraken.com"\nverify = false').service[0].verify
    assert config_fields.is_production("colo-london.vip-fix.kraken.com")
    assert not config_fields.is_production("colo-london.vip-fix.uat.kraken.com")


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        config.load(tmp_path / "none.toml")


def test_secrets_come_from_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("KFIX_T", "abc")
    (tmp_path / "s").write_text("xyz\n")
    (tmp_path / "s").chmod(0o640)
    assert checks.read_secret("env:KFIX_T") == "abc"
    assert checks.read_secret(f"file:{tmp_path}/s") == "xyz"
    (tmp_path / "s").chmod(0o644)
    with pytest.raises(UsageError, match=r"every user \(mode 0644\): chmod o= "):
        checks.read_secret(f"file:{tmp_path}/s")
    monkeypatch.delenv("KFIX_T")
    with pytest.raises(UsageError, match="KFIX_T is not set"):
        checks.read_secret("env:KFIX_T")
    with pytest.raises(UsageError, match="cannot be read"):
        checks.read_secret(f"file:{tmp_path}/none")


def test_a_directory_that_takes_no_files(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match=r"journal.directory = .*cannot write there"):
        checks.check_writable(tmp_path / "f" / "j", "journal.directory")
    if os.geteuid():
        (tmp_path / "ro").mkdir(mode=0o500)
        with pytest.raises(UsageError, match="permission denied"):
            checks.check_writable(tmp_path / "ro", "feed.directory", create=False)


def test_room_is_enough_for_every_instrument_of_every_service(tmp_path):
    names = ("spot-l2", "spot-l3", "derivatives-l2", "derivatives-l3")
    every = "".join(GOOD.replace("spot-l2", name).replace('"ME"', f'"{name}"') for name in names)
    assert load(tmp_path, every).capacity == 7000
    assert load(tmp_path, GOOD + GOOD.replace('"ME"', '"TWIN"')).capacity == 2500  # a hot pair shares its books
    assert load(tmp_path, "[feed]\nsymbols_max = 20\n" + GOOD).capacity == 20
    whole = load(tmp_path, '[feed]\nprocesses = "per-service"\n' + every)
    assert config.service_config(whole, "derivatives-l3").capacity == 1000


@pytest.mark.parametrize("field", ['108 = "1"', '5051 = "a\\u0001b"', '5051 = ""'])
def test_logon_fields_that_the_session_cannot_send(tmp_path, field):
    service = load(tmp_path, GOOD + f"logon_fields = {{{field}}}").service[0]
    with pytest.raises(UsageError, match="logon_fields: .*" + field.split()[0]):
        session_config(service, 0)


def test_extra_logon_fields_and_checksum_rules(tmp_path):
    service = load(tmp_path, GOOD + 'logon_fields = {5051 = "1"}\nchecksum = "order-sent"\ntls_min = "1.2"').service[0]
    assert session_config(service, 0).logon_fields == {5051: "1"}
    assert service.checksum == "order-sent" and service.tls_min == "1.2"
