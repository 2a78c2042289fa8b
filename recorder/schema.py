"""Defines the columns of the Parquet tables, their types and encodings, and builds them from decoded rows."""

from collections.abc import Callable
from enum import IntFlag
from typing import Any

import numpy as np
import pyarrow as pa

from kfix_md._entry import ENTRY_DTYPE, IdKind, State
from kfix_md._ids import id_key
from recorder._columns import codes, columns
from recorder._columns import entries as _made
from recorder.compute import pc

#: texts of the order ids of rows of TICK_DTYPE
Texts = Callable[[np.ndarray], list[str]]

VERSION = "4"


class Flags(IntFlag):
    """ticks.flags: what is known of the message of a row, and of the row in it."""

    SNAPSHOT = 1
    POSSDUP = 2
    HAS_CRC = 4
    CRC_CHECKED = 8
    CRC_OK = 16
    MAYBE_BAD_BOOK = 32
    DEFERRED = 64
    IGNORED = 128
    LAST = 256
    TRADE = 512
    UNVERIFIED = 1024


SIDES = ["bid", "offer", "trade"]
ACTIONS = ["new", "update", "delete", "leave", "clear"]
LEVELS = ["L2", "L3"]
ID_KINDS = ["none", "uuid", "kraken", "text", "hash"]
#: codes 1 and 2 have names; any other digit is kept as it was sent
ORD_TYPES = ["market", "limit", *"3456789"]
AGGRESSORS = ["buy", "sell", *"3456789"]


def _dict() -> pa.DataType:
    return pa.dictionary(pa.int32(), pa.string())


Column = tuple[str, pa.DataType, str, str]
#: where rows come from: numbers of sessions are those of one captures directory
_FEED: Column = ("feed", _dict(), "dict", "name of the feed (feed.name); null: not known")
_SERVICE: Column = ("service", _dict(), "dict", "name of the feed's service")
_NUMBER: Column = (
    "number",
    pa.int32(),
    "dict",
    "place of its [[service]] in the feed's configuration: distinguishes the copies of a hot pair; null: not known",
)

#: name, type, encoding ("dict" or Parquet's name), description; the order is that of the columns
_TICKS = [
    ("recv_ns", pa.int64(), "DELTA_BINARY_PACKED", "receive time of the read that completed the frame, ns"),
    (
        "event_ms",
        pa.int64(),
        "DELTA_BINARY_PACKED",
        "exchange time: 5060, else 273 on the day of 52, else (and of a clear row) 52; ms",
    ),
    (
        "event_frac_ns",
        pa.int32(),
        "PLAIN",
        "ns of the exchange time beyond event_ms; 0 where only 273 is known",
    ),
    ("queue_ns", pa.int64(), "PLAIN", "L3: 5273 time that orders the queue at a price; ns, null unknown or L2"),
    ("session", pa.int32(), "dict", "logon the message came in, see sessions.session"),
    ("seq", pa.int64(), "DELTA_BINARY_PACKED", "34 MsgSeqNum; messages of a session were applied in its order"),
    ("entry_no", pa.int32(), "DELTA_BINARY_PACKED", "place of the entry in its message; a clear row has 0 too"),
    ("symbol", _dict(), "dict", "55 Symbol"),
    ("level", _dict(), "dict", "L2 (price levels) or L3 (orders)"),
    ("side", _dict(), "dict", "269: bid, offer, trade; null for clear"),
    (
        "action",
        _dict(),
        "dict",
        "279: new, update (of quantity), delete; leave = left the subscribed depth only; "
        "clear = the book is emptied, a snapshot follows",
    ),
    ("flags", pa.int32(), "dict", "bits: " + ", ".join(f"{int(f)} {f.name}" for f in Flags)),
    ("price", pa.int64(), "dict", "270 * 10**price_scale, exact"),
    ("qty", pa.int64(), "PLAIN", "271 * 10**qty_scale, exact"),
    ("price_scale", pa.int8(), "dict", "decimals of price (2349)"),
    ("qty_scale", pa.int8(), "dict", "decimals of qty (5010)"),
    ("order_id", pa.binary(16), "PLAIN", "278 in 128 bits, see id_kind; null: text, or repeats the price (L2)"),
    (
        "id_kind",
        _dict(),
        "dict",
        "uuid: its 16 bytes; kraken: OXXXXX-XXXXX-XXXXXX, 16 base-36 digits as two "
        "big-endian integers; text: see order_text; none",
    ),
    ("order_text", pa.string(), "PLAIN", "278 where it is of no known form"),
    ("aggressor", _dict(), "dict", "trades: 2446 buy or sell; another digit as sent"),
    ("ord_type", _dict(), "dict", "trades: 40 market or limit; another digit as sent"),
    ("crc", pa.int64(), "PLAIN", "5041 book CRC32, on the last row of a message that carries it"),
    (
        "decimals",
        pa.int16(),
        "dict",
        "decimals as sent: of 270 + 256 * of 271; null in rows recorded before schema 3",
    ),
    _FEED,
    _SERVICE,
]

_GAPS = [
    ("gap", pa.int64(), "PLAIN", "number of the gap; a row when it opens, another when it closes"),
    ("session", pa.int32(), "dict", "see sessions.session"),
    _SERVICE,
    ("symbol", _dict(), "dict", "the one symbol it concerns; null: all of the session"),
    (
        "cause",
        _dict(),
        "dict",
        "LOST CHECKSUM CRC CROSSED MALFORMED PRECISION NUMBER STATUS REJECTED ROOM LIMIT SUBSCRIBED DISCONNECT "
        "ROLLOVER RESTART OVERFLOW, "
        "JOURNAL_LOST (not stored), JOURNAL_DAMAGE (not readable), UNDECODED (no instrument list)",
    ),
    ("planned", pa.bool_(), "PLAIN", "the 22:00 UTC rollover"),
    ("opened_ns", pa.int64(), "PLAIN", "from when the books are not to be trusted, receive time in ns"),
    ("closed_ns", pa.int64(), "PLAIN", "from when they are again; null: open"),
    ("first_seq", pa.int64(), "PLAIN", "first MsgSeqNum missing, null unknown"),
    ("last_seq", pa.int64(), "PLAIN", "last MsgSeqNum missing, null unknown"),
    ("lost", pa.int64(), "PLAIN", "messages or bytes known to be gone for good, null unknown"),
    (
        "healed",
        _dict(),
        "dict",
        "replay: nothing is missing after all; snapshot, reconnect: the book is right again, "
        "what happened in between is not known; unsubscribed: it is no longer followed; null: open",
    ),
    ("detail", pa.string(), "PLAIN", "reason as text"),
    _FEED,
    _NUMBER,
]

_SESSIONS = [
    ("session", pa.int32(), "PLAIN", "number of the logon in these captures; a row at its start and again at its end"),
    ("session_id", pa.string(), "PLAIN", "the feed's unique name of the logon"),
    _SERVICE,
    ("level", _dict(), "dict", "L2 or L3"),
    ("depth", pa.int32(), "PLAIN", "264 MarketDepth of the subscriptions, 0 all; null: not known"),
    ("host", pa.string(), "PLAIN", ""),
    ("port", pa.int32(), "PLAIN", ""),
    ("sender", pa.string(), "PLAIN", "our SenderCompID"),
    ("target", pa.string(), "PLAIN", "TargetCompID"),
    ("started_ns", pa.int64(), "PLAIN", "logged on, receive time in ns"),
    ("ended_ns", pa.int64(), "PLAIN", "disconnected; null: still on"),
    ("messages", pa.int64(), "PLAIN", "frames received so far"),
    ("rows", pa.int64(), "PLAIN", "rows in ticks so far, clear rows apart"),
    ("ignored", pa.int64(), "PLAIN", "frames that were not applied (duplicates, old subscriptions)"),
    ("last_seq", pa.int64(), "PLAIN", "highest MsgSeqNum applied"),
    ("reason", pa.string(), "PLAIN", "why it ended"),
    _FEED,
    _NUMBER,
]

_INSTRUMENTS = [
    ("recv_ns", pa.int64(), "PLAIN", "when this became known"),
    ("session", pa.int32(), "dict", "see sessions.session"),
    ("symbol", _dict(), "dict", "55"),
    ("level", _dict(), "dict", "L2 or L3, of the session"),
    ("price_precision", pa.int8(), "dict", "2349"),
    ("qty_precision", pa.int8(), "dict", "5010"),
    ("tick_size", pa.string(), "dict", "5022 as sent"),
    ("min_increment", pa.string(), "dict", "562 minimum trade increment as sent"),
    ("min_qty", pa.string(), "dict", "5011 as sent"),
    ("max_qty", pa.string(), "dict", "5012 as sent"),
    ("min_cost", pa.string(), "dict", "5013 as sent"),
    ("status", _dict(), "dict", "5032 as text"),
    _FEED,
    _SERVICE,
]

_STATUS = [
    ("recv_ns", pa.int64(), "PLAIN", "receive time in ns"),
    ("session", pa.int32(), "dict", "see sessions.session"),
    _SERVICE,
    ("symbol", _dict(), "dict", "null: the session or the feed"),
    ("kind", _dict(), "dict", "book, instrument, trading_session, feed"),
    (
        "state",
        _dict(),
        "dict",
        f"book: {' '.join(state.name for state in State)}; "
        "instrument: 5032; trading_session: 340; feed: the event's type",
    ),
    ("cause", _dict(), "dict", "why, for books"),
    ("detail", pa.string(), "PLAIN", "the whole event as JSON"),
    _FEED,
    _NUMBER,
]

_CHECKPOINTS = [
    ("recv_ns", pa.int64(), "dict", "receive time of the last message in this book"),
    ("session", pa.int32(), "dict", "see sessions.session"),
    ("seq", pa.int64(), "dict", "MsgSeqNum of the last message in this book"),
    ("symbol", _dict(), "dict", "55"),
    ("level", _dict(), "dict", "L2 or L3"),
    ("price_scale", pa.int8(), "dict", "decimals of price"),
    ("qty_scale", pa.int8(), "dict", "decimals of qty"),
    ("side", _dict(), "dict", "bid, offer; null: the one row of an empty book"),
    ("price", pa.int64(), "dict", "best first; L3: orders of a price in queue order"),
    ("qty", pa.int64(), "dict", "of the level (L2) or the order (L3)"),
    ("event_ns", pa.int64(), "PLAIN", "L3: last exchange time of the order"),
    ("queue_ns", pa.int64(), "PLAIN", "L3: 5273 of the order"),
    (
        "order_id",
        pa.binary(16),
        "PLAIN",
        "L3, as in ticks; text: up to 16 bytes padded with 0; hash: 128-bit hash of a longer text",
    ),
    ("id_kind", _dict(), "dict", "L3: uuid, kraken, text, hash; none"),
    ("decimals", pa.int16(), "dict", "as in ticks, of the level (L2) or the order (L3)"),
    _FEED,
    _SERVICE,
]

TABLES = {
    "ticks": _TICKS,
    "gaps": _GAPS,
    "sessions": _SESSIONS,
    "instruments": _INSTRUMENTS,
    "status": _STATUS,
    "checkpoints": _CHECKPOINTS,
}

#: columns of ticks and checkpoints that may be null; the others are read faster for being declared never to be
_MAY_BE_NULL = {
    "event_ns",
    "queue_ns",
    "side",
    "order_id",
    "order_text",
    "aggressor",
    "ord_type",
    "crc",
    "decimals",
    "feed",
    "service",
}
_EMPTY_BOOK = {"price", "qty"}  # null in the one row of an empty book in checkpoints


def _field(table: str, name: str, kind: pa.DataType, text: str) -> pa.Field:
    always = table == "ticks" or (table == "checkpoints" and name not in _EMPTY_BOOK)
    return pa.field(name, kind, not always or name in _MAY_BE_NULL, {"description": text} if text else None)


SCHEMAS = {name: pa.schema([_field(name, n, t, text) for n, t, _, text in columns]) for name, columns in TABLES.items()}

#: columns of ticks that the books of L2 are not made of
OF_ORDERS = {"queue_ns", "order_id", "id_kind", "order_text"}
_EVENT = ("event_ms", "event_frac_ns")
_EVENT_NS = pa.field("event_ns", pa.int64(), False, {"description": "exchange time, ns: event_ms and event_frac_ns"})
#: columns of ticks as readers are given them: the exchange time in one
GIVEN = [n for n in SCHEMAS["ticks"].names if n not in _EVENT]
GIVEN.insert(1, "event_ns")


def field(table: str, name: str) -> pa.Field:
    """A column of a table, stored or given."""
    return _EVENT_NS if table == "ticks" and name == "event_ns" else SCHEMAS[table].field(name)


def stored(table: str, names: list[str]) -> list[str]:
    """The columns in the files that `names` are made of."""
    if table != "ticks" or "event_ns" not in names:
        return names
    return list(dict.fromkeys([*(n for n in names if n != "event_ns"), *_EVENT]))


def given(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    """`names` of a batch read with `stored(names)`."""
    if "event_ns" in names and "event_ns" not in batch.schema.names:
        whole = pc.add(pc.multiply(batch["event_ms"], 1_000_000), batch["event_frac_ns"])
        batch = batch.append_column(_EVENT_NS, whole)
    return batch.select(names)


SOURCE = ("feed", "service")
#: columns that have one value in a whole row group, as a rule: it is in the statistics, and the rows are not read
CONSTANT = ("session", "symbol", "level", *SOURCE)


def current(table: str, batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    """`names` of a batch as they are now: what a file of an older schema does not have is null."""
    arrays = []
    for name in names:
        wanted = SCHEMAS[table].field(name).type
        at = batch.schema.get_field_index(name)
        if at < 0:
            arrays.append(pa.nulls(batch.num_rows, wanted))
        else:
            arrays.append(batch.column(at) if batch.column(at).type == wanted else batch.column(at).cast(wanted))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([SCHEMAS[table].field(name) for name in names]))


def plain(columns: pa.Schema) -> pa.Schema:
    """The same columns without dictionaries."""
    return pa.schema([f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in columns])


#: columns whose lowest and highest value in a row group let readers skip it
_PRUNES = ("recv_ns", "session", "seq", "symbol", "level", "side", "opened_ns", "started_ns", "feed", "service")


#: columns that zstd makes little smaller than lz4 does, for more time: it needs some for each page and more for recv_ns
_LIGHT = {
    "recv_ns",
    "session",
    "symbol",
    "level",
    "price_scale",
    "qty_scale",
    "id_kind",
    "order_text",
    "aggressor",
    "ord_type",
    "feed",
    "service",
}
_FEW_ROWS = 1024  # of a file: for these the set-up of zstd takes longer than all else
LEVEL, ROW_GROUP = 6, 131_072  # of compacted files: written once, read for years


def write_options(
    table: str, level: int = LEVEL, row_group: int = ROW_GROUP, *, index: bool = True, rows: int = ROW_GROUP
) -> dict[str, Any]:
    """Keyword arguments of pq.ParquetWriter for one table; `index`: with minima and maxima of pages too; `rows`: how
    many there will be, about."""
    columns = TABLES[table]
    light = {name for name, *_ in columns} if rows < _FEW_ROWS else _LIGHT if table == "ticks" else set()
    codecs = {name: "lz4" if name in light else "zstd" for name, *_ in columns}
    return {
        "compression": codecs,
        "compression_level": {name: level for name, codec in codecs.items() if codec == "zstd"},
        "use_dictionary": [name for name, _, how, _ in columns if how == "dict"],
        "column_encoding": {name: how for name, _, how, _ in columns if how != "dict"},
        "write_page_index": index,
        "write_page_checksum": True,
        "write_statistics": [name for name, *_ in columns if name in _PRUNES],
        "data_page_size": 1 << 20,
        "write_batch_size": min(row_group, 65536),
        "version": "2.6",
    }


def _codes(values: np.ndarray, names: list[str], absent: np.ndarray | None = None) -> pa.Array:
    if absent is not None and absent.all():
        values = np.zeros(len(values), np.int32)
    mask = absent if absent is not None and absent.any() else None
    known = len(names) if len(names) <= 5 or not len(values) else max(2, int(values.max()) + 1)
    return pa.DictionaryArray.from_arrays(
        pa.array(values.astype(np.int32, copy=False), mask=mask), pa.array(names[:known]), safe=False
    )


def _nullable(values: np.ndarray, absent: np.ndarray) -> pa.Array:
    return pa.array(values, mask=absent) if absent.any() else pa.array(values)


def order_ids(rows: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """(order_id, id_kind) columns of checkpoints: every id that is not NONE in its 16 bytes."""
    kind = rows["id_kind"]
    wide = np.empty((len(rows), 2), ">u8")
    wide[:, 0], wide[:, 1] = rows["id_hi"], rows["id_lo"]
    return _fixed(wide, kind == IdKind.NONE), _codes(kind, ID_KINDS)


def symbol_column(instrument: np.ndarray, names: list[str]) -> pa.Array:
    """Dictionary column of the symbols of `instrument` rows, only those that occur."""
    used = np.flatnonzero(np.bincount(instrument, minlength=1))
    place = np.zeros(len(names) + 1, np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(place[instrument]), pa.array([names[i] for i in used], pa.string()))


_ZEROS = pa.array(np.zeros(1 << 17, np.int32))


def one_text(text: str | None, n: int) -> pa.Array:
    """A dictionary column of one text, or of nulls."""
    if text is None:
        return pa.DictionaryArray.from_arrays(pa.nulls(n, pa.int32()), pa.array([], pa.string()))
    codes = _ZEROS.slice(0, n) if n <= len(_ZEROS) else pa.array(np.zeros(n, np.int32))
    return pa.DictionaryArray.from_arrays(codes, pa.array([text]))


def one_value(kind: pa.DataType, value: Any, n: int) -> pa.Array:
    """A column of one value, in the form in which files are read."""
    return one_text(value, n) if pa.types.is_dictionary(kind) else pa.array(np.full(n, value, kind.to_pandas_dtype()))


def tick_columns(
    ticks: np.ndarray,
    instruments: list[tuple[str, int, int]],
    session: int,
    level: int,
    texts: Texts,
    *,
    feed: str | None = None,
    service: str | None = None,
) -> pa.RecordBatch:
    """Rows of one session, TICK_DTYPE, as the ticks table.

    `instruments` is (symbol, price precision, quantity precision) by row; `texts(rows)` gives the text of those
    order ids that are not packed in 128 bits.
    """
    n = len(ticks)
    c = columns(ticks, np.array([i[1:3] for i in instruments] or [(0, 0)], np.int8))
    made = {
        "recv_ns": pa.array(c["recv_ns"]),
        "event_ms": pa.array(c["event_ms"]),
        "event_frac_ns": pa.array(c["event_frac_ns"]),
        "queue_ns": _nullable(c["queue_ns"], c["queue_absent"]),
        "session": pa.array(np.full(n, session, np.int32)),
        "seq": pa.array(c["seq"]),
        "entry_no": pa.array(c["entry_no"]),
        "symbol": symbol_column(c["symbol"], [i[0] for i in instruments]),
        "level": _codes(np.full(n, level - 2, np.int32), LEVELS),
        "side": _codes(c["side"], SIDES, c["side_absent"]),
        "action": _codes(c["action"], ACTIONS),
        "flags": pa.array(c["flags"]),
        "price": pa.array(c["price"]),
        "qty": pa.array(c["qty"]),
        "price_scale": pa.array(c["price_scale"]),
        "qty_scale": pa.array(c["qty_scale"]),
        "order_id": _fixed(c["id"], c["id_absent"]),
        "id_kind": _codes(c["id_kind"], ID_KINDS),
        "order_text": _texts(ticks, texts) if (c["id_kind"] == IdKind.TEXT).any() else pa.nulls(n, pa.string()),
        "aggressor": _codes(c["aggressor"], AGGRESSORS, c["aggressor_absent"]),
        "ord_type": _codes(c["ord_type"], ORD_TYPES, c["ord_type_absent"]),
        "crc": _nullable(c["crc"], c["crc_absent"]),
        "decimals": pa.array(c["decimals"]),
        "feed": one_text(feed, n),
        "service": one_text(service, n),
    }
    return pa.RecordBatch.from_arrays([made[f.name] for f in SCHEMAS["ticks"]], schema=SCHEMAS["ticks"])


def _fixed(wide: np.ndarray, absent: np.ndarray) -> pa.Array:
    """16-byte values of an (n, 2) array of eight bytes each, null where absent."""
    n, any_absent = len(absent), absent.any()
    if any_absent and absent.all():
        return pa.nulls(n, pa.binary(16))
    valid = pa.py_buffer(np.packbits(~absent, bitorder="little")) if any_absent else None
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), n, [valid, pa.py_buffer(wide)])


def _texts(ticks: np.ndarray, texts: Texts) -> pa.Array:
    rows = np.flatnonzero(ticks["id_kind"] >= IdKind.TEXT)
    if not len(rows):
        return pa.nulls(len(ticks), pa.string())
    column: list[str | None] = [None] * len(ticks)
    for row, text in zip(rows.tolist(), texts(ticks[rows]), strict=True):
        column[row] = text
    return pa.array(column, pa.string())


def checkpoint_table(
    rows: np.ndarray,
    recv_ns: int,
    session: int,
    seq: int,
    symbol: str,
    level: int,
    scales: tuple[int, int],
    *,
    feed: str | None = None,
    service: str | None = None,
) -> pa.Table:
    """One whole book (ENTRY_DTYPE, see _ticks.book_rows) as rows of checkpoints; an empty book is one row of nulls."""
    empty = not len(rows)
    n = max(1, len(rows))
    rows = np.zeros(1, ENTRY_DTYPE) if empty else rows
    absent = np.full(n, empty)
    ids, kinds = order_ids(rows)
    one = np.zeros(n, np.int32)
    columns = {
        "recv_ns": np.full(n, recv_ns),
        "session": one + np.int32(session),
        "seq": np.full(n, seq),
        "symbol": pa.DictionaryArray.from_arrays(one, [symbol]),
        "level": _codes(one + (level - 2), LEVELS),
        "price_scale": np.full(n, scales[0], np.int8),
        "qty_scale": np.full(n, scales[1], np.int8),
        "side": _codes(rows["side"], SIDES, absent if empty else None),
        "price": pa.array(rows["price"].copy(), mask=absent),
        "qty": pa.array(rows["qty"].copy(), mask=absent),
        "event_ns": _nullable(rows["event_ns"].copy(), rows["event_ns"] == 0),
        "queue_ns": _nullable(rows["queue_ns"].copy(), rows["queue_ns"] == 0),
        "order_id": ids,
        "id_kind": kinds,
        "decimals": pa.array(rows["decimals"].astype(np.int16), mask=absent),
        "feed": one_text(feed, n),
        "service": one_text(service, n),
    }
    return pa.table([columns[f.name] for f in SCHEMAS["checkpoints"]], schema=SCHEMAS["checkpoints"])


def _indices(column: pa.ChunkedArray | pa.Array, names: list[str]) -> np.ndarray:
    """Codes of a small dictionary column in the order of `names`; nulls become 0."""
    column = _in_one(column)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    table = np.array([names.index(v) for v in column.dictionary.to_pylist()] or [0], np.uint8)
    indices = column.indices
    indices = indices if indices.type == pa.int32() else indices.cast(pa.int32())
    return codes(stored_values(indices, np.int32), table, *_valid(indices))


def _in_one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column in one piece, which is copied only where it is in several."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def stored_values(column: pa.ChunkedArray | pa.Array, kind: type, width: int = 1) -> np.ndarray:
    """Values of a column of numbers as they are in memory, `width` numbers each: without a meaning where it is null."""
    array = _in_one(column)
    data = array.buffers()[1]
    if not len(array) or data is None:
        return np.zeros(width * len(array), kind)
    values: np.ndarray = np.frombuffer(data, kind, width * len(array), array.offset * width * np.dtype(kind).itemsize)
    return values


def _valid(array: pa.Array) -> tuple[np.ndarray | None, int]:
    """The bitmap of an array, None where nothing is null, and the place of its first value in it."""
    return (np.frombuffer(array.buffers()[0], np.uint8), array.offset) if array.null_count else (None, 0)


#: columns that entries are made of, as they are in memory: name, that of the entry, numbers in a value
_NUMBERS = [
    ("price", "price", np.int64, 1),
    ("qty", "qty", np.int64, 1),
    ("event_ns", "event_ns", np.int64, 1),
    ("event_ms", "event_ms", np.int64, 1),
    ("event_frac_ns", "event_frac_ns", np.int32, 1),
    ("queue_ns", "queue_ns", np.int64, 1),
    ("decimals", "decimals", np.int16, 1),
    ("order_id", "id", np.uint64, 2),
]
_CODES = [("side", SIDES), ("action", ACTIONS), ("id_kind", ID_KINDS)]
_OF_ENTRIES = {name for name, *_ in _NUMBERS + _CODES} | {"ord_type", "aggressor", "order_text"}


def entries(table: pa.Table) -> np.ndarray:
    """Rows of ticks (or checkpoints) as ENTRY_DTYPE, what books apply. instrument is 0."""
    given: dict[str, Any] = {}
    # each is looked up once, which takes longer than all else where the rows are few
    columns = {name: _in_one(table.column(i)) for i, name in enumerate(table.column_names) if name in _OF_ENTRIES}
    columns = {name: column for name, column in columns.items() if column.null_count < len(column)}
    for name, field_name, kind, width in _NUMBERS:
        if (column := columns.get(name)) is not None:
            given[field_name] = stored_values(column, kind, width)
            given[field_name + "_valid"], given[field_name + "_first"] = _valid(column)
    if "id" not in given:
        columns.pop("id_kind", None)  # that of a text is set below
    for name, texts in _CODES:
        if (column := columns.get(name)) is not None:
            given[name] = _indices(column, texts)
    for name, texts in (("ord_type", ORD_TYPES), ("aggressor", AGGRESSORS)):
        if (column := columns.get(name)) is not None:
            given[name] = (_indices(column, texts) + np.uint8(1)) * column.is_valid().to_numpy(zero_copy_only=False)
    out: np.ndarray = _made(given, table.num_rows)
    if (column := columns.get("order_text")) is not None:
        _text_ids(out, column.to_pylist())
    return out


def _text_ids(out: np.ndarray, texts: list[str | None]) -> None:
    for i, text in enumerate(texts):
        if text is not None:
            out["id_kind"][i], out["id_hi"][i], out["id_lo"][i] = id_key(text)
