"""Gives the times of a table as timestamps with a zone, and names the index that pandas then makes of its rows."""

import json
from typing import Any, Literal, TypeVar

import pyarrow as pa

from kfix_md.errors import UsageError

Time = Literal["ns", "datetime"]
Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)

_SUFFIX = "_ns"
_KIND = pa.timestamp("ns", "UTC")
#: the time that orders the rows of a table: the first of these that it has
_ORDERING = ("time", "recv_time", "from_time", "opened_time", "started_time")


def check(time: str) -> None:
    """UsageError when `time` is neither "ns" nor "datetime"."""
    if time not in ("ns", "datetime"):
        raise UsageError(f'time is {time!r}: use "ns" (ints) or "datetime" (timestamps in UTC)')


def form(rows: Rows, time: str) -> Rows:
    """`rows` with their times as `time` says.

    Parameters
    ----------
    time
        "ns": as they are, int64 ns since 1970 UTC. "datetime": timestamp[ns, UTC], in columns named recv_time for
        recv_ns, time for time_ns; `to_pandas()` makes the time that orders the rows the index.
    """
    check(time)
    if time == "ns":
        return rows
    names = [name_of(field) for field in rows.schema]
    # int64 and timestamps are the same in memory: no value is converted
    arrays = [
        column.cast(_KIND) if name != new else column
        for name, new, column in zip(rows.schema.names, names, rows.columns, strict=True)
    ]
    fields = [
        rows.schema.field(i).with_name(new).with_type(_KIND if new != name else rows.schema.field(i).type)
        for i, (name, new) in enumerate(zip(rows.schema.names, names, strict=True))
    ]
    index = next((name for name in _ORDERING if name in names), None)
    return type(rows).from_arrays(arrays, schema=pa.schema(fields, metadata=_for_pandas(index)))


def name_of(column: pa.Field) -> str:
    """The name that a column has with timestamps in it: "recv_ns" is "recv_time", "time_ns" is "time"."""
    name: str = column.name
    if not name.endswith(_SUFFIX) or column.type != pa.int64():  # event_frac_ns is a part of a time
        return name
    stem = name.removesuffix(_SUFFIX)
    return stem if stem == "time" else f"{stem}_time"


def _for_pandas(index: str | None) -> dict[str, str] | None:
    """Schema metadata from which pyarrow's to_pandas takes the index."""
    if index is None:
        return None
    column: dict[str, Any] = {"name": index, "field_name": index, "pandas_type": "datetimetz"}
    column |= {"numpy_type": "datetime64[ns]", "metadata": {"timezone": "UTC"}}
    return {"pandas": json.dumps({"index_columns": [index], "column_indexes": [], "columns": [column]})}
