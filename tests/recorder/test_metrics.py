"""What a recorder exports, and that it goes on when a segment cannot be proven."""

from __future__ import annotations

import errno
import urllib.error
import urllib.request

import pytest

pytest.importorskip("prometheus_client")

from recorder import metrics
from recorder.process import Recorder
from tests.recorder import build


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def recorder(tmp_path):
    build.two_days(tmp_path)
    one = Recorder(build.settings(tmp_path, flush_rows=500, retention="zstd", poll_seconds=0))
    yield one
    one.close()


@pytest.fixture
def port(recorder):
    server = metrics.serve(recorder, "127.0.0.1", 0, recorder.settings.stores)
    yield server.port
    server.close()


def values(port: int) -> dict[str, float]:
    lines = [line for line in get(port, "/metrics")[1].splitlines() if line.startswith("kfix_recorder_")]
    return {name: float(value) for name, value in (line.split(" ") for line in lines)}


def test_progress_and_backlog(recorder, port):
    before = values(port)
    assert before["kfix_recorder_rows_total"] == 0 and before["kfix_recorder_behind_bytes"] > 1000
    recorder.once()
    after = values(port)
    assert after["kfix_recorder_rows_total"] == recorder.rows > 0
    assert after["kfix_recorder_flushes_total"] == recorder.flushes
    assert after["kfix_recorder_behind_bytes"] < before["kfix_recorder_behind_bytes"]
    assert {f"kfix_recorder_{name}_total" for name in metrics.COUNTERS} <= set(after)
    recorder.current_s -= 100
    assert values(port)["kfix_recorder_uncommitted_seconds"] >= 100


def test_a_full_disk_is_a_reason_not_to_be_ready_until_it_has_room(recorder, port, monkeypatch):
    commit, attempts = recorder.writer.commit, []

    def full_twice(*arguments):
        attempts.append(get(port, "/readyz"))
        if len(attempts) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return commit(*arguments)

    monkeypatch.setattr(recorder.writer, "commit", full_twice)
    recorder.run(lambda: len(attempts) > 3, sleep=lambda seconds: None)
    assert attempts[0] == (200, "ok\n")
    assert attempts[1] == (503, "captures cannot be written: [Errno 28] No space left on device\n")
    assert get(port, "/readyz") == (200, "ok\n")
    assert values(port)["kfix_recorder_write_errors_total"] == 2


def test_a_segment_that_is_not_proven_is_kept_and_recording_goes_on(recorder, port, caplog):
    recorder.once()
    tree = recorder.writer.tree
    damaged = tree.files("ticks", tree.dates()[0])[0]
    aside = damaged.read_bytes()
    damaged.unlink()
    recorder.housekeeping()
    assert "the segment is kept" in caplog.text
    assert values(port)["kfix_recorder_segments_unproven_total"] == 1
    damaged.write_bytes(aside)
    recorder.housekeeping()
    assert values(port)["kfix_recorder_segments_retired_total"] > 0


def test_a_recorder_that_stands_still_is_not_healthy(recorder, port):
    assert get(port, "/healthz") == (200, "ok\n")
    recorder.beat_s -= metrics.STALLED_S + 1
    for page in ("/healthz", "/readyz"):
        status, text = get(port, page)
        assert status == 503 and text.startswith("the recorder has done nothing for 30")
