"""A client's connection that carries plain requests by callbacks (:mod:`.fast_path`), and hands any
other one to uvicorn's way with requests: as if it had just been read, or had been answered so far.

uvicorn makes a scope, a cycle and a task of a request as soon as its head is there. Here its
callbacks are held back until the request is known not to be plain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple, cast

from uvicorn.protocols.http.flow_control import FlowControl

from modeltainer.gateway.client_connection import ClientProtocol, chunk
from modeltainer.gateway.errors import Headers
from modeltainer.gateway.fast_path import Application, FastExchange, FastPath, PlainHead
from modeltainer.gateway.outbox import JoinedWrites

_STATUS = b"HTTP/1.1 200 OK\r\n"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: ?([0-9]{1,7})(?=\r\n)")


class _Spelling(NamedTuple):
    """How a plain head is spelled, around the figures of its length."""

    before: bytes
    after: bytes
    head: PlainHead


def _spelling(head: PlainHead, data: bytes, length: bytes) -> _Spelling | None:
    """Of a head that a body of this length follows, and nothing else; None where that is not so, or
    the length is not spelled as most do."""
    end = data.find(b"\r\n\r\n") + 4
    found = list(_LENGTH.finditer(data, 0, end))
    if len(found) != 1 or found[0][1] != length or len(data) - end != int(length):
        return None
    return _Spelling(data[: found[0].start(1)], data[found[0].end() : end], head)


class _WasRead:
    """A request that has been read, in place of the parser that has read it: what uvicorn asks that
    one. The parser itself may be at the next request by now."""

    def get_http_version(self) -> str:
        return "1.1"

    def get_method(self) -> bytes:
        return b"POST"

    def should_keep_alive(self) -> bool:
        return True

    def should_upgrade(self) -> bool:
        return False


class _Chunks:
    """The chunks of an answer: of a connection, what its stream touches at each token."""

    __slots__ = ("_flow", "write")

    def __init__(self, transport: JoinedWrites, flow: FlowControl) -> None:
        self.write, self._flow = transport.write_now, flow

    @property
    def takes_chunks(self) -> bool:
        """The client reads as fast as they come."""
        return not self._flow.write_paused

    def write_chunk(self, data: bytes) -> None:
        """Send one."""
        self.write(chunk(data))


class FastProtocol(ClientProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fast: FastPath | None = getattr(self.config.app, "fast_path", None)
        self._url = b""
        self._fields: Headers = []
        self._length = b""
        """``Content-Length``, which is not among the fields."""
        self._known: PlainHead | None = None
        """The last plain head."""
        self._plain = False
        """What has just come had a plain head in it, maybe its end alone."""
        self._spelled: _Spelling | None = None
        """How it was spelled, where it came in one piece with its body."""
        self._between = True
        """The parser is at no request."""
        self._behind_head = False
        self._head: PlainHead | None = None
        """Of what is being read, where it is plain so far."""
        self._reading = False
        """A part of it is to come yet."""
        self._came = 0.0
        self._data: list[bytes] = []
        self._exchange: FastExchange | None = None
        """What is under way by callbacks."""
        self._begun = False
        """Its answer has."""

    # -- reading --

    def connection_lost(self, exc: Exception | None) -> None:
        self._note_reading(False)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.leave()
        if self._head is not None and self._fast is not None:
            self._fast.left(self._head, self._came)
            self._head = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._make_way()
        at_start, self._plain = self._between, False
        super().data_received(data)
        self._note_reading(self._head is not None)
        head, spelled = self._known, self._spelled
        if self._plain and head is not None and (spelled is None or spelled.head is not head):
            self._spelled = _spelling(head, data, self._length) if at_start else None

    def take_alike(self, data: bytes) -> bool:
        """Begin a request whose head is spelled as the last plain one, but for its length: there is
        nothing in it for a parser to find out. False: it is not so, and nothing was done."""
        spelled, fast = self._spelled, self._fast
        if spelled is None or fast is None or not data.startswith(spelled.before):
            return False
        start = len(spelled.before)
        end = data.find(b"\r", start, start + 8)
        length, body = data[start:end], end + len(spelled.after)
        head = spelled.head
        if (
            end < 0
            or not length.isdigit()
            or not data.startswith(spelled.after, end)
            or len(data) - body != int(length)
            or not self._between
            or not self._may_be_plain(fast, length)
            or not fast.still_valid(head)
        ):
            return False
        self._unset_keepalive_if_required()
        self._url, self._fields, self._length = head.target, head.fields.raw, length
        self._came = monotonic()
        self._start(fast, head, [data[body:]])
        return True

    def _may_be_plain(self, fast: FastPath, length: bytes) -> bool:
        """Whether the next request may be carried by callbacks, as far as the connection goes."""
        return (
            self._exchange is None
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
            and fast.fits(length)
        )

    def _note_reading(self, reading: bool) -> None:
        """A request of which a part is here is under way already; most come in one piece."""
        if reading is not self._reading and self._fast is not None:
            self._reading = reading
            self._fast.proxy.note_reading(self, reading)

    def on_message_begin(self) -> None:
        self._make_way()
        self._between = self._behind_head = False
        self._url, self._fields, self._length, self._data = b"", [], b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._behind_head:  # a trailer: nobody asks for one
            return
        name = name.lower()
        if name == b"content-length":
            self._length = value
        else:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._behind_head = True
        fast, parser = self._fast, self.parser
        if (
            fast is not None
            and self._length
            and parser.get_method() == b"POST"
            and parser.should_keep_alive()
            and parser.get_http_version() == "1.1"
            and self._may_be_plain(fast, self._length)
        ):
            self._head = fast.look_at(self._url, self._fields, self._known)
        if self._head is None:
            self._replay_head()
        else:
            self._known, self._plain = self._head, True
            self._came = monotonic()
            self._before_body = False

    def on_body(self, body: bytes) -> None:
        if self._head is None:
            super().on_body(body)
        else:
            self._data.append(body)

    def on_message_complete(self) -> None:
        self._between = True
        head, self._head = self._head, None
        if head is None:
            super().on_message_complete()
            return
        assert self._fast is not None
        self._before_body = True
        data, self._data = self._data, []
        self._start(self._fast, head, data)

    def _start(self, fast: FastPath, head: PlainHead, data: list[bytes]) -> None:
        self._begun = False
        self._exchange = fast.begin(self, head, b"".join(data), self._came)
        if self._exchange is None:
            self._replay(self.app, data)
        else:
            self._exchange.start()

    def _make_way(self) -> None:
        """More has come while a request is under way: uvicorn knows how to have it wait."""
        if self._exchange is not None:
            self._exchange.hand_over()

    def _replay_head(self) -> None:
        super().on_message_begin()
        super().on_url(self._url)
        for name, value in self._fields:
            super().on_header(name, value)
        if self._length:
            super().on_header(b"content-length", self._length)
        super().on_headers_complete()

    def _replay(self, app: Any, data: Sequence[bytes], *, whole: bool = True) -> None:
        """Have uvicorn take what was read of a request as if it came now, for ``app``."""
        ours, self.app = self.app, app
        parser, self.parser = self.parser, cast(Any, _WasRead())
        try:
            self._replay_head()
            self._requests[0].admitted = True
            for piece in data:
                super().on_body(piece)
            if whole:
                super().on_message_complete()
        finally:
            self.app, self.parser = ours, parser

    # -- answering --

    @property
    def waits(self) -> bool:
        """Not all of what was written has gone out: the client reads slowly."""
        return self.flow.write_paused

    @property
    def answering(self) -> bool:
        """An answer is to come, or under way."""
        cycle = self.cycle
        return self._exchange is not None or (cycle is not None and not cycle.response_complete)

    def chunks(self) -> _Chunks:
        """Where the pieces of the answer go."""
        return _Chunks(cast(JoinedWrites, self.transport), self.flow)

    def write_whole(self, headers: Headers, body: bytes) -> None:
        """Send an answer, all of it."""
        self.transport.write(
            b"%bcontent-length: %d\r\n\r\n%b" % (self._lines(headers), len(body), body)
        )

    def write_first_chunk(self, headers: Headers, data: bytes) -> None:
        """Begin an answer in chunks."""
        self._begun = True
        head = self._lines(headers)
        self._now(b"%btransfer-encoding: chunked\r\n\r\n%b" % (head, chunk(data)))

    def write_last_chunk(self, data: bytes) -> None:
        """End an answer in chunks."""
        self._now(chunk(data) + b"0\r\n\r\n")

    def _now(self, data: bytes) -> None:
        # Streams begin and end one by one, and another turn of the loop costs more than a write.
        cast(JoinedWrites, self.transport).write_now(data)

    def _lines(self, headers: Headers) -> bytes:
        fields = [*self.server_state.default_headers, *headers]
        return _STATUS + b"".join(
            [b"%b: %b\r\n" % field for field in fields if field[0] != b"content-length"]
        )

    def answered(self) -> None:
        """The answer is complete."""
        self._exchange = None
        self.server_state.total_requests += 1

    def hand_over(self, go_on: Application) -> None:
        """Have an application go on with the request that is under way."""
        self._exchange = None
        self._replay(go_on, ())  # of the body, the exchange has all
        if self._begun:
            self.cycle.response_started = True
            self.cycle.chunked_encoding = True

    def shutdown(self) -> None:
        """The server is about to end: close after the answer that is under way."""
        self._make_way()
        if self._head is not None:
            self._head = None
            self._note_reading(False)
            self._replay(self.app, self._data, whole=False)
            self._data = []
        super().shutdown()
