"""Style and script of the demo shop: read once, and kept by browsers until they change."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from orderflow.api.problems import Kind, Problem

_NAMES = frozenset({"demo.css", "demo.js"})


def static_url(name: str) -> str:
    """Return the address of a file, which changes with what is in it."""
    return f"/demo/static/{name}?v={hashlib.sha256(_content(name)).hexdigest()[:12]}"


async def get_static(request: Request) -> Response:
    """Answer a file. Raises Problem where there is none of this name."""
    name = request.path_params["name"]
    if name not in _NAMES:
        raise Problem(Kind.NOT_FOUND, "No file has this name.")
    return Response(
        _content(name),
        media_type=mimetypes.guess_type(name)[0],
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )


@cache
def _content(name: str) -> bytes:
    return files("orderflow.demo").joinpath("static").joinpath(name).read_bytes()
