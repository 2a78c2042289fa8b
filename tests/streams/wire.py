"""Prints FIX text: frames, unpadded floats and times, in plain Python and independent of the package."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

Pairs = Iterable[tuple[int, str]]
DAY_NS = 86_400 * 10**9


def frame(kind: str, pairs: Pairs) -> bytes:
    """One FIX 4.4 frame of message type `kind`; `pairs` follow 35 in the order given."""
    body = f"35={kind}\x01" + "".join([f"{tag}={value}\x01" for tag, value in pairs])
    return seal(body.encode())


def seal(body: bytes) -> bytes:
    """BeginString and BodyLength before, CheckSum after a body (35= up to the last SOH)."""
    head = b"8=FIX.4.4\x019=%d\x01" % len(body)
    return head + body + b"10=%03d\x01" % ((sum(head) + sum(body)) % 256)


def body_of(whole: bytes) -> bytes:
    """The body of a whole frame, ready to be edited and sealed again."""
    return whole[whole.index(b"35=") : -7]


def number(value: int, precision: int) -> str:
    """`value` units of 10**-precision as Kraken prints floats: 28013.0, 0.001."""
    digits = str(value).rjust(precision + 1, "0")
    whole, part = (digits[:-precision], digits[-precision:]) if precision else (digits, "")
    return f"{whole}.{part.rstrip('0') or '0'}"


@lru_cache(1 << 12)
def day(midnight_ns: int) -> str:
    """The UTC day of a midnight, YYYYMMDD."""
    return datetime.fromtimestamp(midnight_ns // 10**9, UTC).strftime("%Y%m%d")


def clock(ns: int) -> str:
    """273: HH:MM:SS.mmm of the UTC day."""
    of_day = ns % DAY_NS // 10**6
    seconds, milli = divmod(of_day, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{milli:03d}"


def stamp(ns: int) -> str:
    """52: YYYYMMDD-HH:MM:SS.mmm."""
    return f"{day(ns - ns % DAY_NS)}-{clock(ns)}"


def iso(ns: int) -> str:
    """5060, 5273: ISO 8601 with nanoseconds."""
    date = day(ns - ns % DAY_NS)
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T{clock(ns)[:8]}.{ns % 10**9:09d}Z"


EXAMPLE_Y = (
    "8=FIX.4.4|9=177|35=y|49=KRAKEN-MD|56=CLIENT|34=3|52=20231012-09:54:15.317|320=SLS1000002|"
    "322=1697104455317568799|560=0|146=1|55=BTC/USD|562=0.00000001|5010=8|5011=0.0001|2349=1|5022=0.1|"
    "5032=1|10=068|"
)
EXAMPLE_OFFERS = "28013.0 28039.8 28066.5 28093.3 28120.0 28146.7 28173.5 28200.2 28227.0 28253.7"
EXAMPLE_BIDS = (
    "28003.0/0.001 27999.9/0.00096375 27969.9/0.73860423 27700.1/0.0035 27573.2/0.0032 "
    "27137.4/0.01 27091.3/0.004 26729.4/0.001 26702.6/0.001 26675.9/0.001"
)
EXAMPLE_X = [
    (34, "5"),
    (49, "KRAKEN-MD"),
    (52, "20231012-09:55:14.934"),
    (56, "CLIENT"),
    (55, "BTC/USD"),
    (262, "0"),
    (268, "1"),
    (279, "1"),
    (269, "1"),
    (278, "O28013.0"),
    (270, "28013.0"),
    (271, "0.00096506"),
    (273, "09:55:15.071"),
    (5041, "3341325816"),
]


def example() -> bytes:
    """Kraken's documented example of the book checksum: y, W and X; the CRC after X is 3341325816."""
    pairs = [
        (34, "4"),
        (49, "KRAKEN-MD"),
        (52, "20231012-09:54:15.400"),
        (56, "CLIENT"),
        (55, "BTC/USD"),
        (262, "0"),
        (268, "20"),
    ]
    offers = [("1", price, "0.001") for price in EXAMPLE_OFFERS.split()]
    bids = [("0", *level.split("/")) for level in EXAMPLE_BIDS.split()]
    for side, price, qty in offers + bids:
        name = "BO"[int(side)] + price
        pairs += [(269, side), (278, name), (270, price), (271, qty), (273, "09:54:15.400")]
    return EXAMPLE_Y.replace("|", "\x01").encode() + frame("W", pairs) + frame("X", EXAMPLE_X)
