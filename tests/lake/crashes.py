"""Ends pushes at every step, and kills some: `python -m tests.lake.crashes KILLS [SEED]`, or `make lake-crash`.

After each end readers have at least the rows from before and none that was not recorded, each as often as it was
recorded, and trust no book that differs. The next push completes the lake. On a directory, and on an S3 server.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

import recorder
from kfix_md import trading_day
from kfix_md.errors import UsageError
from recorder import compact, lake_push, layout
from recorder.lake import SCHEMAS, TABLES, Lake, is_url
from tests.lake import rows, server
from tests.recorder.build import Killed

STEPS = ("create", "extend", "upload", "commit")  # all that changes a lake
LATE_COLUMN = "flags"  # a lake from before lacks it
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["recorder.lake_push", "deltalake", "obstore", "tests.lake.rows", "tests.lake.server"])


def die() -> None:
    """What SIGKILL does, in a process of its own."""
    os.kill(os.getpid(), signal.SIGKILL)


def end() -> None:
    """What ends a push in this process."""
    raise Killed


@contextmanager
def ended_at(number: int | None, after: bool, ending: Callable[[], None] = end) -> Iterator[list[str]]:
    """Note each step of pushes, and end the one that comes to step `number`, before or after it."""
    seen: list[str] = []

    def wrapped(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def step(*args: Any) -> None:
            mine = len(seen)
            seen.append(name)
            if mine == number and not after:
                ending()
            real(*args)
            if mine == number:
                ending()

        return step

    with ExitStack() as stack:
        for name in STEPS:
            stack.enter_context(mock.patch.object(lake_push, name, wrapped(name, getattr(lake_push, name))))
        yield seen


def push_until(captures: Path, url: str, number: int | None, after: bool, variables: dict[str, str]) -> None:
    """A push that kills its process at a step; the server of forks has the environment from before."""
    os.environ.update(variables)
    with ended_at(number, after, die):
        rows.push(captures, url)


class Store:
    """Where lakes are: below a directory, or a prefix of a bucket."""

    def __init__(self, root: str) -> None:
        self.root, self._count = root, 0
        if not is_url(root):
            Path(root).mkdir(exist_ok=True)

    def new(self) -> str:
        """Place of a lake that is not there yet."""
        self._count += 1
        return f"{self.root}/lake-{self._count}"

    def copy(self, url: str) -> str:
        """A copy of a lake."""
        import obstore

        made = self.new()
        if not is_url(made):
            shutil.copytree(url, made)
            return made
        store = Lake(self.root).store("")
        here, there = (one.removeprefix(self.root + "/") for one in (url, made))
        for page in obstore.list(store, here + "/"):
            for one in page:
                obstore.copy(store, one["path"], there + one["path"].removeprefix(here))
        return made

    def remove(self, url: str) -> None:
        """A lake that is not needed any more: a server that lists its objects takes longer for each that it has."""
        import obstore

        if not is_url(url):
            shutil.rmtree(url)
            return
        store = Lake(self.root).store("")
        for page in obstore.list(store, url.removeprefix(self.root + "/") + "/"):
            obstore.delete(store, [one["path"] for one in page])


@dataclass
class Case:
    """Captures, the lake before they are pushed ("": none), and what readers may see meanwhile."""

    captures: Path
    store: Store
    before: str = ""
    least: dict[str, Counter[Any]] = field(default_factory=dict)
    most: dict[str, Counter[Any]] = field(default_factory=dict)
    books: dict[tuple[str, int], tuple[Any, ...]] = field(default_factory=dict)

    def lake(self) -> str:
        """Place for one push."""
        return self.store.copy(self.before) if self.before else self.store.new()

    def steps(self) -> list[str]:
        """The steps of a push that is not ended."""
        with ended_at(None, False) as seen:
            rows.push(self.captures, self.lake())
        return seen

    def end_at(self, number: int, after: bool) -> None:
        """A push that ends at a step, and the next one."""
        lake = self.lake()
        try:
            with ended_at(number, after):
                rows.push(self.captures, lake)
            raise AssertionError(f"step {number} was not reached")
        except Killed:
            self.check(lake)

    def kill_at(self, number: int, after: bool) -> None:
        """The same with SIGKILL in a process of its own."""
        lake = self.lake()
        process = FORKS.Process(target=push_until, args=(self.captures, lake, number, after, dict(os.environ)))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        self.check(lake)

    def kill_after(self, seconds: float) -> bool:
        """A push that is killed after a time, and the next one; False when it had ended before."""
        lake = self.lake()
        process = FORKS.Process(target=push_until, args=(self.captures, lake, None, False, dict(os.environ)))
        process.start()
        process.join(seconds)
        process.kill()
        process.join(120)
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0
        self.check(lake)
        return killed

    def check(self, lake: str) -> None:
        """AssertionError when readers see too little or too much, or the next push does not complete the lake."""
        for table, most in self.most.items():
            seen = counted(lake, table)
            assert self.least.get(table, Counter()) <= seen <= most, table
        self._check_books(lake)
        rows.push(self.captures, lake)
        rows.same(self.captures, lake)
        again = rows.push(self.captures, lake)
        assert (again.files, again.commits) == (0, 0)
        self.store.remove(lake)

    def _check_books(self, lake: str) -> None:
        try:
            with warnings.catch_warnings(action="ignore"):  # it has files missing
                cap = recorder.open(lake)
        except UsageError:
            assert not self.before  # no ticks yet
            return
        for (symbol, moment), expected in self.books.items():
            try:
                book = cap.book(symbol, moment)
            except recorder.NoSuchSymbol:
                continue
            assert not book.trusted or state(book) == expected, (symbol, moment)


@contextmanager
def older(column: str) -> Iterator[None]:
    """Pushes of a release that does not have this column of ticks yet."""
    schemas = lake_push.SCHEMAS
    kept = pa.schema([one for one in schemas["ticks"] if one.name != column])
    with mock.patch.object(lake_push, "SCHEMAS", {**schemas, "ticks": kept}):
        yield


def counted(url: str, table: str) -> Counter[Any]:
    """Rows of a table of a lake, each with how often it is there."""
    found = Lake(url).open(table)
    if found is None:
        return Counter()
    names = {"session_date", LATE_COLUMN}
    return Counter(plain_rows(rows.ordered(found.to_pyarrow_table().select(sorted(set(SCHEMAS[table].names) - names)))))


def plain_rows(found: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in found.columns), strict=True)


def state(book: Any) -> tuple[Any, ...]:
    return book.seq, book.bids.tolist(), book.asks.tolist()


def books(captures: Path, moments: int = 4) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Books of captures, of a symbol at some moments of each session date."""
    cap, found = recorder.open(captures), {}
    for day in cap.dates():
        symbol = cap.symbols(day)[0]
        bounds = trading_day.session_bounds(day)
        times = sorted(set(cap.ticks(symbol, *bounds, level="both")["recv_ns"].to_pylist()))
        for i in range(1, moments + 1):
            moment = times[len(times) * i // (moments + 1)]
            found[symbol, moment] = state(cap.book(symbol, moment))
    return found


def first_push(captures: Path, folder: Path, store: Store, moments: int = 4) -> Case:
    """Captures that are pushed for the first time."""
    return _case(shutil.copytree(captures, folder / "first"), store, "", moments)


def swap(captures: Path, folder: Path, store: Store, moments: int = 4) -> Case:
    """Newer live files and compacted ones at once, for a lake that has live files and lacks a column."""
    tree = layout.Tree(shutil.copytree(captures, folder / "swap"))
    later = {}
    for table in TABLES:  # the first file of each date is pushed as it is
        for day in tree.dates(table):
            for path in tree.files(table, day)[1:]:
                later[path] = folder / f"later-{table}-{day}-{path.name}"
                path.rename(later[path])
    before = store.new()
    with older(LATE_COLUMN):
        rows.push(tree.root, before)
    for path, kept in later.items():
        kept.rename(path)
    compact.compact_day(tree, tree.dates()[0])
    return _case(tree.root, store, before, moments)


def _case(captures: Path, store: Store, before: str, moments: int) -> Case:
    whole = store.new()
    rows.push(captures, whole)
    most = {table: counted(whole, table) for table in TABLES}
    least = {table: counted(before, table) for table in TABLES} if before else {}
    return Case(captures, store, before, least, most, books(captures, moments))


CASES = {"first": first_push, "swap": swap}


def run(root: str, captures: Path, folder: Path, kills: int, draw: random.Random) -> None:
    """End pushes at all steps, kill some, and print how many."""
    done: Counter[str] = Counter()
    for name, make in CASES.items():
        case = make(captures, folder, Store(f"{root}/lakes-of-{name}"))
        start = time.monotonic()
        steps = case.steps()
        took = time.monotonic() - start
        for number in range(len(steps)):
            for after in (False, True):
                case.end_at(number, after)
                done[f"{name}: ended at a step"] += 1
        for _ in range(kills):
            number = draw.randrange(len(steps))
            case.kill_at(number, draw.random() < 0.5)
            done[f"{name}: killed at a step"] += 1
            done[f"{name}: killed at a time"] += case.kill_after(draw.uniform(0.0, 1.5 * took))
        print(root, {key: count for key, count in done.items() if key.startswith(name)}, flush=True)


def main(kills: int = 50, seed: int = 1) -> None:
    """Pushes to both stores; AssertionError when a lake was wrong."""
    with tempfile.TemporaryDirectory() as made:
        folder, draw = Path(made), random.Random(seed)
        rows.record(folder, "alpha")
        for name in ("directory", "s3"):
            (folder / name).mkdir()
        captures = folder / "captures"
        run(str(folder / "directory"), captures, folder / "directory", kills, draw)
        if server.command() is None:
            sys.exit("no S3 server: pip install 'moto[server]', or set KFIX_MOTO_SERVER")
        with server.running(folder) as one:
            os.environ.update(one.variables)
            run(f"s3://{server.BUCKET}", captures, folder / "s3", kills, draw)


if __name__ == "__main__":
    main(*(int(one) for one in sys.argv[1:]))
