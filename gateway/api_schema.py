"""Request bodies of the proxied paths, for the OpenAPI page.

They tell clients what to send and are not validated against: what an engine takes changes with its
version, so fields pass through as they come, and the engine's own answer stands. Only what the
gateway itself reads (:mod:`modeltainer.gateway.body`) is checked. Fields: platform.openai.com/docs/
api-reference, docs.anthropic.com/en/api/messages, vLLM's "OpenAI-Compatible Server", llama.cpp's
tools/server/README.md.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from modeltainer.gateway.families import Family
from modeltainer.gateway.paths import PROXIED, Route


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str = Field(description="A model, an alias or a split of models.yaml.")


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class _Sampling(_Body):
    stream: bool = Field(False, description="Answer as server-sent events.")
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None


class ChatRequest(_Sampling):
    """A conversation to go on with."""

    messages: list[Message]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = Field(None, description="JSON mode, or a schema.")
    stream_options: dict[str, Any] | None = None
    logprobs: bool | None = None
    prompt_cache_key: str | None = Field(
        None, description="Requests with the same one go to the same replica."
    )
    user: str | None = Field(None, description="Counted by mt-submit usage.")


class CompletionRequest(_Sampling):
    """A text to go on with."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0)
    echo: bool | None = None
    stream_options: dict[str, Any] | None = None
    user: str | None = None


class EmbeddingsRequest(_Body):
    """Texts to make vectors of."""

    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)


class ResponsesRequest(_Sampling):
    """OpenAI's Responses API."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    tools: list[dict[str, Any]] | None = None


class MessagesRequest(_Sampling):
    """Anthropic's Messages API."""

    messages: list[Message]
    max_tokens: int = Field(ge=1)
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    tools: list[dict[str, Any]] | None = None


class CountTokensRequest(_Body):
    """How long would these messages be?"""

    messages: list[Message]
    system: str | list[dict[str, Any]] | None = None


class RerankRequest(_Body):
    """Documents to order by how well they answer."""

    query: str
    documents: list[str] | list[dict[str, Any]]
    top_n: int | None = Field(None, ge=1)


class ScoreRequest(_Body):
    """Pairs of texts to compare (vLLM)."""

    text_1: str | list[str]
    text_2: str | list[str]


class TokenizeRequest(_Body):
    """The tokens of a text or a conversation (vLLM takes ``prompt``, llama-server ``content``)."""

    prompt: str | None = None
    content: str | None = None
    messages: list[Message] | None = None


class DetokenizeRequest(_Body):
    """The text of tokens."""

    tokens: list[int]


class AudioRequest(_Body):
    """Speech to write down."""

    file: str = Field(json_schema_extra={"format": "binary"})
    language: str | None = None
    response_format: str | None = None


_BODIES: dict[str, type[_Body]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingsRequest,
    "responses": ResponsesRequest,
    "messages": MessagesRequest,
    "count_tokens": CountTokensRequest,
    "rerank": RerankRequest,
    "score": ScoreRequest,
    "tokenize": TokenizeRequest,
    "detokenize": DetokenizeRequest,
    "transcriptions": AudioRequest,
    "translations": AudioRequest,
}


def with_proxied(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document with the proxied paths added. Changes and returns it."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for route in PROXIED.values():
        body = _BODIES[route.label]
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[body.__name__] = schema
        document["paths"][route.path] = {"post": _operation(route, body)}
    return document


def _operation(route: Route, body: type[_Body]) -> dict[str, Any]:
    kind = "application/json" if route.form == "json" else "multipart/form-data"
    answers: dict[str, Any] = {"application/json": {}}
    if "stream" in body.model_fields:
        answers["text/event-stream"] = {}
    shape = "Anthropic's" if route.family is Family.ANTHROPIC else "OpenAI's"
    return {
        "summary": (body.__doc__ or "").split("\n")[0],
        "operationId": route.path.strip("/").replace("/", "_"),
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}},
        },
        "responses": {
            "200": {"description": "The engine's answer, as it is.", "content": answers},
            "default": {"description": f"An error in {shape} shape."},
        },
    }
