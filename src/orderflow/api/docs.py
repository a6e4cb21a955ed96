"""The reference page, at /docs: the OpenAPI document for people, as plain HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from orderflow.api.openapi import openapi_document
from orderflow.api.problems import Kind

Json = Mapping[str, Any]

_HEADERS = {
    # Nothing but the page itself and its one style sheet: no script, no frame, no form.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

#: The rules of a schema that are told beside its type, and how.
_RULES = {
    "format": "{}",
    "const": "always {}",
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "minLength": "characters ≥ {}",
    "maxLength": "characters ≤ {}",
    "minItems": "entries ≥ {}",
    "maxItems": "entries ≤ {}",
    "pattern": "matches {}",
    "default": "default {}",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One field, parameter or header, as a row of a table."""

    name: str
    schema: Json
    required: bool
    description: str
    where: str = ""


async def get_docs(_request: Request) -> Response:
    """Answer the page."""
    return HTMLResponse(docs_page(), headers=_HEADERS)


async def get_docs_style(_request: Request) -> Response:
    """Answer the page's style sheet."""
    return Response(docs_style(), media_type="text/css", headers={"Cache-Control": "no-cache"})


@cache
def docs_page() -> str:
    """Return the page, rendered once."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orderflow.api"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": _prose, "rows": _rows, "rules": _rules, "pretty": _pretty}
    environment.globals |= {"curl": _curl, "parameters": _parameters}
    template = environment.get_template("docs.html")
    return template.render(spec=openapi_document(), kinds=list(Kind))


@cache
def docs_style() -> str:
    """Return the style sheet, read once."""
    return files("orderflow.api").joinpath("static/docs.css").read_text("utf-8")


def _prose(text: str) -> Markup:
    """Mark what stands between backquotes as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _rows(schema: Json) -> Iterator[Row]:
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        yield Row(name, field, name in required, _description(field))


def _description(field: Json) -> str:
    """Return what the field says of itself, or else what its own schema does."""
    for part in (field, *field.get("anyOf", [])):
        named = part.get("$ref", "").rpartition("/")[2]
        schema = openapi_document()["components"]["schemas"].get(named, part)
        if "description" in schema:
            return str(schema["description"])
    return ""


def _parameters(operation: Json) -> Iterator[Row]:
    for parameter in operation.get("parameters", []):
        yield Row(
            parameter["name"],
            parameter["schema"],
            parameter.get("required", False),
            parameter["description"],
            parameter["in"],
        )


def _rules(schema: Json) -> str:
    """Say in words what a schema asks for beside its type."""
    said = [
        words.format(schema[name])
        for name, words in _RULES.items()
        if schema.get(name) is not None and not isinstance(schema[name], dict | list)
    ]
    if "enum" in schema:
        said.insert(0, "one of " + ", ".join(map(str, schema["enum"])))
    return "; ".join(said)


def _curl(path: str, method: str, operation: Json) -> str:
    """Return a command that calls the operation, to be pasted into a shell."""
    examples = {
        row["name"]: row["example"] for row in operation.get("parameters", []) if "example" in row
    }
    url = "http://127.0.0.1:8000" + re.sub(r"{(\w+)}", lambda name: examples[name[1]], path)
    lines = [f"curl {url}" if method == "get" else f"curl -X {method.upper()} {url}"]
    if operation["security"]:
        lines.append('-H "Authorization: Bearer $TOKEN"')
    lines += [
        f"-H '{row['name']}: {row['example']}'"
        for row in operation.get("parameters", [])
        if row["in"] == "header"
    ]
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["example"]
        lines += ["-H 'Content-Type: application/json'", f"-d '{_pretty(body)}'"]
    return " \\\n  ".join(lines)
