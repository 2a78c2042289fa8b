"""Decides whether a rebuilt book is proven at a time: by losses, the feed's states, gaps, sessions and flags."""

import numpy as np
import pyarrow as pa

from recorder import coverage, shape
from recorder.loss import Losses
from recorder.rebuild import Found
from recorder.schema import Flags

_NO_CHECKSUM = "the rebuilt book does not have the last checksum (5041) that the feed had found right"


def why_not(
    symbol: str, at: int, found: Found, losses: Losses, gaps: pa.Table, sessions: pa.Table, states: pa.Table
) -> str:
    """Why the book of `symbol` is not proven at `at` ns; empty when it is.

    Parameters
    ----------
    found
        What the book was made of.
    losses
        Losses of records around `at`.
    gaps, sessions
        Rows of both tables around `at`, as written: the latest row of each gap and session counts.
    states
        Coverage of the symbol at `at`.
    """
    rows, logons = shape.latest(gaps, "gap"), shape.latest(sessions, "session")
    services = {row["session"]: row["service"] for row in logons.to_pylist()}
    state = coverage.at(states, at, services.get(found.session))
    return (
        losses.between(found.base_ns, at, found.session)
        or (coverage.reason(state) if state is not None and not state["trusted"] else "")
        or ("" if state is not None else _gap(symbol, at, found.session, rows) or losses.states_unknown(at))
        or _ended(at, found.session, logons)
        or by_flags(_flags_at(at, found, state))
        or ("" if found.agrees else _NO_CHECKSUM)
    )


def _flags_at(at: int, found: Found, state: coverage.Row | None) -> int:
    begins = [state["from_ns"]] if state is not None and state["trusted"] else []
    last_flags, last_ns, moment = (np.array([value], np.int64) for value in (found.flags, found.recv_ns, at))
    return int(flags_at(moment, last_flags, last_ns, np.array(begins, np.int64))[0])


def begins(states: pa.Table) -> np.ndarray:
    """When trust began, from rows of coverage of one book: ns in order, as `flags_at` takes it."""
    found: np.ndarray = np.sort(states.filter(states["trusted"])["from_ns"].to_numpy())
    return found


def flags_at(at: np.ndarray, flags: np.ndarray, last_ns: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Flags of the last message before each time, without what no longer counts then.

    A book may be trusted again without a message, as when a halt ends: it was not trusted at its last one.

    Parameters
    ----------
    at
        Times, ns.
    flags, last_ns
        Flags and receive time of the last message of the book at each of them.
    begins
        When the feed's book began to be trusted, ns in order.
    """
    since = np.append(begins, -1)[np.searchsorted(begins, at, "right") - 1]
    again = (since >= last_ns) & (since >= 0)
    kept: np.ndarray = np.where(again, flags & ~int(Flags.MAYBE_BAD_BOOK), flags)
    return kept


def _gap(symbol: str, at: int, session: int, gaps: pa.Table) -> str:
    for row in gaps.to_pylist():
        if row["session"] not in (None, session) or row["symbol"] not in (None, symbol):
            continue
        if row["opened_ns"] <= at and (row["closed_ns"] is None or row["closed_ns"] > at):
            healed = f", healed by {row['healed']} at {row['closed_ns']}" if row["closed_ns"] else ""
            return f"inside a gap ({row['cause']}), open since {row['opened_ns']}{healed}"
    return ""


def _ended(at: int, session: int, sessions: pa.Table) -> str:
    for row in sessions.to_pylist():
        if row["session"] == session and row["ended_ns"] is not None and row["ended_ns"] <= at:
            return f"its session had ended at {row['ended_ns']} ({row['reason']})"
    return ""


#: (bits, their values, why): what in the flags of its last message speaks against a book; the first that fits counts
UNPROVEN = (
    (Flags.UNVERIFIED, Flags.UNVERIFIED, "its checksums (5041) follow no known rule (UNVERIFIED)"),
    (Flags.CRC_CHECKED | Flags.CRC_OK, Flags.CRC_CHECKED, "its last checksum (5041) did not match"),
    (Flags.MAYBE_BAD_BOOK, Flags.MAYBE_BAD_BOOK, "the feed did not trust it at its last message"),
)


def by_flags(flags: int) -> str:
    """Why the flags of the last message leave its book unproven; empty when they do not."""
    return next((why for bits, values, why in UNPROVEN if flags & bits == values), "")
