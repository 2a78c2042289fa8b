"""Compresses or deletes journal segments once their Parquet was read back and compared."""

import functools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kfix_md.errors import CaptureError
from kfix_md.journal import files as journal_files
from kfix_md.journal.layout import HEADER_BYTES
from recorder import files, layout, schema
from recorder.compute import pc
from recorder.digest import row_hashes
from recorder.layout import Tree
from recorder.tail import Tail

log = logging.getLogger("kfix.record")
_CHUNK_ROWS = 131_072


def save_start(tree: Tree, number: int, state: dict[str, Any]) -> None:
    """Save the decoder's state at the start of segment `number`: proving the segment later begins with it."""
    folder = tree.state / "segments"
    journal_files.make_directory(folder)
    saved = json.dumps({**state, "schema": schema.VERSION}).encode()
    layout.write_atomically(folder / f"{number:010d}.json", saved, tree.state)


def retire(journal: Path, tree: Tree, safe: int, how: str, kept: set[int] | None = None) -> list[Path]:
    """Compress or delete the sealed segments wholly before position `safe` whose Parquet proves equal.

    The newest segment always stays: numbers continue from it. Returns what was retired. A segment that cannot be
    proven is kept, with an error in the log; `kept` has the numbers of those that were found before, which are not
    tried again, and is added to.
    """
    done = []
    kept = set() if kept is None else kept
    present = {n: head for n, head in journal_files.heads(journal).items() if head.date}
    for number, head in list(present.items())[:-1]:
        if (number + 1) << 32 > safe:
            break
        path = head.path
        if number in kept or not head.sealed_end or (how == "zstd" and head.compressed):
            continue
        start = tree.state / "segments" / f"{number:010d}.json"
        if not start.exists():
            continue  # recorded before retention was wanted: kept
        try:
            _retire(journal, tree, head, start, how)
        except CaptureError as error:
            kept.add(number)
            log.error("%s; the segment is kept", error, extra={"event": "segment_kept"})
            continue
        log.info(
            "journal segment %s: its Parquet is proven, now %s", path.name, "compressed" if how == "zstd" else "deleted"
        )
        done.append(path)
    for start in (tree.state / "segments").glob("*.json"):  # of segments that are gone
        if int(start.stem) < min(present, default=0):
            start.unlink()
    return done


def _retire(journal: Path, tree: Tree, head: journal_files.Info, start: Path, how: str) -> None:
    """CaptureError unless the segment is proven; of one without records there is nothing to be proven."""
    rows = prove(journal, tree, head.number, json.loads(start.read_bytes()))
    if how == "zstd":
        journal_files.compress(head.path)
        return
    if not rows and head.sealed_end > HEADER_BYTES:
        raise CaptureError(f"journal segment {head.number}: it has no market data by which its Parquet could be proven")
    head.path.unlink()
    start.unlink()


def prove(journal: Path, tree: Tree, number: int, state: dict[str, Any]) -> int:
    """Decode one segment again and compare with the captures; returns the rows compared.

    CaptureError when they differ, when a message that the feed applied cannot be decoded, and when bytes of the segment
    cannot be read: what they were was never recorded. A segment whose recording began with an older schema is compared
    in the columns of that one.

    Memory: one hash for each row of the segment.
    """
    columns = _compared(state.get("schema"))
    tail = Tail(str(journal), state, checkpoint_rows=None)
    tail.reader.hold_at_end = True
    decoded: dict[int, _Span] = {}
    while True:
        result = tail.read(_CHUNK_ROWS)
        tables = tail.take()
        for batch in tables["ticks"].to_batches() if "ticks" in tables else ():
            for session in pc.unique(batch["session"]).to_pylist():  # a batch is of one session, as Tail cuts them
                decoded.setdefault(session, _Span()).add(batch.select(columns))
        if result in ("segment", "nothing", "torn"):
            break
    if tail.damages:
        raise CaptureError(f"journal segment {number}: {tail.damages[0]}")
    if undecoded := tail.undecoded.total():
        raise CaptureError(f"journal segment {number}: {undecoded} messages that the feed applied cannot be decoded")
    for session, span in decoded.items():
        if not span.same(files.attempt(functools.partial(_captured, tree, session, span, columns))):
            raise CaptureError(
                f"journal segment {number}: session {session}, messages {span.first} to {span.last} "
                f"are not the same in {tree.root / 'ticks'}"
            )
    return sum(span.rows for span in decoded.values())


def _compared(version: str | None) -> list[str]:
    """Columns of ticks that are compared; "text" ids are so as text, and `decimals` came with schema 3."""
    missing = {"id_kind"} if version is not None else {"id_kind", "decimals"}
    return [name for name in schema.SCHEMAS["ticks"].names if name not in missing]


class _Span:
    """Hashes of the decoded rows of a session, and their limits in MsgSeqNum and time."""

    def __init__(self) -> None:
        self.hashes: list[np.ndarray] = []
        self.rows = 0
        self.first = self.since = 1 << 62
        self.last = self.until = -1

    def add(self, batch: pa.RecordBatch) -> None:
        self.hashes.append(row_hashes(batch))
        self.rows += batch.num_rows
        seq, time = batch["seq"].to_numpy(), batch["recv_ns"].to_numpy()
        self.first, self.last = min(self.first, int(seq.min())), max(self.last, int(seq.max()))
        self.since, self.until = min(self.since, int(time.min())), max(self.until, int(time.max()))

    def same(self, other: list[np.ndarray]) -> bool:
        """Whether these are the very rows; (seq, entry_no) is in the hashes, so that their order is."""
        return sum(map(len, other)) == self.rows and bool(
            (np.sort(np.concatenate(self.hashes)) == np.sort(np.concatenate(other))).all()
        )


def _captured(tree: Tree, session: int, span: _Span, columns: list[str]) -> list[np.ndarray]:
    """Hashes of the captures' rows of the same messages."""
    where = (pc.field("session") == session) & (pc.field("seq") >= span.first) & (pc.field("seq") <= span.last)
    paths = files.Files(tree).of("ticks", span.since, span.until + 1)
    found = files.batches("ticks", paths, columns, where, start=span.since, end=span.until + 1)
    return [row_hashes(batch) for batch in found]
