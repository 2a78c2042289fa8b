"""Runs Python's garbage collector between reads, and keeps long-lived objects out of its way."""

from __future__ import annotations

import gc


class Garbage:
    """Collects in steps that the loop calls every few seconds; automatic collection is off until `close`.

    Once all books are verified, everything is frozen, so that a collection visits only a few new objects
    (microseconds instead of milliseconds for the books of a whole venue). When a session is lost, the frozen
    objects are visited once again.
    """

    def __init__(self) -> None:
        self._frozen = False
        gc.collect()
        gc.freeze()
        gc.disable()

    def step(self, verified: bool) -> None:
        """Collect garbage; `verified`: every session is up and every book verified."""
        if self._frozen and not verified:
            gc.unfreeze()
        gc.collect()
        if verified and not self._frozen:
            gc.freeze()
        self._frozen = verified

    def close(self) -> None:
        """Unfreeze and turn automatic collection on again."""
        gc.unfreeze()
        gc.enable()
