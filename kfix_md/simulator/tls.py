"""Makes the venue's certificates, from an authority of its own that is created on first use."""

import datetime
import ipaddress
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from kfix_md.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

VERSIONS = {"1.3": ssl.TLSVersion.TLSv1_3, "1.2": ssl.TLSVersion.TLSv1_2}
CA, CERTIFICATE, KEY = "ca.pem", "server.pem", "server.key"


def _names(extra: list[str]) -> "list[x509.GeneralName]":
    from cryptography import x509

    names: list[x509.GeneralName] = []
    for name in dict.fromkeys(["localhost", "127.0.0.1", "::1", *extra]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            names.append(x509.DNSName(name))
    return names


def _builder(subject: str, issuer: str, key: "EllipticCurvePrivateKey", days: int) -> "x509.CertificateBuilder":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


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
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = "kfix simulator authority"
    ca_identity = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    signs = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    serves = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    ca = (
        _builder(authority, authority, ca_key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_identity, critical=False)
        .add_extension(signs, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    server = (
        _builder("kfix simulator", authority, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identity), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(names)), critical=False)
        .add_extension(serves, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with open(os.open(directory / KEY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secret)
    (directory / CERTIFICATE).write_bytes(server.public_bytes(pem))
    (directory / CA).write_bytes(ca.public_bytes(pem))


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
