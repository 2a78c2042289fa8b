"""Makes the venue's certificates, from an authority of its own that is created on first use."""

import datetime
import os
import ssl
from pathlib import Path

from kfix_md.errors import UsageError

VERSIONS = {"1.3": ssl.TLSVersion.TLSv1_3, "1.2": ssl.TLSVersion.TLSv1_2}
CA, CERTIFICATE, KEY = "ca.pem", "server.pem", "server.key"


def make(directory: str | Path, names: list[str] | None = None, days: int = 365) -> Path:
    """Write ca.pem, server.pem and server.key (localhost, 127.0.0.1, ::1 and `names`); returns the directory.

    Certificates that are already there are kept.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not all((directory / name).exists() for name in (CA, CERTIFICATE, KEY)):
            _write(directory, names or [], days)
    except OSError as error:
        raise UsageError(f"{directory}: cannot keep certificates there ({error.strerror})") from None
    return directory


def _write(directory: Path, names: list[str], days: int) -> None:
    import trustme

    now = datetime.datetime.now(datetime.UTC)
    authority = trustme.CA(organization_name="kfix simulator authority")
    server = authority.issue_cert(
        *dict.fromkeys(["localhost", "127.0.0.1", "::1", *names]),
        common_name="kfix simulator",
        not_before=now - datetime.timedelta(days=1),
        not_after=now + datetime.timedelta(days=days),
    )
    with open(os.open(directory / KEY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(server.private_key_pem.bytes())
    (directory / CERTIFICATE).write_bytes(server.cert_chain_pems[0].bytes())
    (directory / CA).write_bytes(authority.cert_pem.bytes())


def server_context(directory: str | Path, version: str = "1.3") -> ssl.SSLContext:
    """A server's context of one TLS version (1.3 or 1.2) from the files of `make`."""
    directory = Path(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    try:
        context.load_cert_chain(directory / CERTIFICATE, directory / KEY)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{directory}: server.pem and server.key cannot be used ({error}); remove them to make new ones"
        ) from None
    return context
