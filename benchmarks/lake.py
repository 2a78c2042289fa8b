"""What a lake costs: `python -m benchmarks.lake [--messages N]`; needs moto_server (KFIX_MOTO_SERVER or the PATH).

Requests to an S3 server for a first push, and for one of nothing, of a new flush and of a compaction swap as `--every`
makes them; seconds for each commit; CPU seconds for each GB pushed to a directory; and a query through the lake against
the same on the captures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import recorder
from recorder import compact, lake_push, layout
from recorder.lake import TABLES, Lake
from tests.lake import rows, server
from tests.recorder import build

ROUNDS = 9


def hide_last(captures: Path, aside: Path) -> dict[Path, Path]:
    """Move the last file of each table away, as if it were not recorded yet."""
    tree, moved = layout.Tree(captures), {}
    for table in TABLES:
        path = tree.files(table, tree.dates(table)[-1])[-1]
        moved[path] = aside / f"{table}-{path.name}"
        path.rename(moved[path])
    return moved


def requests(captures: Path, folder: Path) -> None:
    """Count the requests of each kind of push, and time commits."""
    times: list[float] = []
    real = lake_push.commit

    def commit(*args: object) -> None:
        start = time.perf_counter()
        real(*args)  # type: ignore[arg-type]
        times.append(time.perf_counter() - start)

    lake_push.commit = commit  # type: ignore[assignment]
    with server.running(folder) as one:
        os.environ.update(one.variables)
        url = f"s3://{server.BUCKET}/lake"

        def step(name: str, push: Callable[[], lake_push.Pushed] = lambda: rows.push(captures, url)) -> None:
            before = len(one.requests())
            done = push()
            made = one.requests()[before:]
            kinds = dict(Counter(line.split()[0].rpartition("m")[2] for line in made))  # moto colours some of its lines
            print(f"{name}: {len(made)} requests {kinds}; {done}", flush=True)

        later = hide_last(captures, folder)
        step("first push")
        step("nothing new")
        job = lake_push.Push(captures, Lake(url))  # as with --every
        step("the same with --every, first round", job.run)
        step("later rounds", job.run)
        for path, kept in later.items():
            kept.rename(path)
        step("one flush", job.run)
        step("nothing new after it", job.run)
        compact.compact_day(layout.Tree(captures), layout.Tree(captures).dates()[0])
        step("compaction swap", job.run)
        job.close()
    lake_push.commit = real
    print(f"one commit on loopback: median {statistics.median(times) * 1e3:.1f} ms, highest {max(times) * 1e3:.1f} ms")


def throughput(captures: Path, folder: Path) -> str:
    """CPU seconds a GB of a push to a directory; its lake."""
    url, start = str(folder / "lake"), time.process_time()
    done = rows.push(captures, url)
    used = time.process_time() - start
    print(
        f"directory: {done.bytes / 1e6:.1f} MB in {done.files} files, {used / done.files * 1e3:.1f} CPU ms a file, "
        f"{used / done.bytes * 1e9:.1f} CPU s a GB"
    )
    return url


def queries(captures: Path, url: str) -> None:
    """CPU time of the same query on captures and on their lake, in turns."""
    taken: dict[str, list[float]] = {str(captures): [], url: []}
    for _ in range(ROUNDS):
        for place, times in taken.items():
            start = time.process_time()
            cap = recorder.open(place)
            assert cap.ticks(cap.symbols()[0]).num_rows
            times.append(time.process_time() - start)
    local, lake = (statistics.median(times) for times in taken.values())
    print(f"open and ticks of a symbol: lake / captures {lake / local:.2f} in CPU time, median of {ROUNDS}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000, help="of each of four sessions")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        rows.journal(folder / "journal", "alpha", wanted.messages)
        build.record(folder, flush_rows=max(400, wanted.messages // 4))
        captures = folder / "captures"
        queries(captures, throughput(captures, folder))
        if server.command() is None:
            raise SystemExit("no S3 server: pip install 'moto[server]', or set KFIX_MOTO_SERVER")
        requests(captures, folder)


if __name__ == "__main__":
    main()
