"""The text of 5041 by four rules, written as Kraken's guides describe it: an oracle on texts, not on numbers.

A side is a dict from price text to the quantity texts of its orders in queue order (one on L2), in any order.
"""

from __future__ import annotations

import zlib
from decimal import Decimal

RULES = ("level", "order", "level-sent", "order-sent")
Side = dict[str, list[str]]


def digits(text: str) -> str:
    """A number as it enters the checksum: no point, no zeros in front."""
    return text.replace(".", "").lstrip("0") or "0"


def printed(value: Decimal, precision: int) -> str:
    """A number at a precision."""
    return f"{value:.{precision}f}" if precision >= 0 else str(int(value.scaleb(precision)))


def widest(texts: list[str]) -> int:
    """The most digits after the point that one of the numbers was written with."""
    return max(len(text.partition(".")[2]) for text in texts)


def side_text(side: Side, worst_first: bool, rule: str, price_precision: int, qty_precision: int) -> str:
    levels: dict[Decimal, tuple[list[str], list[str]]] = {}
    for price, quantities in side.items():  # one price may be written in several ways
        texts, amounts = levels.setdefault(Decimal(price), ([], []))
        texts.extend([price] * len(quantities))
        amounts.extend(quantities)
    out = ""
    for value in sorted(levels, reverse=worst_first)[:10]:
        prices, amounts = levels[value]
        total = sum(map(Decimal, amounts), Decimal(0))
        if rule == "level":
            out += digits(printed(value, price_precision)) + digits(printed(total, qty_precision))
        elif rule == "level-sent":
            out += digits(printed(value, widest(prices))) + digits(printed(total, widest(amounts)))
        elif rule == "order":
            for amount in amounts:
                out += digits(printed(value, price_precision)) + digits(printed(Decimal(amount), qty_precision))
        else:
            for price, amount in zip(prices, amounts, strict=True):
                out += digits(price) + digits(amount)
    return out


def crc(bids: Side, offers: Side, rule: str, price_precision: int, qty_precision: int) -> int:
    """5041 of a book."""
    text = side_text(offers, False, rule, price_precision, qty_precision)
    text += side_text(bids, True, rule, price_precision, qty_precision)
    return zlib.crc32(text.encode())


#: the worked example of Kraken's L3 checksum guide, with the CRC that each rule gives for it
EXAMPLE_OFFERS: Side = {
    "44939.5": ["4.52308393", "0.00111261", "0.00100000", "0.01000000"],
    "44950.0": ["1.0334926"],
    "44953.0": ["0.64537"],
    "44955.0": ["0.250000"],
    "44959.6": ["0.35630000", "0.35630000"],
    "44960.1": ["3.38072"],
    "44960.2": ["0.88967575"],
    "44967.0": ["3.14392283"],
    "44978.5": ["0.6778960"],
    "44979.2": ["0.35630000"],
}
EXAMPLE_BIDS: Side = {
    "44939.4": [
        *("0.88968699", "0.45210000", "0.10000000", "0.14296323"),
        *("0.25000000", "0.10292988", "0.33880000", "1.28140860"),
    ],
    "44937.1": ["0.3346877"],
    "44934.7": ["0.35630000"],
    "44930.2": ["0.22734299", "0.1000000", "0.5550000", "0.70000000", "0.15000000"],
    "44928.0": ["0.105240"],
    "44919.6": ["0.33870000"],
    "44919.5": ["0.7610000"],
    "44912.0": ["0.35630000"],
    "44909.7": ["0.6690000"],
    "44901.9": ["0.88982"],
}
EXAMPLE = {"order-sent": 1063832831, "order": 1259715197, "level": 460745373, "level-sent": 2853579888}
EXAMPLE_PRECISIONS = (1, 8)
