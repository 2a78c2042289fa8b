"""What a user holds of one book of an in-process Handler: the same names as a shared memory book."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kfix_md._entry import Cause, State
from kfix_md._state import is_trusted
from kfix_md.errors import NotLive

if TYPE_CHECKING:
    from kfix_md._handler import Handler


class BookView:
    """One symbol's book inside a Handler. Prices and quantities are floats; NaN and 0.0 for a missing side."""

    __slots__ = ("_handler", "symbol")

    def __init__(self, handler: Handler, symbol: str) -> None:
        self._handler, self.symbol = handler, symbol

    @property
    def state(self) -> State:
        return self._handler.book_state(self.symbol)[0]

    @property
    def cause(self) -> Cause:
        return self._handler.book_state(self.symbol)[1]

    @property
    def seq(self) -> int:
        """MsgSeqNum of the last message for this symbol."""
        return self._handler.book_state(self.symbol)[2]

    @property
    def recv_ns(self) -> int:
        """Receive time of that message, ns since the epoch."""
        return self._handler.book_state(self.symbol)[3]

    @property
    def level(self) -> str | None:
        """ "L2", "L3", or None before the first snapshot."""
        book = self._handler.book(self.symbol)
        return None if book is None else f"L{book.level}"

    def top(self, allow_stale: bool = False, price: str = "float") -> tuple[Any, Any, Any, Any]:
        """(bid, bid quantity, ask, ask quantity). Raises NotLive unless the book is LIVE or EMPTY, or allow_stale.

        With price="int" the values are exact ints in the instrument's precision, None for a missing side.
        """
        state, cause = self._handler.book_state(self.symbol)[:2]
        if not is_trusted(state) and not allow_stale:
            raise NotLive(self.symbol, state, cause)
        book = self._handler.book(self.symbol)
        exact = (None,) * 4 if book is None else book.top()
        if price == "int":
            return exact
        scales = [10.0**precision for precision in self._handler.precisions(self.symbol)] * 2
        missing = (math.nan, 0.0, math.nan, 0.0)
        return tuple(
            none if value is None else value / scale for value, scale, none in zip(exact, scales, missing, strict=True)
        )

    def top_text(self) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
        """(bid, ask), each (price, quantity) as exact decimal text, None for a missing side."""
        bid, bid_qty, ask, ask_qty = self.top(allow_stale=True, price="int")
        digits = self._handler.precisions(self.symbol)
        sides = ((bid, bid_qty), (ask, ask_qty))
        return tuple(
            None if side[0] is None else (decimal_text(side[0], digits[0]), decimal_text(side[1], digits[1]))
            for side in sides
        )

    @property
    def bid(self) -> float:
        return self.top(allow_stale=True)[0]

    @property
    def bid_qty(self) -> float:
        return self.top(allow_stale=True)[1]

    @property
    def ask(self) -> float:
        return self.top(allow_stale=True)[2]

    @property
    def ask_qty(self) -> float:
        return self.top(allow_stale=True)[3]

    def depth(self, n: int | None = 10, price: str = "float", allow_stale: bool = False) -> tuple[Any, Any]:
        """(bids, asks): structured arrays price, qty, orders, best first, at most n levels (None: all).

        Raises NotLive as top() does.
        """
        state, cause = self._handler.book_state(self.symbol)[:2]
        book = self._handler.book(self.symbol)
        if book is None or (not is_trusted(state) and not allow_stale):
            raise NotLive(self.symbol, state, cause)
        return book.depth(n, price)

    def __repr__(self) -> str:
        return f"<{self.symbol} {self.level} {self.state.name} {self.top_text()}>"


def decimal_text(value: int, precision: int) -> str:
    """Exact decimal text of an int in units of 10**-precision, with one decimal at least ("28003.0")."""
    sign, digits = ("-" if value < 0 else ""), str(abs(value)).rjust(precision + 1, "0")
    whole, fraction = (digits[: len(digits) - precision], digits[len(digits) - precision :])
    return f"{sign}{whole}.{fraction.rstrip('0') or '0'}"
