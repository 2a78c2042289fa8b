"""Makes a day larger than the memory that a test allows, and the files of a year, from one session repeated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kfix_md import trading_day
from kfix_md.journal.reader import FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from recorder import compact, layout
from recorder.process import Recorder
from recorder.writer import Writer
from tests.recorder import build
from tests.streams import generate

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Copied:
    """One recorded session, to be repeated."""

    frames: list[tuple]
    tables: dict[str, pa.Table]
    span_ns: int


def one_session(path: Path, messages: int = 20_000) -> Copied:
    """A session of four L3 books, journaled and recorded, with checkpoints."""
    stream = generate("spot-l3", messages=messages, symbols=4, seed=5, empties=False)
    with JournalWriter(path / "journal") as journal:
        end = build.write_session(journal, 0, "spot-l3", stream.frames, build.START_NS, end=False)
    one = Recorder(build.settings(path, checkpoint_rows=4000))
    parts: dict[str, list[pa.Table]] = defaultdict(list)
    result = "full"
    while result == "full":
        result = one.tail.read(8000)
        for name, rows in one.tail.take().items():
            parts[name].append(rows)
        parts["checkpoints"] += [books for books in one.tail.checkpoints()[:1] if books is not None]
    one.close()
    tables = {name: pa.concat_tables(rows) for name, rows in parts.items()}
    frames = [r for r in JournalReader(path / "journal") if r[1] == FRAME]
    return Copied(frames, tables, end - build.START_NS + build.STEP_NS)


def big_day(path: Path, one: Copied, copies: int) -> int:
    """Captures of one date with the session `copies` times; bytes of its ticks in memory."""
    writer, start = Writer(path), 0
    for i in range(copies):
        tables = {name: moved(one.tables[name], i, i * one.span_ns) for name in ("ticks", "sessions", "checkpoints")}
        if i == 0:
            tables |= {name: one.tables[name] for name in ("instruments", "status")}
        writer.commit(start, {"position": start + 8, "decoders": {}, "ledger": None}, tables)
        start += 8
    writer.close()
    return one.tables["ticks"].nbytes * copies


def backlog(path: Path, one: Copied, copies: int) -> int:
    """A journal of the session `copies` times that is not recorded yet; its bytes."""
    with JournalWriter(path, segment_bytes=16 << 20) as journal:
        build.announce(journal, 0, "spot-l3", build.START_NS)
        for i in range(copies):
            journal.event(0, build.START_NS + i * one.span_ns, {"type": "logged_on", "session_id": str(i)})
            for _, _, _, recv_ns, flags, body in one.frames:
                journal.frame(0, recv_ns + i * one.span_ns, body, flags)
    return sum(len(r[5]) for r in one.frames) * copies


def year(path: Path, live: int = 2880) -> tuple[layout.Tree, date]:
    """365 dates as a recorder leaves them, the last with `live` sets of live files; and one of the two real dates that
    are compacted. All others are links to the first."""
    with JournalWriter(path / "journal") as journal:
        for i in range(3):
            frames = generate("spot-l2", messages=60, seed=3 + i).frames
            now = build.write_session(journal, 0, "spot-l2", frames, build.START_NS + i * trading_day.DAY_NS)
            journal.event(0, now, {"type": "journal_lost", "count": 1, "first": now, "last": now})
    build.record(path)
    tree = layout.Tree(path / "captures")
    first, second, third = tree.dates()
    for day in (first, second):
        compact.compact_day(tree, day)
    for table in layout.TABLES:
        for source in tree.files(table, first):
            for back in range(1, 363):
                folder = tree.partition(table, first - timedelta(days=back))
                folder.mkdir(exist_ok=True)
                os.link(source, folder / source.name)
        for source in tree.files(table, third)[:1]:
            begin = layout.file_range(source.name)[1]
            for i in range(live):
                os.link(source, source.parent / layout.file_name(begin + 8 * i, begin + 8 * i + 8))
    return tree, second


def moved(rows: pa.Table, sessions: int, ns: int) -> pa.Table:
    """The same rows of a later session."""
    for name in rows.column_names:
        if name == "session":
            rows = _set(rows, name, pc.add(rows[name], pa.scalar(sessions, pa.int32())))
        elif name in ("recv_ns", "event_ns", "started_ns", "ended_ns"):
            rows = _set(rows, name, pc.add(rows[name], ns))
    return rows


def _set(rows: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), values)


def watched(code: str, *args: object) -> tuple[str, int]:
    """Run `code` in a process of its own; what it printed, and the bytes of memory (RSS) it took beyond its imports."""
    head = (
        "import sys, tests.recorder.big as big, recorder, recorder.verify, recorder.report, recorder.compact\n"
        "import recorder.retention, recorder.process, recorder.replay, kfix_md\n"
        "before = big.resident()\n"
    )
    tail = "\nprint(big.highest() - before)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(
        [sys.executable, "-c", head + code + tail, *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,  # traced for `make coverage` it is many times slower
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result, _, peak = done.stdout.rstrip().rpartition("\n")
    return result, int(peak)


def resident() -> int:
    """Bytes of memory this process has; from here on the highest is measured."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def highest() -> int:
    """The most bytes of memory since `resident`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))
