"""`kfix lake push` as its users run it: once, again and again, as the new writer, and with old captures."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from kfix_md.errors import CaptureError
from recorder import lake_push, layout
from recorder.lake import Lake
from recorder.lake_cli import lake
from recorder.lake_push import Push, rounds
from tests.lake.rows import push, same


def test_take_over_makes_captures_the_writer_whose_state_was_lost(captures, url):
    push(captures, url)
    (captures / "state" / "lake.json").unlink()
    rejected = CliRunner().invoke(lake, ["push", str(captures), url])
    assert isinstance(rejected.exception, CaptureError) and "--take-over" in str(rejected.exception)
    taken = CliRunner().invoke(lake, ["push", str(captures), url, "--take-over"])
    assert taken.exit_code == 0, taken.output
    assert CliRunner().invoke(lake, ["push", str(captures), url]).exit_code == 0  # from now on it is the writer
    same(captures, url)


def test_every_pushes_again_and_survives_a_lake_that_fails_for_a_time(captures, url, monkeypatch, caplog):
    real, waits, pushed = lake_push.upload, [], []

    def upload(*args):
        if not waits:
            raise CaptureError("the lake is away")
        real(*args)

    monkeypatch.setattr(lake_push, "upload", upload)
    job = Push(captures, Lake(url))

    def wait(seconds):
        waits.append(seconds)
        return len(waits) == 3

    with caplog.at_level("INFO", "kfix.lake"):
        for done in rounds(job, 60.0, wait):
            pushed.append(done)
    job.close()
    assert len(waits) == 3 and all(0 < one <= 60 for one in waits)
    assert [bool(done.commits) for done in pushed] == [True, False]
    assert "the lake is away" in caplog.text and "works again" in caplog.text
    same(captures, url)


@pytest.mark.parametrize("text", ["0s", "-1", "soon", "60d"])
def test_every_takes_durations_only(captures, url, text):
    found = CliRunner().invoke(lake, ["push", str(captures), url, "--every", text])
    assert found.exit_code == 2 and "60s, 5m" in found.output


def test_captures_whose_rows_name_no_feed_are_rejected_with_the_remedy(captures, url):
    tree = layout.Tree(captures)
    for path in tree.files("gaps", tree.dates()[0]):
        rows = pq.read_table(path)
        kept = [name for name in rows.column_names if name not in ("feed", "service")]
        metadata = {**(rows.schema.metadata or {}), b"kfix_md.schema": b"3"}
        pq.write_table(rows.select(kept).replace_schema_metadata(metadata), path)
    with pytest.raises(CaptureError, match="without feed and service: rewrite finished dates with `kfix compact"):
        push(captures, url)
    assert not Lake(url).held(Lake(url).open("gaps"))
