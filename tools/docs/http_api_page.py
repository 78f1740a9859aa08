"""The reference of the HTTP API, from the OpenAPI document of a server on the fake engine."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.docs.markdown import NOTICE, code, table

from tests.helpers.tiny_server import tiny_server, write_base

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = ("get", "post", "put", "patch", "delete")
INTRODUCTION = """# HTTP API

A server describes itself at `/openapi.json`. The inference endpoints are answered by vLLM's own handlers: their fields
are those of OpenAI's and Anthropic's documentation. [Metrics](../metrics.md) describes `/metrics`. A server with API
keys expects one as `Authorization: Bearer KEY` everywhere but at `/health`, `/ready` and `/dashboard`. Errors have
OpenAI's shape: `{"error": {"message": ..., "type": ..., "code": ..., "param": ...}}`.
"""
UNTAGGED = "models and inference"


async def http_api_page() -> str:
    """Return the page that describes every endpoint, and the fields of loramux's own."""
    document = await openapi_document()
    documented = sorted(_used(document))
    renderer = SchemaRenderer(frozenset(documented))
    sections = [NOTICE, INTRODUCTION]
    for tag, operations in _by_tag(document).items():
        sections += [f"## {tag.capitalize()}\n", *(renderer.operation(*operation) for operation in operations)]
    sections.append("## Schemas\n")
    schemas = document["components"]["schemas"]
    sections += [renderer.schema(name, schemas[name]) for name in documented]
    return "\n".join(sections)


async def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of a server."""
    with tempfile.TemporaryDirectory() as folder:
        base = write_base(Path(folder) / "tiny")
        async with tiny_server(Path(folder), base) as server:
            document: dict[str, Any] = (await server.http.get("/openapi.json")).json()
            return document


def _by_tag(document: dict[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    found: dict[str, list[tuple[str, str, dict[str, Any]]]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                [tag] = methods[method].get("tags", [UNTAGGED])
                found[tag].append((method.upper(), path, methods[method]))
    return found


def _used(document: dict[str, Any]) -> set[str]:
    """Return the schemas that loramux's own endpoints use, directly or within others."""
    schemas, found = document["components"]["schemas"], set[str]()
    waiting = [
        operation for methods in document["paths"].values() for operation in methods.values() if operation.get("tags")
    ]
    while waiting:
        new = set(_references(waiting.pop())) - found
        found |= new
        waiting += [schemas[name] for name in new]
    return found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference.rpartition("/")[2]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)


@dataclass(frozen=True)
class SchemaRenderer:
    """Renders endpoints and schemas as Markdown; types link to the schemas that the page documents."""

    documented: frozenset[str]

    def operation(self, method: str, path: str, operation: dict[str, Any]) -> str:
        """Return the section of an endpoint: its parameters, its body and its answers."""
        lines = [f"### {method} {path}\n", operation.get("description") or f"{operation['summary']}.", ""]
        if parameters := operation.get("parameters"):
            rows = [
                (code(found["name"]), found["in"], self.type(found["schema"]), found.get("description", ""))
                for found in parameters
            ]
            lines += [table(["parameter", "in", "type", "description"], rows), ""]
        bodies = operation.get("requestBody", {}).get("content", {})
        lines += [f"Body ({media}): {self.type(body['schema'])}.\n" for media, body in bodies.items()]
        lines += [f"Answers: {', '.join(self._answers(operation))}.\n"]
        return "\n".join(lines)

    def _answers(self, operation: dict[str, Any]) -> Iterator[str]:
        for status, answer in operation["responses"].items():
            schema = answer.get("content", {}).get("application/json", {}).get("schema")
            if status.startswith("2") and schema and "tags" in operation:
                yield f"{status} with {self.type(schema)}"
            elif status != "default":
                yield status

    def schema(self, name: str, schema: dict[str, Any]) -> str:
        """Return the section of a schema: its fields, or its values."""
        lines = [f"### {name}\n", schema.get("description", ""), ""]
        if properties := schema.get("properties"):
            required = schema.get("required", [])
            rows = [
                (code(field), self.type(found), "yes" if field in required else "", _description(found))
                for field, found in properties.items()
            ]
            lines += [table(["field", "type", "required", "description"], rows), ""]
        elif values := schema.get("enum"):
            lines += [f"One of {', '.join(code(str(value)) for value in values)}.", ""]
        return "\n".join(lines)

    def type(self, schema: dict[str, Any]) -> str:
        """Return the type in words: `list of [Version](#version)`."""
        if reference := schema.get("$ref"):
            name = reference.rpartition("/")[2]
            return f"[{code(name)}](#{name.lower()})" if name in self.documented else code(name)
        for key in ("anyOf", "oneOf", "allOf"):
            if choices := schema.get(key):
                return " or ".join(dict.fromkeys(self.type(choice) for choice in choices))
        if values := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
            return " or ".join(code(str(value)) for value in values)
        if schema.get("type") == "array":
            return f"list of {self.type(schema.get('items', {}))}"
        if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
            return f"mapping to {self.type(schema['additionalProperties'])}"
        return str(schema.get("type", "any"))


def _description(field: dict[str, Any]) -> str:
    return ("Deprecated. " if field.get("deprecated") else "") + str(field.get("description", ""))
