"""Bytes of structured arrays that belong to no field."""

from __future__ import annotations

import numpy as np


def padding(rows: np.ndarray) -> np.ndarray:
    """Of each row: an array of uint8, (rows, bytes)."""
    free = np.ones(rows.itemsize, bool)
    for kind, at, *_ in rows.dtype.fields.values():
        free[at : at + kind.itemsize] = False
    return rows.view("u1").reshape(len(rows), -1)[:, free]


def assert_equal_bytes(read) -> None:
    """What `read` returns has no byte of what its memory held before: equal rows have equal bytes."""
    first = read()
    poison = [np.full(first.nbytes, 0xFF, "u1") for _ in range(8)]
    poison.clear()
    again = read()
    assert padding(again).size and not padding(again).any()
    assert again.tobytes() == first.tobytes()
