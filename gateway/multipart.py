"""Form uploads (audio): the ``model`` field is found and replaced, every other byte stays.

Form: RFC 7578; the parts are not taken apart any further, so that repeated fields, file names and
file bytes pass as they came.
"""

from __future__ import annotations

import re

from modeltainer.gateway.body import Body, Span
from modeltainer.gateway.errors import GatewayError, Headers

_BOUNDARY = re.compile(
    rb'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE
)
_NAME = re.compile(rb'\r\ncontent-disposition:[^\r\n]*;\s*name="?([^";\r\n]*)"?', re.IGNORECASE)
_FILE = re.compile(rb"\r\ncontent-disposition:[^\r\n]*;\s*filename\*?=", re.IGNORECASE)
MAX_PARTS = 1000


def parse_form(data: bytes, headers: Headers) -> Body:
    """Check a form and find its model.

    Raises:
        GatewayError: 400: not a whole multipart form, ``model`` missing, empty or given twice.
    """
    fields = [_BOUNDARY.match(value) for name, value in headers if name == b"content-type"]
    found = fields[0] if fields else None
    if found is None:
        raise _bad("the body must be multipart/form-data with a boundary", "invalid_form")
    model: Span | None = None
    stream = False
    for name, span in parts(data, found[1] or found[2]):
        if name == b"model":
            if model is not None:
                raise _bad("model is given twice", "invalid_model", "model")
            model = span
        elif name == b"stream":
            stream = data[slice(*span)].strip().lower() == b"true"
    if model is None:
        raise _bad("you must provide a model parameter", "missing_model", "model")
    try:
        value = data[slice(*model)].decode("utf-8")
    except UnicodeDecodeError:
        raise _bad("model is not UTF-8", "invalid_encoding", "model") from None
    if not value:
        raise _bad("model must be a non-empty string", "invalid_model", "model")
    return Body(data, value, stream, model, encode=str.encode, members={})


def parts(data: bytes, boundary: bytes) -> list[tuple[bytes, Span]]:
    """Field names and where their values stand, in order; files have the name ``b""``.

    Raises:
        GatewayError: 400: the form is not whole.
    """
    delimiter = b"\r\n--" + boundary
    found: list[tuple[bytes, Span]] = []
    if data.startswith(delimiter[2:]):
        position = len(delimiter) - 2
    else:
        position = data.find(delimiter) + len(delimiter)
        if position < len(delimiter):
            raise _bad("the form has none of its boundaries", "invalid_form")
    while not data.startswith(b"--", position):
        head_end = data.find(b"\r\n\r\n", position)
        end = data.find(delimiter, head_end + 2)
        if head_end < 0 or end < 0 or len(found) >= MAX_PARTS:
            raise _bad("the form is not whole, or has too many parts", "invalid_form")
        head = data[position:head_end]
        name = _NAME.search(head)
        is_file = name is None or _FILE.search(head) is not None
        found.append((b"" if is_file or name is None else name[1], (head_end + 4, end)))
        position = end + len(delimiter)
    return found


def _bad(message: str, code: str, param: str | None = None) -> GatewayError:
    return GatewayError(400, message, code, param=param)
