"""Compresses or deletes journal segments once their Parquet was read back and compared."""

import functools
import json
import logging
import time
from collections import Counter
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

TRIES = 3  # of the proof of a segment


def save_start(tree: Tree, number: int, state: dict[str, Any]) -> None:
    """Save the decoder's state at the start of segment `number`: proving the segment later begins with it."""
    folder = tree.state / "segments"
    journal_files.make_directory(folder)
    saved = json.dumps({**state, "schema": schema.VERSION}).encode()
    layout.write_atomically(folder / f"{number:010d}.json", saved, tree.state)


def retire(journal: Path, tree: Tree, safe: int, how: str, kept: Counter[int] | None = None) -> list[Path]:
    """Compress or delete the sealed segments wholly before position `safe` whose Parquet proves equal.

    The newest segment always stays: numbers continue from it. Returns what was retired. A segment that cannot be
    proven is kept, with an error in the log, and with "delete" all after it, so that the journal has no hole. `kept`
    counts the attempts by number and is added to; after TRIES of them a segment is not tried again.
    """
    done = []
    kept = Counter() if kept is None else kept
    for head in _finished(journal, safe):
        if head.compressed and how == "zstd":
            continue
        if not _prove(journal, tree, head, kept, deleted=how != "zstd"):
            if how == "delete" and kept[head.number]:
                break
            continue
        if how == "zstd":
            journal_files.compress(head.path)
            _log(head, "compressed")
        else:
            _delete(tree, head, "deleted")
        done.append(head.path)
    present = [n for n, head in journal_files.heads(journal).items() if head.date]
    for start in (tree.state / "segments").glob("*.json"):  # of segments that are gone
        if int(start.stem) < min(present, default=0):
            start.unlink()
    return done


def limit(
    journal: Path,
    tree: Tree,
    safe: int,
    max_bytes: float,
    max_days: int,
    kept: Counter[int] | None = None,
    today: int | None = None,
) -> list[Path]:
    """Delete the oldest segments while the journal has more than `max_bytes` or session dates older than `max_days`.

    As `retire` does it: only what is recorded and proven, never the newest. Returns what was deleted.

    Parameters
    ----------
    max_bytes, max_days
        0: no such limit.
    kept
        As of `retire`.
    today : int, optional
        Days since 1970; that of the clock without it.
    """
    today = int(time.time() // 86_400) if today is None else today
    total = sum(path.stat().st_blocks * 512 for path in journal_files.segments(journal).values())
    done: list[Path] = []
    kept = Counter() if kept is None else kept
    for head in _finished(journal, safe):
        too_much = max_bytes and total > max_bytes
        if not (too_much or (max_days and today - head.date > max_days)):
            break
        size = head.path.stat().st_blocks * 512
        if not _prove(journal, tree, head, kept, deleted=True):
            break
        _delete(tree, head, "deleted: the journal is at its limit")
        total -= size
        done.append(head.path)
    return done


def _finished(journal: Path, safe: int) -> list[journal_files.Info]:
    """Sealed segments that are wholly before position `safe`, without the newest."""
    present = {n: head for n, head in journal_files.heads(journal).items() if head.date}
    return [head for n, head in list(present.items())[:-1] if (n + 1) << 32 <= safe and head.sealed_end]


def _start(tree: Tree, head: journal_files.Info) -> Path:
    return tree.state / "segments" / f"{head.number:010d}.json"


def _prove(journal: Path, tree: Tree, head: journal_files.Info, kept: Counter[int], *, deleted: bool) -> bool:
    """Prove a segment; False when it was recorded before retention was wanted, without its decoder's state.

    So it is, with an error in the log and counted in `kept`, when it cannot be proven, or is to be deleted and has
    records but no market data.
    """
    start = _start(tree, head)
    if kept[head.number] >= TRIES or not start.exists():
        return False
    try:
        rows = prove(journal, tree, head.number, json.loads(start.read_bytes()))
        if deleted and not rows and head.sealed_end > HEADER_BYTES:
            raise CaptureError(
                f"journal segment {head.number}: it has no market data by which its Parquet could be proven"
            )
    except CaptureError as error:
        kept[head.number] += 1  # a compaction that was killed may have been in the way: it is tried again
        if kept[head.number] == 1:
            log.error("%s; the segment is kept", error, extra={"event": "segment_kept"})
        return False
    return True


def _delete(tree: Tree, head: journal_files.Info, how: str) -> None:
    head.path.unlink()
    _start(tree, head).unlink()
    _log(head, how)


def _log(head: journal_files.Info, how: str) -> None:
    log.info("journal segment %s: its Parquet is proven, now %s", head.path.name, how)


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
    """Columns of ticks that are compared; "text" ids are so as text, and schema 3 and 4 added columns."""
    missing = {"id_kind"} | ({"decimals"} if version is None else set())
    missing |= set(schema.SOURCE) if version in (None, "2", "3") else set()
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
