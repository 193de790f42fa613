"""Answers that the gateway itself gives, as errors that can be raised.

Shape: https://platform.openai.com/docs/guides/error-codes and the official clients, which read
``error.message`` and ``error.code``; :mod:`.families` has the words of each API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from modeltainer.gateway.families import Family, error_document, error_type

Headers = list[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class GatewayError(Exception):
    """An answer that the gateway itself gives."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
        close: bool = False,
        document: bytes | None = None,
    ) -> None:
        """``close``: the connection cannot be used on (the request was not read to its end).
        ``document``: an engine's own JSON, passed on in place of ours."""
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s, self.allow, self.close = retry_after_s, allow, close
        self._document = document
        self.browser = False
        """Who asks is a person at a browser, which is to ask for a password."""

    @property
    def type(self) -> str:
        """OpenAI's class of the error."""
        return error_type(self.status)

    def body(self, family: Family = Family.OPENAI) -> bytes:
        """The JSON document."""
        if self._document is not None:
            return self._document
        return error_document(family, self.status, self.message, self.code, self.param)

    def headers(self, request_id: str, length: int) -> Headers:
        """Header fields of an answer whose body has ``length`` bytes."""
        fields = [
            (b"content-type", b"application/json"),
            (b"content-length", str(length).encode()),
            (b"x-request-id", request_id.encode()),
        ]
        if self.retry_after_s is not None:
            fields.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.allow is not None:
            fields.append((b"allow", self.allow.encode()))
        if self.status == 401:
            scheme = b'Basic realm="the password is an API key"' if self.browser else b"Bearer"
            fields.append((b"www-authenticate", scheme))
        if self.close:
            fields.append((b"connection", b"close"))
        return fields


async def send_error(
    send: Send,
    error: GatewayError,
    request_id: str,
    family: Family = Family.OPENAI,
    more: Sequence[tuple[bytes, bytes]] = (),
) -> int:
    """Answer with an error, and with ``more`` header fields; returns the bytes of its body."""
    body = error.body(family)
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [*error.headers(request_id, len(body)), *more],
        }
    )
    await send({"type": "http.response.body", "body": body})
    return len(body)
