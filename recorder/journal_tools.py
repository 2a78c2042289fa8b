"""Prints and exports raw records of a journal: text, FIX log, pcap."""

import re
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from kfix_md.errors import CaptureError, UsageError
from kfix_md.journal import files as journal_files
from kfix_md.journal.reader import EVENT, FRAME, GARBAGE, OUT, JournalReader
from kfix_md.symbol_text import one_line
from kfix_md.trading_day import DAY_NS, session_date
from recorder.moments import to_ns

_POLL_S = 0.2
#: ports from which on Wireshark knows no protocol: at 4002, for one, it takes FIX for another and never looks for it
_VENUE_PORT, _OUR_PORT = 40_000, 50_000
#: position, kind, session, receive time in ns, flags, body
Record = tuple[int, int, int, int, int, bytes]
_KINDS = {FRAME: "in", EVENT: "event", OUT: "out", GARBAGE: "garbage"}


def listing(directory: Path) -> list[dict[str, Any]]:
    """Segments in order, as JSON rows. bytes: up to the end of what is sealed, else what is reserved."""
    _check(directory)
    rows = []
    for number, head in journal_files.heads(directory).items():
        if head.date == 0:
            continue
        state = f"sealed ({head.reason})" if head.sealed_end else "open" if head.date > 0 else head.reason
        rows.append(
            {
                "file": head.path.name,
                "number": number,
                "position": number << 32,
                "date": session_date(head.date * DAY_NS).isoformat() if head.date > 0 else "",
                "bytes": head.sealed_end or head.size,
                "on_disk": head.path.stat().st_blocks * 512,
                "state": state + (", zstd" if head.compressed else ""),
            }
        )
    return rows


def _check(directory: Path) -> None:
    if not directory.is_dir():
        raise UsageError(f"no journal at {directory}")


def records(
    directory: Path,
    *,
    session: int | None = None,
    start: str | None = None,
    end: str | None = None,
    follow: bool = False,
    damaged: list[str] | None = None,
) -> Iterator[Record]:
    """Records as of JournalReader, damage stepped over and given as (position, -1, 0, 0, 0, text).

    What is damaged is appended to `damaged` as well.
    """
    damaged = [] if damaged is None else damaged
    _check(directory)
    position = int(start, 16) if start and start.startswith("0x") else 0
    first = to_ns(start) if start and not position else None
    last = to_ns(end) if end else None
    reader = JournalReader(directory, position)
    while True:
        try:
            record = reader.read()
        except CaptureError as error:
            at = reader.position
            sound = reader.resync()
            damaged.append(str(error) if sound else f"{error}; nothing sound after it")
            yield at, -1, 0, 0, 0, damaged[-1].encode()
            if not sound:
                return
            continue
        if record is None:
            if not follow:
                return
            time.sleep(_POLL_S)
            continue
        if session is not None and record[2] != session:
            continue
        if (first is None or record[3] >= first) and (last is None or record[3] < last):
            yield record


def text(record: Record) -> bytes:
    """One record as a line: receive time, session, kind, flags, body with | for SOH and control characters escaped."""
    position, kind, session, recv_ns, flags, body = record
    if kind == -1:
        return b"# " + body + b"\n"
    seconds, ns = divmod(recv_ns, 1_000_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ns:09d}Z"
    head = f"{position:#x} {stamp} {session} {_KINDS.get(kind, kind)} {flags:#06x} "
    return (head + one_line(body.replace(b"\x01", b"|").decode("utf-8", "backslashreplace")) + "\n").encode()


def lines(
    directory: Path,
    *,
    session: int | None = None,
    start: str | None = None,
    end: str | None = None,
    raw: bool = False,
    follow: bool = False,
    pattern: str | None = None,
    damaged: list[str] | None = None,
) -> Iterator[bytes]:
    """Records as lines (or raw inbound frames); with `pattern` those that match it. `damaged`: as of records()."""
    try:
        wanted = re.compile(pattern.encode()) if pattern else None
    except re.error as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}") from None
    for record in records(directory, session=session, start=start, end=end, follow=follow, damaged=damaged):
        if raw:
            if record[1] == FRAME:
                yield record[5]
        elif wanted is None or wanted.search(record[5].replace(b"\x01", b"|")):
            yield text(record)


def export(
    directory: Path,
    output: Path,
    kind: str | None = None,
    *,
    session: int | None = None,
    start: str | None = None,
    end: str | None = None,
    damaged: list[str] | None = None,
) -> int:
    """Write frames as "fix", "log" or "pcap" (by the file's name without `kind`); how many.

    "pcap" has all bytes that were received, those of no sound frame included. `damaged`: as of records().
    """
    kind = kind or output.suffix.lstrip(".")
    if kind not in ("fix", "log", "pcap"):
        raise UsageError(f"{output}: name it .fix, .log or .pcap, or give --format")
    found = records(directory, session=session, start=start, end=end, damaged=damaged)
    part = output.with_name(output.name + ".part")
    try:
        with open(part, "wb") as file:
            n = _pcap(file, found) if kind == "pcap" else _plain(file, found, kind)
        part.rename(output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error
    return n


def _plain(file: BinaryIO, found: Iterator[Record], kind: str) -> int:
    n, wanted = 0, (FRAME,) if kind == "fix" else (FRAME, OUT)
    for record in found:
        if record[1] not in wanted:
            continue
        stamp = f"{record[3] // 1_000_000_000}.{record[3] % 1_000_000_000:09d} ".encode() if kind == "log" else b""
        file.write(stamp + record[5] + (b"\n" if kind == "log" else b""))
        n += 1
    return n


def _pcap(file: BinaryIO, found: Iterator[Record]) -> int:
    """Nanosecond pcap, raw IPv4; each feed session is a TCP connection from 10.0.0.<1 + session>:<40000 + session>."""
    file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 101))
    sent: dict[tuple[int, bool], int] = {}
    n = 0
    for _, kind, session, recv_ns, _, body in found:
        if kind in (EVENT, -1):
            continue
        n += 1
        outbound = kind == OUT
        for i in range(0, len(body), 60_000):
            chunk = body[i : i + 60_000]
            packet = _packet(session, outbound, sent, chunk)
            seconds, ns = divmod(recv_ns, 1_000_000_000)
            file.write(struct.pack("<IIII", seconds, ns, len(packet), len(packet)))
            file.write(packet)
    return n


def _packet(session: int, outbound: bool, sent: dict[tuple[int, bool], int], chunk: bytes) -> bytes:
    venue = (bytes([10, 0, 0, 1 + session % 250]), _VENUE_PORT + session % 4000)
    us = (bytes([10, 0, 1, 1]), _OUR_PORT + session % 4000)
    (from_ip, from_port), (to_ip, to_port) = (us, venue) if outbound else (venue, us)
    seq, ack = sent.get((session, outbound), 1), sent.get((session, not outbound), 1)
    sent[session, outbound] = (seq + len(chunk)) & 0xFFFFFFFF
    tcp = struct.pack(">HHIIBBHHH", from_port, to_port, seq, ack, 5 << 4, 0x18, 65535, 0, 0)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp) + len(chunk), 0, 0x4000, 64, 6, 0) + from_ip + to_ip
    total = sum(struct.unpack(">10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return ip[:10] + struct.pack(">H", total) + ip[12:] + tcp + chunk
