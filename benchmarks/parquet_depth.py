"""How fast books are sampled from captures: `depth` of one busy symbol's day, and the same rows in a Python loop.

Run: python benchmarks/parquet_depth.py [--rows 10000000] [--level L2]
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import recorder
from kfix_md.journal.writer import JournalWriter
from recorder import compact
from recorder.catalog import Captures
from recorder.derive import duration
from recorder.process import Recorder
from recorder.writer import Writer
from tests.recorder import big, build
from tests.streams import generate

MESSAGES = 40_000
STEP_NS = 1_000_000
LOOP_ROWS = 200_000


def busy_symbol(path: Path, level: str, rows: int) -> tuple[Captures, str]:
    """Captures of one date, compacted, with `rows` rows of one symbol: a session repeated; and the symbol."""
    service = f"spot-{level.lower()}"
    stream = generate(service, messages=MESSAGES, symbols=1, seed=5, empties=False, admin=False)
    with JournalWriter(path / "journal") as journal:
        end = build.write_session(journal, 0, service, stream.frames, build.START_NS, STEP_NS, end=False)
    one = Recorder(build.settings(path))
    while one.tail.read(1 << 20) == "full":
        pass
    tables = one.tail.take()
    one.close()
    writer, span = Writer(path / "captures"), end - build.START_NS + STEP_NS
    for i in range(max(1, rows // tables["ticks"].num_rows)):
        moved = {name: big.moved(tables[name], i, i * span) for name in ("ticks", "sessions")}
        moved |= {name: tables[name] for name in ("instruments", "status")} if i == 0 else {}
        writer.commit(8 * i, {"position": 8 * i + 8, "decoders": {}, "ledger": None}, moved)
    writer.close()
    cap = recorder.open(path / "captures")
    compact.compact_day(cap.tree, cap.dates()[0])
    return recorder.open(path / "captures"), str(tables["ticks"]["symbol"][0])


def in_python(cap: Captures, symbol: str, step: int, levels: int, most: int) -> tuple[float, int]:
    """Seconds, and samples, of a loop over the first `most` rows that keeps prices in two dicts."""
    paths = cap._files.of("ticks", symbols=[symbol])
    began = time.thread_time()
    sides: tuple[dict, dict] = ({}, {})
    names = ["recv_ns", "side", "action", "price", "qty", "session"]
    rows = next(pq.ParquetFile(paths[0]).iter_batches(most, columns=names)).to_pydict()
    samples, due = [], 0
    for now, side, action, price, qty, _ in zip(*(rows[name] for name in names), strict=True):
        if now > due:
            if due:
                samples.append([sorted(sides[0].items(), reverse=True)[:levels], sorted(sides[1].items())[:levels]])
            due = now // step * step + step
        if action == "clear":
            sides[0].clear(), sides[1].clear()
        elif action == "delete":
            sides[side == "offer"].pop(price, None)
        elif side != "trade":
            sides[side == "offer"][price] = qty
    return time.thread_time() - began, len(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--level", choices=("L2", "L3"), default="L2")
    parser.add_argument("--every", default="100ms")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cap, symbol = busy_symbol(Path(name), options.level, options.rows)
        total = cap.rows()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rates = []
        for _ in range(3):
            began = time.thread_time()
            samples = sum(b.num_rows for b in cap.depth_batches(symbol, every=options.every))
            rates.append(total / (time.thread_time() - began))
        rate = sorted(rates)[1]
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{options.level}: {total:,} rows, {samples:,} samples every {options.every}, 10 levels")
        print(f"depth_batches: {rate / 1e6:.2f} M rows/s of one thread; {(after - before) >> 10} MB more at its peak")
        if options.level == "L2":
            seconds, n = in_python(cap, symbol, duration(options.every), 10, LOOP_ROWS)
            slow = LOOP_ROWS / seconds
            print(f"a loop in Python: {slow / 1e6:.3f} M rows/s ({n:,} samples): {rate / slow:.0f} x as long")


if __name__ == "__main__":
    main()
