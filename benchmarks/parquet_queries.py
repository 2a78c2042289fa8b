"""How long a researcher waits: opening captures, one symbol's minute of a day of many symbols, a book at a time.

Run: python benchmarks/parquet_queries.py [--symbols 500] [--rows 5000000]
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import recorder
from benchmarks.busy_day import BusyDay
from kfix_md import trading_day
from kfix_md._entry import TICK_DTYPE
from kfix_md.journal.writer import JournalWriter
from recorder import compact, layout, schema
from recorder.catalog import Captures
from recorder.process import Recorder, Settings
from recorder.writer import Writer

DAY = date(2026, 3, 1)
HOUR = 3_600_000_000_000


def one_day(path: Path, symbols: int, rows: int) -> list[str]:
    """A session date of L2 updates, as live files; its symbols."""
    rng = np.random.default_rng(1)
    names = [f"S{i:03d}/USD" for i in range(symbols)]
    weight = 1 / np.arange(1, symbols + 1)  # a few are busy, most are not
    start, end = trading_day.session_bounds(DAY)
    writer = Writer(path)
    files = 100
    for i in range(files):
        n = rows // files
        ticks = np.zeros(n, TICK_DTYPE)
        ticks["instrument"] = rng.choice(symbols, n, p=weight / weight.sum())
        span = (end - start) // files
        ticks["recv_ns"] = np.sort(rng.integers(start + span * i, start + span * (i + 1), n))
        ticks["event_ns"] = ticks["recv_ns"] - rng.integers(1_000_000, 9_000_000, n)
        ticks["seq"] = np.arange(i * n + 1, (i + 1) * n + 1)
        ticks["price"], ticks["qty"] = rng.integers(10_000, 10_400, n), rng.integers(1, 10**6, n)
        ticks["side"], ticks["action"] = rng.integers(0, 2, n), rng.integers(0, 3, n)
        ticks["entry_flags"] = 2
        batch = schema.tick_columns(ticks, [(s, 2, 8) for s in names], 1, 2, lambda rows: [])
        writer.commit(
            8 * i, {"position": 8 * i + 8, "decoders": {}, "ledger": None}, {"ticks": pa.Table.from_batches([batch])}
        )
    writer.close()
    return names


def wait(run: Callable[[], object], times: int) -> str:
    """Median and worst wall time, and CPU time of this thread: the wall time of a machine with nothing else to do."""
    spans, busy = [], []
    for _ in range(times):
        start, cpu = time.perf_counter(), time.thread_time()
        run()
        busy.append((time.thread_time() - cpu) * 1e3)
        spans.append((time.perf_counter() - start) * 1e3)
    return (
        f"median {statistics.median(spans):.1f} ms, worst {max(spans):.1f} ms "
        f"(CPU {statistics.median(busy):.1f}, {max(busy):.1f})"
    )


def minutes(cap: Captures, names: list[str], rng: np.random.Generator) -> None:
    """One symbol, one minute, at a random time."""
    start = trading_day.session_bounds(DAY)[0] + int(rng.integers(0, 23 * HOUR))
    cap.ticks(str(rng.choice(names)), start, start + HOUR // 60)


def books(path: Path, messages: int) -> None:
    """book(symbol, at) anywhere in a day with a busy L2 and a busy L3 session: the busiest symbol, one in the middle
    and a quiet one; in as many live files as a day has, and as a recorder writes them that catches up."""
    start, end = trading_day.session_bounds(DAY)
    span = end - start - 1
    days = {"L2": BusyDay("L2", 100, 500, start, span), "L3": BusyDay("L3", 20, 10_000, start, span)}
    with JournalWriter(path / "journal", segment_bytes=256 << 20) as journal:
        for number, level in enumerate(days):
            journal.event(number, start, {"type": "session", "number": number, "service": level, "level": level})
            journal.event(number, start, {"type": "logged_on", "session_id": level})
        for (now, one), (_, other) in zip(*(d.frames(messages) for d in days.values()), strict=False):
            journal.frame(0, now, one)
            journal.frame(1, now, other)
    for flush_rows in (260, 1000, 524_288):  # the last one as a recorder does that catches up
        captures = path / f"captures{flush_rows}"
        one = Recorder(Settings(path / "journal", captures, flush_rows=flush_rows))
        one.once()
        one.close()
        ask(captures, days, start, end)


def ask(path: Path, days: dict[str, BusyDay], start: int, end: int) -> None:
    """The books of captures with live files, and when these are compacted."""
    tree = layout.Tree(path)
    for kind in (f"{len(tree.files('ticks', DAY))} live files", "compacted"):
        cap = recorder.open(path)
        for level, day in days.items():
            for rank in (0, len(day.symbols) // 4, len(day.symbols) - 1):
                moments = iter(np.random.default_rng(2).integers(start, end, 40).tolist())
                symbol = day.symbols[rank]
                result = wait(lambda c=cap, m=moments, s=symbol, v=level: c.book(s, next(m), level=v), 40)
                print(f"book({symbol}, at) {level}, {kind}: {result}")
        print(f"  {cap.rows(DAY):,} rows, {cap._table('checkpoints', None, None, ['seq']).num_rows:,} of checkpoints")
        compact.compact_day(cap.tree, DAY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--messages", type=int, default=250_000, help="of each of the two sessions of the books")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        names = one_day(work / "captures", args.symbols, args.rows)
        rng = np.random.default_rng(3)
        cap = recorder.open(work / "captures")
        print("opening:", wait(lambda: recorder.open(work / "captures").dates(), 20))
        print("one symbol, one minute, live files:", wait(lambda: minutes(cap, names, rng), 20))
        start = time.perf_counter()
        result = compact.compact_day(cap.tree, DAY)
        spent = time.perf_counter() - start
        print(
            f"compaction: {result['rows']:,} rows in {spent:.1f} s, {result['files_before']} files to "
            f"{result['files_after']}, {result['bytes_before']:,} bytes to {result['bytes_after']:,}"
        )
        cap = recorder.open(work / "captures")
        print("one symbol, one minute, compacted:", wait(lambda: minutes(cap, names, rng), 50))
        books(work / "books", args.messages)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
