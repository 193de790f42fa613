"""Which of an engine's paths clients can reach: these, and no others.

Engines have more (load and unload models, pause, profile, run code on the workers); an allow-list
keeps what a new version adds out of reach until somebody has looked at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modeltainer.gateway.families import Family


@dataclass(frozen=True)
class Route:
    """One proxied POST path."""

    path: str
    label: str
    """Short and bounded, for logs and metrics."""
    family: Family = Family.OPENAI
    form: Literal["json", "multipart"] = "json"
    """How the request names its model."""
    uses_tokens: bool = True
    """The model works on it; without, its tokens are looked at only."""


PROXIED: Mapping[str, Route] = {
    route.path: route
    for route in (
        Route("/v1/chat/completions", "chat"),
        Route("/v1/completions", "completions"),
        Route("/v1/embeddings", "embeddings"),
        Route("/v1/responses", "responses", Family.RESPONSES),
        Route("/v1/messages", "messages", Family.ANTHROPIC),
        Route("/v1/messages/count_tokens", "count_tokens", Family.ANTHROPIC, uses_tokens=False),
        Route("/v1/rerank", "rerank"),
        Route("/v2/rerank", "rerank"),
        Route("/rerank", "rerank"),
        Route("/v1/score", "score"),
        Route("/score", "score"),
        Route("/tokenize", "tokenize", uses_tokens=False),
        Route("/detokenize", "detokenize", uses_tokens=False),
        Route("/v1/audio/transcriptions", "transcriptions", form="multipart"),
        Route("/v1/audio/translations", "translations", form="multipart"),
    )
}

OPEN = frozenset({"/health", "/ready"})
"""Answered without a key: probes have none."""

PAGES = frozenset({"/admin", "/docs"})
"""For a person at a browser, which asks for a password."""
