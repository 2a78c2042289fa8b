"""Captures against DBN.zst, csv.gz, nautilus and row-at-a-time writers: bytes a row, rows a second, on one stream.

Run: python benchmarks/parquet_captures.py STREAM.fix[.gz] ...   (generated L3 and L2 streams without arguments)
Receive times are the frames' own 52 with some jitter. Every comparison is of CPU time on one thread. Needs
databento-dbn and zstandard for the comparison with DBN, nautilus_trader for that with its catalog; a rival that is
not installed is left out, and the output names it.
"""

import argparse
import gzip
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import recorder
from kfix_md import Handler
from kfix_md.journal.writer import JournalWriter
from recorder import compact, files, schema
from recorder.process import Recorder, Settings

START_NS = 1_790_000_000_000_000_000
BESIDE_DBN = ["recv_ns", "event_ns", "seq", "symbol", "side", "action", "flags", "price", "qty", "level"]


def frames(data: bytes) -> list[bytes]:
    """Frames of a clean stream."""
    return [b"8=FIX.4.4\x01" + f for f in data.split(b"8=FIX.4.4\x01")[1:]]


def receive_times(stream: list[bytes], rng: np.random.Generator) -> np.ndarray:
    """When each frame may have been received: 52 SendingTime (ms) and 0.3 ms or more of travel, never going back."""
    texts = [f[f.index(b"\x0152=") + 4 :][:21].decode() for f in stream]
    sent = {
        t: int(datetime.strptime(t, "%Y%m%d-%H:%M:%S.%f").replace(tzinfo=UTC).timestamp() * 1000 + 0.5)
        for t in set(texts)
    }
    times = np.array([sent[t] for t in texts]) * 1_000_000 + 300_000
    times += rng.gamma(2.0, 150_000, len(times)).astype(np.int64)
    return np.maximum.accumulate(times)


def make_journal(path: Path, data: bytes, level: str, repeat: int) -> int:
    """Journal the stream `repeat` times over, each time as a session of its own; messages."""
    stream = frames(data)
    times = receive_times(stream, np.random.default_rng(1))
    n, span = 0, int(times[-1] - times[0]) + 1_000_000
    with JournalWriter(path, segment_bytes=256 << 20) as journal:
        journal.event(0, int(times[0]), {"type": "session", "number": 0, "service": "bench", "level": level})
        for i in range(repeat):
            journal.event(0, int(times[0]) + i * span, {"type": "logged_on", "session_id": str(i)})
            handler = Handler(level=level, journal=journal)
            for frame, now in zip(stream, (times + i * span).tolist(), strict=True):
                handler.on_bytes(frame, now)
                n += 1
    return n


def best(run: Callable[[], object], times: int = 3) -> float:
    """Least CPU seconds of a few runs."""
    spans = []
    for _ in range(times):
        start = time.process_time()
        run()
        spans.append(time.process_time() - start)
    return min(spans)


def column_bytes(path: Path) -> dict[str, float]:
    """Compressed bytes a row of each column."""
    meta = pq.ParquetFile(path).metadata
    out: dict[str, float] = {"all": path.stat().st_size / meta.num_rows}
    for group in range(meta.num_row_groups):
        for i in range(meta.num_columns):
            column = meta.row_group(group).column(i)
            name, size = column.path_in_schema, column.total_compressed_size
            out[name] = out.get(name, 0) + size / meta.num_rows
    return out


def dbn_records(rows: pa.Table) -> np.ndarray:
    """The rows as DBN MBO records (56 bytes). Order ids: the first eight bytes of ours, all that DBN has room for."""
    layout = np.dtype(
        [
            ("length", "u1"),
            ("rtype", "u1"),
            ("publisher", "<u2"),
            ("instrument", "<u4"),
            ("ts_event", "<u8"),
            ("order_id", "<u8"),
            ("price", "<i8"),
            ("size", "<u4"),
            ("flags", "u1"),
            ("channel", "u1"),
            ("action", "S1"),
            ("side", "S1"),
            ("ts_recv", "<u8"),
            ("ts_in_delta", "<i4"),
            ("sequence", "<u4"),
        ]
    )
    entries = schema.entries(rows)
    out = np.zeros(rows.num_rows, layout)
    out["length"], out["rtype"], out["publisher"] = 14, 160, 1
    out["instrument"] = rows["symbol"].combine_chunks().indices.to_numpy()
    out["ts_event"] = rows["event_ns"].fill_null(0).to_numpy()
    out["order_id"] = entries["id_hi"]
    out["price"] = entries["price"] * 10 ** (9 - rows["price_scale"].to_numpy().astype(int))
    out["size"], out["sequence"] = entries["qty"] & 0xFFFFFFFF, rows["seq"].to_numpy()
    out["action"] = np.array([b"A", b"M", b"C", b"C", b"R"])[entries["action"]]
    out["side"] = np.array([b"B", b"A", b"N"])[entries["side"]]
    out["flags"] = np.where(rows["flags"].to_numpy() & schema.Flags.LAST, 128, 0)
    out["ts_recv"] = rows["recv_ns"].to_numpy()
    out["ts_in_delta"] = 0
    return out


def against_dbn(rows: pa.Table, path: Path) -> None:
    """Sizes and reading speed compared with DBN.zst of the same rows; reading, of ten times as many."""
    try:
        import databento_dbn
        import zstandard
    except ImportError:
        print("  DBN: databento-dbn or zstandard is not installed, left out")
        return
    records = dbn_records(rows)
    metadata = databento_dbn.Metadata(
        "X",
        START_NS,
        databento_dbn.SType.RAW_SYMBOL,
        databento_dbn.SType.INSTRUMENT_ID,
        databento_dbn.Schema.MBO,
        ["X"],
        [],
        [],
        [],
    )
    plain = bytes(metadata.encode()) + records.tobytes()
    packed = zstandard.ZstdCompressor(level=3).compress(plain)
    head = len(plain) - records.nbytes

    def decode() -> np.ndarray:
        raw = zstandard.ZstdDecompressor().decompress(packed, len(plain))
        return np.frombuffer(raw, records.dtype, offset=head).copy()

    ours = column_bytes(path)
    ours["event_ns"] = ours.pop("event_ms") + ours.pop("event_frac_ns")
    n = len(records)
    dbn = len(packed) / n
    without = records.copy()
    without["order_id"] = 0
    bare = len(zstandard.ZstdCompressor(level=3).compress(without.tobytes())) / n
    mine, ids = sum(ours[c] for c in BESIDE_DBN), ours["order_id"] + ours["id_kind"]
    print(
        f"  DBN.zst {dbn:.2f} B/row (without ids {bare:.2f}); ours, same columns: without ids {mine:.2f} "
        f"({mine / dbn:.2f} x), with 16-byte ids {mine + ids:.2f} ({(mine + ids) / dbn:.2f} x), "
        f"everything (queue time, CRC, ...) and the footer {ours['all']:.2f}"
    )
    records = np.tile(records, 10)
    plain = plain[:head] + records.tobytes()
    packed = zstandard.ZstdCompressor(level=3).compress(plain)

    def objects() -> int:
        decoder = databento_dbn.DBNDecoder()
        decoder.write(plain)
        return len(decoder.decode())

    big = path.with_name("big.parquet")
    stored = files.table("ticks", [path])
    with pq.ParquetWriter(big, stored.schema, **schema.write_options("ticks")) as writer:
        writer.write_table(pa.concat_tables([stored] * 10), row_group_size=schema.ROW_GROUP)
    blob = pa.py_buffer(big.read_bytes())

    def read(columns: list[str] | None = None) -> Callable[[], object]:
        names = columns and schema.stored("ticks", columns)
        return lambda: pq.ParquetFile(pa.BufferReader(blob)).read(names, use_threads=False)

    same = [c for c in [*BESIDE_DBN, "order_id"] if c != "level"]
    four = ["recv_ns", "side", "price", "qty"]
    spent = interleaved(
        {
            "array": decode,
            "same": read(same),
            "all": read(),
            "four": read(four),
            "all, read_table": lambda: pq.read_table(big, use_threads=False),
            "four, read_table": lambda: pq.read_table(big, columns=four, use_threads=False),
        }
    )
    n = len(records)
    whole, slow = spent.pop("array"), best(objects, 1)
    print(
        f"  read, both from memory, M rows/s: DBN.zst into an array {n / whole / 1e6:.1f}, into objects "
        f"{n / slow / 1e6:.1f}; ours: "
        + ", ".join(f"{k} {n / v / 1e6:.1f} ({whole / v:.2f} x array)" for k, v in spent.items())
    )


def interleaved(runs: dict[str, Callable[[], object]], times: int = 7) -> dict[str, float]:
    """Least CPU seconds of each, in turns, so that all see the same machine."""
    out = dict.fromkeys(runs, float("inf"))
    for _ in range(times):
        for name, run in runs.items():
            out[name] = min(out[name], best(run, 1))
    return out


def against_csv(rows: pa.Table, path: Path, kind: str) -> None:
    """Size compared with csv.gz of the same columns in the same order."""
    names = ["recv_ns", "event_ns", "seq", "symbol", "side", "action", "price", "qty"]
    sink = io.BytesIO()
    pcsv.write_csv(rows.select(names).cast(schema.plain(rows.select(names).schema)), sink)
    packed = len(gzip.compress(sink.getvalue(), 6)) / rows.num_rows
    sizes = column_bytes(path)
    ours = sum(sizes[c] for c in schema.stored("ticks", names))
    print(
        f"  {kind}: csv.gz {packed:.2f} B/row, ours {ours:.2f} ({ours / packed:.2f} x); all columns and the footer "
        f"{sizes.pop('all'):.2f}"
    )
    print(f"    by column: { {k: round(v, 2) for k, v in sizes.items() if v >= 0.05} }")


def split_rows(data: bytes, most: int) -> list[dict]:
    """Rows as a capture tool in Python makes them of bytes: frames split at SOH and =, a dict a row."""
    rows: list[dict] = []
    for frame in frames(data):
        head: dict[bytes, bytes] = {}
        entry: dict[bytes, bytes] | None = None
        for part in frame.split(b"\x01"):
            tag, _, value = part.partition(b"=")
            if tag in (b"279", b"269") and (entry is None or tag in entry):
                entry = {}
                rows.append({"symbol": head.get(b"55", b"").decode(), "entry": entry})
            if entry is None:
                head[tag] = value
            else:
                entry[tag] = value
        if len(rows) > most:
            break
    for row in rows:
        fields = row.pop("entry")
        row |= {
            "side": fields[b"269"].decode(),
            "id": fields[b"278"].decode(),
            "price": float(fields[b"270"]),
            "qty": float(fields[b"271"]),
            "action": fields.get(b"279", b"0").decode(),
            "time": fields[b"273"].decode(),
            "recv": time.time(),
        }
    return rows


def row_at_a_time(data: bytes, most: int) -> float:
    """ns a row of the usual capture tool: frames split in Python, a dict of floats a row, then one table."""
    n = len(split_rows(data, most))
    return best(lambda: pq.write_table(pa.Table.from_pylist(split_rows(data, most)), io.BytesIO())) / n * 1e9


def against_nautilus(data: bytes, most: int, ours: float) -> None:
    """nautilus_trader's catalog on the same job, bytes to Parquet, and the catalog's part of it alone: it has no FIX
    decoder, so that its OrderBookDelta objects are made of the rows of `split_rows`. `ours`: ns a row."""
    try:
        from nautilus_trader.model import data as model
        from nautilus_trader.model.enums import BookAction, OrderSide
        from nautilus_trader.model.identifiers import InstrumentId
        from nautilus_trader.model.objects import Price, Quantity
        from nautilus_trader.persistence.catalog import ParquetDataCatalog
    except ImportError:
        print("  nautilus: nautilus_trader is not installed, left out")
        return
    instrument = InstrumentId.from_str("ALL.KRAKEN")  # one: its catalog writes a file for each
    actions = {"0": BookAction.ADD, "1": BookAction.UPDATE}
    sides = {"0": OrderSide.BUY, "1": OrderSide.SELL}

    def make() -> list:
        return [
            model.OrderBookDelta(
                instrument,
                actions.get(row["action"], BookAction.DELETE),
                model.BookOrder(sides[row["side"]], Price(row["price"], 8), Quantity(row["qty"], 8), i),
                0,
                i,
                i,
                i,
            )
            for i, row in enumerate(split_rows(data, most))
            if row["side"] in sides
        ]

    made = make()
    writing = float("inf")
    for _ in range(3):
        work = tempfile.mkdtemp()
        try:
            catalog = ParquetDataCatalog(work)
            writing = min(writing, best(lambda c=catalog: c.write_data(made), 1))
        finally:
            shutil.rmtree(work)
    alone, whole = writing / len(made) * 1e9, (best(make) + writing) / len(made) * 1e9
    print(
        f"  nautilus' catalog: {1e3 / whole:.3f} M rows/s from bytes, ours {whole / ours:.1f} x; "
        f"{1e3 / alone:.3f} from objects that are there already, ours (from bytes) {alone / ours:.1f} x"
    )


def measure(name: str, data: bytes, repeat: int) -> None:
    """Everything about one stream."""
    level = "L3" if b"\x015273=" in data[:200_000] else "L2"
    work = Path(tempfile.mkdtemp())
    try:
        messages = make_journal(work / "journal", data, level, repeat)
        make_journal(work / "once", data, level, 1)
        rows = 0

        def record() -> None:
            nonlocal rows
            shutil.rmtree(work / "captures", ignore_errors=True)
            one = Recorder(Settings(work / "journal", work / "captures"))
            one.once()
            one.close()
            rows = one.rows

        spent = best(record)
        print(f"{name} ({level}): {messages:,} messages, {rows:,} rows")
        print(
            f"  journal to closed Parquet, one core: {rows / spent / 1e6:.2f} M rows/s, "
            f"{messages / spent / 20_000:.0f} x real time at 20,000 messages a second"
        )
        one = Recorder(Settings(work / "once", work / "small"))
        one.once()
        one.close()
        cap = recorder.open(work / "small")
        [live] = cap.tree.files("ticks", cap.dates()[0])
        if level == "L2":
            against_csv(cap.ticks(), live, "live file")
        slow = row_at_a_time(data, 20_000)
        ours = spent / rows * 1e9
        print(f"  the usual row-at-a-time writer: {1e3 / slow:.3f} M rows/s, ours {slow / ours:.0f} x")
        against_nautilus(data, 20_000, ours)
        compact.compact_day(cap.tree, cap.dates()[0])
        [path] = cap.tree.files("ticks", cap.dates()[0])
        if level == "L3":
            against_dbn(cap.ticks(), path)
        else:
            against_csv(cap.ticks(), path, "compacted")
    finally:
        shutil.rmtree(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("streams", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, default=500_000, help="about so many entries for the speed of writing")
    args = parser.parse_args()
    named = [(p.name, gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes()) for p in args.streams]
    if not named:
        from tests.streams import generate

        for service, messages in (("derivatives-l3", 20_000), ("spot-l2", 100_000)):
            named.append((f"generated {service}", generate(service, messages=messages, empties=False).data))
    for name, data in named:
        entries = max(1, data.count(b"\x01270="))
        measure(name, data, max(1, args.rows // entries))


if __name__ == "__main__":
    main()
