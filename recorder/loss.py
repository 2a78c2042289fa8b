"""Hides where records that never reached Parquet leave books unproven: from the loss on, until their next snapshot."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

CAUSES = ("JOURNAL_LOST", "JOURNAL_DAMAGE")


class Losses:
    """Losses among rows of gaps. The feed's books were right all the time; what is rebuilt from rows is not."""

    def __init__(self, gaps: pa.Table):
        self.rows = [row for row in gaps.to_pylist() if row["cause"] in CAUSES]

    def _of(self, session: int) -> Iterator[dict]:
        return (row for row in self.rows if row["session"] in (None, session))

    def between(self, base_ns: int, at: int, session: int) -> str:
        """Why a book made of a snapshot or checkpoint of `base_ns` and what came up to `at` is unproven, else ""."""
        for row in self._of(session):
            if row["opened_ns"] <= at and base_ns <= (row["closed_ns"] or row["opened_ns"]):
                return f"messages are missing since {row['opened_ns']} ({row['cause']}), and no snapshot came since"
        return ""

    def marks(self, session: int, before_ns: int, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two masks over messages received at `time`: at which a book stops being proven unless a snapshot comes with
        it, and at which it does even so (nobody knows on which side of the loss they were). `before_ns`: time of the
        message before these."""
        behind, at = np.zeros(len(time), bool), np.zeros(len(time), bool)
        for row in self._of(session):
            for moment in {row["opened_ns"], row["closed_ns"] or row["opened_ns"]}:
                later = np.flatnonzero(time > moment)
                if before_ns <= moment and len(later):
                    behind[later[0]] = True
                at |= time == moment
        return behind, at
