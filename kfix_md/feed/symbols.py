"""How a user's spelling of a symbol or a pattern finds instruments, and when it is refused as doubtful."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cached_property

# Kraken's old names of assets; either spelling is understood wherever an asset appears
_RENAMED = {"BTC": "XBT", "DOGE": "XDG"}
# assets that Kraken's REST interface writes with four letters: X for coins, Z for currencies
_X_ASSETS = frozenset(["XBT", "ETC", "ETH", "LTC", "MLN", "REP", "XDG", "XLM", "XMR", "XRP", "ZEC"])
_Z_ASSETS = frozenset(["AUD", "CAD", "EUR", "GBP", "JPY", "USD"])
_SEPARATORS = ("", "/", "-", "_", ":")


def is_pattern(text: str) -> bool:
    """True when `text` may stand for several symbols."""
    return any(mark in text for mark in "*?[")


def _asset_names(asset: str) -> set[str]:
    names = {asset}
    for new, old in _RENAMED.items():
        if asset in (new, old):
            names |= {new, old}
    names |= {f"X{name}" for name in names & _X_ASSETS} | {f"Z{name}" for name in names & _Z_ASSETS}
    return names


def spellings(symbol: str) -> set[str]:
    """Every spelling that may mean `symbol`, upper case, itself included.

    Spot pairs ('BTC/USD'): other separators, none, and the names of REST ('XXBTZUSD', 'XBTUSD').
    Derivatives ('PF_XBTUSD'): XBT and BTC are one asset; the kind of contract is part of the name.
    """
    symbol = symbol.upper()
    found = {symbol}
    base, slash, quote = symbol.partition("/")
    if slash:
        for one in _asset_names(base):
            for other in _asset_names(quote):
                found |= {f"{one}{mark}{other}" for mark in _SEPARATORS}
        return found
    kind, line, rest = symbol.partition("_")
    if line:
        for new, old in _RENAMED.items():
            for one, other in ((new, old), (old, new)):
                if rest.startswith(one):
                    found.add(f"{kind}_{other}{rest[len(one) :]}")
    return found


class SymbolTable:
    """The instruments of one service, and every spelling that leads to them."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = sorted(set(symbols))
        self._exact = set(self.symbols)

    @cached_property
    def _by_spelling(self) -> dict[str, list[str]]:
        # patterns and exact names do without it
        found: dict[str, list[str]] = {}
        for symbol in self.symbols:
            for text in spellings(symbol):
                found.setdefault(text, []).append(symbol)
        return found

    def resolve(self, text: str) -> list[str]:
        """The symbols that `text` (a name, another spelling, or a pattern) means; raises LookupError with
        a sentence and near matches when there is none or more than one reading of a name."""
        if is_pattern(text):
            found = [symbol for symbol in self.symbols if fnmatchcase(symbol, text.upper())]
            if not found:
                raise LookupError(f"pattern '{text}' matches none of {len(self.symbols)} instruments")
            return found
        if text in self._exact:
            return [text]
        found = self._by_spelling.get(text.upper(), [])
        if len(found) == 1:
            return list(found)
        if found:
            raise LookupError(f"'{text}' may mean {' or '.join(found)}; write which")
        near = self.near(text)
        raise LookupError(f"no instrument '{text}'" + (f"; near: {', '.join(near)}" if near else ""))

    def near(self, text: str, n: int = 4) -> list[str]:
        """Symbols that look like `text`, best first."""
        text = text.upper()
        core = max(text.replace("/", "_").split("_"), key=len)
        close = difflib.get_close_matches(text, list(self._by_spelling), n=3 * n, cutoff=0.6)
        close += [s for s in self._by_spelling if len(core) >= 6 and core in s]
        found: list[str] = []
        for spelling in close:
            found += [s for s in self._by_spelling[spelling] if s not in found]
        return found[:n]


def select(patterns: Iterable[str], symbols: Iterable[str]) -> tuple[list[str], list[str]]:
    """(symbols wanted, in order and once each; complaints about patterns that found nothing).

    A pattern that begins with '!' takes its matches out again.
    """
    table = SymbolTable(symbols)
    wanted: dict[str, None] = {}
    complaints: list[str] = []
    for pattern in patterns:
        exclude = pattern.startswith("!")
        try:
            found = table.resolve(pattern.removeprefix("!"))
        except LookupError as error:
            complaints.append(str(error))
            continue
        for symbol in found:
            if exclude:
                wanted.pop(symbol, None)
            else:
                wanted[symbol] = None
    return list(wanted), complaints
