"""Whose request it is, for the control paths."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from modeltainer.gateway.auth import NOBODY
from modeltainer.registry.keys import KeyRecord


def caller(request: Request) -> KeyRecord:
    """The key that the dispatcher has found valid."""
    record: KeyRecord = getattr(request.state, "key", NOBODY)
    return record


Key = Annotated[KeyRecord, Depends(caller)]
"""Has FastAPI find it."""
