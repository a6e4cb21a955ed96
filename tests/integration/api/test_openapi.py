"""The reference: a valid OpenAPI document that knows every route, and a page made from it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate as validate_document
from starlette.routing import Route

from orderflow.api.app import create_app
from orderflow.api.openapi import openapi_document
from orderflow.api.orders import OrdersQuery
from orderflow.api.problems import Kind
from orderflow.checkout_body import Checkout
from orderflow.settings import Settings


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in openapi_document()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def examples() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Give every example of a body: what it is of, its schema, and itself."""
    for _, _, operation in operations():
        bodies = [("request", operation["requestBody"])] if "requestBody" in operation else []
        for name, body in [*bodies, *operation["responses"].items()]:
            for media in body["content"].values():
                one = {"": {"value": media["example"]}} if "example" in media else {}
                for label, example in (one | media.get("examples", {})).items():
                    of = f"{operation['operationId']} {name} {label}".rstrip()
                    yield of, media["schema"], example["value"]


async def test_the_document_is_served(api: Any) -> None:
    response = await api.client.get("/openapi.json")

    assert response.status_code == 200
    assert response.json() == openapi_document()


def test_the_document_is_valid() -> None:
    assert openapi_document()["openapi"].startswith("3.1.")
    validate_document(openapi_document())


def test_every_route_is_in_it(settings: Settings) -> None:
    # The pages of /admin are for people, and no part of it.
    routes = [
        route
        for route in create_app(settings).routes
        if isinstance(route, Route)
        and (route.path.startswith("/admin/api/") or not route.path.startswith("/admin"))
    ]
    served = {
        (re.sub(r"_(\w)", lambda part: part[1].upper(), route.path), method.lower())
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert served == {(path, method) for path, method, _ in operations()}


def test_examples_are_valid() -> None:
    components = {"components": openapi_document()["components"]}
    faults: list[str] = []
    for of, schema, example in examples():
        validator = Draft202012Validator(schema | components, format_checker=FormatChecker())
        faults += [f"{of}: {fault.message}" for fault in validator.iter_errors(example)]
    assert faults == []


def test_the_example_of_a_checkout_is_one() -> None:
    operation = openapi_document()["paths"]["/checkout"]["post"]
    Checkout.model_validate(operation["requestBody"]["content"]["application/json"]["example"])


async def test_the_example_of_a_checkout_can_be_bought(api: Any) -> None:
    operation = openapi_document()["paths"]["/checkout"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["example"]

    assert (await api.checkout(**body)).status_code == 202


def test_every_problem_is_in_it() -> None:
    problem = openapi_document()["components"]["schemas"]["Problem"]
    assert problem["properties"]["type"]["enum"] == [kind.urn for kind in Kind]
    documented = {
        label
        for _, _, operation in operations()
        for answer in operation["responses"].values()
        for label in answer["content"].get("application/problem+json", {}).get("examples", {})
    }
    assert documented == {kind.label for kind in Kind}


def test_the_query_of_orders_is_all_of_it() -> None:
    parameters = openapi_document()["paths"]["/orders"]["get"]["parameters"]

    assert {parameter["name"] for parameter in parameters} == set(OrdersQuery.model_fields)


def test_what_needs_a_token_says_so() -> None:
    secured = {path for path, _, operation in operations() if operation["security"]}

    assert {path for path in secured if not path.startswith("/admin/api/")} == {
        "/checkout",
        "/orders",
        "/orders/{orderId}",
        "/orders/{orderId}/cancel",
        "/orders/{orderId}/events",
    }


async def test_the_admin_api_is_for_admins(api: Any) -> None:
    admins = [(path, method) for path, method, _ in operations() if path.startswith("/admin/api/")]
    assert admins
    for template, method in admins:
        path = re.sub(r"{\w+}", "any", template)
        unknown = await api.client.request(method, path)
        assert (unknown.status_code, api.problem(unknown)) == (401, "unauthenticated"), path
        customer = await api.client.request(method, path, headers=api.bearer())
        assert (customer.status_code, api.problem(customer)) == (403, "forbidden"), path


class Page(HTMLParser):
    """What a page refers to and can be referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.tags: set[str] = set()
        self.inline: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.add(str(value))
            elif name in {"href", "src"}:
                self.links.add(str(value))
            elif name == "style" or name.startswith("on"):
                self.inline.add(name)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
async def page(api: Any) -> Page:
    return Page((await api.client.get("/docs")).text)


async def test_the_page_runs_nothing_and_loads_nothing_from_elsewhere(api: Any, page: Page) -> None:
    response = await api.client.get("/docs")
    policy = response.headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not page.tags & {"script", "style", "iframe", "img", "form"}
    assert not page.inline
    assert {link for link in page.links if not link.startswith("#")} == {
        "/docs/style.css",
        "/openapi.json",
    }


async def test_every_link_of_the_page_leads_somewhere(api: Any, page: Page) -> None:
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert (await api.client.get(link)).status_code == 200


async def test_the_page_tells_all(page: Page) -> None:
    for path, _, operation in operations():
        assert operation["operationId"] in page.ids
        assert path in page.text
    for name in openapi_document()["components"]["schemas"]:
        assert f"schema-{name}" in page.ids
    for kind in Kind:
        assert kind.urn in page.text
    assert "Idempotency-Key" in page.text


async def test_the_pages_command_is_one(api: Any, page: Page) -> None:
    command = page.text[page.text.index("curl -X POST") :]
    command = command[: command.index("}'") + 2]
    _, _, method, url, *options = shlex.split(command.replace("\\\n", " "))
    pairs = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in pairs if option == "-H")
    (body,) = [value for option, value in pairs if option == "-d"]

    response = await api.client.request(
        method,
        url.removeprefix("http://127.0.0.1:8000"),
        headers=headers | api.bearer(),
        content=body.encode(),
    )

    assert response.status_code == 202


async def test_the_style_sheet_is_plain(api: Any) -> None:
    response = await api.client.get("/docs/style.css")

    assert response.headers["Content-Type"].startswith("text/css")
    assert "url(" not in response.text
    assert "@import" not in response.text
    assert "prefers-color-scheme: dark" in response.text
