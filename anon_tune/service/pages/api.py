"""The API's routes as a page, from its OpenAPI document: it needs no network, unlike FastAPI's own page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from anon_tune.dashboards.pages import render
from anon_tune.jobs.interface import API

__all__ = ["router"]

_SCHEMAS = "#/components/schemas/"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class _Kind:
    """Type of a value.

    Attributes:
        text: The type in words, such as "array of JobSummary".
        schema: The schema that it names, which the page has, too; None for a plain type.
    """

    text: str
    schema: str | None = None


@dataclass(frozen=True)
class _Value:
    """A parameter of a route, or a property of a schema; `place` is where a parameter goes."""

    name: str
    kind: _Kind
    is_required: bool
    description: str
    place: str = ""


@dataclass(frozen=True)
class _Route:
    method: str
    path: str
    description: str
    parameters: list[_Value]
    body: _Kind | None
    answers: list[tuple[str, _Kind | None, str]]


@dataclass(frozen=True)
class _Schema:
    name: str
    description: str
    properties: list[_Value]


@router.get(f"{API}/docs", response_class=HTMLResponse)
def docs(request: Request) -> str:
    """List the routes and schemas of the API. Needs no token, as the OpenAPI document does not."""
    document: Mapping[str, Any] = request.app.openapi()
    return render(
        "api.html",
        user=None,
        page=None,
        about=document["info"]["description"],
        version=document["info"]["version"],
        document=f"{API}/openapi.json",
        address=str(request.base_url).rstrip("/"),
        routes=list(_routes(document["paths"])),
        schemas=[_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())],
    )


def _routes(paths: Mapping[str, Any]) -> Iterator[_Route]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            body = operation.get("requestBody")
            yield _Route(
                method.upper(),
                path,
                operation.get("description", ""),
                [
                    _Value(
                        item["name"],
                        _kind(item["schema"]),
                        item["required"],
                        item.get("description", ""),
                        item["in"],
                    )
                    for item in operation.get("parameters", ())
                ],
                None if body is None else _content(body),
                [
                    (status, _content(answer), answer["description"])
                    for status, answer in operation["responses"].items()
                    if status.startswith("2")
                ],
            )


def _content(message: Mapping[str, Any]) -> _Kind | None:
    """Return the type of a body; None if it has none."""
    for media, content in message.get("content", {}).items():
        kind = _kind(content.get("schema", {}))
        return kind if media == "application/json" else _Kind(", ".join(message["content"]))
    return None


def _schema(name: str, schema: Mapping[str, Any]) -> _Schema:
    required = schema.get("required", ())
    properties = [
        _Value(key, _kind(value), key in required, value.get("description", ""))
        for key, value in schema.get("properties", {}).items()
    ]
    words = ", ".join(map(str, schema.get("enum", ())))
    return _Schema(name, schema.get("description", "") + (f" One of: {words}." if words else ""), properties)


def _kind(schema: Mapping[str, Any]) -> _Kind:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMAS)
        return _Kind(name, name)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            kinds = [_kind(each) for each in schema[key]]
            named = next((kind.schema for kind in kinds if kind.schema), None)
            return _Kind(" or ".join(dict.fromkeys(kind.text for kind in kinds)), named)
    if "items" in schema:
        inner = _kind(schema["items"])
        return _Kind(f"array of {inner.text}", inner.schema)
    if isinstance(schema.get("additionalProperties"), Mapping):
        inner = _kind(schema["additionalProperties"])
        return _Kind(f"object of {inner.text}", inner.schema)
    if "enum" in schema:
        return _Kind(" or ".join(map(str, schema["enum"])))
    return _Kind(schema.get("format", schema.get("type", "any")))
