"""Fixtures of the gateway's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.setup import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A registry of its own; ``with world.serving():`` runs a gateway on it."""
    made = World(tmp_path)
    yield made
    made.close()
