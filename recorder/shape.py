"""Brings rows into the form a caller wants: prices as floats or decimals, ids as text, the latest row of each key."""

import decimal
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from kfix_md._codec import id_text
from kfix_md.errors import UsageError
from recorder import schema
from recorder.compute import pc

if TYPE_CHECKING:
    from recorder.catalog import Captures

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)

_SCALED = {"price": "price_scale", "qty": "qty_scale"}
PRICES = ("int", "float", "decimal")
SHOWN_DATES = 7  # in a notebook
_ID_COLUMNS = ["order_id", "id_kind", "order_text"]


def wanted(columns: list[str] | None, scales: bool, ids: str) -> list[str]:
    """Columns of ticks to read in order to return `columns`.

    Raises
    ------
    UsageError
        When ticks have no such column.
    """
    if columns is None:
        return schema.GIVEN
    unknown = [c for c in columns if c not in schema.GIVEN and c not in schema.SCHEMAS["ticks"].names]
    if unknown:
        raise UsageError(f"no column {unknown[0]!r} in ticks: there are {', '.join(schema.GIVEN)}")
    more = [_SCALED[c] for c in columns if c in _SCALED and scales]
    more += _ID_COLUMNS if ids == "text" and "order_id" in columns else []
    return [*columns, *(c for c in dict.fromkeys(more) if c not in columns)]


def empty(columns: list[str] | None, ids: str) -> pa.Table:
    """A table of ticks without rows, with the columns and types a reading would have."""
    names = columns if columns is not None else schema.GIVEN
    names = [*names, *(s for s in _SCALED.values() if columns is not None and s not in names)]
    whole = pa.schema([schema.field("ticks", n) for n in names]).empty_table()
    if ids == "text" and "order_id" in names:
        whole = whole.set_column(names.index("order_id"), "order_id", pa.array([], pa.string()))
    return whole


def prices(rows: Rows, price: str, columns: list[str] | None = None) -> Rows:
    """`rows` with price and qty as "float" or "decimal" and without the scales; "int" changes nothing.

    Raises
    ------
    UsageError
        When `price` is none of "int", "float" and "decimal".
    """
    if price not in PRICES:
        raise UsageError(f'price is {price!r}: use "int", "float" or "decimal"')
    if price != "int":
        for name, scale in _SCALED.items():
            if name in rows.schema.names:
                converted = scaled(rows[name], rows[scale], price)
                rows = rows.set_column(rows.schema.get_field_index(name), name, converted)
    if columns is not None:
        return rows.select(columns)
    return rows.drop_columns(list(_SCALED.values())) if price != "int" else rows


def scaled(values: pa.Array | pa.ChunkedArray, scales: pa.Array | pa.ChunkedArray, price: str) -> pa.Array:
    """Integers and their scales as the nearest floats or as exact decimals of the finest scale present."""
    raw, decimals = _numpy(values), _numpy(scales)
    if price == "float":
        return pa.array(raw / 10.0 ** decimals.astype(float))
    finest = int(decimals.max()) if len(decimals) else 0
    if len(raw) and (decimals != finest).any():
        factor = 10 ** (finest - decimals.astype(object))
        text = [decimal.Decimal(int(r) * int(f)).scaleb(-finest) for r, f in zip(raw, factor, strict=True)]
        return pa.array(text, pa.decimal128(38, finest))
    wide = np.zeros((len(raw), 2), np.int64)
    wide[:, 0], wide[:, 1] = raw, raw >> 63  # 128 bits, little endian
    return pa.Array.from_buffers(pa.decimal128(38, finest), len(raw), [None, pa.py_buffer(wide.tobytes())])


def _numpy(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    made: np.ndarray = values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()
    return made


def text_ids(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` with order_id as the venue's text; id_kind and order_text stay."""
    at = batch.schema.get_field_index("order_id")
    if at < 0:
        return batch
    kinds = schema._indices(batch["id_kind"], schema.ID_KINDS)
    raws = batch["order_id"]
    is_uuid = (kinds == schema.ID_KINDS.index("uuid")) & raws.is_valid().to_numpy(zero_copy_only=False)
    others: list[str | None] = [None] * batch.num_rows
    texts = batch["order_text"]
    for i in np.flatnonzero(~is_uuid & (kinds != schema.ID_KINDS.index("none"))).tolist():
        others[i] = texts[i].as_py() if raws[i].as_py() is None else raw_text(int(kinds[i]), raws[i].as_py())
    rest = pa.array(others, pa.string())
    made = pc.if_else(pa.array(is_uuid), _uuids(raws), rest) if is_uuid.any() else rest
    return batch.set_column(at, "order_id", made)


def raw_text(kind: int, raw: bytes) -> str | None:
    """Text of an order id of 16 bytes, `kind` an index into schema.ID_KINDS; None when the bytes are only its hash."""
    return id_text(kind, int.from_bytes(raw[:8]), int.from_bytes(raw[8:]))


def _uuids(raws: pa.Array) -> pa.Array:
    """16 bytes each as 8-4-4-4-12 hexadecimal digits; undefined where null."""
    n = len(raws)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    octets = np.frombuffer(raws.buffers()[1], np.uint8, 16 * n, 16 * raws.offset).reshape(n, 16)
    pairs = np.empty((n, 32), np.uint8)
    pairs[:, 0::2], pairs[:, 1::2] = digits[octets >> 4], digits[octets & 15]
    text = np.full((n, 36), ord("-"), np.uint8)
    for start, end, to in ((0, 8, 0), (8, 12, 9), (12, 16, 14), (16, 20, 19), (20, 32, 24)):
        text[:, to : to + end - start] = pairs[:, start:end]
    offsets = 36 * np.arange(n + 1, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(text))


def by_date(captures: "Captures") -> tuple[list[str], list[list[str]]]:
    """Names and texts of a table with a row for each of the last session dates."""
    rows = []
    for day in captures.dates()[-SHOWN_DATES:]:
        names = captures.symbols(day)
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        rows.append([str(day), f"{captures.rows(day):,}", ", ".join(names[:4]) + more])
    return ["session date", "rows", "symbols"], rows


def latest(rows: pa.Table, key: str) -> pa.Table:
    """The last row of each key: gaps and sessions are written when they begin and again when they end."""
    if not rows.num_rows:
        return rows
    keys = rows[key].to_numpy()
    _, from_end = np.unique(keys[::-1], return_index=True)
    return rows.take(pa.array(np.sort(len(keys) - 1 - from_end)))
