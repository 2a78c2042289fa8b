"""When Python's garbage is collected: never inside a read, and what lasts is not looked at again and again."""

from __future__ import annotations

import gc


class Garbage:
    """The collector as a step of the loop, every few seconds; on its own it stays off until `close`.

    What exists once the books stand is frozen, so that a collection looks at a few new objects only (some
    microseconds, against milliseconds for the books of a whole venue). When a session is lost, and with it
    what was frozen, everything is looked at once.
    """

    def __init__(self) -> None:
        self._frozen = False
        gc.collect()
        gc.freeze()
        gc.disable()

    def step(self, standing: bool) -> None:
        """Collect; `standing`: every session is up and every book verified."""
        if self._frozen and not standing:
            gc.unfreeze()
        gc.collect()
        if standing and not self._frozen:
            gc.freeze()
        self._frozen = standing

    def close(self) -> None:
        """Everything as it was."""
        gc.unfreeze()
        gc.enable()
