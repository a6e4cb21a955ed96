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
    """What the page asks: what would be done, what will come of it, and where to go then."""

    title: str
    says: str  # a paragraph each line
    button: str
    back: str
    fields: Sequence[Field] = ()
    dangerous: bool = False


Ask = Callable[[Visit], Awaitable[Question]]
Do = Callable[[Visit, Actor], Awaitable[Response | str | None]]


def asked_first(ask: Ask, do: Do) -> View:
    """Return the page that asks, with GET, and does it with POST.

    `do` may raise InvalidField: the page is shown again, with the rule beside the field. It may
    return where to go on, or an answer of its own where that has something to show once; the
    question's `back` is the place otherwise.
    """

    async def view(visit: Visit) -> Response:
        question = await ask(visit)
        if visit.request.method != "POST":
            return _show(visit, question, {}, None)
        try:
            onward = await do(
                visit, Actor(visit.user_id, "page", line_of_text(visit.form, "reason", MAX_REASON))
            )
        except InvalidField as fault:
            return _show(visit, question, visit.form, fault)
        if isinstance(onward, Response):
            return onward
        return see_other(onward or acted(question.back))

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


def _show(
    visit: Visit, question: Question, form: Mapping[str, str], fault: InvalidField | None
) -> Response:
    return visit.render(
        "confirm.html",
        200 if fault is None else 422,
        question=question,
        form=form,
        fault=fault,
        max_reason=MAX_REASON,
    )
