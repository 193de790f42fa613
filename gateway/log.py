"""The gateway's log: one JSON object per line, and neither secrets nor bodies in it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modeltainer.gateway.log_file import LogFile

if TYPE_CHECKING:
    from modeltainer.gateway.exchange import Exchange

PAUSE_S = 0.25
"""Between two writes of the thread: what comes meanwhile goes out together."""
MAX_WAITING = 100_000
"""Lines that wait for a filesystem or a reader that hangs; then the oldest are lost."""
_IDLE_S = 60.0
"""Between two looks at the file while there is nothing to write: one that is deleted takes room
for as long as it is open."""
_LAST_S = 2.0
"""For the last lines to go out."""
_AT_ONCE = 4096
"""Bytes that a pipe takes whole (pipe(7), PIPE_BUF): several workers may write to one."""
_encoder = msgspec.json.Encoder()
_BREAKS = tuple((one.encode(), b"\\u%04x" % ord(one)) for one in "\x85\u2028\u2029")
"""What some readers take for the end of a line, and JSON lets stand as it is."""


class RequestLine(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One request, at its end; fields without a value are left out."""

    time: str
    level: str
    event: str = msgspec.field(default_factory=lambda: "request")
    request_id: str
    method: str = msgspec.field(default_factory=lambda: "POST")
    path: str
    model: str | None = None
    split: str | None = None
    stream: bool
    endpoint: str | None = None
    status: int
    error: str | None = None
    bytes: int
    duration_s: float
    ttfb_s: float | None = None
    attempts: int
    key_id: str | None = None
    client_gone: bool


class JsonLog:
    """Writes events to standard error, or appends them to a file."""

    def __init__(self, file: Path | None = None, *, max_bytes: int = 0, kept: int = 1) -> None:
        """``max_bytes``, ``kept``: as for :class:`.log_file.LogFile`.

        Raises:
            OSError: the file cannot be opened.
        """
        self._descriptor: Callable[[], int] = (
            sys.stderr.fileno if file is None else LogFile(file, max_bytes, kept).descriptor
        )
        """What to write to now."""
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._over = threading.Event()
        self._stamp = (0, "")
        """A second and how it is written: most lines come in the second of the line before."""

    def start(self) -> None:
        """Have a thread write from now on: the event loop must not wait for a shared filesystem, or
        for who reads standard error."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and what comes later as it comes; nothing more if the thread hangs."""
        if self._thread is None:
            return
        self._over.set()
        self._wake.set()
        self._thread.join(_LAST_S)
        if not self._thread.is_alive():
            self._thread = None
            self._flush()

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.wait(_IDLE_S)
            self._over.wait(PAUSE_S)
            self._wake.clear()
            self._flush()

    def event(self, level: str, event: str, **fields: Any) -> None:
        """Write one line; fields that are None are left out. JSON escapes line breaks, so one
        event is always one line. A log that cannot be written never fails a request."""
        line: dict[str, Any] = {"time": self.stamp(), "level": level, "event": event}
        for name, value in fields.items():
            if value is not None:
                line[name] = value
        self._put(msgspec.json.encode(line, enc_hook=str))

    def request(self, exchange: Exchange, status: int) -> None:
        """A request is over: as :meth:`event`."""
        progress = exchange.progress
        ours = bool(progress.error) and not 400 <= progress.status < 500
        line = RequestLine(
            time=self.stamp(),
            level="warning" if ours else "info",
            request_id=exchange.request_id,
            path=exchange.route.path,
            model=exchange.model,
            split=exchange.asked,
            stream=exchange.stream,
            endpoint=exchange.endpoint,
            status=status,
            error=progress.error or None,
            bytes=progress.sent_bytes,
            duration_s=cut(time.monotonic() - exchange.started, 1e6),
            ttfb_s=None if exchange.first_byte_s is None else cut(exchange.first_byte_s, 1e6),
            attempts=exchange.attempts,
            key_id=exchange.key.id if exchange.key is not None else None,
            client_gone=exchange.client_gone,
        )
        self._put(_encoder.encode(line))

    def _put(self, line: bytes) -> None:
        self._waiting.append(_one_line(line))
        if self._thread is None:
            self._flush()
        elif not self._wake.is_set():
            self._wake.set()

    def stamp(self) -> str:
        """Now, as lines have it."""
        now = time.time()
        second, stamp = self._stamp
        if second != int(now):
            second, stamp = int(now), time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            self._stamp = second, stamp
        return f"{stamp}.{int(now % 1 * 1000):03}Z"

    def _flush(self) -> None:
        with self._lock:
            while True:
                descriptor = self._descriptor()
                if not self._waiting:  # another thread may have added one meanwhile
                    return
                lines = [self._waiting.popleft()]
                length = len(lines[0])
                while self._waiting and length + len(self._waiting[0]) <= _AT_ONCE:
                    length += len(self._waiting[0])
                    lines.append(self._waiting.popleft())
                with contextlib.suppress(OSError):
                    os.write(descriptor, b"".join(lines))

    def info(self, event: str, **fields: Any) -> None:
        """An event of normal running."""
        self.event("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """An event that somebody should look at."""
        self.event("warning", event, **fields)


def _one_line(data: bytes) -> bytes:
    if not data.isascii():
        for character, escape in _BREAKS:
            data = data.replace(character, escape)
    return data + b"\n"


def cut(seconds: float, parts: float) -> float:
    """To whole ``parts`` of a second; ``round`` takes five times as long."""
    return int(seconds * parts) / parts


class ServerLogHandler(logging.Handler):
    """Brings the HTTP server's own messages into the same log."""

    def __init__(self, log: JsonLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._log.event(
            record.levelname.lower(),
            "server",
            message=record.getMessage().strip(),
            error=None if error is None else f"{type(error).__name__}: {error}",
        )
