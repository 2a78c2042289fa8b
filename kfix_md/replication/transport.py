"""What shipping and mirroring need of a broker; jetstream.py has it for NATS JetStream.

A broker keeps the chunks of a feed in the order they were sent, numbers them, and gives them to each mirror once or
more. It may lose what it has acknowledged: the journal of the source is kept until the mirrors have it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from kfix_md.errors import KfixError, UsageError
from kfix_md.replication.chunks import Chunk, Source


class Away(KfixError):
    """The broker cannot be reached or does not answer: to be tried again."""


class Rejected(UsageError):
    """The broker rejects what only a person can change."""


class OutOfTurn(KfixError):
    """Another message was stored since the last one that this shipper knows of."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a shipper sends twice a second, without storing it.

    Attributes
    ----------
    journal, shipper : str
        As of Source.
    alive : bool
        Whether a feed writes the journal.
    position : int
        Where the journal ends.
    """

    journal: str
    shipper: str
    alive: bool
    position: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a mirror has.

    Attributes
    ----------
    journal : str
        Identity of the journal.
    synced : int
        Position up to which the replica is on disk.
    sequence : int
        Of the broker's message that ended there.
    log : str
        Identity of what the broker keeps, another one after it has lost everything.
    """

    journal: str
    synced: int
    sequence: int
    log: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a mirror asks to be sent again.

    Attributes
    ----------
    position : int
        From here on; 0: from the first segment on.
    seen : int
        The broker's sequence of the last message that the mirror has read.
    """

    journal: str
    mirror: str
    position: int
    seen: int


@dataclass(frozen=True, slots=True)
class Last:
    """The newest chunk that the broker has."""

    source: Source
    chunk: Chunk


class Outlet(Protocol):
    """A connection of a shipper. Every call raises Away, or Rejected."""

    chunk_bytes: int
    """Largest chunk that the broker takes."""
    sequence: int
    """Of the last message that was sent."""

    async def last(self) -> Last | None:
        """The newest chunk; None when there is none. What is sent next has to follow it."""
        ...

    async def send(self, chunk: Chunk) -> Awaitable[Any]:
        """Send; what is returned is done when it is stored, and raises Away, Rejected or OutOfTurn."""
        ...

    async def beat(self, beat: Beat) -> None: ...

    async def reports(self, mirrors: list[str]) -> dict[str, Report]:
        """The newest report of each mirror that has reported."""
        ...

    def requests(self) -> list[Request]:
        """What mirrors have asked for since the last call."""
        ...

    def others(self) -> list[Beat]:
        """Beats of other shippers of this feed since the last call."""
        ...

    async def close(self) -> None: ...


class Inlet(Protocol):
    """A connection of a mirror. Every call raises Away, or Rejected."""

    log: str
    """Identity of what the broker keeps."""

    async def report(self, report: Report | None = None) -> Report | None:
        """Replace the mirror's report; without one, read it."""
        ...

    async def follow(self, sequence: int) -> None:
        """Receive all chunks after `sequence`."""
        ...

    async def receive(self, timeout_s: float) -> tuple[int, str, bytes] | None:
        """The next message: sequence, text and bytes of the chunk (see chunks.decode); None when there is none yet."""
        ...

    def beats(self) -> list[Beat]:
        """Beats of shippers since the last call."""
        ...

    async def request(self, request: Request) -> None: ...

    async def close(self) -> None: ...
