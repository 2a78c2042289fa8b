"""Finds where one copy of a book goes on for another, and joins the states of several copies to one timeline."""

import decimal
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from recorder import files, rebuild
from recorder.compute import pc
from recorder.coverage import Row
from recorder.digest import row_hashes
from recorder.schema import Flags

if TYPE_CHECKING:
    from recorder.catalog import Captures

REACH_NS = 60 * 10**9  # by which the receive times of one message in two copies may differ
_WINDOWS_NS = [10**9 * s for s in (60, 3600, 90_000, 200_000)]  # to look back for a last message in
_CONTEXT = 8  # messages before it that are compared too
_CONTENT = ["side", "action", "price", "qty", "price_scale", "qty_scale", "order_id", "order_text", "aggressor", "crc"]
_TIMES = ["event_ms", "event_frac_ns"]
_HEAD = ["recv_ns", "session", "seq", "flags", "level", "entry_no"]
_BAD = Flags.MAYBE_BAD_BOOK | Flags.IGNORED


@dataclass(frozen=True)
class Message:
    """The last message that is read of a copy; `until_ns` is the latest receive time up to it."""

    session: int
    seq: int
    until_ns: int


@dataclass(frozen=True)
class Begin:
    """Where a copy begins to be read: after this message.

    Attributes
    ----------
    session, seq
        The message before; a session of -1: all of it is read.
    since_ns
        Receive time of the first message, or earlier.
    not_before_ns
        The copy before it was read up to this receive time: earlier ones are raised to it.
    known_ns
        When this copy received the last message that is read of the copy before it; None where it never did.
    begin_ns
        From this receive time on its book is that of the rows that are read: of a snapshot, that of its message.
    """

    session: int = -1
    seq: int = -1
    since_ns: int = 0
    not_before_ns: int = -(1 << 63)
    known_ns: int | None = None
    begin_ns: int = 0

    def cut(self, batch: pa.RecordBatch, last: Message | None, start: int | None, end: int | None) -> pa.RecordBatch:
        """Rows after this and up to `last`, received in [start, end)."""
        session, seq, time = (batch[name].to_numpy() for name in ("session", "seq", "recv_ns"))
        kept = (session > self.session) | ((session == self.session) & (seq > self.seq))
        if last is not None:
            kept &= (session < last.session) | ((session == last.session) & (seq <= last.seq))
        raised = np.maximum(time, self.not_before_ns)
        kept &= (start is None or raised >= start) & (end is None or raised < end)
        if (raised != time).any():
            at = batch.schema.get_field_index("recv_ns")
            batch = batch.set_column(at, batch.schema.field(at), pa.array(raised))
        return batch if kept.all() else batch.filter(pa.array(kept))


@dataclass
class _Messages:
    """Messages of one book in one copy, in the order they were applied: arrays by message."""

    time: np.ndarray
    session: np.ndarray
    seq: np.ndarray
    snapshot: np.ndarray
    good: np.ndarray
    deferred: np.ndarray
    crc: np.ndarray  # -1: none
    exact: np.ndarray  # hash of the content with exchange times
    content: np.ndarray  # and without


def _messages(copy: "Captures", symbol: str, level: str, start: int, end: int) -> _Messages:
    """Messages received in [start, end)."""
    paths = copy._files.of("ticks", start, end, [symbol])
    limits: dict[str, Any] = {"symbols": [symbol], "start": start, "end": end}
    rows = files.table("ticks", paths, [*_HEAD, *_CONTENT, *_TIMES], pc.field("level") == level, **limits)
    order = np.lexsort((np.arange(rows.num_rows), rows["seq"].to_numpy(), rows["session"].to_numpy()))
    rows = rows.take(pa.array(order))
    ends = rebuild.message_ends(rows)
    last, first = ends - 1, np.r_[0, ends[:-1]][: len(ends)].astype(np.int64)
    flags = rows["flags"].to_numpy()[last]
    return _Messages(
        rows["recv_ns"].to_numpy()[last],
        rows["session"].to_numpy()[last],
        rows["seq"].to_numpy()[last],
        (flags & Flags.SNAPSHOT) != 0,
        (flags & _BAD) == 0,
        (flags & Flags.DEFERRED) != 0,
        rows["crc"].fill_null(-1).to_numpy()[last],
        _hashes(rows, first, [*_CONTENT, *_TIMES]),
        _hashes(rows, first, _CONTENT),
    )


def _hashes(rows: pa.Table, first: np.ndarray, columns: list[str]) -> np.ndarray:
    """One number for each message, of its entries in their order."""
    if not len(first):
        return np.zeros(0, np.uint64)
    whole = rows.select(columns).unify_dictionaries().combine_chunks().to_batches()[0]
    place = rows["entry_no"].to_numpy().astype(np.uint64) * np.uint64(2) + np.uint64(1)
    found: np.ndarray = np.add.reduceat(row_hashes(whole) * place, first)
    return found


def find(before: "Captures", after: "Captures", symbol: str, level: str, at: int) -> tuple[Message, Begin]:
    """The last message of `before`, which is not trusted or not read from `at` ns on, and where `after` goes on.

    The last message is looked up in `after` by its entries, exchange times and checksum (5041), with some messages
    before it; a snapshot, which one session alone receives, by its checksum. A copy without such a message begins with
    its next snapshot, or with what it received later.
    """
    last = _last(before, symbol, level, at)
    if last is None:
        return Message(-1, -1, -1), Begin()
    found, k = last
    end_ns = int(found.time[k])
    seen = _messages(after, symbol, level, end_ns - REACH_NS, max(end_ns, at) + REACH_NS)
    message = Message(int(found.session[k]), int(found.seq[k]), int(found.time[: k + 1].max()))
    same = _same(found, k, seen)
    j = _next_snapshot(found, k, seen, at) if same is None else same
    if j is None:
        since_ns = end_ns - REACH_NS
        return message, Begin(*_ahead(seen, end_ns), since_ns, not_before_ns=end_ns, begin_ns=end_ns)
    until = int(seen.time[: j + 1].max(initial=end_ns)) if j >= 0 else end_ns
    session, seq = (int(seen.session[j]), int(seen.seq[j])) if j >= 0 else (-1, -1)
    begin_ns = int(seen.time[j + 1 :].min(initial=until))
    known_ns = None if same is None else int(seen.time[same]) if same >= 0 else end_ns
    first_ns = int(seen.time[j + 1]) if j + 1 < len(seen.time) else until
    return message, Begin(session, seq, min(begin_ns, end_ns), end_ns + 1, known_ns, first_ns)


def _last(copy: "Captures", symbol: str, level: str, at: int) -> tuple[_Messages, int] | None:
    """Messages before `at` and the index of the last that left a good book."""
    for window in _WINDOWS_NS:
        found = _messages(copy, symbol, level, at - window, at + 1)
        # what was deferred in the gap that ends this copy was not applied while it was read
        index = np.flatnonzero(found.good & ((found.time < at) | ~found.deferred))
        if len(index):
            return found, int(index[-1])
    return None


def _same(found: _Messages, k: int, seen: _Messages) -> int | None:
    """Index in `seen` of the message `k` of `found`: the candidate with the most equal messages before it."""
    for ours, theirs in ((found.exact, seen.exact), (found.content, seen.content)):
        candidates = np.flatnonzero((theirs == ours[k]) & ~seen.snapshot)
        if found.snapshot[k] or not len(candidates):
            continue
        scores = [_agreeing(ours, k, theirs, int(j)) for j in candidates]
        best = max(scores)
        return int(max(j for j, score in zip(candidates, scores, strict=True) if score == best))
    if found.crc[k] < 0 or not found.snapshot[k]:
        return None
    candidates = np.flatnonzero(seen.crc == found.crc[k])
    if not len(candidates):
        return None
    j = int(candidates[np.argmin(np.abs(seen.time[candidates] - found.time[k]))])
    return j - 1 if seen.snapshot[j] else j


def _agreeing(ours: np.ndarray, k: int, theirs: np.ndarray, j: int) -> int:
    n = 0
    while n < _CONTEXT and n <= min(k, j) and ours[k - n] == theirs[j - n]:
        n += 1
    return n


def _next_snapshot(found: _Messages, k: int, seen: _Messages, at: int) -> int | None:
    """Index before the snapshot with which a copy begins that has none of the messages before it."""
    snapshots = np.flatnonzero(seen.snapshot & seen.good)
    if not len(snapshots):
        return None
    upto = snapshots[seen.time[snapshots] <= at]
    chosen = int(upto[-1] if len(upto) else snapshots[0])
    # one that is older than the messages of the copy before would bring them again
    return chosen - 1 if seen.time[chosen] >= found.time[k] - 10**9 else None


def _ahead(seen: _Messages, end_ns: int) -> tuple[int, int]:
    """The last message of a copy that was received up to a time."""
    index = np.flatnonzero(seen.time <= end_ns)
    return (int(seen.session[index[-1]]), int(seen.seq[index[-1]])) if len(index) else (-1, -1)


def same_book(before: "Captures", after: "Captures", symbol: str, level: str, last: Message, begin: Begin) -> bool:
    """Whether the book that `after` begins with is the one that `before` ended with: nothing came in between then."""
    ours, _ = before._rebuild.book(symbol, level, last.until_ns)
    theirs, _ = after._rebuild.book(symbol, level, begin.begin_ns)
    if ours is None or theirs is None:
        return False
    depth = min((book.limit for book in (ours, theirs) if book.limit), default=None)
    sides = zip(ours.depth(depth), theirs.depth(depth), strict=True)
    return all(a.tolist() == b.tolist() for a, b in sides)


def lost_between(gaps: list[Row], state: Row | None, last: Message, at: int, begin: Begin) -> Row:
    """The row of gaps for messages that came after `last` and that no copy has.

    Parameters
    ----------
    gaps
        Of the copy before, in its form.
    state
        Its interval of coverage from `at` on, when another copy took over.
    """
    own = [row for row in gaps if last.until_ns <= row["opened_ns"] <= at]
    why = {"cause": state["cause"] or state["state"], "service": state["service"]} if state is not None else {}
    cause = own[-1] if own else {"session": last.session, "planned": False, "lost": None, **why}
    closed_ns = max(begin.begin_ns, last.until_ns)
    healed = {"healed": "snapshot", "detail": "no copy has what came in between"}
    return {**cause, "opened_ns": last.until_ns, "closed_ns": closed_ns, **healed}


# ---- states ----


def merged_states(found: list[tuple[int, list[Row]]]) -> list[Row]:
    """One timeline of the states that several copies of a book had.

    Parameters
    ----------
    found
        (source, its intervals in order of time).

    Returns
    -------
    list of dict
        Intervals with `source`. A source is read until it is not trusted and another one is, the first of those then.
    """
    turns = sorted({row["from_ns"] for _, rows in found for row in rows})
    places = {source: 0 for source, _ in found}
    now: dict[int, Row | None] = dict.fromkeys(places)
    current: int | None = None
    out: list[Row] = []
    for turn in turns:
        for source, rows in found:
            while places[source] < len(rows) and rows[places[source]]["from_ns"] <= turn:
                now[source] = rows[places[source]]
                places[source] += 1
        if current is None or not _trusted(now[current]):
            good = [source for source in now if _trusted(now[source])]
            known = [source for source in now if now[source] is not None]
            current = good[0] if good else known[0] if current is None else current
        row = now[current]
        if row is None:
            continue
        if out and (out[-1]["source"], out[-1]["row"]) == (current, id(row)):
            continue
        out.append({**row, "source": current, "from_ns": turn, "row": id(row)})
    for one, following in pairwise(out):
        one["to_ns"] = following["from_ns"]
    for one in out:
        del one["row"]
    return out


def _trusted(row: Row | None) -> bool:
    return row is not None and bool(row["trusted"])


def touches(gap: Row, spans: list[tuple[int, int]]) -> bool:
    """Whether a gap lies in one of these times."""
    closed = gap["closed_ns"]
    return any(gap["opened_ns"] < to and (closed is None or closed > start) for start, to in spans)


def formed(value: int | None, scale: int, kind: pa.DataType) -> Any:
    """An exact int in the form of a column."""
    if value is None or pa.types.is_integer(kind):
        return value
    if pa.types.is_floating(kind):
        return value / 10.0**scale
    return decimal.Decimal(value).scaleb(-scale)
