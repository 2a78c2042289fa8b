"""Reads and writes FIX text without any help from the package's codec."""

import calendar
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from zlib import adler32

import numpy as np

SOH = b"\x01"
BEGIN = b"8=FIX.4.4\x01"
MAX_BODY = 1 << 24

Fields = list[tuple[int, bytes]]


def byte_sum(data: bytes) -> int:
    """Sum of the bytes of `data`. Adler-32's low half is that sum plus one while it stays under 65521."""
    if len(data) <= 256:
        return (adler32(data) & 0xFFFF) - 1
    return int(np.frombuffer(data, np.uint8).sum(dtype=np.int64))


def finish(body: bytes, total: int | None = None) -> bytes:
    """The whole frame around `body` (from 35= to the last SOH); `total` is its byte sum where known."""
    head = b"8=FIX.4.4\x019=%d\x01" % len(body)
    if total is None:
        total = byte_sum(body)
    return b"%b%b10=%03d\x01" % (head, body, (byte_sum(head) + total) & 255)


def join(fields: Iterable[tuple[int, object]]) -> bytes:
    """`tag=value` and SOH for each pair; values are bytes, str or int."""
    return b"".join(
        b"%d=%b\x01" % (tag, value if isinstance(value, bytes) else raw(str(value))) for tag, value in fields
    )


def raw(text: str) -> bytes:
    """Bytes of a text; bytes that are no UTF-8 are surrogates in it."""
    return text.encode("utf-8", "surrogateescape")


def text(data: bytes) -> str:
    """The text that `raw` turns back into `data`."""
    return data.decode("utf-8", "surrogateescape")


def message(fields: Iterable[tuple[int, object]]) -> bytes:
    """One frame from all fields between 9 and 10, 35 first."""
    return finish(join(fields))


def split(frame: bytes) -> Fields:
    """All (tag, value) of a frame in order; ValueError when a piece is not `number=value`."""
    pairs = []
    for piece in frame.rstrip(SOH).split(SOH):
        tag, equals, value = piece.partition(b"=")
        if not equals or not tag.isdigit():
            raise ValueError(f"not a field: {piece[:40]!r}")
        pairs.append((int(tag), value))
    return pairs


class FrameReader:
    """Cuts a byte stream into frames; garbled bytes are counted and skipped up to the next `8=FIX`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.garbled = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield every whole, sound frame that `data` completes."""
        self._buffer += data
        while True:
            start = self._buffer.find(b"8=FIX")
            if start < 0:
                del self._buffer[:-4]
                return
            if start:
                self.garbled += 1
                del self._buffer[:start]
            size = self._frame_size()
            if size == 0:
                return
            if size < 0:
                self.garbled += 1
                del self._buffer[:5]
                continue
            frame = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield frame

    def _frame_size(self) -> int:
        """Bytes of the frame at the front, 0 when more is needed, -1 when it is garbled."""
        buffer = self._buffer
        head = buffer.find(SOH)
        tail = buffer.find(SOH, head + 1)
        if head < 0 or tail < 0:
            return 0 if len(buffer) < 40 else -1
        length = bytes(buffer[head + 3 : tail])
        if buffer[head + 1 : head + 3] != b"9=" or not length.isdigit() or int(length) > MAX_BODY:
            return -1
        end = tail + 1 + int(length)
        if len(buffer) < end + 7:
            return 0
        trailer = bytes(buffer[end : end + 7])
        expected = byte_sum(bytes(buffer[:end])) & 255
        return end + 7 if trailer == b"10=%03d\x01" % expected else -1


def number(value: int, precision: int) -> str:
    """A scaled integer as Kraken writes it: a float without padding, always with a dot (`28013.0`)."""
    if precision == 0:
        return f"{value}.0"
    sign, digits = ("-" if value < 0 else ""), str(abs(value)).rjust(precision + 1, "0")
    return f"{sign}{digits[:-precision]}.{digits[-precision:].rstrip('0') or '0'}"


def scaled(text: str, precision: int) -> int:
    """The integer of `text` in units of 10**-precision; ValueError when `text` is finer than that."""
    whole, _, part = text.partition(".")
    part = part.rstrip("0")
    if len(part) > precision:
        raise ValueError(f"{text} is finer than {precision} decimals")
    sign = -1 if whole.startswith("-") else 1
    return sign * int((whole.lstrip("+-") or "0") + part.ljust(precision, "0"))


def sending_time(now_ns: int, decimals: int = 3) -> bytes:
    """`YYYYMMDD-HH:MM:SS.mmm` of tag 52."""
    seconds, rest = divmod(now_ns, 1_000_000_000)
    day = time.gmtime(seconds)
    return b"%04d%02d%02d-%02d:%02d:%02d%b" % (*day[:6], fraction(rest, decimals).encode())


def fraction(ns: int, decimals: int) -> str:
    """Point and decimals of a second's nanoseconds: any number of them, none without a point."""
    return f".{ns:09d}000"[: decimals + 1] if decimals else ""


@lru_cache(1 << 14)
def _clock(seconds: int) -> str:
    return f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


@lru_cache(1 << 10)
def _day(days: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(days * 86_400))


def time_of_day(now_ns: int, decimals: int = 3) -> str:
    """`HH:MM:SS.mmm` of tag 273."""
    if decimals != 3:
        return _clock(now_ns // 1_000_000_000 % 86_400) + fraction(now_ns % 1_000_000_000, decimals)
    milliseconds = now_ns // 1_000_000 % 86_400_000
    return f"{_clock(milliseconds // 1000)}.{milliseconds % 1000:03d}"


def iso_time(now_ns: int, decimals: int = 9) -> str:
    """ISO 8601 with nanoseconds and `Z`, of tags 5060 and 5273."""
    days, rest = divmod(now_ns, 86_400_000_000_000)
    return f"{_day(days)}T{_clock(rest // 1_000_000_000)}{fraction(rest % 1_000_000_000, decimals)}Z"


def iso_ns(text: str) -> int:
    """Nanoseconds since the epoch of an ISO 8601 text as `iso_time` writes it, any number of decimals."""
    clock, _, part = text.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(clock, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int(part.ljust(9, "0")[:9] or 0)


class Stamp:
    """Text of tag 52 for a moment, rebuilt at most once a millisecond unless it is finer."""

    def __init__(self, decimals: int = 3, offset: int = 0) -> None:
        self.decimals, self._offset_ns = decimals, offset * 1_000_000_000
        self._millisecond = -1
        self.text = b""

    def at(self, now_ns: int) -> bytes:
        """The text for `now_ns`."""
        millisecond = now_ns // 1_000_000
        if millisecond != self._millisecond or self.decimals > 3:
            self._millisecond = millisecond
            self.text = sending_time(now_ns + self._offset_ns, self.decimals)
        return self.text
