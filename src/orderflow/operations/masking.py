"""Masks: what is secret or personal is not shown, in a job's data nor in the text of an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orderflow.logs import SECRET_FIELDS

#: What stands in the place of a value. Data that come back with it keep what they had.
MASK = "***"
_DEEPEST = 50

#: Fields of a customer, as producers in either language name them, and all that is inside.
_PERSONAL = {
    *("address", "billingaddress", "shippingaddress", "street", "line1", "line2", "postalcode"),
    *("zip", "zipcode", "city", "birthday", "birthdate", "contact", "customer", "customername"),
    *("email", "emailaddress", "mail", "phone", "phonenumber", "mobile", "telephone", "firstname"),
    *("lastname", "fullname", "surname", "recipient", "iban", "cardholder", "cardholdername"),
    *("ip", "ipaddress"),
}
_SECRET = {re.sub(r"[^a-z]", "", name) for name in SECRET_FIELDS} | {
    *("accesstoken", "apikey", "bearer", "cardnumber", "clientsecret", "credentials", "cvv", "pan"),
    *("passwd", "pin", "privatekey", "refreshtoken", "sessionid", "cookie"),
}
_HIDDEN = frozenset(_PERSONAL | _SECRET)


def _masked_card(found: re.Match[str]) -> str:
    """Mask the number of a card, which ends with its check digit; an id rarely does."""
    digits = [int(char) for char in found[0] if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return found[0] if (sum(doubled) + sum(digits[-1::-2])) % 10 else MASK


#: Each is replaced wherever it is in a text.
_IN_TEXT: Sequence[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = (
    (re.compile(r"(://)[^/\s:@]*:[^/\s@]*@"), rf"\1{MASK}:{MASK}@"),
    (re.compile(r"(?<!\*)[\w.+%-]+@[\w-]+(\.[\w-]+)*"), f"{MASK}@{MASK}"),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), MASK),
    (re.compile(r"\b(tok|sk|pk|rk|whsec)_\w+"), rf"\1_{MASK}"),
    (
        re.compile(r"\b(password|passwd|secret|token|api[_-]?key)(['\"]?\s*[=:]\s*)\S+", re.I),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"(?<![\w-])[3-6](?:[ -]?\d){12,18}(?![\w-])"), _masked_card),
    (re.compile(r"(?<!\w)\+\d[\d ()/-]{5,}\d"), f"+{MASK}"),
)


def mask_text(text: str) -> str:
    """Return `text` without e-mail addresses, phone and card numbers, tokens and passwords.

    What is no character, as half of a surrogate pair, is a question mark in it.
    """
    text = text.encode("utf-8", "replace").decode()
    for pattern, mask in _IN_TEXT:
        text = pattern.sub(mask, text)
    return text


def mask(value: Any, field: str = "", depth: int = 0) -> Any:
    """Return JSON with what is personal or secret masked, by the fields' names and in texts.

    What lies too deep to be shown is masked as a whole.
    """
    if value is None:
        return None
    if depth > _DEEPEST or re.sub(r"[^a-z0-9]", "", field.lower()) in _HIDDEN:
        return MASK
    if isinstance(value, Mapping):
        return {
            mask_text(str(name)): mask(inner, str(name), depth + 1) for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask(inner, depth=depth + 1) for inner in value]
    return mask_text(value) if isinstance(value, str) else value


def unmask(edited: Any, original: Any, field: str = "", depth: int = 0) -> Any:
    """Return `edited` with what is still as `mask` showed it put back from `original`."""
    if edited == mask(original, field, depth):
        return original
    if isinstance(edited, Mapping) and isinstance(original, Mapping):
        return {
            name: unmask(inner, original[name], str(name), depth + 1) if name in original else inner
            for name, inner in edited.items()
        }
    if isinstance(edited, list) and isinstance(original, list):
        pairs = zip(edited, original, strict=False)
        kept = [unmask(inner, before, depth=depth + 1) for inner, before in pairs]
        return kept + edited[len(kept) :]
    return edited
