"""Reads the frames that a probe received: header order, forms of times, ids and numbers, depth, checksum rule."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from kfix_md import Handler
from kfix_md.errors import KfixError
from kfix_md.instruments import merged, parse_list
from kfix_md.probe.client import Frame
from kfix_md.symbol_text import symbol_bytes

#: longest symbol that a book can have, in bytes
MAX_SYMBOL = 39
RULES = {"L2": ("level", "level-sent"), "L3": ("level", "order", "level-sent", "order-sent")}
#: fields of 35=W and 35=X that Kraken's reference lists, and those of the header and trailer
KNOWN_FIELDS = frozenset(
    {8, 9, 10, 34, 35, 43, 49, 52, 56, 122, 55, 262, 268, 269, 270, 271, 273, 278, 279, 40, 2446, 5041, 5060, 5273}
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KRAKEN_ID = re.compile(r"O[0-9A-Z]{5}-[0-9A-Z]{5}-[0-9A-Z]{6}")
_CLOCK = re.compile(r"\d\d:\d\d:\d\d(?:\.(\d+))?")
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d+))?Z")
_FLOAT = re.compile(r"-?(0|[1-9]\d*)\.(0|\d*[1-9])")
_INTEGER = re.compile(r"-?(0|[1-9]\d*)")
_PADDED = re.compile(r"-?\d+\.\d*")
_WHOLE = re.compile(r"0|[1-9]\d?")


class ProbedEntry(NamedTuple):
    """One repetition of group 268 as text; an absent field is ""."""

    action: str  # 279
    kind: str  # 269
    id: str  # 278
    price: str  # 270
    qty: str  # 271


class Listed(NamedTuple):
    """One row of 35=y as text."""

    symbol: str
    price_precision: str
    qty_precision: str
    status: str


def header_order(frame: Frame) -> str:
    """Tags from 35 to 56 or 49 in wire order: "35,34,49,52,56"."""
    return ",".join(str(tag) for tag, _ in frame.fields if tag in (34, 35, 49, 52, 56))


def decimals(times: Iterable[str]) -> str:
    """How many decimals UTC timestamps have: "3", or "0, 3" when they differ."""
    return _list({len(text.partition(".")[2]) for text in times})


def _list(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in sorted(values, key=str))


def entries(frame: Frame) -> list[ProbedEntry]:
    """The entries of a 35=W or 35=X."""
    first = 269 if frame.type == "W" else 279
    groups: list[dict[int, str]] = []
    for tag, value in frame.fields:
        if tag == first:
            groups.append({})
        if groups:
            groups[-1].setdefault(tag, value.decode("utf-8", "backslashreplace"))
    return [ProbedEntry(*(group.get(tag, "") for tag in (279, 269, 278, 270, 271))) for group in groups]


def listed(frames: Iterable[Frame]) -> list[Listed]:
    """The rows of instrument lists, in wire order."""
    rows: list[dict[int, str]] = []
    for frame in frames:
        inside = False
        for tag, value in frame.fields:
            if tag == 55:
                rows.append({})
                inside = True
            if inside:
                rows[-1].setdefault(tag, value.decode("utf-8", "surrogateescape"))
    return [Listed(*(row.get(tag, "") for tag in (55, 2349, 5010, 5032))) for row in rows]


def precision_forms(rows: Sequence[Listed]) -> tuple[str, bool]:
    """How precisions are written, with an example of each unusual form; whether all are whole numbers."""
    unusual = [f"{row.symbol} {text!r}" for row in rows for text in row[1:3] if not _WHOLE.fullmatch(text)]
    if not unusual:
        return "whole numbers", True
    more = f" and {len(unusual) - 3} more" if len(unusual) > 3 else ""
    return f"also {', '.join(unusual[:3])}{more}", False


def id_forms(frames: Iterable[Frame]) -> Counter[str]:
    """How often ids of each form occur."""
    found: Counter[str] = Counter()
    for frame in frames:
        for entry in entries(frame):
            if entry.kind in ("0", "1"):
                found[_id_form(entry)] += 1
    return found


def _id_form(entry: ProbedEntry) -> str:
    if not entry.id:
        return "absent"
    if entry.id in (f"B{entry.price}", f"O{entry.price}"):
        return "side letter and price"
    if _UUID.fullmatch(entry.id):
        return "UUID"
    if _KRAKEN_ID.fullmatch(entry.id):
        return "OXXXXX-XXXXX-XXXXXX"
    return f"other, {'over' if len(entry.id.encode()) > 16 else 'up to'} 16 bytes, such as {entry.id[:40]!r}"


def clock_forms(frames: Iterable[Frame]) -> str:
    """Decimals of 273, or the first value that is no time of day."""
    return _time_forms((text for frame in frames for text in frame.all(273)), _CLOCK, "HH:MM:SS")


def order_time_forms(frames: Iterable[Frame]) -> str:
    """Decimals of 5060 and 5273, or the first value that is no ISO 8601 time in UTC."""
    texts = (text for frame in frames for tag in (5060, 5273) for text in frame.all(tag))
    return _time_forms(texts, _ISO, "ISO 8601")


def _time_forms(texts: Iterable[str], pattern: re.Pattern[str], name: str) -> str:
    seen: set[str] = set()
    for text in texts:
        match = pattern.fullmatch(text)
        seen.add(f"{name}, {len(match[1] or '')} decimals" if match else f"also {text[:40]!r}")
    return _list(seen)


def unknown_fields(frames: Iterable[Frame]) -> list[int]:
    """Tags in market data that Kraken's reference does not list."""
    return sorted({tag for frame in frames for tag, _ in frame.fields} - KNOWN_FIELDS)


def deepest(snapshot: Frame, updates: Iterable[Frame]) -> tuple[int, int]:
    """Follow an L2 book by price without any limit: the most levels a side had, and deletes with 271 above 0."""
    sides: dict[str, dict[str, str]] = {"0": {}, "1": {}}
    most = leaving = 0
    for frame in (snapshot, *updates):
        for entry in entries(frame):
            if entry.kind not in sides:
                continue
            if entry.action == "2":
                sides[entry.kind].pop(entry.price, None)
                leaving += entry.qty.strip("0.") != ""
            else:
                sides[entry.kind][entry.price] = entry.qty
        most = max(most, *(len(side) for side in sides.values()))
    return most, leaving


def nameable(symbol: str) -> bool:
    """Whether a book can have this name."""
    return 0 < len(symbol_bytes(symbol)) <= MAX_SYMBOL


def unusable(parts: Iterable[Frame]) -> list[str]:
    """Why rows of an instrument list cannot be used, as the feed would log it."""
    rows = [row for part in parts for row in parse_list(part.fields).rows]
    found = {row.symbol: merged(row, None) for row in rows}
    long = [f"{name}: longer than {MAX_SYMBOL} bytes" for name in found if name and not nameable(name)]
    return [text for text in found.values() if isinstance(text, str)] + long


def number_forms(frames: Iterable[Frame]) -> list[str]:
    """Forms of 270 and 271 other than a float without padding, each with an example."""
    found: dict[str, str] = {}
    for frame in frames:
        for entry in entries(frame):
            for text in (entry.price, entry.qty):
                found.setdefault(_number_form(text), text)
    return sorted(f"{form} ({text})" for form, text in found.items() if form)


def _number_form(text: str) -> str:
    if not text or _FLOAT.fullmatch(text):
        return ""
    if _INTEGER.fullmatch(text):
        return "no decimal point"
    if "e" in text.lower():
        return "exponents"
    if text[0] == "+":
        return "plus signs"
    if text[0] == "0" and text[1:2].isdigit():
        return "leading zeros"
    return "trailing zeros" if _PADDED.fullmatch(text) else "other forms"


def huge_numbers(frames: Iterable[Frame], precisions: dict[str, tuple[int, int]]) -> str:
    """The first price or quantity of more than 18 digits at the symbol's precision, "" when there is none."""
    for frame in frames:
        symbol = frame.text(55)
        for entry in entries(frame):
            for text, precision in zip((entry.price, entry.qty), precisions.get(symbol, (0, 0)), strict=True):
                try:
                    if Decimal(text or "0").scaleb(max(precision, 0)) >= 10**18:
                        return f"{symbol} {text}"
                except InvalidOperation:
                    continue
    return ""


def symbol_place(frame: Frame) -> str:
    """Where 55 is: "header", "entries", "both", or "" when there is none."""
    tags = [tag for tag, _ in frame.fields]
    first = next((at for at, tag in enumerate(tags) if tag in (269, 279)), len(tags))
    header, inside = 55 in tags[:first], 55 in tags[first:]
    return "both" if header and inside else "header" if header else "entries" if inside else ""


def checksum_places(frames: Iterable[Frame]) -> tuple[set[str], int]:
    """The MsgTypes that have 5041, and how many 35=X with book entries have none."""
    with_crc: set[str] = set()
    without = 0
    for frame in frames:
        if frame.get(5041) is not None:
            with_crc.add(frame.type)
        elif frame.type == "X":
            without += any(entry.kind in ("0", "1") for entry in entries(frame))
    return with_crc, without


def covered(frames: Iterable[Frame]) -> set[int]:
    """The MsgSeqNums that an answer to a ResendRequest covers: messages, and gap fills (36) up to the next number."""
    found: set[int] = set()
    for frame in frames:
        first = int(frame.text(34) or 0)
        found.update(range(first, int(frame.text(36) or 0) if frame.type == "4" else first + 1))
    return found


class Checksums(NamedTuple):
    """Which rule and precisions explain the 5041 of one symbol."""

    checked: int
    rules: tuple[str, ...]  # those under which every checksum agrees
    precision_change: tuple[int, int]  # added to the listed price and quantity precision; (0, 0) when they hold


def checksums(frames: Sequence[Frame], level: str, price_precision: int, qty_precision: int) -> Checksums:
    """Try every rule on a symbol's snapshot and incrementals; a Handler tries neighbouring precisions as well."""
    with_crc = sum(frame.get(5041) is not None for frame in frames)
    changes: dict[tuple[int, int], list[str]] = {}
    for rule in RULES[level] if with_crc else []:
        change = _change_under(frames, level, rule, (price_precision, qty_precision), with_crc)
        if change is not None:
            changes.setdefault(change, []).append(rule)
    if not changes:
        return Checksums(with_crc, (), (0, 0))
    change = min(changes, key=lambda each: (abs(each[0]) + abs(each[1]), each))
    return Checksums(with_crc, tuple(changes[change]), change)


def _change_under(
    frames: Sequence[Frame], level: str, rule: str, precisions: tuple[int, int], checked: int
) -> tuple[int, int] | None:
    """What a rule adds to the listed precisions when every checksum agrees under it; None when one does not."""
    symbol = frames[0].text(55)
    try:
        handler = Handler(checksum=rule, level=level)
        handler.define(symbol, *precisions)
    except (KfixError, ValueError):
        return None
    for frame in frames:
        handler.deliver(frame.raw, frame.at_ns)
    if int(handler.stats["crc_ok"]) != checked:
        return None
    used = handler.checksum_of(symbol)[1] or (max(precisions[0], 0), max(precisions[1], 0))
    return used[0] - precisions[0], used[1] - precisions[1]


def by_symbol(frames: Iterable[Frame]) -> dict[str, list[Frame]]:
    """Market data by symbol, in wire order, from each symbol's first snapshot on."""
    found: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        symbol = frame.text(55)
        if frame.type == "W" or (frame.type == "X" and found.get(symbol)):
            found[symbol].append(frame)
    return dict(found)
