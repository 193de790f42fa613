"""An endpoint's certificate, as its record holds it. Whoever trusts it trusts nothing else."""

from __future__ import annotations

import ssl
from functools import lru_cache

_NO_CHECK_TIME = 0x200000
"""``X509_V_FLAG_NO_CHECK_TIME`` (openssl/x509_vfy.h), which Python has no name for."""


@lru_cache(maxsize=4096)
def trusting(certificate: str) -> ssl.SSLContext:
    """The client's side of TLS towards the one server that has this certificate's key.

    The certificate itself is the identity: host names are not compared, since an endpoint is
    reached under several, and its dates are not, since clocks of nodes differ.

    Args:
        certificate: PEM.

    Raises:
        ValueError: it is not a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        context.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"its certificate cannot be read: {error}") from error
    return context


def stranger(error: BaseException) -> bool:
    """Whether a failed connection failed because the server there has another certificate."""
    return isinstance(error, ssl.SSLCertVerificationError)


def failure(error: BaseException) -> str | None:
    """What went wrong with TLS, in words; None when it was something else."""
    if stranger(error):
        return "another server answers there (its certificate is not the launch's)"
    if isinstance(error, ssl.SSLError):
        return f"what answers there does not speak TLS as the engine does ({error.reason or error})"
    return None
