"""What a request says, read strictly: its body and its query. All faults are told at once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from orderflow.api.faults import (
    JSON,
    MAX_FAULTS,
    Fault,
    Location,
    faults_of,
    json_pointer,
    parameter_name,
)
from orderflow.api.problems import Kind, Problem

Model = TypeVar("Model", bound=BaseModel)

_JSON_TYPE = re.compile(r"application/(json|[^\s/;]+\+json)")


async def read_body(request: Request, model: type[Model]) -> Model:
    """Read a body of JSON. Raises Problem that tells all of its faults at once."""
    _check_media_type(request.headers.get("content-type", ""))
    body = await _read_bytes(request.receive)
    try:
        read = model.model_validate_json(body)
    except ValidationError as error:
        raise _invalid_body(error) from None
    _check_names_are_unique(body)
    return read


def read_query(params: QueryParams, model: type[Model]) -> Model:
    """Read the query. Raises Problem that tells all of its faults at once."""
    # A head has room for thousands of names: to count each by going through all would take seconds.
    given = Counter(name for name, _ in params.multi_items())
    faults = [
        Fault(name, "once", "The parameter may be given only once")
        for name, times in given.items()
        if times > 1
    ]
    try:
        query = model.model_validate(dict(params))
    except ValidationError as error:
        faults += faults_of(error, parameter_name)
    else:
        if not faults:
            return query
    del faults[MAX_FAULTS:]
    names = ", ".join(dict.fromkeys(fault.field for fault in faults))
    raise Problem(Kind.INVALID_QUERY, f"These parameters are not valid: {names}.", faults=faults)


async def _read_bytes(receive: Receive) -> bytes:
    """Read the body. Starlette's own way, a generator of chunks, costs as much as all the rest."""
    chunks = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)


def _check_media_type(content_type: str) -> None:
    media_type = content_type.partition(";")[0].strip().lower()
    if not _JSON_TYPE.fullmatch(media_type):
        detail = "Send `Content-Type: application/json`."
        raise Problem(
            Kind.UNSUPPORTED_MEDIA_TYPE,
            detail,
            faults=[Fault("Content-Type", "application/json", detail)],
            headers={"Accept": "application/json"},
        )


def _invalid_body(error: ValidationError) -> Problem:
    faults = faults_of(error, json_pointer)
    if faults[0].rule == JSON:
        return Problem(Kind.NOT_JSON, faults[0].detail, faults=faults)
    count = error.error_count()
    detail = "1 part is not valid." if count == 1 else f"{count} parts are not valid."
    if count > len(faults):
        detail += f" The first {len(faults)} are named."
    return Problem(Kind.INVALID_BODY, detail, faults=faults)


class _Members(list[tuple[str, Any]]):
    """An object as it was written, with the names that it has twice."""


def _check_names_are_unique(body: bytes) -> None:
    """Refuse an object that names a member twice: readers differ in which of the two they take."""
    unique = True

    def look(members: list[tuple[str, Any]]) -> None:
        nonlocal unique
        unique = unique and len(dict(members)) == len(members)

    json.loads(body, object_pairs_hook=look)
    if unique:
        return
    places = islice(_repeated(json.loads(body, object_pairs_hook=_Members)), MAX_FAULTS)
    faults = [Fault(json_pointer(place), "once", "Named twice") for place in places]
    names = ", ".join(fault.field for fault in faults)
    raise Problem(Kind.NOT_JSON, f"Named twice: {names}.", faults=faults)


def _repeated(value: Any, place: Location = ()) -> Iterator[Location]:
    """Give the place of each name that an object has twice."""
    members = value if isinstance(value, _Members) else []
    names = Counter(name for name, _ in members)
    yield from ((*place, name) for name, times in names.items() if times > 1)
    for name, inner in members or (enumerate(value) if isinstance(value, list) else ()):
        yield from _repeated(inner, (*place, name))
