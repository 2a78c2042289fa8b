"""Makes journals for tests: generated sessions through the live handler, as a feed would write them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from kfix_md import Handler
from kfix_md.journal.writer import JournalWriter
from recorder.process import Recorder, Settings
from tests.oracle.follow import Follower
from tests.streams import generate

START_NS = 1_709_200_800_000_000_000  # 2024-02-29 10:00 UTC
STEP_NS = 1_000_000
SERVICES = ("spot-l2", "derivatives-l2", "derivatives-l3", "spot-l3")


@dataclass
class OracleEntry:
    """One applied entry as the oracle reads it."""

    symbol: str
    seq: int
    recv_ns: int
    side: str
    action: str
    price: Decimal
    qty: Decimal
    id: str
    event_ns: int
    queue_ns: int | None


def oracle_entries(data: bytes, times: dict[int, int]) -> list[OracleEntry]:
    """Entries of a clean stream; `times` gives the receive time of each MsgSeqNum."""
    seen = Follower().feed(data)
    actions = {"0": "new", "1": "update"}
    out = []
    for message, _, e in seen.entries:
        action = actions.get(e.action) or ("leave" if e.qty else "delete")
        out.append(
            OracleEntry(
                message.symbol,
                message.seq,
                times[message.seq],
                ("bid", "offer", "trade")[int(e.side)],
                action,
                e.price,
                e.qty,
                e.id,
                e.event_ns,
                e.queue_ns or None,
            )
        )
    return out


def announce(journal: JournalWriter, number: int, service: str, now_ns: int) -> None:
    """What a feed writes when it starts."""
    journal.event(
        number,
        now_ns,
        {
            "type": "session",
            "number": number,
            "service": service,
            "level": service[-2:].upper(),
            "host": "localhost",
            "port": 4000 + number,
            "sender": "A",
            "target": "KRAKEN-MD",
        },
    )


def write_session(
    journal: JournalWriter,
    number: int,
    service: str,
    frames: list[bytes],
    start_ns: int,
    step_ns: int = STEP_NS,
    name: str = "",
    end: bool = True,
) -> int:
    """One logon, its frames through the live handler, and its end; the time after it."""
    now = start_ns
    announce(journal, number, service, now)
    journal.event(number, now, {"type": "logged_on", "session_id": name or f"{service}-{start_ns}"})
    handler = Handler(level=service[-2:].upper(), session_number=number, journal=journal)
    for frame in frames:
        now += step_ns
        handler.on_bytes(frame, now)
    if end:
        journal.event(number, now, {"type": "disconnected", "reason": "logout", "cause": "disconnect"})
    return now


def seq_times(frames: list[bytes], start_ns: int, step_ns: int = STEP_NS) -> dict[int, int]:
    """Receive time of each MsgSeqNum as write_session gives it."""
    return {i + 1: start_ns + (i + 1) * step_ns for i in range(len(frames))}


def journal_of(
    path: Path,
    services=SERVICES,
    *,
    messages: int = 300,
    segment_bytes: int = 1 << 18,
    start_ns: int = START_NS,
    **options,
) -> dict[str, tuple]:
    """A journal with one session of each service; service -> (stream, start of its session)."""
    streams = {}
    with JournalWriter(path, segment_bytes=segment_bytes) as journal:
        now = start_ns
        for number, service in enumerate(services):
            stream = generate(service, messages=messages, seed=number + 1, **options)
            streams[service] = (stream, now)
            now = write_session(journal, number, service, stream.frames, now)
    return streams


def settings(tmp_path: Path, **options) -> Settings:
    """Recorder settings over tmp_path/journal and tmp_path/captures."""
    return Settings(tmp_path / "journal", tmp_path / "captures", **options)


def record(tmp_path: Path, **options) -> int:
    """Record what is there; rows written."""
    recorder = Recorder(settings(tmp_path, **options))
    try:
        recorder.once()
        return recorder.rows
    finally:
        recorder.close()


def keys(table) -> Iterator[tuple]:
    """(session, seq, entry_no, action) of ticks: unique in captures."""
    names = ("session", "seq", "entry_no", "action")
    return zip(*(table[n].to_pylist() for n in names), strict=True)


def two_days(tmp_path: Path) -> None:
    """A journal of two session dates, L2 and L3."""
    day = 86_400_000_000_000
    with JournalWriter(tmp_path / "journal", segment_bytes=1 << 17) as journal:
        for i in range(2):
            for number, service in enumerate(("spot-l2", "spot-l3")):
                frames = generate(service, messages=150, seed=20 + i).frames
                write_session(journal, number, service, frames, START_NS + i * day + number * 10**9)


class Killed(BaseException):
    """Raised where a process is to end."""
