"""``/docs``: the OpenAPI document as a page to read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from modeltainer.gateway.html_page import Html, page, table

_Schema = Mapping[str, Any]
_CODE = re.compile("``(.+?)``")


def docs_page(document: Mapping[str, Any]) -> str:
    """The page.

    Args:
        document: as ``/openapi.json`` gives it.
    """
    title = f"{document['info']['title']} {document['info']['version']}"
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    rows = [
        (
            Html(f'<a href="#{escape(_id(one))}">{escape(path)}</a>'),
            method,
            _text(_said(one).partition("\n\n")[0]),
        )
        for method, path, one in operations
    ]
    schemas = document["components"]["schemas"]
    return page(
        title,
        f'<h1>{escape(title)}</h1><p>For programs: <a href="openapi.json">openapi.json</a></p>'
        f"{table(('Path', 'Method', 'What'), rows)}"
        f"{''.join(_operation(method, path, one) for method, path, one in operations)}"
        f"{''.join(_section(name, schema) for name, schema in sorted(schemas.items()))}",
    )


def _operation(method: str, path: str, operation: _Schema) -> str:
    parts = [f'<h2 id="{escape(_id(operation))}">{method} {escape(path)}</h2>']
    parts.append(f"<p>{_text(_said(operation))}</p>")
    parameters = [
        (one["name"], one["in"], _kind(one["schema"]), _need(one["required"], one["schema"]))
        for one in operation.get("parameters", ())
    ]
    if parameters:
        parts.append(table(("Parameter", "In", "Type", "Default"), parameters))
    messages = [("request", operation["requestBody"])] if "requestBody" in operation else []
    messages += operation["responses"].items()
    rows = []
    for name, message in messages:
        content = message.get("content") or {"": {}}
        for form, one in content.items():
            rows.append((name, form, _kind(one.get("schema", {})), message.get("description", "")))
    parts.append(table(("Body", "Form", "Type", "What"), rows))
    return "".join(parts)


def _section(name: str, schema: _Schema) -> str:
    required = schema.get("required", ())
    rows = [
        (field, _kind(one), _need(field in required, one), _text(one.get("description", "")))
        for field, one in schema.get("properties", {}).items()
    ]
    return (
        f'<h2 id="schema-{escape(name)}">{escape(name)}</h2>'
        f"<p>{_text(schema.get('description', ''))}</p>"
        f"{table(('Field', 'Type', 'Default', 'What'), rows)}"
    )


def _id(operation: _Schema) -> str:
    return str(operation["operationId"])


def _said(operation: _Schema) -> str:
    return str(operation.get("description", operation["summary"]))


def _text(text: str) -> Html:
    return Html(_CODE.sub(r"<code>\1</code>", escape(text)))


def _need(required: bool, schema: _Schema) -> str:
    if required:
        return "required"
    default = schema.get("default")
    return "" if default is None else str(default)


def _kind(schema: _Schema) -> Html:
    """A type in words, with links to the schemas that it is made of."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return Html(f'<a href="#schema-{name}">{name}</a>')
    if "anyOf" in schema:
        kinds = [_kind(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return Html(" or ".join(kinds))
    if "enum" in schema:
        return Html(", ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"]))
    if "properties" in schema:
        fields = (f"{escape(name)}: {_kind(one)}" for name, one in schema["properties"].items())
        return Html("; ".join(fields))
    kind = schema.get("format") or schema.get("type", "anything")
    if kind == "array":
        return Html(f"list of {_kind(schema.get('items', {}))}")
    if isinstance(schema.get("additionalProperties"), dict):
        return Html(f"{escape(kind)} of {_kind(schema['additionalProperties'])}")
    return Html(escape(kind))
