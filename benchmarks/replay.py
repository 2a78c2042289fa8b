"""How fast a recorded day is replayed: ours, with every 5041 checked, and the readers of other recorders' formats.

Run: python -m benchmarks.replay [--rows 10000000] [--level L2]. Rivals: databento-dbn with zstandard, hftbacktest,
nautilus_trader; one that is not installed has a row with the reason. None of them checks 5041, which their formats do
not hold, and each does what its row describes. They read the first session of the same rows, in files of their own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import rivals_hftbacktest
from benchmarks.parquet_captures import dbn_records
from benchmarks.parquet_depth import busy_symbol
from kfix_md import Handler
from recorder.blocks import blocks
from recorder.catalog import Captures
from recorder.schema import Flags

Run = Callable[[], int]  # does it once; messages


@dataclass
class Session:
    """Messages of one session, up to its second snapshot: what rivals_hftbacktest takes, and the rows they are."""

    level: str
    opening: np.ndarray
    updates: np.ndarray
    ends: np.ndarray
    first_row: int = 0

    def __len__(self) -> int:
        return len(self.ends) + 1

    @property
    def entries(self) -> np.ndarray:
        return np.concatenate([self.opening, self.updates])


def first_session(cap: Captures, level: str) -> Session:
    """The snapshot without its clear row, and the updates after it."""
    opening, updates, ends = np.zeros(0), [], []
    for block in blocks(cap, cap.dates()[0], None):
        for i in range(len(block)):
            entries = block.entries[block.starts[i] : block.ends[i]]
            if block.flags[i] & Flags.SNAPSHOT:
                if len(opening):
                    return Session(level, opening, np.concatenate(updates), np.cumsum(ends))
                opening = entries[1:]
            else:
                updates.append(entries)
                ends.append(len(entries))
    return Session(level, opening, np.concatenate(updates), np.cumsum(ends))


def ours(cap: Captures, level: str, checked: bool) -> Run:
    """Whole day in batches, through a handler or not."""

    def run() -> int:
        handler = Handler(level=level) if checked else None
        messages = sum(len(batch) for batch in cap.replay_batches(cap.dates()[0], handler=handler))
        if handler is not None:
            stats = handler.stats
            assert stats["crc_failed"] == 0 < stats["crc_ok"], stats
        return messages

    return run


def dbn(cap: Captures, session: Session, folder: Path) -> Run:
    """Decompress a DBN.zst file and decode its records into objects, as `DBNStore.replay` hands them on."""
    import databento_dbn
    import zstandard

    rows = cap.ticks(level="both").slice(0, len(session.entries))
    kind = databento_dbn.SType
    metadata = databento_dbn.Metadata(
        "X", 0, kind.RAW_SYMBOL, kind.INSTRUMENT_ID, databento_dbn.Schema.MBO, ["X"], [], [], []
    )
    path = folder / "day.dbn.zst"
    path.write_bytes(zstandard.ZstdCompressor(3).compress(bytes(metadata.encode()) + dbn_records(rows).tobytes()))

    def run() -> int:
        decoder = databento_dbn.DBNDecoder()
        with zstandard.open(path) as file:
            decoder.write(file.read())
        records = decoder.decode()
        assert len(records) >= rows.num_rows
        return len(session)

    return run


def hftbacktest(cap: Captures, session: Session, folder: Path) -> Run:
    """Load a compressed .npz of its events, and run its backtest loop over it once."""
    events, end_ns = rivals_hftbacktest.events_of(session)
    np.savez_compressed(folder / "day.npz", data=events)

    def run() -> int:
        with np.load(folder / "day.npz") as file:
            rivals_hftbacktest.Run(file["data"], end_ns).finish()
        return len(session)

    return run


def nautilus(cap: Captures, session: Session, folder: Path) -> Run:
    """Stream OrderBookDeltas from its catalog, as its backtest engine does, and apply each to its OrderBook."""
    from nautilus_trader.model.book import OrderBook
    from nautilus_trader.model.data import BookOrder, OrderBookDelta, capsule_to_list
    from nautilus_trader.model.enums import BookAction, BookType, OrderSide
    from nautilus_trader.model.identifiers import InstrumentId
    from nautilus_trader.model.objects import Price, Quantity
    from nautilus_trader.persistence.catalog import ParquetDataCatalog

    instrument = InstrumentId.from_str("ALL.KRAKEN")
    actions = [BookAction.ADD, BookAction.UPDATE, BookAction.DELETE, BookAction.DELETE]
    sides = [OrderSide.BUY, OrderSide.SELL]
    deltas = [
        OrderBookDelta(
            instrument,
            actions[e["action"]],
            BookOrder(
                sides[e["side"]], Price(e["price"] / 1e6, 6), Quantity(e["qty"] / 1e8, 8), int(e["id_hi"] ^ e["id_lo"])
            ),
            0,
            i,
            i,
            i,
        )
        for i, e in enumerate(session.entries)
        if e["side"] < len(sides)
    ]
    ParquetDataCatalog(str(folder / "catalog")).write_data(deltas)
    kind = BookType.L2_MBP if session.level == "L2" else BookType.L3_MBO

    def run() -> int:
        book, applied = OrderBook(instrument, kind), 0
        result = ParquetDataCatalog(str(folder / "catalog")).backend_session(OrderBookDelta).to_query_result()
        for chunk in result:
            for delta in capsule_to_list(chunk):
                book.apply_delta(delta)
                applied += 1
        assert applied == len(deltas)
        return len(session)

    return run


RIVALS = {
    "DBN: decoding alone, no book, no 5041": dbn,
    "hftbacktest: loading, and its loop's book, no 5041": hftbacktest,
    "nautilus_trader: its catalog and book, no 5041": nautilus,
}


def measured(name: str, run: Run, rounds: int) -> str:
    """A row: medians of messages a second, by wall clock and by the CPU time of all threads."""
    run()  # what is read once, and imports
    wall, cpu = [], []
    for _ in range(rounds):
        began, spent = time.perf_counter(), time.process_time()
        messages = run()
        cpu.append(messages / (time.process_time() - spent) / 1e6)
        wall.append(messages / (time.perf_counter() - began) / 1e6)
    return f"  {name:<58} {statistics.median(wall):>8.3f} {statistics.median(cpu):>8.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--level", choices=("L2", "L3"), default="L2")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cap, _ = busy_symbol(folder, options.level, options.rows)
        session = first_session(cap, options.level)
        print(f"{options.level}: {cap.rows():,} rows, compacted; rivals: {len(session):,} messages")
        print(f"  {'M messages a second':<58} {'wall':>8} {'CPU':>8}")
        for text, checked in (("kfix-md, every 5041 checked", True), ("kfix-md, without a handler", False)):
            print(measured(text, ours(cap, options.level, checked), options.rounds), flush=True)
        for text, make in RIVALS.items():
            try:
                row = measured(text, make(cap, session, folder), options.rounds)
            except ModuleNotFoundError as error:
                row = f"  {text:<58} {'-':>8} {'-':>8}  absent: {error.name} is not installed"
            except ImportError as error:
                row = f"  {text:<58} {'-':>8} {'-':>8}  absent: {error}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
