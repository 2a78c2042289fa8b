"""Opens a TLS connection to a service: resolves the name each time, tries all addresses, verifies the certificate."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfix_md.errors import KfixError, UsageError, reason_of

if TYPE_CHECKING:
    from kfix_md.config import ServiceSection

ADDRESS_TIMEOUT_S = 4.0  # per address; DNS gives several
HANDSHAKE_TIMEOUT_S = 8.0
SHUTDOWN_TIMEOUT_S = 0.7  # of TLS; after that the connection is aborted
_HOSTNAME_MISMATCH, _IP_MISMATCH = 62, 64  # X509_V_ERR_*
_EXPIRED, _NOT_YET_VALID = 10, 9
_UNTRUSTED = {2, 18, 19, 20, 21, 27}
_VERSION_REASONS = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE")

Address = Any  # a socket address: (host, port) or (host, port, flow, scope)
FamilyAddress = tuple[socket.AddressFamily, Address]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of a service and how its certificate is checked."""

    host: str
    port: int
    tls: bool = True
    ca: Path | None = None
    name: str | None = None  # another name than `host` in the certificate
    verify: bool = True
    tls_min: str = "1.3"  # lowest TLS version that is accepted

    @classmethod
    def of(cls, section: ServiceSection) -> Endpoint:
        """The address that a [[service]] of the configuration names."""
        return cls(
            section.host,
            int(section.port or 0),
            section.tls,
            section.tls_ca,
            section.tls_name,
            section.verify,
            section.tls_min,
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class DialError(KfixError):
    """No connection; `kind` is dns, refused, timeout, unreachable, tls, or identity (certificate)."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(slots=True)
class DialResult:
    """Facts about a new connection, for the log and the doctor."""

    address: str
    resolved: list[str]
    took_s: float
    tls_version: str = ""
    cipher: str = ""
    certificate: dict[str, Any] = field(default_factory=dict)
    key: Address = None  # the socket address, as `Unanswered` keeps it

    def __str__(self) -> str:
        tls = f", {self.tls_version} {self.cipher}" if self.tls_version else ", no TLS"
        until = self.certificate.get("notAfter")
        valid = f", certificate until {until}" if until else ""
        return f"{self.address}{tls}{valid} ({self.took_s * 1000:.0f} ms)"


def tls_context(end: Endpoint) -> ssl.SSLContext | None:
    """TLS of at least `tls_min`, certificate and host name verified (unless `verify` is false).

    SSLKEYLOGFILE is ignored, unlike in `ssl.create_default_context`: with that file others can read the session.
    UsageError when the CA file cannot be used.
    """
    if not end.tls:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
        context.hostname_checks_common_name = False  # a name counts only as subjectAltName (RFC 6125)
        if end.ca:
            context.load_verify_locations(str(end.ca))
        else:
            context.load_default_certs()
    except ssl.SSLError as error:  # its number is none of the system's
        raise UsageError(f"tls_ca = {end.ca}: not a PEM certificate file ({_reason(error)})") from None
    except OSError as error:  # no permission, or no descriptor left, which may pass
        raise UsageError(f"tls_ca = {end.ca}: cannot be read: {reason_of(error, lower=True)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if end.tls_min == "1.2" else ssl.TLSVersion.TLSv1_3
    if not end.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: BaseException) -> str:
    if text := getattr(error, "reason", None):
        return str(text)
    if isinstance(error, OSError) and error.strerror:
        return reason_of(error)
    return str(error) or type(error).__name__


def explain(error: BaseException, end: Endpoint) -> DialError:
    """Classify any error of `dial` and name what to check."""
    if isinstance(error, DialError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return DialError("identity", f"{end}: {_explain_certificate(error, end)}")
    if isinstance(error, ssl.SSLError):
        return DialError("tls", f"{end}: {_explain_tls(error, end)}")
    if isinstance(error, socket.gaierror):
        why = f"the name '{end.host}' does not resolve ({error.strerror})"
        return DialError("dns", f"{end}: {why}; check host and DNS")
    if isinstance(error, UnicodeError):
        return DialError("dns", f"{end}: '{end.host}' is not a host name ({error}); correct host")
    if isinstance(error, ConnectionRefusedError):
        return DialError("refused", f"{end}: connection refused; check host and port, or the venue is down")
    if isinstance(error, TimeoutError):
        return DialError("timeout", f"{end}: no answer; check port, firewall and route")
    if isinstance(error, ConnectionError):
        return DialError("tls", f"{end}: connection closed during the TLS handshake")
    return DialError("unreachable", f"{end}: {_reason(error)}")


def _explain_tls(error: ssl.SSLError, end: Endpoint) -> str:
    reason = _reason(error)
    if not any(name in reason.upper() for name in _VERSION_REASONS):
        return f"TLS failed: {reason}; is this a TLS {end.tls_min} port?"
    if end.tls_min == "1.2":
        return f"the venue accepts neither TLS 1.3 nor TLS 1.2 ({reason}); check host and port"
    return f'the venue does not accept TLS 1.3 ({reason}); tls_min = "1.2" would allow TLS 1.2 as well'


def _explain_certificate(error: ssl.SSLCertVerificationError, end: Endpoint) -> str:
    code, message = error.verify_code, error.verify_message
    if code in (_HOSTNAME_MISMATCH, _IP_MISMATCH):
        return f"the certificate is not for '{end.name or end.host}'; correct host (or tls_name)"
    if code in (_EXPIRED, _NOT_YET_VALID):
        return f"{message}; check this machine's clock, else ask Kraken"
    if code in _UNTRUSTED:
        trust = f"tls_ca = {end.ca}" if end.ca else "the system's certificate authorities"
        return f"certificate not signed by {trust} ({message}); set tls_ca to the right file"
    return f"certificate refused: {message}"


async def resolve(end: Endpoint) -> list[FamilyAddress]:
    """Every address of the name, address families interleaved, the resolver's preference first."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(end.host, end.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    seen = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    first = [entry for entry in seen if entry[0] == seen[0][0]]
    second = [entry for entry in seen if entry[0] != seen[0][0]]
    return [entry for pair in zip_longest(first, second) for entry in pair if entry is not None]


async def _connect(family: socket.AddressFamily, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, address), ADDRESS_TIMEOUT_S)
    except BaseException:
        sock.close()
        raise
    return sock


def choose_engine(wanted: str) -> Callable[..., Any]:
    """create_connection(loop, factory, **options) of aiofastnet or of the loop itself.

    UsageError when aiofastnet is configured but not installed.
    """
    if wanted != "uvloop":
        try:
            import aiofastnet

            return aiofastnet.create_connection
        except ImportError:
            if wanted == "aiofastnet":
                message = "feed.tls_engine: aiofastnet is not installed: pip install aiofastnet"
                raise UsageError(message) from None
    return lambda loop, factory, **options: loop.create_connection(factory, **options)


class Unanswered:
    """Addresses that gave no connection, or a connection without an answer to the Logon: they are tried last."""

    def __init__(self) -> None:
        self._since: dict[Address, float] = {}

    def add(self, address: Address) -> None:
        """Put an address last."""
        self._since[address] = time.monotonic()

    def discard(self, address: Address) -> None:
        """The address works."""
        self._since.pop(address, None)

    def order(
        self, addresses: list[tuple[socket.AddressFamily, Address]]
    ) -> list[tuple[socket.AddressFamily, Address]]:
        """The addresses that may work in their order, then the others, the one that failed longest ago first."""
        return sorted(addresses, key=lambda entry: self._since.get(entry[1], 0.0))

    def others(self, count: int) -> bool:
        """True when one of `count` addresses may still work."""
        return len(self._since) + 1 < count


async def dial(
    end: Endpoint,
    factory: Callable[[], asyncio.BaseProtocol],
    context: ssl.SSLContext | None,
    create: Callable[..., Any],
    unanswered: Unanswered | None = None,
) -> tuple[asyncio.Transport, DialResult]:
    """Connect to the first address that completes TCP and TLS; DialError (of the last one) when none does.

    A certificate that does not verify ends the attempt: another address would be no more trustworthy.
    """
    unanswered = unanswered or Unanswered()
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    try:
        addresses = await asyncio.wait_for(resolve(end), ADDRESS_TIMEOUT_S)
    except TimeoutError:
        raise explain(socket.gaierror(0, "the resolver does not answer"), end) from None
    except (OSError, UnicodeError) as error:  # a name that IDNA cannot encode
        raise explain(error, end) from None
    fault: DialError | None = None
    options: dict[str, Any] = {}
    if context is not None:
        options = {
            "ssl": context,
            "server_hostname": end.name or end.host,
            "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S,
            "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT_S,
        }
    for family, address in unanswered.order(addresses):
        try:
            sock = await _connect(family, address)
            transport, _ = await create(loop, factory, sock=sock, **options)
        except (OSError, TimeoutError) as error:
            fault = explain(error, end)
            if fault.kind == "identity":
                break
            unanswered.add(address)
            continue
        resolved = [entry[1][0] for entry in addresses]
        known = DialResult(f"{address[0]}:{address[1]}", resolved, time.monotonic() - started, key=address)
        _tls_details(transport, known)
        return transport, known
    raise fault or DialError("dns", f"{end}: the name '{end.host}' has no address")


def _tls_details(transport: asyncio.Transport, known: DialResult) -> None:
    wrapped = transport.get_extra_info("ssl_object")
    if wrapped is not None:
        known.tls_version = wrapped.version() or ""
        known.cipher = (wrapped.cipher() or ("",))[0]
        known.certificate = wrapped.getpeercert() or {}
