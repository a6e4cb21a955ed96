"""Style, scripts and pictures of pages: read once, and kept by browsers until they change."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from orderflow.api.problems import Kind, Problem


class StaticFiles:
    """What is in the folder `static` of a package, under an address of its own."""

    def __init__(self, package: str, path: str) -> None:
        folder = files(package).joinpath("static")
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        self._urls = {
            name: f"{path}/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"
            for name, content in self._files.items()
        }

    def url(self, name: str) -> str:
        """Return the address of a file, which changes with what is in it."""
        return self._urls[name]

    async def get(self, request: Request) -> Response:
        """Answer the file of the path. Raises Problem where there is none of this name."""
        name = request.path_params["name"]
        content = self._files.get(name)
        if content is None:
            raise Problem(Kind.NOT_FOUND, "No file has this name.")
        return Response(
            content,
            media_type=mimetypes.guess_type(name)[0],
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )
