"""Symbols that are not served because something failed for them alone, by name and reason."""

from __future__ import annotations

from collections.abc import Callable

from kfix_md.errors import KfixError
from kfix_md.feed.listing import Log
from kfix_md.journal.events import JournalEvent, Refused

#: Errors of one symbol's book: no room, no memory, no space, values that do not fit.
SYMBOL_ERRORS = (KfixError, MemoryError, OSError, ValueError, OverflowError)


class LeftOut:
    """Collects symbols that are left out, and reports each once for each reason."""

    def __init__(self, log: Log, emit: Callable[[JournalEvent], None]) -> None:
        self.reasons: dict[str, str] = {}
        self._log, self._emit = log, emit
        self._unreported: dict[str, list[str]] = {}  # by reason

    def add(self, symbol: str, reason: str) -> None:
        """Leave a symbol out from now on."""
        if self.reasons.get(symbol) != reason:
            self.reasons[symbol] = reason
            self._unreported.setdefault(reason, []).append(symbol)
            self._emit(Refused(symbol, f"left out: {reason}"))

    def discard(self, symbol: str) -> None:
        """The symbol is served, or no longer selected."""
        self.reasons.pop(symbol, None)

    def report(self) -> None:
        """Log what was added since the last call, one line for each reason."""
        for reason, symbols in self._unreported.items():
            self._log.error("left out: %s (%s)", ", ".join(symbols), reason)
        self._unreported.clear()
