"""Resolves the symbols and patterns of a configuration to instruments; an ambiguous name is rejected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

# Kraken's old names of assets; either is accepted wherever an asset appears
_RENAMED = {"BTC": "XBT", "DOGE": "XDG"}
# assets that Kraken's REST interface writes with four letters: X for coins, Z for currencies
_X_ASSETS = frozenset(["XBT", "ETC", "ETH", "LTC", "MLN", "REP", "XDG", "XLM", "XMR", "XRP", "ZEC"])
_Z_ASSETS = frozenset(["AUD", "CAD", "EUR", "GBP", "JPY", "USD"])
_SEPARATORS = ("", "/", "-", "_", ":")


def is_pattern(text: str) -> bool:
    """True when `text` can match several symbols."""
    return any(mark in text for mark in "*?[")


def _asset_names(asset: str) -> set[str]:
    names = {asset}
    for new, old in _RENAMED.items():
        if asset in (new, old):
            names |= {new, old}
    names |= {f"X{name}" for name in names & _X_ASSETS} | {f"Z{name}" for name in names & _Z_ASSETS}
    return names


def spellings(symbol: str) -> set[str]:
    """Every spelling that may mean `symbol`, itself included.

    Spot pairs ('BTC/USD'): other separators, none, and the names of REST ('XXBTZUSD', 'XBTUSD').
    Derivatives ('PF_XBTUSD'): XBT and BTC are one asset; the kind of contract is part of the name.
    """
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


@dataclass(slots=True)
class Selection:
    """What the patterns of a configuration select."""

    symbols: list[str] = field(default_factory=list)  # in the order of the patterns, each once
    warnings: list[str] = field(default_factory=list)  # patterns that match nothing, or only without case
    unknown: dict[str, str] = field(default_factory=dict)  # names that no instrument settles, and why


class SymbolTable:
    """The instruments of one service, and every spelling that leads to them."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = sorted(set(symbols))
        self._exact = frozenset(self.symbols)
        self._spelled: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}

    def _index(self) -> None:
        # patterns and exact names do without it
        if self._spelled or not self.symbols:
            return
        for symbol in self.symbols:
            for text in spellings(symbol):
                self._spelled.setdefault(text, []).append(symbol)
                folded = self._folded.setdefault(text.upper(), [])
                if symbol not in folded:
                    folded.append(symbol)

    def match(self, pattern: str) -> tuple[list[str], bool]:
        """(symbols that a pattern matches, True when that took ignoring case).

        Case decides first, since 'AAPLx/USD' is matched by '*x/USD' and 'AVAX/USD' is not. Raises LookupError when
        nothing matches.
        """
        found = [symbol for symbol in self.symbols if fnmatchcase(symbol, pattern)]
        if found:
            return found, False
        upper = pattern.upper()
        found = [symbol for symbol in self.symbols if fnmatchcase(symbol.upper(), upper)]
        if not found:
            raise LookupError(f"pattern '{pattern}' matches none of {len(self.symbols)} instruments")
        return found, True

    def resolve(self, name: str) -> str:
        """The one symbol that a name or another spelling of it means.

        Raises LookupError with near matches when there is none or more than one.
        """
        if name in self._exact:
            return name
        self._index()
        found = self._spelled.get(name, [])
        if len(found) != 1:
            found = found or self._folded.get(name.upper(), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise LookupError(f"'{name}' may mean {' or '.join(found)}; write which")
        near = self.near(name)
        raise LookupError(f"no instrument '{name}'" + (f"; near: {', '.join(near)}" if near else ""))

    def near(self, name: str, n: int = 4) -> list[str]:
        """Symbols that look like `name`, best first."""
        self._index()
        name = name.upper()
        core = max(name.replace("/", "_").split("_"), key=len)
        close = difflib.get_close_matches(name, list(self._folded), n=3 * n, cutoff=0.6)
        close += [text for text in self._folded if len(core) >= 6 and core in text]
        found: list[str] = []
        for spelling in close:
            found += [symbol for symbol in self._folded[spelling] if symbol not in found]
        return found[:n]

    def select(self, patterns: Sequence[str]) -> Selection:
        """Symbols that names and patterns select; an entry that begins with '!' removes its matches again."""
        selection = Selection()
        selected: dict[str, None] = {}
        for entry in patterns:
            text = entry.removeprefix("!")
            try:
                found, folded = self.match(text) if is_pattern(text) else ([self.resolve(text)], False)
            except LookupError as error:
                if is_pattern(text):
                    selection.warnings.append(str(error))
                else:
                    selection.unknown[text] = str(error)
                continue
            if folded:
                selection.warnings.append(
                    f"pattern '{text}' matches only when upper and lower case are ignored: "
                    f"{len(found)} instruments such as {found[0]}"
                )
            if entry.startswith("!"):
                for symbol in found:
                    selected.pop(symbol, None)
            else:
                selected |= dict.fromkeys(found)
        selection.symbols = list(selected)
        return selection
