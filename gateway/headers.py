"""Header fields on their way through: what is dropped, what is put in. Pure.

Hop-by-hop fields: RFC 9110, section 7.6.1.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from modeltainer.gateway.errors import Headers
from modeltainer.gateway.routing import Target
from modeltainer.gateway.upstream import ResponseHead

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


@dataclass(slots=True)
class Fields:
    """What a request's header fields say. A client's next request has the same ones for the most,
    so they need not be looked at again."""

    raw: Headers
    forwarded: bytes
    """The lines that an engine gets of them: less the hop-by-hop ones, the key, and ours."""
    given_id: str | None = None
    """The client's ``X-Request-Id``, where it is harmless in a header and a log."""
    given_trace: str | None = None
    """The client's ``traceparent``, where it is whole."""
    session: bytes | None = None
    """The session that it names."""

    @property
    def request_id(self) -> str:
        """The client's, else a new one each time."""
        # A name for logs, not a secret.
        return self.given_id or f"req-{random.getrandbits(96):024x}"

    @property
    def trace(self) -> str:
        """The client's, else a new one each time.

        Form: https://www.w3.org/TR/trace-context/#traceparent-header
        """
        if self.given_trace is not None:
            return self.given_trace
        # Names for a log, not secrets; neither of the two may be all zeros. Nobody has recorded the
        # request, which is what the last digits would say otherwise.
        digits = f"{random.getrandbits(192) | 1 << 64 | 1:048x}"
        return f"00-{digits[:32]}-{digits[32:]}-00"


def look_at(headers: Headers) -> Fields:
    """See what a request's header fields say; names are in lower case."""
    lines = [b"%b: %b\r\n" % field for field in _kept(headers, _NOT_UPSTREAM)]
    found = Fields(headers, b"".join(lines))
    for name, value in headers:
        if name == b"x-request-id" and found.given_id is None:
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                found.given_id = given
        elif name == b"traceparent" and found.given_trace is None:
            given = value.decode("latin-1").strip()
            if _TRACEPARENT.fullmatch(given):
                found.given_trace = given
        elif name == b"x-session-id" and value:
            found.session = value
    return found


def _kept(headers: Headers, dropped: frozenset[bytes]) -> Headers:
    """Fields less those that are dropped, and those that ``Connection`` names (RFC 9110, 7.6.1)."""
    kept = [field for field in headers if field[0] not in dropped]
    for name, value in headers:
        if name == b"connection" and value not in _NAMES_NONE:
            named = {token.strip().lower() for token in value.split(b",")}
            kept = [field for field in kept if field[0] not in named]
    return kept


def request_head(
    path: bytes, fields: Fields, target: Target, length: int, *, rid: str, trace: str
) -> bytes:
    """The head of the request to an engine: the client's fields less the hop-by-hop ones and its
    key; ours in their place."""
    return (
        b"POST %b HTTP/1.1\r\n%bx-request-id: %b\r\ntraceparent: %b\r\ncontent-length: %d\r\n%b\r\n"
        % (path, target.preamble, rid.encode(), trace.encode(), length, fields.forwarded)
    )


def stream_start(rid: str, model: str | None) -> Headers:
    """The header fields of a stream that begins before an engine has answered: which model will,
    is known, but not after how many attempts."""
    return [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        *_STREAM.items(),
        (b"x-request-id", rid.encode()),
        *tried(model, 0),
    ]


def tried(model: str | None, attempts: int) -> Headers:
    """Of a request that no engine has answered: the model that was to, and how many attempts were
    made; None and 0 where there is nothing to tell."""
    fields: Headers = []
    if attempts:
        fields.append((b"x-modeltainer-attempts", str(attempts).encode()))
    if model is not None:
        fields.append((b"x-modeltainer-model", model.encode()))
    return fields


def response_headers(head: ResponseHead, rid: str, attempts: int, model: str) -> Headers:
    """An engine's header fields for the client. Streams are marked so that no proxy on the way
    (nginx, Open OnDemand) holds them back."""
    kept = _kept(head.headers, _NOT_DOWNSTREAM)
    if head.is_stream:
        kept = [field for field in kept if field[0] not in _NOT_OF_STREAMS]
        kept += _STREAM.items()
    kept.append((b"x-request-id", rid.encode()))
    kept.append((b"x-modeltainer-attempts", str(attempts).encode()))
    kept.append((b"x-modeltainer-model", model.encode()))
    return kept
