"""What is known of one request while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from modeltainer.gateway.client_connection import ClientConnection
from modeltainer.gateway.errors import Send
from modeltainer.gateway.headers import Fields, stream_start
from modeltainer.gateway.limits import Limits, Reservation
from modeltainer.gateway.paths import Route
from modeltainer.gateway.relay import Progress
from modeltainer.gateway.token_meter import Meter
from modeltainer.registry.keys import KeyRecord

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class Interruption(Enum):
    """Why a request was broken off from our side."""

    CLIENT_GONE = "client_gone"
    SHUTDOWN = "shutdown"
    TIMEOUT = "timeout"


@dataclass(eq=False, slots=True)
class Exchange:
    """One request; at its end it becomes a log line."""

    request_id: str
    route: Route
    target: bytes
    """Path and query as the engine is asked for them."""
    fields: Fields
    send: Send
    client: ClientConnection | None
    started: float = field(default_factory=time.monotonic)
    progress: Progress = field(default_factory=Progress)
    key: KeyRecord | None = None
    user: str | None = None
    meter: Meter | None = None
    limits: Limits | None = None
    reservation: Reservation | None = None
    refused_by: str = ""
    """The limit of its key that it is over."""
    prompt_estimate: int = 0
    """Tokens of the prompt, guessed from its length; 0 for a form, which is a file for the most."""
    buffered_bytes: int = 0
    """Of its body, as held in the budget."""
    read_at: float = 0.0
    """When its body was complete, or the model that it was held for had come up; 0 when that is
    taken note of."""
    model: str | None = None
    asked: str | None = None
    """The name that was asked for, where it is split among models."""
    affinity: bytes | None = None
    """What the request belongs to."""
    stream: bool = False
    tried: set[str] = field(default_factory=set)
    """Endpoints that were asked."""
    endpoint: str | None = None
    """The last of them."""
    first_byte_s: float | None = None
    interrupted: Interruption | None = None
    task: asyncio.Task[Any] | None = None
    """What carries it; None while callbacks alone do."""
    hand_over: Callable[[], None] | None = None
    """Has a task carry on from where the callbacks are."""
    alarm: asyncio.TimerHandle | None = None
    """Goes off when it takes too long as a whole."""
    over: bool = False
    span: Span | None = None
    """Its trace, where traces are kept."""

    @property
    def attempts(self) -> int:
        """How many endpoints were asked."""
        return len(self.tried)

    @property
    def client_gone(self) -> bool:
        """The client has left."""
        return self.interrupted is Interruption.CLIENT_GONE

    def hang_up(self) -> None:
        """Close the client's connection after the answer."""
        if self.client is not None:
            self.client.close_after_answer()

    def cut_if_truncated(self) -> None:
        """Close the client's connection where that is the only way to say that there is more."""
        if self.progress.truncated and self.client is not None:
            self.client.cut()

    def interrupt(self, why: Interruption) -> None:
        """Stop at once, wherever the request stands; what comes first counts."""
        if self.over or self.interrupted is not None:
            return
        self.interrupted = why
        if self.task is not None:
            self.task.cancel()
        elif self.hand_over is not None:
            self.hand_over()  # the task sees it when it begins

    def leave(self) -> None:
        """The client has left."""
        self.interrupt(Interruption.CLIENT_GONE)

    def tokens_used(self) -> int:
        """Tokens to charge: the engine's count; for what broke off before it, the events that have
        passed and the guess at the prompt, of which no more than was reserved (a wrong guess would
        lock the key for hours); nothing for what no engine has answered, or no model."""
        if self.meter is None or self.progress.status >= 400 or not self.route.uses_tokens:
            return 0
        counted = self.meter.tokens
        prompt = counted.prompt
        if prompt is None:
            reserved = 0 if self.reservation is None else self.reservation.tokens
            prompt = min(self.prompt_estimate, reserved)
        return prompt + (self.meter.events if counted.completion is None else counted.completion)

    async def ping(self, comment: str = "ping") -> None:
        """Tell a waiting client that its stream is alive; the first one is the answer's start.
        ``comment`` is one line."""
        if not self.progress.started:
            self.progress.started = self.progress.is_stream = True
            self.progress.status = 200
            headers = stream_start(self.request_id, self.model)
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        # No blank line: openai-python up to 2.37 takes one behind a comment for an empty event.
        body = f": {comment}\n".encode("ascii", "replace")
        self.progress.sent_bytes += len(body)
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
