"""Recomputes 5041 of a stream by any rule, from the texts as they are on the wire: plain Python and zlib."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal

from tests.streams.wire import body_of, seal

RULES = ("level", "order", "level-sent", "order-sent")
DEPTH = 10
Texts = Iterator[tuple[str, str]]  # price and quantity as sent


class SentBook:
    """A book that keeps its numbers as text. On L2 every entry is a level, on L3 an order."""

    def __init__(self, level: str, price_precision: int, qty_precision: int) -> None:
        self.level, self.precisions = level, (price_precision, qty_precision)
        self.entries: dict[tuple, tuple[str, str, str, int]] = {}  # side, price, qty, arrival
        self.arrivals = 0

    def apply(self, group: dict[str, str]) -> None:
        """One bid or offer of a W or X."""
        side, price = group["269"], group["270"]
        key = (side, group["278"]) if self.level == "L3" else (side, Decimal(price))
        if group.get("279", "0") == "2":
            self.entries.pop(key, None)
            return
        self.arrivals += 1
        queued = group.get("5273", "")
        kept = self.entries.get(key)
        arrival = kept[3] if kept is not None and group.get("279") == "1" else self.arrivals
        self.entries[key] = (queued, price, group["271"], arrival)

    def levels(self, side: str) -> list[list[tuple[str, str]]]:
        """The ten best levels of a side, each with its (price, quantity) in queue order."""
        by_price: dict[Decimal, list[tuple[str, int, str, str]]] = {}
        for (of, _), (queued, price, qty, arrival) in self.entries.items():
            if of == side:
                by_price.setdefault(Decimal(price), []).append((queued, arrival, price, qty))
        best = sorted(by_price, reverse=side == "0")[:DEPTH]
        return [[(price, qty) for _, _, price, qty in sorted(by_price[p])] for p in best]

    def checksum(self, rule: str) -> int:
        """5041 by one of RULES, or by "reversed": bids before offers, which no feed knows."""
        sides = ("0", "1") if rule == "reversed" else ("1", "0")
        return zlib.crc32("".join(self._text(queue, rule) for side in sides for queue in self.levels(side)).encode())

    def _text(self, queue: list[tuple[str, str]], rule: str) -> str:
        sent = rule.endswith("-sent")
        if not rule.startswith("order"):
            total = sum(Decimal(qty) for _, qty in queue)
            finest = max(len(qty.partition(".")[2]) for _, qty in queue)
            queue = [(queue[0][0], f"{total:.{finest}f}")]
        return "".join(
            plain(price, sent, self.precisions[0]) + plain(qty, sent, self.precisions[1]) for price, qty in queue
        )


def plain(text: str, sent: bool, precision: int) -> str:
    """A number's digits without leading zeros, as sent or printed at a precision."""
    shown = text if sent else f"{Decimal(text):.{precision}f}"
    return shown.replace(".", "").lstrip("0")


def fields(body: bytes) -> list[list[str]]:
    """Tags and values of a body."""
    return [field.split("=", 1) for field in body.decode().split("\x01")[:-1]]


def with_rule(
    frames: Iterable[bytes],
    level: str,
    rule: str | Callable[[str], str],
    text: Callable[[str, str], str] = lambda tag, value: value,
    shift: tuple[int, int] = (0, 0),
) -> Iterator[bytes]:
    """The same frames with 5041 by `rule` (a name, or a function of the symbol).

    `text` gives the values of 270 and 271 another form first; `shift` is how many decimals more than the instrument
    list has the checksum's printed prices and quantities have.
    """
    books: dict[str, SentBook] = {}
    for one in frames:
        kind = re.search(rb"\x0135=([^\x01]+)", one)
        assert kind is not None
        pairs = fields(body_of(one))
        if kind[1] == b"y":
            for symbol, price, qty in _instruments(pairs):
                books[symbol] = SentBook(level, price + shift[0], qty + shift[1])
        if kind[1] not in (b"W", b"X"):
            yield one
            continue
        pairs = [[tag, text(tag, value) if tag in ("270", "271") else value] for tag, value in pairs]
        book = books[next(value for tag, value in pairs if tag == "55")]
        if kind[1] == b"W":
            book.entries.clear()
        for group in _groups(pairs, "269" if kind[1] == b"W" else "279"):
            if group["269"] in "01":
                book.apply(group)
        name = rule if isinstance(rule, str) else rule(next(value for tag, value in pairs if tag == "55"))
        new = [[tag, str(book.checksum(name)) if tag == "5041" else value] for tag, value in pairs]
        yield seal("".join(f"{tag}={value}\x01" for tag, value in new).encode())


def _instruments(pairs: list[list[str]]) -> Iterator[tuple[str, int, int]]:
    found: dict[str, str] = {}
    for tag, value in [*pairs, ["55", ""]]:
        if tag == "55" and "55" in found:
            yield found["55"], int(found["2349"]), int(found["5010"])
            found = {}
        found[tag] = value


def _groups(pairs: list[list[str]], first: str) -> Iterator[dict[str, str]]:
    group: dict[str, str] = {}
    for tag, value in pairs:
        if tag == first:
            if group:
                yield group
            group = {}
        if tag == first or group:
            group[tag] = value
    if group:
        yield group


L3_OFFERS = (
    "44939.5: 4.52308393 0.00111261 0.00100000 0.01000000; 44950.0: 1.0334926; 44953.0: 0.64537; 44955.0: 0.250000; "
    "44959.6: 0.35630000 0.35630000; 44960.1: 3.38072; 44960.2: 0.88967575; 44967.0: 3.14392283; 44978.5: 0.6778960; "
    "44979.2: 0.35630000"
)
L3_BIDS = (
    "44939.4: 0.88968699 0.45210000 0.10000000 0.14296323 0.25000000 0.10292988 0.33880000 1.28140860; "
    "44937.1: 0.3346877; 44934.7: 0.35630000; 44930.2: 0.22734299 0.1000000 0.5550000 0.70000000 0.15000000; "
    "44928.0: 0.105240; 44919.6: 0.33870000; 44919.5: 0.7610000; 44912.0: 0.35630000; 44909.7: 0.6690000; "
    "44901.9: 0.88982"
)
#: what Kraken's worked example of L3 gives by each rule; it publishes the last
L3_EXAMPLE = {"level": 460745373, "order": 1259715197, "level-sent": 2853579888, "order-sent": 1063832831}


def l3_example(crc: int = L3_EXAMPLE["order-sent"]) -> bytes:
    """Kraken's worked example of L3 as a stream: instrument list, snapshot, and an update.

    The update adds an order far from the best and takes it out again, so that it only carries `crc`.
    """
    head = "34={seq}\x0149=KRAKEN-MD\x0152=20260105-12:00:00.000\x0156=CLIENT\x01"
    listed = (
        "35=y\x01"
        + head.format(seq=1)
        + "320=1\x01322=r\x01560=0\x01146=1\x0155=BTC/USD\x01562=0.00000001\x015010=8\x01"
        "5011=0.0001\x012349=1\x015022=0.1\x015032=1\x01"
    )
    orders = [
        (side, price, qty)
        for side, text in (("1", L3_OFFERS), ("0", L3_BIDS))
        for level in text.split("; ")
        for price, qtys in [level.split(": ")]
        for qty in qtys.split()
    ]
    groups = "".join(_order(i, *order) for i, order in enumerate(orders))
    book = f"55=BTC/USD\x01262=m1\x01268={len(orders)}\x01{groups}"
    far = _order(len(orders), "0", "40000.0", "1.5")
    update = f"55=BTC/USD\x01262=m1\x01268=2\x01279=0\x01{far}279=2\x01{far}5041={crc}\x01"
    bodies = [listed, "35=W\x01" + head.format(seq=2) + book, "35=X\x01" + head.format(seq=3) + update]
    return b"".join(seal(body.encode()) for body in bodies)


def _order(i: int, side: str, price: str, qty: str) -> str:
    queued = f"2026-01-05T11:59:{i:02d}.000000000Z"
    return (
        f"269={side}\x01278=00000000-0000-4000-8000-{i:012x}\x01270={price}\x01271={qty}\x01273=12:00:00.000\x01"
        f"5060=2026-01-05T12:00:00.000000000Z\x015273={queued}\x01"
    )
