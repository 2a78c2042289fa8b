"""Derives when each book was trusted, and why not, from the book states in the status table."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from kfix_md._state import TRUSTED
from kfix_md.journal import events
from recorder import missing, schema
from recorder.compute import pc

COLUMNS = ["recv_ns", "session", "service", "symbol", "kind", "state", "cause", "feed", "number"]
SERVED = events.Served.type  # state of the rows that name the copy of a hot pair that readers see from then on
SCHEMA = pa.schema(
    [
        ("symbol", pa.string()),
        ("level", pa.string()),
        ("service", pa.string()),
        ("session", pa.int32()),
        ("from_ns", pa.int64()),
        ("to_ns", pa.int64()),
        ("state", pa.string()),
        ("cause", pa.string()),
        ("trusted", pa.bool_()),
        ("feed", pa.string()),
        ("number", pa.int32()),
    ]
)
NOT_RECORDED = "NOT_RECORDED"
_TRUSTED = pa.array([state.name for state in TRUSTED])
Row = dict[str, Any]
Copies = Literal["published", "both"]


def intervals(
    status: pa.Table,
    levels: dict[str, str],
    start: int | None = None,
    end: int | None = None,
    absent: Sequence[missing.Span] = (),
    copies: Copies = "published",
) -> pa.Table:
    """One row for each interval of time in which the book of a symbol had one state.

    Parameters
    ----------
    status
        Rows of status in the order they were written, with COLUMNS.
    levels
        "L2" or "L3" by name of service.
    start, end
        ns since 1970 UTC: only intervals that reach into [start, end).
    absent
        Where rows of status are missing: from there to its next row the state of a book is not known.
    copies
        Of a hot pair, the book that readers saw, whichever copy it was (`number`), or "both" of them.

    Returns
    -------
    pyarrow.Table
        SCHEMA; `to_ns` is null where the state lasts, `state` where it is not known. Ordered by service, symbol and
        time.
    """
    of_books = pc.or_(pc.equal(status["kind"], "book"), pc.equal(status["state"], SERVED))
    rows = status.filter(pc.and_(of_books, pc.is_valid(status["symbol"])))
    rows = rows.select(COLUMNS).cast(schema.plain(rows.select(COLUMNS).schema))
    rows = _published(rows) if copies == "published" else rows.filter(pc.equal(rows["kind"], "book"))
    book = ["service", "symbol"] if copies == "published" else ["service", "symbol", "number"]
    rows = rows.append_column("place", pa.array(np.arange(rows.num_rows, dtype=float)))
    rows = _with_unknown(rows, absent, book)
    rows = rows.sort_by([(name, "ascending") for name in [*book, "place"]])
    rows = rows.filter(pa.array(~_repeated(rows, ["service", "symbol", "number", "state", "cause"])))
    from_ns = rows["recv_ns"].to_numpy()
    follows = np.roll(_repeated(rows, book), -1)  # the first row repeats none
    # a clock that was set back ends an interval before it began: it has no length then
    to_ns = np.maximum(from_ns, np.roll(from_ns, -1))
    found = pa.table(
        {
            "symbol": rows["symbol"],
            "level": pa.array([levels.get(name) for name in rows["service"].to_pylist()], pa.string()),
            "service": rows["service"],
            "session": rows["session"],
            "from_ns": rows["recv_ns"],
            "to_ns": pa.array(to_ns, mask=~follows),
            "state": rows["state"],
            "cause": rows["cause"],
            "trusted": pc.is_in(rows["state"], _TRUSTED, skip_nulls=True),
            "feed": rows["feed"],
            "number": rows["number"],
        }
    ).cast(SCHEMA)
    inside = np.ones(found.num_rows, bool)
    if start is not None:
        inside &= ~follows | (to_ns > start)
    if end is not None:
        inside &= from_ns < end
    return found.filter(pa.array(inside))


def not_recorded(symbol: str, start: int | None, end: int | None) -> pa.Table:
    """The row for a symbol of which nothing was recorded between two times."""
    row = {"symbol": symbol, "from_ns": start or 0, "to_ns": end, "cause": NOT_RECORDED, "trusted": False}
    return pa.Table.from_pylist([row], SCHEMA)


def _published(rows: pa.Table) -> pa.Table:
    """States of the books that readers saw: of a hot pair, those of the copy that was served at the time."""
    if not pc.any(pc.equal(rows["state"], SERVED)).as_py():
        return rows
    served: dict[tuple[str, str], int] = {}
    states: dict[tuple[str, str, int | None], Row] = {}  # the last row of each copy
    shown: list[Row] = []
    for row in rows.to_pylist():
        book = row["service"], row["symbol"]
        if row["state"] == SERVED:
            served[book] = row["number"]
            if (*book, row["number"]) in states:
                shown.append(states[*book, row["number"]] | {"recv_ns": row["recv_ns"], "session": row["session"]})
            continue
        states[*book, row["number"]] = row
        if served.get(book, row["number"]) == row["number"]:
            shown.append(row)
    return pa.Table.from_pylist(shown, rows.schema)


def _with_unknown(rows: pa.Table, absent: Sequence[missing.Span], book: list[str]) -> pa.Table:
    """`rows` with one for each book where rows of status are missing: its state is not known from there on."""
    spans = [span for span in absent if span.table == "status"]
    if not spans or not rows.num_rows:
        return rows
    time, place = rows["recv_ns"].to_numpy(), rows["place"].to_numpy()
    found = rows.select(["service", "symbol", "session", "feed", "number"]).to_pylist()
    more = []
    for span in spans:
        known: dict[tuple[Any, ...], Row] = {}
        for i, one in enumerate(found):
            key = tuple(one[name] for name in book)
            if time[i] <= span.from_ns:
                known[key] = one | {"place": place[i] + 0.5}
            else:
                known.setdefault(key, one | {"place": place[i] - 0.5})
        unknown = {"recv_ns": span.from_ns, "kind": "book", "state": None, "cause": missing.CAUSE}
        more += [row | unknown for row in known.values()]
    return pa.concat_tables([rows, pa.Table.from_pylist(more, rows.schema)])


def _repeated(rows: pa.Table, names: list[str]) -> np.ndarray:
    """Rows that are equal to the one before in these columns."""
    equal = np.ones(rows.num_rows, bool)
    equal[:1] = False
    for name in names:
        values = rows[name].fill_null(-1 if pa.types.is_integer(rows[name].type) else "").to_numpy()
        equal[1:] &= values[1:] == values[:-1]
    return equal


def at(found: pa.Table, moment: int, service: str | None = None) -> Row | None:
    """The interval that `moment` lies in, of one service if given; the latest where there are several."""
    rows = [
        row
        for row in found.to_pylist()
        if row["from_ns"] <= moment and (row["to_ns"] is None or moment < row["to_ns"])
        if service in (None, row["service"])
    ]
    return max(rows, key=lambda row: row["from_ns"], default=None)


def dark(found: pa.Table) -> list[Row]:
    """Intervals that are not trusted, without the last one of a symbol that is subscribed no longer."""
    rows = found.filter(pc.invert(found["trusted"])).to_pylist()
    return [row for row in rows if row["state"] != "INIT" or row["to_ns"] is not None]


def reason(row: Row) -> str:
    """Why an interval is not trusted, as text."""
    if row["state"] is None:
        return f"the state of the feed's book is not known since {row['from_ns']}: files of status are missing"
    cause = f" ({row['cause']})" if row["cause"] not in (None, "NONE") else ""
    return f"the feed's book was {row['state']}{cause} since {row['from_ns']}"


def ends(rows: list[Row], opened_ns: int, closed_ns: int | None) -> int | None:
    """When one symbol's part of a gap of its whole session ended: never later than the gap itself.

    Parameters
    ----------
    rows
        `dark` intervals of the symbol in the order of time.
    opened_ns, closed_ns
        Of the gap; None: still open.
    """
    reach: int | None = None
    for row in rows:
        to_ns = row["to_ns"]
        if to_ns is not None and to_ns <= opened_ns:
            continue
        if (closed_ns is not None and row["from_ns"] >= closed_ns) or (reach is not None and row["from_ns"] > reach):
            break
        if to_ns is None:
            return closed_ns
        reach = to_ns
    if reach is None:
        return closed_ns
    return reach if closed_ns is None else min(reach, closed_ns)
