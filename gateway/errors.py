"""Errors as OpenAI's API words them: ``{"error": {message, type, param, code}}``.

Shape: https://platform.openai.com/docs/guides/error-codes and the official clients, which read
``error.message`` and ``error.code``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Headers = list[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


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
    ) -> None:
        """``close``: the connection cannot be used on (the request was not read to its end)."""
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s, self.allow, self.close = retry_after_s, allow, close

    @property
    def type(self) -> str:
        """OpenAI's class of the error."""
        return error_type(self.status)

    @property
    def body(self) -> bytes:
        """The JSON document."""
        return document(self.message, self.type, self.code, self.param)

    def headers(self, request_id: str) -> Headers:
        """Header fields of the answer."""
        fields = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self.body)).encode()),
            (b"x-request-id", request_id.encode()),
        ]
        if self.retry_after_s is not None:
            fields.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.allow is not None:
            fields.append((b"allow", self.allow.encode()))
        if self.status == 401:
            fields.append((b"www-authenticate", b"Bearer"))
        if self.close:
            fields.append((b"connection", b"close"))
        return fields


def error_type(status: int) -> str:
    """The ``type`` that goes with a status."""
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def document(message: str, kind: str, code: str, param: str | None = None) -> bytes:
    """One error as JSON."""
    return msgspec.json.encode(
        {"error": {"message": message, "type": kind, "param": param, "code": code}}
    )


def sse_frame(message: str, code: str) -> bytes:
    """An error as one event of a running chat or completions stream, without ``[DONE]``."""
    return b"data: " + document(message, "server_error", code) + b"\n\n"


async def send_error(send: Send, error: GatewayError, request_id: str) -> int:
    """Answer with an error; returns the bytes of its body."""
    body = error.body
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": error.headers(request_id),
        }
    )
    await send({"type": "http.response.body", "body": body})
    return len(body)
