"""One conversation with a model through a gateway."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure
from modeltainer.cli.gateway_client import Door

if TYPE_CHECKING:
    import httpx

ANSWER_TIMEOUT_S = 660.0
"""Between two pieces; a little over the gateway's own limit, so that its words are heard."""


@dataclass
class Conversation:
    """Questions and answers so far."""

    door: Door
    model: str
    system: str | None = None
    stream: bool = True
    sampling: dict[str, Any] = field(default_factory=dict)
    """``max_tokens``, ``temperature``: as in the request."""
    _said: list[dict[str, str]] = field(default_factory=list)

    def ask(self, question: str) -> Iterator[str]:
        """The answer, piece by piece as it comes. A question whose answer is broken off or fails
        is forgotten.

        Raises:
            Failure: the gateway cannot be reached, or answers with an error.
        """
        import httpx

        asked = {"role": "user", "content": question}
        first = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": self.model,
            "messages": [*first, *self._said, asked],
            "stream": self.stream,
            **self.sampling,
        }
        answer = []
        try:
            with (
                self.door.client(ANSWER_TIMEOUT_S) as client,
                client.stream("POST", "/v1/chat/completions", json=body) as response,
            ):
                _check(response)
                for piece in _pieces(response, self.stream):
                    answer.append(piece)
                    yield piece
        except httpx.TransportError as error:
            raise Failure(
                f"the gateway at {self.door.name} does not answer: {error}",
                "mt-submit gateway status shows whether it runs",
                exit_codes.GATEWAY_UNREACHABLE,
            ) from error
        self._said += [asked, {"role": "assistant", "content": "".join(answer)}]


def _pieces(response: httpx.Response, stream: bool) -> Iterator[str]:
    if stream:
        yield from contents(response.iter_lines())
        return
    choice = json.loads(response.read())["choices"][0]
    yield choice["message"]["content"] or ""


def contents(lines: Iterable[str]) -> Iterator[str]:
    """The text in a stream of server-sent events of the chat API.

    Raises:
        Failure: an error event, or a stream that ends without ``[DONE]``.
    """
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            continue
        if "error" in event:
            raise Failure(f"the answer broke off: {_message(event) or data}", code=_code(event))
        for choice in event.get("choices") or []:
            text = (choice.get("delta") or {}).get("content")
            if text:
                yield text
    raise Failure("the answer broke off: the connection was closed before its end")


def _check(response: httpx.Response) -> None:
    if response.status_code == 200:
        return
    text = response.read().decode(errors="replace")
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    message, code = _message(document), _code(document)
    hint, exit_code = "", exit_codes.FAILURE
    if response.status_code == 404:
        hint, exit_code = "mt-submit models lists what there is", exit_codes.NO_MATCH
    elif response.status_code in {401, 403}:
        hint = "set MODELTAINER_KEY to a key that mt-submit key create has printed"
    elif "retry-after" in response.headers:
        hint = f"try again in {response.headers['retry-after']} s; mt-submit ls shows its state"
    said = message or text[:500] or "no reason given"
    answered = f"the gateway answered {response.status_code}: {said}"
    raise Failure(answered, hint, exit_code, code=code)


def _message(document: Any) -> str | None:
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else None


def _code(document: Any) -> str:
    error = document.get("error") if isinstance(document, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""
