"""What a user holds of one book of an in-process Handler: the same names as a shared memory book."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from kfix_md._entry import Cause, State
from kfix_md._state import is_trusted
from kfix_md.display import (
    SHOWN_LEVELS,
    decimal_levels,
    decimal_text,
    imbalance,
    ladder,
    prices_text,
    table,
    to_decimal,
)
from kfix_md.errors import NotLive

if TYPE_CHECKING:
    import numpy as np

    from kfix_md._handler import Handler

    #: one-dimensional structured array
    Rows: TypeAlias = np.ndarray[tuple[int], np.dtype[np.void]]


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

    @overload
    def top(
        self, allow_stale: bool = False, price: Literal["float"] = "float", *, allow_unverified: bool = False
    ) -> tuple[float, float, float, float]: ...

    @overload
    def top(
        self, allow_stale: bool = False, *, price: Literal["int"], allow_unverified: bool = False
    ) -> tuple[int | None, int | None, int | None, int | None]: ...

    @overload
    def top(
        self, allow_stale: bool = False, *, price: Literal["decimal"], allow_unverified: bool = False
    ) -> tuple[Decimal | None, Decimal | None, Decimal | None, Decimal | None]: ...

    def top(self, allow_stale: bool = False, price: str = "float", *, allow_unverified: bool = False) -> Any:
        """(bid, bid quantity, ask, ask quantity).

        Raises NotLive unless the book is LIVE, EMPTY or, with `allow_unverified`, UNVERIFIED; `allow_stale` returns the
        last values in any state. With price="int" the values are exact ints in the instrument's precision, with
        "decimal" exact decimal.Decimal, None for a missing side in both.
        """
        self._check(allow_stale, allow_unverified)
        book = self._handler.book(self.symbol)
        exact = (None, None, None, None) if book is None else book.top()
        if price == "int":
            return exact
        digits = self._handler.precisions(self.symbol) * 2
        if price == "decimal":
            return tuple(to_decimal(value, n) for value, n in zip(exact, digits, strict=True))
        if price != "float":
            raise ValueError(f'price must be "float", "int" or "decimal", not {price!r}')
        scales = [10.0**precision for precision in digits]
        missing = (math.nan, 0.0, math.nan, 0.0)
        bid, bid_qty, ask, ask_qty = (
            none if value is None else value / scale for value, scale, none in zip(exact, scales, missing, strict=True)
        )
        return bid, bid_qty, ask, ask_qty

    def top_text(self) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
        """(bid, ask), each (price, quantity) as exact decimal text, None for a missing side."""
        bid, bid_qty, ask, ask_qty = self.top(allow_stale=True, price="int")
        digits = self._handler.precisions(self.symbol)

        def text(price: int | None, qty: int | None) -> tuple[str, str] | None:
            if price is None or qty is None:
                return None
            return decimal_text(price, digits[0]), decimal_text(qty, digits[1])

        return text(bid, bid_qty), text(ask, ask_qty)

    @property
    def bid(self) -> float:
        return float(self.top(allow_stale=True)[0])

    @property
    def bid_qty(self) -> float:
        return float(self.top(allow_stale=True)[1])

    @property
    def ask(self) -> float:
        return float(self.top(allow_stale=True)[2])

    @property
    def ask_qty(self) -> float:
        return float(self.top(allow_stale=True)[3])

    @property
    def mid(self) -> float:
        """Mid price; NaN when a side is missing."""
        bid, _, ask, _ = self.top(allow_stale=True)
        return (bid + ask) / 2

    @property
    def spread(self) -> float:
        """Ask less bid; NaN when a side is missing."""
        bid, _, ask, _ = self.top(allow_stale=True)
        return ask - bid

    @property
    def imbalance(self) -> float:
        """(bid_qty - ask_qty) / (bid_qty + ask_qty) at the best prices, -1 to 1; NaN of an empty book."""
        _, bid_qty, _, ask_qty = self.top(allow_stale=True)
        return imbalance(bid_qty, ask_qty)

    @property
    def bids(self) -> Rows:
        """The ten best bids, best first. Raises NotLive as top() does."""
        return self.depth()[0]

    @property
    def asks(self) -> Rows:
        """The ten best asks, best first. Raises NotLive as top() does."""
        return self.depth()[1]

    def _check(self, allow_stale: bool, allow_unverified: bool) -> None:
        state, cause = self._handler.book_state(self.symbol)[:2]
        accepted = allow_stale or is_trusted(state) or (allow_unverified and state is State.UNVERIFIED)
        if not accepted:
            raise NotLive(self.symbol, state, cause)

    def depth(
        self,
        n: int | None = 10,
        price: Literal["float", "int", "decimal"] = "float",
        allow_stale: bool = False,
        *,
        allow_unverified: bool = False,
    ) -> tuple[Rows, Rows]:
        """(bids, asks): structured arrays price, qty, orders, best first, at most n levels (None: all).

        Raises NotLive as top() does.
        """
        self._check(allow_stale, allow_unverified)
        book = self._handler.book(self.symbol)
        if book is None:
            raise NotLive(self.symbol, self.state, self.cause)
        if price == "decimal":
            bids, asks = (decimal_levels(side, self._handler.precisions(self.symbol)) for side in book.depth(n, "int"))
            return bids, asks
        sides: tuple[Rows, Rows] = book.depth(n, price)
        return sides

    def __repr__(self) -> str:
        return f"<{self._line()}>"

    def _line(self) -> str:
        bid, _, ask, _ = self.top(allow_stale=True, price="int")
        prices = prices_text(bid, ask, self._handler.precisions(self.symbol)[0])
        return f"{self.symbol} {self.level or ''} {self.state.name} {prices}".replace("  ", " ")

    def _repr_html_(self) -> str:
        book = self._handler.book(self.symbol)
        if book is None:
            return table(self._line(), [], [])
        bids, asks = book.depth(SHOWN_LEVELS, "int")
        return ladder(self._line(), bids, asks, self._handler.precisions(self.symbol))
