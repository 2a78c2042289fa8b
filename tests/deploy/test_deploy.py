"""Units, container files and kernel settings: checked by the real tools where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from kfix_md.config import load

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
PAGE = (ROOT / "docs" / "deploy.md").read_text()


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_there_are_two_units():
    assert [path.stem for path in UNITS] == ["kfix-feed", "kfix-recorder"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_finds_no_mistake(unit, tmp_path):
    """The command must exist for systemd: any does."""
    text, replaced = re.subn(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
    assert replaced == 1
    (tmp_path / unit.name).write_text(text)
    done = tool("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / unit.name)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / unit.name).write_text(text.replace("WorkingDirectory=", "WorkingDir="))
    assert "Unknown key" in tool("systemd-analyze", "verify", "--recursive-errors=no", tmp_path / unit.name).stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_exposure_is_below_three_and_as_documented(unit):
    done = tool("systemd-analyze", "security", "--offline=true", "--threshold=29", "--no-pager", unit)
    assert done.returncode == 0, done.stdout + done.stderr
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)[1]
    assert f"the {unit.stem.removeprefix('kfix-')} {exposure}" in PAGE


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_runs_a_command_that_exists(unit):
    from click.testing import CliRunner

    from kfix_md.cli import _group

    command = re.search(r"^ExecStart=\S+/kfix (.*)$", unit.read_text(), re.MULTILINE)[1].split()
    options = [word for word in command if word.startswith("--")]
    shown = CliRunner().invoke(_group(), [command[0], "--help"])
    assert shown.exit_code == 0 and all(option in shown.output for option in options)


def test_units_that_share_a_user_do_not_remove_its_shared_memory():
    for unit in UNITS:
        text = unit.read_text()
        assert "\nUser=kfix\n" in text and "\nRemoveIPC=no\n" in text
        assert "\nRestartPreventExitStatus=2\n" in text
        assert "\nOOMPolicy=continue\n" in text  # each has processes that may go without its end


def test_the_user_is_made(tmp_path):
    (tmp_path / "etc").mkdir()
    done = tool("systemd-sysusers", f"--root={tmp_path}", DEPLOY / "kfix.sysusers")
    assert done.returncode == 0, done.stderr
    number = (tmp_path / "etc" / "passwd").read_text().split("kfix:", 1)[1].split(":")[1]
    assert int(number) < 1000  # a system user


def test_compose_names_files_and_ports_that_exist():
    text = (DEPLOY / "compose.yml").read_text()
    mounted = re.findall(r"- (\.\.?/\S+?):/", text)
    assert len(mounted) == 6
    for path in set(mounted) - {"./feed.toml"}:  # that one is the operator's
        assert (DEPLOY / path).is_file(), path
    config = load(ROOT / "examples" / "feed.toml")
    ports = {config.metrics.port, config.recorder.metrics_port}
    assert set(map(int, re.findall(r"127\.0\.0\.1:(\d+)/healthz", text))) == ports
    for path in (DEPLOY / "prometheus.compose.yml", ROOT / "monitoring" / "prometheus.yml"):
        assert set(map(int, re.findall(r'targets: \["[^"]+:(\d+)"\]', path.read_text()))) == ports


def test_prometheus_takes_the_compose_configuration(tmp_path):
    for source in (DEPLOY / "prometheus.compose.yml", ROOT / "monitoring" / "alerts.yml"):
        shutil.copy(source, tmp_path)
    done = tool("promtool", "check", "config", tmp_path / "prometheus.compose.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_yaml_files_are_well_formed():
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    assert set(compose["services"]) == {"feed", "recorder", "prometheus", "grafana"}
    for path in (DEPLOY / "grafana").glob("*.yml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1


def test_kernel_settings_exist_on_linux():
    for name in re.findall(r"^([a-z_.0-9]+) =", (DEPLOY / "99-kfix.conf").read_text(), re.MULTILINE):
        assert Path("/proc/sys", *name.split(".")).exists(), name


def test_every_file_is_on_the_page():
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.parent == DEPLOY and path.suffix != ".yml":
            assert path.name in PAGE, path.name
