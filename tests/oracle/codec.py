"""Decodes FIX text the plain way: bytes, frames, fields, messages with Decimal numbers and ns times."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

SOH = b"\x01"
START = b"8=FIX.4.4\x019="
BOOK_SIDES = ("0", "1")  # 269: bid, offer; "2" is a trade
FRAME_HEAD = re.compile(re.escape(START) + rb"(\d{1,9})\x01")
GROUP_TAGS = {279, 269, 278, 270, 271, 273, 5060, 5273, 40, 2446}
NEEDED = {55, 262, 268, 5041, 279, 269, 278, 270, 271, 5273}  # may not be empty
DATA_FIELDS = {
    **{length: length + 1 for length in (90, 95, 212, *range(348, 366, 2), 445, 618, 621)},
    93: 89,
}  # length field -> data field
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?")
CLOCK = re.compile(rb"(\d\d):(\d\d):(\d\d)(?:\.(\d+))?")
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
    empty: bool = False  # 268=0
    instruments: list[dict[int, bytes]] = field(default_factory=list)
    fault: str = ""  # why the body of a W, X or y cannot be taken
    unclear: bool = False  # a field occurs twice where it may occur once: readers may differ


def frames(data: bytes) -> Iterator[bytes]:
    """Cut a clean stream into frames; FixError on anything that is not one frame after another."""
    at = 0
    while at < len(data):
        if not data.startswith(START, at):
            raise FixError(f"no BeginString at byte {at}")
        soh = data.index(SOH, at + len(START))
        end = soh + 1 + int(data[at + len(START) : soh]) + 7
        frame = data[at:end]
        check(frame)
        yield frame
        at = end


def check(frame: bytes) -> None:
    """Body length and checksum of one whole frame."""
    if frame[-7:-4] != b"10=" or frame[-1:] != SOH:
        raise FixError("no checksum where the body length leads")
    if frame[-8:-7] != SOH:
        raise FixError("the body does not end with a field")
    if f"{sum(frame[:-7]) % 256:03d}".encode() != frame[-4:-1]:
        raise FixError("wrong checksum")


def scan(data: bytes, max_frame: int = 1 << 26) -> tuple[list[bytes], int]:
    """Every sound frame in any bytes, and how many bytes at the end may still become one.

    What does not start a sound frame is skipped up to the next "8=FIX".
    """
    found, at = [], 0
    while at < len(data):
        length = FRAME_HEAD.match(data, at)
        if not length:
            if could_start(data[at : at + 30]):
                break
        elif (end := length.end() + int(length[1]) + 7) > len(data):
            if int(length[1]) >= 5 and end - at <= max_frame:
                break
        elif int(length[1]) >= 5 and is_sound(data[at:end]):
            found.append(data[at:end])
            at = end
            continue
        at = next_start(data, at + 1)
    return found, len(data) - at


def could_start(head: bytes) -> bool:
    """All there is looks like the start of a frame that is not complete."""
    return START.startswith(head) or bool(re.fullmatch(re.escape(START) + rb"\d{0,9}", head))


def is_sound(frame: bytes) -> bool:
    """Length and checksum are right."""
    try:
        check(frame)
    except FixError:
        return False
    return True


def next_start(data: bytes, at: int) -> int:
    """Where the next "8=FIX" is, whole or cut by the end of the data."""
    found = data.find(b"8=FIX", at)
    if found >= 0:
        return found
    return next((i for i in range(max(at, len(data) - 4), len(data)) if b"8=FIX".startswith(data[i:])), len(data))


def fields(frame: bytes) -> list[tuple[int, bytes]]:
    """All tag=value pairs in order, also with an empty value; what is none has tag 0. A data field is read by its
    length."""
    pairs: list[tuple[int, bytes]] = []
    rest = frame.removesuffix(SOH) + SOH
    while rest:
        part, _, after = rest.partition(SOH)
        tag, eq, value = part.partition(b"=")
        named = bool(eq and tag.isdigit() and int(tag) < 1 << 31)
        if named and pairs and DATA_FIELDS.get(pairs[-1][0]) == int(tag) and pairs[-1][1].isdigit():
            end = len(tag) + 1 + int(pairs[-1][1])
            if rest[end : end + 1] == SOH:
                part, value, after = rest[:end], rest[len(tag) + 1 : end], rest[end + 1 :]
        pairs.append((int(tag), value) if named else (0, part))
        rest = after
    return pairs


def number(text: bytes) -> Decimal:
    """A FIX float of any length, an exponent included."""
    if not NUMBER.fullmatch(text):
        raise FixError(f"not a number: {text!r}")
    return Decimal(text.decode())


def whole(text: bytes) -> int:
    """A FIX int that is not negative."""
    if not text.isdigit():
        raise FixError(f"not a whole number: {text!r}")
    return int(text)


def one_digit(text: bytes) -> int:
    """A code of one digit, such as 40; 0 for any other text."""
    return int(text) if len(text) == 1 and text.isdigit() else 0


def clock_ns(text: bytes) -> int:
    """HH:MM:SS[.fraction] as ns since midnight."""
    found = CLOCK.fullmatch(text)
    if not found:
        raise FixError(f"not a time of day: {text!r}")
    hours, minutes, seconds = (int(part) for part in found.groups()[:3])
    if hours > 23 or minutes > 59 or seconds > 60:
        raise FixError(f"not a time of day: {text!r}")
    fraction = (found[4] or b"")[:9].ljust(9, b"0")
    return ((hours * 60 + minutes) * 60 + seconds) * 10**9 + int(fraction)


def day_ns(year: bytes, month: bytes, day: bytes) -> int:
    """Midnight of a UTC day as ns since the epoch."""
    if not 1970 <= int(year) <= 2261:
        raise FixError(f"not a year that 63 bits of ns reach: {year!r}")
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


def event_time_ns(group: dict[int, bytes], sending_ns: int) -> int:
    """5060, else 273, else 52: each where the one before it is absent or no time."""
    with suppress(KeyError, FixError):
        return stamp_ns(group[5060], ISO)
    with suppress(KeyError, FixError):
        return entry_time_ns(group[273], sending_ns)
    return sending_ns


def groups(pairs: list[tuple[int, bytes]], count_tag: int, tags: set[int] | None) -> list[dict[int, bytes]]:
    """Instances of a repeating group: each starts with the tag that follows the count.

    With `tags`, the group ends for good at the first known field outside it (the CRC after the entries).
    """
    at = next((i for i, (tag, _) in enumerate(pairs) if tag == count_tag), None)
    if at is None:
        raise FixError(f"required tag {count_tag} missing")
    found: list[dict[int, bytes]] = []
    if tags is not None and any(tag in tags for tag, _ in pairs[:at]):
        raise FixError(f"fields of a group before {count_tag}")
    rest = pairs[at + 1 :]
    first = rest[0][0] if rest else 0
    if tags is not None and first == 55:
        tags = tags | {55}
    if tags is not None and whole(pairs[at][1]) == 0 and any(tag in tags for tag, _ in rest):
        raise FixError("fields of a group, but 268=0")
    for tag, value in rest:
        if tags is not None and tag not in tags:
            continue
        if tag == first:
            found.append({})
        if found:
            found[-1][tag] = value
    if len(found) != whole(pairs[at][1]):
        raise FixError(f"{count_tag}={pairs[at][1]!r} but {len(found)} groups")
    return found


def entry(group: dict[int, bytes], kind: str, sending_ns: int) -> Entry | None:
    """One group of a W or X; None for what is no part of a book and cannot be read: an unknown 269, a wrong trade."""
    try:
        return book_entry(group, kind, sending_ns)
    except FixError:
        if group.get(269, b"0") in (b"0", b"1"):
            raise
        return None


def book_entry(group: dict[int, bytes], kind: str, sending_ns: int) -> Entry:
    """One group of a W or X that states everything an entry needs."""
    required = {269, 270, 271} | ({279} if kind == "X" else set())
    if missing := required - group.keys():
        raise FixError(f"required tags missing: {sorted(missing)}")
    if not all(group.values()):
        raise FixError("a field without a value")
    side, action = group[269].decode("latin-1"), group.get(279, b"0").decode("latin-1")
    if side not in ("0", "1", "2") or action not in ("0", "1", "2"):
        raise FixError(f"269={side} 279={action}")
    price, qty = number(group[270]), number(group[271])
    if qty < 0 or (side == "2" and action != "2" and not qty):
        raise FixError(f"271={qty}")
    return Entry(
        side=side,
        action=action,
        price=price,
        qty=qty,
        id=group.get(278, b"").decode("latin-1"),
        event_ns=event_time_ns(group, sending_ns),
        queue_ns=stamp_ns(group[5273], ISO) if 5273 in group else 0,
        ord_type=one_digit(group.get(40, b"0")),
        aggressor=one_digit(group.get(2446, b"0")),
    )


def message(frame: bytes) -> Message:
    """Everything this project needs of one frame; FixError when its header cannot be read.

    A fault in the body is kept in `fault`: the message has its number all the same.
    """
    pairs = fields(frame)
    if [tag for tag, _ in pairs[:3]] != [8, 9, 35]:
        raise FixError("8, 9, 35 are not the first three fields")
    header: dict[int, bytes] = {}
    for tag, value in pairs:
        header.setdefault(tag, value)
    for tag in (34, 49, 52, 56):
        if tag not in header:
            raise FixError(f"required tag {tag} missing")
    msg = Message(header[35].decode("latin-1"), whole(header[34]), stamp_ns(header[52], SENDING), pairs)
    msg.possdup = header.get(43) == b"Y"
    try:
        if msg.type == "y":
            msg.instruments = groups(pairs[:-1], 146, None) if 146 in header else []
        if msg.type in ("W", "X"):
            market_data(msg, dict(pairs))
    except FixError as error:
        msg.fault = str(error)
    return msg


def is_unclear(pairs: list[tuple[int, bytes]]) -> bool:
    """A field occurs twice in one group, or outside the groups."""
    seen: set[int] = set()
    at = next((i for i, (tag, _) in enumerate(pairs) if tag == 268), len(pairs))
    first = pairs[at + 1][0] if at + 1 < len(pairs) else 0
    for tag, _ in pairs:
        if tag == first:
            seen -= GROUP_TAGS
        if tag in seen:
            return True
        seen.add(tag)
    return False


def market_data(msg: Message, body: dict[int, bytes]) -> None:
    """55, 262, 268 and 5041 of a W or X, and its entries."""
    msg.fields = [(tag, value) for tag, value in msg.fields if value or tag in NEEDED]
    msg.unclear = is_unclear(msg.fields)
    if any(tag in (0, 8, 9, 10) for tag, _ in msg.fields[2:-1]):
        msg.symbol = body.get(55, b"").decode("latin-1")
        raise FixError("not a field of a body")
    msg.symbol = body.get(55, b"").decode("latin-1")
    msg.md_req_id = body.get(262, b"").decode("latin-1")
    if not msg.symbol or not msg.md_req_id:
        raise FixError("required tag 55 or 262 missing")
    read = [entry(group, msg.type, msg.sending_ns) for group in groups(msg.fields, 268, GROUP_TAGS)]
    entries = [each for each in read if each is not None]
    msg.crc = whole(body[5041]) if 5041 in body else None
    if msg.crc is not None and msg.crc >= 1 << 32:
        raise FixError(f"5041={msg.crc}")
    msg.entries = entries
    msg.empty = not read
