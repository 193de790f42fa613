"""A table of the fields of one JSON schema."""

from __future__ import annotations

from typing import Any

from tools.reference.markdown import one_line


def section(name: str, schema: dict[str, Any]) -> list[str]:
    """One heading, what the schema says of itself, and its fields."""
    parts = [f"## {name}\n"]
    if schema.get("description"):
        parts.append(one_line(schema["description"]) + "\n")
    parts += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field, about in schema.get("properties", {}).items():
        default = about.get("default")
        shown = "" if default in (None, {}, []) or isinstance(default, dict) else f"`{default}`"
        if field in schema.get("required", ()):
            shown = "required"
        text = one_line(about.get("description", ""))
        parts.append(f"| `{field}` | {kind(about)} | {shown} | {text} |")
    return [*parts, ""]


def kind(about: dict[str, Any]) -> str:
    """The type of one field, with links to other sections."""
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in about:
        return " or ".join(kind(one) for one in about["anyOf"] if one.get("type") != "null")
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    name = about.get("type", "any")
    if name == "array":
        return f"list of {kind(about.get('items', {}))}"
    if name == "object":
        values = [*about.get("patternProperties", {}).values(), about.get("additionalProperties")]
        return f"mapping of {kind(values[0])}" if isinstance(values[0], dict) else "mapping"
    return " or ".join(name) if isinstance(name, list) else str(name)
