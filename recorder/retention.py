"""Hides when a journal segment may be compressed or deleted: only after its Parquet was read back and compared."""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kfix_md import journal_files
from kfix_md.errors import CaptureError
from recorder import files, layout, schema
from recorder.layout import Tree
from recorder.tail import Tail

log = logging.getLogger("kfix.record")
_COMPARED = [name for name in schema.SCHEMAS["ticks"].names if name != "id_kind"]
_CHUNK_ROWS = 1_000_000


def save_start(tree: Tree, number: int, state: dict) -> None:
    """Keep the decoder's state at the start of segment `number`: what proving the segment later begins with."""
    folder = tree.state / "segments"
    folder.mkdir(exist_ok=True)
    layout.write_atomically(folder / f"{number:010d}.json", json.dumps(state).encode(), tree.state)


def retire(journal: Path, tree: Tree, safe: int, how: str) -> list[Path]:
    """Compress or delete the sealed segments wholly before position `safe` whose Parquet proves equal.

    The newest segment always stays: it says where numbers go on. Returns what was retired.
    """
    done = []
    present = journal_files.segments(journal)
    for number, path in sorted(present.items())[:-1]:
        if (number + 1) << 32 > safe:
            break
        head = journal_files.info(path)
        if not head.sealed_end or (how == "zstd" and head.compressed):
            continue
        start = tree.state / "segments" / f"{number:010d}.json"
        if not start.exists():
            continue  # recorded before retention was wanted: kept
        prove(journal, tree, number, json.loads(start.read_bytes()))
        if how == "zstd":
            journal_files.compress(path)
        else:
            path.unlink()
            start.unlink()
        log.info("journal segment %s: its Parquet is proven, now %s", path.name,
                 "compressed" if how == "zstd" else "deleted")  # fmt: skip
        done.append(path)
    for start in (tree.state / "segments").glob("*.json"):  # of segments that are gone
        if int(start.stem) < min(present):
            start.unlink()
    return done


def prove(journal: Path, tree: Tree, number: int, state: dict) -> int:
    """Decode one segment again and compare with the captures; rows compared. CaptureError when they differ."""
    tail = Tail(str(journal), state)
    tail.reader.hold_at_end = True
    total = 0
    while True:
        said = tail.read(_CHUNK_ROWS)
        tables = tail.take()
        if "ticks" in tables:
            _compare(tree, tables["ticks"], number)
            total += tables["ticks"].num_rows
        if said in ("segment", "nothing", "torn"):
            return total


def _compare(tree: Tree, rows: pa.Table, number: int) -> None:
    limits = pc.min_max(rows["recv_ns"]).as_py()
    found = files.Files(tree)
    rows = rows.select(_COMPARED).unify_dictionaries()
    for session in pc.unique(rows["session"]).to_pylist():
        mine = rows.filter(pc.equal(rows["session"], session))
        seq = pc.min_max(mine["seq"]).as_py()
        where = (pc.field("session") == session) & (pc.field("seq") >= seq["min"]) & (pc.field("seq") <= seq["max"])
        paths = found.of("ticks", limits["min"], limits["max"] + 1)
        theirs = files.attempt(lambda p=paths, w=where: files.table("ticks", p, _COMPARED, w))
        if not _ordered(mine).equals(_ordered(theirs)):
            raise CaptureError(f"journal segment {number}: session {session}, messages {seq['min']} to {seq['max']} "
                               f"are not the same in {tree.root / 'ticks'}; the segment is kept")  # fmt: skip


def _ordered(rows: pa.Table) -> pa.Table:
    """Rows in the order they were applied, dictionaries as text: comparable however they are laid out."""
    rows = rows.cast(schema.plain(rows.schema))
    clear = pc.equal(rows["action"], "clear").to_numpy()
    order = np.lexsort((~clear, rows["entry_no"].to_numpy(), rows["seq"].to_numpy()))
    return rows.take(pa.array(order)).combine_chunks()
