"""Finds where records that never reached Parquet leave rebuilt books unproven: from the loss to the next snapshot."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from recorder import missing

CAUSES = ("JOURNAL_LOST", "JOURNAL_DAMAGE", "UNDECODED")
#: a loss may be of rows, or of the rows that report it
TABLES = ("ticks", "gaps", "sessions")
WATCHED = (*TABLES, "status")


class Losses:
    """Losses of records, taken from the rows of `gaps` and from the files that are missing.

    The feed's own books were right throughout; books rebuilt from the recorded rows are not, until their next snapshot.
    """

    def __init__(self, gaps: pa.Table, absent: Iterable[missing.Span] = ()) -> None:
        self.rows: list[dict[str, Any]] = [row for row in gaps.to_pylist() if row["cause"] in CAUSES]
        absent = list(absent)
        self.rows += [missing.loss(span) for span in absent if span.table in TABLES]
        self._states = [span for span in absent if span.table == "status"]

    def _of(self, session: int) -> Iterator[dict[str, Any]]:
        return (row for row in self.rows if row["session"] in (None, session))

    def between(self, base_ns: int, at: int, session: int) -> str:
        """Why a book is unproven that was made of a snapshot or checkpoint of `base_ns` and the messages up to `at`.

        Returns
        -------
        str
            The reason, empty when nothing was lost in between.
        """
        for row in self._of(session):
            if row["opened_ns"] <= at and base_ns <= (row["closed_ns"] or row["opened_ns"]):
                return f"messages are missing since {row['opened_ns']} ({row['cause']}), and no snapshot came since"
        return ""

    def spans(self, session: int) -> list[tuple[int, int]]:
        """First and last receive time of each loss that concerns a session, ns."""
        return [(row["opened_ns"], row["closed_ns"] or row["opened_ns"]) for row in self._of(session)]

    def states_unknown(self, at: int) -> str:
        """Why a book without any state at `at` may have had one; empty when it had none."""
        since = [span.from_ns for span in self._states if span.from_ns <= at]
        return f"files of status are missing since {min(since)}: its state is not known" if since else ""

    def ends(self, sessions: set[int]) -> list[dict[str, Any]]:
        """Losses of these sessions, or of all, in the form of untrusted intervals of coverage without an end."""
        found = [row for row in self.rows if row["session"] is None or row["session"] in sessions]
        return [
            {"from_ns": row["opened_ns"], "session": row["session"], "state": None, "cause": row["cause"]}
            for row in found
        ]

    def marks(self, session: int, before_ns: int, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Messages at which a book stops being proven.

        Parameters
        ----------
        session
            Number of the session the messages came in.
        before_ns
            Receive time of the message before the first of these.
        time
            Receive time of each message, ns.

        Returns
        -------
        after : ndarray of bool
            First messages after a loss: a book is unproven from there on, unless the message is a snapshot.
        during : ndarray of bool
            Messages received between the first and the last that were lost: not even a snapshot is proof, for a message
            after it may be one of them.
        """
        after, during = np.zeros(len(time), bool), np.zeros(len(time), bool)
        for opened, closed in self.spans(session):
            later = np.flatnonzero(time > closed)
            if before_ns <= closed and len(later):
                after[later[0]] = True
            during |= (time >= opened) & (time <= closed)
        return after, during
