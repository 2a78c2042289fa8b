"""Records the small capture that the notebooks read: `python examples/notebooks/make_capture.py`.

Simulator, feed and recorder run as in `make demo`, with two symbols on each venue for 22 seconds: a gap that is healed
by replay, a wrong checksum and a rollover are in it. The tables replace examples/notebooks/captures.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from kfix_md.cli.demo import Demo
from recorder.layout import TABLES

CAPTURES = Path(__file__).parent / "captures"


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="kfix-capture-"))
    demo = Demo(folder, seconds=22.0, symbols=2, rate=60.0)
    try:
        demo.run()
    finally:
        demo.close()
    shutil.rmtree(CAPTURES, ignore_errors=True)
    for table in TABLES:
        if (folder / "captures" / table).exists():
            shutil.copytree(folder / "captures" / table, CAPTURES / table)
    shutil.rmtree(folder)
    size = sum(path.stat().st_size for path in CAPTURES.rglob("*.parquet"))
    print(f"{CAPTURES}: {size / 1e3:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
