"""A file sent as a form (RFC 7578), written to disk as it comes."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.request_body import discard

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELD_BYTES = 1024
MAX_PARTS = 20
_FORM_BYTES = 64 * 1024
"""What a form may have beside its file."""
_WRITE_BYTES = 1024 * 1024


@dataclass
class Form:
    """What a form had beside the file's bytes."""

    filename: str | None = None
    """None without a file."""
    purpose: str = ""
    size: int = 0
    too_large: bool = False
    """The file is larger than was allowed; the rest of it was not kept."""
    ended: bool = True
    """The request has come to its end, and its connection can be used on."""


async def receive_file(request: Request, path: Path, limit: int) -> Form:
    """Write the ``file`` of a form to ``path``.

    Args:
        limit: bytes it may have.

    Raises:
        GatewayError: 400: not a whole form with one file, 499: the client left.
        OSError: the file cannot be written.
    """
    reading = _Reading(limit)
    more, received = True, 0
    try:
        parser = reading.parser(request.headers.get("content-type", ""))
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit + _FORM_BYTES:
            reading.form.too_large = True
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            while more and not reading.form.too_large:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise GatewayError(499, "the client left", "client_gone")
                more = message.get("more_body", False)
                piece = message.get("body", b"")
                received += len(piece)
                if received > limit + _FORM_BYTES:  # whatever it is that is so large
                    reading.form.too_large = True
                    break
                parser.write(piece)
                if len(reading.waiting) >= _WRITE_BYTES or not more:
                    await asyncio.to_thread(reading.write_to, file)
        if not reading.form.too_large:
            parser.finalize()
            reading.check()
    except FormParserError as error:
        raise _bad(f"the form cannot be read: {error}") from None
    finally:
        if more:
            reading.form.ended = await discard(request.receive, list(request.headers.raw))
    return reading.form


class _Reading:
    """Takes what the parser finds."""

    def __init__(self, limit: int) -> None:
        self.form = Form()
        self.whole = False
        self.waiting = bytearray()
        """Bytes of the file that are not written yet."""
        self._limit = limit
        self._parts = 0
        self._header = [bytearray(), bytearray()]
        self._name, self._value, self._in_file = b"", bytearray(), False

    def parser(self, content_type: str) -> MultipartParser:
        """What reads the form and tells this."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise _bad("send a form (multipart/form-data) with file and purpose")
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._over,
        }
        return MultipartParser(options[b"boundary"], callbacks)

    def check(self) -> None:
        """Whether the form, now at its end, is whole."""
        if not self.whole:
            raise _bad("the form is not whole")
        if self.form.filename is None:
            raise _bad("the form has no file", "file")

    def write_to(self, file: BinaryIO) -> None:
        """Write what waits."""
        file.write(self.waiting)
        self.waiting.clear()

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _bad("the form has too many parts")
        self._name, self._in_file = b"", False
        self._value.clear()

    def _header_end(self) -> None:
        field, value = bytes(self._header[0]), bytes(self._header[1])
        for one in self._header:
            one.clear()
        if field.lower() != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"")
        if b"filename" in options and self._name == b"file":
            if self.form.filename is not None:
                raise _bad("the form has more than one file", "file")
            self.form.filename = options[b"filename"].decode("utf-8", "replace")
            self._in_file = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.form.size += end - start
            if self.form.size > self._limit:
                self.form.too_large = True
            elif not self.form.too_large:
                self.waiting += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise _bad(f"a field of the form has more than {MAX_FIELD_BYTES} bytes")

    def _end(self) -> None:
        if self._name == b"purpose":
            self.form.purpose = self._value.decode("utf-8", "replace")

    def _over(self) -> None:
        self.whole = True


def _bad(message: str, param: str | None = None) -> GatewayError:
    return GatewayError(400, message, "invalid_form", param=param, close=True)
