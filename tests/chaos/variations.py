"""Variations of the venue that a chaos run may switch on: market switches at the start, and further faults to draw."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Fault = tuple[str, dict[str, Any]]
#: service -> symbol -> (price precision, quantity precision)
Listed = dict[str, dict[str, tuple[int, int]]]
Setup = Callable[[random.Random, Listed], list[Fault]]
Drawn = Callable[[random.Random, str, str, list[str]], list[tuple[int, Fault]]]

FORMS = ("plain", "padded", "trailing", "zeros", "plus", "exponent", "mixed")
RULES = ("level", "order", "level-sent", "order-sent")
HARMLESS = ("data_field", "symbol_groups", "number", "times", "entry_kind", "trade_codes", "unknown_tags")


@dataclass(frozen=True)
class Variation:
    """What one variation adds to a run."""

    setup: Setup | None = None  # commands before the feed starts
    drawn: Drawn | None = None  # (weight, fault) for a service, a symbol and all symbols of the service
    options: tuple[str, ...] = ()  # of `kfix simulate`
    depth: int = 0  # of every subscription, 0: the default of the feed
    unverified: bool = False  # the symbols of `setup` may stay UNVERIFIED


def some(rng: random.Random, listed: Listed) -> list[tuple[str, str]]:
    """(service, symbol) of a quarter of the symbols of every service."""
    return [
        (service, symbol)
        for service, symbols in listed.items()
        for symbol in rng.sample(sorted(symbols), max(1, len(symbols) // 4))
    ]


def vary(choose: Callable[[random.Random], dict[str, Any]]) -> Setup:
    """A quarter of the symbols get switches that `choose` draws for each."""

    def setup(rng: random.Random, listed: Listed) -> list[Fault]:
        return [
            ("vary", {"service": service, "symbol": symbol, **choose(rng)}) for service, symbol in some(rng, listed)
        ]

    return setup


def command(name: str, **arguments: Any) -> Setup:
    """One command."""
    return lambda _rng, _listed: [(name, arguments)]


def other_precisions(rng: random.Random, listed: Listed) -> list[Fault]:
    """5041 of a quarter of the symbols is printed with one decimal more than 2349 or 5010."""
    rows: list[Fault] = []
    for service, symbol in some(rng, listed):
        price, qty = listed[service][symbol]
        switches = rng.choice([{"crc_price_precision": price + 1}, {"crc_qty_precision": qty + 1}])
        rows.append(("vary", {"service": service, "symbol": symbol, **switches}))
    return rows


def one_rule_nobody_knows(rng: random.Random, listed: Listed) -> list[Fault]:
    """One symbol of every service."""
    return [
        ("vary", {"service": service, "symbol": rng.choice(sorted(symbols)), "checksum": "unknown"})
        for service, symbols in listed.items()
    ]


def edits(_rng: random.Random, service: str, _symbol: str, _symbols: list[str]) -> list[tuple[int, Fault]]:
    """Single messages in other forms."""
    return [(3, ("garble", {"service": service, "edit": edit})) for edit in HARMLESS]


def two_symbols(rng: random.Random, service: str, _symbol: str, symbols: list[str]) -> list[tuple[int, Fault]]:
    """Messages of two symbols, distinguished by 55 in the entries or not at all."""
    pair = rng.sample(symbols, 2)
    level = "L3" if service.endswith("l3") else "L2"
    return [
        (6, ("together", {"symbols": pair, "level": level})),
        (3, ("garble", {"service": service, "edit": "symbol_twice", "symbol": pair[0]})),
        (3, ("garble", {"service": service, "edit": "request_twice"})),
    ]


def values(rng: random.Random, service: str, _symbol: str, _symbols: list[str]) -> list[tuple[int, Fault]]:
    """Numbers that do not fit and unknown actions."""
    tag, value = rng.choice([(271, "9" * 30), (270, "1e30"), (271, "0." + "1" * 25), (279, "9")])
    return [(5, ("garble", {"service": service, "edit": "value", "tag": tag, "value": value}))]


def updates(rng: random.Random, service: str, symbol: str, _symbols: list[str]) -> list[tuple[int, Fault]]:
    """Partial updates of instruments that change nothing."""
    tags = rng.choice([[5032], [2349], [5010], [5022, 5032]])
    return [(6, ("update", {"service": service, "symbol": symbol, "tags": tags}))]


def logons(rng: random.Random, service: str, _symbol: str, _symbols: list[str]) -> list[tuple[int, Fault]]:
    """Replies to a Logon with other contents, then a connection that ends."""
    variant = rng.choice([{"variant": "data"}, {"variant": "extra"}, {"variant": "high", "by": 56}])
    return [(3, ("logon", {"service": service, **variant})), (2, ("drop", {"service": service, "how": "rst"}))]


def dead(_rng: random.Random, service: str, _symbol: str, _symbols: list[str]) -> list[tuple[int, Fault]]:
    """Connections that are never answered."""
    return [(2, ("refuse", {"service": service, "seconds": 0.4, "how": "dead"}))]


def replays(rng: random.Random, service: str, _symbol: str, _symbols: list[str]) -> list[tuple[int, Fault]]:
    """Longer gaps, replayed in chunks or rejected."""
    answer = rng.choice(["chunks", "chunks", "reject"])
    return [(12, ("gap", {"service": service, "count": rng.randrange(1, 15), "answer": answer}))]


VARIATIONS: dict[str, Variation] = {
    "rules": Variation(vary(lambda rng: {"checksum": rng.choice(RULES), "price_form": "mixed", "qty_form": "mixed"})),
    "unknown-rule": Variation(one_rule_nobody_knows, unverified=True),
    "crc-precision": Variation(other_precisions, unverified=True),
    "numbers": Variation(vary(lambda rng: {"price_form": rng.choice(FORMS), "qty_form": rng.choice(FORMS)})),
    "ids": Variation(vary(lambda rng: {"ids": rng.choice(("long", "opaque", "short", "uuid"))})),
    "times": Variation(vary(lambda rng: {"times": rng.choice((0, 6, 9, 12)), "iso_times": rng.choice((0, 3, 12))})),
    "sending-times": Variation(command("vary", time_decimals=12)),
    "codes": Variation(vary(lambda _rng: {"ord_type": "R", "aggressor": "X"})),
    "entry-kinds": Variation(vary(lambda rng: {"entry_kind": rng.choice("4BJ5")})),
    "unknown-tags": Variation(vary(lambda _rng: {"unknown_tags": True})),
    "groups": Variation(vary(lambda rng: {"symbols": rng.choice(("group", "both"))})),
    "snapshot-crc": Variation(vary(lambda _rng: {"snapshot_crc": True})),
    "implicit-deletes": Variation(command("vary", symbol="*", implicit_deletes=True), depth=10),
    "depth": Variation(depth=10),
    "precision-text": Variation(command("vary", symbol="*", precision_form="float")),
    "negative-precision": Variation(
        command("list", venue="derivatives", symbol="PF_PEPEUSD", price_precision=7, qty_precision=-3)
    ),
    "huge": Variation(command("list", symbol="BTT/USD", price_precision=9, qty_precision=8, huge=True)),
    "names": Variation(command("list", symbol="ÆTH/USD")),
    "stocks": Variation(options=("--stocks", "2")),
    "bad-rows": Variation(
        lambda _rng, _listed: [
            ("bad_row", {"kind": kind}) for kind in ("no_precision", "text_precision", "huge_precision", "no_name")
        ]
    ),
    "hidden": Variation(command("list", symbol="OLD/USD", status=6)),
    "fragments": Variation(options=("--interleave", "--fragment", "3")),
    "logon-echo": Variation(command("vary", logon_echo="next")),
    "data-after-logout": Variation(command("vary", after_logout="data", linger=3)),
    "open-after-logout": Variation(command("vary", after_logout="open", linger=3)),
    "logout-ignored": Variation(command("vary", on_logout="ignore", linger=3)),
    "edits": Variation(drawn=edits),
    "two-symbols": Variation(drawn=two_symbols),
    "values": Variation(drawn=values),
    "updates": Variation(drawn=updates),
    "logons": Variation(drawn=logons),
    "dead": Variation(drawn=dead),
    "replays": Variation(drawn=replays),
}
#: variations that every run has unless `--variations` names others; the feed copes with them
DEFAULT: tuple[str, ...] = (
    "numbers",
    "ids",
    "unknown-tags",
    "groups",
    "snapshot-crc",
    "updates",
    "logons",
    "dead",
    "replays",
    "logon-echo",
    "data-after-logout",
)


def chosen(text: str) -> dict[str, Variation]:
    """The variations of `--variations`: default, none, all, or names with commas between them."""
    names = {"default": DEFAULT, "none": (), "all": tuple(VARIATIONS)}.get(text, tuple(text.split(",")))
    unknown = [name for name in names if name not in VARIATIONS]
    if unknown:
        raise ValueError(f"no such variation: {unknown[0]} (one of {', '.join(VARIATIONS)})")
    return {name: VARIATIONS[name] for name in names}
