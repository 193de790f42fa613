"""Which requests belong together, and where such requests go. Pure, and without state.

What belongs together has a key: a session's name, or the beginning of the prompt. Where it goes is
decided by rendezvous hashing (Thaler and Ravishankar 1998), which needs no table: every gateway
comes to the same answer, and when a place goes, only what went there moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from modeltainer.gateway.body import Body

PREFIX_BYTES = 1024
"""Of each message up to the first of the user's, or of a plain prompt."""


def session_key(session: bytes | None, body: Body) -> bytes | None:
    """What a client names its session by: the header ``X-Session-Id`` (``session``), else
    ``prompt_cache_key`` in the body (OpenAI's own field for requests that share a prompt), else
    None."""
    if session is not None:
        return b"session:" + session
    named = body.head.prompt_cache_key
    return b"session:" + named.encode() if isinstance(named, str) and named else None


def user_key(body: Body) -> bytes | None:
    """The end user that a request is for, as its ``user`` field says."""
    user = body.head.user
    return b"user:" + user.encode() if isinstance(user, str) and user else None


def prefix_key(body: Body) -> bytes | None:
    """How the prompt begins: later turns of a conversation, and others with the same system prompt
    and first question, have the same key. None without a prompt."""
    span = body.prompt_span
    if span is None:
        return None
    prompt = memoryview(body.data)[slice(*span)]
    if prompt[0] != ord("["):
        return b"prefix:" + prompt[:PREFIX_BYTES]
    begun: list[bytes] = []
    for message in msgspec.json.decode(prompt, type=list[msgspec.Raw]):
        begun.append(bytes(message)[:PREFIX_BYTES])
        role = _role(message)
        if role is None or role == "user":
            break
    return b"prefix:" + b"\0".join(begun)


class _Message(msgspec.Struct):
    role: Any = None


def _role(message: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(message, type=_Message).role
    except msgspec.ValidationError:
        return None


def score(key: bytes, place: str, weight: float = 1.0) -> float:
    """How much a key wants to a place; it goes where this is highest. Over many keys, places get
    shares that are as their weights."""
    digest = blake2b(key, digest_size=8, person=blake2b(place.encode(), digest_size=16).digest())
    uniform = (int.from_bytes(digest.digest(), "big") + 0.5) / 2**64
    return weight / -math.log(uniform)


def choose_arm(arms: Mapping[str, int], key: bytes) -> str:
    """The model that a request for a split name goes to; their shares are as their weights."""
    return max(arms, key=lambda model: score(key, model, arms[model]))
