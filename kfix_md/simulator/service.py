"""Runs one gateway: its port, symbols and sessions, and which Logons it refuses."""

import asyncio
import socket
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from kfix_md.errors import UsageError
from kfix_md.services import PORT_BASE, SERVICES
from kfix_md.simulator import habits, logons
from kfix_md.simulator.acceptor import Acceptor
from kfix_md.simulator.dialect import Dialect
from kfix_md.simulator.lines import Line
from kfix_md.simulator.sender import Peer

if TYPE_CHECKING:
    from kfix_md.simulator.venue import Venue

REFUSALS = ("close", "logout", "tcp", "port", "dead")


class VenueService:
    """One gateway: a port, the symbols it carries, its sessions."""

    def __init__(self, venue: "Venue", name: str) -> None:
        self.venue, self.name = venue, name
        spec = SERVICES[name]
        self.offset, self.target = spec.port - PORT_BASE, spec.target_comp_id
        self.venue_name, self.level = spec.market, spec.level
        checksum = "level" if self.level == "L2" else venue.config.l3_rule
        switches = {name: value for name, value in venue.config.vary.items() if name not in habits.SWITCHES}
        self.dialect = Dialect(checksum).changed(**switches)
        self.lines: dict[str, Line] = {}
        self.bad_rows: list[bytes] = []  # of the instrument list, before all others
        self.sessions: set[Acceptor] = set()
        self.peers: dict[str, Peer] = {}
        self.messages = 0
        self.counts: Counter[str] = Counter()
        self.port = 0
        self.refuse_until = 0
        self.refuse_how = "close"
        self.refuse_text = logons.REFUSED
        self.logon_faults: deque[dict[str, Any]] = deque()
        self.request_faults: deque[tuple[str, str]] = deque()
        self.symbol_rejects: dict[str, deque[int | str]] = {}
        self._server: asyncio.Server | None = None
        self._dead: asyncio.Server | None = None
        self._context: Any = None
        self._opening: asyncio.Task[None] | None = None
        self._connections = 0

    async def listen(self, port: int, context: Any) -> None:
        """Open the port; UsageError when it is taken."""
        self._context = context
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connect, self.venue.config.host, port, ssl=context, family=socket.AF_UNSPEC
            )
        except OSError as error:
            raise UsageError(
                f"{self.venue.config.host}:{port} cannot be opened ({error.strerror or error}); "
                "choose another --port-base, or 0 for any free ports"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        if self.venue.config.dead_host and self._dead is None:
            self._dead = await asyncio.get_running_loop().create_server(
                asyncio.Protocol, self.venue.config.dead_host, self.port, ssl=context
            )

    def _connect(self) -> Acceptor:
        self._connections += 1
        return Acceptor(self, self._connections)

    def close(self) -> None:
        """Stop listening and end every session."""
        for server in filter(None, (self._server, self._dead)):
            server.close()
        for session in list(self.sessions):
            session.close("rst")

    def count(self, what: str) -> None:
        """One more of something, for `stats`."""
        self.counts[what] += 1

    def refuse(self, seconds: float, how: str, text: str = logons.REFUSED) -> None:
        """Refuse logons for a while.

        `how`: `close` (silently), `logout` (with `text`), `tcp` (the connection is reset), `port` (nothing listens),
        or `dead` (TCP and TLS succeed, the Logon is not answered).
        """
        if how not in REFUSALS:
            raise ValueError(f"no such way to refuse: {how} ({', '.join(REFUSALS)})")
        self.refuse_text = text
        # a port that is open again rejects no Logon: the loop's timer may be a little early by the clock
        self.refuse_until = 0 if how == "port" else self.venue.now() + int(seconds * 1e9)
        self.refuse_how = how
        if how == "port" and seconds and self._server:
            self._server.close()
            self._server = None
            asyncio.get_running_loop().call_later(seconds, self._reopen)

    def _reopen(self) -> None:
        self._opening = asyncio.get_running_loop().create_task(self.listen(self.port, self._context))

    def accepts(self, _session: Acceptor) -> bool:
        """Whether a new connection may stay open."""
        return self.refuse_how != "tcp" or self.venue.now() >= self.refuse_until

    @property
    def dead(self) -> bool:
        """Whether a new connection is never answered."""
        return self.refuse_how == "dead" and self.venue.now() < self.refuse_until

    def refuses(self, sender: str, target: str) -> str | None:
        """Why a Logon is refused: text of the Logout, empty for a silent close; None when it is welcome."""
        if self.venue.now() < self.refuse_until:
            self.count("logons refused")
            return self.refuse_text if self.refuse_how == "logout" else ""
        peer = self.peers.get(sender)
        if peer and peer.session:
            self.count("duplicate identity")
            return ""
        if target != self.target or not sender:
            self.count("logons refused")
            return f"Invalid TargetCompID, expected {self.target}"
        return None

    def take_logon_fault(self) -> dict[str, Any] | None:
        """The fault for the next Logon, if any."""
        return self.logon_faults.popleft() if self.logon_faults else None

    def take_request_fault(self, kind: bytes) -> str | None:
        """`j` or `3` when the next request of this type is to be rejected so."""
        for place, (answer, wanted) in enumerate(self.request_faults):
            if not wanted or wanted.encode() == kind:
                del self.request_faults[place]
                return answer
        return None

    def take_reject(self, symbol: str) -> int | str | None:
        """281 for the next subscription of a symbol, when one was ordered."""
        queue = self.symbol_rejects.get(symbol)
        return queue.popleft() if queue else None

    def send_raw(self, session: Acceptor, kind: bytes, body: bytes) -> int:
        """Send a message whose text after the header is ready."""
        return session.emit(kind, body, b"", 0)

    def live(self) -> list[Acceptor]:
        """Sessions that are logged on."""
        return [session for session in self.sessions if session.logged_on and not session.ended]
