"""Errors say what happened, with their facts in the sentence and as fields."""

from __future__ import annotations

import inspect
import string

import pytest

from orderflow import errors
from orderflow.errors import OrderflowError, OutOfStock, UnknownProducts

ALL = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, OrderflowError) and error is not OrderflowError
]


def test_a_fact_is_in_the_message_and_a_field():
    error = OutOfStock(sku="tea", quantity=3)
    assert str(error) == "There are not 3 of 'tea' left."
    assert (error.sku, error.quantity) == ("tea", 3)
    with pytest.raises(AttributeError):
        _ = error.colour


def test_a_list_reads_as_one():
    assert str(UnknownProducts(skus=["a", "b"])) == "The shop does not sell: a, b."


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_makes_a_sentence(error):
    names = [name for _, name, _, _ in string.Formatter().parse(error.__doc__) if name]
    message = str(error(**dict.fromkeys(names, "x")))
    assert message[0].isupper()
    assert message.endswith((".", "x"))
