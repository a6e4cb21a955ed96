"""The words of each message: Jinja templates, a folder for each language.

`<language>/<kind>.subject.jinja` and `.txt.jinja` make a mail, with `.html.jinja` where there is
one; `.sms.jinja` makes an SMS. HTML is escaped; the text forms are not, since they are not markup.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2

from orderflow.contract import JobName
from orderflow.errors import InvalidSettings, TemplateFailed
from orderflow.orders import Event, Order
from orderflow.senders import Channel, Message

#: The language that comes with every message: what is left where no other has it.
_SHIPPED = "en"


class _Environment(jinja2.Environment):
    """Gives all templates the same globals, and finds each by its name alone.

    Jinja chains dictionaries for each template, and goes through the chain for every message and
    include; and it looks for what is included under a lock, each time.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._found: dict[str, jinja2.Template] = {}

    def get_template(
        self,
        name: str | jinja2.Template,
        parent: str | None = None,
        globals: MutableMapping[str, Any] | None = None,  # noqa: A002 - the name is Jinja's
    ) -> jinja2.Template:
        """Return the template of that name."""
        if not isinstance(name, str):
            return name
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = super().get_template(name, parent, globals)
        return found

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return what a dictionary has under that name, which Jinja tries last, or an attribute."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        try:
            return getattr(obj, attribute)
        except AttributeError:
            return super().getattr(obj, attribute)

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """Return the globals of the environment."""
        return self.globals if d is None else d


@dataclass(frozen=True, slots=True)
class _Words:
    """The templates of one message in one language."""

    language: str
    text: jinja2.Template
    subject: jinja2.Template | None
    html: jinja2.Template | None

    def fill(self, order: Order, event: Event | None, template: jinja2.Template) -> str:
        return template.render(order=order, event=event, language=self.language)


class Templates:
    """Renders messages; every undefined name in a template is an error.

    What is in `folder` goes before what comes with the package, file by file. A message is all in
    one language: the first of the customer's that has it, then `default_language`, then English.
    Files are read once.

    Raises InvalidSettings if nothing is written in the default language.
    """

    def __init__(self, folder: Path | None = None, default_language: str = _SHIPPED) -> None:
        own = [jinja2.FileSystemLoader(folder)] if folder else []
        self._environment = _Environment(
            loader=jinja2.ChoiceLoader([*own, jinja2.PackageLoader("orderflow", "templates")]),
            autoescape=_is_html,
            undefined=jinja2.StrictUndefined,
            # To look at the files for each message costs more than to fill them.
            auto_reload=False,
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["money"] = _money
        names = self._environment.list_templates(extensions=["jinja"])
        self._names = {name.lower(): name for name in names}
        self._languages = {name.partition("/")[0] for name in self._names if "/" in name}
        self._words: dict[tuple[str, JobName, Channel], _Words | None] = {}
        self._last = (*self._known(default_language), _SHIPPED)
        if len(self._last) == 1:
            known = ", ".join(sorted(self._languages))
            raise InvalidSettings(
                faults=f"DEFAULT_LANGUAGE: must be one that has templates: {known}"
            )

    @property
    def kinds(self) -> list[str]:
        """The kinds of messages that there are, by name."""
        ending = ".subject.jinja"
        names = (name.rpartition("/")[2] for name in self._names if name.endswith(ending))
        return sorted({name.removesuffix(ending) for name in names} & set(JobName))

    def render(
        self,
        kind: JobName,
        channel: Channel,
        order: Order,
        recipient: str,
        event: Event | None = None,
    ) -> Message:
        """Return what to say to `recipient` about `order`, and of the `event` where there is one.

        Raises TemplateFailed, which names the file and the line.
        """
        try:
            words = self._find(kind, channel, order.languages)
            fill = partial(words.fill, order, event)
            return Message(
                recipient=recipient,
                # A header is one line, whatever a product or a name holds.
                subject=" ".join(fill(words.subject).split()) if words.subject else "",
                text=fill(words.text).strip(),
                html=fill(words.html) if words.html else None,
                reference=f"{kind.value}.{(event and event.refund_id) or order.id}",
                language=words.language,
            )
        except Exception as error:
            # What a template stumbles over may be a customer's data: only its own words are told.
            raise _failure(error) from None

    def _find(self, kind: JobName, channel: Channel, wished: Sequence[str]) -> _Words:
        for language in chain(*map(self._known, wished), self._last):
            words = self._load(language, kind, channel)
            if words is not None:
                return words
        raise jinja2.TemplateNotFound(f"{_SHIPPED}/{kind.value}, for {channel.value}")

    def _known(self, tag: str) -> Iterator[str]:
        """Give what there is for a language tag, the narrowest first: for de-AT that, then de."""
        tag = tag.lower()
        while tag:
            if tag in self._languages:
                yield tag
            tag = tag.rpartition("-")[0]

    def _load(self, language: str, kind: JobName, channel: Channel) -> _Words | None:
        """Return the templates of a message, or None if the language does not have it."""
        key = (language, kind, channel)
        if key not in self._words:
            self._words[key] = self._compile(language, kind, channel)
        return self._words[key]

    def _compile(self, language: str, kind: JobName, channel: Channel) -> _Words | None:
        name = f"{language}/{kind.value}"
        if channel is Channel.SMS:
            sms = self._template(f"{name}.sms.jinja")
            return None if sms is None else _Words(language, sms, None, None)
        text, subject = self._template(f"{name}.txt.jinja"), self._template(f"{name}.subject.jinja")
        if text is None or subject is None:
            return None
        return _Words(language, text, subject, self._template(f"{name}.html.jinja"))

    def _template(self, name: str) -> jinja2.Template | None:
        found = self._names.get(name)
        if found is None:
            return None
        return self._environment.get_template(found)


def _is_html(name: str | None) -> bool:
    return name is not None and name.lower().endswith(".html.jinja")


def _money(amount: Decimal, currency: str, mark: str = ".") -> str:
    """Return money as it is read where `mark` stands before the cents."""
    return f"{amount:.2f} {currency}".replace(".", mark, 1)


def _failure(error: Exception) -> TemplateFailed:
    """Say where a template went wrong, and why as far as its own words tell."""
    reason = type(error).__name__
    if isinstance(error, jinja2.TemplateError):
        reason = f"{reason}, {error.message}"
    if isinstance(error, jinja2.TemplateSyntaxError):
        return TemplateFailed(file=error.filename, line=error.lineno, reason=reason)
    for place in reversed(traceback.extract_tb(error.__traceback__)):
        if place.filename.endswith(".jinja"):
            return TemplateFailed(file=place.filename, line=place.lineno, reason=reason)
    return TemplateFailed(file="", line=0, reason=reason)
