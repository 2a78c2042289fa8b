"""The rules of monitoring/alerts.yml: sound, about metrics that exist; each fires, clears and has its section."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ALERTS = ROOT / "monitoring" / "alerts.yml"
TEXT = ALERTS.read_text()
NAMES = re.findall(r"- alert: (\w+)", TEXT)
SERVICE = 'service="spot-l2", sender="S", instance="i"'
#: alert -> series that fire it and clear it again: values of each minute, "_" for none
FIRING = {
    "KfixDown": {'up{job="kfix"}': "1 0x5 1x30"},
    "KfixLoopStalled": {"kfix_heartbeat_age_seconds": "0 30x5 0x30"},
    "KfixSessionDown": {f"kfix_up{{{SERVICE}}}": "1 0x5 1x30", f"kfix_planned{{{SERVICE}}}": "0x36"},
    "KfixBooksNotLive": {f'kfix_states{{{SERVICE}, state="crc_fail"}}': "0 2x5 0x30"},
    "KfixChecksumsFail": {f"kfix_crc_failed_total{{{SERVICE}}}": "0 40x35"},
    "KfixGapOpen": {f"kfix_gaps_open{{{SERVICE}}}": "0 1x5 0x30", f"kfix_planned{{{SERVICE}}}": "0x36"},
    "KfixJournalNotWritten": {"kfix_journal_alarm": "0 1x5 0x30"},
    "KfixDiskFillsUp": {
        'kfix_disk_free_bytes{holds="journal"}': "1x15 50x20",
        'kfix_disk_size_bytes{holds="journal"}': "100x36",
        'kfix_disk_left_seconds{holds="journal"}': "9e5x36",
    },
    "KfixClockOff": {f"kfix_clock_lag_seconds{{{SERVICE}}}": "0 -3x10 0x30"},
    "KfixClockStepped": {"kfix_clock_steps_total": "0 1x35"},
    "KfixLagging": {f"kfix_lagging{{{SERVICE}}}": "0 1x5 0x30"},
    "KfixSegmentLost": {"kfix_shm_alarm": "0x36", "kfix_shm_republished_total": "0 1x35"},
    "KfixSymbolsLeftOut": {f"kfix_left_out{{{SERVICE}}}": "0 1x5 0x30"},
    "KfixInternalError": {f"kfix_errors_total{{{SERVICE}}}": "0 1x35"},
    "KfixLogLinesLost": {"kfix_log_lines_lost_total": "0 9x35"},
    "KfixRecorderDown": {'up{job="kfix-recorder"}': "1 0x5 1x30"},
    "KfixRecorderStalled": {"kfix_recorder_heartbeat_age_seconds": "0 400x5 0x30"},
    "KfixRecorderFails": {"kfix_recorder_failing": "0 1x5 0x30"},
    "KfixRecorderBehind": {
        "kfix_recorder_behind_bytes": "0 2e9x15 0x20",
        "kfix_recorder_uncommitted_seconds": "0x36",
    },
    "KfixJournalDamaged": {"kfix_recorder_damages_total": "0x36", "kfix_recorder_undecoded_total": "0 1x35"},
    "KfixNotProven": {
        "kfix_recorder_segments_unproven_total": "0 1x35",
        "kfix_recorder_compactions_failed_total": "0x36",
    },
}
FIRES_AT = {"KfixDiskFillsUp": 12, "KfixRecorderBehind": 13, "KfixClockOff": 8, "KfixSessionDown": 4, "KfixGapOpen": 4}


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)


def test_rules_are_sound():
    checked = promtool("check", "rules", str(ALERTS))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_its_section_of_the_runbook():
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sections == NAMES
    assert re.findall(r"runbook: (.*)", TEXT) == [f"docs/runbook.md#{name.lower()}" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_it_fires_and_clears(name, tmp_path):
    evaluated = FIRES_AT.get(name, 3)
    queries = [(0, 0), (evaluated, 1), (35, 0)]
    case = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": key, "values": value} for key, value in FIRING[name].items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)',
                        "eval_time": f"{minute}m",
                        "exp_samples": [{"labels": "{}", "value": count}],
                    }
                    for minute, count in queries
                ],
            }
        ],
    }
    path = tmp_path / "case.yml"
    path.write_text(json.dumps(case))  # JSON is YAML
    tested = promtool("test", "rules", str(path))
    assert tested.returncode == 0, tested.stdout + tested.stderr
