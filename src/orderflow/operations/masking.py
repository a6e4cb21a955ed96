"""Masks: what is secret or personal is not shown, in a job's data nor in the text of an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from orderflow.logs import SECRET_FIELDS

#: What stands in the place of a value. Data that come back with it keep what they had.
MASK = "***"

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

#: Each is replaced wherever it is in a text.
_IN_TEXT: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"[\w.+%-]+@[\w-]+(\.[\w-]+)*"), f"{MASK}@{MASK}"),
    (re.compile(r"(://)[^/\s:@]*:[^/\s@]*@"), rf"\1{MASK}@"),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), MASK),
    (re.compile(r"\b(tok|sk|pk|rk|whsec)_\w+"), rf"\1_{MASK}"),
    (
        re.compile(r"\b(password|passwd|secret|token|api[_-]?key)(['\"]?\s*[=:]\s*)\S+", re.I),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"(?<![\w-])(?:\d[ -]?){12,18}\d(?![\w-])"), MASK),  # the number of a card
    (re.compile(r"(?<!\w)\+\d[\d ()/-]{5,}\d"), f"+{MASK}"),
)


def mask_text(text: str) -> str:
    """Return `text` without e-mail addresses, phone and card numbers, tokens and passwords."""
    for pattern, mask in _IN_TEXT:
        text = pattern.sub(mask, text)
    return text


def mask(value: Any, field: str = "") -> Any:
    """Return JSON with what is personal or secret masked, by the fields' names and in texts."""
    if value is None:
        return None
    if re.sub(r"[^a-z0-9]", "", field.lower()) in _HIDDEN:
        return MASK
    if isinstance(value, Mapping):
        return {str(name): mask(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask(inner) for inner in value]
    return mask_text(value) if isinstance(value, str) else value


def unmask(edited: Any, original: Any) -> Any:
    """Return `edited` with what is still as `mask` showed it put back from `original`."""
    if isinstance(edited, Mapping) and isinstance(original, Mapping):
        return {
            name: original[name]
            if name in original and inner == mask(original[name], name)
            else unmask(inner, original.get(name))
            for name, inner in edited.items()
        }
    if isinstance(edited, list) and isinstance(original, list) and len(edited) == len(original):
        return [unmask(*pair) for pair in zip(edited, original, strict=True)]
    return original if edited == mask(original) else edited
