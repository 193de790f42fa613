"""Who is asking: ``Authorization: Bearer`` or ``x-api-key``, checked against the key files.

Browsers (``/admin``, ``/docs``) send it as the password of ``Authorization: Basic``.
"""

from __future__ import annotations

import asyncio
import binascii
import hmac
from collections.abc import Iterable, Sequence

from modeltainer.gateway.errors import GatewayError
from modeltainer.registry.keys import KeyRecord, KeyRing

NOBODY = KeyRecord(id="none", name="no key asked for", sha256="")
"""Stands for a client where the Unix socket's permissions decide who may connect."""
OWNER = KeyRecord(id="owner", name="the gateway's owner", sha256="")
"""Stands for whoever can read the gateway's own state file: mt-submit of the same user."""
ON_BEHALF = b"x-modeltainer-for"
"""A key's id: the owner asks as if by that key, as batches do that it has ordered."""

LOOK_AGAIN_S = 0.2
"""Least time between two looks at the key folder for unknown keys: guessing costs the shared
filesystem no more than five listings a second, and the guesser a wait."""


class Authenticator:
    """From a request's header fields to the key it was sent with."""

    def __init__(self, ring: KeyRing, *, required: bool, owner_token: str = "") -> None:
        self._ring = ring
        self._required = required
        self._owner_token = owner_token.encode()
        self._looking = asyncio.Lock()
        self._looks_begun = 0

    async def admit(
        self, headers: Iterable[tuple[bytes, bytes]], *, by_password: bool = False
    ) -> KeyRecord:
        """As :meth:`identify`; but before a key is called unknown the key folder is read once more,
        so that a key works as soon as `mt-submit key create` has printed it."""
        fields = list(headers)
        try:
            return self.identify(fields, by_password=by_password)
        except GatewayError:
            if presented_key(fields, by_password=by_password) is None:
                raise
        await self._look_again()
        return self.identify(fields, by_password=by_password)

    async def _look_again(self) -> None:
        """Wait for one reading of the folder that began after this call; callers share it."""
        begun = self._looks_begun
        async with self._looking:
            if self._looks_begun > begun:
                return
            self._looks_begun += 1
            await asyncio.to_thread(self._ring.refresh)
            await asyncio.sleep(LOOK_AGAIN_S)

    @property
    def generation(self) -> int:
        """Grows with each change of the keys."""
        return self._ring.generation

    def still_valid(self, key: KeyRecord, generation: int) -> bool:
        """Whether what :meth:`identify` has found is valid yet; ``generation``: as it was then."""
        return self._ring.still_valid(key, generation)

    def identify(
        self, headers: Sequence[tuple[bytes, bytes]], *, by_password: bool = False
    ) -> KeyRecord:
        """The key of a request; ``by_password``: as for :func:`presented_key`.

        Raises:
            GatewayError: 401: no key, or one that is unknown, revoked or expired.
        """
        if not self._required:
            return NOBODY
        given = presented_key(headers, by_password=by_password)
        if given is None:
            raise GatewayError(
                401,
                "You did not provide an API key; send it as 'Authorization: Bearer KEY' "
                "(make one with: mt-submit key create NAME)",
                "missing_api_key",
            )
        if self._owner_token and hmac.compare_digest(given, self._owner_token):
            return self._on_behalf(headers)
        record = self._ring.find(given.decode("utf-8", "surrogateescape"))
        if record is None:
            raise GatewayError(
                401,
                "This API key is not valid here: it is unknown, revoked or expired",
                "invalid_api_key",
            )
        return record

    def _on_behalf(self, headers: Iterable[tuple[bytes, bytes]]) -> KeyRecord:
        key_id = next((value.decode("latin-1") for name, value in headers if name == ON_BEHALF), "")
        if key_id in ("", OWNER.id, NOBODY.id):
            return OWNER
        record = self._ring.named(key_id)
        if record is None:
            message = f"The API key {key_id} that this is asked for is revoked or expired"
            raise GatewayError(403, message, "key_not_valid")
        return record


def presented_key(
    headers: Iterable[tuple[bytes, bytes]], *, by_password: bool = False
) -> bytes | None:
    """The key in a request's header fields; the bearer token goes before ``x-api-key``.

    ``by_password``: it may be what a browser was told once (the password of Basic). The browser
    sends that with requests of other sites' pages, too, so nothing may come of such a request."""
    other = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer" and token.strip():
                return token.strip()
            if by_password and scheme.lower() == b"basic":
                return _password(token)
        elif name == b"x-api-key" and value.strip():
            other = value.strip()
    return other


def _password(credentials: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(credentials).partition(b":")[2] or None
    except binascii.Error:
        return None
