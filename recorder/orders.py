"""Follows orders of an L3 book through their lives: their place in the queue, what changed, and how they ended."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kfix_md._book import OrderBook
from kfix_md._codec import id_key
from kfix_md._entry import Action
from kfix_md.errors import UsageError
from recorder import _proof, derive, files, rebuild, schema, shape, trust
from recorder.compute import pc
from recorder.schema import Flags

if TYPE_CHECKING:
    from recorder.catalog import Captures

EVENTS = ("added", "snapshot", "reduced", "changed", "queue", "deleted", "left", "gone")
(_ADDED, _SNAPSHOT, _REDUCED, _CHANGED, _QUEUE, _DELETED, _LEFT, _GONE) = range(len(EVENTS))
_COLUMNS = [name for name in derive.BOOK_COLUMNS if name not in ("event_ns", "crc", "decimals")]
_IDS = ["recv_ns", "action", "order_id", "order_text"]
_LIVES = [name for name in _COLUMNS if name not in ("seq", "level", "flags")]
_SIDE, _PRICE, _QTY, _QUEUE_NS, _AHEAD, _QTY_AHEAD, _ACTION = range(7)
_ENDS = {Action.DELETE: "deleted", Action.LEAVE: "left"}
_HOW = ["resting", *_ENDS.values(), "gone"]


def life(cap: "Captures", order_id: str, symbol: str, start: int | None, end: int | None, price: str) -> pa.Table:
    """Everything that happened to one order; see Captures.order."""
    try:
        key = id_key(order_id)
    except (ValueError, TypeError):
        raise UsageError(f"{order_id!r} is no order id") from None
    first, last = _seen(cap, order_id, symbol, start, end)
    lives = _Life(cap, symbol, key, first)
    limits: dict[str, Any] = {"symbols": [symbol], "start": first, "end": end if last is None else last + 1}
    paths = cap._files.of("ticks", first, limits["end"], [symbol])
    messages = rebuild.WholeMessages()
    parts = []
    for batch in files.batches("ticks", paths, _COLUMNS, pc.field("level") == "L3", **limits):
        whole = messages.add(pa.Table.from_batches([batch]))
        if whole is not None:
            parts += [lives.take(segment) for segment in derive.segments(whole)]
    return _with_ends(_formed(parts, price), lives.dark)


def _seen(cap: "Captures", order_id: str, symbol: str, start: int | None, end: int | None) -> tuple[int, int | None]:
    """Receive times of the first and the last row of an order; None for the last while it rests."""
    first, last, action = None, 0, ""
    for rows in _rows(cap, symbol, start, end, _IDS):
        own = np.flatnonzero(_is(rows, order_id))
        if len(own):
            first = first if first is not None else rows["recv_ns"][int(own[0])].as_py()
            last, action = rows["recv_ns"][int(own[-1])].as_py(), rows["action"][int(own[-1])].as_py()
    if first is None:
        raise UsageError(f"no order {order_id} of {symbol} was recorded in this time (orders are in the books of L3)")
    return first, last if action in ("delete", "leave") else None


def _rows(
    cap: "Captures", symbol: str, start: int | None, end: int | None, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """Rows of the L3 book of a symbol."""
    limits: dict[str, Any] = {"symbols": [symbol], "start": start, "end": end}
    paths = cap._files.of("ticks", start, end, [symbol])
    found = files.batches("ticks", paths, columns, pc.field("level") == "L3", **limits)
    return (batch for batch in found if batch.num_rows)


def _is(rows: pa.RecordBatch, order_id: str) -> np.ndarray:
    """Rows of an order."""
    kind, hi, lo = id_key(order_id)
    if kind < schema.ID_KINDS.index("text"):
        wanted = pa.scalar(hi.to_bytes(8, "big") + lo.to_bytes(8, "big"), pa.binary(16))
        same = pc.equal(rows["order_id"], wanted)
    else:
        same = pc.equal(rows["order_text"], order_id)
    found: np.ndarray = same.fill_null(False).to_numpy(zero_copy_only=False)
    return found


class _Life:
    """Follows one order through the books of the sessions it is in."""

    def __init__(self, cap: "Captures", symbol: str, key: tuple[int, int, int], start: int) -> None:
        self._cap, self._symbol, self._key, self._start = cap, symbol, key, start
        self._books: dict[tuple[int, int, int], OrderBook] = {}
        self._before = np.array([[-1], [0], [0], [0], [0], [0], [-1]], np.int64)
        self._losses = cap._losses(start, None)
        states = cap._coverage(symbol, start, None)
        states = states.filter(pc.equal(states["level"], "L3"))
        self._begins = trust.begins(states)
        dark = states.filter(pc.invert(states["trusted"])).to_pylist()
        self.dark = sorted(dark, key=lambda row: row["from_ns"])

    def take(self, rows: pa.Table) -> dict[str, Any]:
        """What happened to it in the messages of one segment."""
        session, *scales = (rows[name][0].as_py() for name in ("session", "price_scale", "qty_scale"))
        known = (session, scales[0], scales[1])
        book = self._books.get(known)
        last_ns = self._start - 1 if book is None else -1
        if book is None:
            book = self._books[known] = self._opened(rows, session, scales[0], scales[1])
        ends = rebuild.message_ends(rows)
        noted = _proof.life(book, schema.entries(rows), ends, self._key)
        last = ends - 1
        flags, time = rows["flags"].to_numpy()[last], rows["recv_ns"].to_numpy()[last]
        snapshot = (flags & Flags.SNAPSHOT) != 0
        events = _events(np.concatenate([self._before, noted], axis=1), snapshot)
        self._before = noted[:, -1:]
        trusted = (trust.flags_at(time, flags, time, self._begins) & (Flags.MAYBE_BAD_BOOK | Flags.UNVERIFIED)) == 0
        trusted &= ~derive._unproven(self._losses, session, last_ns, time, snapshot)
        for row in self.dark:
            trusted &= ~((time >= row["from_ns"]) & (time < (1 << 62 if row["to_ns"] is None else row["to_ns"])))
        at = np.flatnonzero(events >= 0)
        return {
            "time_ns": time[at],
            "session": np.full(len(at), session, np.int32),
            "seq": rows["seq"].to_numpy()[last][at],
            "event": events[at],
            "noted": noted[:, at],
            "trusted": trusted[at],
            "scales": (scales[0], scales[1]),
        }

    def _opened(self, rows: pa.Table, session: int, price_scale: int, qty_scale: int) -> OrderBook:
        """The book before the first rows of a session."""
        recv_ns = rows["recv_ns"][0].as_py()
        if rows["action"][0].as_py() != "clear":
            book, _ = self._cap._rebuild.book(self._symbol, "L3", recv_ns - 1, session)
            if book is not None and (book.price_precision, book.qty_precision) == (price_scale, qty_scale):
                return book
        return rebuild.new_book(3, price_scale, qty_scale, self._cap._rebuild.limit(session, "L3", recv_ns))


def _events(noted: np.ndarray, snapshot: np.ndarray) -> np.ndarray:
    """Event of each message, an index into EVENTS, -1 for none; `noted` begins with what was before."""
    before, now = noted[:, :-1], noted[:, 1:]
    was, there, own = before[_SIDE] >= 0, now[_SIDE] >= 0, now[_ACTION] >= 0
    moved = (now[[_SIDE, _PRICE, _QTY, _QUEUE_NS]] != before[[_SIDE, _PRICE, _QTY, _QUEUE_NS]]).any(axis=0)
    ahead = (now[[_AHEAD, _QTY_AHEAD]] != before[[_AHEAD, _QTY_AHEAD]]).any(axis=0)
    kept = (now[[_SIDE, _PRICE, _QUEUE_NS]] == before[[_SIDE, _PRICE, _QUEUE_NS]]).all(axis=0)
    found = np.full(len(was), -1, np.int8)
    found[there & was & ahead] = _QUEUE
    found[there & was & moved] = _CHANGED
    found[there & was & kept & (now[_QTY] < before[_QTY])] = _REDUCED
    found[there & ~was] = _ADDED
    found[there & snapshot & (~was | moved)] = _SNAPSHOT
    found[was & ~there] = _LEFT
    found[was & ~there & own & (now[_ACTION] == Action.DELETE)] = _DELETED
    found[was & ~there & snapshot] = _GONE
    return found


def _formed(parts: list[dict[str, Any]], price: str) -> pa.Table:
    """One table of the parts, numbers in the form of `price`."""
    tables = []
    for part in parts:
        noted, n = part["noted"], len(part["time_ns"])
        there = noted[_SIDE] >= 0
        scales = [pa.array(np.full(n, scale, np.int8)) for scale in part["scales"]]
        columns: dict[str, Any] = {name: pa.array(part[name]) for name in ("time_ns", "session", "seq")}
        columns["event"] = pa.array([EVENTS[i] for i in part["event"].tolist()], pa.string())
        sides = [schema.SIDES[i] if i >= 0 else None for i in noted[_SIDE].tolist()]
        columns["side"] = pa.array(sides, pa.string())
        for name, row, scale in (("price", _PRICE, 0), ("qty", _QTY, 1)):
            columns[name] = _number(noted[row], scales[scale], there, price)
        columns["orders_ahead"] = pa.array(noted[_AHEAD], mask=~there)
        columns["qty_ahead"] = _number(noted[_QTY_AHEAD], scales[1], there, price)
        if price == "int":
            columns |= {"price_scale": scales[0], "qty_scale": scales[1]}
        columns |= {"trusted": pa.array(part["trusted"]), "cause": pa.nulls(n, pa.string())}
        tables.append(pa.table(columns))
    return pa.concat_tables(tables, promote_options="permissive")


def _number(values: np.ndarray, scales: pa.Array, there: np.ndarray, price: str) -> pa.Array:
    exact = pa.array(values)
    made = exact if price == "int" else shape.scaled(exact, scales, price)
    return made if there.all() else pc.if_else(pa.array(there), made, pa.scalar(None, made.type))


def _with_ends(rows: pa.Table, dark: list[dict[str, Any]]) -> pa.Table:
    """`rows` with one without numbers where trust ended while the order rested."""
    time = rows["time_ns"].to_numpy()
    over = time[-1] if rows["event"][-1].as_py() in ("deleted", "left", "gone") else 1 << 62
    ends = [row for row in dark if time[0] < row["from_ns"] < over]
    if not ends:
        return rows
    columns: dict[str, Any] = {name: pa.nulls(len(ends), rows.schema.field(name).type) for name in rows.schema.names}
    columns["time_ns"] = pa.array([row["from_ns"] for row in ends], pa.int64())
    columns["event"] = pa.array(["untrusted"] * len(ends), pa.string())
    columns["trusted"] = pa.array([False] * len(ends), pa.bool_())
    columns["cause"] = pa.array([derive._cause(row) for row in ends], pa.string())
    where = np.searchsorted(time, [row["from_ns"] for row in ends], "right")
    order = np.insert(np.arange(len(time)), where, len(time) + np.arange(len(ends)))
    return pa.concat_tables([rows, pa.table(columns, schema=rows.schema)]).take(pa.array(order))


def lives(cap: "Captures", symbol: str, start: int | None, end: int | None, price: str) -> pa.Table:
    """One row for each order with a row in a time; see Captures.orders."""
    none = UsageError(f"no orders of {symbol} were recorded in this time (orders are in the books of L3)")
    found = list(_rows(cap, symbol, start, end, _LIVES))
    if not found:
        raise none
    rows = pa.Table.from_batches(found).unify_dictionaries()
    entries, time = schema.entries(rows), rows["recv_ns"].to_numpy()
    own = np.flatnonzero((entries["id_kind"] != 0) & (entries["side"] <= 1))
    if not len(own):
        raise none
    order = own[np.lexsort((own, entries["id_lo"][own], entries["id_hi"][own]))]  # by id, then as they came
    ids = entries[["id_hi", "id_lo"]][order]
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])) if len(order) else np.zeros(0, np.int64)
    ends = np.append(starts[1:], len(order))[: len(starts)]
    first, last = order[starts], order[ends - 1]
    how, until = _endings(entries["action"], time, last)
    began = np.where(entries["queue_ns"][first] > 0, entries["queue_ns"][first], time[first])
    columns: dict[str, Any] = {
        "order_id": _texts(rows, first),
        "side": pa.array([schema.SIDES[i] for i in entries["side"][first].tolist()], pa.string()),
        "session": pa.array(rows["session"].to_numpy()[first]),
        "first_ns": pa.array(time[first]),
        "last_ns": pa.array(until),
        "resting_ns": pa.array(np.maximum(0, until - began)),
        "rows": pa.array(ends - starts),
    }
    scales = [pa.array(rows[name].to_numpy()[first]) for name in ("price_scale", "qty_scale")]
    for name, values in _amounts(entries[order], starts, ends).items():
        columns[name] = _number(values, scales[name.startswith("qty")], np.ones(len(first), bool), price)
    columns["ended"] = pa.array(np.array(_HOW, object)[how], pa.string())
    if price == "int":
        columns |= {"price_scale": scales[0], "qty_scale": scales[1]}
    return pa.table(columns).take(pa.array(np.argsort(first, kind="stable")))


def _endings(action: np.ndarray, time: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How orders ended, as an index into _HOW, and when; `last` is the last row of each."""
    how = np.zeros(len(last), np.int64)
    for number, code in enumerate(_ENDS, 1):
        how[action[last] == code] = number
    until = np.where(how == 0, time[-1], time[last])
    clears = np.flatnonzero(action == Action.CLEAR)
    after = np.searchsorted(clears, last, "right")
    gone = (how == 0) & (after < len(clears))  # a snapshot came later, without it
    how[gone] = _HOW.index("gone")
    until[gone] = time[clears[after[gone]]]
    return how, until


def _amounts(entries: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> dict[str, np.ndarray]:
    """First and last price and quantity of orders, and how much of each was taken away; entries by order."""
    price, qty = entries["price"], entries["qty"]
    over = np.isin(entries["action"], list(_ENDS))
    final = np.where(over[ends - 1] & (ends - starts > 1), ends - 2, ends - 1)  # the last it had, not 0 of a delete
    drop = np.zeros(len(entries), np.int64)
    same = (price[1:] == price[:-1]) & ~over[1:] & ~over[:-1]
    drop[1:] = np.where(same, np.maximum(qty[:-1] - qty[1:], 0), 0)
    drop[starts] = 0
    return {
        "price_first": price[starts],
        "price_last": price[final],
        "qty_first": qty[starts],
        "qty_last": qty[final],
        "qty_reduced": np.add.reduceat(drop, starts) if len(starts) else drop,
    }


def _texts(rows: pa.Table, at: np.ndarray) -> pa.Array:
    """Ids of some rows as the venue writes them."""
    some = rows.select(["order_id", "id_kind", "order_text"]).take(pa.array(at)).combine_chunks()
    found: pa.Array = shape.text_ids(some.to_batches()[0])["order_id"] if len(at) else pa.array([], pa.string())
    return found
