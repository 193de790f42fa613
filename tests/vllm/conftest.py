"""The cached vLLM; built when it is first asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vllm import environment


@pytest.fixture(scope="session")
def vllm() -> Path:
    """Folder with ``bin/vllm`` and ``tiny-llama``."""
    return environment.build()
