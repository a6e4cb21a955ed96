"""What an operator does: a page says what will happen and asks why, and then it is done."""

from __future__ import annotations

import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from starlette.responses import Response

from orderflow.dashboard.pages import View, Visit, see_other
from orderflow.dashboard.urls import acted
from orderflow.operations.audit import Actor

MAX_REASON = 500


class InvalidField(Exception):
    """A field of the form breaks a rule."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(f"{name}: {rule}")
        self.name = name
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form beside the reason; `value` is what it begins with."""

    name: str
    label: str
    value: str = ""
    kind: Literal["number", "text", "check", "json", "choice", "hidden"] = "text"
    hint: str = ""
    choices: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What the page asks: what would be done, and what will come of it."""

    title: str
    says: str  # a paragraph each line
    button: str
    fields: Sequence[Field] = ()
    dangerous: bool = False


Ask = Callable[[Visit], Awaitable[Question]]
Do = Callable[[Visit, Actor], Awaitable[Response | str | None]]
Back = Callable[[Visit], str]


def asked_first(ask: Ask, do: Do, back: Back) -> View:
    """Return the page that asks, with GET, and does it with POST.

    `do` may raise InvalidField: the page is shown again, with the rule beside the field. It may
    return where to go on, or an answer of its own where that has something to show once; `back`
    is the place otherwise, and for who does not want to do it.
    """

    async def show(visit: Visit, fault: InvalidField | None) -> Response:
        return visit.render(
            "confirm.html",
            200 if fault is None else 422,
            question=await ask(visit),
            back=back(visit),
            form=visit.form,
            fault=fault,
            max_reason=MAX_REASON,
        )

    async def view(visit: Visit) -> Response:
        if visit.request.method != "POST":
            return await show(visit, None)
        try:
            reason = line_of_text(visit.form, "reason", MAX_REASON)
            onward = await do(visit, Actor(visit.user_id, "page", reason))
        except InvalidField as fault:
            return await show(visit, fault)
        if isinstance(onward, Response):
            return onward
        return see_other(onward or acted(back(visit)))

    return view


def whole_number(form: Mapping[str, str], name: str, least: int, most: int) -> int:
    """Return the number in a field. Raises InvalidField."""
    text = form.get(name, "").strip()
    if not text.isdecimal() or len(text) > 18 or not least <= int(text) <= most:
        raise InvalidField(name, f"must be a whole number from {least:,} to {most:,}")
    return int(text)


def number_or_none(form: Mapping[str, str], name: str, most: int) -> int | None:
    """Return the number in a field, 1 or more, or None where it is empty. Raises InvalidField."""
    return whole_number(form, name, 1, most) if form.get(name, "").strip() else None


def line_of_text(form: Mapping[str, str], name: str, most: int) -> str:
    """Return what is in a field: one line, not empty, `most` characters. Raises InvalidField."""
    text = form.get(name, "").strip()
    if not text:
        raise InvalidField(name, "must not be empty")
    if len(text) > most:
        raise InvalidField(name, f"may have {most} characters at most")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise InvalidField(name, "must be one line of text")
    return text
