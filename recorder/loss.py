"""Finds where records that never reached Parquet leave rebuilt books unproven: from the loss to the next snapshot."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

CAUSES = ("JOURNAL_LOST", "JOURNAL_DAMAGE")


class Losses:
    """Losses of records, taken from the rows of `gaps`.

    The feed's own books were right throughout; books rebuilt from the recorded rows are not, until their next snapshot.
    """

    def __init__(self, gaps: pa.Table) -> None:
        self.rows: list[dict[str, Any]] = [row for row in gaps.to_pylist() if row["cause"] in CAUSES]

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

    def moments(self, session: int) -> list[int]:
        """Receive times at which losses that concern a session began or ended, ns."""
        return sorted({time for row in self._of(session) for time in (row["opened_ns"], row["closed_ns"]) if time})

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
            Messages received at the very time of a loss, on one side of it or the other: not even a snapshot is proof.
        """
        after, during = np.zeros(len(time), bool), np.zeros(len(time), bool)
        for moment in self.moments(session):
            later = np.flatnonzero(time > moment)
            if before_ns <= moment and len(later):
                after[later[0]] = True
            during |= time == moment
        return after, during
