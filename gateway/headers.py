"""Header fields on their way through: what is dropped, what is put in. Pure.

Hop-by-hop fields: RFC 9110, section 7.6.1.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from modeltainer.gateway.errors import Headers
from modeltainer.gateway.routing import Target

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OURS_UPSTREAM = frozenset(
    {
        b"accept-encoding",
        b"authorization",
        b"content-length",
        b"cookie",
        b"expect",
        b"host",
        b"traceparent",
        b"x-api-key",
        b"x-modeltainer-for",
        b"x-request-id",
    }
)
_NOT_UPSTREAM = HOP_BY_HOP | _OURS_UPSTREAM
_NAMES_NONE = frozenset({b"keep-alive", b"close", b"Keep-Alive"})
"""What ``Connection`` says for the most: no field's name that would have to be dropped."""
_OURS_DOWNSTREAM = frozenset({b"date", b"server", b"x-request-id"})
_NOT_DOWNSTREAM = HOP_BY_HOP | _OURS_DOWNSTREAM
_STREAM = {b"cache-control": b"no-cache", b"x-accel-buffering": b"no"}
# Counts that are taken out, or an error event, change a stream's length.
_NOT_OF_STREAMS = frozenset({*_STREAM, b"content-length"})
# Version 00; all zeros in the trace or the span are not valid.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's ``X-Request-Id`` where it is harmless in a header and a log, else a new one."""
    for name, value in headers:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return given
            break
    return f"req-{random.getrandbits(96):024x}"  # a name for logs, not a secret


def _kept(headers: Headers, dropped: frozenset[bytes]) -> Headers:
    """Fields less those that are dropped, and those that ``Connection`` names (RFC 9110, 7.6.1)."""
    kept = [field for field in headers if field[0] not in dropped]
    for name, value in headers:
        if name == b"connection" and value not in _NAMES_NONE:
            named = {token.strip().lower() for token in value.split(b",")}
            kept = [field for field in kept if field[0] not in named]
    return kept


def traceparent(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's trace where its header is whole, else a new one.

    Form: https://www.w3.org/TR/trace-context/#traceparent-header
    """
    for name, value in headers:
        if name == b"traceparent":
            given = value.decode("latin-1").strip()
            if _TRACEPARENT.fullmatch(given):
                return given
    # Names for a log, not secrets.
    trace, span = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return f"00-{trace:032x}-{span:016x}-01"


def request_head(
    path: str, headers: Headers, target: Target, length: int, *, rid: str, trace: str
) -> bytes:
    """The head of the request to an engine: the client's fields less the hop-by-hop ones and its
    key; ours in their place."""
    lines = [
        f"POST {path} HTTP/1.1\r\nhost: {target.address}\r\n"
        f"authorization: Bearer {target.api_key}\r\naccept-encoding: identity\r\n"
        f"x-request-id: {rid}\r\ntraceparent: {trace}\r\ncontent-length: {length}\r\n".encode(
            "latin-1"
        )
    ]
    lines += [b"%s: %s\r\n" % field for field in _kept(headers, _NOT_UPSTREAM)]
    lines.append(b"\r\n")
    return b"".join(lines)


def is_event_stream(headers: Headers) -> bool:
    """Whether an answer is a stream of server-sent events."""
    for name, value in headers:
        if name == b"content-type" and value.strip().lower().startswith(b"text/event-stream"):
            return True
    return False


def stream_start(rid: str) -> Headers:
    """The header fields of a stream that begins before the engine has answered."""
    return [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        *_STREAM.items(),
        (b"x-request-id", rid.encode()),
    ]


def response_headers(headers: Headers, rid: str, attempts: int, model: str) -> Headers:
    """An engine's header fields for the client. Streams are marked so that no proxy on the way
    (nginx, Open OnDemand) holds them back."""
    kept = _kept(headers, _NOT_DOWNSTREAM)
    if is_event_stream(headers):
        kept = [field for field in kept if field[0] not in _NOT_OF_STREAMS]
        kept += _STREAM.items()
    kept.append((b"x-request-id", rid.encode()))
    kept.append((b"x-modeltainer-attempts", str(attempts).encode()))
    kept.append((b"x-modeltainer-model", model.encode()))
    return kept
