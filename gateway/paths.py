"""Which of an engine's paths clients can reach: these, and no others.

Engines have more (load and unload models, pause, profile, run code on the workers); an allow-list
keeps what a new version adds out of reach until somebody has looked at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """One proxied POST path."""

    path: str
    label: str
    """Short and bounded, for logs and metrics."""


PROXIED: Mapping[str, Route] = {
    route.path: route
    for route in (
        Route("/v1/chat/completions", "chat"),
        Route("/v1/completions", "completions"),
        Route("/v1/embeddings", "embeddings"),
    )
}

OPEN = frozenset({"/health", "/ready"})
"""Answered without a key: probes have none."""
