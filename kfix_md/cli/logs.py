"""Finds FIX messages in the logs that people have and restores each frame as it was on the wire.

A log may print SOH as any short text, put times and directions before a message, one message a line or all in one, and
hold both directions of several sessions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

SOH = b"\x01"
SNIFFED = 1 << 16  # bytes of a file that decide its form
_LONGEST = 1 << 24  # bytes of a message, at most
_SHORT = 4096  # bytes of a message that are looked at without a search for the next one
_CANDIDATES = 16  # places of "10=" that are tried as the end of one message
_QUEUED = 100_000  # messages of sessions whose direction is not known yet
_LONGEST_START = 64

#: what logs print for SOH; anything of up to eight characters without digits is recognised too
_SEPARATOR = rb"\\u0001|\\x01|\\001|\\1|&#0*1;|&#x0*1;|#001|%01|[^0-9=]{1,8}?"
_START = re.compile(rb"8=FIXT?\.\d\.\d(?P<sep>" + _SEPARATOR + rb")9=(?P<length>\d{1,9})(?P=sep)", re.DOTALL)
_TRAILER = re.compile(rb"10=(\d{3})(?!\d)")
_TYPE, _SENDER, _TARGET = (re.compile(rb"\x01" + tag + rb"=([^\x01]*)") for tag in (b"35", b"49", b"56"))
_NAMES = {SOH: "SOH", b"\t": "tab", b"\n": "line end", "␁".encode(): "'␁'"}
_MARKET_DATA = frozenset((b"W", b"X", b"Y", b"y", b"h"))  # sent by the gateway alone
_REQUESTS = frozenset((b"V", b"x", b"g"))  # sent by the client alone

Pair = tuple[bytes, bytes]  # SenderCompID (49), TargetCompID (56)


@dataclass(frozen=True)
class LoggedMessage:
    """A frame as it was on the wire, and who sent it to whom."""

    frame: bytes
    pair: Pair
    type: bytes


@dataclass(frozen=True)
class _Frame:
    """A frame found in a log, and where its text ends."""

    frame: bytes
    end: int
    fits: bool
    recomputed: bool


class LogReader:
    """Takes a log in pieces of any size and gives its messages.

    Attributes
    ----------
    separators
        Messages by what the log has for SOH.
    prefixed
        Messages with text before them on their line.
    broken
        Beginnings of messages that have no end.
    recomputed
        Messages whose body length or checksum was counted over the log's text and was computed again.
    unfinished
        Bytes of a message that the end of the log cuts, after `finish`.
    """

    def __init__(self) -> None:
        self.separators: Counter[bytes] = Counter()
        self.prefixed = 0
        self.broken = 0
        self.recomputed = 0
        self.unfinished = 0
        self._data = b""
        self._trailer_of: dict[bytes, tuple[int, int]] = {}  # by separator: (searched from, found at)

    def feed(self, data: bytes) -> Iterator[LoggedMessage]:
        """Messages that are complete with these bytes."""
        self._data += data
        self._trailer_of.clear()
        return self._messages(final=False)

    def finish(self) -> Iterator[LoggedMessage]:
        """Messages that the end of the log completes."""
        self._trailer_of.clear()
        return self._messages(final=True)

    def _messages(self, *, final: bool) -> Iterator[LoggedMessage]:
        at = 0
        while start := _START.search(self._data, at):
            found = self._frame(start, final)
            if found is not None:
                self._count(start, found, at)
                at = found.end
                yield _message(found.frame)
            elif self._can_not_end(start, final):
                self.broken += 1
                at = start.end()
            else:
                break
        if final:
            self.unfinished = len(self._data) - start.start() if start is not None else 0
            self._data = b""
        else:  # what may be the beginning of a message stays, with some of what is before it
            begin = start.start() if start is not None else len(self._data)
            self._data = self._data[max(at, begin - _LONGEST_START) :]

    def _count(self, start: re.Match[bytes], found: _Frame, before: int) -> None:
        self.separators[start["sep"]] += 1
        self.recomputed += found.recomputed
        line = self._data.rfind(b"\n", before, start.start()) + 1
        self.prefixed += bool(self._data[max(line, before) : start.start()].strip())

    def _frame(self, start: re.Match[bytes], final: bool) -> _Frame | None:
        """The frame that begins here; None while it has no end."""
        first: int | None = None
        following: list[int] | None = None
        for end in self._trailers(start):
            if following is None and end - start.end() > _SHORT:
                following = self._following(start)
            if following and end >= following[-1]:
                break
            if not final and end + len(b"10=000") + len(start["sep"]) > len(self._data):
                return None
            trailer = _TRAILER.match(self._data, end)
            if trailer is None:
                continue
            if self._may_fit(start, end):
                found = self._restore(start, trailer)
                if found.fits:
                    return found
            if following is None:
                following = self._following(start)
            if first is None:
                first = end if not following or end < following[0] else -1
        if first is None or first < 0 or not (final or self._can_not_end(start, final)):
            return None
        trailer = _TRAILER.match(self._data, first)
        return self._restore(start, trailer) if trailer is not None else None

    def _trailers(self, start: re.Match[bytes]) -> Iterator[int]:
        """Places of "10=" that may end a message: where its body length points first, then one after the other."""
        separator, body = start["sep"], start.end()
        if len(separator) == 1:
            end = body + int(start["length"])
            if self._data.startswith(separator, end - 1) and self._data.startswith(b"10=", end):
                yield end
        at = body - len(separator)
        for _ in range(_CANDIDATES):
            at = self._next_trailer(separator, at) + len(separator)
            if at > len(self._data):
                return
            yield at

    def _next_trailer(self, separator: bytes, at: int) -> int:
        """The first separator with "10=" after it at or after `at`, else the end of the data.

        Each is looked for once: beginnings without an end would search the same bytes again and again.
        """
        searched, found = self._trailer_of.get(separator, (0, -1))
        if not searched <= at <= found:
            found = self._data.find(separator + b"10=", at)
            found = found if found >= 0 else len(self._data)
            self._trailer_of[separator] = (at, found)
        return found

    @staticmethod
    def _may_fit(start: re.Match[bytes], end: int) -> bool:
        """Whether the body length can be that of a message with its trailer at `end`, whatever SOH is printed as."""
        length = int(start["length"])
        return length <= end - start.end() <= length * len(start["sep"])

    def _following(self, start: re.Match[bytes]) -> list[int]:
        """Where up to three messages begin after this beginning; one of them may be quoted in a text field of it."""
        places: list[int] = []
        found: re.Match[bytes] | None = start
        while len(places) < 3 and found is not None and (found := _START.search(self._data, found.end())):
            places.append(found.start())
        return places

    def _can_not_end(self, start: re.Match[bytes], final: bool) -> bool:
        """Whether no more data can bring the end of the message that its body length names."""
        if len(self._data) - start.start() > _LONGEST:
            return True
        reach = start.end() + int(start["length"]) * len(start["sep"]) + _LONGEST_START
        return (final or len(self._data) >= reach) and _START.search(self._data, start.end()) is not None

    def _restore(self, start: re.Match[bytes], trailer: re.Match[bytes]) -> _Frame:
        built = _restored(self._data[start.start() : trailer.start()], start, trailer[1])
        stop = trailer.end()
        stop += len(start["sep"]) if self._data.startswith(start["sep"], stop) else 0
        return _Frame(built.frame, stop, built.fits, built.recomputed)


@dataclass(frozen=True)
class _Restored:
    """A frame with SOH again; `fits` when its body length is that of 9=, or was counted over the log's text."""

    frame: bytes
    fits: bool
    recomputed: bool


def _restored(text: bytes, start: re.Match[bytes], checksum: bytes) -> _Restored:
    """The frame of `text`, a message up to its trailer, with `checksum` as its 10=."""
    separator, length = start["sep"], int(start["length"])
    offset = start.end() - start.start()
    if separator == SOH:
        return _Restored(text + b"10=" + checksum + SOH, length == len(text) - offset, False)
    head = text[: offset - len(separator)].replace(separator, SOH) + SOH
    right = int(checksum)
    body = text[offset:].replace(separator, SOH)
    if len(body) == length and (sum(head) + sum(body)) % 256 == right:
        return _Restored(head + body + b"10=" + checksum + SOH, True, False)
    # a separator inside a value has no tag after it
    body = re.sub(re.escape(separator) + rb"(?=\d{1,6}=|$)", SOH, text[offset:], flags=re.DOTALL)
    if len(body) == length and (sum(head) + sum(body)) % 256 == right:
        return _Restored(head + body + b"10=" + checksum + SOH, True, False)
    return _recomputed(text, head, body, length, len(text) - offset, right)


def _recomputed(text: bytes, head: bytes, body: bytes, length: int, text_length: int, checksum: int) -> _Restored:
    """A frame whose length or checksum does not fit: computed again where they were counted over the log's text."""
    counted_text = length != len(body) and length == text_length
    if counted_text:
        head = head[: head.index(b"9=") + 2] + b"%d" % len(body) + SOH
    summed_text = checksum == sum(text) % 256
    right = sum(head + body) % 256
    trailer = right if counted_text or summed_text else checksum
    fits = counted_text or length == len(body)
    return _Restored(head + body + b"10=%03d" % trailer + SOH, fits, counted_text or trailer != checksum)


def _message(frame: bytes) -> LoggedMessage:
    kind, sender, target = (found[1] if (found := tag.search(frame)) else b"" for tag in (_TYPE, _SENDER, _TARGET))
    return LoggedMessage(frame, (sender, target), kind)


class Directions:
    """Decides which messages the gateway sent: by what only it sends, its CompID, or who answered the first message."""

    def __init__(self) -> None:
        self.counts: Counter[Pair] = Counter()
        self.inbound: dict[Pair, bool] = {}
        self._queue: list[LoggedMessage] = []

    def take(self, message: LoggedMessage) -> list[LoggedMessage]:
        """Messages of the gateway that are known to be such with this one, in their order."""
        self.counts[message.pair] += 1
        if message.pair not in self.inbound:
            self._decide(message)
        if message.pair not in self.inbound:
            self._queue.append(message)
            return self.rest() if len(self._queue) > _QUEUED else []
        ready = [message] if self.inbound[message.pair] else []
        return self._released() + ready if self._queue else ready

    def rest(self) -> list[LoggedMessage]:
        """Messages that wait for a decision: the first of two directions is that of the client, which logs on."""
        for pair in self.counts:
            if pair not in self.inbound:
                self._set(pair, inbound=pair[::-1] not in self.counts)
        return self._released()

    def _decide(self, message: LoggedMessage) -> None:
        sender, target = message.pair
        if message.type in _MARKET_DATA or (sender.startswith(b"KRAKEN") and not target.startswith(b"KRAKEN")):
            self._set(message.pair, inbound=True)
        elif message.type in _REQUESTS or target.startswith(b"KRAKEN"):
            self._set(message.pair, inbound=False)

    def _set(self, pair: Pair, *, inbound: bool) -> None:
        sender, target = pair
        self.inbound[pair] = inbound
        if sender != target:
            self.inbound[target, sender] = not inbound

    def _released(self) -> list[LoggedMessage]:
        ready = [m for m in self._queue if self.inbound.get(m.pair)]
        self._queue = [m for m in self._queue if m.pair not in self.inbound]
        return ready


def is_stream(head: bytes) -> bool:
    """Whether a file that begins with `head` is a raw stream of one direction: SOH, and frames without text in between.

    What is no frame in a raw stream is damage, for the decoder to count.
    """
    at, pairs = 0, set()
    while start := _START.search(head, at):
        gap = head[at : start.start()]
        if start["sep"] != SOH or (gap.strip(b"\r\n") != gap and gap.isascii() and SOH not in gap):
            return False
        end = start.end() + int(start["length"])
        trailer = _TRAILER.match(head, end)
        if trailer is not None:
            pairs.add(_message(head[start.start() : trailer.end()]).pair)
        at = trailer.end() + 1 if trailer is not None else start.end()
    return len(pairs) < 2 and (at > 0 or SOH in head) and not head[at:].isspace()


def separator_name(separator: bytes) -> str:
    """How a message names a separator."""
    return _NAMES.get(separator) or repr(separator)[1:]


#: beginnings of files that hold no FIX text, and what they are
_MAGIC = (
    (b"\x1f\x8b", "a gzip file inside a gzip file: unpack it once"),
    (b"BZh", "a bzip2 file: unpack it first (bunzip2)"),
    (b"\xfd7zXZ", "an xz file: unpack it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "a zstandard file: unpack it first (unzstd)"),
    (b"PK\x03\x04", "a zip archive: unpack it first (unzip)"),
    (b"\xd4\xc3\xb2\xa1", "a packet capture (pcap)"),
    (b"\xa1\xb2\xc3\xd4", "a packet capture (pcap)"),
    (b"\x4d\x3c\xb2\xa1", "a packet capture (pcap)"),
    (b"\xa1\xb2\x3c\x4d", "a packet capture (pcap)"),
    (b"\x0a\x0d\x0d\x0a", "a packet capture (pcapng)"),
    (b"PAR1", "a Parquet file: `kfix verify` and recorder.open() read captures"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "a PDF document"),
    (b"KFIXJRN1", "a segment of a journal: `kfix journal export` writes its frames as .fix"),
    (b"KFIXSHM1", "a segment of shared memory: `kfix top` and `kfix ladder` read it"),
)
_PCAP_HINT = ": write out one direction of its TCP stream first (Wireshark: Follow TCP Stream, Save as raw)"


def foreign(head: bytes) -> str:
    """What a file is that begins as none with FIX messages does; empty when it may be one."""
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what + (_PCAP_HINT if "packet capture" in what else "")
    return "a tar archive: unpack it first (tar xf)" if head[257:262] == b"ustar" else ""


def without_messages(head: bytes) -> str:
    """What a file looks like in which no FIX message was found."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text:
        return "empty" if not head else "blank"
    if b"8=FIX" in head:
        return "text with '8=FIX' but without whole messages (8=FIX.4.4, a separator, 9=, ..., 10=)"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16: convert it first (iconv -f UTF-16 -t UTF-8)"
    if b"\0" in head or sum(byte < 9 for byte in head) > len(head) // 20:
        return "binary data"
    kinds = ((b"{", "JSON"), (b"[{", "JSON"), (b"<?xml", "XML"), (b"<!doctype", "HTML"), (b"<html", "HTML"))
    return next((kind for begin, kind in kinds if text[:10].lower().startswith(begin)), "text of another kind")
