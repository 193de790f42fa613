"""The page of models.yaml's fields."""

from __future__ import annotations

from typing import Any

from modeltainer.config.schema import Config
from tools.reference.json_schema import section
from tools.reference.markdown import HEAD


def page() -> str:
    """Every field of models.yaml, from its JSON schema."""
    schema = Config.model_json_schema()
    parts = ["# models.yaml, every field\n", HEAD]
    parts += section("models.yaml", schema)
    for name, about in sorted(schema["$defs"].items()):
        parts += section(name, _mapping(about))
    return "\n".join(parts)


def _mapping(about: dict[str, Any]) -> dict[str, Any]:
    """The section's long form, where it has a short one too."""
    long: dict[str, Any] = next((one for one in about.get("anyOf", ()) if "properties" in one), {})
    return {**about, **long}
