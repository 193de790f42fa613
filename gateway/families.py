"""How each family of APIs words an error: as a document, and in the middle of a stream.

OpenAI chat and completions: ``data: {"error": ...}`` as the official clients read it. Responses:
``response.failed`` (https://platform.openai.com/docs/api-reference/responses-streaming). Anthropic:
``event: error`` (https://docs.anthropic.com/en/api/messages-streaming#error-events).
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    **_OPENAI_TYPES,
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}


class Family(str, Enum):
    """Whose API a path belongs to."""

    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"


def error_type(status: int, family: Family = Family.OPENAI) -> str:
    """The ``type`` that goes with a status."""
    if family is Family.ANTHROPIC:
        default = "api_error" if status >= 500 else "invalid_request_error"
        return _ANTHROPIC_TYPES.get(status, default)
    return _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def error_document(
    family: Family, status: int, message: str, code: str, param: str | None = None
) -> bytes:
    """One error as JSON. Anthropic's shape is OpenAI's with a ``type`` around it, so that clients
    of either read it."""
    error = {
        "message": message,
        "type": error_type(status, family),
        "param": param,
        "code": code,
    }
    if family is Family.ANTHROPIC:
        return msgspec.json.encode({"type": "error", "error": error})
    return msgspec.json.encode({"error": error})


def error_frame(family: Family, message: str, code: str) -> bytes:
    """An error as one event of a running stream, without ``[DONE]`` or ``message_stop``."""
    if family is Family.RESPONSES:
        failed: dict[str, Any] = {
            "type": "response.failed",
            "response": {
                "object": "response",
                "status": "failed",
                "error": {"code": "server_error", "message": f"{message} ({code})"},
                "output": [],
            },
        }
        return b"event: response.failed\ndata: " + msgspec.json.encode(failed) + b"\n\n"
    document = error_document(family, 500, message, code)
    if family is Family.ANTHROPIC:
        return b"event: error\ndata: " + document + b"\n\n"
    return b"data: " + document + b"\n\n"
