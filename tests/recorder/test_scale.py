"""Days larger than memory and years of files: what is read grows with the question, not with what there is."""

from __future__ import annotations

import os
import pickle
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

import recorder
from kfix_md import trading_day
from kfix_md.errors import NoSuchSymbol
from recorder import files, layout
from tests.recorder import big, build

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

#: what is done with a day, and the rows it reports
JOBS = {
    "verify": "proof = recorder.verify.verify(cap, day)\nassert proof.holds\nprint(proof.summary()['rows'])",
    "batches": "print(sum(batch.num_rows for batch in cap.tick_batches(price='float')))",
    "report": "import re\ntext = recorder.report.page(cap, day).replace(',', '')\n"
    "print(re.search('<b>([0-9]+)</b><span>rows', text)[1])",
    "replay": "recorder.blocks._ROWS, recorder.blocks._KEPT_ROWS = 65_536, 131_072\n"
    "handler = kfix_md.Handler()\nfor _ in cap.replay_batches(day, handler=handler):\n    pass\n"
    "print(handler.stats['entries'])",
    "compact": "print(recorder.compact.compact_day(cap.tree, day)['rows'])",
}


@pytest.fixture(scope="module")
def days(made_once):
    """A folder with two days, the session that they repeat, and their sizes in memory."""

    def make(path):
        one = big.one_session(path)
        size = {n: big.big_day(path / f"day{n}", one, n) for n in (SMALL, LARGE)}
        assert size[LARGE] - size[SMALL] > 100 << 20
        (path / "made").write_bytes(pickle.dumps((one, size)))

    path = made_once("days", make)
    return path, *pickle.loads((path / "made").read_bytes())


@pytest.mark.parametrize("job", JOBS)
def test_a_day_is_worked_through_in_flat_memory(days, job, tmp_path):
    """Five times the day takes about the same memory: a quarter of what it grew by is allowed for chance."""
    path, one, size = days
    if job == "compact":  # which other workers must not see
        path = Path(shutil.copytree(path, tmp_path / "days", copy_function=os.link))
    (few, small), (many, large) = (big.watched(_CAPTURES + JOBS[job], path / f"day{n}") for n in (SMALL, LARGE))
    rows = one.tables["ticks"].num_rows
    assert int(few) > rows and int(many) > 4.9 * int(few)
    assert large - small < (size[LARGE] - size[SMALL]) / 4, (small >> 20, large >> 20)


def test_a_backlog_is_recorded_and_retired_in_flat_memory(days, tmp_path):
    _, one, _ = days
    rows, peaks = [], []
    for n in (SMALL, LARGE):
        size = big.backlog(tmp_path / f"journal{n}", one, n)
        result, peak = big.watched(_RECORDER, tmp_path / f"journal{n}", tmp_path / f"captures{n}")
        rows.append(int(result))
        peaks.append(peak)
    assert rows == [n * one.tables["ticks"].num_rows for n in (SMALL, LARGE)]
    assert size > 192 << 20 and peaks[1] - peaks[0] < 48 << 20


@pytest.fixture(scope="module")
def year(made_once):
    """The captures of a year, and a date in them."""

    def make(path):
        _, day = big.year(path)
        (path / "made").write_text(day.isoformat())

    path = made_once("year", make)
    return layout.Tree(path / "captures"), date.fromisoformat((path / "made").read_text())


class Touched:
    """Directories listed and files opened, as paths inside the captures."""

    def __init__(self, monkeypatch, root: Path):
        self.listed: list[str] = []
        self.opened: list[str] = []
        self.root = root
        for name in ("listdir", "scandir"):
            monkeypatch.setattr(os, name, self._noting(getattr(os, name), self.listed))
        monkeypatch.setattr(files, "open_file", self._noting(files.open_file, self.opened))

    def _noting(self, real, found):
        def noting(path, *args):
            found.append(str(Path(path).relative_to(self.root)))
            return real(path, *args)

        return noting

    def dates(self) -> set[str]:
        """Session dates in which anything was looked at, tables apart that were listed whole."""
        return {p.split("session_date=")[1][:10] for p in self.listed + self.opened if "session_date=" in p}


QUESTIONS = {
    "ticks": lambda cap, at, day: cap.ticks("BTC/USD", at - 10**9, at).num_rows,
    "book": lambda cap, at, day: cap.book("BTC/USD", at).trusted,
    "bars": lambda cap, at, day: cap.bars("BTC/USD", "1s", at - 10**9, at).num_columns,
    "bbo": lambda cap, at, day: cap.bbo("BTC/USD", at - 10**9, at).num_rows,
    "gaps": lambda cap, at, day: cap.gaps(day).num_columns,
    "gaps of a symbol": lambda cap, at, day: cap.gaps(day, "BTC/USD").num_columns,
    "sessions": lambda cap, at, day: cap.sessions(day).num_rows,
    "instruments": lambda cap, at, day: cap.instruments(day).num_rows,
    "status": lambda cap, at, day: cap.status(day).num_rows,
    "symbols": lambda cap, at, day: cap.symbols(day),
    "rows": lambda cap, at, day: cap.rows(day),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_looks_at_its_dates_alone(year, monkeypatch, question):
    tree, day = year
    touched = Touched(monkeypatch, tree.root)
    cap = recorder.open(tree.root)
    # the oldest date shows whether first files are missing, the sessions of the last ones whether there is a hot pair
    oldest = {str(tree.dates("ticks")[0])}
    assert touched.dates() <= {str(day + timedelta(days=i)) for i in (-1, 0, 1)} | oldest
    assert all(path.startswith("sessions") for path in touched.opened)
    touched.listed.clear()
    touched.opened.clear()
    at = build.START_NS + trading_day.DAY_NS + 40 * build.STEP_NS
    assert QUESTIONS[question](cap, at, day)
    # gaps and sessions may reach into the date; the files of the dates next to these show which are missing
    near = {str(day + timedelta(days=i)) for i in range(-3, 2)} | oldest
    assert touched.dates() <= near
    assert len(touched.listed) < 100 and len(touched.opened) < 30  # a book needs its session's depth and states too
    assert str(day) in touched.dates()


def test_what_is_said_of_all_dates_lists_no_date(year, monkeypatch):
    tree, _ = year
    touched = Touched(monkeypatch, tree.root)
    cap = recorder.open(tree.root)
    touched.listed.clear()
    assert len(cap.dates()) == 365 and "365 session dates" in repr(cap)
    assert set(touched.listed) == {"ticks"}
    with pytest.raises(NoSuchSymbol, match="near: BTC/USD"):
        cap.ticks("BTC/USDT")
    assert {p.split("/")[0] for p in touched.listed} == {"ticks", "instruments"}


def test_every_date_begins_with_the_instruments_known(year):
    tree, day = year
    cap = recorder.open(tree.root)
    start = trading_day.session_bounds(day)[0]
    rows = cap.instruments(day).to_pylist()
    listed = {r["symbol"]: r for r in rows if r["recv_ns"] == start}
    earlier = {r["symbol"]: r for r in cap.instruments(day - timedelta(days=1)).to_pylist()}
    assert listed and listed.keys() == earlier.keys()
    for symbol, row in listed.items():
        assert {k: v for k, v in row.items() if k not in ("recv_ns", "session")} == {
            k: v for k, v in earlier[symbol].items() if k not in ("recv_ns", "session")
        }
