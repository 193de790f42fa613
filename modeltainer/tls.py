"""TLS between gateway and engine: a certificate per launch, pinned by the launch's secret.

There is no authority: both sides read the same owner-only ``secret.json``, so the one certificate
in it is all that a client trusts, whatever name or address it was reached by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl import SSLContext

_YEARS = 10
"""Validity. A launch ends long before; a node's clock may be years off in either direction."""


class NoTlsError(RuntimeError):
    """Certificates cannot be made here; ``hint`` says what to install."""

    message = "site.engine_tls is set, and no certificate can be made: no package cryptography here"
    hint = "pip install 'modeltainer[tls]', or leave site.engine_tls out"

    def __init__(self) -> None:
        super().__init__(f"{self.message}; {self.hint}")


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate and its private key, PEM."""

    certificate: str
    private_key: str


def new_certificate(name: str) -> Certificate:
    """A fresh certificate on a P-256 key.

    Args:
        name: common name, for people who look at it; nobody checks it.

    Raises:
        NoTlsError: the package ``cryptography`` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise NoTlsError from error
    from datetime import datetime, timedelta, timezone

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
    now, span = datetime.now(timezone.utc), timedelta(days=365 * _YEARS)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - span)
        .not_valid_after(now + span)
        # It vouches for itself and for nothing else.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        made.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )


def pinned(certificate: str) -> SSLContext:
    """A client's context that takes this certificate and no other, under any name.

    Raises:
        ValueError: it is not a certificate.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    try:
        context.load_verify_locations(cadata=certificate)
    except ssl.SSLError as error:
        raise ValueError(f"its launch's certificate cannot be read: {error}") from error
    return context
