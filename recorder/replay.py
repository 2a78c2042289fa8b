"""Hides how a recorded day is played again: in the order of application, at any speed, as FIX for the live handler."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kfix_md._codec import id_text
from recorder import derive, files, layout, schema
from recorder.schema import Flags

if TYPE_CHECKING:
    from recorder.catalog import Captures

_WINDOW_ROWS = 2_000_000  # rows in memory at a time
_SAME_DAY_NS = 10 * 3_600_000_000_000
_COLUMNS = [*derive.BOOK_COLUMNS, "symbol", "entry_no", "aggressor", "ord_type"]
_SIDES, _ACTIONS = {"bid": 0, "offer": 1, "trade": 2}, {"new": 0, "update": 1, "delete": 2, "leave": 2}


@dataclass(slots=True)
class Message:
    """One recorded W or X. `rows` are its ticks; `entries()` what a Book applies; `fix()` the frame again."""

    recv_ns: int
    session: int
    seq: int
    symbol: str
    level: str
    flags: int
    scales: tuple[int, int]
    rows: pa.Table = field(repr=False)

    def entries(self) -> np.ndarray:
        """ENTRY_DTYPE, a CLEAR in front of a snapshot's."""
        return schema.entries(self.rows)

    def fix(self) -> bytes:
        """A W or X with the same content; 49, 56 and 262 are `replay`, 52 is the receive time."""
        snapshot = bool(self.flags & Flags.SNAPSHOT)
        rows = [r for r in self.rows.to_pylist() if r["action"] != "clear"]
        event = next((r["event_ns"] for r in rows if r["event_ns"]), self.recv_ns)
        # 273 is a time of day on the day of 52: a replayed old stream was not received on that day
        sent = self.recv_ns if abs(event - self.recv_ns) < _SAME_DAY_NS else event
        body = [f"35={'W' if snapshot else 'X'}", f"34={self.seq}", "49=REPLAY", f"52={_stamp(sent)}", "56=REPLAY",
                f"55={self.symbol}", "262=replay"]  # fmt: skip
        body.append(f"268={len(rows)}")
        for row in rows:
            body += self._group(row, snapshot)
        crc = self.rows["crc"][-1].as_py()
        if crc is not None:
            body.append(f"5041={crc}")
        text = "\x01".join(body).encode() + b"\x01"
        text = b"8=FIX.4.4\x019=%d\x01" % len(text) + text
        return text + b"10=%03d\x01" % (sum(text) % 256)

    def _group(self, row: dict, snapshot: bool) -> list[str]:
        price = _decimal(row["price"], self.scales[0])
        group = [] if snapshot else [f"279={_ACTIONS[row['action']]}"]
        group += [f"269={_SIDES[row['side']]}", f"278={_name(row, price)}", f"270={price}",
                  f"271={_decimal(row['qty'], self.scales[1])}"]  # fmt: skip
        event = row["event_ns"] if row["event_ns"] is not None else self.recv_ns
        group.append(f"273={_stamp(event)[9:]}")
        if row["queue_ns"] is not None:
            group += [f"5060={_iso(event)}", f"5273={_iso(row['queue_ns'])}"]
        if row["side"] == "trade":
            group += [f"40={2 if row['ord_type'] == 'limit' else 1}"] if row["ord_type"] else []
            group += [f"2446={2 if row['aggressor'] == 'sell' else 1}"] if row["aggressor"] else []
        return group


def _name(row: dict, price: str) -> str:
    if row["order_text"] is not None:
        return row["order_text"]
    raw = row["order_id"]
    if raw is None:
        return f"{'O' if row['side'] == 'offer' else 'B'}{price}"
    kind = schema.ID_KINDS.index(row["id_kind"])
    return id_text(kind, int.from_bytes(raw[:8]), int.from_bytes(raw[8:]))


def _decimal(value: int, scale: int) -> str:
    sign, digits = ("-", -value) if value < 0 else ("", value)
    text = str(digits).rjust(scale + 1, "0")
    return sign + (f"{text[:-scale]}.{text[-scale:]}" if scale else text)


def _stamp(ns: int) -> str:
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    return f"{moment:%Y%m%d-%H:%M:%S}.{ns // 1_000_000 % 1000:03d}"


def _iso(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}Z"


def replay(captures: "Captures", day: date, speed: float | None, symbols: list[str] | None, handler: Any,
           sleep: Callable[[float], None] = time.sleep,
           clock: Callable[[], float] = time.monotonic) -> Iterator[Message]:  # fmt: skip
    """See Captures.replay."""
    captures._known(symbols)
    begin: tuple[float, int] | None = None
    known: dict[str, tuple[int, int]] = {}
    for message in _messages(captures, day, symbols):
        if speed:
            begin = begin or (clock(), message.recv_ns)
            wait = begin[0] + (message.recv_ns - begin[1]) / 1e9 / speed - clock()
            if wait > 0:
                sleep(wait)
        if handler is not None:
            if known.get(message.symbol) != message.scales:
                known[message.symbol] = message.scales
                handler.define(message.symbol, *message.scales)
            handler.deliver(message.fix(), message.recv_ns)
        yield message


def _messages(captures: "Captures", day: date, symbols: list[str] | None) -> Iterator[Message]:
    carried: pa.Table | None = None
    for start, end in _windows(captures, day):
        def read(a: int = start, b: int = end) -> pa.Table:
            return files.table("ticks", captures._files.of("ticks", a, b), _COLUMNS, symbols=symbols, start=a, end=b)

        rows = files.attempt(read)
        if carried is not None:
            rows = pa.concat_tables([carried, rows]).unify_dictionaries()
        last = end == layout.session_bounds(day)[1]
        rows, carried = _in_order(rows, last)
        yield from _split(rows)


def _windows(captures: "Captures", day: date) -> list[tuple[int, int]]:
    """Spans of receive time with about as many rows each as may be in memory."""
    start, end = layout.session_bounds(day)
    n = captures.rows(day) // _WINDOW_ROWS + 1
    if n == 1:
        return [(start, end)]
    found = captures._batches("ticks", start, end - 1, ["recv_ns"])
    times = [batch["recv_ns"].to_numpy()[:: max(1, n * 100)] for batch in found]
    cuts = np.quantile(np.concatenate(times), np.arange(1, n) / n, method="nearest").tolist()
    edges = [start, *sorted({c for c in cuts if start < c < end}), end]
    return list(pairwise(edges))


def _in_order(rows: pa.Table, last: bool) -> tuple[pa.Table, pa.Table | None]:
    """Rows by application: MsgSeqNum inside a session, receive time between sessions. Frames of a gap that was still
    open at the end of the window wait for those before them."""
    session, seq, time_ns = (rows[c].to_numpy() for c in ("session", "seq", "recv_ns"))
    place = np.arange(rows.num_rows)
    order = np.lexsort((place, seq, session))
    flags = rows["flags"].to_numpy()[order]
    key = np.zeros(rows.num_rows, np.int64)
    waits = np.zeros(rows.num_rows, bool)
    edges = np.flatnonzero(np.diff(session[order])) + 1
    for part in np.split(np.arange(rows.num_rows), edges):
        if len(part):
            key[part] = np.maximum.accumulate(time_ns[order[part]])
            on_time = np.flatnonzero((flags[part] & Flags.DEFERRED) == 0)
            if not last:
                waits[part[on_time[-1] + 1 if len(on_time) else 0 :]] = True
    final = np.argsort(key, kind="stable")
    now, later = order[final[~waits[final]]], order[final[waits[final]]]
    return rows.take(pa.array(now)), rows.take(pa.array(later)) if len(later) else None


def _split(rows: pa.Table) -> Iterator[Message]:
    if not rows.num_rows:
        return
    rows = rows.unify_dictionaries().combine_chunks()
    session, seq = rows["session"].to_numpy(), rows["seq"].to_numpy()
    edges = [0, *(np.flatnonzero((np.diff(session) != 0) | (np.diff(seq) != 0)) + 1).tolist(), rows.num_rows]
    symbols, levels = rows["symbol"].to_pylist(), rows["level"].to_pylist()
    time_ns, flags = rows["recv_ns"].to_numpy(), rows["flags"].to_numpy()
    scales = rows["price_scale"].to_numpy(), rows["qty_scale"].to_numpy()
    for a, b in pairwise(edges):
        yield Message(int(time_ns[a]), int(session[a]), int(seq[a]), symbols[a], levels[a], int(flags[b - 1]),
                      (int(scales[0][a]), int(scales[1][a])), rows.slice(a, b - a))  # fmt: skip
