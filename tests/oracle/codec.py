"""Hides how FIX text becomes entries: bytes, frames, fields, messages with Decimal numbers and ns times."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

SOH = b"\x01"
START = b"8=FIX.4.4\x019="
BOOK_SIDES = ("0", "1")  # 269: bid, offer; "2" is a trade
GROUP_TAGS = {279, 269, 278, 270, 271, 273, 5060, 5273, 40, 2446}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NUMBER = re.compile(rb"-?\d+(\.\d+)?")
CLOCK = re.compile(rb"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?")
SENDING = re.compile(rb"(\d{4})(\d\d)(\d\d)-(.+)")
ISO = re.compile(rb"(\d{4})-(\d\d)-(\d\d)T(.+)Z")
DAY_NS = 86_400 * 10**9


class FixError(ValueError):
    """A frame or message that FIX 4.4 does not allow."""


@dataclass(slots=True)
class Entry:
    """One entry of a W, X (`side` "0", "1", "2"; `action` "0" new, "1" update, "2" delete)."""

    side: str
    action: str
    price: Decimal
    qty: Decimal
    id: str
    event_ns: int
    queue_ns: int
    ord_type: int
    aggressor: int


@dataclass(slots=True)
class Message:
    """One frame: what every message has, and what W, X and y carry."""

    type: str
    seq: int
    sending_ns: int
    fields: list[tuple[int, bytes]]
    possdup: bool = False
    symbol: str = ""
    md_req_id: str = ""
    crc: int | None = None
    entries: list[Entry] = field(default_factory=list)
    instruments: list[dict[int, bytes]] = field(default_factory=list)


def frames(data: bytes) -> Iterator[bytes]:
    """Cut a clean stream into frames; FixError on anything that is not one frame after another."""
    at = 0
    while at < len(data):
        if not data.startswith(START, at):
            raise FixError(f"no BeginString at byte {at}")
        soh = data.index(SOH, at + len(START))
        end = soh + 1 + int(data[at + len(START):soh]) + 7
        frame = data[at:end]
        check(frame)
        yield frame
        at = end


def check(frame: bytes) -> None:
    """Body length and checksum of one whole frame."""
    if frame[-7:-4] != b"10=" or frame[-1:] != SOH:
        raise FixError("no checksum where the body length says")
    if frame[-8:-7] != SOH:
        raise FixError("the body does not end with a field")
    if f"{sum(frame[:-7]) % 256:03d}".encode() != frame[-4:-1]:
        raise FixError("wrong checksum")


def fields(frame: bytes) -> list[tuple[int, bytes]]:
    """All tag=value pairs in order."""
    pairs = []
    for part in frame.removesuffix(SOH).split(SOH):
        tag, eq, value = part.partition(b"=")
        if not eq or not value or not tag.isdigit() or tag.startswith(b"0"):
            raise FixError(f"not a field: {part!r}")
        pairs.append((int(tag), value))
    return pairs


def number(text: bytes) -> Decimal:
    """A FIX float: digits with at most one point, no exponent."""
    if not NUMBER.fullmatch(text):
        raise FixError(f"not a number: {text!r}")
    return Decimal(text.decode())


def whole(text: bytes) -> int:
    """A FIX int that is not negative."""
    if not text.isdigit():
        raise FixError(f"not a whole number: {text!r}")
    return int(text)


def clock_ns(text: bytes) -> int:
    """HH:MM:SS[.fraction] as ns since midnight."""
    found = CLOCK.fullmatch(text)
    if not found:
        raise FixError(f"not a time of day: {text!r}")
    hours, minutes, seconds = (int(part) for part in found.groups()[:3])
    if hours > 23 or minutes > 59 or seconds > 60:
        raise FixError(f"not a time of day: {text!r}")
    fraction = (found[4] or b"").ljust(9, b"0")
    return ((hours * 60 + minutes) * 60 + seconds) * 10**9 + int(fraction)


def day_ns(year: bytes, month: bytes, day: bytes) -> int:
    """Midnight of a UTC day as ns since the epoch."""
    try:
        since = datetime(int(year), int(month), int(day), tzinfo=UTC) - EPOCH
    except ValueError as error:
        raise FixError(str(error)) from error
    return since // timedelta(days=1) * DAY_NS


def stamp_ns(text: bytes, shape: re.Pattern[bytes]) -> int:
    """SENDING (52, 122) or ISO (5060, 5273) time as ns since the epoch."""
    found = shape.fullmatch(text)
    if not found:
        raise FixError(f"not a time: {text!r}")
    return day_ns(found[1], found[2], found[3]) + clock_ns(found[4])


def entry_time_ns(clock: bytes, sending_ns: int) -> int:
    """273 has no date: the day that brings it nearest to 52."""
    midnight = sending_ns - sending_ns % DAY_NS
    days = (midnight - DAY_NS, midnight, midnight + DAY_NS)
    return min((day + clock_ns(clock) for day in days), key=lambda ns: abs(ns - sending_ns))


def groups(pairs: list[tuple[int, bytes]], count_tag: int, tags: set[int] | None) -> list[dict[int, bytes]]:
    """Instances of a repeating group: each starts with the tag that follows the count.

    With `tags`, the group ends for good at the first known field outside it (the CRC after the entries).
    """
    at = next((i for i, (tag, _) in enumerate(pairs) if tag == count_tag), None)
    if at is None:
        raise FixError(f"required tag {count_tag} missing")
    found: list[dict[int, bytes]] = []
    rest = pairs[at + 1:]
    first = rest[0][0] if rest else 0
    for tag, value in rest:
        if tags is not None and tag not in tags:
            continue
        if tag == first:
            found.append({})
        if found:
            if tag in found[-1]:
                raise FixError(f"tag {tag} twice in one group")
            found[-1][tag] = value
    if len(found) != whole(pairs[at][1]):
        raise FixError(f"{count_tag}={pairs[at][1]!r} but {len(found)} groups")
    return found


def entry(group: dict[int, bytes], kind: str, sending_ns: int) -> Entry:
    """One group of a W or X."""
    required = {269, 270, 271, 273} | ({279} if kind == "X" else set())
    if missing := required - group.keys():
        raise FixError(f"required tags missing: {sorted(missing)}")
    side, action = group[269].decode(), group.get(279, b"0").decode()
    if side not in ("0", "1", "2") or action not in ("0", "1", "2"):
        raise FixError(f"269={side} 279={action}")
    event = stamp_ns(group[5060], ISO) if 5060 in group else entry_time_ns(group[273], sending_ns)
    return Entry(
        side=side,
        action=action,
        price=number(group[270]),
        qty=number(group[271]),
        id=group.get(278, b"").decode(),
        event_ns=event,
        queue_ns=stamp_ns(group[5273], ISO) if 5273 in group else 0,
        ord_type=whole(group.get(40, b"0")),
        aggressor=whole(group.get(2446, b"0")),
    )


def message(frame: bytes) -> Message:
    """Everything this project needs of one frame; FixError when a required field is missing or wrong."""
    pairs = fields(frame)
    if [tag for tag, _ in pairs[:3]] != [8, 9, 35]:
        raise FixError("8, 9, 35 are not the first three fields")
    body: dict[int, bytes] = {}
    for tag, value in pairs:
        body.setdefault(tag, value)
    for tag in (34, 49, 52, 56):
        if tag not in body:
            raise FixError(f"required tag {tag} missing")
    kind, sending_ns = body[35].decode(), stamp_ns(body[52], SENDING)
    told = Message(kind, whole(body[34]), sending_ns, pairs, possdup=body.get(43) == b"Y")
    if kind == "y":
        told.instruments = groups(pairs[:-1], 146, None) if 146 in body else []
    if kind in ("W", "X"):
        if 55 not in body or 262 not in body:
            raise FixError("required tag 55 or 262 missing")
        told.symbol, told.md_req_id = body[55].decode(), body[262].decode()
        told.entries = [entry(group, kind, sending_ns) for group in groups(pairs, 268, GROUP_TAGS)]
        told.crc = whole(body[5041]) if 5041 in body else None
    return told
