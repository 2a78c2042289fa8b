"""Days larger than memory and years of files: what is read grows with the question, not with what there is."""

from __future__ import annotations

import pytest

from tests.recorder import big

SMALL, LARGE = 6, 32  # copies of a session: 30 and 160 MB of ticks in memory
_CAPTURES = "from pathlib import Path\ncap = recorder.open(sys.argv[1]); day = cap.dates()[0]\n"
_RECORDER = """
from pathlib import Path
from recorder.process import Recorder, Settings
journal = Path(sys.argv[1])
one = Recorder(Settings(journal, Path(sys.argv[2]), flush_rows=65_536))
one.once()
print(one.rows)
assert len(recorder.retention.retire(journal, one.writer.tree, one.committed_safe(), "delete")) > 2
"""

#: what is done with a day, and the rows it says it did it with
JOBS = {
    "verify": "proof = recorder.verify.verify(cap, day)\nassert proof.holds\nprint(proof.summary()['rows'])",
    "batches": "print(sum(batch.num_rows for batch in cap.tick_batches(price='float')))",
    "report": "import re\ntext = recorder.report.page(cap, day).replace(',', '')\n"
              "print(re.search('<b>([0-9]+)</b><span>rows', text)[1])",
    "replay": "recorder.replay._WINDOW_ROWS = 65_536\nplayed = iter(cap.replay(day))\n"
              "print(sum(next(played).rows.num_rows for _ in range(50_000)))",
    "compact": "print(recorder.compact.compact_day(cap.tree, day)['rows'])",
}  # fmt: skip


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    path = tmp_path_factory.mktemp("days")
    one = big.one_session(path)
    size = {n: big.big_day(path / f"day{n}", one, n) for n in (SMALL, LARGE)}
    assert size[LARGE] - size[SMALL] > 100 << 20
    return path, one, size


@pytest.mark.parametrize("job", JOBS)
def test_a_day_is_worked_through_in_flat_memory(days, job):
    """Five times the day takes about the same memory: a sixth of what it grew by is allowed for chance."""
    path, one, size = days
    (few, small), (many, large) = (big.watched(_CAPTURES + JOBS[job], path / f"day{n}") for n in (SMALL, LARGE))
    rows = one.tables["ticks"].num_rows
    assert int(few) > rows and (int(many) > 4.9 * int(few) or job == "replay")
    assert large - small < (size[LARGE] - size[SMALL]) / 6, (small >> 20, large >> 20)


def test_a_backlog_is_recorded_and_retired_in_flat_memory(days, tmp_path):
    _, one, _ = days
    rows, peaks = [], []
    for n in (SMALL, LARGE):
        size = big.backlog(tmp_path / f"journal{n}", one, n)
        said, peak = big.watched(_RECORDER, tmp_path / f"journal{n}", tmp_path / f"captures{n}")
        rows.append(int(said))
        peaks.append(peak)
    assert rows == [n * one.tables["ticks"].num_rows for n in (SMALL, LARGE)]
    assert size > 192 << 20 and peaks[1] - peaks[0] < 48 << 20
