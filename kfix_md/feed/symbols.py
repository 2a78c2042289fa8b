"""Resolves the symbols and patterns of a configuration to instruments; an ambiguous name is rejected."""

from __future__ import annotations

import difflib
import re
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


def _plain(name: str) -> str:
    """A name without separators, case and the old names of assets, to compare it with others."""
    text = re.sub("[/_:-]", "", name.upper())
    for new, old in _RENAMED.items():
        text = text.replace(new, old)
    return text


@dataclass(slots=True)
class Selection:
    """What the patterns of a configuration select."""

    symbols: list[str] = field(default_factory=list)  # in the order of the patterns, each once
    warnings: list[str] = field(default_factory=list)  # patterns that match nothing, or only without case
    unknown: dict[str, str] = field(default_factory=dict)  # names that no instrument settles, and why


class SymbolTable:
    """The instruments of one service, and every spelling that leads to them."""

    def __init__(self, symbols: Iterable[str] = ()) -> None:
        self.symbols: list[str] = []
        self._exact: set[str] = set()
        self._indexed: set[str] = set()
        self._spelled: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}
        self.update(symbols)

    def update(self, symbols: Iterable[str]) -> None:
        """Hold these symbols instead; only what differs costs time."""
        fresh = set(symbols)
        if fresh != self._exact:
            self._exact, self.symbols = fresh, sorted(fresh)

    def _index(self) -> None:
        """Bring the spellings up to date; patterns and exact names do without them."""
        for symbol in self._indexed - self._exact:
            for text in spellings(symbol):
                self._spelled[text].remove(symbol)
                if symbol in self._folded[text.upper()]:
                    self._folded[text.upper()].remove(symbol)
        for symbol in sorted(self._exact - self._indexed):
            for text in spellings(symbol):
                self._spelled.setdefault(text, []).append(symbol)
                folded = self._folded.setdefault(text.upper(), [])
                if symbol not in folded:
                    folded.append(symbol)
        self._indexed = set(self._exact)

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

    def resolve(self, name: str, near: bool = True) -> str:
        """The one symbol that a name or another spelling of it means.

        Raises LookupError when there is none or more than one; with near matches if `near`, which takes some 50 ms for
        thousands of symbols.
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
            raise LookupError(f"'{name}' may mean {' or '.join(sorted(found))}; write which")
        similar = self.near(name) if near else []
        raise LookupError(f"no instrument '{name}'" + (f"; near: {', '.join(similar)}" if similar else ""))

    def near(self, name: str, n: int = 4) -> list[str]:
        """Symbols that look like `name`, best first."""
        plain: dict[str, list[str]] = {}
        for symbol in self.symbols:
            plain.setdefault(_plain(symbol), []).append(symbol)
        core = max(map(_plain, re.split("[/_:-]", name)), key=len)
        close = difflib.get_close_matches(_plain(name), list(plain), n=n, cutoff=0.6)
        close += [text for text in plain if len(core) >= 6 and core in text]
        return list(dict.fromkeys(symbol for text in close for symbol in plain[text]))[:n]

    def select(self, patterns: Sequence[str], near: bool = True) -> Selection:
        """Symbols that names and patterns select; an entry that begins with '!' removes its matches again."""
        selection = Selection()
        selected: dict[str, None] = {}
        for entry in patterns:
            text = entry.removeprefix("!")
            try:
                found, folded = self.match(text) if is_pattern(text) else ([self.resolve(text, near)], False)
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
