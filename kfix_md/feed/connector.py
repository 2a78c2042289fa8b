"""Network I/O of one service: connects, moves bytes between socket and service, runs timers, stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable
from typing import Any

from kfix_md.feed.clock import Clock
from kfix_md.feed.dial import DialError, Endpoint, Unanswered, dial, tls_context
from kfix_md.feed.pacing import SECOND
from kfix_md.feed.receiving import Reads
from kfix_md.feed.service import Service
from kfix_md.session.types import SessionState

TICK_S = 0.02
CALM_TICK_S = 0.1  # while nothing is due: ticks are the cost of an idle feed
LOGOUT_PATIENCE_S = 1.0
CLOSE_S = 0.7  # an orderly close may take so long, then the connection is aborted
LONG_PAUSE_S, LONGEST_PAUSE_S = 60.0, 600.0  # between attempts after a rejection for identity
ABORT_S = 0.2  # and so long may the engine take to report that
QUICK_LOGON_S = 3.0  # for the Logon reply when another address may answer
FAILURE_PAUSE_S = 1.0  # after an internal error
_TCP_CLOSE = 7  # tcp_info.tcpi_state
MAX_UNSENT = 8 << 20  # bytes; a venue that reads nothing of so much is treated as gone


class Backoff:
    """Pauses between attempts to connect."""

    def __init__(self, longest_s: float, rng: random.Random | None = None) -> None:
        self._longest, self._rng = longest_s, rng or random.Random()
        self._failures = self._rejections = 0

    def success(self) -> None:
        """Logged on for a while: the next attempt after a loss is immediate again."""
        self._failures = self._rejections = 0

    def next(self, retry: str) -> float:
        """Seconds to wait; `retry` is the session's advice: now, rollover, backoff or long."""
        jitter = self._rng.uniform(0.75, 1.25)
        if retry == "now":  # the venue answered, and the next Logon differs from the one it refused
            return 0.05 * jitter
        self._failures += 1
        if retry == "rollover":  # quickly at first, then about every 2 s
            return min(0.25 * 2.0 ** min(self._failures - 1, 10), 2.0) * jitter
        if retry == "long":  # identity, limits, blocks: haste only makes it worse
            self._rejections += 1
            longest = max(LONG_PAUSE_S, self._longest)
            return min(longest * 2.0 ** min(self._rejections - 1, 10), max(LONGEST_PAUSE_S, longest)) * jitter
        delay = 0.05 if self._failures == 1 else min(0.2 * 2.0 ** min(self._failures - 2, 20), self._longest)
        return delay * jitter


class _Protocol(Reads, asyncio.BufferedProtocol):
    """One connection; reads go straight into the handler's buffer."""

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector.service, connector)
        self.get_buffer = self.service.handler.get_buffer  # type: ignore[method-assign]
        self.transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ending = False  # the close has begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def flush(self) -> None:
        """Write the session's output, and close when it asks for that."""
        transport = self.transport
        if transport is None or self.ending:
            return
        data = self.service.output()
        if data and not transport.is_closing():
            transport.write(data)
        if transport.get_write_buffer_size() > MAX_UNSENT:
            self.end(abort=True)
        elif self.service.close_reason is not None:
            self.end()

    def end(self, abort: bool = False, by_venue: bool = False) -> None:
        """Close the connection, within a second whatever the TLS engine does; its books stop being live now."""
        if self.ending or self.transport is None:
            return
        self.ending = True
        try:
            self.service.leave(self.now_ns(), by_venue)
        except Exception:
            self.service.failed("the connection is closed all the same")
        if abort:
            self._abort()
        else:
            self.transport.close()
            asyncio.get_running_loop().call_later(CLOSE_S, self._abort)

    def failed(self) -> None:
        """An error of ours: log it and replace the connection."""
        self.service.failed("reconnecting")
        self.end(abort=True)

    def _abort(self) -> None:
        if self.closed.done():
            return
        assert self.transport is not None
        self.transport.abort()
        asyncio.get_running_loop().call_later(ABORT_S, self._give_up)

    def _give_up(self) -> None:
        """The engine reports no end: shut the socket down and go on without it."""
        if self.closed.done():
            return
        self.over = True
        raw = self.transport.get_extra_info("socket") if self.transport is not None else None
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)
        self.closed.set_result("closed by us")

    def notice_reset(self) -> None:
        """Abort a connection that the kernel reports as reset while the loop has not noticed.

        After a reset seen by an add_reader callback (aiofastnet under uvloop), libuv stops polling the socket
        and calls nothing.
        """
        transport = self.transport
        if transport is None or self.closed.done():
            return
        raw = transport.get_extra_info("socket")
        if raw is None or raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _TCP_CLOSE:
            return
        read = getattr(transport, "_read_ready", None)
        if read is not None and not transport.is_closing():  # what had arrived before the reset
            read()
        if self.ending:
            self._abort()
        else:
            self.end(abort=True, by_venue=True)

    def eof_received(self) -> bool:
        self.end(by_venue=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ending = self.over = True
        if not self.closed.done():
            self.closed.set_result(_lost(exc))


def _lost(exc: Exception | None) -> str:
    if exc is None:
        return "closed by the venue"
    if isinstance(exc, ConnectionResetError):
        return "reset by the venue"
    return f"connection failed: {exc}"


class Connector:
    """Keeps one service connected for ever.

    `create` is the result of `dial.choose_engine`. `on_fatal(message)` is called when the certificate does not
    verify before any connection was made, which only a person can put right; when it returns False, the service goes on
    trying.
    """

    def __init__(
        self,
        service: Service,
        create: Callable[..., Any],
        *,
        on_fatal: Callable[[str], bool],
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        section = service.section
        self.service, self.clock = service, clock or Clock()
        self.endpoint = Endpoint.of(section)
        self.context = tls_context(self.endpoint)
        self.backoff = Backoff(section.retry_max_s, rng)
        self.measure: Callable[[float], None] | None = None  # called once, with the seconds the next read takes
        self.details: Any = None  # dial.DialResult of the present connection
        self._create, self._on_fatal = create, on_fatal
        self._protocol: _Protocol | None = None
        self._unanswered = Unanswered()
        self._stop = asyncio.Event()
        self._ever = False

    async def run(self) -> None:
        """Connect, serve, wait and repeat until `stop`."""
        while not self._stop.is_set():
            try:
                self.service.session.tick(self.clock.now_ns())  # the rollover is armed also while disconnected
                if not await self._once() or self.service.session.retry == "never":
                    return
                await self._sleep(self.backoff.next(self.service.session.retry))
            except Exception:
                self._failed()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), FAILURE_PAUSE_S)

    def _failed(self) -> None:
        """An internal error outside a read: the books are void, and the service starts again."""
        self.service.failed("the service starts again")
        protocol, self._protocol = self._protocol, None
        try:
            if protocol is not None:
                protocol.end(abort=True)
            self.service.abandon(self.clock.now_ns())
        except Exception:
            self.service.log.exception("internal error while a connection was given up")

    async def _once(self) -> bool:
        """One connection from dial to loss; False when it must not be tried again."""
        service = self.service
        try:
            details = await self._dial()
        except DialError as error:
            service.disconnected(self.clock.now_ns(), error.kind)
            if error.kind == "identity" and not self._ever and self._on_fatal(f"{service.name}: {error}"):
                return False
            if error.kind == "stopped":
                return False
            planned = service.session.retry == "rollover"
            level = logging.INFO if planned else logging.WARNING
            service.log.log(level, "%s", error, extra={"event": "dial_failed"})
            return True
        self._ever, self.details = True, details
        protocol = self._protocol
        assert protocol is not None
        self._shorten_logon(len(details.resolved))
        service.connected(self.clock.now_ns(), str(details))
        protocol.flush()
        ticker = asyncio.create_task(self._tick(protocol))
        try:
            reason = await protocol.closed
        finally:
            ticker.cancel()
            self._protocol = None
        if protocol.answered:
            self._unanswered.discard(details.key)
        else:
            self._unanswered.add(details.key)
            if len(details.resolved) > 1:
                service.log.warning("no answer to the Logon from %s; trying another address next", details.address)
        service.disconnected(self.clock.now_ns(), reason)
        return True

    def _shorten_logon(self, addresses: int) -> None:
        """Wait less for the Logon reply while another address may answer."""
        usual = self.service.section.logon_timeout_s
        quick = self._unanswered.others(addresses)
        self.service.session.config.logon_timeout = min(usual, QUICK_LOGON_S) if quick else usual

    async def _dial(self) -> Any:
        def factory() -> _Protocol:
            self._protocol = _Protocol(self)
            return self._protocol

        dialling = asyncio.create_task(dial(self.endpoint, factory, self.context, self._create, self._unanswered))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({dialling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not dialling.done():
            dialling.cancel()
            raise DialError("stopped", f"{self.endpoint}: stopped")
        return dialling.result()[1]

    async def _tick(self, protocol: _Protocol) -> None:
        on = False
        while True:
            try:
                calm = self.service.calm(self.clock.now_ns() + int(CALM_TICK_S * SECOND))
                await asyncio.sleep(CALM_TICK_S if calm else TICK_S)
                now_ns = self.clock.now_ns()
                self.service.tick(now_ns)
                protocol.flush()
                protocol.notice_reset()
            except Exception:  # an error of ours must not leave a session without its timers
                protocol.failed()
                return
            if not on and self.service.session.state == SessionState.ON:
                on = True
            elif on and now_ns - self.service.since_ns > 5 * SECOND:
                self.backoff.success()

    async def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stop.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self.service.session.tick(self.clock.now_ns())
            try:
                await asyncio.wait_for(self._stop.wait(), min(left, 1.0))
            except TimeoutError:
                continue

    def replace(self) -> None:
        """End the present connection in order, for a new one."""
        if self._protocol is not None:
            self._protocol.end()

    async def stop(self) -> None:
        """Log out, wait briefly for the venue's confirmation, close."""
        self._stop.set()
        protocol = self._protocol
        if protocol is None or protocol.transport is None:
            return
        self.service.logout(self.clock.now_ns())
        protocol.flush()
        try:
            await asyncio.wait_for(asyncio.shield(protocol.closed), LOGOUT_PATIENCE_S)
        except TimeoutError:
            protocol.end(abort=True)
            await protocol.closed
