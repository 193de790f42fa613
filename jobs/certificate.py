"""A fresh key and certificate for one launch's engine, made on the compute node.

By the ``openssl`` command: distributions bring it with their certificates, and it costs the agent
no import from the shared filesystem. Options: openssl-req(1), openssl-x509v3_config(5).
"""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

KEY_FILE = "engine.key"
CERTIFICATE_FILE = "engine.crt"
_CONFIG_FILE = "engine.cnf"
_DAYS = "3650"
"""Longer than any job; the certificate's use ends with its endpoint's record."""
_CONFIG = """\
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = modeltainer
[extensions]
basicConstraints = critical, CA:FALSE
subjectAltName = {address}
"""
"""The whole configuration, since a site's own may add what does not belong here."""


class NoCertificateError(RuntimeError):
    """No certificate could be made on this node; says why."""


def make_certificate(folder: Path, host: str) -> str:
    """Put :data:`KEY_FILE` (mode 0600) and :data:`CERTIFICATE_FILE` into ``folder``.

    Args:
        folder: only the job's user can enter it.
        host: the endpoint's host name or address, for clients that compare it. Ours do not.

    Returns:
        The certificate, PEM.

    Raises:
        NoCertificateError: there is no ``openssl`` command, or it failed.
    """
    config = folder / _CONFIG_FILE
    argv = [
        *("openssl", "req", "-x509", "-config", str(config), "-days", _DAYS),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", str(folder / KEY_FILE), "-out", str(folder / CERTIFICATE_FILE)),
    ]
    try:
        config.write_text(_CONFIG.format(address=_alternative_name(host)))
        # umask: the key is closed to others from its first byte on.
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            umask=0o077,
            check=False,
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise NoCertificateError(f"openssl cannot make a certificate: {said}")
        return (folder / CERTIFICATE_FILE).read_text()
    except FileNotFoundError as error:
        raise NoCertificateError("there is no openssl command on the compute node") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCertificateError(f"openssl cannot make a certificate: {error}") from error


def _alternative_name(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
