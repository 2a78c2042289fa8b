"""Shows books and feeds to people: exact decimals, one line of text, and HTML for notebooks."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from kfix_md._entry import State

if TYPE_CHECKING:
    import numpy as np

SHOWN_LEVELS = 5  # a side, in a notebook
SHOWN_BOOKS = 40  # rows of a feed, in a notebook
_STATES = {int(state): state.name for state in State}
_WITH_PRICES = ("LIVE", "UNVERIFIED")
_AGES = ((86_400 * 10**9, "days"), (3600 * 10**9, "h"), (60 * 10**9, "min"), (10**9, "s"), (10**6, "ms"), (1000, "µs"))
_CELL = "padding:1px 10px;text-align:right;font-variant-numeric:tabular-nums"


def decimal_text(value: int, precision: int) -> str:
    """Exact decimal text of an int in units of 10**-precision, with one decimal at least ("28003.0")."""
    sign, digits = ("-" if value < 0 else ""), str(abs(value)).rjust(precision + 1, "0")
    whole, fraction = (digits[: len(digits) - precision], digits[len(digits) - precision :])
    return f"{sign}{whole}.{fraction.rstrip('0') or '0'}"


def to_decimal(value: int | None, precision: int) -> Decimal | None:
    """Exact decimal of an int in units of 10**-precision; None of None."""
    return None if value is None else Decimal(value).scaleb(-precision)


def decimal_levels(levels: np.ndarray, precision: tuple[int, int]) -> np.ndarray:
    """Levels with exact decimals, from levels with ints.

    Parameters
    ----------
    levels
        Structured array of n levels: price and qty as int64, orders.
    precision
        Decimals of prices and of quantities.

    Returns
    -------
    structured array of n
        price and qty as decimal.Decimal (dtype object), orders as uint32.
    """
    import numpy as np

    made = np.empty(len(levels), np.dtype([("price", "O"), ("qty", "O"), ("orders", "u4")]))
    for name, digits in zip(("price", "qty"), precision, strict=True):
        made[name] = [to_decimal(value, digits) for value in levels[name].tolist()]
    made["orders"] = levels["orders"]
    return made


def imbalance(bid_qty: float, ask_qty: float) -> float:
    """(bid_qty - ask_qty) / (bid_qty + ask_qty), from -1 to 1; NaN where neither side has a quantity."""
    both = bid_qty + ask_qty
    return (bid_qty - ask_qty) / both if both else math.nan


def age_text(ns: int) -> str:
    """A length of time in the unit that reads best, "3 ms"."""
    for size, unit in _AGES:
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def prices_text(bid: int | None, ask: int | None, precision: int) -> str:
    """Best prices as "28021.9 / 28022.3", a missing one as "–"."""
    return " / ".join("–" if value is None else decimal_text(value, precision) for value in (bid, ask))


def live_text(book: Any) -> str:
    """One line about a book that is being followed: "BTC/USD L2 LIVE 28021.9 / 28022.3, 3 ms"."""
    state, cause = book.state, book.cause
    shown = f"{book.symbol} {book.level} {state.name}"
    if state.name in _WITH_PRICES:
        bid, _, ask, _ = book.top(allow_stale=True, price="int")
        shown += f" {prices_text(bid, ask, book.precision[0])}"
    elif cause:
        shown += f" ({cause.name})"
    return f"{shown}, {age_text(book.age_ns) if book.recv_ns else 'no message yet'}"


def live_html(book: Any) -> str:
    """The best levels of a book that is being followed, as an HTML table; no prices when it is not to be trusted."""
    if book.state.name not in _WITH_PRICES:
        return f"<b>{html.escape(live_text(book))}</b>"
    bids, asks = book.depth(SHOWN_LEVELS, "int", allow_stale=True)
    return ladder(live_text(book), bids, asks, book.precision)


def ladder(title: str, bids: np.ndarray, asks: np.ndarray, precision: tuple[int, int]) -> str:
    """Levels of both sides next to each other as an HTML table, best first.

    Parameters
    ----------
    bids, asks
        Structured arrays with price and qty as ints.
    precision
        Decimals of prices and of quantities.
    """

    def cells(levels: np.ndarray, i: int) -> list[str]:
        if i >= len(levels):
            return ["", ""]
        return [f"{to_decimal(int(levels[n][i]), p):,f}" for n, p in zip(("price", "qty"), precision, strict=True)]

    rows = [[*reversed(cells(bids, i)), *cells(asks, i)] for i in range(max(len(bids), len(asks)))]
    return table(title, ["bid qty", "bid", "ask", "ask qty"], rows)


def feed_text(name: str, rows: np.ndarray, fault: str) -> str:
    """One line about a feed: its name, its books by state, or why it has ended.

    Parameters
    ----------
    rows
        As `feed.snapshot()` gives them.
    """
    books = f"feed {name!r}: {len(rows)} books"
    if fault:
        return f"{books}, {fault}"
    states = Counter(rows["state"].tolist())
    return ", ".join([books, *(f"{n} {_STATES.get(code, code)}" for code, n in sorted(states.items()))])


def feed_html(title: str, rows: np.ndarray) -> str:
    """The books of a feed as an HTML table, one row each; rows as `feed.snapshot()` gives them."""

    def price(value: float, digits: int) -> str:
        return "" if math.isnan(value) else f"{value:,.{digits}f}"

    shown = []
    for row in rows[:SHOWN_BOOKS]:
        digits, age = int(row["price_precision"]), int(row["age_ns"])
        prices = [price(float(each), digits) for each in (row["bid"], row["ask"], row["ask"] - row["bid"])]
        level, state = f"L{row['level']}", str(_STATES.get(int(row["state"]), ""))
        shown.append([str(row["symbol"]), level, state, *prices, age_text(age) if row["recv_ns"] else ""])
    more = f"; the first {SHOWN_BOOKS} of {len(rows)}" if len(rows) > SHOWN_BOOKS else ""
    return table(title + more, ["symbol", "level", "state", "bid", "ask", "spread", "age"], shown)


def table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of texts under a title, in the colours of the page that it is in."""
    head = "".join(f"<th style='{_CELL}'>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td style='{_CELL}'>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<div><b>{html.escape(title)}</b><table style='border-collapse:collapse'><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
