"""How long captures of a year take to open, and a question about one date: 365 dates, 2,880 live files in the last.

Run: python benchmarks/captures_year.py
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import recorder
from kfix_md import trading_day
from recorder import compact
from recorder.writer import Writer
from tests.recorder import big, build


def wait(name: str, run: Callable[[], object], times: int = 15) -> None:
    """Median and worst wall time."""
    spans = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        spans.append((time.perf_counter() - start) * 1e3)
    print(f"{name}: median {statistics.median(spans):.2f} ms, worst {max(spans):.2f} ms")


def main() -> None:
    work = Path(tempfile.mkdtemp())
    try:
        tree, day = big.year(work)
        at = build.START_NS + trading_day.DAY_NS + 40 * build.STEP_NS
        root = tree.root
        wait("recorder.open and its dates", lambda: recorder.open(root).dates())
        wait("open and one second of a symbol", lambda: recorder.open(root).ticks("BTC/USD", at - 10**9, at))
        wait("open and book(symbol, at)", lambda: recorder.open(root).book("BTC/USD", at))
        wait("open and gaps(date)", lambda: recorder.open(root).gaps(day))
        wait("a recorder's start", lambda: Writer(root).close())
        wait("its look for dates to compact", lambda: compact.candidates(tree, day))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
