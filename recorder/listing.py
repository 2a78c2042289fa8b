"""Knows the symbols and levels of each session date, from the table of instruments."""

import difflib
from collections.abc import Iterable
from datetime import date
from typing import Any

import pyarrow as pa
from pyarrow.compute import Expression

from kfix_md import trading_day
from kfix_md.errors import NoSuchSymbol, UsageError
from recorder import files, schema
from recorder.compute import pc

Symbols = str | list[str] | None


def names_of(symbol: Symbols) -> list[str]:
    """The symbols of an argument that may be one, several or None for all; UsageError when it is none of these."""
    if symbol is None:
        return []
    if isinstance(symbol, str):
        return [symbol]
    names: list[Any] = list(symbol) if isinstance(symbol, Iterable) else [symbol]
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"{name!r} is not a symbol: write a text, or a list of texts")
    return names


def check_one(symbol: object) -> None:
    """UsageError unless it is one symbol."""
    if not isinstance(symbol, str):
        raise UsageError(f"{symbol!r} is not one symbol: write a text")


class RecordedListing:
    """Symbols of a captures directory by session date; every date lists all of its symbols again."""

    def __init__(self, found: files.Files) -> None:
        self._files = found
        self._days: dict[date, tuple[int, set[tuple[str, str | None]]]] = {}  # number of files, (symbol, level)

    def check(self, symbol: Symbols, at: int | None = None) -> None:
        """NoSuchSymbol unless every symbol was listed on the date of `at` ns (the last one), else on any date."""
        for name in names_of(symbol):
            if name in self._on(at):
                continue
            listed = self._levels(self._dates())
            if listed and name not in listed:
                without_case = {each.casefold(): each for each in listed}
                found = difflib.get_close_matches(name.casefold(), without_case, 3, 0.4)
                near = ", ".join(without_case[each] for each in found)
                raise NoSuchSymbol(f"no {name} in {self._files.tree.root}" + (f"; near: {near}" if near else ""))

    def level(self, symbol: str, at: int | None = None, wanted: str | None = None) -> str | None:
        """The level of a symbol's book: `wanted` if given, else L2 where it was recorded, else the one that was."""
        check_one(symbol)
        if wanted is not None:
            if wanted not in schema.LEVELS:
                raise UsageError(f'level is {wanted!r}: use "L2" or "L3"')
            return wanted
        levels = self._on(at).get(symbol) or self._levels(self._dates()).get(symbol, set())
        return min(levels, default=None)

    def where(self, level: str | None, names: list[str] | None, at: int | None = None) -> Expression | None:
        """Filter of ticks by level, None for no filter.

        Parameters
        ----------
        level
            "L2", "L3" or "both"; None for L2 of each symbol that has it, else L3, and for both without symbols.
        names
            The symbols; None for all.
        at
            Time on the session date whose instruments tell the levels; None for the last date.
        """
        if level not in (None, "both", *schema.LEVELS):
            raise UsageError(f'level is {level!r}: use "L2", "L3" or "both"')
        if level == "both" or (level is None and names is None):
            return None
        if level is not None or names is None:
            return pc.field("level") == level
        orders = [name for name in names if self.level(name, at) == "L3"]
        if len(orders) in (0, len(names)):
            return pc.field("level") == ("L3" if orders else "L2")
        return (pc.field("level") == "L2") | pc.field("symbol").cast(pa.string()).isin(orders)

    def require(self, symbol: Symbols, start: int | None, end: int | None) -> None:
        """NoSuchSymbol unless ticks of the symbols were recorded on the session dates of [start, end).

        For queries that found no rows: what was not recorded must not look like a quiet market.
        """
        for name in names_of(symbol):
            if self._files.recorded(name, start, end):
                continue
            if self._files.recorded(name, None, None):
                raise NoSuchSymbol(f"no ticks of {name} on the session dates of this time; {self.dates_text()}")
            raise NoSuchSymbol(f"no ticks of {name} in {self._files.tree.root}: it was listed, but not recorded")

    def dates_text(self) -> str:
        """The session dates with ticks, for an error message."""
        days = self._files.tree.dates("ticks")
        return f"there are {days[0]} to {days[-1]}" if days else "there is none"

    def _dates(self) -> list[date]:
        return self._files.tree.dates("instruments")

    def _on(self, at: int | None) -> dict[str, set[str]]:
        """Levels by symbol on the session date of `at` ns, or the last before it."""
        days = self._dates()
        return self._levels([d for d in days if at is None or d <= trading_day.session_date(at)][-1:] or days[:1])

    def _levels(self, days: Iterable[date]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for day in days:
            for symbol, level in self._of_day(day):
                found.setdefault(symbol, set()).update([level] if level else [])
        return found

    def _of_day(self, day: date) -> set[tuple[str, str | None]]:
        count = len(self._files.tree.files("instruments", day))
        known = self._days.get(day)
        if known is None or known[0] != count:
            start, end = trading_day.session_bounds(day)

            def read() -> set[tuple[str, str | None]]:
                paths = self._files.of("instruments", start, end)
                rows = files.table("instruments", paths, ["symbol", "level"], start=start, end=end)
                return set(zip(rows["symbol"].to_pylist(), rows["level"].to_pylist(), strict=True))

            known = self._days[day] = (count, files.attempt(read))
        return known[1]
